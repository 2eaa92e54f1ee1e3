// Objects that are deleted under everybody's feet while VMs move. Nothing is left behind, the operator goes on, and the next VM is
// migrated as if nothing had been. Needs root, and what the lab needs.

import type { KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isNotFound } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import {
  expectHealthy,
  MIGRATION_TIMEOUT_MS,
  pauseForCaches,
  SLOW,
  tell,
  useCluster,
  waitForStream,
} from './suite.ts';

const VM = 'db';
/** The namespace controller looks again after half of the longest grace of its pods, and then some. */
const ENDS_WITHIN_MS = 150_000;

const theCluster = useCluster({ linkMbit: 400 });
let logBefore = 0;

beforeEach(async () => {
  logBefore = (await theCluster().driver.operatorLog()).length;
});

afterEach(async () => {
  const log = (await theCluster().driver.operatorLog()).slice(logBefore);
  // It neither crashed nor lost its term, and was not at a loss.
  expect(log).not.toMatch(/"msg":"(leading|no longer leading)"|TypeError|Unhandled/);
});

async function isGone(namespace: string): Promise<boolean> {
  try {
    await theCluster().driver.api.get(resources.namespaces, undefined, namespace);
    return false;
  } catch (error) {
    if (isNotFound(error)) return true;
    throw error;
  }
}

/** A new VM is moved, accelerated. */
async function expectAllWell(namespace: string): Promise<void> {
  const cluster = theCluster();
  const guest = await cluster.acceleratedVm(namespace, VM);
  await cluster.migrate(namespace, 'next', VM);
  const status = await cluster.waitForEnd(namespace, 'next', MIGRATION_TIMEOUT_MS);
  expect(status).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
  await expectHealthy(guest);
  await cluster.removeNamespace(namespace);
}

describe('in mid-migration', () => {
  it('everything is deleted at once', async (context) => {
    const cluster = theCluster();
    const { driver } = cluster;
    await cluster.acceleratedVm('everything', VM);
    await cluster.migrate('everything', 'doomed', VM, { limits: SLOW });
    await waitForStream(cluster, 'everything', 'doomed');
    const startedMs = performance.now();
    await Promise.all([
      driver.kubectl(['delete', 'nasmigrationpolicy', 'accelerated', '--wait=false']),
      driver.kubectl([
        ...['delete', 'vmi,vmim,nasawaremigration,pods,pvc,configmaps', '--all'],
        ...['--namespace', 'everything', '--wait=false'],
      ]),
    ]);
    await cluster.waitUntil('all of it to go', ENDS_WITHIN_MS, async () => {
      const left = await Promise.all([
        cluster.list<KubernetesObject>(resources.virtualMachineInstances, 'everything'),
        cluster.list<KubernetesObject>(resources.virtualMachineInstanceMigrations, 'everything'),
        cluster.list<KubernetesObject>(resources.nasAwareMigrations, 'everything'),
        cluster.list<V1Pod>(resources.pods, 'everything'),
      ]);
      return left.every((items) => items.length === 0);
    });
    tell(context, `gone after ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
    await cluster.applyExample('nas-migration-policy.yaml');
    await pauseForCaches();
    await cluster.removeNamespace('everything');
    await expectAllWell('after-everything');
  });

  it('the namespace is deleted', async (context) => {
    const cluster = theCluster();
    await cluster.acceleratedVm('namespace', VM);
    await cluster.migrate('namespace', 'doomed', VM, { limits: SLOW });
    await waitForStream(cluster, 'namespace', 'doomed');
    const startedMs = performance.now();
    await cluster.driver.kubectl(['delete', 'namespace', 'namespace', '--wait=false']);
    await cluster.waitUntil('the namespace to go', ENDS_WITHIN_MS, () => isGone('namespace'));
    tell(context, `gone after ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
    await expectAllWell('after-namespace');
  });

  it('the VM is deleted, and its object says so', async (context) => {
    const cluster = theCluster();
    await cluster.acceleratedVm('vm', VM);
    await cluster.migrate('vm', 'doomed', VM, { limits: SLOW });
    await waitForStream(cluster, 'vm', 'doomed');
    await cluster.driver.kubectl(['delete', 'vmi', VM, '--namespace', 'vm', '--wait=false']);
    const status = await cluster.waitForEnd('vm', 'doomed', MIGRATION_TIMEOUT_MS);
    const complete = status.conditions?.find(({ type }) => type === 'Complete');
    tell(context, `${status.phase}: ${complete?.message}`);
    expect(status.phase).toBe('Failed');
    expect(complete?.message).not.toBe('');
    await cluster.driver.waitForNoPods('vm');
    await cluster.removeNamespace('vm');
    await expectAllWell('after-vm');
  });
});
