// Where injection is stopped: a namespace in which a pod was refused for lack of room (a quota, full nodes) while its pods get
// our sidecar. A VM must start and move without us rather than not at all; KubeVirt tries again, and the next pod comes
// without a sidecar. Told from objects that every replica watches; it lasts for a while after the refusal was last seen.
import type { V1Pod } from '@kubernetes/client-node';
import type { Caches, KubevirtObject } from '../controller/caches.ts';
import { controllingVmi, hasSidecar, isOver } from '../kubevirt/launcher-pod.ts';
import { readVmi, readVmim } from '../kubevirt/objects.ts';

/** After it no pod was refused any more: the next may have a sidecar again. */
export const STOP_MS = 30 * 60_000;
/** A pod may wait this long for a node (an autoscaler adds one, others leave) before it is taken for refused. */
export const UNSCHEDULABLE_GRACE_MS = 30_000;

export interface InjectionStop {
  namespace: string;
  why: string;
}

export class InjectionStops {
  readonly #now: () => number;
  readonly #isInjected: (namespace: string, labels: Readonly<Record<string, string>>) => boolean;
  readonly #onStop: (stop: InjectionStop) => void;
  readonly #stops = new Map<string, { untilMs: number; why: string }>();
  /** Pods with our sidecar that found no node, by their key. */
  readonly #waiting = new Map<string, { namespace: string; sinceMs: number; why: string }>();
  #unsubscribe: (() => void)[] = [];

  constructor(options: {
    isInjected: (namespace: string, labels: Readonly<Record<string, string>>) => boolean;
    onStop: (stop: InjectionStop) => void;
    now?: () => number;
  }) {
    this.#isInjected = options.isInjected;
    this.#onStop = options.onStop;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Before the caches are filled: what is refused at the start counts, too. */
  watch({ pods, vmis, vmims }: Pick<Caches, 'pods' | 'vmis' | 'vmims'>): void {
    this.#unsubscribe = [
      pods.onChange(({ current, previous }) => {
        if (current !== undefined) this.onPod(current);
        else if (previous !== undefined) this.#waiting.delete(podKey(previous));
      }),
      vmis.onChange(({ current }) => {
        if (current !== undefined) this.onVmi(current);
      }),
      vmims.onChange(({ current }) => {
        if (current !== undefined) this.onVmim(current, labelsOf(vmis, current));
      }),
    ];
  }

  stop(): void {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
  }

  isStopped(namespace: string): boolean {
    this.#settle();
    return this.#stops.has(namespace);
  }

  /** All namespaces, sorted. */
  stopped(): InjectionStop[] {
    this.#settle();
    return [...this.#stops]
      .map(([namespace, { why }]) => ({ namespace, why }))
      .sort((a, b) => (a.namespace < b.namespace ? -1 : 1));
  }

  onPod(pod: V1Pod): void {
    const key = podKey(pod);
    const why = isOver(pod) || !hasSidecar(pod) ? undefined : unschedulable(pod);
    if (why === undefined || controllingVmi(pod) === undefined) {
      // One that waited long enough counts, also when it is scheduled just now.
      this.#settle();
      this.#waiting.delete(key);
      return;
    }
    const since = this.#waiting.get(key)?.sinceMs ?? this.#now();
    this.#waiting.set(key, { namespace: pod.metadata?.namespace ?? '', sinceMs: since, why });
  }

  /** KubeVirt's own words when it may not create the pod of a VM that starts. */
  onVmi(object: KubevirtObject): void {
    const vmi = readVmi(object);
    const refused = vmi?.status.conditions.find(
      ({ type, status, message = '' }) =>
        type === 'Synchronized' && status === 'False' && /exceeded quota/i.test(message),
    );
    if (vmi === undefined || refused === undefined) return;
    this.#refused(vmi.metadata.namespace, vmi.metadata.labels ?? {}, refused.message ?? 'exceeded quota');
  }

  /** The same for the target pod of a migration. */
  onVmim(object: KubevirtObject, vmiLabels: Readonly<Record<string, string>>): void {
    const vmim = readVmim(object);
    const refused = vmim?.status.conditions.find(
      ({ type, status }) => type === 'migrationRejectedByResourceQuota' && status === 'True',
    );
    if (vmim === undefined || refused === undefined) return;
    this.#refused(vmim.metadata.namespace, vmiLabels, refused.message ?? 'exceeded quota');
  }

  #refused(namespace: string, labels: Readonly<Record<string, string>>, why: string): void {
    if (this.#isInjected(namespace, labels)) this.#stopNow(namespace, why);
  }

  #stopNow(namespace: string, why: string): void {
    const isNew = !this.#stops.has(namespace);
    this.#stops.set(namespace, { untilMs: this.#now() + STOP_MS, why });
    if (isNew) this.#onStop({ namespace, why });
  }

  #settle(): void {
    const nowMs = this.#now();
    for (const [namespace, { untilMs }] of this.#stops) if (untilMs <= nowMs) this.#stops.delete(namespace);
    for (const { namespace, sinceMs, why } of this.#waiting.values())
      if (nowMs - sinceMs >= UNSCHEDULABLE_GRACE_MS) this.#stopNow(namespace, why);
  }
}

/** The scheduler's words when no node has room; other reasons (taints, affinity) are not about resources. */
function unschedulable(pod: V1Pod): string | undefined {
  const condition = pod.status?.conditions?.find(
    ({ type, status, reason }) => type === 'PodScheduled' && status === 'False' && reason === 'Unschedulable',
  );
  const message = condition?.message ?? '';
  return /Insufficient (cpu|memory)/.test(message) ? message : undefined;
}

function podKey({ metadata }: V1Pod): string {
  return `${metadata?.namespace ?? ''}/${metadata?.name ?? ''}`;
}

function labelsOf(vmis: Caches['vmis'], vmim: KubevirtObject): Record<string, string> {
  const vmi = vmis.get(`${vmim.metadata?.namespace ?? ''}/${String(vmim.spec?.vmiName ?? '')}`);
  return vmi?.metadata?.labels ?? {};
}
