// A whole migration by `kubectl apply` of eight lines: on a real API server, with injected sidecars, libvirt and QEMU underneath.
// Numbers in status are compared with what the kernel counted at the interfaces. Needs root, and what the lab needs.

import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, it } from 'vitest';
import { resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import { ACCELERATED } from './cluster.ts';
import type { Guest } from './driver.ts';
import { expectHealthy, MIGRATION_TIMEOUT_MS, tell, useCluster } from './suite.ts';

const NAMESPACE = 'shop';
const VM = 'db';
/** What headers of TCP, IP, Ethernet and TLS add in the direction of the pages; acknowledgements go the other way. */
const HEADERS = 1.06;

const theCluster = useCluster({ linkMbit: 400, nasMbit: 4000 });
let guest: Guest;

beforeAll(async () => {
  guest = await theCluster().acceleratedVm(NAMESPACE, VM);
}, 300_000);

describe('a NasAwareMigration', () => {
  it('moves a VM with its page cache from the NAS, and tells true numbers', async (context) => {
    const cluster = theCluster();
    guest.mark();
    const before = await cluster.driver.traffic();
    await cluster.applyExample('nas-aware-migration.yaml');
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db', MIGRATION_TIMEOUT_MS);
    const after = await cluster.driver.traffic();
    expect(status).toMatchObject({
      phase: 'Succeeded',
      policyName: 'accelerated',
      result: { accelerated: true, attempt: 'Accelerated' },
    });
    const { result, source, target } = status;
    expect(source?.node).not.toBe(target?.node);
    expect(result?.pages?.reference).toBeGreaterThan(10_000);
    const { node: from = '' } = source ?? {};
    const { node: to = '' } = target ?? {};
    const onLink = (after.migrationSent[from] ?? 0) - (before.migrationSent[from] ?? 0);
    const fromNas = (after.nas[to]?.readBytes ?? 0) - (before.nas[to]?.readBytes ?? 0);
    tell(context, { onLink, fromNas, ...result, gapMs: guest.longestGapMs });
    expect(onLink).toBeGreaterThanOrEqual(result?.linkBytes ?? 0);
    expect(onLink).toBeLessThanOrEqual((result?.linkBytes ?? 0) * HEADERS);
    expect(fromNas).toBeGreaterThanOrEqual(result?.nasBytes ?? 0);
    expect(fromNas).toBeLessThanOrEqual((result?.nasBytes ?? 0) * HEADERS);
    await expectHealthy(guest);
    expect((await cluster.vmims(NAMESPACE)).map(({ status }) => status?.phase)).toEqual(['Succeeded']);
  });

  it('moves it plainly with Preferred, and says why, when the target has no sidecar', async (context) => {
    const cluster = theCluster();
    await cluster.apply({
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasMigrationPolicy',
      metadata: { name: 'accelerated' },
      spec: { selectors: { virtualMachineInstanceSelector: ACCELERATED }, injection: 'Disabled' },
    });
    // The webhook decides from a cache.
    await new Promise((resolve) => setTimeout(resolve, 500));
    guest.mark();
    await cluster.migrate(NAMESPACE, 'move-db-back', VM, { acceleration: 'Preferred' });
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db-back', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: false, attempt: 'Plain', reason: 'NoSidecar' },
    });
    tell(context, status.result?.message ?? '');
    expect(status.result?.message).toContain(status.target?.pod);
    const name = await cluster.podOf(NAMESPACE, VM);
    const pod = await cluster.driver.api.get<V1Pod>(resources.pods, NAMESPACE, name);
    expect(hasSidecar(pod)).toBe(false);
    await expectHealthy(guest);
  });

  it('refuses with Required, before anything moved', async (context) => {
    const cluster = theCluster();
    const made = (await cluster.vmims(NAMESPACE)).length;
    await cluster.applyExample('nas-aware-migration-required.yaml');
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db-accelerated-only', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({ phase: 'Failed', result: { accelerated: false, reason: 'NoSidecar' } });
    tell(context, status.conditions?.find(({ type }) => type === 'Complete')?.message ?? '');
    expect(await cluster.vmims(NAMESPACE)).toHaveLength(made);
    await expectHealthy(guest);
  });
});
