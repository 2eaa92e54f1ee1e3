// The cluster that a reader of the guides has before them: the chart installed by helm as docs/install.md says, its operator leading
// with the chart's own rights, two nodes, and two VMs on NFS claims in the namespace `shop`. KubeVirt and kubelet are played through
// the API as soon as a command asks for a migration; sidecars speak the real control protocol. No stream is there: the figures that
// a migration "measured" are the sidecars' examples.
import { appendFile, chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { KubernetesObject, V1ConfigMap, V1Node, V1Pod } from '@kubernetes/client-node';
import { ensureTool } from '../../hack/ship/tools.ts';
import { apiVersionOf, resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import { buildPlugin } from '../../plugin/build.ts';
import { FakeSidecar } from '../control-plane/fake-sidecar.ts';
import { KubevirtActor, type Vm } from '../control-plane/kubevirt-actor.ts';
import { ShipCluster } from './cluster.ts';
import { NAMESPACE } from './helm.ts';
import { OperatorProcess, operatorPorts } from './operator-process.ts';

const GUESTS = 'shop';
const NODES = ['node-1', 'node-2'] as const;
const OPERATOR_POD = 'nas-aware-migration-0';
const DEPLOYMENT_PATH = `/apis/apps/v1/namespaces/${NAMESPACE}/deployments/nas-aware-migration`;
const POLL_MS = 200;
/** Both sidecars are armed within this, or the migration is a plain one. */
const ARMING_MS = 2500;
/** Long enough that a command can see a migration run. */
const STREAM_MS = 1500;

type Migration = KubernetesObject & { spec?: { vmiName?: string }; status?: { phase?: string } };

export class DocsWorld {
  readonly cluster: ShipCluster;
  /** Directory of programs that commands find first. */
  readonly bin: string;
  readonly #kubevirt: KubevirtActor;
  readonly #vms = new Map<string, Vm>();
  readonly #sidecars = new Map<string, FakeSidecar>();
  readonly #moving = new Set<string>();
  readonly #problems: string[] = [];
  #operator: OperatorProcess | undefined;
  #timer: NodeJS.Timeout | undefined;
  #log = 0;
  #busy = false;
  #evacuations = 0;

  private constructor(cluster: ShipCluster, kubevirt: KubevirtActor, bin: string) {
    this.cluster = cluster;
    this.#kubevirt = kubevirt;
    this.bin = bin;
  }

  /** A cluster with KubeVirt, nodes and VMs; without our chart when `install` is false. */
  static async start(options: { install: boolean }): Promise<DocsWorld> {
    const cluster = await ShipCluster.start();
    const kubevirt = await KubevirtActor.start(cluster.plane, cluster.api);
    const world = new DocsWorld(cluster, kubevirt, path.join(cluster.dir, 'bin'));
    await world.#programs();
    world.#timer = setInterval(() => void world.#play(), POLL_MS);
    if (options.install) await world.#furnish();
    return world;
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    while (this.#busy || this.#moving.size > 0) await new Promise((resolve) => setTimeout(resolve, 50));
    await Promise.all([...this.#sidecars.values()].map((sidecar) => sidecar.stop()));
    await this.#operator?.stop();
    this.#kubevirt.close();
    await this.cluster.stop();
  }

  /** Environment of a reader's shell. */
  get environment(): Record<string, string> {
    return {
      PATH: `${this.bin}:${process.env['PATH'] ?? ''}`,
      HOME: path.join(this.bin, 'home'),
      KUBECONFIG: this.cluster.plane.kubeconfig,
    };
  }

  /** What went wrong in playing KubeVirt, for an error message. */
  get problems(): string {
    return this.#problems.join('\n');
  }

  /** Nothing of an earlier page is left: no migration is under way, nodes are open, no policy is there but those of the guides. */
  async reset(): Promise<void> {
    await this.cluster.eventually(() => {
      if (this.#moving.size > 0) throw new Error(`${[...this.#moving].join(', ')} still run`);
    });
    await this.cluster.kubectl(['-n', GUESTS, 'delete', 'nasawaremigrations', '--all', '--timeout=30s']);
    await this.cluster.kubectl(['-n', GUESTS, 'delete', 'virtualmachineinstancemigrations', '--all']);
    await this.cluster.kubectl(['delete', 'nasmigrationpolicies', '--all']);
    for (const node of NODES) await this.cluster.kubectl(['uncordon', node]);
  }

  async #furnish(): Promise<void> {
    const { cluster } = this;
    await cluster.helm.install({
      image: { repository: 'registry.example/nas-aware-migration', tag: '0.1.0' },
    });
    for (const name of NODES)
      await cluster.api.create<V1Node>(resources.nodes, {
        apiVersion: 'v1',
        kind: 'Node',
        metadata: { name, labels: { 'kubernetes.io/hostname': name, 'topology.kubernetes.io/zone': 'a' } },
      });
    await this.#operatorPod();
    this.#operator = await OperatorProcess.start(cluster, OPERATOR_POD, await operatorPorts());
    await cluster.eventually(async () => {
      const { status } = (await this.#operator?.probe('/readyz')) ?? { status: 0 };
      if (status !== 200) throw new Error(`the operator is not ready:\n${this.#operator?.log}`);
    });
    await this.#kubevirtObjects();
    await this.#kubevirt.namespace(GUESTS);
    for (const name of ['db', 'web'])
      this.#vms.set(name, await this.#kubevirt.vm(GUESTS, name, NODES[0], { app: name }));
  }

  async #kubevirtObjects(): Promise<void> {
    await this.cluster.api.create<KubernetesObject & { spec: object }>(resources.kubeVirts, {
      apiVersion: apiVersionOf(resources.kubeVirts),
      kind: 'KubeVirt',
      metadata: { namespace: 'kubevirt', name: 'kubevirt' },
      spec: { configuration: {} },
    });
  }

  /** A pod as the Deployment's ReplicaSet would make it; the process stands for it. */
  async #operatorPod(): Promise<void> {
    const { template } = (
      await this.cluster.api.call<{
        spec: { template: { metadata: { labels: Record<string, string> }; spec: object } };
      }>('GET', DEPLOYMENT_PATH)
    ).spec;
    await this.cluster.kubectl(
      ['create', '-f', '-'],
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: OPERATOR_POD, namespace: NAMESPACE, labels: template.metadata.labels },
        spec: template.spec,
      }),
    );
  }

  /**
   * helm, kubectl and its plugin as they are; but what only a kubelet or KubeVirt's own webhooks can answer is played: `logs` looks up what it
   * names and prints the operator's log, `drain` cordons and waits until the VMs have left.
   */
  async #programs(): Promise<void> {
    await mkdir(path.join(this.bin, 'home'), { recursive: true });
    await buildPlugin(this.bin);
    await symlink(await ensureTool('helm'), path.join(this.bin, 'helm'));
    const kubectl = path.join(this.bin, 'kubectl');
    await writeFile(this.#logFile, '');
    await writeFile(kubectl, kubectlWithoutKubelets(this.cluster.plane.kubectl, this.#logFile));
    await chmod(kubectl, 0o755);
  }

  get #logFile(): string {
    return path.join(this.cluster.dir, 'operator.log');
  }

  async #play(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      await this.#playDeploymentController();
      const log = this.#operator?.log.slice(this.#log) ?? '';
      this.#log += log.length;
      if (log !== '') await appendFile(this.#logFile, `${log}\n`);
      for (const vm of this.#vms.values()) if (!this.#moving.has(vm.name)) await this.#sidecarOf(vm.pod);
      await this.#evacuate();
      await this.#startMigrations();
    } catch (error) {
      this.#problems.push((error as Error).message);
    } finally {
      this.#busy = false;
    }
  }

  /** What `kubectl rollout status` waits for. */
  async #playDeploymentController(): Promise<void> {
    try {
      const { metadata, spec, status } = await this.cluster.api.call<{
        metadata: { generation: number };
        spec: { replicas: number };
        status: { observedGeneration?: number; replicas?: number };
      }>('GET', DEPLOYMENT_PATH);
      const { replicas } = spec;
      if (status.observedGeneration === metadata.generation && (status.replicas ?? 0) === replicas) return;
      const body = {
        status: {
          observedGeneration: metadata.generation,
          replicas,
          updatedReplicas: replicas,
          readyReplicas: replicas,
          availableReplicas: replicas,
        },
      };
      await this.cluster.api.call('PATCH', `${DEPLOYMENT_PATH}/status`, {
        body,
        contentType: 'application/merge-patch+json',
      });
    } catch {
      // Not installed yet, or not any longer.
    }
  }

  /** As KubeVirt's eviction webhook and evacuation controller: a VM on a node that is cordoned gets a migration. */
  async #evacuate(): Promise<void> {
    if (this.#vms.size === 0) return;
    const { items } = await this.cluster.api.list<V1Node>(resources.nodes);
    const cordoned = new Set(
      items.filter(({ spec }) => spec?.unschedulable === true).map(({ metadata }) => metadata?.name),
    );
    if (cordoned.size === 0) return;
    const under = new Set((await this.#unfinished()).map(({ spec }) => spec?.vmiName));
    for (const vm of this.#vms.values()) {
      if (!cordoned.has(vm.node) || under.has(vm.name) || this.#moving.has(vm.name)) continue;
      this.#evacuations += 1;
      await this.#kubevirt.evict(vm, `kubevirt-evacuation-${vm.name}-${this.#evacuations}`);
    }
  }

  async #unfinished(): Promise<Migration[]> {
    const { items } = await this.cluster.api.list<Migration>(
      resources.virtualMachineInstanceMigrations,
      GUESTS,
    );
    return items.filter(({ status }) => status?.phase !== 'Succeeded' && status?.phase !== 'Failed');
  }

  async #startMigrations(): Promise<void> {
    if (this.#vms.size === 0) return;
    for (const migration of await this.#unfinished()) {
      const name = migration.spec?.vmiName ?? '';
      const vm = this.#vms.get(name);
      if (vm === undefined || this.#moving.has(name)) continue;
      this.#moving.add(name);
      void this.#move(vm, migration)
        .catch((error: Error) => this.#problems.push(`migration of ${name}: ${error.message}`))
        .finally(() => this.#moving.delete(name));
    }
  }

  async #move(vm: Vm, migration: Migration): Promise<void> {
    const to = NODES.find((node) => node !== vm.node) ?? NODES[0];
    const source = await this.#sidecarOf(vm.pod);
    const targetPod = await this.#kubevirt.handOff(vm, migration, to);
    const target = await this.#sidecarOf(targetPod);
    const armed =
      source !== undefined &&
      target !== undefined &&
      (await until(ARMING_MS, () => source.state.phase === 'armed' && target.state.phase === 'armed'));
    if (armed) {
      source.connect();
      await until(ARMING_MS, () => source.framed);
      target.connect();
    }
    await this.#kubevirt.phase(migration, 'Running');
    await new Promise((resolve) => setTimeout(resolve, STREAM_MS));
    const isThere = (await this.#unfinished()).some(
      ({ metadata }) => metadata?.uid === migration.metadata?.uid,
    );
    if (!isThere) return;
    source?.finish();
    target?.finish();
    this.#vms.set(vm.name, await this.#kubevirt.succeed(vm, migration, targetPod, to));
    await source?.stop();
    this.#sidecars.delete(vm.pod.metadata?.uid ?? '');
  }

  /** Undefined when the pod was not injected. */
  async #sidecarOf(pod: V1Pod): Promise<FakeSidecar | undefined> {
    const uid = pod.metadata?.uid ?? '';
    const there = this.#sidecars.get(uid);
    if (there !== undefined || !hasSidecar(pod)) return there;
    const map = await this.cluster.eventually(() =>
      this.cluster.api.get<V1ConfigMap>(resources.configMaps, GUESTS, 'nas-aware-migration-ca'),
    );
    const sidecar = await FakeSidecar.start({
      api: this.cluster.api,
      pod,
      hubUrl: `wss://127.0.0.1:${this.#operator?.ports.hub}`,
      caPem: map.data?.['ca.crt'] ?? '',
    });
    this.#sidecars.set(uid, sidecar);
    await until(ARMING_MS, () => sidecar.client.connected);
    return sidecar;
  }
}

async function until(timeoutMs: number, isSo: () => boolean): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (!isSo()) {
    if (performance.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}

function kubectlWithoutKubelets(real: string, logFile: string): string {
  return `#!/bin/bash
# kubectl of a test: see docs-world.ts.
set -euo pipefail
real=${real}
verb=; for word in "$@"; do case $word in logs|drain) verb=$word; break ;; esac; done
[ -n "$verb" ] || exec "$real" "$@"
namespace=() selector=() target='' container='' node=''
while [ $# -gt 0 ]; do
  case $1 in
    -n|--namespace) namespace=(-n "$2"); shift ;;
    -l|--selector) selector=(-l "$2"); shift ;;
    -c|--container) container=$2; shift ;;
    logs|drain) ;;
    -*) ;;
    *) target=$1; node=$1 ;;
  esac
  shift
done
if [ $verb = drain ]; then
  "$real" cordon "$node"
  for _ in $(seq 150); do
    left=$("$real" get virtualmachineinstances -A -o jsonpath='{range .items[?(@.status.nodeName=="'"$node"'")]}{.metadata.name} {end}')
    [ -n "$left" ] || exit 0
    sleep 0.2
  done
  echo "still on $node: $left" >&2
  exit 1
fi
case $target in '') ;; */*) ;; *) target=pod/$target ;; esac
found=$("$real" get "\${namespace[@]}" "\${selector[@]}" \${selector:+pods} $target -o name)
[ -n "$found" ] || { echo "no pods" >&2; exit 1; }
if [ -n "$container" ]; then
  "$real" get "\${namespace[@]}" "\${selector[@]}" \${selector:+pods} $target -o yaml | grep -q "name: $container$" ||
    { echo "no container $container" >&2; exit 1; }
fi
cat ${logFile}
`;
}
