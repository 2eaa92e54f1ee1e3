// Snapshots to decide about, for tests: a VM with one shared disk on node-1, its NasAwareMigration, and what a test changes of them.
import { exampleHello, exampleResult } from '../../control/example-messages.ts';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import type { CoordinationView } from '../hub/coordinator.ts';
import { readVmi, readVmim } from '../kubevirt/objects.ts';
import { type PodFacts, readMigration, type Snapshot } from './snapshot.ts';

export const nowMs = Date.parse('2026-06-01T12:00:00Z');
export const uid = '6f1b7a52-2c9e-4f0a-9a53-0d5f1d3c8e11';
export const vmimUid = exampleResult.migrationUid;

export function nam(spec: object = {}, status: NasAwareMigrationStatus = {}, metadata: object = {}) {
  const read = readMigration({
    metadata: {
      namespace: 'shop',
      name: 'move-db',
      uid,
      generation: 1,
      creationTimestamp: new Date(nowMs - 1000),
      finalizers: ['nasmigration.io/cancel'],
      ...metadata,
    },
    spec: { vmiName: 'db', ...spec },
    status,
  });
  if (read === undefined) throw new Error('a test object that cannot be read');
  return read;
}

/** The status of one that an operator first looked at then. */
export function seenAt(ms: number): NasAwareMigrationStatus {
  const lastTransitionTime = new Date(ms).toISOString();
  const condition = { type: 'Complete', status: 'False' as const, reason: 'Preparing', message: '' };
  return { phase: 'Preparing', conditions: [{ ...condition, lastTransitionTime }] };
}

export function vmi(status: object = {}) {
  return readVmi({
    metadata: { namespace: 'shop', name: 'db', uid: 'vmi-1' },
    ...({
      spec: { volumes: [{ name: 'rootdisk', persistentVolumeClaim: { claimName: 'db-root' } }] },
      status: { phase: 'Running', activePods: { 'pod-a': 'node-1' }, ...status },
    } as object),
  });
}

export function vmim(phase: string | undefined, metadata: object = {}, spec: object = {}) {
  return readVmim({
    metadata: {
      namespace: 'shop',
      name: 'move-db-6f1b7a52',
      uid: vmimUid,
      creationTimestamp: '2026-06-01T11:59:59Z' as never,
      ...metadata,
    },
    ...({ spec: { vmiName: 'db', ...spec }, status: phase === undefined ? {} : { phase } } as object),
  });
}

export const handedOff = (migrationConfiguration: object = { maxDowntimeMs: 500 }) =>
  vmi({
    migrationState: {
      migrationUid: vmimUid,
      sourceNode: 'node-1',
      targetNode: 'node-2',
      migrationConfiguration,
    },
  });

export const pod = (name: string, facts: Partial<PodFacts> = {}): PodFacts => ({
  name,
  uid: name,
  node: name === 'pod-a' ? 'node-1' : 'node-2',
  belongsToVmi: true,
  hasSidecar: true,
  connected: true,
  index: exampleHello.index,
  link: exampleHello.link,
  ...facts,
});

export const view = (facts: Partial<CoordinationView> = {}): CoordinationView => ({
  go: false,
  over: false,
  reason: undefined,
  detail: undefined,
  armingSeconds: undefined,
  progress: undefined,
  results: {},
  isResultComing: false,
  ...facts,
});

export function snapshot(facts: Partial<Snapshot> = {}): Snapshot {
  return {
    nowMs,
    migration: nam(),
    vmi: vmi(),
    vmim: undefined,
    others: [],
    policy: undefined,
    volumes: { usable: ['rootdisk'], refused: [] },
    breaker: undefined,
    sourcePod: pod('pod-a'),
    targetPod: undefined,
    coordination: undefined,
    clearsFailures: false,
    reconnectUntilMs: 0,
    holdsPermit: false,
    lastQemuBytes: undefined,
    isPlainFaster: false,
    permit: undefined,
    ...facts,
  };
}
