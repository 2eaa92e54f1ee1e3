// Stand-in for the kubelet of one lab node. It acts through the API server alone: it watches the pods that are bound to its
// node, runs what their containers say as lab processes, tells their status, and ends them when they are deleted. A pod's
// `compute` container is a launcher pod of test/launcher (libvirt and QEMU); every other container is made of what its
// description says: user, mounts, environment, memory limit. Native sidecars are started before the pod is Running, started
// again when they end, and ended after compute. Not as in a cluster: compute runs before the init containers do, because
// it holds the pod's namespaces.

import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { V1Container, V1PersistentVolume, V1Pod } from '@kubernetes/client-node';
import { type ApiClient, isNotFound } from '../../operator/kubernetes/api-client.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { keyOf, pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { WorkQueue } from '../../operator/kubernetes/work-queue.ts';
import type { LabNode } from '../lab/node.ts';
import { ensureRoot, type RootSuite } from '../lab/roots.ts';
import { Container } from '../launcher/container.ts';
import type { LauncherPod, PodDisk } from '../launcher/launcher-pod.ts';
import { containerProcess, type VolumeOnNode } from './container-spec.ts';
import { IMAGES, LAUNCHER_IMAGE } from './images.ts';
import { type ContainerStanding, isNativeSidecar, podStatus } from './pod-status.ts';
import { PodVolumes, VolumeNotReadyError } from './pod-volumes.ts';

const DISKS_PATH = '/var/run/kubevirt-private/vmi-disks';
const COMPUTE = 'compute';
const SUITE: RootSuite = 'trixie';
/** kubelet's back-off between restarts begins at ten seconds; the first restart is at once. */
const RESTART_BACKOFF_MS = 2000;
const VOLUME_RETRY_MS = 200;
/** A native sidecar gets what is left of the pod's grace; ours promises to end within a second. */
const SIDECAR_STOP_MS = 5000;

export interface KubeletOptions {
  readonly api: ApiClient;
  readonly node: LabNode;
  /** The Node object's name, which is the node's place in the lab. */
  readonly name: 'source' | 'target';
  readonly address: string;
  /** Starts a launcher pod on this node. Its compute container runs when this resolves. */
  readonly startLauncher: (pod: V1Pod, disks: readonly PodDisk[]) => Promise<LauncherPod>;
  readonly imageOf: (volume: V1PersistentVolume) => string | undefined;
  /** More for a pod's /etc/hosts: what cluster DNS would answer. */
  readonly hosts: (launcher: LauncherPod) => Readonly<Record<string, string>>;
  readonly log: (event: string, values?: Readonly<Record<string, unknown>>) => void;
}

interface RunningContainer {
  readonly spec: V1Container;
  container: Container | undefined;
  standing: ContainerStanding;
  restarts: number;
  /** Nothing is started before this. */
  notBeforeMs: number;
}

interface RunningPod {
  readonly uid: string;
  readonly startTime: string;
  readonly volumes: PodVolumes;
  readonly places: Map<string, VolumeOnNode>;
  readonly launcher: LauncherPod;
  readonly containers: Map<string, RunningContainer>;
  readonly directory: string;
  /** Sidecars started in it so far: each has a log and a mount point of its own. */
  started: number;
}

export class Kubelet {
  readonly #options: KubeletOptions;
  readonly #pods: Informer<V1Pod>;
  readonly #queue: WorkQueue;
  readonly #running = new Map<string, RunningPod>();

