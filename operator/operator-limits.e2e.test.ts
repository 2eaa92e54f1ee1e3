// What bounds the operator's work on a real API server: permits to read the NAS, the breaker of the cluster, injection that
// stops for lack of room, too little gain, too old a protocol; and the label by which its Service finds the leader.
import type { KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { exampleHello, exampleProgress } from '../control/example-messages.ts';
import { eventually, OperatorWorld, type Shop } from '../test/control-plane/operator-world.ts';
import type { MigrationObject } from './controller/snapshot.ts';
import { apiVersionOf, resources } from './kubernetes/resources.ts';
import { hasSidecar, SIDECAR_CONTAINER } from './kubevirt/launcher-pod.ts';
import { LEADER_LABEL } from './leader/leader-label.ts';
import { Operator } from './operator.ts';

const NAMESPACE = 'nas-aware-migration';
const POD = 'operator-1';
const OTHER_POD = 'operator-2';

let world: OperatorWorld;

beforeAll(async () => {
  world = await OperatorWorld.start({ NASMIG_POD_NAME: POD, NASMIG_NAS_READ_PERMITS: '1' });
  for (const name of [POD, OTHER_POD]) await operatorPod(name);
}, 180_000);

afterEach(() => world.stopSidecars());

afterAll(() => world?.stop());

/** A pod of the operator's Deployment, with the label that an earlier leader left. */
function operatorPod(name: string): Promise<V1Pod> {
  return world.api.create<V1Pod>(resources.pods, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: NAMESPACE, name, labels: { [LEADER_LABEL]: 'true' } },
    spec: { containers: [{ name: 'operator', image: 'example.org/operator' }] },
  });
}

async function leaders(): Promise<string[]> {
  const labelSelector = `${LEADER_LABEL}=true`;
  const { items } = await world.api.list<V1Pod>(resources.pods, NAMESPACE, { labelSelector });
  return items.map(({ metadata }) => metadata?.name ?? '');
}

async function valuesOf(name: string): Promise<number[]> {
  const metric = await world.operator?.metrics.registry.getSingleMetric(name)?.get();
  return (metric?.values ?? []).map(({ value }) => value);
}

const metric = async (name: string): Promise<number | undefined> => (await valuesOf(name))[0];

/** Whether they are accelerated or not. */
const activeMigrations = async () =>
  (await valuesOf('nasmig_active_migrations')).reduce((sum, value) => sum + value, 0);

const conditionOf = async (shop: Shop, name = 'move-db') =>
  (await world.statusOf(shop, name)).conditions?.find(({ type }) => type === 'Accelerated');

const policyConditions = async ({ namespace }: Shop) => {
  const policy = await world.api.get<KubernetesObject & { status?: { conditions?: object[] } }>(
    resources.nasMigrationPolicies,
    undefined,
    namespace,
  );
  return policy.status?.conditions ?? [];
};

/** A migration between two fresh sidecars up to the point where it streams. */
async function running(shop: Shop) {
  const { source, target, vmim, targetPod } = await world.streaming(shop);
  await world.kubevirt.phase(vmim, 'Running');
  await world.waitForPhase(shop, 'Migrating');
  return {
    source,
    finish: async () => {
      source.finish();
      target.finish();
      await world.kubevirt.succeed(shop.vm, vmim, targetPod, 'node-2');
      return world.waitForPhase(shop, 'Succeeded');
    },
  };
}

describe("the leader's label", () => {
  it('is on the pod of the leader alone, and goes with its leadership', async () => {
    expect((await leaders()).sort()).toEqual([POD, OTHER_POD]);
    await world.startOperator();
    await eventually(async () => expect(await leaders()).toEqual([POD]));
    const second = await Operator.start(
      world.operatorConfig,
      { ...world.settings, podName: OTHER_POD },
      pino({ level: world.settings.logLevel }),
    );
    try {
      await world.operator?.stop();
      await eventually(async () => expect(await leaders()).toEqual([OTHER_POD]));
    } finally {
      await second.stop();
    }
    expect(await leaders()).toEqual([]);
    await world.startOperator();
  });
});

