// Which migrations need a permit to read the NAS, and what those do that get none.
import { describe, expect, it } from 'vitest';
import { exampleHello } from '../../control/example-messages.ts';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { readVmim } from '../kubevirt/objects.ts';
import { decide, heldPermit, wantsPermit } from './decide.ts';
import { snapshot as exampleSnapshot, handedOff, nam, nowMs, seenAt, vmimUid } from './example-snapshots.ts';
import type { Snapshot } from './snapshot.ts';

const waitedASecond = seenAt(nowMs - 1000);
const denied = { granted: false, detail: 'nas-1: 1 at a time' };

function snapshot(
  facts: Partial<Snapshot> & { spec?: object; status?: NasAwareMigrationStatus; handedOff?: boolean } = {},
): Snapshot {
  const { spec, status = {}, handedOff: isHandedOff = false, ...others } = facts;
  return exampleSnapshot({
    migration: nam(spec, status),
    ...(isHandedOff ? { vmi: handedOff({}) } : {}),
    ...others,
  });
}

const vmim = (phase: string) =>
  readVmim({
    metadata: { namespace: 'shop', name: 'm', uid: vmimUid },
    ...({ spec: { vmiName: 'db' }, status: { phase } } as object),
  });

const status = (
  phase: 'Preparing' | 'Migrating',
  accelerated: 'True' | 'False' | 'Unknown',
  reason: string,
) =>
  ({
    phase,
    migration: { name: 'm', uid: vmimUid },
    conditions: [
      {
        type: 'Accelerated',
        status: accelerated,
        reason,
        message: 'as it was',
        lastTransitionTime: '2026-06-01T11:59:59Z',
      },
    ],
  }) satisfies NasAwareMigrationStatus;

const accelerated = (of: Snapshot) =>
  decide(of).status?.conditions?.find(({ type }) => type === 'Accelerated');
const effects = (of: Snapshot) => decide(of).effects.map(({ type }) => type);

describe('a permit is wanted', () => {
  it('before a migration is made that would be accelerated', () => {
    expect(wantsPermit(snapshot())).toBe(true);
  });

  it.each([
    ['a plain one', { spec: { acceleration: 'Disabled' } }],
    ['one that observes', { spec: { acceleration: 'Observe' } }],
    ['one without a usable volume', { volumes: { usable: [], refused: [] } }],
    ['one whose index is waited for', indexNotReady()],
    ['one that cannot start', { vmi: undefined }],
    ['one that others started, before the hand-off', { spec: { migrationName: 'm' }, vmim: vmim('Pending') }],
    ['one that is over', { vmim: vmim('Succeeded'), status: status('Migrating', 'True', 'Framed') }],
    [
      'one that was told to go without',
      { vmim: vmim('Running'), handedOff: true, status: status('Migrating', 'False', 'NoNasPermit') },
    ],
    ['one that is finished', { status: { phase: 'Succeeded' as const } }],
  ])('not for %s', (_what, facts) => {
    expect(wantsPermit(snapshot(facts as Parameters<typeof snapshot>[0]))).toBe(false);
  });

  it('by one that has it until the hand-off, but not anew before it', () => {
    const made = { vmim: vmim('Pending'), status: status('Preparing', 'Unknown', 'Arming') };
    expect(wantsPermit(snapshot({ ...made, holdsPermit: true }))).toBe(true);
    expect(wantsPermit(snapshot({ ...made, holdsPermit: false }))).toBe(false);
    expect(wantsPermit(snapshot({ ...made, handedOff: true }))).toBe(true);
  });

  it('by one that runs, also when this leader has not heard of its sidecars yet', () => {
    const framed = {
      vmim: vmim('Running'),
      status: status('Migrating', 'True', 'Framed'),
      sourcePod: undefined,
    };
    expect(wantsPermit(snapshot({ ...framed, breaker: { reason: 'BreakerOpen', detail: '' } }))).toBe(true);
  });

  it('by one that others started, at the hand-off', () => {
    const adopted = { spec: { migrationName: 'm' }, vmim: vmim('Scheduled'), handedOff: true };
    expect(wantsPermit(snapshot(adopted))).toBe(true);
  });
});

