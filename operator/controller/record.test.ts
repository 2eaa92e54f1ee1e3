// Progress and result in the object's status, from what the sidecars told.
import { describe, expect, it } from 'vitest';
import { exampleProgress, exampleResult } from '../../control/example-messages.ts';
import type { Progress, Result } from '../../control/messages.ts';
import {
  type NasAwareMigrationStatus,
  nasAwareMigrationStatusSchema,
} from '../../crds/nas-aware-migration.ts';
import type { CoordinationView } from '../hub/coordinator.ts';
import { view as exampleView } from './example-snapshots.ts';
import { PROGRESS_WRITE_INTERVAL_MS, progressOf, resultOf } from './record.ts';
import { readMigration, type Snapshot } from './snapshot.ts';

const startMs = Date.parse('2026-06-01T12:00:00Z');
const migrated = { reason: 'Migrated' as const, message: 'the VM runs on node-2' };

function snapshot(
  status: NasAwareMigrationStatus,
  view: Partial<CoordinationView>,
  nowMs = startMs,
  spec: object = {},
): Snapshot {
  const migration = readMigration({
    metadata: { namespace: 'shop', name: 'move-db', uid: 'u' },
    spec: { vmiName: 'db', ...spec },
    status,
  });
  if (migration === undefined) throw new Error('a test object that cannot be read');
  const coordination = exampleView({ go: true, ...view });
  return { nowMs, migration, policy: undefined, coordination } as unknown as Snapshot;
}

const told = (change: Partial<Progress>): Partial<CoordinationView> => ({
  progress: { ...exampleProgress, ...change },
});
const results = (source: Partial<Result>, target?: Partial<Result>): Partial<CoordinationView> => ({
  results: {
    source: { ...exampleResult, ...source },
    ...(target === undefined ? {} : { target: { ...exampleResult, role: 'target', ...target } }),
  },
});

describe('progress', () => {
  it('has what the source told, with the time left at its rate', () => {
    const progress = progressOf(
      snapshot({}, told({ ramBytes: 1000, remainingBytes: 500, iteration: 1, qemuBytesPerSecond: 100 })),
    );
    expect(progress).toEqual({
      percent: 45,
      iteration: 1,
      remainingBytes: 500,
      bytesPerSecond: 100,
      secondsLeft: 5,
      linkBytes: exampleProgress.linkBytes,
      nasBytes: exampleProgress.nasBytes,
      pages: exampleProgress.pages,
      updateTime: '2026-06-01T12:00:00Z',
    });
  });

  it('tells no time left while nothing moves', () => {
    expect(progressOf(snapshot({}, told({ qemuBytesPerSecond: 0 })))).not.toHaveProperty('secondsLeft');
  });

  it('never runs backwards, whatever is told, and ends below 100', () => {
    const random = [0.9, 0.2, 0.99, 0.01, 0.5, 1, 0];
    let status: NasAwareMigrationStatus = {};
    let nowMs = startMs;
    for (const iteration of [1, 2, 1, 3])
      for (const left of random)
        for (const stage of ['bulk', 'stopped', 'decision'] as const) {
          const before = status.progress;
          const change = {
            iteration,
            stage,
            ramBytes: 1000,
            remainingBytes: left * 1000,
            linkBytes: left * 1e6,
            pages: { reference: left * 1000, literalRaw: 1, literalCompressed: left * 100, zero: left * 200 },
          };
          const progress = progressOf(snapshot(status, told(change), nowMs));
          expect(progress?.percent).toBeGreaterThanOrEqual(before?.percent ?? 0);
          expect(progress?.percent).toBeLessThan(100);
          expect(progress?.iteration).toBeGreaterThanOrEqual(before?.iteration ?? 0);
          expect(progress?.linkBytes).toBeGreaterThanOrEqual(before?.linkBytes ?? 0);
          for (const kind of ['reference', 'literalRaw', 'literalCompressed', 'zero'] as const)
            expect(progress?.pages?.[kind]).toBeGreaterThanOrEqual(before?.pages?.[kind] ?? 0);
          status = progress === undefined ? {} : { progress };
          nowMs += PROGRESS_WRITE_INTERVAL_MS;
        }
  });

  it('is written at most every ten seconds, and stays when nothing more is told', () => {
    const progress = progressOf(snapshot({}, told({ remainingBytes: 900 })));
    if (progress === undefined) throw new Error('no progress');
    const soon = snapshot(
      { progress },
      told({ remainingBytes: 1 }),
      startMs + PROGRESS_WRITE_INTERVAL_MS - 1,
    );
    expect(progressOf(soon)).toEqual(progress);
    const later = snapshot({ progress }, told({ remainingBytes: 1 }), startMs + PROGRESS_WRITE_INTERVAL_MS);
    expect(progressOf(later)?.remainingBytes).toBe(1);
    expect(progressOf(snapshot({ progress }, {}))).toEqual(progress);
    // A leader whose clock is an hour behind the one before it.
    const behind = snapshot({ progress }, told({ remainingBytes: 1 }), startMs - 3_600_000);
    expect(progressOf(behind)?.remainingBytes).toBe(1);
  });

  it('of memory that is not known yet is at its beginning', () => {
    expect(progressOf(snapshot({}, told({ ramBytes: 0, remainingBytes: 0 })))?.percent).toBe(0);
  });
});

