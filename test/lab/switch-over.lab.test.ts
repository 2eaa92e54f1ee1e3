// An honest switch-over (invariant 6 of the architecture): references make the stream much faster than the link, and QEMU, which
// decides by the rate at which its bytes are taken, must still not stop the VM with more left than the link carries within the
// downtime limit. A guest without a free page, and a source that takes bytes at ten times the link's rate: a run in which a busy
// machine did not get that far shows nothing, is recorded as that, and is made again.
//
// L is what the link carries of the stream: its rate times what re-sent pages shrink to. "At most L x (limit + 0.1 s) of stream
// after STOP" is therefore measured on the link: what crosses it after the source's STOP event is at most what it carries in limit +
// 0.1 s. The stream's own bytes after STOP are recorded beside it. The guest's gap is that of its beacons. The same with the pace
// switched off is the counter-example. Writes build/switch-over.json. `make test-switch-over` makes 20 runs of each.

import { mkdirSync, writeFileSync } from 'node:fs';
import { chown, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Measurement, measureMigration } from './measured-migration.ts';
import { QEMU_OWNER } from './node.ts';

const RUNS = Number(process.env['NASMIG_SWITCH_OVER_RUNS'] ?? 1);
const RUNS_WITHOUT_PACE = Number(process.env['NASMIG_SWITCH_OVER_RUNS_WITHOUT_PACE'] ?? RUNS);

/** Slow enough that a quiet machine of 2 cores takes bytes at ten times its rate. */
const LINK_MBIT = 80;
const LINK_BYTES_PER_SECOND = (LINK_MBIT * 1e6) / 8;
const FASTER_THAN_LINK = 10;
/** For one run that counts. */
const ATTEMPTS = 4;
/** Over the downtime limit: a window of QEMU's is 100 ms. */
const BYTES_MARGIN_MS = 100;
const GAP_MARGIN_MS = 150;
const RUN_TIMEOUT_MS = 120_000;
/** The longest that one run that counts takes with all before and after it. */
const WHOLE_RUN_MS = 180_000 * ATTEMPTS;

interface Run {
  readonly channels: number;
  readonly limitMs: number;
  readonly pace: boolean;
  /** On the link after STOP, headers included, and how many there may be. */
  readonly linkBytesAfterStop: number;
  readonly boundBytes: number;
  /** Of the stream, as the destination QEMU received it after STOP. */
  readonly streamBytesAfterStop: number;
  readonly guestGapMs: number;
  readonly boundGapMs: number;
  /** The most that the source took within a second, and whether that was fast enough for the run to count. */
  readonly fastestSecondBytes: number;
  readonly counts: boolean;
  readonly downtimeMs: number | null;
  readonly totalMs: number;
}

const runs: Run[] = [];
let directory = '';

beforeAll(async () => {
  // The index of the first run serves all: every run begins with the same disk.
  directory = await mkdtemp(join(tmpdir(), 'nasmig-switch-over-'));
  await chown(directory, QEMU_OWNER.uid, QEMU_OWNER.gid);
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

/** A run that counts. Throws when the machine is too busy for one. */
async function run(channels: number, limitMs: number, pace: boolean): Promise<Run> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const seen = await attemptRun(channels, limitMs, pace);
    if (seen.counts) return seen;
  }
  throw new Error(
    `in ${ATTEMPTS} runs the source never took ${FASTER_THAN_LINK} times what the link carries; measure again on a quieter machine`,
  );
}

