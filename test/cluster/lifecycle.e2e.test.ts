// Whole lives of real VMs: ten migrations to and fro with the index that goes along, cancelled at every point, and moved off a node
// that is drained. Needs root, and what the lab needs.

import type { KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, it } from 'vitest';
import { resources } from '../../operator/kubernetes/resources.ts';
import { ACCELERATED } from './cluster.ts';
import type { Guest } from './driver.ts';
import { getVmi, isFinal } from './kubevirt-objects.ts';
import { armingTimes } from './operator-figures.ts';
import {
  expectHealthy,
  MIGRATION_TIMEOUT_MS,
  PREPARE,
  SLOW,
  tell,
  useCluster,
  waitForStream,
} from './suite.ts';

const VM = 'db';
const ROUNDS = 10;

const theCluster = useCluster({ linkMbit: 400 });

describe('ten migrations of one VM, to and fro', () => {
  it('are all accelerated, and nothing of nine is left', async (context) => {
    const cluster = theCluster();
    const guest = await cluster.acceleratedVm('fro', VM);
    const savedPercent: number[] = [];
    const createdAfterMs: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const from = await cluster.nodeOf('fro', VM);
      const name = `move-${round}`;
      const appliedMs = performance.now();
      await cluster.migrate('fro', name, VM, { prepareTimeout: PREPARE });
      await cluster.waitUntil('KubeVirt’s migration', MIGRATION_TIMEOUT_MS, async () => {
        const vmims = await cluster.vmims('fro');
        return vmims.some((vmim) => vmim.metadata.name.startsWith(name));
      });
      createdAfterMs.push(Math.round(performance.now() - appliedMs));
      const status = await cluster.waitForEnd('fro', name, MIGRATION_TIMEOUT_MS);
      expect(status).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
      expect(status.source?.node).toBe(from);
      expect(await cluster.nodeOf('fro', VM)).not.toBe(from);
      savedPercent.push(status.result?.savedPercent ?? 0);
      await expectHealthy(guest);
    }
    const arming = armingTimes(await cluster.driver.operatorMetrics());
    // Not asserted, because the machine may be busy: what a reader wants to know.
    tell(context, { savedPercent, createdAfterMs, arming });
    const pods = await cluster.list<V1Pod>(resources.pods, 'fro');
    expect(pods.filter(({ status }) => status?.phase === 'Running')).toHaveLength(1);
    await cluster.removeNamespace('fro');
  });
});