describe('without a permit', () => {
  it('a migration waits, is not made, and says for what', () => {
    const waiting = snapshot({ permit: denied });
    expect(decide(waiting).status?.phase).toBe('Preparing');
    expect(accelerated(waiting)).toMatchObject({
      status: 'Unknown',
      reason: 'NoNasPermit',
      message: expect.stringContaining('nas-1: 1 at a time'),
    });
    expect(effects(waiting)).toEqual(['event']);
    expect(decide(waiting).requeueAfterMs).toBeLessThanOrEqual(10_000);
  });

  it('tells it once by an event', () => {
    const before = {
      phase: 'Preparing' as const,
      conditions: status('Preparing', 'Unknown', 'NoNasPermit').conditions,
    };
    expect(effects(snapshot({ permit: denied, status: before }))).toEqual([]);
  });

  it('goes plainly after prepareTimeout with Preferred, and not at all with Required', () => {
    const waiting = snapshot({ permit: denied, spec: { prepareTimeout: '1s' } });
    expect(effects(waiting)).not.toContain('createMigration');
    const plain = snapshot({ permit: denied, spec: { prepareTimeout: '1s' }, status: waitedASecond });
    expect(effects(plain)).toContain('createMigration');
    expect(accelerated(plain)).toMatchObject({ status: 'False', reason: 'NoNasPermit' });
    const required = snapshot({
      permit: denied,
      spec: { prepareTimeout: '1s', acceleration: 'Required' },
      status: waitedASecond,
    });
    expect(decide(required).status).toMatchObject({ phase: 'Failed', result: { reason: 'NoNasPermit' } });
  });

  it('one that others started goes plainly, and stays so', () => {
    const adopted = { spec: { migrationName: 'm' }, vmim: vmim('Scheduled'), handedOff: true };
    expect(accelerated(snapshot({ ...adopted, permit: denied }))).toMatchObject({
      status: 'False',
      reason: 'NoNasPermit',
    });
    const later = snapshot({ ...adopted, status: status('Preparing', 'False', 'NoNasPermit') });
    expect(accelerated(later)).toMatchObject({
      status: 'False',
      reason: 'NoNasPermit',
      message: 'as it was',
    });
    expect(effects(later)).not.toContain('coordinate');
  });
});

describe('a new leader counts', () => {
  it('what is armed or framed, and nothing else', () => {
    expect(heldPermit(status('Preparing', 'Unknown', 'Arming'))).toBe(true);
    expect(heldPermit(status('Migrating', 'True', 'Framed'))).toBe(true);
    expect(heldPermit(status('Preparing', 'Unknown', 'Preparing'))).toBe(false);
    expect(heldPermit(status('Migrating', 'False', 'PeerRaw'))).toBe(false);
    expect(heldPermit({ ...status('Migrating', 'True', 'Framed'), phase: 'Succeeded' })).toBe(false);
    expect(
      heldPermit({
        phase: 'Preparing',
        conditions: status('Preparing', 'Unknown', 'NoNasPermit').conditions,
      }),
    ).toBe(false);
  });

  it('just what decide() wrote', () => {
    const granted = decide(snapshot({ permit: { granted: true, detail: '' } })).status;
    expect(granted).toBeDefined();
    expect(heldPermit(granted ?? {})).toBe(true);
    const adopted = decide(snapshot({ spec: { migrationName: 'm' }, vmim: vmim('Pending') })).status;
    expect(heldPermit(adopted ?? {})).toBe(false);
  });
});

function indexNotReady(): object {
  const { sourcePod } = snapshot();
  return {
    spec: { prepareTimeout: '1h' },
    sourcePod: { ...sourcePod, index: { ...exampleHello.index, ready: false } },
  };
}
