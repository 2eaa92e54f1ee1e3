// The operator on a real API server, with sidecars that speak the control protocol over real connections; KubeVirt and kubelet
// are played through the API, QEMU and its streams are not there.
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KubeConfig, type V1ConfigMap, type V1Pod } from '@kubernetes/client-node';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { NasAwareMigrationStatus } from '../crds/nas-aware-migration.ts';
import { ControlPlane } from '../hack/control-plane/control-plane.ts';
import { installDefinitions } from '../test/control-plane/apply.ts';
import { FakeSidecar } from '../test/control-plane/fake-sidecar.ts';
import { KUBEVIRT_USER, KubevirtActor, type Vm } from '../test/control-plane/kubevirt-actor.ts';
import { operatorAccount } from '../test/control-plane/operator-account.ts';
import type { MigrationObject } from './controller/snapshot.ts';
import { ApiClient, isNotFound } from './kubernetes/api-client.ts';
import { apiVersionOf, resources } from './kubernetes/resources.ts';
import { hasSidecar } from './kubevirt/launcher-pod.ts';
import { Operator } from './operator.ts';
import { type OperatorSettings, settingsFrom } from './settings.ts';

let plane: ControlPlane;
let api: ApiClient;
let kubevirt: KubevirtActor;
let operator: Operator | undefined;
let dir: string;
let operatorConfig: KubeConfig;
let serial = 0;
const sidecars: FakeSidecar[] = [];

const settings: OperatorSettings = {
  ...settingsFrom({
    NASMIG_NAMESPACE: 'nas-aware-migration',
    NASMIG_SIDECAR_IMAGE: 'example.org/sidecar:test',
    NASMIG_LISTEN_HOST: '127.0.0.1',
    NASMIG_HUB_PORT: '0',
    NASMIG_HUB_URL: 'wss://127.0.0.1:0',
    NASMIG_WEBHOOK_PORT: '0',
    NASMIG_WEBHOOK_URL: 'https://127.0.0.1:0',
    NASMIG_METRICS_PORT: '0',
    NASMIG_KUBEVIRT_USER: KUBEVIRT_USER,
    NASMIG_LOG_LEVEL: 'warn',
  }),
  lease: { durationMs: 3000, renewDeadlineMs: 2000, retryMs: 200 },
};

beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'nasmig-operator-'));
  plane = await ControlPlane.start({ dir });
  const config = new KubeConfig();
  config.loadFromFile(plane.kubeconfig);
  api = new ApiClient(config, { userAgent: 'test' });
  await installDefinitions(api);
  kubevirt = await KubevirtActor.start(plane, api);
  await kubevirt.namespace(settings.namespace);
  ({ config: operatorConfig } = await operatorAccount(plane, api, settings.namespace));
  settings.hubPort = await freePort();
  await startOperator();
}, 180_000);

afterEach(async () => {
  await Promise.all(sidecars.splice(0).map((sidecar) => sidecar.stop()));
});

afterAll(async () => {
  await operator?.stop();
  kubevirt?.close();
  api?.close();
  await plane?.stop();
  await rm(dir, { recursive: true, force: true });
});

