import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { floorResults } from './bench-floors.ts';
import { selectCases } from './bench-plan.ts';
import { benchPlot } from './bench-plot.ts';
import { type BenchRecord, median, recordsOf } from './bench-record.ts';
import { appendRun, type BenchRun, readRuns } from './bench-runs.ts';
import { benchTable, floorTable } from './bench-table.ts';

const MIB = 2 ** 20;

function run(caseId: string, changes: Partial<BenchRun> = {}): BenchRun {
  return {
    ...{ case: caseId, at: '2026-01-01T00:00:00.000Z', converged: true },
    ...{ linkBytes: 1000 * MIB, nasBytes: 2 * MIB, sourceNasBytes: MIB, indexNasBytes: 0 },
    growthNasBytes: 0,
    ...{ totalMs: 40_000, downtimeMs: 300, guestGapMs: 320, cpuSeconds: 0, streamBytes: 1000 * MIB },
    ...{ labCpuSeconds: 12, busyShare: 0.25 },
    ...{ referencePages: null, literalPages: null, resentPages: null, declinedPages: null },
    ...{ referencesOff: null, isPlainFaster: false, writtenSinceIndex: 0, loadAverage: 1 },
    ...changes,
  };
}

const nasRun = (changes: Partial<BenchRun> = {}): BenchRun =>
  run('warm-200/nas', {
    ...{ linkBytes: 50 * MIB, nasBytes: 902 * MIB, sourceNasBytes: 101 * MIB, indexNasBytes: 150 * MIB },
    ...{ totalMs: 8000, cpuSeconds: 2.5 },
    ...changes,
  });

describe('median', () => {
  it('is the middle value, the lower of two, null of none', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2);
    expect(median([null, 5])).toBe(5);
    expect(median([null])).toBeNull();
  });
});

describe('recordsOf', () => {
  it('has the form of build/bench.json, medians, and less NAS bytes by what plain read', () => {
    const runs = [
      run('warm-200/plain'),
      nasRun({ totalMs: 9000, growthNasBytes: 30 * MIB }),
      nasRun({ totalMs: 8000, growthNasBytes: 29 * MIB }),
      nasRun({ totalMs: 99_000, growthNasBytes: 31 * MIB }),
    ];
    const [, nas] = recordsOf(selectCases(['warm-200']), runs);
    expect(nas).toEqual({
      ...{ method: 'nas', guest: 'warm', channels: 8, linkMbit: 200, nasMbit: 2000 },
      ...{ linkBytes: 50 * MIB, nasBytes: 900 * MIB, indexNasBytes: 280 * MIB, totalMs: 9000 },
      ...{ downtimeMs: 300, guestGapMs: 320, cpuSeconds: 2.5, streamBytes: 1000 * MIB, converged: true },
      ...{ labCpuSeconds: 12, busyShare: 0.25 },
    });
  });

  it('leaves out cases without runs, and marks variants', () => {
    const records = recordsOf(selectCases(['second-hop-200', 'full-200']), [
      run('second-hop-200/nas+second-hop'),
    ]);
    expect(records).toHaveLength(1);
    expect(records[0]?.variant).toBe('second-hop');
  });

  it('says that a case did not converge when half of its runs did not', () => {
    const cut = run('busy-200/plain', { converged: false, totalMs: 120_000 });
    const cases = selectCases(['busy-200']);
    expect(recordsOf(cases, [cut, run('busy-200/plain')])[0]).toMatchObject({
      converged: false,
      totalMs: null,
    });
    expect(recordsOf(cases, [cut, run('busy-200/plain'), run('busy-200/plain')])[0]).toMatchObject({
      ...{ converged: true, totalMs: 40_000 },
    });
  });
});

