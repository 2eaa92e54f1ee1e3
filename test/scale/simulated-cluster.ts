// A thousand VMs and the migrations among them, played through the API server as KubeVirt's controllers and kubelets do, with
// a sidecar for each virt-launcher pod over its own TLS connection and its own bound token. No streams: what a sidecar tells
// of one is made up, at the rate at which a real one tells it.
import type { KubernetesObject, V1ConfigMap, V1Pod } from '@kubernetes/client-node';
import { exampleProgress } from '../../control/example-messages.ts';
import type { KubevirtObject } from '../../operator/controller/caches.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { apiVersionOf, keyOf, resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import { AUTHORITY_CONFIG_MAP } from '../../operator/operator.ts';
import { FakeSidecar } from '../control-plane/fake-sidecar.ts';
import type { Vm } from '../control-plane/kubevirt-actor.ts';
import { type ScaleWorld, until } from './scale-world.ts';

export interface SimulatedSize {
  vms: number;
  migrations: number;
  namespaces: number;
  nodes: number;
  /** How long each stream lasts. */
  streamSeconds: number;
}

/** Requests of the simulation under way at a time: more make the API server slower, not the simulation faster. */
const CONCURRENCY = 8;
const STEP_TIMEOUT_MS = 120_000;

export interface MigrationOutcome {
  key: string;
  seconds: number;
  isFramed: boolean;
}

export class SimulatedCluster {
  readonly #world: ScaleWorld;
  readonly #size: SimulatedSize;
  readonly #vms = new Map<string, Vm>();
  /** By pod UID. */
  readonly #sidecars = new Map<string, FakeSidecar>();
  readonly #ca = new Map<string, string>();
  readonly #running = new Set<Promise<void>>();
  readonly #limit = new Limit(CONCURRENCY);
  /** By the key of the VM, which its NasAwareMigration shares. */
  readonly #appliedMs = new Map<string, number>();
  readonly #askedAfterMs = new Map<string, number>();
  readonly outcomes: MigrationOutcome[] = [];
  /** What went wrong in the simulation itself. */
  readonly problems: string[] = [];
  #vmims: Informer<KubevirtObject> | undefined;

  constructor(world: ScaleWorld, size: SimulatedSize) {
    this.#world = world;
    this.#size = size;
  }