  constructor(options: KubeletOptions) {
    this.#options = options;
    this.#pods = new Informer<V1Pod>(options.api, resources.pods, {
      fieldSelector: `spec.nodeName=${options.name}`,
      onProblem: (problem) => options.log('watch failed', { problem }),
    });
    this.#queue = new WorkQueue({
      work: (key) => this.#reconcile(key),
      workers: 4,
      minBackoffMs: VOLUME_RETRY_MS,
      maxBackoffMs: 5000,
      onFailure: (key, error, failures) => {
        const detail = error instanceof Error ? error.message : String(error);
        if (!(error instanceof VolumeNotReadyError) || failures === 1) options.log('pod', { key, detail });
      },
    });
    this.#pods.onChange(({ current, previous }) => {
      const pod = current ?? previous;
      if (pod !== undefined) this.#queue.add(keyOf(pod));
    });
  }

  async start(): Promise<void> {
    this.#pods.start();
    await this.#pods.synced;
  }

  /** Stops watching and ends every pod of the node, without telling the API server. */
  async stop(): Promise<void> {
    await this.#pods.stop();
    await this.#queue.stop();
    await Promise.all([...this.#running.keys()].map((key) => this.#end(key)));
  }

  /** The launcher pod behind a pod of this node; undefined before it runs and after it ended. */
  launcherOf(namespace: string, name: string): LauncherPod | undefined {
    return this.#running.get(`${namespace}/${name}`)?.launcher;
  }

  /** A container's process, for faults and for its log. */
  containerOf(namespace: string, name: string, container: string): Container | undefined {
    return this.#running.get(`${namespace}/${name}`)?.containers.get(container)?.container;
  }

  async #reconcile(key: string): Promise<number | undefined> {
    const pod = this.#pods.get(key);
    const running = this.#running.get(key);
    if (pod === undefined || (running !== undefined && running.uid !== pod.metadata?.uid)) {
      await this.#end(key);
      return pod === undefined ? undefined : 0;
    }
    if (pod.metadata?.deletionTimestamp !== undefined) {
      await this.#end(key);
      await this.#remove(pod);
      return undefined;
    }
    if (pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed') {
      await this.#end(key);
      return undefined;
    }
    const unknown = this.#unknownImage(pod);
    if (unknown !== undefined) {
      await this.#writeWaiting(pod, unknown, 'ErrImagePull', `the lab has no image ${unknown.image}`);
      return undefined;
    }
    if (running === undefined) await this.#begin(key, pod);
    return this.#keep(key, pod);
  }

  #unknownImage(pod: V1Pod): V1Container | undefined {
    const containers = [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])];
    return containers.find(({ image = '' }) => image !== LAUNCHER_IMAGE && !IMAGES.has(image));
  }

  /** Volumes and the launcher pod with its compute container. */
  async #begin(key: string, pod: V1Pod): Promise<void> {
    const { api, node, imageOf, log, startLauncher } = this.#options;
    const uid = pod.metadata?.uid ?? '';
    const directory = node.file(`k/${uid}`);
    await mkdir(directory, { recursive: true });
    const volumes = new PodVolumes({
      ...{ api, pod, directory, imageOf },
      onProblem: (problem) => log('volumes', { key, problem }),
    });
    const startTime = instant();
    const places = await volumes.make();
    const launcher = await startLauncher(pod, disksOf(pod, places)).catch(async (error: unknown) => {
      await volumes.stop();
      throw error;
    });
    // The emptyDir that compute and sidecars share is the launcher pod's own.
    places.set('public', { kind: 'directory', path: launcher.publicDirectory });
    const startedAt = instant();
    const containers = new Map<string, RunningContainer>();
    for (const spec of [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])]) {
      const isCompute = spec.name === COMPUTE;
      containers.set(spec.name, {
        spec,
        container: isCompute ? launcher.compute : undefined,
        standing: isCompute ? { kind: 'running', startedAt } : { kind: 'waiting', reason: 'PodInitializing' },
        restarts: 0,
        notBeforeMs: 0,
      });
    }
    void launcher.compute.process.ended.then(() => this.#queue.add(key));
    this.#running.set(key, { uid, startTime, volumes, places, launcher, containers, directory, started: 0 });
    log('pod started', { key, launcher: launcher.name });
  }

  /** Brings containers to what they should be, and writes the pod's status. */
  async #keep(key: string, pod: V1Pod): Promise<number | undefined> {
    const running = this.#running.get(key);
    if (running === undefined) return undefined;
    let againInMs: number | undefined;
    await this.#notice(running);
    const compute = running.containers.get(COMPUTE);
    if (compute?.standing.kind === 'ended') {
      await this.#endSidecars(running);
    } else {
      for (const spec of pod.spec?.initContainers ?? []) {
        const one = running.containers.get(spec.name);
        if (one === undefined || one.standing.kind === 'running') continue;
        if (one.standing.kind === 'ended' && !isNativeSidecar(spec)) continue;
        const waitMs = one.notBeforeMs - performance.now();
        if (waitMs > 0) againInMs = waitMs;
        else await this.#startContainer(key, pod, running, one);
      }
    }
    await this.#writeStatus(pod, running);
    return againInMs;
  }

  /** Takes note of containers that have ended since. */
  async #notice(running: RunningPod): Promise<void> {
    for (const one of running.containers.values()) {
      const { container, standing } = one;
      if (container === undefined || standing.kind !== 'running' || container.process.running) continue;
      const { code } = await container.process.ended;
      const exitCode = code ?? 137;
      one.standing = { kind: 'ended', exitCode, startedAt: standing.startedAt, endedAt: instant() };
      one.notBeforeMs = performance.now() + (one.restarts === 0 ? 0 : RESTART_BACKOFF_MS);
    }
  }

  async #startContainer(key: string, pod: V1Pod, running: RunningPod, one: RunningContainer): Promise<void> {
    const { node, log, hosts } = this.#options;
    const { launcher } = running;
    const image = IMAGES.get(one.spec.image ?? '');
    if (image === undefined) throw new Error(`image ${one.spec.image} is run as compute alone`);
    const withAddress = {
      ...pod,
      status: { ...pod.status, podIP: addressOf(launcher), hostIP: this.#options.address },
    };
    const spec = containerProcess(withAddress, one.spec, image, running.places);
    running.started += 1;
    const mountPoint = join(running.directory, `root-${running.started}`);
    await mkdir(mountPoint, { recursive: true });
    const hostsFile = join(running.directory, 'hosts');
    await writeHosts(hostsFile, pod, hosts(launcher));
    if (one.standing.kind === 'ended') one.restarts += 1;
    one.container = await Container.start({
      ...spec,
      ...{ node, name: `${launcher.name}-${one.spec.name}-${running.started}`, mountPoint },
      template: await ensureRoot(SUITE),
      binds: [...spec.binds, { from: hostsFile, to: '/etc/hosts', readOnly: true }],
      network: { sharedWithPid: launcher.compute.initPid },
      ...(image.rootfs === undefined ? {} : { imageRootfs: image.rootfs }),
    });
    one.standing = { kind: 'running', startedAt: instant() };
    const { container } = one;
    void container.process.ended.then(() => this.#queue.add(key));
    log('container started', { key, container: one.spec.name, log: container.process.logPath });
  }

  async #endSidecars(running: RunningPod): Promise<void> {
    await running.volumes.stop();
    for (const one of running.containers.values()) {
      if (one.spec.name === COMPUTE || one.container === undefined) continue;
      const { elapsedMs } = await one.container.stop(SIDECAR_STOP_MS);
      this.#options.log('container ended', {
        container: one.container.name,
        elapsedMs: Math.round(elapsedMs),
      });
    }
    await this.#notice(running);
  }

  /** Compute first, then the sidecars. Nothing happens when the pod does not run. */
  async #end(key: string): Promise<void> {
    const running = this.#running.get(key);
    if (running === undefined) return;
    await running.launcher.compute.stop();
    await this.#endSidecars(running);
    this.#running.delete(key);
    await rm(join(running.directory, 'volumes'), { recursive: true, force: true });
  }

  /** The last word of a graceful deletion is kubelet's. */
  async #remove(pod: V1Pod): Promise<void> {
    const { namespace, name, uid } = pod.metadata ?? {};
    try {
      await this.#options.api.call('DELETE', pathOf(resources.pods, namespace, name), {
        body: { apiVersion: 'v1', kind: 'DeleteOptions', gracePeriodSeconds: 0, preconditions: { uid } },
      });
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  async #writeWaiting(pod: V1Pod, container: V1Container, reason: string, message: string): Promise<void> {
    await this.#patchStatus(
      pod,
      podStatus(
        pod,
        {
          containers: new Map([[container.name, { kind: 'waiting', reason, message, restarts: 0 }]]),
          startTime: String(pod.status?.startTime ?? instant()),
          hostIP: this.#options.address,
        },
        instant(),
      ),
    );
  }

  async #writeStatus(pod: V1Pod, running: RunningPod): Promise<void> {
    const containers = new Map(
      [...running.containers].map(([name, { standing, restarts }]) => [name, { ...standing, restarts }]),
    );
    const { startTime, launcher } = running;
    const standing = { containers, startTime, hostIP: this.#options.address, podIP: addressOf(launcher) };
    await this.#patchStatus(pod, podStatus(pod, standing, instant()));
  }

  async #patchStatus(pod: V1Pod, status: object): Promise<void> {
    const { namespace, name = '', uid } = pod.metadata ?? {};
    if (isSubset(status, pod.status ?? {})) return;
    try {
      await this.#options.api.mergePatch(
        resources.pods,
        namespace,
        name,
        { metadata: { uid }, status },
        'status',
      );
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }
}