describe('permits to read the NAS', () => {
  it('let the next migration wait, also over a restart of the operator, until one comes free', async () => {
    const [first, second] = [await world.shop(), await world.shop()];
    const one = await running(first);
    await world.sidecarOf(second.vm.pod);
    await world.migrate(second);
    await world.waitForPhase(second, 'Preparing');
    expect(await conditionOf(second)).toMatchObject({
      status: 'Unknown',
      reason: 'NoNasPermit',
      message: expect.stringContaining('nas.example.org: 1 at a time'),
    });
    expect([await metric('nasmig_nas_permits_in_use'), await metric('nasmig_nas_permits_waiting')]).toEqual([
      1, 1,
    ]);

    await world.operator?.stop();
    await world.startOperator();
    await eventually(async () => {
      expect(await metric('nasmig_nas_permits_in_use')).toBe(1);
      expect(await metric('nasmig_nas_permits_waiting')).toBe(1);
    });
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { items } = await world.api.list(resources.virtualMachineInstanceMigrations, second.namespace);
    expect(items).toEqual([]);

    expect((await one.finish()).result).toMatchObject({ attempt: 'Accelerated' });
    await world.kubevirt.migrationOf(second.vm);
    await eventually(async () => expect(await metric('nasmig_nas_permits_waiting')).toBe(0));
    await world.api.delete(resources.nasAwareMigrations, second.namespace, 'move-db');
    await eventually(async () => expect(await metric('nasmig_nas_permits_in_use')).toBe(0));
  });

  it('let a migration that a drain started go plainly rather than hold it back', async () => {
    const [first, second] = [await world.shop(), await world.shop()];
    const one = await running(first);
    const source = await world.sidecarOf(second.vm.pod);
    const vmim = await world.kubevirt.evict(second.vm);
    const name = vmim.metadata?.name ?? '';
    await world.waitForPhase(second, 'Preparing', name);
    const targetPod = await world.kubevirt.handOff(second.vm, vmim, 'node-2');
    await eventually(async () =>
      expect(await conditionOf(second, name)).toMatchObject({ status: 'False', reason: 'NoNasPermit' }),
    );
    await one.finish();
    await world.kubevirt.succeed(second.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(second, 'Succeeded', name)).result).toMatchObject({
      attempt: 'Plain',
      reason: 'NoNasPermit',
    });
    expect(source.received.map(({ type }) => type)).toEqual(['welcome']);
    await eventually(async () => expect(await metric('nasmig_nas_permits_in_use')).toBe(0));
  });
});

describe('series', () => {
  it('of a migration and of its node are there while it runs', async () => {
    const shop = await world.shop();
    const one = await running(shop);
    const { state } = one.source;
    const { migrationUid, epoch } = 'order' in state ? state.order : { migrationUid: '', epoch: 0 };
    one.source.client.send({ ...exampleProgress, migrationUid, epoch, linkBytes: 4711 });
    await eventually(async () => {
      const text = (await world.operator?.metrics.registry.metrics()) ?? '';
      expect(text).toContain(
        `nasmig_migration_link_bytes{namespace="${shop.namespace}",name="move-db",vmi="db"} 4711`,
      );
      expect(text).toContain(`nasmig_index_blocks{node="node-1"} ${exampleHello.index.blocks}`);
    });
    await one.finish();
  });
});

describe('what is not worth it or not possible', () => {
  it.each([
    ['ProtocolTooOld', { link: { min: 200, max: 201 } }],
    ['GainTooSmall', { index: { ...exampleHello.index, blocks: 0 } }],
  ])('goes plainly with %s', async (reason, hello) => {
    const shop = await world.shop();
    await world.sidecarOf(shop.vm.pod, { hello });
    const before = await activeMigrations();
    await world.migrate(shop);
    await world.kubevirt.migrationOf(shop.vm);
    expect(await conditionOf(shop)).toMatchObject({ status: 'False', reason });
    expect(await activeMigrations()).toBe(before + 1);
  });

  it('is told of a target that is of another release', async () => {
    const shop = await world.shop();
    const { source, vmim, targetPod } = await world.handedOver(shop);
    await world.sidecarOf(targetPod, { hello: { link: { min: 200, max: 201 } } });
    await eventually(async () =>
      expect(await conditionOf(shop)).toMatchObject({ status: 'False', reason: 'ProtocolTooOld' }),
    );
    await eventually(() => expect(source.state.phase).toBe('raw'));
    await world.kubevirt.succeed(shop.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(shop, 'Succeeded')).result).toMatchObject({ reason: 'ProtocolTooOld' });
  });
});

describe('injection', () => {
  it('stops in a namespace whose quota refused a pod with a sidecar, and says so', async () => {
    const shop = await world.shop();
    expect(hasSidecar(shop.vm.pod)).toBe(true);
    // Room for two pods of 1 GiB and one sidecar of 256 MiB.
    await quota(shop.namespace, { 'requests.memory': '2400Mi' });
    const vmim = await world.kubevirt.evict(shop.vm);
    await expect(world.kubevirt.handOff(shop.vm, vmim, 'node-2')).rejects.toThrow('exceeded quota');
    // As KubeVirt tells it, in virt-controller's words.
    await world.kubevirt.phase(vmim, 'Pending', {
      conditions: [
        {
          type: 'migrationRejectedByResourceQuota',
          status: 'True',
          message: 'pods is forbidden: exceeded quota: small',
        },
      ],
    });
    await eventually(async () => expect(await metric('nasmig_injection_stopped_namespaces')).toBe(1));
    const targetPod = await world.kubevirt.handOff(shop.vm, vmim, 'node-2');
    expect(hasSidecar(targetPod)).toBe(false);
    // Its policy says so when it is written next; a change of it makes that now.
    await world.policy(shop.namespace, { defaults: {} });
    await eventually(async () =>
      expect(await policyConditions(shop)).toContainEqual(
        expect.objectContaining({
          type: 'Injecting',
          status: 'False',
          reason: 'StoppedInNamespaces',
          message: expect.stringContaining(shop.namespace),
        }),
      ),
    );
    const other = await world.shop();
    expect(hasSidecar(other.vm.pod)).toBe(true);
  });
});