async function attemptRun(channels: number, limitMs: number, pace: boolean): Promise<Run> {
  const measured: Measurement = await measureMigration({
    ...{ method: 'nas', profile: 'full', suite: 'trixie', index: 'full', verifyAll: false },
    ...{ channels, pace, downtimeLimitMs: limitMs, linkMbit: LINK_MBIT, nasMbit: 0 },
    ...{ timeoutMs: RUN_TIMEOUT_MS, indexFile: join(directory, 'full.index') },
  });
  expect(measured.outcome.error).toBeNull();
  expect(measured.identicalStreams).toBe(true);
  expect(measured.guestSelfCheck).not.toBe('failed');
  const { bytesAfterStop, linkBytesAfterStop, guestGapMs } = measured;
  if (bytesAfterStop === null || linkBytesAfterStop === null || guestGapMs === null)
    throw new Error('nothing was seen of the switch-over');
  const seen: Run = {
    ...{ channels, limitMs, pace, linkBytesAfterStop, guestGapMs },
    streamBytesAfterStop: bytesAfterStop,
    boundBytes: (LINK_BYTES_PER_SECOND * (limitMs + BYTES_MARGIN_MS)) / 1000,
    boundGapMs: limitMs + GAP_MARGIN_MS,
    fastestSecondBytes: measured.fastestSecondBytes,
    counts: measured.fastestSecondBytes >= FASTER_THAN_LINK * LINK_BYTES_PER_SECOND,
    downtimeMs: measured.outcome.downtimeMs,
    totalMs: Math.round(measured.outcome.wallMs),
  };
  runs.push(seen);
  record();
  console.log(
    `${channels} channels, limit ${limitMs} ms, pace ${pace ? 'on' : 'off'}: after STOP ${mebibytes(linkBytesAfterStop)} on the link ` +
      `(bound ${mebibytes(seen.boundBytes)}), ${mebibytes(bytesAfterStop)} of stream, gap ${guestGapMs.toFixed(0)} ms (bound ${seen.boundGapMs}), ` +
      `took up to ${mebibytes(seen.fastestSecondBytes)}/s`,
  );
  return seen;
}

function record(): void {
  mkdirSync('build', { recursive: true });
  const text = JSON.stringify(
    { linkMbit: LINK_MBIT, linkBytesPerSecond: LINK_BYTES_PER_SECOND, runs },
    null,
    2,
  );
  writeFileSync('build/switch-over.json', `${text}\n`);
}

const mebibytes = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MiB`;

const FIGURES = ['streamBytesAfterStop', 'linkBytesAfterStop', 'guestGapMs'] as const;
type Figure = (typeof FIGURES)[number];

const isWithin = (one: Run): boolean =>
  one.linkBytesAfterStop <= one.boundBytes && one.guestGapMs <= one.boundGapMs;

describe.each([
  { channels: 1, limitMs: 300 },
  { channels: 1, limitMs: 900 },
  { channels: 8, limitMs: 300 },
  { channels: 8, limitMs: 900 },
])('switch-over with $channels channels and a downtime limit of $limitMs ms', ({ channels, limitMs }) => {
  it(
    `with the pace, ${RUNS} of ${RUNS} runs leave no more than the link carries in time`,
    async () => {
      const seen: Run[] = [];
      for (let i = 0; i < RUNS; i++) seen.push(await run(channels, limitMs, true));
      expect(seen.filter((one) => !isWithin(one))).toEqual([]);
    },
    RUNS * WHOLE_RUN_MS,
  );

  it(
    `without the pace, the median of ${RUNS_WITHOUT_PACE} runs leaves more`,
    async () => {
      const seen: Run[] = [];
      for (let i = 0; i < RUNS_WITHOUT_PACE; i++) seen.push(await run(channels, limitMs, false));
      const withPace = counted(true).filter((one) => one.channels === channels && one.limitMs === limitMs);
      expect(withPace.length).toBeGreaterThan(0);
      for (const figure of FIGURES)
        expect(median(seen, figure), figure).toBeGreaterThan(median(withPace, figure));
    },
    RUNS_WITHOUT_PACE * WHOLE_RUN_MS,
  );
});

// One run may be lucky: QEMU's own estimate is right now and then.
it('without the pace the switch-over is worse, and leaves more than the link carries in time', () => {
  const without = counted(false);
  expect(without.filter((one) => !isWithin(one)).length).toBeGreaterThanOrEqual(without.length / 2);
  for (const figure of FIGURES)
    expect(sum(without, figure), figure).toBeGreaterThan(2 * sum(counted(true), figure));
});

function counted(pace: boolean): Run[] {
  return runs.filter((one) => one.counts && one.pace === pace);
}

function sum(of: readonly Run[], figure: Figure): number {
  return of.reduce((total, one) => total + one[figure], 0);
}

function median(of: readonly Run[], figure: Figure): number {
  return of.map((one) => one[figure]).sort((a, b) => a - b)[Math.floor(of.length / 2)] ?? Number.NaN;
}
