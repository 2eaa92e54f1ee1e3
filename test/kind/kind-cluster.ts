// The kind cluster that `hack/kind/kind.sh up` makes, as the end-to-end suites drive it: real kubelets and KubeVirt, our operator
// from its chart. It is made once and used by every suite; a suite leaves its namespaces behind empty. It has not been run where
// it was written, for want of a container engine (docs/kind.md says which parts have been tried).
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import {
  KubeConfig,
  type KubernetesObject,
  type V1Namespace,
  type V1Node,
  type V1Pod,
} from '@kubernetes/client-node';
import { ApiClient, isNotFound } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { LEADER_LABEL } from '../../operator/leader/leader-label.ts';
import type {
  ClusterDriver,
  ClusterOptions,
  ClusterTraffic,
  Guest,
  OperatorStart,
  VmOptions,
} from '../cluster/driver.ts';
import { getVmi, isPodOver, launcherPods } from '../cluster/kubevirt-objects.ts';
import { LabGuest } from '../cluster/lab-guest.ts';
import { GuestObserver } from '../lab/guest-observer.ts';
import { GuestRelay, RELAY_ON_NODE } from './guest-relay.ts';
import { KindNode } from './kind-node.ts';
import {
  countersCommand,
  nasBytes,
  nasCommands,
  removeCommand,
  workerBytes,
  workerCommands,
} from './node-traffic.ts';
import { STATE_FILES } from './prepare.ts';
import { claimName, vmObjects } from './vm-objects.ts';

const OPERATOR_NAMESPACE = 'nas-aware-migration';
const DEPLOYMENT = 'nas-aware-migration';
const METRICS_PORT = 8080;
const HUB_PORT = 8443;
/** Every node of kind has one interface. */
const INTERFACE = 'eth0';
const KUBECTL_TIMEOUT_MS = 120_000;
const START_TIMEOUT_MS = 300_000;
/** A guest boots under software emulation and reads its files. */
const GUEST_TIMEOUT_MS = 900_000;
const INDEX_TIMEOUT_MS = 600_000;
const POLL_MS = 500;

/** The kind cluster is not there, or lacks something. */
export class KindClusterError extends Error {
  readonly code = 'NASMIG_KIND_CLUSTER';
  constructor(problem: string) {
    super(`${problem}; hack/kind/kind.sh up makes the cluster`);
    this.name = 'KindClusterError';
  }
}

/** A cluster has no such part, so the suite that asks for it does not run on kind. */
export class NotOnKindError extends Error {
  readonly code = 'NASMIG_NOT_ON_KIND';
  constructor(what: string) {
    super(`${what} is not to be had on kind; run this suite on the lab (NASMIG_E2E_CLUSTER=lab)`);
    this.name = 'NotOnKindError';
  }
}

interface Parts {
  readonly state: string;
  readonly kubeconfig: string;
  readonly api: ApiClient;
  readonly directory: string;
  readonly controlPlane: KindNode;
  /** In the order of their names. */
  readonly workers: readonly { readonly node: KindNode; readonly address: string }[];
}

export class KindCluster implements ClusterDriver {
  readonly #parts: Parts;
  readonly #relays = new Map<string, GuestRelay>();
  readonly #namespaces = new Set<string>();
  #watch: NodeJS.Timeout | undefined;