describe('result', () => {
  it('has every number that the two sidecars told', () => {
    const result = resultOf(
      snapshot(
        {},
        results(
          { cpuMilliseconds: 1900 },
          { cpuMilliseconds: 700, nasBytes: 611_000_000, indexNasBytes: 9_000_000 },
        ),
      ),
      'Succeeded',
      migrated,
    );
    expect(result).toEqual({
      accelerated: true,
      attempt: 'Accelerated',
      qemuBytes: exampleResult.qemuBytes,
      linkBytes: exampleResult.linkBytes,
      nasBytes: 611_000_000,
      indexNasBytes: 9_000_000,
      pages: exampleResult.pages,
      resends: 0,
      iterations: 3,
      durationMs: 4100,
      downtimeMs: 180,
      sourceCpuMs: 1900,
      targetCpuMs: 700,
      savedBytes: 726_000_000,
      savedPercent: 95,
    });
    expect(nasAwareMigrationStatusSchema.parse({ result })).toEqual({ result });
  });

  it('of an observed migration says what would have been saved, and that nothing was', () => {
    const estimate = {
      linkBytes: 76_000_000,
      nasBytes: 610_000_000,
      pages: { reference: 149_000, literalRaw: 0, literalCompressed: 20_000, zero: 1 },
      hitsCountedTimes: 8,
    };
    const observed = {
      outcome: 'observed',
      linkBytes: 760_000_000,
      plainLinkBytes: 760_000_000,
      nasBytes: 0,
    };
    const pages = { reference: 0, literalRaw: 0, literalCompressed: 0, zero: 0 };
    const result = resultOf(
      snapshot(
        {},
        results(
          { ...observed, outcome: 'observed', pages, estimate },
          { ...observed, outcome: 'observed', pages },
        ),
        startMs,
        { acceleration: 'Observe' },
      ),
      'Succeeded',
      migrated,
    );
    expect(result).toMatchObject({
      accelerated: false,
      attempt: 'Observed',
      reason: 'Observing',
      nasBytes: 0,
      savedBytes: 0,
      savedPercent: 0,
      estimate: { ...estimate, savedBytes: 684_000_000, savedPercent: 90 },
    });
    expect(nasAwareMigrationStatusSchema.parse({ result })).toEqual({ result });
  });

  it('never estimates less than nothing', () => {
    const estimate = { linkBytes: 2e9, nasBytes: 0, pages: exampleResult.pages, hitsCountedTimes: 1 };
    const result = resultOf(
      snapshot({}, results({ outcome: 'observed', plainLinkBytes: 1e9, estimate })),
      'Succeeded',
      migrated,
    );
    expect(result.estimate).toMatchObject({ savedBytes: 0, savedPercent: 0 });
  });

  it('says why it was plain: the source, else the target, else the operator', () => {
    const plain = (view: Partial<CoordinationView>, status: NasAwareMigrationStatus = {}) =>
      resultOf(snapshot(status, { go: false, ...view }), 'Succeeded', migrated);
    expect(plain(results({ outcome: 'raw', reason: 'NoGo' }))).toMatchObject({
      accelerated: false,
      attempt: 'Plain',
      reason: 'NoGo',
    });
    expect(plain({ reason: 'Suspended' })).toMatchObject({ attempt: 'Plain', reason: 'Suspended' });
    expect(plain({})).toMatchObject({ attempt: 'Plain', reason: 'HubUnreachable' });
  });

  it('of Observe is no armed attempt when no sidecar tells how it ended', () => {
    const observing = {
      conditions: [
        {
          type: 'Accelerated',
          status: 'False' as const,
          reason: 'Observing',
          message: '',
          lastTransitionTime: '2026-06-01T12:00:00Z',
        },
      ],
    };
    const failed = { reason: 'MigrationFailed' as const, message: 'it failed' };
    for (const facts of [snapshot({}, {}, startMs, { acceleration: 'Observe' }), snapshot(observing, {})]) {
      expect(resultOf(facts, 'Failed', failed)).toMatchObject({ accelerated: false, attempt: 'Plain' });
      expect(resultOf(facts, 'Succeeded', migrated)).toMatchObject({ accelerated: false, attempt: 'Plain' });
    }
    expect(resultOf(snapshot({}, {}), 'Failed', failed)).toMatchObject({ attempt: 'FailedWhileArmed' });
  });

  it('of an armed attempt that failed opens the breaker, and of one that was cancelled does not', () => {
    const failed = { reason: 'MigrationFailed' as const, message: 'm failed' };
    const view = results({ outcome: 'failed', reason: 'InternalError' });
    expect(resultOf(snapshot({}, view), 'Failed', failed)).toMatchObject({
      accelerated: false,
      attempt: 'FailedWhileArmed',
    });
    expect(resultOf(snapshot({}, view), 'Cancelled', failed).attempt).toBe('Plain');
  });
});