  get sidecarsConnected(): number {
    return [...this.#sidecars.values()].filter(({ client }) => client.connected).length;
  }

  /** Results that no hub has recorded. */
  get unrecorded(): number {
    return [...this.#sidecars.values()].filter(({ client }) => !client.resultsRecorded).length;
  }

  /** Namespaces with a policy each, and the VMs with their pods, all running. */
  async createVms(): Promise<void> {
    const { api, kubevirt } = this.#world;
    const namespaces = Array.from({ length: this.#size.namespaces }, (_, at) => `tenant-${at + 1}`);
    await Promise.all(
      namespaces.map(async (namespace) => {
        await kubevirt.namespace(namespace);
        const selectors = { namespaceSelector: { 'kubernetes.io/metadata.name': namespace } };
        await api.apply(
          resources.nasMigrationPolicies,
          { metadata: { name: namespace }, spec: { selectors } } as KubernetesObject,
          'scale',
        );
      }),
    );
    await new Promise((resolve) => setTimeout(resolve, 500));
    await this.#each(this.#size.vms, async (at) => {
      const namespace = namespaces[at % namespaces.length] ?? '';
      const vm = await kubevirt.vm(namespace, `vm-${at}`, this.#node(at));
      this.#vms.set(`${namespace}/${vm.name}`, vm);
    });
  }

  /** A sidecar for every pod, connected. */
  async connectSidecars(): Promise<void> {
    const vms = [...this.#vms.values()].filter(({ pod }) => hasSidecar(pod));
    await this.#each(vms.length, async (at) => {
      const vm = vms[at];
      if (vm !== undefined) await this.#sidecar(vm.pod);
    });
    await until('all sidecars are connected', STEP_TIMEOUT_MS, () => this.sidecarsConnected === vms.length);
  }

  /** From here on KubeVirt's part of each migration is played as soon as it is asked for. */
  async play(): Promise<void> {
    const { api } = this.#world;
    const vmims = new Informer<KubevirtObject>(api, resources.virtualMachineInstanceMigrations, {});
    const seen = new Set<string>();
    vmims.onChange(({ current }) => {
      const uid = current?.metadata?.uid ?? '';
      if (current === undefined || seen.has(uid)) return;
      seen.add(uid);
      this.#created(current);
      const run = this.#migrate(structuredClone(current)).catch((error: unknown) => {
        this.problems.push(`${keyOf(current)}: ${error instanceof Error ? error.message : String(error)}`);
      });
      this.#running.add(run);
      void run.finally(() => this.#running.delete(run));
    });
    vmims.start();
    await vmims.synced;
    this.#vmims = vmims;
  }

  /** All migrations at once; returns their keys. */
  createMigrations(): Promise<string[]> {
    const chosen = [...this.#vms.values()].slice(0, this.#size.migrations);
    return Promise.all(chosen.map((vm) => this.#apply(vm)));
  }

  /** Migrations of so many other VMs, each when KubeVirt was asked for the one before; returns their keys. */
  async createOneByOne(count: number): Promise<string[]> {
    const { migrations } = this.#size;
    const keys: string[] = [];
    for (const vm of [...this.#vms.values()].slice(migrations, migrations + count)) {
      const key = await this.#apply(vm);
      await until(`KubeVirt is asked for ${key}`, STEP_TIMEOUT_MS, () => this.#askedAfterMs.has(key));
      keys.push(key);
    }
    return keys;
  }

  /** Of each of these migrations: from when it was applied to when KubeVirt's migration was seen. */
  askedAfterMs(keys: readonly string[]): number[] {
    return keys.flatMap((key) => this.#askedAfterMs.get(key) ?? []);
  }

  /** Everything that was asked for has been played to its end. */
  get isIdle(): boolean {
    return this.#running.size === 0;
  }

  async #apply({ namespace, name }: Vm): Promise<string> {
    const resource = resources.nasAwareMigrations;
    const key = `${namespace}/${name}`;
    this.#appliedMs.set(key, performance.now());
    await this.#world.api.create<KubernetesObject & { spec: object }>(resource, {
      apiVersion: apiVersionOf(resource),
      kind: resource.kind,
      metadata: { namespace, name },
      spec: { vmiName: name },
    });
    return key;
  }

  #created({ metadata, spec }: KubevirtObject): void {
    const key = `${metadata?.namespace ?? ''}/${String(spec?.vmiName ?? '')}`;
    const appliedMs = this.#appliedMs.get(key);
    if (appliedMs !== undefined) this.#askedAfterMs.set(key, performance.now() - appliedMs);
  }

  /** Ends what is under way. */
  async stop(): Promise<void> {
    await this.#vmims?.stop();
    await Promise.allSettled(this.#running);
    await this.disconnect();
  }

  async disconnect(): Promise<void> {
    await Promise.all([...this.#sidecars.values()].map((sidecar) => sidecar.stop()));
    this.#sidecars.clear();
  }

  /** KubeVirt's part of one migration, and that of its two sidecars. */
  async #migrate(vmim: KubevirtObject): Promise<void> {
    const startedAt = performance.now();
    const vm = this.#vms.get(`${vmim.metadata?.namespace ?? ''}/${String(vmim.spec?.vmiName ?? '')}`);
    if (vm === undefined) throw new Error('a migration of no VM of ours');
    const { kubevirt } = this.#world;
    const targetNode = this.#node(Number(vm.name.slice(3)) + 1);
    const migration = vmim as Parameters<typeof kubevirt.handOff>[1];
    const targetPod = await this.#limit.run(() => kubevirt.handOff(vm, migration, targetNode));
    const source = this.#sidecars.get(vm.pod.metadata?.uid ?? '');
    // The webhook did not answer in time, as on a machine that is too busy: such a pod starts without us, and the VM moves plainly.
    const target = hasSidecar(targetPod) ? await this.#limit.run(() => this.#sidecar(targetPod)) : undefined;
    const isFramed = source !== undefined && target !== undefined && (await this.#bring(vm, source, target));
    await this.#limit.run(() => kubevirt.phase(migration, 'Running'));
    for (let second = 0; second < this.#size.streamSeconds; second += 1) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (source !== undefined) tellProgress(source, second, this.#size.streamSeconds);
    }
    source?.finish();
    target?.finish();
    const moved = await this.#limit.run(() => kubevirt.succeed(vm, migration, targetPod, targetNode));
    this.#vms.set(`${vm.namespace}/${vm.name}`, moved);
    this.outcomes.push({ key: keyOf(vmim), seconds: (performance.now() - startedAt) / 1000, isFramed });
    // The old pod goes once its sidecar has said all it had to say, as SIGTERM lets it.
    if (source === undefined) return;
    await until('the result is recorded', STEP_TIMEOUT_MS, () => source.client.resultsRecorded);
    await source.stop();
    this.#sidecars.delete(vm.pod.metadata?.uid ?? '');
  }

  /** Both sides armed, QEMU's connections made; whether the stream is framed. */
  async #bring(vm: Vm, source: FakeSidecar, target: FakeSidecar): Promise<boolean> {
    await until('both sides decided', STEP_TIMEOUT_MS, () => hasDecided(source) && hasDecided(target)).catch(
      async (error: unknown) => {
        const { status } = await this.#world.api.get<KubernetesObject & { status?: unknown }>(
          resources.nasAwareMigrations,
          vm.namespace,
          vm.name,
        );
        const sides = [source, target].map(({ client, state }) => `${client.connected} ${state.phase}`);
        throw new Error(`${String(error)}: ${sides.join(', ')}; ${JSON.stringify(status)}`);
      },
    );
    source.connect();
    await until('the source decided', 10_000, () => source.framed || source.rawReason !== undefined);
    target.connect();
    return source.framed;
  }

  async #sidecar(pod: V1Pod): Promise<FakeSidecar> {
    const { api, hubUrl } = this.#world;
    const caPem = await this.#caOf(pod.metadata?.namespace ?? '');
    const sidecar = await FakeSidecar.start({ api, pod, hubUrl, caPem });
    this.#sidecars.set(pod.metadata?.uid ?? '', sidecar);
    return sidecar;
  }

  /** From where pods get it. */
  async #caOf(namespace: string): Promise<string> {
    await until(`the CA is in ${namespace}`, STEP_TIMEOUT_MS, async () => {
      if (this.#ca.has(namespace)) return true;
      const map = await this.#world.api
        .get<V1ConfigMap>(resources.configMaps, namespace, AUTHORITY_CONFIG_MAP)
        .catch(() => undefined);
      const pem = map?.data?.['ca.crt'];
      if (pem !== undefined) this.#ca.set(namespace, pem);
      return pem !== undefined;
    });
    return this.#ca.get(namespace) ?? '';
  }

  async #each(count: number, work: (at: number) => Promise<void>): Promise<void> {
    await Promise.all(Array.from({ length: count }, (_, at) => this.#limit.run(() => work(at))));
  }

  #node(at: number): string {
    return `node-${at % this.#size.nodes}`;
  }
}

function hasDecided({ state }: FakeSidecar): boolean {
  return state.phase === 'armed' || state.phase === 'raw';
}

function tellProgress(source: FakeSidecar, second: number, of: number): void {
  const { state } = source;
  if (!source.framed || !('order' in state)) return;
  const { migrationUid, epoch } = state.order;
  source.client.send({
    ...exampleProgress,
    migrationUid,
    epoch,
    sequence: second,
    remainingBytes: Math.round(exampleProgress.ramBytes * (1 - (second + 1) / (of + 1))),
  });
}

/** So many at a time, the others in the order in which they came. */
class Limit {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}
