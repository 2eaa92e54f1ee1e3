// Objects that an API server lets in and that cannot be accelerated, or make no sense, or are enormous: each leads to a condition
// that explains itself. With Preferred the VM moves plainly, with Required nothing moves; the operator does not crash, does not spin,
// and makes no migration that nobody asked for. KubeVirt and kubelet are played through the API.
import type { KubernetesObject } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import type { NasAwareMigrationStatus } from '../crds/nas-aware-migration.ts';
import {
  eventually,
  type OperatorWorld,
  type Shop,
  worldOfSuite,
} from '../test/control-plane/operator-world.ts';
import { contentTypes, isNotFound } from './kubernetes/api-client.ts';
import { pathOf, resources } from './kubernetes/resources.ts';

/** metav1.Condition's own limit. */
const MAX_CONDITION_MESSAGE = 32_768;
/** What is under way gets this long to come to rest … */
const SETTLE_MS = 3000;
/** … and then nothing changes for so long. */
const WATCHED_MS = 5000;
/** A watch that ended meanwhile is opened again; a loop would make hundreds. */
const MAX_IDLE_REQUESTS = 20;

let world: OperatorWorld;

worldOfSuite((started) => {
  world = started;
});

function patchVmi({ namespace }: Shop, patch: object): Promise<object> {
  return world.api.mergePatch(resources.virtualMachineInstances, namespace, 'db', patch);
}

async function vmimsOf({ namespace }: Shop): Promise<KubernetesObject[]> {
  return (await world.api.list(resources.virtualMachineInstanceMigrations, namespace)).items;
}

function conditionOf(status: NasAwareMigrationStatus, type: string) {
  const condition = status.conditions?.find((one) => one.type === type);
  expect(condition?.message.length).toBeLessThanOrEqual(MAX_CONDITION_MESSAGE);
  return condition;
}

const claim = (more: object = {}) => ({
  name: 'rootdisk',
  persistentVolumeClaim: { claimName: 'db-root', ...more },
});
const claimStatus = (accessMode: string, volumeMode: string, more: object = {}) => ({
  name: 'rootdisk',
  persistentVolumeClaimInfo: { claimName: 'db-root', accessModes: [accessMode], volumeMode },
  ...more,
});

describe('a VM that cannot be accelerated', () => {
  it.each<[what: string, reason: string, words: string, spec: object, status: object]>([
    [
      'a hot-plugged volume alone',
      'NoSharedRawVolume',
      'hot-plugged',
      { volumes: [claim({ hotpluggable: true })] },
      {},
    ],
    [
      'a volume that was hot-plugged as its status says',
      'NoSharedRawVolume',
      'hot-plugged',
      {},
      { volumeStatus: [claimStatus('ReadWriteMany', 'Filesystem', { hotplugVolume: {} })] },
    ],
    [
      'a block volume',
      'NoSharedRawVolume',
      'volume mode Block',
      {},
      { volumeStatus: [claimStatus('ReadWriteMany', 'Block')] },
    ],
    [
      'a volume of one node',
      'NoSharedRawVolume',
      'ReadWriteOnce',
      {},
      { volumeStatus: [claimStatus('ReadWriteOnce', 'Filesystem')] },
    ],
    [
      'a containerDisk as its root',
      'NoSharedRawVolume',
      'not on a PersistentVolumeClaim',
      { volumes: [{ name: 'rootdisk', containerDisk: { image: 'example.org/disk' } }] },
      { volumeStatus: [{ name: 'rootdisk' }] },
    ],
    ['no volumes', 'NoSharedRawVolume', 'no', { volumes: null }, {}],
    ['volumes that are no list', 'NoSharedRawVolume', 'no', { volumes: 'rootdisk' }, {}],
    [
      'a claim that is not there',
      'NoSharedRawVolume',
      'not bound',
      { volumes: [{ name: 'rootdisk', persistentVolumeClaim: { claimName: 'gone' } }] },
      {},
    ],
    [
      'volumes that are being migrated',
      'VolumesBeingMigrated',
      'volume',
      {},
      { migratedVolumes: [{ volumeName: 'rootdisk' }] },
    ],
    ['QEMU as root', 'RootVmi', 'root', {}, { runtimeUser: 0 }],
  ])('with %s says so, moves plainly with Preferred and not at all with Required', async (...row) => {
    const [, reason, words, spec, status] = row;
    const where = await world.shop();
    await world.sidecarOf(where.vm.pod);
    await patchVmi(where, { spec, status });
    await world.migrate(where, { acceleration: 'Required' }, 'required');
    const refused = await world.waitForPhase(where, 'Failed', 'required');
    expect(conditionOf(refused, 'Accelerated')).toMatchObject({ status: 'False', reason });
    expect(conditionOf(refused, 'Complete')?.message).toContain(words);
    expect(await vmimsOf(where)).toEqual([]);
    await world.migrate(where, {}, 'preferred');
    const vmim = await world.kubevirt.migrationOf(where.vm);
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const moved = await world.waitForPhase(where, 'Succeeded', 'preferred');
    expect(moved.result).toMatchObject({ accelerated: false, attempt: 'Plain', reason });
    expect(moved.result?.message).toContain(words);
  });

  it('whose interface is bridged to the pod network moves plainly, and says why its sidecar is not heard of', async () => {
    const where = await world.shop();
    const spec = {
      networks: [{ name: 'default', pod: {} }],
      domain: { devices: { interfaces: [{ name: 'default', bridge: {}, macAddress: '02:00:00:00:00:01' }] } },
    };
    await patchVmi(where, { spec });
    await world.migrate(where, { acceleration: 'Required' }, 'required');
    const refused = await world.waitForPhase(where, 'Failed', 'required');
    expect(conditionOf(refused, 'Accelerated')).toMatchObject({
      status: 'False',
      reason: 'PodNetworkBridged',
    });
    expect(await vmimsOf(where)).toEqual([]);
    await world.migrate(where, {}, 'preferred');
    const vmim = await world.kubevirt.migrationOf(where.vm);
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const moved = await world.waitForPhase(where, 'Succeeded', 'preferred');
    expect(moved.result).toMatchObject({ accelerated: false, attempt: 'Plain', reason: 'PodNetworkBridged' });
  });

  it('with volumes asked for that it does not have says which', async () => {
    const where = await world.shop();
    await world.migrate(where, { acceleration: 'Required', volumes: ['scratch'] });
    const refused = await world.waitForPhase(where, 'Failed');
    expect(conditionOf(refused, 'Complete')?.message).toContain('scratch: the VM has no such volume');
  });
});