  private constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Throws {@link KindClusterError} when `kind.sh up` has not been run. */
  static async start(options: ClusterOptions = {}): Promise<KindCluster> {
    const state = resolve(process.env['NASMIG_KIND_STATE'] ?? '.cache/kind');
    const kubeconfig = join(state, 'kubeconfig');
    const config = new KubeConfig();
    try {
      config.loadFromFile(kubeconfig);
    } catch (error) {
      throw new KindClusterError(`there is no kubeconfig: ${(error as Error).message}`);
    }
    const api = new ApiClient(config, { userAgent: 'nas-aware-migration-end-to-end' });
    const { items } = await api.list<V1Node>(resources.nodes);
    const isControlPlane = ({ metadata }: V1Node) =>
      metadata?.labels?.['node-role.kubernetes.io/control-plane'] !== undefined;
    const toNode = (node: V1Node) => new KindNode(node.metadata?.name ?? '');
    const workers = items
      .filter((node) => !isControlPlane(node))
      .map((node) => ({
        node: toNode(node),
        address: node.status?.addresses?.find(({ type }) => type === 'InternalIP')?.address ?? '',
      }))
      .sort((a, b) => (a.node.name < b.node.name ? -1 : 1));
    const controlPlane = items.find(isControlPlane);
    if (controlPlane === undefined || workers.length !== 2)
      throw new KindClusterError(`the cluster has ${items.length} nodes, ${workers.length} of them workers`);
    const cluster = new KindCluster({
      ...{ state, kubeconfig, api, workers },
      controlPlane: toNode(controlPlane),
      directory: await mkdtemp(join(tmpdir(), 'nasmig-kind-')),
    });
    try {
      for (const { node } of workers) await node.copy(join(state, STATE_FILES.frameRelay), RELAY_ON_NODE);
      await cluster.#shapeNetworks(options);
      await cluster.startOperator();
      cluster.#followPods();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  get api(): ApiClient {
    return this.#parts.api;
  }

  get nodes(): readonly string[] {
    return this.#parts.workers.map(({ node }) => node.name);
  }

  async kubectl(args: readonly string[], input?: string): Promise<string> {
    const child = promisify(execFile)('kubectl', ['--kubeconfig', this.#parts.kubeconfig, ...args], {
      timeout: KUBECTL_TIMEOUT_MS,
      maxBuffer: 16 * 1024 * 1024,
    });
    child.child.stdin?.end(input);
    const { stdout } = await child;
    return stdout;
  }

  async createNamespace(name: string): Promise<void> {
    this.#namespaces.add(name);
    // The one of an earlier suite may still be on its way out.
    await this.#waitUntil(`an earlier namespace ${name} to go`, START_TIMEOUT_MS, async () => {
      try {
        const { status } = await this.api.get<V1Namespace>(resources.namespaces, undefined, name);
        return status?.phase !== 'Terminating';
      } catch (error) {
        if (isNotFound(error)) return true;
        throw error;
      }
    });
    await this.api.apply(resources.namespaces, { metadata: { name } }, 'end-to-end');
    await this.#waitUntil(`the service account of ${name}`, START_TIMEOUT_MS, async () => {
      await this.api.get(resources.serviceAccounts, name, 'default');
      return true;
    });
  }

  async createVm(options: VmOptions): Promise<Guest> {
    const { namespace, name } = options;
    const { claim, vmi } = vmObjects(options);
    await this.api.create(resources.persistentVolumeClaims, claim);
    await this.#waitUntil(`claim ${claimName(name)} to be bound`, START_TIMEOUT_MS, async () => {
      const found = await this.api.get<KubernetesObject & { status?: { phase?: string } }>(
        resources.persistentVolumeClaims,
        namespace,
        claimName(name),
      );
      return found.status?.phase === 'Bound';
    });
    await this.#writeDisk(namespace, claimName(name));
    const relay = new GuestRelay(new GuestObserver(), this.#parts.directory);
    this.#relays.set(`${namespace}/${name}`, relay);
    await this.api.create(resources.virtualMachineInstances, vmi);
    await this.#waitUntil(`VM ${name} to run`, START_TIMEOUT_MS, async () => {
      const found = await getVmi(this.api, namespace, name);
      return found?.status?.phase === 'Running';
    });
    await relay.observer.waitFor('be ready', ({ ready }) => ready, GUEST_TIMEOUT_MS);
    return new LabGuest(relay.observer);
  }

  async waitForIndex(namespace: string, vmName: string): Promise<void> {
    await this.#waitUntil(`the index of VM ${vmName}`, INDEX_TIMEOUT_MS, async () => {
      const vmi = await getVmi(this.api, namespace, vmName);
      const pods = vmi === undefined ? [] : await launcherPods(this.api, vmi);
      const home = pods.find(({ spec }) => spec?.nodeName === vmi?.status?.nodeName);
      if (home === undefined) return false;
      const log = await this.kubectl([
        ...['--namespace', namespace, 'logs', home.metadata?.name ?? '', '--container', SIDECAR_CONTAINER],
      ]);
      return log.includes('"index sampled"');
    });
  }

  async waitForNoPods(namespace: string): Promise<void> {
    await this.#waitUntil(`the pods of ${namespace} to go`, START_TIMEOUT_MS, async () => {
      const { items } = await this.api.list<V1Pod>(resources.pods, namespace);
      return items.every(isPodOver);
    });
  }

  async traffic(): Promise<ClusterTraffic> {
    const { workers, controlPlane } = this.#parts;
    const sent = await Promise.all(
      workers.map(async ({ node }) => workerBytes(await node.run(countersCommand(INTERFACE)))),
    );
    const read = nasBytes(await controlPlane.run(countersCommand(INTERFACE)), workers.length);
    const byNode = <T>(value: (index: number) => T): Record<string, T> =>
      Object.fromEntries(workers.map(({ node }, index) => [node.name, value(index)]));
    return {
      migrationBytes: sent.reduce((sum, { migration }) => sum + migration, 0),
      migrationSent: byNode((index) => sent[index]?.migration ?? 0),
      nas: byNode((index) => ({ readBytes: read[index] ?? 0, writtenBytes: sent[index]?.toNas ?? 0 })),
    };
  }

  /** Of the pods that are there: kubelet throws the others' away. */
  operatorLog(): Promise<string> {
    return this.kubectl([
      ...['--namespace', OPERATOR_NAMESPACE, 'logs', '--selector', `app.kubernetes.io/name=${DEPLOYMENT}`],
      ...['--tail=-1', '--prefix=false'],
    ]);
  }

  async operatorMetrics(): Promise<string> {
    const url = `http://127.0.0.1:${METRICS_PORT}/metrics`;
    const texts = await Promise.all(
      (await this.#operatorPods()).map((pod) => this.#inPodNetwork(pod, ['curl', '-sf', url])),
    );
    return texts.join('');
  }

  async startOperator({ replicas = 1, sidecar = 'current' }: OperatorStart = {}): Promise<void> {
    if (sidecar !== 'current') throw new NotOnKindError('a sidecar of an earlier protocol');
    await this.#scale(replicas);
    await this.#waitUntil('an operator to lead', START_TIMEOUT_MS, async () => {
      const pods = await this.#operatorPods();
      return pods.length === replicas && pods.some(isLeader) && pods.every(isReady);
    });
  }

  async stopOperator(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const pods = await this.#operatorPods();
    await this.#scale(0);
    if (signal === 'SIGKILL') {
      // No grace: kubelet kills at once.
      for (const { metadata } of pods)
        await this.kubectl([
          ...['--namespace', OPERATOR_NAMESPACE, 'delete', 'pod', metadata?.name ?? ''],
          ...['--grace-period=0', '--force', '--ignore-not-found'],
        ]);
    }
    await this.#waitUntil('the operator to stop', START_TIMEOUT_MS, async () => {
      return (await this.#operatorPods()).length === 0;
    });
  }

  async stopLeader(signal: NodeJS.Signals): Promise<void> {
    const leader = (await this.#operatorPods()).find(isLeader);
    if (leader === undefined) throw new KindClusterError('no operator pod leads');
    const { node, pid } = await this.#processOf(leader, undefined);
    await node.signal(pid, signal);
  }

  async breakHubConnections(): Promise<void> {
    for (const pod of await this.#operatorPods())
      await this.#inPodNetwork(pod, ['ss', '--kill', '--tcp', `sport = :${HUB_PORT}`]);
  }

  async restart(part: 'kube-apiserver' | 'etcd', signal: NodeJS.Signals): Promise<void> {
    const { controlPlane } = this.#parts;
    const id = (await controlPlane.run(['crictl', 'ps', '--quiet', '--name', `^${part}$`])).trim();
    await controlPlane.signal(await controlPlane.pidOf(id), signal);
    // kubelet starts a static pod's container anew, with back-off.
    await this.#waitUntil(`${part} to be back`, START_TIMEOUT_MS, async () => {
      const now = (await controlPlane.run(['crictl', 'ps', '--quiet', '--name', `^${part}$`])).trim();
      if (now === '' || now === id) return false;
      await this.kubectl(['get', '--raw', '/readyz']);
      return true;
    });
  }

  async killContainer(namespace: string, pod: string, container: string): Promise<void> {
    const found = await this.api.get<V1Pod>(resources.pods, namespace, pod);
    const { node, pid } = await this.#processOf(found, container);
    await node.signal(pid, 'SIGKILL');
  }

  /** Leaves the cluster as `kind.sh up` made it: namespaces of this run and rates of the networks are removed. */
  async stop(options: { keepLogsIn?: string } = {}): Promise<void> {
    const { api, directory, workers, controlPlane } = this.#parts;
    clearInterval(this.#watch);
    if (options.keepLogsIn !== undefined) {
      await mkdir(options.keepLogsIn, { recursive: true });
      await writeFile(
        join(options.keepLogsIn, 'operator.log'),
        await this.operatorLog().catch((error) => String(error)),
      );
    }
    for (const relay of this.#relays.values()) await relay.close();
    for (const name of this.#namespaces)
      await this.kubectl(['delete', 'namespace', name, '--ignore-not-found', '--wait=false']).catch(
        () => undefined,
      );
    for (const node of [...workers.map(({ node }) => node), controlPlane])
      await node.run(removeCommand(INTERFACE)).catch(() => undefined);
    api.close();
    await rm(directory, { recursive: true, force: true });
  }

  /** Rates, and counters also where there is no rate. */
  async #shapeNetworks({ linkMbit = 0, nasMbit = 0 }: ClusterOptions): Promise<void> {
    const { workers, controlPlane } = this.#parts;
    const handlers = await this.#virtHandlers();
    for (const [index, { node }] of workers.entries()) {
      const peer = workers[1 - index]?.node.name ?? '';
      const peerHandler = handlers.get(peer);
      if (peerHandler === undefined) throw new KindClusterError(`no virt-handler runs on ${peer}`);
      await node.run(removeCommand(INTERFACE)).catch(() => undefined);
      for (const command of workerCommands({ interface: INTERFACE, peerHandler, linkMbit }))
        await node.run(command);
    }
    const addresses = workers.map(({ address }) => address);
    await controlPlane.run(removeCommand(INTERFACE)).catch(() => undefined);
    for (const command of nasCommands({ interface: INTERFACE, workers: addresses, nasMbit }))
      await controlPlane.run(command);
  }

  /** Address of virt-handler's pod, by node. */
  async #virtHandlers(): Promise<Map<string, string>> {
    const { items } = await this.api.list<V1Pod>(resources.pods, 'kubevirt', {
      labelSelector: 'kubevirt.io=virt-handler',
    });
    return new Map(items.map(({ spec, status }) => [spec?.nodeName ?? '', status?.podIP ?? '']));
  }

  /** Attaches the relays to new pods of the VMs, as long as the cluster is used. */
  #followPods(): void {
    let running = false;
    this.#watch = setInterval(() => {
      if (running) return;
      running = true;
      this.#attachRelays()
        // A pod may go while it is looked at; the next look tells.
        .catch(() => undefined)
        .finally(() => {
          running = false;
        });
    }, POLL_MS);
  }

  async #attachRelays(): Promise<void> {
    for (const [key, relay] of this.#relays) {
      const [namespace = '', name = ''] = key.split('/');
      const vmi = await getVmi(this.api, namespace, name);
      if (vmi === undefined) continue;
      for (const pod of await launcherPods(this.api, vmi)) {
        const uid = pod.metadata?.uid ?? '';
        if (pod.status?.phase !== 'Running' || relay.has(uid)) continue;
        const place = await this.#processOf(pod, 'compute');
        // The tap is made a while after the container; until then this fails and is tried again.
        await relay.attach({ uid, ...place });
      }
    }
  }

  /** The guest's disk, where the storage class puts the claim's files, as 107's. Sparse, and whole or absent. */
  async #writeDisk(namespace: string, claim: string): Promise<void> {
    const write = `cd /export/${namespace}/${claim}
gunzip | dd of=new.img bs=1M iflag=fullblock conv=sparse status=none
chown 107:107 . new.img; mv new.img disk.img`;
    const pipe = `gzip -1 -c "$1" | kubectl --kubeconfig "$2" --namespace nas exec -i deployment/nas -- bash -euc "$3"`;
    const disk = join(this.#parts.state, STATE_FILES.disk);
    await promisify(execFile)(
      'bash',
      ['-euo', 'pipefail', '-c', pipe, 'bash', disk, this.#parts.kubeconfig, write],
      {
        timeout: START_TIMEOUT_MS,
      },
    );
  }

  async #scale(replicas: number): Promise<void> {
    await this.kubectl([
      ...['--namespace', OPERATOR_NAMESPACE, 'scale', `deployment/${DEPLOYMENT}`, `--replicas=${replicas}`],
    ]);
  }

  async #operatorPods(): Promise<V1Pod[]> {
    const { items } = await this.api.list<V1Pod>(resources.pods, OPERATOR_NAMESPACE, {
      labelSelector: `app.kubernetes.io/name=${DEPLOYMENT}`,
    });
    return items.filter(
      (pod) => pod.metadata?.deletionTimestamp === undefined && pod.status?.phase === 'Running',
    );
  }

  async #inPodNetwork(pod: V1Pod, argv: readonly string[]): Promise<string> {
    const { node, pid } = await this.#processOf(pod, undefined);
    return node.run(KindNode.inNetworkOf(pid, argv));
  }

  /** The process of a container, native sidecars included; without a name, of the first one. */
  async #processOf(pod: V1Pod, container: string | undefined): Promise<{ node: KindNode; pid: number }> {
    const { containerStatuses = [], initContainerStatuses = [] } = pod.status ?? {};
    const status =
      container === undefined
        ? containerStatuses[0]
        : [...containerStatuses, ...initContainerStatuses].find(({ name }) => name === container);
    const nodes = [...this.#parts.workers.map(({ node }) => node), this.#parts.controlPlane];
    const node = nodes.find(({ name }) => name === pod.spec?.nodeName);
    if (node === undefined || status?.containerID === undefined || status.state?.running === undefined)
      throw new KindClusterError(`pod ${pod.metadata?.name} runs no container ${container ?? ''}`);
    return { node, pid: await node.pidOf(status.containerID) };
  }

  async #waitUntil(what: string, timeoutMs: number, isSo: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    let last = '';
    for (;;) {
      try {
        if (await isSo()) return;
      } catch (error) {
        if (!isNotFound(error)) last = `; last error: ${(error as Error).message}`;
      }
      if (performance.now() > deadline)
        throw new KindClusterError(`waited ${timeoutMs} ms for ${what}${last}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}

function isLeader({ metadata }: V1Pod): boolean {
  return metadata?.labels?.[LEADER_LABEL] !== undefined;
}

function isReady({ status }: V1Pod): boolean {
  return status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') === true;
}