/** The claims that compute has as VM disks. */
function disksOf(pod: V1Pod, volumes: ReadonlyMap<string, VolumeOnNode>): PodDisk[] {
  const compute = pod.spec?.containers.find(({ name }) => name === COMPUTE);
  return (compute?.volumeMounts ?? []).flatMap(({ name, mountPath }) => {
    const volume = volumes.get(name);
    return volume?.kind === 'disk-image' && mountPath === `${DISKS_PATH}/${name}`
      ? [{ name, file: volume.path }]
      : [];
  });
}

/** The pod's own end of its link: its gateway's neighbour. */
function addressOf(launcher: LauncherPod): string {
  return launcher.gateway.replace(/\.1$/, '.2');
}

async function writeHosts(path: string, pod: V1Pod, hosts: Readonly<Record<string, string>>): Promise<void> {
  const lines = [
    `127.0.0.1 localhost ${pod.metadata?.name ?? ''}`,
    ...Object.entries(hosts).map(([name, address]) => `${address} ${name}`),
  ];
  await writeFile(path, `${lines.join('\n')}\n`);
}

/** Whether everything that `part` says is said by `whole` too: then there is nothing to write. */
function isSubset(part: unknown, whole: unknown): boolean {
  if (Array.isArray(part)) {
    return (
      Array.isArray(whole) &&
      whole.length === part.length &&
      part.every((entry, i) => isSubset(entry, whole[i]))
    );
  }
  if (typeof part === 'object' && part !== null) {
    if (typeof whole !== 'object' || whole === null) return false;
    return Object.entries(part).every(([name, entry]) =>
      isSubset(entry, (whole as Record<string, unknown>)[name]),
    );
  }
  return part === whole;
}

/** RFC 3339 in seconds, as the API server keeps times. */
function instant(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}
