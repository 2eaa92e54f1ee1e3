// For every reason that the operator decides: the facts that lead to it. The list of architecture.md (`NOT_ARMED`) is complete here; what
// sidecars say, and policies, is in control/reasons-produced.test.ts.
import { describe, expect, it } from 'vitest';
import { exampleHello, exampleResult } from '../../control/example-messages.ts';
import type { Reason } from '../../control/reasons.ts';
import { readVmi } from '../kubevirt/objects.ts';
import { breakerFor } from './breaker.ts';
import type { DocumentedReason } from './conditions.ts';
import { type Decision, decide, decideRefused } from './decide.ts';
import { handedOff, nam, nowMs, pod, seenAt, snapshot, view, vmi, vmim } from './example-snapshots.ts';
import { readPolicy } from './policies.ts';
import type { Snapshot } from './snapshot.ts';
import { usableVolumes } from './volumes.ts';

const configured = (configuration: object): Partial<Snapshot> => ({
  vmi: handedOff(configuration),
  vmim: vmim('Scheduled'),
});
const away = { connected: false, index: undefined, link: undefined };
const waited = nam({}, seenAt(nowMs - 60_000));
const bridged = readVmi({
  metadata: { namespace: 'shop', name: 'db', uid: 'vmi-1' },
  ...({
    spec: {
      networks: [{ name: 'default', pod: {} }],
      domain: { devices: { interfaces: [{ name: 'default', bridge: {} }] } },
    },
    status: { phase: 'Running' },
  } as object),
});
const failures = (vmiNames: string[]) =>
  vmiNames.map((vmiName) => ({
    ...{ namespace: 'shop', vmiName, endMs: nowMs - 60_000, outcome: 'failed' as const },
  }));
const breaker = (...vmiNames: string[]) =>
  breakerFor({ namespace: 'shop', vmiName: 'db' }, failures(vmiNames), nowMs);
/** A VM whose only volume is on a claim that `volume` describes. */
const volumesOf = (volume: object, driver = 'nfs.csi.k8s.io') => {
  const persistentVolumeClaimInfo = { accessModes: ['ReadWriteMany'], volumeMode: 'Filesystem', ...volume };
  const one = vmi({ volumeStatus: [{ name: 'rootdisk', persistentVolumeClaimInfo }] });
  return usableVolumes(one!, undefined, () => driver, new Set(['nfs.csi.k8s.io']));
};

/** Why a migration is not armed: architecture.md's list, and what was added to it since. */
const NOT_ARMED: [Reason, Partial<Snapshot>][] = [
  ['PostCopyAllowed', configured({ allowPostCopy: true })],
  ['CompressionOn', configured({ experimental: { compression: 'zstd' } })],
  ['CappedByBandwidthPerMigration', configured({ bandwidthPerMigration: '64Mi' })],
  ['NoSharedRawVolume', { volumes: volumesOf({ volumeMode: 'Block' }) }],
  ['NoSharedRawVolume', { volumes: volumesOf({ accessModes: ['ReadWriteOnce'] }) }],
  ['NoSharedRawVolume', { volumes: volumesOf({}, 'local.csi') }],
  ['DecentralizedMigration', { vmim: vmim('Pending', {}, { sendTo: { migrationID: 'm' } }) }],
  ['DecentralizedMigration', { vmim: vmim('Pending', {}, { receive: { migrationID: 'm' } }) }],
  ['VolumesBeingMigrated', { vmi: vmi({ migratedVolumes: [{ volumeName: 'rootdisk' }] }) }],
  ['RootVmi', { vmi: vmi({ runtimeUser: 0 }) }],
  ['NoSidecar', { sourcePod: undefined }],
  ['NoSidecar', { sourcePod: pod('pod-a', { ...away, hasSidecar: false }) }],
  ['NoSidecar', { ...configured({}), targetPod: pod('pod-b', { ...away, hasSidecar: false }) }],
  ['PodNetworkBridged', { vmi: bridged, sourcePod: pod('pod-a', away), migration: waited }],
  ['HubUnreachable', { sourcePod: pod('pod-a', away), migration: waited }],
  ['ProtocolTooOld', { sourcePod: pod('pod-a', { link: { min: 200, max: 201 } }) }],
  ['Suspended', { policy: readPolicy({ metadata: { name: 'all' }, spec: { suspend: true } }) }],
  ['GainTooSmall', { sourcePod: pod('pod-a', { index: { ...exampleHello.index, blocks: 0 } }) }],
  ['GainTooSmall', { lastQemuBytes: 1e15 }],
  ['BreakerOpen', { breaker: breaker('db') }],
  ['ClusterBreakerOpen', { breaker: breaker('a', 'b', 'c') }],
  ['AccelerationDisabled', { migration: nam({ acceleration: 'Disabled' }) }],
  ['NoNasPermit', { ...configured({}), permit: { granted: false, detail: 'nas-1: 1 at a time' } }],
  ['SocketNotTaken', { ...configured({}), coordination: view({ reason: 'SocketNotTaken' }) }],
];

