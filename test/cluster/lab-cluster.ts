// The lab as a cluster: two lab nodes with kubelets, a NAS, a real kube-apiserver with etcd, stand-ins for KubeVirt's
// controllers, and our operator as its own process. Everything above the nodes talks through the API server alone.

import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import {
  KubeConfig,
  type KubernetesObject,
  type V1PersistentVolume,
  type V1Pod,
} from '@kubernetes/client-node';
import { type Logger, pino } from 'pino';
import { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { installDefinitions } from '../control-plane/apply.ts';
import { KUBEVIRT_USER, KubevirtActor } from '../control-plane/kubevirt-actor.ts';
import { operatorAccount } from '../control-plane/operator-account.ts';
import { GuestObserver } from '../lab/guest-observer.ts';
import type { GuestProfileName } from '../lab/guest-profiles.ts';
import type { LabOptions } from '../lab/lab.ts';
import { nfsLocation } from '../lab/nas.ts';
import { MIGRATION_ADDRESS, type NodeName } from '../lab/network.ts';
import type { RootSuite } from '../lab/roots.ts';
import type { Container } from '../launcher/container.ts';
import { LauncherLab } from '../launcher/launcher-lab.ts';
import type { LauncherPod, PodDisk } from '../launcher/launcher-pod.ts';
import { ensureLibvirtState, type LibvirtState, restoreGuest } from '../launcher/libvirt-state.ts';
import type {
  ClusterDriver,
  ClusterTraffic,
  Guest,
  OperatorStart,
  SidecarRelease,
  VmOptions,
} from './driver.ts';
import { HubService } from './hub-service.ts';
import { EAGER_SIDECAR_IMAGE, PREVIOUS_PROTOCOL_SIDECAR_IMAGE, SIDECAR_IMAGE } from './images.ts';
import { Kubelet } from './kubelet.ts';
import { kubevirtController } from './kubevirt-account.ts';
import { getVmi, isPodOver, isPodReady, launcherPods, type Vmi } from './kubevirt-objects.ts';
import { LabGuest } from './lab-guest.ts';
import { MigrationRecording } from './migration-recording.ts';
import type { OperatorCommand } from './operator-process.ts';
import { OperatorReplicas } from './operator-replicas.ts';
import { Scheduler } from './scheduler.ts';
import { VirtController } from './virt-controller.ts';
import { VirtHandlers } from './virt-handlers.ts';

const OPERATOR_NAMESPACE = 'nas-aware-migration';
/** What sidecars dial: the name and port that the chart gives the hub's Service. */
const HUB_HOST = `nas-aware-migration-hub.${OPERATOR_NAMESPACE}.svc`;
const HUB_PORT = 8443;
const NODES = ['source', 'target'] as const satisfies readonly NodeName[];
/** On a VMI and so on its pods: which saved guest it is. */
const GUEST_ANNOTATION = 'lab.nasmigration.io/guest';
const VOLUME = 'rootdisk';
const VM_TIMEOUT_MS = 60_000;
const INDEX_TIMEOUT_MS = 120_000;
const KUBECTL_TIMEOUT_MS = 60_000;
const POLL_MS = 50;

export interface LabClusterOptions extends LabOptions {
  /** The sidecar's image in pods; default: the one that samples at once. */
  readonly sidecarImage?: string;
  /** Which QEMU and libvirt the virt-launcher image has. Default trixie. */
  readonly suite?: RootSuite;
  /** Record what the QEMUs write and read: see {@link LabCluster.recording}. */
  readonly record?: boolean;
  /** More of the operator's environment. */
  readonly operatorEnvironment?: Readonly<Record<string, string>>;
  /** How the operator is run; from this repository unless said otherwise. */
  readonly operatorCommand?: OperatorCommand;
}

interface Parts {
  readonly dir: string;
  readonly lab: LauncherLab;
  readonly plane: ControlPlane;
  readonly api: ApiClient;
  readonly kubevirt: KubevirtActor;
  readonly controllerApi: ApiClient;
  readonly operator: OperatorReplicas;
  readonly hub: HubService;
  readonly log: Logger;
  readonly options: LabClusterOptions;
}

export class LabCluster implements ClusterDriver {
  readonly nodes = NODES;
  readonly api: ApiClient;
  readonly lab: LauncherLab;
  readonly plane: ControlPlane;
  readonly hub: HubService;
  readonly handlers: VirtHandlers;
  readonly #parts: Parts;
  readonly #kubelets: Readonly<Record<NodeName, Kubelet>>;
  readonly #controller: VirtController;
  readonly #scheduler: Scheduler;
  readonly #images = new Map<string, Readonly<Record<NodeName, PodDisk>>>();
  readonly #states = new Map<GuestProfileName, LibvirtState>();
  readonly #guests = new Map<string, LabGuest>();
  readonly #recordings = new Map<string, MigrationRecording>();

  private constructor(parts: Parts) {
    const { api, lab, log, controllerApi } = parts;
    this.#parts = parts;
    this.api = api;
    this.lab = lab;
    this.plane = parts.plane;
    this.hub = parts.hub;
    const logFor = (part: string) => (event: string, values?: Readonly<Record<string, unknown>>) =>
      log.info({ part, ...values }, event);
    const kubelet = (name: NodeName): Kubelet =>
      new Kubelet({
        ...{ api, name, node: lab.lab.node(name), address: MIGRATION_ADDRESS[name] },
        startLauncher: (pod, disks) => this.#startLauncher(name, pod, disks),
        imageOf: (volume) => this.#imageOf(name, volume),
        hosts: (launcher) => ({ [HUB_HOST]: launcher.gateway }),
        log: logFor(`kubelet ${name}`),
      });
    this.#kubelets = { source: kubelet('source'), target: kubelet('target') };
    this.#controller = new VirtController({ api, controllerApi, log: logFor('virt-controller') });
    this.handlers = new VirtHandlers({
      api,
      launcherOf: (namespace, pod) => this.launcherOf(namespace, pod),
      side: (launcher) => lab.side(launcher),
      startGuest: (vmi, launcher) => this.#startGuest(vmi, launcher),
      ...(parts.options.record === true
        ? { probe: (uid, source, target) => this.#record(uid, source, target) }
        : {}),
      log: logFor('virt-handler'),
    });
    this.#scheduler = new Scheduler(api, (problem) => log.warn({ part: 'scheduler' }, problem));
  }

  /** Starts everything; the operator leads when this resolves. Nothing is left behind when it throws. */
  static async start(options: LabClusterOptions = {}): Promise<LabCluster> {
    const dir = await mkdtemp(join(tmpdir(), 'nasmig-cluster-'));
    const undo: (() => Promise<unknown>)[] = [() => rm(dir, { recursive: true, force: true })];
    try {
      const log = pino({ base: null }, pino.destination({ dest: join(dir, 'cluster.log'), sync: true }));
      const lab = await LauncherLab.start(options);
      undo.push(() => lab.close());
      const plane = await ControlPlane.start({ dir: join(dir, 'control-plane') });
      undo.push(() => plane.stop());
      const config = new KubeConfig();
      config.loadFromFile(plane.kubeconfig);
      const api = new ApiClient(config, { userAgent: 'lab-cluster' });
      await installDefinitions(api);
      const kubevirt = await KubevirtActor.start(plane, api);
      const controllerApi = await kubevirtController(plane, api);
      await kubevirt.namespace(OPERATOR_NAMESPACE);
      const { kubeconfig } = await operatorAccount(plane, api, OPERATOR_NAMESPACE);
      const kubeconfigPath = join(dir, 'operator.kubeconfig');
      await writeFile(kubeconfigPath, kubeconfig, { mode: 0o600 });
      const operator = await OperatorReplicas.make({
        ...{ api, namespace: OPERATOR_NAMESPACE, dir },
        environment: {
          ...{ PATH: process.env['PATH'] ?? '', KUBECONFIG: kubeconfigPath },
          NASMIG_SIDECAR_IMAGE: options.sidecarImage ?? EAGER_SIDECAR_IMAGE,
          NASMIG_HUB_URL: `wss://${HUB_HOST}:${HUB_PORT}`,
          NASMIG_KUBEVIRT_USER: KUBEVIRT_USER,
          NASMIG_LEASE_SECONDS: '3',
          NASMIG_LOG_LEVEL: 'debug',
          ...options.operatorEnvironment,
        },
        ...(options.operatorCommand === undefined ? {} : { command: options.operatorCommand }),
      });
      undo.push(() => operator.close());
      const hub = await HubService.start({
        socketPath: join(lab.lab.run.path, 'hub.sock'),
        nodes: NODES.map((name) => lab.lab.node(name)),
        port: HUB_PORT,
        leaderPort: () => operator.leaderPort(),
      });
      undo.push(() => hub.stop());
      const cluster = new LabCluster({
        dir,
        lab,
        plane,
        api,
        kubevirt,
        controllerApi,
        operator,
        hub,
        log,
        options,
      });
      undo.push(() => cluster.#stopControllers());
      await cluster.#startControllers();
      await operator.start(1);
      return cluster;
    } catch (error) {
      for (const step of undo.reverse()) await step().catch(() => undefined);
      throw error;
    }
  }

  /** Ends and removes everything. With `keepLogsIn` the logs are copied there first. */
  async stop(options: { keepLogsIn?: string } = {}): Promise<void> {
    const { dir, lab, plane, api, controllerApi, kubevirt, operator, hub } = this.#parts;
    await this.#stopControllers();
    await operator.close();
    await hub.stop();
    kubevirt.close();
    controllerApi.close();
    api.close();
    await plane.stop();
    for (const guest of this.#guests.values()) await guest.close();
    if (options.keepLogsIn !== undefined) {
      await mkdir(options.keepLogsIn, { recursive: true });
      for (const path of [join(dir, 'cluster.log'), ...operator.logPaths])
        await cp(path, join(options.keepLogsIn, basename(path))).catch(() => undefined);
    }
    await lab.close(options);
    await rm(dir, { recursive: true, force: true });
  }

  async kubectl(args: readonly string[], input?: string): Promise<string> {
    const { plane } = this.#parts;
    const child = promisify(execFile)(plane.kubectl, ['--kubeconfig', plane.kubeconfig, ...args], {
      timeout: KUBECTL_TIMEOUT_MS,
    });
    child.child.stdin?.end(input);
    const { stdout } = await child;
    return stdout;
  }

  async createNamespace(name: string): Promise<void> {
    await this.#parts.kubevirt.namespace(name);
  }

  async createVm(options: VmOptions): Promise<Guest> {
    const { namespace, name, guest: profile } = options;
    const state = await ensureLibvirtState(profile, this.#suite);
    this.#states.set(profile, state);
    const claimName = `${name}-${VOLUME}`;
    await this.#provision(namespace, claimName, state);
    const guest = new LabGuest(new GuestObserver());
    this.#guests.set(`${namespace}/${name}`, guest);
    await this.api.create<KubernetesObject & { spec: object }>(resources.virtualMachineInstances, {
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstance',
      metadata: {
        ...{ namespace, name, labels: { ...options.labels } },
        annotations: { ...options.annotations, [GUEST_ANNOTATION]: profile },
      },
      spec: {
        domain: {
          devices: { disks: [{ name: VOLUME, disk: { bus: 'virtio' } }] },
          ...(options.cpuLimit === undefined ? {} : { resources: { limits: { cpu: options.cpuLimit } } }),
        },
        volumes: [{ name: VOLUME, persistentVolumeClaim: { claimName } }],
      },
    });
    await this.#waitUntil(`VM ${name} to run`, VM_TIMEOUT_MS, async () => {
      const vmi = await getVmi(this.api, namespace, name);
      return vmi?.status?.phase === 'Running';
    });
    await guest.waitForLife();
    return guest;
  }

  async waitForIndex(namespace: string, vmName: string): Promise<void> {
    const home = await this.homeOf(namespace, vmName);
    const sidecar = this.containerOf(namespace, home.metadata?.name ?? '', SIDECAR_CONTAINER);
    if (sidecar === undefined) throw new Error(`the pod of VM ${vmName} has no running sidecar`);
    await sidecar.process.waitForOutput(/"index sampled"/, INDEX_TIMEOUT_MS);
  }

  async traffic(): Promise<ClusterTraffic> {
    const { migration, storage } = await this.lab.lab.traffic();
    const nas = Object.fromEntries(
      NODES.map((name) => [name, { readBytes: storage[name].read, writtenBytes: storage[name].written }]),
    );
    return {
      migrationBytes: migration.sourceToTarget + migration.targetToSource,
      migrationSent: { source: migration.sourceToTarget, target: migration.targetToSource },
      nas,
    };
  }

  get #suite(): RootSuite {
    return this.#parts.options.suite ?? 'trixie';
  }

  operatorLog(): Promise<string> {
    return this.#parts.operator.log();
  }

  /** Where Prometheus can scrape the operator's replicas. */
  get operatorMetricsPorts(): readonly number[] {
    return this.#parts.operator.metricsPorts;
  }

  operatorMetrics(): Promise<string> {
    return this.#parts.operator.metrics();
  }

  async startOperator({ replicas = 1, sidecar = 'current' }: OperatorStart = {}): Promise<void> {
    const current = this.#parts.options.sidecarImage ?? EAGER_SIDECAR_IMAGE;
    const images: Readonly<Record<SidecarRelease, string>> = {
      current,
      unhurried: SIDECAR_IMAGE,
      'previous-protocol': PREVIOUS_PROTOCOL_SIDECAR_IMAGE,
    };
    await this.#parts.operator.start(replicas, { NASMIG_SIDECAR_IMAGE: images[sidecar] });
  }

  stopOperator(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    return this.#parts.operator.stop('all', signal);
  }

  stopLeader(signal: NodeJS.Signals): Promise<void> {
    return this.#parts.operator.stop('leader', signal);
  }

  async breakHubConnections(): Promise<void> {
    this.hub.breakConnections();
  }

  async restart(part: 'kube-apiserver' | 'etcd', signal: NodeJS.Signals): Promise<void> {
    if (part === 'etcd') await this.plane.restartEtcd(signal);
    else await this.plane.restartApiServer(signal);
  }

  async killContainer(namespace: string, pod: string, container: string): Promise<void> {
    const running = this.containerOf(namespace, pod, container);
    if (running === undefined) throw new Error(`pod ${pod} runs no container ${container}`);
    running.signal('SIGKILL');
  }

  /** What a recorder saw of a migration, when the cluster was started with `record`. */
  recording(migrationUid: string): MigrationRecording {
    const recording = this.#recordings.get(migrationUid);
    if (recording === undefined) throw new Error(`migration ${migrationUid} was not recorded`);
    return recording;
  }

  /** A container's process: its log and its CPU time. */
  containerOf(namespace: string, pod: string, container: string): Container | undefined {
    const { source, target } = this.#kubelets;
    return source.containerOf(namespace, pod, container) ?? target.containerOf(namespace, pod, container);
  }

  /** The pod in which a VM is now. Throws when it is nowhere. */
  async homeOf(namespace: string, vmName: string): Promise<V1Pod> {
    const vmi = await getVmi(this.api, namespace, vmName);
    const pods = vmi === undefined ? [] : await launcherPods(this.api, vmi);
    const home = pods.find((pod) => pod.spec?.nodeName === vmi?.status?.nodeName && isPodReady(pod));
    if (home === undefined) throw new Error(`VM ${vmName} has no ready pod on ${vmi?.status?.nodeName}`);
    return home;
  }

  /** The disk of a guest as it was saved. Throws for a guest that createVm() never made. */
  diskTemplateOf(profile: GuestProfileName): string {
    const state = this.#states.get(profile);
    if (state === undefined) throw new Error(`no VM with the ${profile} guest was made`);
    return state.diskTemplate;
  }

  async waitForNoPods(namespace: string): Promise<void> {
    await this.#waitUntil(`the pods of ${namespace} to go`, VM_TIMEOUT_MS, async () => {
      const { items } = await this.api.list<V1Pod>(resources.pods, namespace);
      return items.every(isPodOver);
    });
  }

  /** The launcher pod behind a pod. */
  launcherOf(namespace: string, pod: string): LauncherPod | undefined {
    return (
      this.#kubelets.source.launcherOf(namespace, pod) ?? this.#kubelets.target.launcherOf(namespace, pod)
    );
  }

  async #startControllers(): Promise<void> {
    for (const name of NODES) {
      const labels = { 'kubernetes.io/hostname': name, 'kubevirt.io/schedulable': 'true' };
      await this.api.apply<KubernetesObject>(
        resources.nodes,
        { apiVersion: 'v1', kind: 'Node', metadata: { name, labels } },
        'kubelet',
      );
    }
    await this.#scheduler.start();
    await Promise.all(NODES.map((name) => this.#kubelets[name].start()));
    await Promise.all([this.#controller.start(), this.handlers.start()]);
  }

  async #stopControllers(): Promise<void> {
    await Promise.all([this.#controller.stop(), this.handlers.stop(), this.#scheduler.stop()]);
    await Promise.all(NODES.map((name) => this.#kubelets[name].stop()));
  }

  /** An NFS volume with the guest's disk on the NAS, and a claim that is bound to it. */
  async #provision(namespace: string, claimName: string, state: LibvirtState): Promise<void> {
    const volumeName = `${namespace}-${claimName}`;
    this.#images.set(volumeName, await this.lab.addVolume(volumeName, state.diskTemplate));
    const { host, path } = nfsLocation(volumeName);
    const storage = { storage: '2Gi' };
    const common = { accessModes: ['ReadWriteMany'], volumeMode: 'Filesystem', storageClassName: '' };
    await this.api.create<KubernetesObject & { spec: object }>(resources.persistentVolumes, {
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: { name: volumeName },
      spec: {
        ...common,
        capacity: storage,
        nfs: { server: host, path },
        claimRef: { namespace, name: claimName },
      },
    });
    await this.api.create<KubernetesObject & { spec: object }>(resources.persistentVolumeClaims, {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { namespace, name: claimName },
      spec: { ...common, resources: { requests: storage }, volumeName },
    });
    // As the volume controller does, which does not run here.
    const bound = { status: { phase: 'Bound' } };
    await this.api.mergePatch(resources.persistentVolumes, undefined, volumeName, bound, 'status');
    const status = { ...bound.status, accessModes: common.accessModes, capacity: storage };
    await this.api.mergePatch(resources.persistentVolumeClaims, namespace, claimName, { status }, 'status');
  }

  #imageOf(node: NodeName, volume: V1PersistentVolume): string | undefined {
    const { server, path } = volume.spec?.nfs ?? {};
    const name = volume.metadata?.name ?? '';
    const expected = nfsLocation(name);
    return server === expected.host && path === expected.path
      ? this.#images.get(name)?.[node].file
      : undefined;
  }

  async #startLauncher(node: NodeName, pod: V1Pod, disks: readonly PodDisk[]): Promise<LauncherPod> {
    const { namespace, annotations } = pod.metadata ?? {};
    const profile = annotations?.[GUEST_ANNOTATION] as GuestProfileName | undefined;
    const state = profile === undefined ? undefined : this.#states.get(profile);
    const guest = this.#guests.get(`${namespace}/${annotations?.['kubevirt.io/domain']}`);
    if (state === undefined || guest === undefined)
      throw new Error(`pod ${pod.metadata?.name} is not of a VM that createVm() made`);
    const launcher = await this.lab.startPod(node, {
      suite: this.#suite,
      disks,
      bootDirectory: state.directory,
    });
    await launcher.attachObserver(guest.observer);
    return launcher;
  }

  #record(migrationUid: string, source: LauncherPod, target: LauncherPod): MigrationRecording {
    const recording = new MigrationRecording(this.lab.lab, migrationUid, source, target);
    this.#recordings.set(migrationUid, recording);
    return recording;
  }

  async #startGuest(vmi: Vmi, launcher: LauncherPod): Promise<void> {
    const profile = vmi.metadata.annotations?.[GUEST_ANNOTATION] as GuestProfileName;
    const state = this.#states.get(profile);
    if (state === undefined) throw new Error(`VM ${vmi.metadata.name} was not made by createVm()`);
    await restoreGuest(launcher, state);
  }

  async #waitUntil(what: string, timeoutMs: number, isSo: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!(await isSo())) {
      if (performance.now() > deadline) {
        const tail = (await readFile(join(this.#parts.dir, 'cluster.log'), 'utf8')).slice(-3000);
        throw new Error(`waited ${timeoutMs} ms for ${what}; the cluster's log ends with:\n${tail}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}