describe('a migration that others made', () => {
  it.each([
    ['sends the VM to another cluster', { sendTo: { migrationID: 'm-1', connectURL: '10.0.0.1:9185' } }],
    ['receives a VM from another cluster', { receive: { migrationID: 'm-1' } }],
  ])('that %s is recorded and left alone', async (_what, spec) => {
    const where = await world.shop();
    const source = await world.sidecarOf(where.vm.pod);
    const vmim = await world.api.create<KubernetesObject & { spec: object }>(
      resources.virtualMachineInstanceMigrations,
      {
        apiVersion: 'kubevirt.io/v1',
        kind: 'VirtualMachineInstanceMigration',
        metadata: { namespace: where.namespace, name: 'decentralized' },
        spec: { vmiName: 'db', ...spec },
      },
    );
    await world.waitForPhase(where, 'Preparing', 'decentralized');
    const targetPod = await world.kubevirt.handOff(where.vm, vmim as never, 'node-2');
    await eventually(async () => {
      const status = await world.statusOf(where, 'decentralized');
      expect(conditionOf(status, 'Accelerated')).toMatchObject({
        status: 'False',
        reason: 'DecentralizedMigration',
      });
    });
    await world.kubevirt.succeed(where.vm, vmim as never, targetPod, 'node-2');
    const { result } = await world.waitForPhase(where, 'Succeeded', 'decentralized');
    expect(result).toMatchObject({ attempt: 'Plain', reason: 'DecentralizedMigration' });
    expect(source.received.map(({ type }) => type)).toEqual(['welcome']);
  });

  it('for no VM, and with a spec that is no object, is nobody’s', async () => {
    const where = await world.shop();
    for (const [name, spec] of [
      ['for-nobody', {}],
      ['of-numbers', { vmiName: 7 }],
    ] as const) {
      await world.api.create<KubernetesObject & { spec: object }>(
        resources.virtualMachineInstanceMigrations,
        {
          apiVersion: 'kubevirt.io/v1',
          kind: 'VirtualMachineInstanceMigration',
          metadata: { namespace: where.namespace, name },
          spec,
        },
      );
    }
    await expectStillServes();
    expect((await world.api.list(resources.nasAwareMigrations, where.namespace)).items).toEqual([]);
  });
});