describe('the runs of an interrupted bench', () => {
  let path = '';
  beforeEach(() => {
    path = join(mkdtempSync(join(tmpdir(), 'nasmig-bench-')), 'runs.jsonl');
  });
  afterEach(() => rmSync(join(path, '..'), { recursive: true }));

  it('are read back, but for a last line that was being written', () => {
    expect(readRuns(path)).toEqual([]);
    appendRun(path, run('warm-200/plain'));
    appendRun(path, nasRun());
    expect(readRuns(path)).toEqual([run('warm-200/plain'), nasRun()]);
    writeFileSync(path, `${JSON.stringify(nasRun())}\n{"case":"warm-2`);
    expect(readRuns(path)).toEqual([nasRun()]);
  });

  it('are refused when they are something else', () => {
    writeFileSync(path, '{"case":"warm-200/plain"}\n');
    expect(() => readRuns(path)).toThrow(/runs.jsonl:1 is not a run/);
  });
});

const records = (changes: Partial<BenchRun> = {}): BenchRecord[] =>
  recordsOf(selectCases(['warm-200']), [run('warm-200/plain'), nasRun(changes)]);

describe('tables', () => {
  it('give ratios to plain with the same guest and rates', () => {
    const [, , , nas] = benchTable(records()).split('\n');
    expect(nas).toBe(
      '| warm | 200, 2000 | nas | 50.0 | 20.0 x | 8.00 | 5.0 x | 300 | 320 | 900.0 | 250.0 | 2.50 | 12.0 | 25 % |',
    );
  });

  it('say what did not converge', () => {
    const table = benchTable(
      recordsOf(selectCases(['busy-200']), [run('busy-200/plain', { converged: false })]),
    );
    expect(table).toContain('plain: did not converge');
  });

  it('say which floors hold, which do not, and which were not measured', () => {
    const results = floorResults(records({ linkBytes: 100 * MIB }), {
      nonZeroBlocks: (250 * MIB) / 4096 / 0.15,
    });
    const held = (figure: string) =>
      results.filter((result) => result.figure === figure).map(({ holds }) => holds);
    expect(held('link bytes, plain over ours')).toEqual([false, null]);
    expect(held('total time, plain over ours')).toEqual([true, null, null]);
    expect(held('percent of non-zero blocks read')).toEqual([true]);
    expect(held('downtime in ms')).toEqual([true]);
    expect(held("plain's rate on the link, of what is set")).toEqual([true]);
    expect(results.find(({ figure }) => figure.startsWith('CPU'))?.reached).toBe('2.38');
    expect(floorTable(results)).toContain('| at least 13 | 10.00 | **no** |');
    expect(floorTable(results)).toContain('| not measured |  |');
  });
});

describe('floorResults', () => {
  const disk = { nonZeroBlocks: 1e6 };
  const ofPlan = (changes: Readonly<Record<string, Partial<BenchRun>>> = {}) => {
    const cases = selectCases([]);
    return floorResults(
      recordsOf(
        cases,
        cases.map(({ id }) => run(id, changes[id])),
      ),
      disk,
    );
  };

  it('measures every floor when the whole plan was run', () => {
    expect(ofPlan().filter(({ holds }) => holds === null)).toEqual([]);
  });

  it('compares a cold guest with plain at each rate by itself', () => {
    const cold = (changes: Parameters<typeof ofPlan>[0]) =>
      ofPlan(changes)
        .filter(({ on }) => on.startsWith('cold'))
        .map(({ on, holds }) => [on, holds]);
    expect(cold({ 'cold-unlimited/nas': { totalMs: 80_000 } })).toEqual([
      ['cold, 200 Mbit/s', true],
      ['cold, 1 Gbit/s', true],
      ['cold, unlimited', false],
    ]);
  });
});

describe('benchPlot', () => {
  it('has a bar for each way and figure, as long as its share of plain', () => {
    const plot = benchPlot(records());
    const bars = [
      ...plot.matchAll(/<rect x="\d+" y="\d+" width="([\d.]+)" height="14" fill="(#\w+)"/g),
    ].slice(3);
    expect(bars.map(([, width, colour]) => `${colour} ${width}`)).toEqual([
      '#9a9a9a 290.9',
      '#9a9a9a 290.9',
      '#1f5fa8 14.5',
      '#1f5fa8 58.2',
    ]);
    expect(plot).toContain('8.0 s');
  });

  it('says what did not converge', () => {
    expect(benchPlot(records({ converged: false }))).toContain('did not converge');
  });
});
