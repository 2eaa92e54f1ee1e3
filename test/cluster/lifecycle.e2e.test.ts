// What happens to migrations in their lives, with real VMs underneath: to and fro with an inherited index, cancelled in
// mid-stream, with the operator killed, and by the drain of a node. Needs root, and what the lab needs.

import type { KubernetesListObject, KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resources } from '../../operator/kubernetes/resources.ts';
import { Cluster } from './cluster.ts';
import type { Guest, GuestCheck } from './driver.ts';
import { getVmi, type Vmim } from './kubevirt-objects.ts';
import { LabCluster } from './lab-cluster.ts';

const ACCELERATED = { 'nasmigration.io/accelerate': 'true' };
/** Slow enough that something can happen in mid-stream. */
const LINK_MBIT = 400;
const TIMEOUT_MS = 120_000;
const HEALTHY: GuestCheck = { selfCheck: 'ok', failure: '', repeatedCounters: 0 };

let lab: LabCluster;
let cluster: Cluster;

beforeAll(async () => {
  lab = await LabCluster.start({ linkMbit: LINK_MBIT });
  cluster = new Cluster(lab);
  await cluster.applyExample('nas-migration-policy.yaml');
}, 120_000);

afterAll(async () => {
  const keepLogsIn = process.env['NASMIG_LAB_LOGS'];
  await lab?.stop(keepLogsIn === undefined ? {} : { keepLogsIn });
}, 60_000);

async function newVm(namespace: string, name: string, labels = ACCELERATED): Promise<Guest> {
  await lab.createNamespace(namespace);
  return lab.createVm({ namespace, name, guest: 'warm', labels });
}

async function nodeOf(namespace: string, name: string): Promise<string | undefined> {
  return (await getVmi(lab.api, namespace, name))?.status?.nodeName;
}

function migrate(namespace: string, name: string, vmiName: string): Promise<void> {
  return cluster.apply({
    apiVersion: 'nasmigration.io/v1alpha1',
    kind: 'NasAwareMigration',
    metadata: { namespace, name },
    spec: { vmiName },
  });
}

async function list<T extends KubernetesObject>(
  resource: (typeof resources)[keyof typeof resources],
  namespace: string,
): Promise<T[]> {
  const answer: KubernetesListObject<T> = await lab.api.list<T>(resource, namespace);
  return answer.items;
}

/** The VM is gone, and so are its pods: the machine is small. */
async function removeVms(namespace: string): Promise<void> {
  await lab.kubectl(['delete', 'virtualmachineinstances', '--all', '--namespace', namespace]);
  await lab.waitForNoPods(namespace);
}

describe('a VM that is migrated more than once', () => {
  it('goes to and fro with the index that came with it, cancelled once, and with the operator killed', async () => {
    const guest = await newVm('life', 'db');
    await lab.waitForIndex('life', 'db');

    await migrate('life', 'there', 'db');
    const there = await cluster.waitForEnd('life', 'there', TIMEOUT_MS);
    expect(there).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });

    // No sampling on the way back: the blocks that came are the index.
    await migrate('life', 'back', 'db');
    const back = await cluster.waitForEnd('life', 'back', TIMEOUT_MS);
    expect(back).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    expect(back.source).toEqual(there.target);
    console.log(JSON.stringify({ there: there.result, back: back.result }));
    expect(await guest.check()).toEqual(HEALTHY);

    const home = await nodeOf('life', 'db');
    await migrate('life', 'cancelled', 'db');
    await cluster.waitForMigration(
      'life',
      'cancelled',
      'Migrating',
      ({ phase }) => phase === 'Migrating',
      TIMEOUT_MS,
    );
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await lab.kubectl(['delete', 'nasawaremigration', 'cancelled', '--namespace', 'life', '--timeout=60s']);
    const vmims = await list<Vmim>(resources.virtualMachineInstanceMigrations, 'life');
    expect(vmims.map(({ status }) => status?.phase)).toEqual(['Succeeded', 'Succeeded']);
    expect(await nodeOf('life', 'db')).toBe(home);
    expect(await guest.check()).toEqual(HEALTHY);

    await migrate('life', 'with-a-crash', 'db');
    await cluster.waitForMigration(
      'life',
      'with-a-crash',
      'accelerated',
      ({ phase, conditions }) =>
        phase === 'Migrating' &&
        conditions?.some(({ type, status }) => type === 'Accelerated' && status === 'True') === true,
      TIMEOUT_MS,
    );
    await lab.stopOperator('SIGKILL');
    await lab.startOperator();
    const crashed = await cluster.waitForEnd('life', 'with-a-crash', TIMEOUT_MS);
    expect(crashed).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: true, attempt: 'Accelerated' },
    });
    expect(crashed.result?.linkBytes).toBeGreaterThan(0);
    expect(await guest.check()).toEqual(HEALTHY);
    await removeVms('life');
  }, 400_000);
});

describe('the drain of a node', () => {
  it('moves three VMs, and accelerates and records the two under a policy', async () => {
    const guests = [
      await newVm('drain', 'db'),
      await newVm('drain', 'web'),
      await newVm('drain', 'plain', {} as typeof ACCELERATED),
    ];
    for (const name of ['db', 'web']) await lab.waitForIndex('drain', name);
    const from = await nodeOf('drain', 'db');
    await lab.kubectl(['cordon', from ?? '']);
    await lab.kubectl(['taint', 'node', from ?? '', 'kubevirt.io/drain=:NoSchedule']);
    try {
      await expect
        .poll(async () => Promise.all(['db', 'web', 'plain'].map((name) => nodeOf('drain', name))), {
          timeout: 240_000,
          interval: 500,
        })
        .not.toContain(from);
      const records = await list<KubernetesObject & { spec: { vmiName: string } }>(
        resources.nasAwareMigrations,
        'drain',
      );
      expect(records.map(({ spec }) => spec.vmiName).sort()).toEqual(['db', 'web']);
      for (const { metadata } of records) {
        const status = await cluster.waitForEnd('drain', metadata?.name ?? '', TIMEOUT_MS);
        expect(status).toMatchObject({
          phase: 'Succeeded',
          policyName: 'accelerated',
          result: { accelerated: true },
        });
      }
      for (const guest of guests) expect(await guest.check()).toEqual(HEALTHY);
      const pods = await list<V1Pod>(resources.pods, 'drain');
      expect(
        pods.filter(({ spec, status }) => spec?.nodeName === from && status?.phase === 'Running'),
      ).toEqual([]);
    } finally {
      await lab.kubectl(['taint', 'node', from ?? '', 'kubevirt.io/drain-']);
      await lab.kubectl(['uncordon', from ?? '']);
    }
    await removeVms('drain');
  }, 400_000);
});
