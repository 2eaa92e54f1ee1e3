// Parts that die while real VMs move: the operator in every phase of a migration, a leader with a second replica beside it, the
// API server, etcd, the network to the hub. Whatever dies, the VM moves and the object says what happened. Needs root, and what
// the lab needs.

import { beforeAll, describe, expect, it } from 'vitest';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import type { Guest } from './driver.ts';
import { getVmi, isFinal } from './kubevirt-objects.ts';
import {
  expectHealthy,
  MIGRATION_TIMEOUT_MS,
  PREPARE,
  SLOW,
  tell,
  useCluster,
  waitForStream,
} from './suite.ts';

const NAMESPACE = 'faults';
const VM = 'db';

const theCluster = useCluster({ linkMbit: 400 });
let guest: Guest;

beforeAll(async () => {
  guest = await theCluster().acceleratedVm(NAMESPACE, VM);
}, 300_000);

/** Waits for the end, which must be a moved and healthy VM, and exactly one migration of KubeVirt's for it. */
async function expectMoved(
  name: string,
  from: string | undefined,
  made: number,
): Promise<NasAwareMigrationStatus> {
  const cluster = theCluster();
  const status = await cluster.waitForEnd(NAMESPACE, name, MIGRATION_TIMEOUT_MS);
  expect(status.phase).toBe('Succeeded');
  expect(await cluster.nodeOf(NAMESPACE, VM)).not.toBe(from);
  const mine = (await cluster.vmims(NAMESPACE)).filter((vmim) => vmim.metadata.name.startsWith(name));
  expect(mine).toHaveLength(made);
  await expectHealthy(guest);
  return status;
}

/** Something happens when the stream is under way; then the end is as if nothing had. */
async function inMidStream(name: string, happen: () => Promise<void>): Promise<NasAwareMigrationStatus> {
  const cluster = theCluster();
  const from = await cluster.nodeOf(NAMESPACE, VM);
  await cluster.migrate(NAMESPACE, name, VM, { limits: SLOW, prepareTimeout: PREPARE });
  await waitForStream(cluster, NAMESPACE, name);
  await happen();
  const status = await expectMoved(name, from, 1);
  expect(status.result).toMatchObject({ accelerated: true, attempt: 'Accelerated' });
  expect(status.result?.linkBytes).toBeGreaterThan(0);
  return status;
}

