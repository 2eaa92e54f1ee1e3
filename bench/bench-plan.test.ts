import { describe, expect, it } from 'vitest';
import { BENCH_GROUPS, type BenchCase, caseBefore, scenarioOf, selectCases } from './bench-plan.ts';

const all = Object.values(BENCH_GROUPS).flat();

describe('the plan', () => {
  it('has every guest at 200 Mbit/s with a NAS ten times as fast, by every method', () => {
    for (const guest of ['warm', 'full', 'mixed', 'aged', 'busy', 'cold']) {
      const ways = all
        .filter((one) => one.guest === guest && one.linkMbit === 200 && one.nasMbit === 2000)
        .filter((one) => one.variant === undefined);
      expect(ways.map(({ method }) => method)).toEqual(['plain', 'zstd', 'nas']);
    }
  });

  it('names each case once', () => {
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
  });
});

describe('selectCases', () => {
  it('takes groups and single cases, in the order of the plan', () => {
    expect(selectCases(['warm-slow-nas', 'warm-200/nas']).map(({ id }) => id)).toEqual([
      'warm-200/nas',
      'warm-slow-nas/plain',
      'warm-slow-nas/zstd',
      'warm-slow-nas/nas',
    ]);
    expect(selectCases([])).toEqual(all);
  });

  it('names what it does not know', () => {
    expect(() => selectCases(['warm-300'])).toThrow(/unknown case warm-300.*warm-200/);
  });
});

describe('scenarioOf', () => {
  const scenario = (id: string) => scenarioOf(all.find((one) => one.id === id) as BenchCase);

  it('puts QEMU’s own bandwidth in the place of the pace', () => {
    const { scenario: own } = scenario('warm-200/nas+avail-switchover-bandwidth');
    expect(own).toMatchObject({ pace: false, availSwitchoverBytesPerSecond: 23_750_000 });
    expect(scenario('warm-200/nas').scenario).not.toHaveProperty('availSwitchoverBytesPerSecond');
  });

  it('lets the result of one decide the next', () => {
    const next = all.find(({ variant }) => variant === 'next') as BenchCase;
    expect(caseBefore(next)).toBe('warm-unlimited/nas');
    expect(all.findIndex(({ id }) => id === caseBefore(next))).toBeLessThan(all.indexOf(next));
    expect(caseBefore(all[0] as BenchCase)).toBeUndefined();
  });

  it('rewrites 0.5 % of the disk, and goes to and fro', () => {
    expect(scenario('rewritten-200/nas+rewritten').scenario.beforeMigration).toEqual([
      { kind: 'rewriteFiles', bytes: 10_737_418, seed: 1 },
    ]);
    expect(scenario('second-hop-200/nas+second-hop').hops).toBe(2);
  });
});
