import { describe, expect, it } from 'vitest';
import { paletteFor, signsFor } from '../output/colours.ts';
import { cut, width, withoutColours } from '../output/table.ts';
import { condition, instant, migration, NOW_MS, progress, succeeded } from '../testing/objects.ts';
import { RateMeter } from './rates.ts';
import { block, changeLine, screen, type ViewOptions } from './view.ts';

const options = (change: Partial<ViewOptions> = {}): ViewOptions => ({
  columns: 100,
  palette: paletteFor(false, {}),
  signs: signsFor({}),
  withNamespace: true,
  nowMs: NOW_MS,
  ...change,
});

const running = migration('move-db', {
  phase: 'Migrating',
  conditions: [condition('Accelerated', 'True', 'Framed')],
  source: { node: 'node-1' },
  target: { node: 'node-2' },
  progress: progress(),
});

describe('a migration that runs', () => {
  it('has phase, bar, rates and time left', () => {
    const lines = block(
      running,
      { linkBytesPerSecond: 12 * 2 ** 20, nasBytesPerSecond: 180 * 2 ** 20 },
      options(),
    );
    expect(lines).toEqual([
      'shop/move-db   VM db   Migrating   accelerated   node-1 -> node-2',
      '  [##########################----------------------------------]  43 %   pass 1   2.0 s left',
      '  guest memory 210.0 MiB/s   link 12.0 MiB/s   NAS 180.0 MiB/s',
      '  on the link 75.0 MiB   from the NAS 1.6 GiB   remaining 400.0 MiB',
    ]);
  });

  it('never draws past the last column, however narrow', () => {
    const long = migration('move-a-database-with-a-very-long-name-indeed', running.status, {
      vmi: 'a-database',
    });
    for (let columns = 1; columns <= 120; columns += 1)
      for (const line of block(
        long,
        undefined,
        options({ columns, palette: paletteFor(true, {}), signs: signsFor({ LANG: 'C.UTF-8' }) }),
      ))
        expect(width(line)).toBeLessThanOrEqual(columns);
  });

  it('says what it waits for before there is progress', () => {
    const waiting = migration('move-db', {
      phase: 'Preparing',
      conditions: [condition('Accelerated', 'Unknown', 'NoNasPermit', 'the budget of reads is used up')],
    });
    expect(block(waiting, undefined, options())).toContain('  the budget of reads is used up');
    expect(block(migration('new'), undefined, options())).toContain(
      '  waiting for the operator to take it up',
    );
  });
});

describe('a migration that is over', () => {
  it('has pages by kind, saved bytes and times', () => {
    const lines = block(
      migration('move-db', {
        ...succeeded('Accelerated', { resends: 2 }),
        progress: progress({ percent: 100 }),
      }),
      undefined,
      options({ withNamespace: false }),
    );
    expect(lines).toEqual([
      'move-db   VM db   Succeeded   accelerated',
      '  [############################################################] 100 %',
      '  took 14.9 s   VM stopped 111 ms   passes 3',
      '  pages: from the NAS 200000 (83 %, 781.3 MiB)   over the link 39000 (38000 compressed)   zero 22000',
      '  saved 858.3 MiB (90 %)   on the link 76.3 MiB   from the NAS 667.6 MiB   batches resent 2',
    ]);
  });

  it('says would have saved when it was only observed, and why it was plain', () => {
    expect(block(migration('o', succeeded('Observed')), undefined, options()).join('\n')).toContain(
      'would have saved 858.3 MiB',
    );
    expect(block(migration('p', succeeded('Plain')), undefined, options()).join('\n')).toContain(
      'NoSidecar: words',
    );
  });

  it('says why it failed', () => {
    const failed = migration('f', {
      phase: 'Failed',
      conditions: [condition('Complete', 'True', 'MigrationFailed', 'no room on the target')],
    });
    expect(block(failed, undefined, options())).toContain('  no room on the target');
  });
});

describe('a screen', () => {
  const one = (name: string, finished: boolean, lines = 3) => ({
    finished,
    lines: Array.from({ length: lines }, (_, at) => `${name}${at}`),
  });

  it('has those under way first', () => {
    expect(screen([one('a', true, 1), one('b', false, 1)], 'head', 'foot', 24, 80)).toEqual([
      'head',
      '',
      'b0',
      '',
      'a0',
      'foot',
    ]);
  });

  it('never has more lines than rows nor columns than there are, and counts what it hides', () => {
    const blocks = Array.from({ length: 9 }, (_, at) => one(`name-${at}-`, at % 2 === 0));
    for (let rows = 1; rows <= 45; rows += 1)
      for (const columns of [5, 40]) {
        const lines = screen(blocks, 'head', 'foot', rows, columns);
        expect(lines.length).toBeLessThanOrEqual(rows);
        for (const line of lines) expect(width(line)).toBeLessThanOrEqual(columns);
      }
    expect(screen(blocks, 'head', 'foot', 12, 80).join('\n')).toContain('… and 7 more');
    expect(screen(blocks, 'head', 'foot', 60, 80).join('\n')).not.toContain('more');
  });
});

describe('colours', () => {
  it('are cut whole', () => {
    const red = '\u001b[31mabcdef\u001b[39m';
    expect(cut(red, 3)).toBe('\u001b[31mabc\u001b[39m');
    expect(withoutColours(red)).toBe('abcdef');
  });

  it('are not for pipes, NO_COLOR or a dumb terminal', () => {
    expect(paletteFor(true, {}).bad('x')).toBe('\u001b[31mx\u001b[39m');
    expect(paletteFor(false, {}).bad('x')).toBe('x');
    expect(paletteFor(true, { NO_COLOR: '1' }).bad('x')).toBe('x');
    // The empty value is no refusal (no-color.org).
    expect(paletteFor(true, { NO_COLOR: '' }).bad('x')).not.toBe('x');
    expect(paletteFor(true, { TERM: 'dumb' }).bad('x')).toBe('x');
  });
});

describe('rates', () => {
  const at = (agoMs: number, linkBytes: number, nasBytes: number) => ({
    ...running,
    status: { ...running.status, progress: progress({ updateTime: instant(agoMs), linkBytes, nasBytes }) },
  });

  it('need two reports, and stay until the next', () => {
    const meter = new RateMeter();
    expect(meter.take(at(20_000, 0, 0))).toBeUndefined();
    expect(meter.take(at(20_000, 0, 0))).toBeUndefined();
    expect(meter.take(at(10_000, 1000, 5000))).toEqual({ linkBytesPerSecond: 100, nasBytesPerSecond: 500 });
    expect(meter.take(at(10_000, 1000, 5000))).toEqual({ linkBytesPerSecond: 100, nasBytesPerSecond: 500 });
    // A sidecar that began anew counts from nothing; a rate is not negative.
    expect(meter.take(at(0, 0, 0))).toEqual({ linkBytesPerSecond: 0, nasBytesPerSecond: 0 });
  });
});

describe('a line for a change', () => {
  it('has names and numbers that a script can read', () => {
    expect(changeLine(running, true)).toBe(
      'shop/move-db vmi=db phase=Migrating accelerated=Yes percent=43 pass=1 remainingBytes=419430400 linkBytes=78643200 nasBytes=1677721600 secondsLeft=2',
    );
    expect(changeLine(migration('m', succeeded('Plain', { reason: 'NoSidecar' })), false)).toMatch(
      /^m vmi=db phase=Succeeded accelerated=No savedBytes=900000000 savedPercent=90 .*reason=NoSidecar$/,
    );
  });
});