describe('what a namespace allows its pods', () => {
  it('is kept to by the sidecar where a quota counts limits of CPU', async () => {
    const shop = await world.shop();
    await quota(shop.namespace, { 'limits.cpu': '4', 'limits.memory': '8Gi' });
    const { pod } = await world.kubevirt.vm(shop.namespace, 'web', 'node-1', {}, ['ReadWriteMany'], {
      cpu: '1',
      memory: '2Gi',
    });
    const sidecar = pod.spec?.initContainers?.find(({ name }) => name === SIDECAR_CONTAINER);
    expect(sidecar?.resources?.limits).toEqual({ cpu: '1', memory: '256Mi' });
    expect(pod.status?.qosClass).toBe('Burstable');
  });

  it.each([
    ['as KubeVirt says it of a VM that starts', true],
    // The pod comes without a sidecar after a minute of refusals.
    ['that KubeVirt says in events alone', false],
  ])(
    'and a limit range that refuses the sidecar stops injection: %s',
    { timeout: 120_000 },
    async (_what, isTold) => {
      const shop = await world.shop();
      await world.api.call('POST', `/api/v1/namespaces/${shop.namespace}/limitranges`, {
        body: {
          apiVersion: 'v1',
          kind: 'LimitRange',
          metadata: { name: 'no-small-ones' },
          spec: { limits: [{ type: 'Container', min: { memory: '512Mi' } }] },
        },
      });
      const vmim = await world.kubevirt.evict(shop.vm);
      const handOff = () => world.kubevirt.handOff(shop.vm, vmim, 'node-2');
      // The API server reads limit ranges from a cache, which gets a moment to see it.
      await new Promise((resolve) => setTimeout(resolve, 500));
      const message = await handOff().then(String, ({ message }: Error) => message);
      expect(message).toContain('minimum memory usage per Container is 512Mi');
      if (isTold) {
        const conditions = [{ type: 'Synchronized', status: 'False', reason: 'FailedCreate', message }];
        await world.api.mergePatch(resources.virtualMachineInstances, shop.namespace, 'db', {
          status: { conditions },
        });
      }
      await vi.waitFor(async () => expect(hasSidecar(await handOff())).toBe(false), {
        timeout: isTold ? 30_000 : 90_000,
        interval: 500,
      });
      await world.policy(shop.namespace, { defaults: {} });
      await eventually(async () =>
        expect(await policyConditions(shop)).toContainEqual(
          expect.objectContaining({
            reason: 'StoppedInNamespaces',
            message: expect.stringContaining(shop.namespace),
          }),
        ),
      );
    },
  );
});

describe('the breaker of the cluster', () => {
  it('opens after three failures within an hour, and says so in a condition and a metric', async () => {
    const shop = await world.shop();
    expect(await metric('nasmig_cluster_breaker_open')).toBe(0);
    await eventually(async () =>
      expect(await policyConditions(shop)).toContainEqual(
        expect.objectContaining({ type: 'Degraded', status: 'False' }),
      ),
    );
    // While no operator is there to see objects that are not finished yet.
    await world.operator?.stop();
    for (const name of ['a', 'b', 'c']) await failedRecord(shop, name);
    await world.startOperator();
    expect(await metric('nasmig_cluster_breaker_open')).toBe(1);
    await eventually(async () =>
      expect(await policyConditions(shop)).toContainEqual(
        expect.objectContaining({ type: 'Degraded', status: 'True', reason: 'ClusterBreakerOpen' }),
      ),
    );
    await world.sidecarOf(shop.vm.pod);
    await world.migrate(shop);
    await world.kubevirt.migrationOf(shop.vm);
    expect(await conditionOf(shop)).toMatchObject({ status: 'False', reason: 'ClusterBreakerOpen' });
  });
});

async function quota(namespace: string, hard: Readonly<Record<string, string>>): Promise<void> {
  const path = `/api/v1/namespaces/${namespace}/resourcequotas`;
  await world.api.call('POST', path, {
    body: {
      apiVersion: 'v1',
      kind: 'ResourceQuota',
      metadata: { name: 'small' },
      spec: { hard },
    },
  });
  // It counts once its controller has added up what is there.
  await eventually(async () => {
    const counted = await world.api.call<{ status?: { used?: Record<string, string> } }>(
      'GET',
      `${path}/small`,
    );
    expect(Object.keys(counted.status?.used ?? {})).toEqual(Object.keys(hard));
  });
}

async function failedRecord({ namespace }: Shop, name: string): Promise<void> {
  const resource = resources.nasAwareMigrations;
  const metadata = { namespace, name: `failed-${name}` };
  await world.api.create<MigrationObject>(resource, {
    apiVersion: apiVersionOf(resource),
    kind: resource.kind,
    metadata,
    spec: { vmiName: `vm-${name}` },
  });
  const completionTime = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
  const status = {
    phase: 'Failed',
    completionTime,
    result: { accelerated: false, attempt: 'FailedWhileArmed' },
  };
  await world.api.mergePatch(resource, namespace, metadata.name, { status }, 'status');
}
