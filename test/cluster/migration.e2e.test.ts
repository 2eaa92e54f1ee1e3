// A whole migration by `kubectl apply` of eight lines: on a real API server, with injected sidecars, libvirt and QEMU underneath.
// Numbers in status are compared with what the kernel counted at the interfaces. Needs root, and what the lab needs.

import type { KubernetesListObject, V1Pod } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import { Cluster } from './cluster.ts';
import type { Guest } from './driver.ts';
import type { Vmim } from './kubevirt-objects.ts';
import { LabCluster } from './lab-cluster.ts';

const NAMESPACE = 'shop';
const VM = 'db';
/** Under the policy of the examples. */
const ACCELERATED = { 'nasmigration.io/accelerate': 'true' };
const LINK_MBIT = 400;
const NAS_MBIT = 4000;
/** What headers of TCP, IP, Ethernet and TLS add to the sidecars' frames, at most. */
const HEADERS = 1.06;
/**
 * On the interface, but not the sidecars': libvirt's own connection, ten TLS handshakes with client certificates, and TCP
 * acknowledgements of the way back, which grow with the number of batches and not with their bytes.
 */
const NOT_THE_SIDECARS_BYTES = 2 * 1024 * 1024;
const MIGRATION_TIMEOUT_MS = 120_000;

let lab: LabCluster;
let cluster: Cluster;
let guest: Guest;

beforeAll(async () => {
  lab = await LabCluster.start({ linkMbit: LINK_MBIT, nasMbit: NAS_MBIT });
  cluster = new Cluster(lab);
  await cluster.driver.createNamespace(NAMESPACE);
  await cluster.applyExample('nas-migration-policy.yaml');
  guest = await cluster.driver.createVm({
    namespace: NAMESPACE,
    name: VM,
    guest: 'warm',
    labels: ACCELERATED,
  });
}, 300_000);

afterAll(async () => {
  const keepLogsIn = process.env['NASMIG_LAB_LOGS'];
  await lab?.stop(keepLogsIn === undefined ? {} : { keepLogsIn });
}, 60_000);

async function vmims(): Promise<Vmim[]> {
  const list: KubernetesListObject<Vmim> = await cluster.driver.api.list<Vmim>(
    resources.virtualMachineInstanceMigrations,
    NAMESPACE,
  );
  return list.items;
}

async function podOnNode(node: string | undefined): Promise<V1Pod | undefined> {
  const { items } = await cluster.driver.api.list<V1Pod>(resources.pods, NAMESPACE);
  return items.find(({ spec, status }) => spec?.nodeName === node && status?.phase === 'Running');
}

describe('a NasAwareMigration on two lab nodes', () => {
  it('moves a VM with its page cache from the NAS, and tells true numbers', async () => {
    await cluster.driver.waitForIndex(NAMESPACE, VM);
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
    console.log(JSON.stringify({ result, gapMs: guest.longestGapMs }));
    expect(source?.node).not.toBe(target?.node);
    expect(result?.pages?.reference).toBeGreaterThan(40_000);
    const onLink = after.migrationBytes - before.migrationBytes;
    expect(onLink).toBeGreaterThanOrEqual(result?.linkBytes ?? 0);
    expect(onLink).toBeLessThanOrEqual((result?.linkBytes ?? 0) * HEADERS + NOT_THE_SIDECARS_BYTES);
    const read = (node = '') => (after.nas[node]?.readBytes ?? 0) - (before.nas[node]?.readBytes ?? 0);
    const fromNas = read(target?.node);
    expect(fromNas).toBeGreaterThanOrEqual(result?.nasBytes ?? 0);
    expect(fromNas).toBeLessThanOrEqual((result?.nasBytes ?? 0) * HEADERS);
    expect(await guest.check()).toEqual({ selfCheck: 'ok', failure: '', repeatedCounters: 0 });
    expect((await vmims()).map(({ status }) => status?.phase)).toEqual(['Succeeded']);
  });

  it('moves it plainly, and says why, when the target has no sidecar', async () => {
    await cluster.apply({
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasMigrationPolicy',
      metadata: { name: 'accelerated' },
      spec: { selectors: { virtualMachineInstanceSelector: ACCELERATED }, injection: 'Disabled' },
    });
    // The webhook decides from a cache.
    await new Promise((resolve) => setTimeout(resolve, 500));
    guest.mark();
    await cluster.apply({
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasAwareMigration',
      metadata: { namespace: NAMESPACE, name: 'move-db-back' },
      spec: { vmiName: VM },
    });
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db-back', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: false, attempt: 'Plain', reason: 'NoSidecar' },
    });
    expect(status.result?.message).toContain(status.target?.pod);
    const pod = await podOnNode(status.target?.node);
    expect(pod && hasSidecar(pod)).toBe(false);
    expect(await guest.check()).toEqual({ selfCheck: 'ok', failure: '', repeatedCounters: 0 });
  });

  it('refuses with Required, before anything moved', async () => {
    const made = (await vmims()).length;
    await cluster.applyExample('nas-aware-migration-required.yaml');
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db-accelerated-only', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({ phase: 'Failed', result: { accelerated: false, reason: 'NoSidecar' } });
    expect(await vmims()).toHaveLength(made);
    expect(await guest.check()).toEqual({ selfCheck: 'ok', failure: '', repeatedCounters: 0 });
  });
});