/** Sidecars dial a new leader where they dialled the old one, so the port must stay. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function startOperator(): Promise<void> {
  operator = await Operator.start(operatorConfig, settings, pino({ level: settings.logLevel }));
  await vi.waitFor(() => expect(operator?.hubPort).toBeDefined(), { timeout: 20_000, interval: 20 });
}

async function sidecarOf(pod: V1Pod, declines?: 'SocketNotTaken'): Promise<FakeSidecar> {
  const sidecar = await FakeSidecar.start({
    api,
    pod,
    hubUrl: `wss://127.0.0.1:${operator?.hubPort}`,
    caPem: operator?.authorityPem ?? '',
    ...(declines === undefined ? {} : { declines }),
  });
  sidecars.push(sidecar);
  await vi.waitFor(() => expect(sidecar.client.connected).toBe(true), { timeout: 10_000, interval: 10 });
  return sidecar;
}

async function policy(namespace: string, spec: object = {}): Promise<void> {
  const applied = {
    metadata: { name: namespace },
    spec: { selectors: { namespaceSelector: { 'kubernetes.io/metadata.name': namespace } }, ...spec },
  };
  await api.apply(resources.nasMigrationPolicies, applied, 'test');
  // The webhook decides from a cache: let it see the policy.
  await new Promise((resolve) => setTimeout(resolve, 300));
}

interface World {
  namespace: string;
  vm: Vm;
}

async function world(): Promise<World> {
  serial += 1;
  const namespace = `shop-${serial}`;
  await kubevirt.namespace(namespace);
  await policy(namespace);
  return { namespace, vm: await kubevirt.vm(namespace, 'db', 'node-1') };
}

function migrate({ namespace }: World, spec: object = {}, name = 'move-db') {
  const resource = resources.nasAwareMigrations;
  const object = {
    apiVersion: apiVersionOf(resource),
    kind: resource.kind,
    metadata: { namespace, name },
    spec: { vmiName: 'db', ...spec },
  };
  return api.create(resource, object);
}

async function statusOf({ namespace }: World, name = 'move-db'): Promise<NasAwareMigrationStatus> {
  const object = await api.get<MigrationObject & { status?: NasAwareMigrationStatus }>(
    resources.nasAwareMigrations,
    namespace,
    name,
  );
  return object.status ?? {};
}

function waitForPhase(where: World, phase: string, name = 'move-db'): Promise<NasAwareMigrationStatus> {
  return vi.waitFor(
    async () => {
      const status = await statusOf(where, name);
      expect(status.phase).toBe(phase);
      return status;
    },
    { timeout: 15_000, interval: 20 },
  );
}

const eventually = (check: () => void | Promise<void>) =>
  vi.waitFor(check, { timeout: 10_000, interval: 10 });

/** Streams: the source's connection comes, GO is given, the target's connection comes. */
async function stream(source: FakeSidecar, target: FakeSidecar): Promise<void> {
  await eventually(() => {
    expect(source.state.phase).toBe('armed');
    expect(target.state.phase).toBe('armed');
  });
  source.connect();
  await eventually(() => expect(source.framed).toBe(true));
  target.connect();
}