describe('an object that asks for what cannot be', () => {
  it.each<[what: string, reason: string, words: string, vmi: object, spec: object]>([
    ['a VM that has no status', 'VirtualMachineInstanceNotRunning', 'not started', { status: null }, {}],
    [
      'a VM with a phase that is no text',
      'VirtualMachineInstanceNotRunning',
      'not started',
      { status: { phase: 7 } },
      {},
    ],
    [
      'a VM that is being started',
      'VirtualMachineInstanceNotRunning',
      'Scheduling',
      { status: { phase: 'Scheduling' } },
      {},
    ],
    [
      'a VM that KubeVirt cannot migrate',
      'NotLiveMigratable',
      'HostDeviceNotLiveMigratable: VMI uses a PCI host device',
      {
        status: {
          conditions: [
            {
              type: 'LiveMigratable',
              status: 'False',
              reason: 'HostDeviceNotLiveMigratable',
              message: 'VMI uses a PCI host device',
            },
          ],
        },
      },
      {},
    ],
    ['a VM that is not there', 'VirtualMachineInstanceNotFound', 'nobody', {}, { vmiName: 'nobody' }],
    ['a migration that is not there', 'MigrationNotFound', 'nothing', {}, { migrationName: 'nothing' }],
  ])('%s is refused in words', async (_what, reason, words, vmi, spec) => {
    const where = await world.shop();
    await patchVmi(where, vmi);
    await world.migrate(where, spec);
    const status = await world.waitForPhase(where, 'Failed');
    const complete = conditionOf(status, 'Complete');
    expect(complete).toMatchObject({ status: 'True', reason });
    expect(complete?.message).toContain(words);
    expect(await vmimsOf(where)).toEqual([]);
  });

  it('a second migration of a VM that moves already is refused, and the first goes on', async () => {
    const where = await world.shop();
    await world.sidecarOf(where.vm.pod);
    await world.migrate(where, {}, 'first');
    const vmim = await world.kubevirt.migrationOf(where.vm);
    await world.migrate(where, {}, 'second');
    const second = await world.waitForPhase(where, 'Failed', 'second');
    expect(conditionOf(second, 'Complete')).toMatchObject({ reason: 'MigrationInFlight' });
    expect(conditionOf(second, 'Complete')?.message).toContain(vmim.metadata?.name);
    expect(await vmimsOf(where)).toHaveLength(1);
  });
});

describe('objects as large as an API server lets in', () => {
  it('labels, annotations and names do not stand in the way', async () => {
    const where = await world.shop();
    const many = (count: number, length: number) =>
      Object.fromEntries(
        Array.from({ length: count }, (_, i) => [`example.org/key-${i}`, 'v'.repeat(length)]),
      );
    await patchVmi(where, { metadata: { labels: many(1000, 63), annotations: many(20, 10_000) } });
    const source = await world.sidecarOf(where.vm.pod);
    const name = 'm'.repeat(253);
    await world.migrate(where, {}, name);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    expect(vmim.metadata?.name?.length).toBeLessThanOrEqual(63);
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await world.sidecarOf(targetPod);
    await world.stream(source, target);
    source.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const { result } = await world.waitForPhase(where, 'Succeeded', name);
    expect(result).toMatchObject({ accelerated: true });
  });

  it('a reason of KubeVirt’s that is longer than a condition may be is cut, not looped over', async () => {
    const where = await world.shop();
    const message = 'x'.repeat(200_000);
    const blocked = { type: 'LiveMigratable', status: 'False', reason: 'Long', message };
    await patchVmi(where, { status: { conditions: [blocked] } });
    await world.migrate(where);
    const status = await world.waitForPhase(where, 'Failed');
    expect(conditionOf(status, 'Complete')?.message).toContain('KubeVirt says Long: xxx');
  });

  it('a failure that KubeVirt describes at length is recorded', async () => {
    const where = await world.shop();
    const { vmim, targetPod } = await world.handedOver(where);
    await world.kubevirt.fail(where.vm, vmim, targetPod, `libvirt: ${'y'.repeat(200_000)}`);
    const status = await world.waitForPhase(where, 'Failed');
    expect(conditionOf(status, 'Complete')?.message).toContain('libvirt: yyy');
  });

  it('a hundred volumes with long names lead to one short condition', async () => {
    const where = await world.shop();
    const volumes = Array.from({ length: 100 }, (_, i) => ({
      name: `${'v'.repeat(59)}-${i}`,
      containerDisk: { image: 'example.org/disk' },
    }));
    await patchVmi(where, { spec: { volumes } });
    await world.migrate(where, { acceleration: 'Required' });
    const status = await world.waitForPhase(where, 'Failed');
    expect(conditionOf(status, 'Complete')?.message.length).toBeLessThan(2000);
  });
});

