// How a migration is made, and how that changes: only observed, plain by wish, plain because of a policy, a webhook that was away,
// a failed attempt or an older sidecar. Real VMs move in each. Needs root, and what the lab needs.

import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, it } from 'vitest';
import { resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar, SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { ACCELERATED } from './cluster.ts';
import type { Guest } from './driver.ts';
import {
  expectHealthy,
  MIGRATION_TIMEOUT_MS,
  PREPARE,
  pauseForCaches,
  SLOW,
  tell,
  useCluster,
  waitForStream,
} from './suite.ts';

const NAMESPACE = 'shop';
const VM = 'db';

const theCluster = useCluster({ linkMbit: 400, nasMbit: 4000 });

async function homeOf(namespace: string, vmName: string): Promise<V1Pod> {
  const cluster = theCluster();
  const name = await cluster.podOf(namespace, vmName);
  return cluster.driver.api.get<V1Pod>(resources.pods, namespace, name);
}

async function hasInjectedSidecar(namespace: string, vmName: string): Promise<boolean> {
  return hasSidecar(await homeOf(namespace, vmName));
}

async function sidecarImage(namespace: string, vmName: string): Promise<string | undefined> {
  const { spec } = await homeOf(namespace, vmName);
  return spec?.initContainers?.find(({ name }) => name === SIDECAR_CONTAINER)?.image;
}

describe('one VM, migrated in every way', () => {
  let guest: Guest;

  beforeAll(async () => {
    guest = await theCluster().acceleratedVm(NAMESPACE, VM);
  }, 300_000);

  it('Observe changes no byte, and records what would have been saved', async (context) => {
    const cluster = theCluster();
    const before = await cluster.driver.traffic();
    await cluster.applyExample('nas-aware-migration-observe.yaml');
    const status = await cluster.waitForEnd(NAMESPACE, 'observe-db', MIGRATION_TIMEOUT_MS);
    const after = await cluster.driver.traffic();
    expect(status).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: false, attempt: 'Observed', reason: 'Observing' },
    });
    const { result } = status;
    tell(context, result ?? {});
    expect(after.migrationBytes - before.migrationBytes).toBeGreaterThan(result?.qemuBytes ?? Infinity);
    await expectHealthy(guest);
  });

  it('Disabled is a plain migration that is recorded', async (context) => {
    const cluster = theCluster();
    await cluster.applyExample('nas-aware-migration-disabled.yaml');
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db-plainly', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: false, attempt: 'Plain', reason: 'AccelerationDisabled' },
    });
    tell(context, status.result ?? {});
    await expectHealthy(guest);
  });

  it('a suspended policy leaves migrations plain, until it is resumed', async (context) => {
    const cluster = theCluster();
    await cluster.applyExample('nas-migration-policy-suspended.yaml');
    await pauseForCaches();
    await cluster.migrate(NAMESPACE, 'suspended', VM);
    const suspended = await cluster.waitForEnd(NAMESPACE, 'suspended', MIGRATION_TIMEOUT_MS);
    expect(suspended).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: false, attempt: 'Plain', reason: 'Suspended' },
    });
    await cluster.applyExample('nas-migration-policy.yaml');
    await pauseForCaches();
    await cluster.migrate(NAMESPACE, 'resumed', VM, { prepareTimeout: PREPARE });
    const resumed = await cluster.waitForEnd(NAMESPACE, 'resumed', MIGRATION_TIMEOUT_MS);
    expect(resumed).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    tell(context, suspended.result?.message ?? '');
    await expectHealthy(guest);
  });

  it('a policy that is changed in mid-migration concerns the next one', async (context) => {
    const cluster = theCluster();
    await cluster.applyExample('nas-aware-migration-limits.yaml');
    await waitForStream(cluster, NAMESPACE, 'move-db-slowly');
    await cluster.applyExample('nas-migration-policy-suspended.yaml');
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db-slowly', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    await cluster.migrate(NAMESPACE, 'after-the-change', VM);
    const next = await cluster.waitForEnd(NAMESPACE, 'after-the-change', MIGRATION_TIMEOUT_MS);
    expect(next).toMatchObject({ phase: 'Succeeded', result: { attempt: 'Plain', reason: 'Suspended' } });
    tell(context, status.result ?? {});
    await cluster.applyExample('nas-migration-policy.yaml');
    await expectHealthy(guest);
  });

  it('a policy that is deleted in mid-migration does not stop it', async (context) => {
    const cluster = theCluster();
    await cluster.migrate(NAMESPACE, 'orphaned', VM, { prepareTimeout: PREPARE, limits: SLOW });
    await waitForStream(cluster, NAMESPACE, 'orphaned');
    await cluster.driver.kubectl(['delete', 'nasmigrationpolicy', 'accelerated']);
    const status = await cluster.waitForEnd(NAMESPACE, 'orphaned', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    tell(context, status.result ?? {});
    await cluster.applyExample('nas-migration-policy.yaml');
    await expectHealthy(guest);
    await cluster.removeNamespace(NAMESPACE);
  });
});

