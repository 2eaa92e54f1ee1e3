// A control plane with our operator on it, KubeVirt and kubelet played through the API, and sidecars that speak the control
// protocol over real connections: what the operator's end-to-end suites share. The operator runs in this process or as its
// own (`process`), which can then be killed.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KubeConfig, type V1ConfigMap, type V1Pod } from '@kubernetes/client-node';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, vi } from 'vitest';
import type { Hello } from '../../control/messages.ts';
import type { Reason } from '../../control/reasons.ts';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { freePort } from '../../hack/control-plane/free-ports.ts';
import type { MigrationObject } from '../../operator/controller/snapshot.ts';
import { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { apiVersionOf, pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { AUTHORITY_CONFIG_MAP, Operator } from '../../operator/operator.ts';
import { type OperatorSettings, settingsFrom } from '../../operator/settings.ts';
import { installDefinitions } from './apply.ts';
import { FakeSidecar, type FakeSidecarOptions } from './fake-sidecar.ts';
import { KUBEVIRT_USER, KubevirtActor, type Vm } from './kubevirt-actor.ts';
import { operatorAccount } from './operator-account.ts';

const OPERATOR_NAMESPACE = 'nas-aware-migration';
const HOST = '127.0.0.1';

/** A VirtualMachineInstanceMigration as it is in the cluster. */
type KubevirtMigration = Awaited<ReturnType<KubevirtActor['migrationOf']>>;

/** A namespace with a policy and one running VM named `db`. */
export interface Shop {
  namespace: string;
  vm: Vm;
}

export class OperatorWorld {
  readonly plane: ControlPlane;
  readonly api: ApiClient;
  readonly kubevirt: KubevirtActor;
  readonly operatorConfig: KubeConfig;
  readonly settings: OperatorSettings;
  operator: Operator | undefined;
  readonly #dir: string;
  readonly #environment: Record<string, string>;
  readonly #sidecars: FakeSidecar[] = [];
  #process: ChildProcess | undefined;
  #serial = 0;

  private constructor(parts: {
    plane: ControlPlane;
    api: ApiClient;
    kubevirt: KubevirtActor;
    operatorConfig: KubeConfig;
    dir: string;
    environment: Record<string, string>;
  }) {
    this.plane = parts.plane;
    this.api = parts.api;
    this.kubevirt = parts.kubevirt;
    this.operatorConfig = parts.operatorConfig;
    this.#dir = parts.dir;
    this.#environment = parts.environment;
    this.settings = {
      ...settingsFrom(parts.environment),
      lease: { durationMs: 3000, renewDeadlineMs: 2000, retryMs: 200 },
    };
  }

  /** Starts the control plane; the operator is started by the suite, with `settings` on top of what tests need. */
  static async start(
    settings: Record<string, string> = {},
    apiServerArguments: readonly string[] = [],
  ): Promise<OperatorWorld> {
    const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-operator-'));
    const plane = await ControlPlane.start({ dir, apiServerArguments });
    const config = new KubeConfig();
    config.loadFromFile(plane.kubeconfig);
    const api = new ApiClient(config, { userAgent: 'test' });
    await installDefinitions(api);
    const kubevirt = await KubevirtActor.start(plane, api);
    await kubevirt.namespace(OPERATOR_NAMESPACE);
    const account = await operatorAccount(plane, api, OPERATOR_NAMESPACE);
    await writeFile(path.join(dir, 'operator.kubeconfig'), account.kubeconfig, { mode: 0o600 });
    // Sidecars dial a new leader where they dialled the old one, so the port must stay.
    const hubPort = await freePort();
    const environment = {
      NASMIG_NAMESPACE: OPERATOR_NAMESPACE,
      NASMIG_SIDECAR_IMAGE: 'example.org/sidecar:test',
      NASMIG_LISTEN_HOST: HOST,
      NASMIG_HUB_PORT: String(hubPort),
      NASMIG_HUB_URL: `wss://${HOST}:${hubPort}`,
      NASMIG_WEBHOOK_PORT: '0',
      NASMIG_WEBHOOK_URL: `https://${HOST}:0`,
      NASMIG_METRICS_PORT: '0',
      // Tests leave migrations under way behind; they are all on one NAS.
      NASMIG_NAS_READ_PERMITS: '100',
      NASMIG_KUBEVIRT_USER: KUBEVIRT_USER,
      ...settings,
      NASMIG_LOG_LEVEL: process.env['NASMIG_TEST_LOG'] ?? 'error',
    };
    return new OperatorWorld({ plane, api, kubevirt, operatorConfig: account.config, dir, environment });
  }

  async stop(): Promise<void> {
    await this.stopSidecars();
    await this.operator?.stop();
    await this.killOperator('SIGTERM');
    this.kubevirt.close();
    this.api.close();
    await this.plane.stop();
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** In this process; returns when it leads. */
  async startOperator(): Promise<Operator> {
    const operator = await Operator.start(
      this.operatorConfig,
      this.settings,
      pino({ level: this.settings.logLevel }),
    );
    this.operator = operator;
    await vi.waitFor(() => isDefined(operator.hubPort), { timeout: 20_000, interval: 20 });
    return operator;
  }

  /** As its own process, as in its container; `more` of its environment. It leads when the lease of an earlier one has run out. */
  spawnOperator(more: Readonly<Record<string, string>> = {}): void {
    this.#process = spawn(process.execPath, [path.resolve(import.meta.dirname, '../../operator/main.ts')], {
      env: {
        ...process.env,
        ...this.#environment,
        ...more,
        NASMIG_LEASE_SECONDS: '3',
        KUBECONFIG: path.join(this.#dir, 'operator.kubeconfig'),
      },
      stdio: ['ignore', 'inherit', 'inherit'],
    });
  }

  /** Waits until the operator, in whatever process, answers the webhook and leads. One that has ended is not waited for. */
  async operatorReady(): Promise<void> {
    const child = this.#process;
    await vi.waitUntil(
      async () => {
        const ended = child?.exitCode ?? child?.signalCode ?? undefined;
        if (ended !== undefined) throw new Error(`the operator has ended with ${ended}`);
        return isListening(this.settings.hubPort);
      },
      { timeout: 60_000, interval: 50 },
    );
  }

  async killOperator(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#process;
    if (child === undefined || child.exitCode !== null) return;
    this.#process = undefined;
    const exited = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await exited;
  }

  async shop(): Promise<Shop> {
    this.#serial += 1;
    const namespace = `shop-${this.#serial}`;
    await this.kubevirt.namespace(namespace);
    await this.policy(namespace);
    return { namespace, vm: await this.kubevirt.vm(namespace, 'db', 'node-1') };
  }

  /** A policy for a namespace; the webhook decides from a cache, which gets a moment to see it. */
  async policy(namespace: string, spec: object = {}): Promise<void> {
    const selectors = { namespaceSelector: { 'kubernetes.io/metadata.name': namespace } };
    await this.api.apply(
      resources.nasMigrationPolicies,
      { metadata: { name: namespace }, spec: { selectors, ...spec } } as object,
      'test',
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
  }

  migrate({ namespace }: Shop, spec: object = {}, name = 'move-db'): Promise<object> {
    const resource = resources.nasAwareMigrations;
    const object = {
      apiVersion: apiVersionOf(resource),
      kind: resource.kind,
      metadata: { namespace, name },
      spec: { vmiName: 'db', ...spec },
    };
    return this.api.create(resource, object);
  }

  async statusOf({ namespace }: Shop, name = 'move-db'): Promise<NasAwareMigrationStatus> {
    const object = await this.api.get<MigrationObject>(resources.nasAwareMigrations, namespace, name);
    return (object.status ?? {}) as NasAwareMigrationStatus;
  }

  waitForPhase(
    shop: Shop,
    phase: string,
    name = 'move-db',
    timeoutMs = 15_000,
  ): Promise<NasAwareMigrationStatus> {
    return vi.waitFor(
      async () => {
        const status = await this.statusOf(shop, name);
        if (status.phase !== phase)
          throw new Error(`phase is ${status.phase}, not ${phase}: ${JSON.stringify(status.conditions)}`);
        return status;
      },
      { timeout: timeoutMs, interval: 20 },
    );
  }

  /** A sidecar of this pod, connected. The CA comes from where pods get it. */
  async sidecarOf(
    pod: V1Pod,
    options: Pick<FakeSidecarOptions, 'declines' | 'hello'> = {},
  ): Promise<FakeSidecar> {
    const sidecar = await this.dial({ pod, ...options });
    await vi.waitFor(() => isTrue(sidecar.client.connected), { timeout: 20_000, interval: 10 });
    return sidecar;
  }

  /** A sidecar that tries to connect. */
  async dial(options: {
    pod: V1Pod;
    declines?: Reason;
    hello?: Partial<Pick<Hello, 'link' | 'index' | 'accepts'>>;
    audience?: string;
    claims?: V1Pod;
  }): Promise<FakeSidecar> {
    const { namespace = '' } = options.pod.metadata ?? {};
    const caPem = await vi.waitFor(
      async () => {
        const map = await this.api.get<V1ConfigMap>(resources.configMaps, namespace, AUTHORITY_CONFIG_MAP);
        return map.data?.['ca.crt'] ?? '';
      },
      { timeout: 20_000, interval: 50 },
    );
    const sidecar = await FakeSidecar.start({
      api: this.api,
      hubUrl: `wss://${HOST}:${this.settings.hubPort}`,
      caPem,
      ...options,
    });
    this.#sidecars.push(sidecar);
    return sidecar;
  }

  /** The last word of a pod's deletion, which is kubelet's. */
  async removePod(pod: V1Pod): Promise<void> {
    const { namespace, name } = pod.metadata ?? {};
    const body = { apiVersion: 'v1', kind: 'DeleteOptions', gracePeriodSeconds: 0 };
    await this.api.call('DELETE', pathOf(resources.pods, namespace, name), { body });
  }

  async stopSidecars(): Promise<void> {
    await Promise.all(this.#sidecars.splice(0).map((sidecar) => sidecar.stop()));
  }

  /** A migration of `db`, with the source's sidecar, up to KubeVirt's hand-off to a pod on node-2. */
  async handedOver(
    shop: Shop,
    spec: object = {},
  ): Promise<{ source: FakeSidecar; vmim: KubevirtMigration; targetPod: V1Pod }> {
    const source = await this.sidecarOf(shop.vm.pod);
    await this.migrate(shop, spec);
    const vmim = await this.kubevirt.migrationOf(shop.vm);
    return { source, vmim, targetPod: await this.kubevirt.handOff(shop.vm, vmim, 'node-2') };
  }

  /** The same, with both sidecars, up to the middle of its stream. */
  async streaming(
    shop: Shop,
    spec: object = {},
  ): Promise<{ source: FakeSidecar; target: FakeSidecar; vmim: KubevirtMigration; targetPod: V1Pod }> {
    const { source, vmim, targetPod } = await this.handedOver(shop, spec);
    const target = await this.sidecarOf(targetPod);
    await this.stream(source, target);
    return { source, target, vmim, targetPod };
  }

  /** Streams: the source's connection comes, GO is given, the target's connection comes. */
  async stream(source: FakeSidecar, target: FakeSidecar): Promise<void> {
    await vi.waitFor(
      () => {
        isTrue(source.state.phase === 'armed');
        isTrue(target.state.phase === 'armed');
      },
      { timeout: 20_000, interval: 10 },
    );
    source.connect();
    await vi.waitFor(() => isTrue(source.framed), { timeout: 5000, interval: 5 });
    target.connect();
  }
}

/** Until `check` does not throw; bounded. */
export function eventually<T>(check: () => T | Promise<T>, timeoutMs = 15_000): Promise<T> {
  return vi.waitFor(check, { timeout: timeoutMs, interval: 20 });
}

/**
 * For a suite with one operator, in the suite's own process, for all its tests: started before the first, stopped after the last;
 * sidecars are stopped after each. `use` is given the world as soon as it is there.
 */
export function worldOfSuite(use: (world: OperatorWorld) => void): void {
  let world: OperatorWorld | undefined;
  beforeAll(async () => {
    world = await OperatorWorld.start();
    use(world);
    await world.startOperator();
  }, 180_000);
  afterEach(() => world?.stopSidecars());
  afterAll(() => world?.stop());
}

function isDefined(value: unknown): void {
  if (value === undefined) throw new Error('not there yet');
}

export function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, HOST, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

function isTrue(value: boolean): void {
  if (!value) throw new Error('not so yet');
}