describe('words of KubeVirt’s that no status of ours could hold', () => {
  it('are cut or left out, and the migration goes on', async () => {
    const where = await world.shop();
    const source = await world.sidecarOf(where.vm.pod);
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await world.sidecarOf(targetPod);
    const migrationState = { sourceNode: 'N'.repeat(300), targetNode: 'node two' };
    await patchVmi(where, { status: { migrationState } });
    await world.kubevirt.phase(vmim, `Waiting${'g'.repeat(1000)}`);
    await eventually(async () => {
      const { migration } = await world.statusOf(where);
      expect(migration?.phase).toBe(`Waiting${'g'.repeat(57)}`);
    });
    await world.stream(source, target);
    source.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded')).result).toMatchObject({ accelerated: true });
  });
});

describe('quantities that are integers', () => {
  it('in a policy and in a migration are read as any other', async () => {
    const where = await world.shop();
    await world.policy(where.namespace, {
      sidecar: { cpu: 1, memory: 268_435_456 },
      defaults: { limits: { nasReadBandwidth: 1_000_000 } },
    });
    const { source, target, vmim, targetPod } = await world.streaming(where, {
      limits: { linkBandwidth: 5_000_000 },
    });
    const arm = source.received.find(({ type }) => type === 'arm');
    expect(arm).toMatchObject({
      limits: { linkBytesPerSecond: 5_000_000, nasReadBytesPerSecond: 1_000_000 },
    });
    source.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded')).policyName).toBe(where.namespace);
  });
});

describe('a status that this release cannot read', () => {
  it('of a migration that is over does not begin it again', async () => {
    const where = await world.shop();
    await patchVmi(where, { status: { phase: 'Scheduling' } });
    await world.migrate(where);
    await world.waitForPhase(where, 'Failed');
    await patchVmi(where, { status: { phase: 'Running' } });
    // As a later release wrote it, under its own definition.
    const crd = pathOf(resources.customResourceDefinitions, undefined, 'nasawaremigrations.nasmigration.io');
    const phases = '/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/phase/enum';
    const withPhases = (value: string[]) =>
      world.api.call('PATCH', crd, {
        body: [{ op: 'replace', path: phases, value }],
        contentType: contentTypes.jsonPatch,
      });
    const known = ['Pending', 'Preparing', 'Migrating', 'Succeeded', 'Failed', 'Cancelled'];
    await withPhases([...known, 'Archived']);
    await eventually(async () => {
      await world.api.mergePatch(
        resources.nasAwareMigrations,
        where.namespace,
        'move-db',
        { status: { phase: 'Archived' } },
        'status',
      );
    });
    await eventually(async () => expect(await eventsOf(where)).toContain('Warning Unreadable'));
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    expect(await vmimsOf(where)).toEqual([]);
    expect((await world.statusOf(where)).phase).toBe('Archived');
    // Deleted all the same.
    await world.api.delete(resources.nasAwareMigrations, where.namespace, 'move-db');
    await eventually(async () => {
      const { items } = await world.api.list(resources.nasAwareMigrations, where.namespace);
      expect(items).toEqual([]);
    });
    await withPhases(known);
  });
});

describe('a migration that admission refuses', () => {
  it('ends with the refusal and one warning, and is not tried again', async () => {
    const where = await world.shop();
    await refuseMigrations(where);
    await world.sidecarOf(where.vm.pod);
    await world.migrate(where);
    const status = await world.waitForPhase(where, 'Failed');
    expect(conditionOf(status, 'Complete')).toMatchObject({ status: 'True', reason: 'MigrationRefused' });
    expect(conditionOf(status, 'Complete')?.message).toContain('no migrations here');
    expect(status.result).toMatchObject({ accelerated: false, attempt: 'Plain', reason: 'MigrationRefused' });
    await eventually(async () => expect(await eventsOf(where)).toContain('Warning MigrationRefused'));
    expect(await eventsOf(where)).not.toContain('Normal MigrationCreated');
    expect(await vmimsOf(where)).toEqual([]);
  });
});

