import { describe, expect, it } from 'vitest';
import {
  attemptIndexValues,
  attemptOf,
  attemptsOfVm,
  byAttempt,
  clearsFailures,
  isPlainFaster,
  recentFailures,
} from './attempts.ts';
import { clusterBreaker, vmBreaker } from './breaker.ts';
import type { MigrationObject } from './snapshot.ts';

const HOUR = 3_600_000;
const now = Date.parse('2026-06-01T12:30:00Z');

const record = (vmiName: string, attempt: string, hoursAgo: number): MigrationObject => ({
  metadata: { namespace: 'shop', name: `${vmiName}-${hoursAgo}` },
  spec: { vmiName },
  status: {
    completionTime: new Date(now - hoursAgo * HOUR).toISOString(),
    result: { attempt, accelerated: attempt === 'Accelerated', qemuBytes: 5000 },
  },
});

/** As the cache indexes them; counts what is looked at. */
function indexOf(objects: readonly MigrationObject[]) {
  const seen = { objects: 0 };
  const find = (name: string, value: string) => {
    expect(name).toBe(byAttempt);
    const found = objects.filter((object) => attemptIndexValues(object).includes(value));
    seen.objects += found.length;
    return found;
  };
  return { find, seen };
}

describe('attempts', () => {
  it('are the records of armed migrations only', () => {
    expect(attemptOf(record('db', 'FailedWhileArmed', 1))).toMatchObject({
      outcome: 'failed',
      vmiName: 'db',
    });
    expect(attemptOf(record('db', 'Accelerated', 1))).toMatchObject({ qemuBytes: 5000 });
    for (const attempt of ['Plain', 'Observed'])
      expect(attemptIndexValues(record('db', attempt, 1))).toEqual([]);
    expect(attemptOf({ metadata: { name: 'new' } })).toBeUndefined();
  });

  it('of a VM are found, also old ones, and no others', () => {
    const index = indexOf([
      record('db', 'FailedWhileArmed', 20),
      record('db', 'Accelerated', 30),
      record('web', 'Accelerated', 1),
    ]);
    expect(attemptsOfVm(index, 'shop', 'db')).toHaveLength(2);
    expect(attemptsOfVm(index, 'other', 'db')).toEqual([]);
  });

  it('tell for a day that plain is faster, the newest of the VM', () => {
    const told = (vmiName: string, hoursAgo: number, plainFaster: boolean) => {
      const object = record(vmiName, 'Accelerated', hoursAgo);
      const { result, ...status } = object.status as { result: object };
      return { ...object, status: { ...status, result: { ...result, isPlainFaster: plainFaster } } };
    };
    const objects = [
      ...[told('db', 5, true), told('db', 6, false), told('web', 5, true), told('web', 4, false)],
      ...[told('old', 25, true), record('none', 'FailedWhileArmed', 1)],
    ];
    const of = (vmiName: string) => isPlainFaster(attemptsOfVm(indexOf(objects), 'shop', vmiName), now);
    expect(['db', 'web', 'old', 'none'].map(of)).toEqual([true, false, false, false]);
  });

  it('that succeeded have to stay while they clear failures: the newest alone, and only of earlier ones', () => {
    const at = (hoursAgo: number, outcome: 'failed' | 'accelerated') => ({
      ...{ namespace: 'shop', vmiName: 'db', endMs: now - hoursAgo * HOUR, outcome },
    });
    const attempts = [at(30, 'failed'), at(29, 'accelerated'), at(2, 'failed')];
    expect(clearsFailures(attempts, now - 29 * HOUR)).toBe(true);
    // A failure that nothing counts any more needs nothing to clear it.
    expect(clearsFailures([at(60, 'failed'), at(30, 'accelerated')], now - 30 * HOUR)).toBe(false);
    // Without it, two failures in a row would keep the breaker open for two hours.
    expect(vmBreaker(attempts, now)).toBeUndefined();
    expect(vmBreaker([at(30, 'failed'), at(1.5, 'failed')], now)).toBeDefined();
    expect(clearsFailures([...attempts, at(1, 'accelerated')], now - 29 * HOUR)).toBe(false);
    expect(clearsFailures([at(29, 'accelerated'), at(2, 'failed')], now - 29 * HOUR)).toBe(false);
  });

  it('that failed within the hour are found by their hour, over its turn too', () => {
    const old = Array.from({ length: 500 }, (_, i) => record('db', 'FailedWhileArmed', 3 + i));
    const index = indexOf([
      ...old,
      record('a', 'FailedWhileArmed', 0.1),
      record('b', 'FailedWhileArmed', 0.9),
      record('c', 'FailedWhileArmed', 1.1),
      record('d', 'Accelerated', 0.2),
    ]);
    expect(
      recentFailures(index, now)
        .map(({ vmiName }) => vmiName)
        .sort(),
    ).toEqual(['a', 'b']);
    expect(index.seen.objects).toBeLessThan(10);
  });

  it('count when the clock of who wrote them was ahead', () => {
    expect(recentFailures(indexOf([record('a', 'FailedWhileArmed', -0.6)]), now)).toHaveLength(1);
  });

  it('open the breaker of the cluster until only two are left within an hour', () => {
    const failures = [0.1, 0.2, 0.5, 0.7].map((hours) => record('db', 'FailedWhileArmed', hours));
    const open = clusterBreaker(recentFailures(indexOf(failures), now), now);
    expect(open).toMatchObject({ failures: 4, untilMs: now + HOUR / 2 });
    expect(clusterBreaker(recentFailures(indexOf(failures), now + HOUR / 2), now + HOUR / 2)).toBeUndefined();
    expect(clusterBreaker(recentFailures(indexOf(failures.slice(2)), now), now)).toBeUndefined();
  });
});
