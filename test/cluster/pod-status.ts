// A pod's status as kubelet reports it: phase, conditions, and the status of each container, native sidecars among the init
// containers. Pure. Rules: Pod lifecycle in the Kubernetes documentation, and KEP-753 for sidecars.

import type {
  V1Container,
  V1ContainerState,
  V1ContainerStatus,
  V1Pod,
  V1PodStatus,
} from '@kubernetes/client-node';

/** How one container stands. */
export type ContainerStanding =
  | { readonly kind: 'waiting'; readonly reason: string; readonly message?: string }
  | { readonly kind: 'running'; readonly startedAt: string }
  | {
      readonly kind: 'ended';
      readonly exitCode: number;
      readonly startedAt: string;
      readonly endedAt: string;
    };

export interface PodStanding {
  /** By container name; a container that is not here has not been looked at yet. */
  readonly containers: ReadonlyMap<string, ContainerStanding & { readonly restarts: number }>;
  readonly startTime: string;
  readonly hostIP: string;
  readonly podIP?: string;
}

/** True for a sidecar of KEP-753. */
export function isNativeSidecar(container: V1Container): boolean {
  return container.restartPolicy === 'Always';
}

/** The status to write. `now`: for conditions that have changed. */
export function podStatus(pod: V1Pod, standing: PodStanding, now: string): V1PodStatus {
  const containers = pod.spec?.containers ?? [];
  const initContainers = pod.spec?.initContainers ?? [];
  const of = ({ name }: V1Container): ContainerStanding & { restarts: number } =>
    standing.containers.get(name) ?? { kind: 'waiting', reason: 'PodInitializing', restarts: 0 };
  const isInitialized = initContainers.every((container) => {
    const now_ = of(container);
    return isNativeSidecar(container)
      ? now_.kind === 'running'
      : now_.kind === 'ended' && now_.exitCode === 0;
  });
  const areReady = isInitialized && containers.every((container) => of(container).kind === 'running');
  const phase = phaseOf(containers.map(of), isInitialized);
  const isOver = phase === 'Succeeded' || phase === 'Failed';
  const condition = (type: string, holds: boolean, reason: string) => {
    const status = holds ? 'True' : 'False';
    const before = pod.status?.conditions?.find((one) => one.type === type);
    const since = before?.status === status ? before.lastTransitionTime : now;
    return { type, status, lastTransitionTime: since as unknown as Date, ...(holds ? {} : { reason }) };
  };
  const notReady = isOver ? 'PodCompleted' : 'ContainersNotReady';
  return {
    phase,
    startTime: standing.startTime as unknown as Date,
    hostIP: standing.hostIP,
    hostIPs: [{ ip: standing.hostIP }],
    ...(standing.podIP === undefined ? {} : { podIP: standing.podIP, podIPs: [{ ip: standing.podIP }] }),
    conditions: [
      condition('PodScheduled', true, ''),
      condition('PodReadyToStartContainers', standing.podIP !== undefined && !isOver, notReady),
      condition('Initialized', isInitialized || isOver, 'ContainersNotInitialized'),
      condition('ContainersReady', areReady, notReady),
      condition('Ready', areReady, notReady),
    ],
    initContainerStatuses: initContainers.map((container) => containerStatus(container, of(container))),
    containerStatuses: containers.map((container) => containerStatus(container, of(container))),
  };
}

function phaseOf(containers: readonly ContainerStanding[], isInitialized: boolean): string {
  if (containers.length > 0 && containers.every(({ kind }) => kind === 'ended')) {
    return containers.every((one) => one.kind === 'ended' && one.exitCode === 0) ? 'Succeeded' : 'Failed';
  }
  return isInitialized && containers.some(({ kind }) => kind !== 'waiting') ? 'Running' : 'Pending';
}

function containerStatus(
  container: V1Container,
  standing: ContainerStanding & { restarts: number },
): V1ContainerStatus {
  const isRunning = standing.kind === 'running';
  return {
    name: container.name,
    image: container.image ?? '',
    imageID: '',
    ready: isRunning,
    started: isRunning,
    restartCount: standing.restarts,
    state: stateOf(standing),
  };
}

function stateOf(standing: ContainerStanding): V1ContainerState {
  switch (standing.kind) {
    case 'waiting': {
      const { reason, message } = standing;
      return { waiting: { reason, ...(message === undefined ? {} : { message }) } };
    }
    case 'running':
      return { running: { startedAt: standing.startedAt as unknown as Date } };
    case 'ended': {
      const { exitCode, startedAt, endedAt } = standing;
      return {
        terminated: {
          exitCode,
          reason: exitCode === 0 ? 'Completed' : 'Error',
          startedAt: startedAt as unknown as Date,
          finishedAt: endedAt as unknown as Date,
        },
      };
    }
  }
}