describe('a NasAwareMigration that is deleted', () => {
  let guest: Guest;
  let home: string | undefined;

  beforeAll(async () => {
    guest = await theCluster().acceleratedVm('cancel', VM);
    home = await theCluster().nodeOf('cancel', VM);
  });

  /** The VM is where it was, goes on, and no migration of it is under way. */
  async function expectStayed(): Promise<void> {
    const cluster = theCluster();
    expect(await cluster.migrationStatus('cancel', 'cancelled')).toBeUndefined();
    await cluster.waitUntil('KubeVirt’s migrations to end', MIGRATION_TIMEOUT_MS, async () =>
      (await cluster.vmims('cancel')).every(isFinal),
    );
    expect(await cluster.nodeOf('cancel', VM)).toBe(home);
    await expectHealthy(guest);
    await cluster.waitUntil('the target pod to end', MIGRATION_TIMEOUT_MS, async () => {
      const pods = await cluster.list<V1Pod>(resources.pods, 'cancel');
      return pods.filter(({ status }) => status?.phase === 'Running').length === 1;
    });
  }

  it('before the operator saw it, moves nothing', async () => {
    const cluster = theCluster();
    await cluster.driver.stopOperator('SIGKILL');
    await cluster.migrate('cancel', 'cancelled', VM);
    await cluster.cancel('cancel', 'cancelled', MIGRATION_TIMEOUT_MS);
    await cluster.driver.startOperator();
    await expectStayed();
    expect(await cluster.vmims('cancel')).toEqual([]);
  });

  it('while it waits for the index, moves nothing', async () => {
    const cluster = theCluster();
    await cluster.driver.stopOperator();
    await cluster.driver.startOperator({ sidecar: 'unhurried' });
    const other = await cluster.driver.createVm({
      ...{ namespace: 'cancel', name: 'unready', guest: 'small', labels: ACCELERATED },
    });
    await cluster.migrate('cancel', 'cancelled', 'unready', { prepareTimeout: '10m' });
    const status = await cluster.waitForPhase('cancel', 'cancelled', 'Preparing', MIGRATION_TIMEOUT_MS);
    expect(status.migration).toBeUndefined();
    await cluster.cancel('cancel', 'cancelled', MIGRATION_TIMEOUT_MS);
    expect(await cluster.vmims('cancel')).toEqual([]);
    await expectHealthy(other);
    await cluster.driver.kubectl(['delete', 'vmi', 'unready', '--namespace', 'cancel']);
    await cluster.driver.stopOperator();
    await cluster.driver.startOperator();
    await expectStayed();
  });

  it('while KubeVirt prepares it, leaves the VM', async () => {
    const cluster = theCluster();
    await cluster.migrate('cancel', 'cancelled', VM);
    await cluster.waitUntil('the target pod', MIGRATION_TIMEOUT_MS, async () => {
      const pods = await cluster.list<V1Pod>(resources.pods, 'cancel');
      return pods.some(({ status }) => status?.phase === 'Pending');
    });
    await cluster.cancel('cancel', 'cancelled', MIGRATION_TIMEOUT_MS);
    await expectStayed();
  });

  it('right after the hand-over to the nodes, leaves the VM', async () => {
    const cluster = theCluster();
    await cluster.migrate('cancel', 'cancelled', VM, { limits: SLOW });
    await cluster.waitUntil('the hand-over', MIGRATION_TIMEOUT_MS, async () => {
      const [uid] = (await cluster.vmims('cancel')).filter((vmim) => !isFinal(vmim)).map(uidOf);
      const vmi = await getVmi(cluster.driver.api, 'cancel', VM);
      return uid !== undefined && vmi?.status?.migrationState?.migrationUid === uid;
    });
    await cluster.cancel('cancel', 'cancelled', MIGRATION_TIMEOUT_MS);
    await expectStayed();
  });

  it.each([
    ['early', 1],
    ['late', 30],
  ])('%s in the stream, leaves the VM', async (_when, mebibytes) => {
    const cluster = theCluster();
    await cluster.migrate('cancel', 'cancelled', VM, { limits: SLOW });
    await waitForStream(cluster, 'cancel', 'cancelled', mebibytes);
    await cluster.cancel('cancel', 'cancelled', MIGRATION_TIMEOUT_MS);
    await expectStayed();
  });

  it('does not stand in the way of the next one', async (context) => {
    const cluster = theCluster();
    await cluster.migrate('cancel', 'at-last', VM);
    const status = await cluster.waitForEnd('cancel', 'at-last', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    tell(context, status.result ?? {});
    expect(await cluster.nodeOf('cancel', VM)).not.toBe(home);
    await expectHealthy(guest);
    await cluster.removeNamespace('cancel');
  });
});

describe('the drain of a node', () => {
  it('moves three VMs, and accelerates and records the two under a policy', async (context) => {
    const cluster = theCluster();
    const { driver } = cluster;
    const guests = [
      await cluster.acceleratedVm('drain', VM),
      await cluster.acceleratedVm('drain', 'web'),
      await driver.createVm({ namespace: 'drain', name: 'plain', guest: 'small' }),
    ];
    const names = [VM, 'web', 'plain'];
    const from = (await cluster.nodeOf('drain', VM)) ?? '';
    await driver.kubectl(['cordon', from]);
    await driver.kubectl(['taint', 'node', from, 'kubevirt.io/drain=:NoSchedule']);
    try {
      await cluster.waitUntil('every VM to leave', 2 * MIGRATION_TIMEOUT_MS, async () => {
        const homes = await Promise.all(names.map((name) => cluster.nodeOf('drain', name)));
        return !homes.includes(from);
      });
      const records = await cluster.list<KubernetesObject & { spec: { vmiName: string } }>(
        resources.nasAwareMigrations,
        'drain',
      );
      expect(records.map(({ spec }) => spec.vmiName).sort()).toEqual([VM, 'web']);
      const results = [];
      for (const { metadata } of records) {
        const status = await cluster.waitForEnd('drain', metadata?.name ?? '', MIGRATION_TIMEOUT_MS);
        expect(status).toMatchObject({
          phase: 'Succeeded',
          policyName: 'accelerated',
          result: { accelerated: true },
        });
        results.push(status.result);
      }
      tell(context, results);
      for (const guest of guests) await expectHealthy(guest);
      const pods = await cluster.list<V1Pod>(resources.pods, 'drain');
      expect(
        pods.filter(({ spec, status }) => spec?.nodeName === from && status?.phase === 'Running'),
      ).toEqual([]);
    } finally {
      await driver.kubectl(['taint', 'node', from, 'kubevirt.io/drain-']);
      await driver.kubectl(['uncordon', from]);
    }
    await cluster.removeNamespace('drain');
  });

  it('goes on when the record of a migration is deleted', async (context) => {
    const cluster = theCluster();
    const guest = await cluster.acceleratedVm('record', VM);
    const from = await cluster.nodeOf('record', VM);
    await cluster.apply({
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstanceMigration',
      metadata: { namespace: 'record', name: 'by-virtctl' },
      spec: { vmiName: VM },
    });
    await cluster.waitForPhase('record', 'by-virtctl', 'Migrating', MIGRATION_TIMEOUT_MS);
    await cluster.cancel('record', 'by-virtctl', MIGRATION_TIMEOUT_MS);
    await cluster.waitUntil('KubeVirt to end it', MIGRATION_TIMEOUT_MS, async () =>
      (await cluster.vmims('record')).every(isFinal),
    );
    const [vmim] = await cluster.vmims('record');
    tell(context, `KubeVirt: ${vmim?.status?.phase}`);
    expect(vmim?.status?.phase).toBe('Succeeded');
    expect(await cluster.nodeOf('record', VM)).not.toBe(from);
    await expectHealthy(guest);
    await cluster.removeNamespace('record');
  });
});

function uidOf({ metadata }: { metadata: { uid: string } }): string {
  return metadata.uid;
}