describe('a migration that is not armed', () => {
  it.each(NOT_ARMED)('says %s', (reason, facts) => {
    const condition = decide(snapshot(facts)).status?.conditions?.find(({ type }) => type === 'Accelerated');
    expect(condition).toMatchObject({ status: 'False', reason });
    expect(condition?.message).not.toBe('');
  });
});

const done = { phase: 'Succeeded' as const, completionTime: '2026-06-01T12:00:00Z' };
const deleting = { deletionTimestamp: '2026-06-01T12:00:00Z' };
const framed = {
  ...seenAt(nowMs - 60_000),
  target: { podUID: 'pod-b' },
};
const running = { vmi: handedOff(), vmim: vmim('Running'), targetPod: pod('pod-b') };
const noConfiguration = { vmim: vmim('Pending') };
const both = {
  source: { ...exampleResult, outcome: 'accelerated' as const },
  target: { ...exampleResult, role: 'target' as const, outcome: 'accelerated' as const },
};

/** How a migration stands or ended, in a condition or as an event. */
const OUTCOMES: [DocumentedReason, Partial<Snapshot>][] = [
  ['Preparing', noConfiguration],
  ['MigrationCreated', {}],
  ['Arming', { ...running, permit: { granted: true, detail: '' } }],
  ['Framed', { ...running, coordination: view({ go: true }) }],
  ['Accelerated', { ...running, coordination: view({ go: true }) }],
  ['Observing', { migration: nam({ acceleration: 'Observe' }) }],
  ['Migrating', running],
  ['Cancelling', { ...running, migration: nam({}, {}, deleting) }],
  ['CollectingResults', { ...running, vmim: vmim('Succeeded'), coordination: view({ go: true }) }],
  ['Migrated', { ...running, vmim: vmim('Succeeded'), coordination: view({ go: true, results: both }) }],
  ['Succeeded', { ...running, vmim: vmim('Succeeded'), coordination: view({ go: true, results: both }) }],
  ['Failed', { vmi: undefined }],
  ['MigrationFailed', { vmim: vmim('Failed') }],
  ['Cancelled', { vmim: vmim('Failed', deleting) }],
  ['MigrationDeleted', { migration: nam({}, { ...framed, migration: { name: 'x', uid: 'gone' } }) }],
  ['VirtualMachineInstanceNotFound', { vmi: undefined }],
  ['VirtualMachineInstanceNotRunning', { vmi: vmi({ phase: 'Scheduling' }) }],
  ['NotLiveMigratable', { vmi: vmi({ conditions: [{ type: 'LiveMigratable', status: 'False' }] }) }],
  ['MigrationInFlight', { others: [vmim('Running', { uid: 'other', name: 'other' })!] }],
  ['MigrationNotFound', { migration: nam({ migrationName: 'x' }, seenAt(nowMs - 60_000)) }],
  ['MigrationOfOtherVirtualMachineInstance', { vmim: vmim('Pending', {}, { vmiName: 'other' }) }],
];

describe('a migration, as it stands or ended', () => {
  it.each(OUTCOMES)('is told as %s', (reason, facts) => {
    expect(reasonsOf(decide(snapshot(facts)))).toContain(reason);
  });

  it('that was refused by the API server is told as MigrationRefused', () => {
    expect(reasonsOf(decideRefused(snapshot(), 'exceeded quota'))).toContain('MigrationRefused');
  });

  it('and is over has nothing more to tell', () => {
    expect(reasonsOf(decide(snapshot({ migration: nam({}, done) })))).toEqual([]);
  });
});

function reasonsOf({ status, effects }: Decision): string[] {
  const events = effects.flatMap((effect) => (effect.type === 'event' ? [effect.reason] : []));
  return [...(status?.conditions ?? []).map(({ reason }) => reason), ...events];
}