describe('what is deleted', () => {
  it('a namespace in the middle of a migration takes everything with it', async () => {
    const where = await world.shop();
    const { targetPod } = await world.streaming(where);
    await world.api.delete(resources.namespaces, undefined, where.namespace);
    // Nobody's kubelet ends these.
    for (const pod of [where.vm.pod, targetPod]) await world.removePod(pod);
    await eventually(async () => {
      await expect(world.api.get(resources.namespaces, undefined, where.namespace)).rejects.toSatisfy(
        isNotFound,
      );
      // The controller of namespaces looks again after up to 15 s.
    }, 40_000);
    await expectStillServes();
  });

  it('KubeVirt’s migration under a NasAwareMigration ends it as Cancelled', async () => {
    const where = await world.shop();
    await world.sidecarOf(where.vm.pod);
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    await eventually(async () => expect((await world.statusOf(where)).migration?.uid).toBeDefined());
    await world.api.delete(
      resources.virtualMachineInstanceMigrations,
      where.namespace,
      vmim.metadata?.name ?? '',
    );
    const status = await world.waitForPhase(where, 'Cancelled');
    expect(conditionOf(status, 'Complete')).toMatchObject({ reason: 'MigrationDeleted' });
    expect(await vmimsOf(where)).toEqual([]);
  });

  it('a VM under its migration fails it in words', async () => {
    const where = await world.shop();
    await world.sidecarOf(where.vm.pod);
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    await world.api.delete(resources.virtualMachineInstances, where.namespace, 'db');
    await world.kubevirt.phase(vmim, 'Failed');
    const status = await world.waitForPhase(where, 'Failed');
    expect(conditionOf(status, 'Complete')).toMatchObject({ reason: 'MigrationFailed' });
  });
});

describe('after all of this', () => {
  it('the operator leaves the API server in peace', async () => {
    // The lease is renewed with or without anything to do.
    const count = async (): Promise<number> => {
      const metric = await world.operator?.metrics.registry
        .getSingleMetric('nasmig_api_requests_total')
        ?.get();
      const counted = metric?.values.filter(({ labels }) => labels['resource'] !== 'leases') ?? [];
      return counted.reduce((sum, { value }) => sum + value, 0);
    };
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const before = await count();
    expect(before).toBeGreaterThan(100);
    await new Promise((resolve) => setTimeout(resolve, WATCHED_MS));
    expect((await count()) - before).toBeLessThanOrEqual(MAX_IDLE_REQUESTS);
  });
});

/** The operator goes on: another namespace's migration is prepared. */
async function expectStillServes(): Promise<void> {
  const where = await world.shop();
  await world.sidecarOf(where.vm.pod);
  await world.migrate(where);
  await world.kubevirt.migrationOf(where.vm);
  const status = await world.waitForPhase(where, 'Preparing');
  expect(conditionOf(status, 'Complete')?.status).toBe('False');
}

/** Events of the NasAwareMigrations of a namespace. */
async function eventsOf({ namespace }: Shop): Promise<string[]> {
  const { items } = await world.api.list<
    KubernetesObject & { type?: string; reason?: string; involvedObject?: { kind?: string } }
  >(resources.events, namespace);
  return items
    .filter(({ involvedObject }) => involvedObject?.kind === resources.nasAwareMigrations.kind)
    .map(({ type, reason }) => `${type} ${reason}`);
}

/** By admission, as KubeVirt's webhook or a cluster's own policy does; returns when it is in force. */
async function refuseMigrations({ namespace }: Shop): Promise<void> {
  const path = '/apis/admissionregistration.k8s.io/v1';
  const metadata = { name: `no-migrations-in-${namespace}` };
  const apiVersion = 'admissionregistration.k8s.io/v1';
  await world.api.call('POST', `${path}/validatingadmissionpolicies`, {
    body: {
      apiVersion,
      kind: 'ValidatingAdmissionPolicy',
      metadata,
      spec: {
        failurePolicy: 'Fail',
        matchConstraints: {
          resourceRules: [
            {
              apiGroups: ['kubevirt.io'],
              apiVersions: ['*'],
              operations: ['CREATE'],
              resources: ['virtualmachineinstancemigrations'],
            },
          ],
        },
        validations: [{ expression: 'false', message: 'no migrations here', reason: 'Forbidden' }],
      },
    },
  });
  await world.api.call('POST', `${path}/validatingadmissionpolicybindings`, {
    body: {
      apiVersion,
      kind: 'ValidatingAdmissionPolicyBinding',
      metadata,
      spec: {
        policyName: metadata.name,
        validationActions: ['Deny'],
        matchResources: {
          namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': namespace } },
        },
      },
    },
  });
  await eventually(async () => {
    const probe = {
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstanceMigration',
      metadata: { namespace, name: 'probe' },
      spec: { vmiName: 'db' },
    };
    const refused = world.api.call('POST', pathOf(resources.virtualMachineInstanceMigrations, namespace), {
      body: probe,
      query: { dryRun: 'All' },
    });
    await expect(refused).rejects.toMatchObject({ status: 403 });
  }, 60_000);
}
