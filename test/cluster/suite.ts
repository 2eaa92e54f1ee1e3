// What the end-to-end files share: one cluster for all cases of a file, the limits of their waits, and what they tell the report.

import { afterAll, beforeAll, expect, type TestContext, vi } from 'vitest';
import { Cluster } from './cluster.ts';
import type { ClusterOptions, Guest } from './driver.ts';
import { startCluster } from './start-cluster.ts';

/** A small guest moves in five seconds; this is for a machine that is busy with other things. */
export const MIGRATION_TIMEOUT_MS = 180_000;
/** For a migration in which something is to happen: a small guest takes some ten seconds with it. */
export const SLOW = { linkBandwidth: '5M' };
/** Long enough for a target to sample its index, when it inherited none. */
export const PREPARE = '30s';
/** The operator decides from caches. */
const CACHE_MS = 500;
/** Ten migrations take a minute; this is for a machine that is busy with other things. */
const CASE_TIMEOUT_MS = 900_000;
const START_TIMEOUT_MS = 180_000;
/** A namespace with what was left in it by a case that failed is gone by then. */
const STOP_TIMEOUT_MS = 90_000;

declare module 'vitest' {
  interface TaskMeta {
    /** One line for build/e2e.json: what was seen. */
    detail?: string;
  }
}

/** A cluster for this file, with the policy of the examples applied: from before its first case until after its last. */
export function useCluster(options: ClusterOptions = {}): () => Cluster {
  let cluster: Cluster | undefined;
  vi.setConfig({ testTimeout: CASE_TIMEOUT_MS, hookTimeout: CASE_TIMEOUT_MS });
  beforeAll(async () => {
    cluster = new Cluster(await startCluster(options));
    await cluster.applyExample('nas-migration-policy.yaml');
  }, START_TIMEOUT_MS);
  afterAll(async () => {
    const keepLogsIn = process.env['NASMIG_LAB_LOGS'];
    await cluster?.driver.stop(keepLogsIn === undefined ? {} : { keepLogsIn });
  }, STOP_TIMEOUT_MS);
  return () => {
    if (cluster === undefined) throw new Error('the cluster is there in cases and hooks, not before');
    return cluster;
  };
}

/** The guest goes on, its memory and files are what they were, and no counter of it was seen twice. */
export async function expectHealthy(guest: Guest): Promise<void> {
  expect(await guest.check()).toEqual({ selfCheck: 'ok', failure: '', repeatedCounters: 0 });
}

/** What the report says of this case. */
export function tell(context: TestContext, detail: string | object): void {
  context.task.meta.detail = typeof detail === 'string' ? detail : JSON.stringify(detail);
}

/** What was applied just now is in the operator's caches when this resolves. */
export function pauseForCaches(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, CACHE_MS));
}

const MEBIBYTE = 1024 * 1024;

/**
 * Until a migration is accelerated, and so much of it has passed the migration network: a small guest has some 60 MiB in all.
 * Throws when it ends before. The status itself tells progress only now and then.
 */
export async function waitForStream(
  cluster: Cluster,
  namespace: string,
  name: string,
  mebibytes = 4,
): Promise<void> {
  const { migrationBytes: before } = await cluster.driver.traffic();
  await cluster.waitForPhase(namespace, name, 'Migrating', MIGRATION_TIMEOUT_MS);
  await cluster.waitUntil(`${mebibytes} MiB on the link`, MIGRATION_TIMEOUT_MS, async () => {
    const { migrationBytes } = await cluster.driver.traffic();
    return migrationBytes - before >= mebibytes * MEBIBYTE;
  });
  const status = await cluster.migrationStatus(namespace, name);
  expect(status).toMatchObject({
    phase: 'Migrating',
    conditions: expect.arrayContaining([expect.objectContaining({ type: 'Accelerated', status: 'True' })]),
  });
}