describe('operator on a real API server', () => {
  it('injects a sidecar into pods that KubeVirt creates, and publishes its CA', async () => {
    const where = await world();
    expect(hasSidecar(where.vm.pod)).toBe(true);
    await eventually(async () => {
      const map = await api.get<V1ConfigMap>(resources.configMaps, where.namespace, 'nas-aware-migration-ca');
      expect(map.data?.['ca.crt']).toBe(operator?.authorityPem);
    });
  });

  it('takes a migration from YAML to Succeeded, accelerated, with numbers', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    const startedAt = performance.now();
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    expect(performance.now() - startedAt).toBeLessThan(1000);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await sidecarOf(targetPod);
    await stream(source, target);
    await kubevirt.phase(vmim, 'Running');
    const running = await waitForPhase(where, 'Migrating');
    expect(running.conditions).toContainEqual(
      expect.objectContaining({ type: 'Accelerated', status: 'True' }),
    );
    source.finish();
    target.finish();
    await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const status = await waitForPhase(where, 'Succeeded');
    expect(status).toMatchObject({
      source: { node: 'node-1', pod: where.vm.pod.metadata?.name },
      target: { node: 'node-2', pod: targetPod.metadata?.name },
      result: { accelerated: true, attempt: 'Accelerated', savedPercent: 95 },
    });
    await eventually(() => {
      expect(source.received.map(({ type }) => type)).toEqual(['welcome', 'arm', 'go', 'recorded']);
      expect(target.received.map(({ type }) => type)).toEqual(['welcome', 'arm', 'recorded']);
    });
  });

  it.each([
    ['PostCopyAllowed', { allowPostCopy: true }],
    ['CompressionOn', { experimental: { compression: 'zstd' } }],
  ])('migrates plainly, and says why, with %s', async (reason, configuration) => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2', configuration);
    await eventually(async () => {
      const { conditions } = await statusOf(where);
      expect(conditions).toContainEqual(
        expect.objectContaining({ type: 'Accelerated', status: 'False', reason }),
      );
    });
    await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const status = await waitForPhase(where, 'Succeeded');
    expect(status.result).toMatchObject({ accelerated: false, attempt: 'Plain', reason });
    expect(source.received.map(({ type }) => type)).toEqual(['welcome']);
  });

  it('gives the source its socket back when the target cannot', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    await sidecarOf(targetPod, 'SocketNotTaken');
    await eventually(() => expect(source.state).toMatchObject({ phase: 'raw', reason: 'PeerRaw' }));
    await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await waitForPhase(where, 'Succeeded')).result).toMatchObject({
      attempt: 'Plain',
      reason: 'SocketNotTaken',
    });
  });

  it('refuses with Required what cannot be accelerated, before anything moved', async () => {
    const where = await world();
    await migrate(where, { acceleration: 'Required', prepareTimeout: '1s' });
    const status = await waitForPhase(where, 'Failed');
    expect(status.result).toMatchObject({ accelerated: false, reason: 'HubUnreachable' });
    const { items } = await api.list(resources.virtualMachineInstanceMigrations, where.namespace);
    expect(items).toEqual([]);
  });

  it('refuses a VM that is not there', async () => {
    const where = await world();
    await migrate(where, { vmiName: 'nobody' });
    const { conditions } = await waitForPhase(where, 'Failed');
    expect(conditions).toContainEqual(
      expect.objectContaining({ type: 'Complete', reason: 'VirtualMachineInstanceNotFound' }),
    );
  });

  it('adopts and accelerates a migration that a drain started', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    const vmim = await kubevirt.evict(where.vm);
    const name = vmim.metadata?.name ?? '';
    await waitForPhase(where, 'Preparing', name);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await sidecarOf(targetPod);
    await stream(source, target);
    source.finish();
    target.finish();
    await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await waitForPhase(where, 'Succeeded', name)).result).toMatchObject({ accelerated: true });
  });

  it('cancels the migration when its object is deleted', async () => {
    const where = await world();
    await sidecarOf(where.vm.pod);
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    await waitForPhase(where, 'Preparing');
    await api.delete(resources.nasAwareMigrations, where.namespace, 'move-db');
    await eventually(async () => {
      await expect(
        api.get(resources.virtualMachineInstanceMigrations, where.namespace, vmim.metadata?.name ?? ''),
      ).rejects.toSatisfy(isNotFound);
      await expect(statusOf(where)).rejects.toSatisfy(isNotFound);
    });
  });

  it('opens the breaker after a failed armed attempt, so that the next one is plain', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await sidecarOf(targetPod);
    await stream(source, target);
    source.finish({ outcome: 'failed', reason: 'InternalError' });
    target.finish({ outcome: 'failed', reason: 'InternalError' });
    await kubevirt.fail(where.vm, vmim, targetPod, 'connection lost');
    expect((await waitForPhase(where, 'Failed')).result).toMatchObject({ attempt: 'FailedWhileArmed' });
    await migrate(where, {}, 'again');
    await waitForPhase(where, 'Preparing', 'again');
    const { conditions } = await statusOf(where, 'again');
    expect(conditions).toContainEqual(
      expect.objectContaining({ type: 'Accelerated', status: 'False', reason: 'BreakerOpen' }),
    );
  });

  it('arms anew with a higher epoch when the operator is restarted before GO', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    await eventually(() => expect(source.state.phase).toBe('armed'));
    const before = source.client.highestEpoch;
    await operator?.stop();
    await source.stop();
    await startOperator();
    const again = await sidecarOf(where.vm.pod);
    const target = await sidecarOf(targetPod);
    await stream(again, target);
    expect(again.client.highestEpoch).toBeGreaterThan(before);
    again.finish();
    target.finish();
    await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await waitForPhase(where, 'Succeeded')).result).toMatchObject({ accelerated: true });
  });

  it('goes on through a restart of the API server in mid-migration', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await sidecarOf(targetPod);
    await stream(source, target);
    await plane.restartApiServer('SIGKILL');
    source.finish();
    target.finish();
    await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await waitForPhase(where, 'Succeeded')).result).toMatchObject({ accelerated: true });
  });

  it('lets a second replica take over, and never has two leaders', async () => {
    const second = await Operator.start(operatorConfig, settings, pino({ level: settings.logLevel }));
    try {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      expect([operator, second].filter((one) => one?.hubPort !== undefined)).toHaveLength(1);
      const where = await world();
      await operator?.stop();
      operator = second;
      await vi.waitFor(() => expect(second.hubPort).toBeDefined(), { timeout: 10_000, interval: 20 });
      const source = await sidecarOf(where.vm.pod);
      await migrate(where);
      const vmim = await kubevirt.migrationOf(where.vm);
      const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
      const target = await sidecarOf(targetPod);
      await stream(source, target);
      source.finish();
      target.finish();
      await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
      expect((await waitForPhase(where, 'Succeeded')).result).toMatchObject({ accelerated: true });
    } catch (error) {
      if (operator !== second) await second.stop();
      throw error;
    }
  });

  it('asks the API server for at most 30 things in a migration', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    const count = async () => {
      const metric = await operator?.metrics.registry.getSingleMetric('nasmig_api_requests_total')?.get();
      return metric?.values.reduce((sum, { value }) => sum + value, 0) ?? 0;
    };
    await new Promise((resolve) => setTimeout(resolve, 500));
    const before = await count();
    const startedAt = performance.now();
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await sidecarOf(targetPod);
    await stream(source, target);
    await kubevirt.phase(vmim, 'Running');
    source.finish();
    target.finish();
    await kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    await waitForPhase(where, 'Succeeded');
    // Renewing the lease, two requests every 200 ms with this test's settings, is not the migration's.
    const renewals = ((performance.now() - startedAt) / 200) * 2;
    expect((await count()) - before - renewals).toBeLessThanOrEqual(30);
  });

  it('refuses a token for another audience, one that is bound to no launcher pod, and a name that is not the token’s', async () => {
    const where = await world();
    const other = await world();
    const base = { api, hubUrl: `wss://127.0.0.1:${operator?.hubPort}`, caPem: operator?.authorityPem ?? '' };
    const refused = async (options: Parameters<typeof FakeSidecar.start>[0]) => {
      const sidecar = await FakeSidecar.start(options);
      sidecars.push(sidecar);
      await eventually(() => expect(sidecar.problems.length).toBeGreaterThan(0));
      expect(sidecar.client.connected).toBe(false);
      return sidecar.problems[0];
    };
    expect(
      await refused({ ...base, pod: where.vm.pod, audience: 'https://kubernetes.default.svc.cluster.local' }),
    ).toContain('401');
    expect(await refused({ ...base, pod: where.vm.pod, claims: other.vm.pod })).toContain('another pod');
  });

  it('gives no key to a pod that is not of the VM, whatever its token says', async () => {
    const where = await world();
    const source = await sidecarOf(where.vm.pod);
    await migrate(where);
    const vmim = await kubevirt.migrationOf(where.vm);
    const targetPod = await kubevirt.handOff(where.vm, vmim, 'node-2');
    // KubeVirt takes the pod out of activePods: from here on it is nobody's.
    await api.mergePatch(resources.virtualMachineInstances, where.namespace, 'db', {
      status: { activePods: { [targetPod.metadata?.uid ?? '']: null } },
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const stranger = await sidecarOf(targetPod);
    await eventually(() => expect(source.state.phase).toBe('armed'));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(stranger.received.map(({ type }) => type)).toEqual(['welcome']);
  });
});
