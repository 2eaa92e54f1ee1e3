import { describe, expect, it } from 'vitest';
import { type BenchRecord, benchTable, median } from './bench-plan.ts';

describe('median', () => {
  it('is the middle value, the lower of two, null of none', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2);
    expect(median([null, 5])).toBe(5);
    expect(median([null])).toBeNull();
  });
});

describe('benchTable', () => {
  const base: BenchRecord = {
    method: 'plain',
    guest: 'warm',
    channels: 8,
    linkMbit: 200,
    nasMbit: 2000,
    runs: 3,
    linkBytes: 1000 * 1024 * 1024,
    nasBytes: 0,
    indexNasBytes: 0,
    totalMs: 40_000,
    downtimeMs: 300,
    guestGapMs: 320,
    cpuSeconds: null,
    streamBytes: 1000 * 1024 * 1024,
    converged: true,
  };

  it('gives ratios to plain with the same guest and rates, and none without', () => {
    const nas: BenchRecord = {
      ...base,
      method: 'nas',
      linkBytes: 50 * 1024 * 1024,
      totalMs: 8000,
      cpuSeconds: 2.5,
    };
    const table = benchTable([base, nas, { ...nas, linkMbit: 1000 }]).split('\n');
    expect(table[3]).toBe(
      '| warm | 200, 2000 | nas | 50.0 | 20.0 x | 8.00 | 5.0 x | 300 | 320 | 0.0 | 2.50 |',
    );
    expect(table[4]).toContain('| nas | 50.0 |  | 8.00 |  |');
  });

  it('says what did not converge', () => {
    expect(benchTable([{ ...base, converged: false, totalMs: null }])).toContain('plain (did not converge)');
  });
});