describe('an operator that is killed', () => {
  async function killAndStart(): Promise<void> {
    await theCluster().driver.stopOperator('SIGKILL');
    await theCluster().driver.startOperator();
  }

  it('before it saw the object, begins when it is back', async (context) => {
    const cluster = theCluster();
    const from = await cluster.nodeOf(NAMESPACE, VM);
    await cluster.driver.stopOperator('SIGKILL');
    await cluster.migrate(NAMESPACE, 'unseen', VM, { prepareTimeout: PREPARE });
    await cluster.driver.startOperator();
    const status = await expectMoved('unseen', from, 1);
    expect(status.result).toMatchObject({ accelerated: true });
    tell(context, status.result ?? {});
  });

  it('when KubeVirt’s migration was just made, makes no second one', async (context) => {
    const cluster = theCluster();
    const from = await cluster.nodeOf(NAMESPACE, VM);
    await cluster.migrate(NAMESPACE, 'just-made', VM, { prepareTimeout: PREPARE });
    await cluster.waitUntil('KubeVirt’s migration', MIGRATION_TIMEOUT_MS, async () =>
      (await cluster.vmims(NAMESPACE)).some((vmim) => vmim.metadata.name.startsWith('just-made')),
    );
    await killAndStart();
    const status = await expectMoved('just-made', from, 1);
    // Without the webhook's answer the target pod had no sidecar; with it, all is as always.
    if (status.result?.accelerated !== true)
      expect(status.result).toMatchObject({ attempt: 'Plain', reason: expect.any(String) });
    tell(context, status.result ?? {});
  });

  it('at the hand-over to the nodes, lets the VM move', async (context) => {
    const cluster = theCluster();
    const from = await cluster.nodeOf(NAMESPACE, VM);
    await cluster.migrate(NAMESPACE, 'handed-over', VM, { prepareTimeout: PREPARE });
    await cluster.waitUntil('the hand-over', MIGRATION_TIMEOUT_MS, async () => {
      const vmims = await cluster.vmims(NAMESPACE);
      const uid = vmims.find((vmim) => !isFinal(vmim))?.metadata.uid;
      const vmi = await getVmi(cluster.driver.api, NAMESPACE, VM);
      return uid !== undefined && vmi?.status?.migrationState?.migrationUid === uid;
    });
    await killAndStart();
    const status = await expectMoved('handed-over', from, 1);
    if (status.result?.accelerated !== true)
      expect(status.result).toMatchObject({ attempt: 'Plain', reason: expect.any(String) });
    tell(context, status.result ?? {});
  });

  it('in mid-stream, finds its sidecars again and tells their numbers', async (context) => {
    tell(context, (await inMidStream('mid-stream', killAndStart)).result ?? {});
  });

  it('and comes back when all is over, still records what happened', async (context) => {
    const cluster = theCluster();
    const status = await inMidStream('over', async () => {
      await cluster.driver.stopOperator('SIGKILL');
      await cluster.waitUntil('KubeVirt to end it', MIGRATION_TIMEOUT_MS, async () =>
        (await cluster.vmims(NAMESPACE)).every(isFinal),
      );
      await cluster.driver.startOperator();
    });
    tell(context, status.result ?? {});
  });
});

describe('two replicas of the operator', () => {
  it.each([
    ['ends gracefully', 'SIGTERM'],
    ['is killed', 'SIGKILL'],
  ] as const)('hand over in mid-stream when the leader %s', async (_how, signal) => {
    const cluster = theCluster();
    await cluster.driver.startOperator({ replicas: 2 });
    const terms = leaderTerms(await cluster.driver.operatorLog());
    await inMidStream(`leader-${signal.toLowerCase()}`, async () => {
      await cluster.driver.stopLeader(signal);
    });
    const epochs = leaderTerms(await cluster.driver.operatorLog());
    expect(epochs.length).toBe(terms.length + 1);
    // Every leader has an epoch of its own.
    expect(new Set(epochs).size).toBe(epochs.length);
  });
});

describe('in mid-stream, and nothing of it is lost', () => {
  it('the API server is killed and starts again', async (context) => {
    const { driver } = theCluster();
    tell(
      context,
      (await inMidStream('api-server', () => driver.restart('kube-apiserver', 'SIGKILL'))).result ?? {},
    );
  });

  it('etcd is killed and starts again', async (context) => {
    const { driver } = theCluster();
    tell(context, (await inMidStream('etcd', () => driver.restart('etcd', 'SIGKILL'))).result ?? {});
  });

  it('every connection to the hub breaks', async (context) => {
    const { driver } = theCluster();
    tell(context, (await inMidStream('hub', () => driver.breakHubConnections())).result ?? {});
  });

  it('API server, etcd and operator are killed at once', async (context) => {
    const { driver } = theCluster();
    const status = await inMidStream('all-at-once', async () => {
      await driver.stopOperator('SIGKILL');
      await driver.restart('etcd', 'SIGKILL');
      await driver.restart('kube-apiserver', 'SIGKILL');
      await driver.startOperator();
    });
    tell(context, status.result ?? {});
  });
});

/** The epochs of all terms so far, from the operator's log. */
function leaderTerms(log: string): number[] {
  return log.split('\n').flatMap((line) => {
    const epoch = /"epoch":(\d+).*"msg":"leading"/.exec(line)?.[1];
    return epoch === undefined ? [] : [Number(epoch)];
  });
}