describe('a VM whose pod was made while the webhook was down', () => {
  it('moves plainly, and is accelerated from the next pod on', async (context) => {
    const cluster = theCluster();
    await cluster.driver.createNamespace('blind');
    await cluster.driver.stopOperator('SIGKILL');
    const guest = await cluster.driver.createVm({
      ...{ namespace: 'blind', name: VM, guest: 'small', labels: ACCELERATED },
    });
    await cluster.driver.startOperator();
    expect(await hasInjectedSidecar('blind', VM)).toBe(false);
    await cluster.migrate('blind', 'first', VM);
    const first = await cluster.waitForEnd('blind', 'first', MIGRATION_TIMEOUT_MS);
    expect(first).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: false, attempt: 'Plain', reason: 'NoSidecar' },
    });
    tell(context, first.result?.message ?? '');
    await expectHealthy(guest);
    expect(await hasInjectedSidecar('blind', VM)).toBe(true);
    await cluster.migrate('blind', 'second', VM, { prepareTimeout: PREPARE });
    const second = await cluster.waitForEnd('blind', 'second', MIGRATION_TIMEOUT_MS);
    expect(second).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    await expectHealthy(guest);
    await cluster.removeNamespace('blind');
  });

  it('moves plainly when the webhook goes away before the target pod is made', async (context) => {
    const cluster = theCluster();
    const guest = await cluster.acceleratedVm('away', VM);
    // The object that a drain makes: nobody of ours is there to see it.
    await cluster.driver.stopOperator('SIGKILL');
    await cluster.apply({
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstanceMigration',
      metadata: { namespace: 'away', name: 'by-a-drain' },
      spec: { vmiName: VM },
    });
    await cluster.waitUntil('the target pod', 60_000, async () => {
      const pods = await cluster.list<V1Pod>(resources.pods, 'away');
      return pods.length > 1;
    });
    await cluster.driver.startOperator();
    await cluster.waitUntil('KubeVirt to end it', MIGRATION_TIMEOUT_MS, async () => {
      const [vmim] = await cluster.vmims('away');
      return vmim?.status?.phase === 'Succeeded';
    });
    expect(await hasInjectedSidecar('away', VM)).toBe(false);
    const record = await cluster.migrationStatus('away', 'by-a-drain');
    tell(context, { record: record?.result ?? 'none, it was over first' });
    if (record !== undefined) {
      const status = await cluster.waitForEnd('away', 'by-a-drain', MIGRATION_TIMEOUT_MS);
      expect(status).toMatchObject({
        phase: 'Succeeded',
        result: { attempt: 'Plain', reason: 'NoSidecar' },
      });
    }
    await expectHealthy(guest);
    await cluster.removeNamespace('away');
  });
});

describe('a VM whose sidecar is of a release before this one', () => {
  it('is accelerated after the operator was upgraded, and has the new one from the next pod on', async (context) => {
    const cluster = theCluster();
    await cluster.driver.stopOperator();
    await cluster.driver.startOperator({ sidecar: 'previous-protocol' });
    const guest = await cluster.acceleratedVm('upgrade', VM);
    const older = await sidecarImage('upgrade', VM);
    await cluster.driver.stopOperator();
    await cluster.driver.startOperator();
    await cluster.migrate('upgrade', 'from-the-old-one', VM, { prepareTimeout: PREPARE });
    const first = await cluster.waitForEnd('upgrade', 'from-the-old-one', MIGRATION_TIMEOUT_MS);
    expect(first).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    expect(await sidecarImage('upgrade', VM)).not.toBe(older);
    await cluster.migrate('upgrade', 'from-the-new-one', VM, { prepareTimeout: PREPARE });
    const second = await cluster.waitForEnd('upgrade', 'from-the-new-one', MIGRATION_TIMEOUT_MS);
    expect(second).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    tell(context, { older, first: first.result, second: second.result });
    await expectHealthy(guest);
    await cluster.removeNamespace('upgrade');
  });
});

describe('a failed attempt', () => {
  it('leaves the VM on its source, and the next one is plain', async (context) => {
    const cluster = theCluster();
    const guest = await cluster.acceleratedVm('breaker', VM);
    const home = await cluster.nodeOf('breaker', VM);
    await cluster.migrate('breaker', 'fails', VM, { limits: SLOW });
    await waitForStream(cluster, 'breaker', 'fails');
    const pod = await cluster.podOf('breaker', VM);
    await cluster.driver.killContainer('breaker', pod, SIDECAR_CONTAINER);
    const failed = await cluster.waitForEnd('breaker', 'fails', MIGRATION_TIMEOUT_MS);
    expect(failed).toMatchObject({ phase: 'Failed', result: { attempt: 'FailedWhileArmed' } });
    expect(await cluster.nodeOf('breaker', VM)).toBe(home);
    await expectHealthy(guest);
    await cluster.migrate('breaker', 'plainly', VM);
    const next = await cluster.waitForEnd('breaker', 'plainly', MIGRATION_TIMEOUT_MS);
    expect(next).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: false, attempt: 'Plain', reason: 'BreakerOpen' },
    });
    tell(context, `${failed.result?.message}; then ${next.result?.message}`);
    await expectHealthy(guest);
    await cluster.removeNamespace('breaker');
  });
});
