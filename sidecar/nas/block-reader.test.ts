import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { BlockReader, type BlockRun, type ReadOutcome } from './block-reader.ts';
import { MemoryVolume, patternBlocks } from './memory-volume.ts';
import { BlockRangeError } from './nas-error.ts';
import { alignedMemory, BLOCK_BYTES, openVolume } from './volume.ts';

const DONE: Omit<ReadOutcome, 'pages'> = { missingCount: 0, missing: null, failure: null, failedVolume: -1 };

function makeRun(block: number, count: number, offset: number, stride = BLOCK_BYTES, volume = 0): BlockRun {
  return { volume, block, count, offset, stride };
}

function missingPages(outcome: ReadOutcome): number[] {
  const { missing, pages } = outcome;
  if (missing === null) return [];
  return Array.from({ length: pages }, (_, i) => i).filter(
    (i) => ((missing[i >> 3] as number) & (1 << (i & 7))) !== 0,
  );
}

/** Whether page `i` of the destination at `offset` is the block. */
function isBlock(volume: MemoryVolume, block: number, destination: Uint8Array, offset: number): boolean {
  const wanted = volume.content.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
  return Buffer.compare(wanted, destination.subarray(offset, offset + BLOCK_BYTES)) === 0;
}

describe('BlockReader', () => {
  it('sorts, reads through small gaps, and puts every page in its place', async () => {
    const volume = new MemoryVolume('a', patternBlocks(512));
    const reader = new BlockReader({ volumes: [volume] });
    const stride = BLOCK_BYTES + 9;
    const destination = new Uint8Array(8 * stride).fill(0xee);
    // Blocks 120-121 and 129 are 7 apart and share a read; 139 is 9 behind and does not.
    const runs = [makeRun(139, 1, 3 * stride), makeRun(120, 2, 0, stride), makeRun(129, 1, 2 * stride)];
    expect(await reader.readBlocks(runs, destination)).toEqual({ pages: 4, ...DONE });
    expect(volume.reads).toEqual([
      { position: 120 * BLOCK_BYTES, length: 10 * BLOCK_BYTES },
      { position: 139 * BLOCK_BYTES, length: BLOCK_BYTES },
    ]);
    [120, 121, 129, 139].forEach((block, i) => {
      expect(isBlock(volume, block, destination, i * stride)).toBe(true);
      expect(destination.subarray(i * stride + BLOCK_BYTES, (i + 1) * stride)).toEqual(
        new Uint8Array(9).fill(0xee),
      );
    });
    expect(reader.stats).toMatchObject({
      bytesRead: 11 * BLOCK_BYTES,
      bytesWanted: 4 * BLOCK_BYTES,
      reads: 2,
      runs: 3,
    });
  });

  it('reads a block once that is wanted twice, and overlapping runs together', async () => {
    const volume = new MemoryVolume('a', patternBlocks(64));
    const reader = new BlockReader({ volumes: [volume] });
    const destination = new Uint8Array(9 * BLOCK_BYTES);
    const runs = [makeRun(10, 5, 0), makeRun(12, 1, 5 * BLOCK_BYTES), makeRun(13, 3, 6 * BLOCK_BYTES)];
    await reader.readBlocks(runs, destination);
    expect(volume.reads).toEqual([{ position: 10 * BLOCK_BYTES, length: 6 * BLOCK_BYTES }]);
    [10, 11, 12, 13, 14, 12, 13, 14, 15].forEach((block, i) => {
      expect(isBlock(volume, block, destination, i * BLOCK_BYTES)).toBe(true);
    });
  });

  it('lets the kernel read into aligned memory itself, each read to its place, and says what is missing', async () => {
    const volume = new MemoryVolume('a', patternBlocks(100));
    const reader = new BlockReader({ volumes: [volume], maxReadBytes: 16 * BLOCK_BYTES });
    const destination = alignedMemory(40 * BLOCK_BYTES);
    const read = vi.spyOn(volume, 'read');
    expect(await reader.readAligned(0, 10, 40, destination)).toEqual({ pages: 40, ...DONE });
    const wanted = volume.content.subarray(10 * BLOCK_BYTES, 50 * BLOCK_BYTES);
    expect(Buffer.compare(destination.subarray(0, 40 * BLOCK_BYTES), wanted)).toBe(0);
    expect(read.mock.calls.map(([into]) => into.buffer === destination.buffer)).toEqual([
      true,
      true,
      true,
      true,
    ]);
    volume.endBytes = 49 * BLOCK_BYTES;
    expect(missingPages(await reader.readAligned(0, 10, 40, destination))).toEqual([39]);
  });

  it('cuts long runs at multiples of the largest read, and bounds the reads in flight', async () => {
    const volume = new MemoryVolume('a', patternBlocks(1000));
    const reader = new BlockReader({ volumes: [volume], maxReadBytes: 16 * BLOCK_BYTES, maxInFlight: 3 });
    const destination = new Uint8Array(900 * BLOCK_BYTES);
    await reader.readBlocks([makeRun(50, 900, 0)], destination);
    expect(Buffer.compare(destination, volume.content.subarray(50 * BLOCK_BYTES, 950 * BLOCK_BYTES))).toBe(0);
    expect(volume.reads[0]).toEqual({ position: 50 * BLOCK_BYTES, length: 14 * BLOCK_BYTES });
    for (const { position, length } of volume.reads.slice(1)) {
      expect(position % (16 * BLOCK_BYTES)).toBe(0);
      expect(length).toBeLessThanOrEqual(16 * BLOCK_BYTES);
    }
    expect(volume.mostOutstanding).toBe(3);
  });

  it('reads several volumes, and answers an empty request', async () => {
    const volumes = [new MemoryVolume('a', patternBlocks(8, 1)), new MemoryVolume('b', patternBlocks(8, 2))];
    const reader = new BlockReader({ volumes });
    const destination = new Uint8Array(2 * BLOCK_BYTES);
    await reader.readBlocks([makeRun(3, 1, 0, BLOCK_BYTES, 1), makeRun(3, 1, BLOCK_BYTES)], destination);
    expect(isBlock(volumes[1] as MemoryVolume, 3, destination, 0)).toBe(true);
    expect(isBlock(volumes[0] as MemoryVolume, 3, destination, BLOCK_BYTES)).toBe(true);
    expect(await reader.readBlocks([], destination)).toEqual({ pages: 0, ...DONE });
  });

  it('refuses blocks and places that are not there before it reads anything', () => {
    const volume = new MemoryVolume('a', patternBlocks(8));
    const reader = new BlockReader({ volumes: [volume] });
    const destination = new Uint8Array(3 * BLOCK_BYTES);
    const bad: BlockRun[] = [
      makeRun(8, 1, 0),
      makeRun(6, 3, 0),
      makeRun(-1, 1, 0),
      makeRun(0, 0, 0),
      makeRun(0, 1.5, 0),
      makeRun(0, Number.POSITIVE_INFINITY, 0),
      makeRun(Number.NaN, 1, 0),
      makeRun(2 ** 53, 1, 0),
      makeRun(0, 1, 0, BLOCK_BYTES, 1),
      makeRun(0, 1, 2 * BLOCK_BYTES + 1),
      makeRun(0, 1, -1),
      makeRun(0, 3, 0, BLOCK_BYTES + 1),
      makeRun(0, 2, 0, BLOCK_BYTES - 1),
      makeRun(0, 2, 0, Number.NaN),
    ];
    for (const run of bad) {
      expect(() => reader.readBlocks([makeRun(0, 1, 0), run], destination)).toThrow(BlockRangeError);
    }
    expect(volume.reads).toEqual([]);
  });

  it('tells which pages are missing when a read fails, and reads the others', async () => {
    const volume = new MemoryVolume('a', patternBlocks(200));
    volume.failAt.add(100 * BLOCK_BYTES);
    const reader = new BlockReader({ volumes: [volume] });
    const destination = new Uint8Array(30 * BLOCK_BYTES);
    const outcome = await reader.readBlocks(
      [makeRun(100, 10, 0), makeRun(0, 10, 10 * BLOCK_BYTES), makeRun(108, 10, 20 * BLOCK_BYTES)],
      destination,
    );
    expect(outcome).toMatchObject({ pages: 30, missingCount: 20, failedVolume: 0 });
    expect(outcome.failure).toMatchObject({ code: 'NASMIG_NAS_READ', volume: 'a' });
    expect(outcome.failure?.message).toMatch(/73728 bytes at 409600 failed: EIO/);
    expect(missingPages(outcome)).toEqual([
      ...Array(10).keys(),
      ...Array.from({ length: 10 }, (_, i) => 20 + i),
    ]);
    for (let i = 0; i < 10; i++) expect(isBlock(volume, i, destination, (10 + i) * BLOCK_BYTES)).toBe(true);
    expect(reader.stats.failures).toBe(1);
  });

  it('takes what is there of a volume that has become shorter, whole blocks only', async () => {
    const volume = new MemoryVolume('a', patternBlocks(100));
    volume.endBytes = 53 * BLOCK_BYTES + 4000;
    const reader = new BlockReader({ volumes: [volume] });
    const destination = new Uint8Array(10 * BLOCK_BYTES);
    const outcome = await reader.readBlocks(
      [makeRun(50, 5, 0), makeRun(60, 5, 5 * BLOCK_BYTES)],
      destination,
    );
    expect(outcome.failure).toMatchObject({ code: 'NASMIG_VOLUME_SHORT', volume: 'a' });
    expect(missingPages(outcome)).toEqual([3, 4, 5, 6, 7, 8, 9]);
    expect(isBlock(volume, 52, destination, 2 * BLOCK_BYTES)).toBe(true);
    expect(destination.subarray(3 * BLOCK_BYTES).every((byte) => byte === 0)).toBe(true);
  });

  it('ends at the deadline, never writes later, and keeps the memory until the kernel is done', async () => {
    const slow = new MemoryVolume('slow', patternBlocks(64, 1));
    const fast = new MemoryVolume('fast', patternBlocks(64, 2));
    slow.held = true;
    const reader = new BlockReader({ volumes: [slow, fast], maxInFlight: 2, maxReadBytes: 8 * BLOCK_BYTES });
    const destination = new Uint8Array(32 * BLOCK_BYTES);
    const startedAt = performance.now();
    const runs = [makeRun(0, 8, 0, BLOCK_BYTES, 1), makeRun(0, 24, 8 * BLOCK_BYTES)];
    const outcome = await reader.readBlocks(runs, destination, 30);
    expect(performance.now() - startedAt).toBeLessThan(1000);
    expect(outcome.failure).toMatchObject({ code: 'NASMIG_NAS_DEADLINE', volume: 'slow' });
    expect(outcome.failedVolume).toBe(0);
    // Both slices are stuck with the slow volume, so the fast one was never asked.
    expect(outcome.missingCount).toBe(32);
    expect(reader.stuckReads).toBe(2);

    const next = await reader.readBlocks([makeRun(5, 1, 0, BLOCK_BYTES, 1)], destination, 30);
    expect(next.failure).toMatchObject({ code: 'NASMIG_NAS_DEADLINE', volume: 'fast' });
    expect(next.failure?.message).toMatch(/not begun for 2 stuck ones/);
    expect(fast.reads).toEqual([]);

    slow.release();
    expect(reader.stuckReads).toBe(0);
    expect(destination.every((byte) => byte === 0)).toBe(true);
    expect(slow.reads).toHaveLength(2);
    const last = await reader.readBlocks([makeRun(5, 1, 0, BLOCK_BYTES, 1)], destination, 1000);
    expect(last).toEqual({ pages: 1, ...DONE });
    expect(isBlock(fast, 5, destination, 0)).toBe(true);
    expect(reader.stats).toMatchObject({ deadlines: 2, failures: 0 });
  });

  it('gives at the deadline what came before it', async () => {
    const slow = new MemoryVolume('slow', patternBlocks(64, 1));
    const fast = new MemoryVolume('fast', patternBlocks(64, 2));
    slow.held = true;
    const reader = new BlockReader({ volumes: [slow, fast] });
    const destination = new Uint8Array(4 * BLOCK_BYTES);
    const runs = [makeRun(1, 2, 0), makeRun(1, 2, 2 * BLOCK_BYTES, BLOCK_BYTES, 1)];
    const outcome = await reader.readBlocks(runs, destination, 40);
    expect(missingPages(outcome)).toEqual([0, 1]);
    expect(isBlock(fast, 1, destination, 2 * BLOCK_BYTES)).toBe(true);
    slow.release();
  });

  it('ends everything when it is closed', async () => {
    const volume = new MemoryVolume('a', patternBlocks(64));
    volume.held = true;
    const reader = new BlockReader({ volumes: [volume], maxInFlight: 1, maxReadBytes: BLOCK_BYTES });
    const destination = new Uint8Array(4 * BLOCK_BYTES);
    const first = reader.readBlocks([makeRun(0, 4, 0)], destination);
    const second = reader.readBlocks([makeRun(0, 4, 0)], destination);
    reader.close();
    for (const outcome of [
      await first,
      await second,
      await reader.readBlocks([makeRun(0, 1, 0)], destination),
    ]) {
      expect(outcome.failure).toMatchObject({ code: 'NASMIG_NAS_CLOSED', volume: 'a' });
      expect(outcome.missingCount).toBe(outcome.pages);
    }
    volume.release();
    await sleep(5);
    expect(volume.reads).toHaveLength(1);
    expect(reader.stuckReads).toBe(0);
  });

  it('reads a real file, uncached, and notices when it shrinks', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'block-reader-'));
    try {
      const path = join(directory, 'disk.img');
      const content = patternBlocks(1024);
      await writeFile(path, content);
      const volume = await openVolume({ name: 'disk', path }, () => undefined);
      const reader = new BlockReader({ volumes: [volume], maxReadBytes: 64 * BLOCK_BYTES });
      const destination = new Uint8Array(1000 * BLOCK_BYTES);
      const runs = [makeRun(24, 500, 500 * BLOCK_BYTES), makeRun(524, 500, 0)];
      expect(await reader.readBlocks(runs, destination)).toEqual({ pages: 1000, ...DONE });
      const swapped = Buffer.concat([
        destination.subarray(500 * BLOCK_BYTES),
        destination.subarray(0, 500 * BLOCK_BYTES),
      ]);
      expect(Buffer.compare(swapped, content.subarray(24 * BLOCK_BYTES))).toBe(0);
      await truncate(path, 1000 * BLOCK_BYTES);
      const outcome = await reader.readBlocks([makeRun(990, 34, 0)], destination);
      expect(outcome.failure?.code).toBe('NASMIG_VOLUME_SHORT');
      expect(missingPages(outcome)).toEqual(Array.from({ length: 24 }, (_, i) => 10 + i));
      await volume.close();
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('measures time and rate of its reads', async () => {
    const volume = new MemoryVolume('a', patternBlocks(256));
    let now = 0;
    const reader = new BlockReader({ volumes: [volume], now: () => now });
    const destination = new Uint8Array(256 * BLOCK_BYTES);
    expect([reader.bytesPerSecond(), reader.p99Micros()]).toEqual([0, 0]);
    const readFor = async (ms: number) => {
      volume.held = true;
      const reading = reader.readBlocks([makeRun(0, 256, 0)], destination);
      now += ms;
      volume.release();
      await reading;
      // Idle time must not count.
      now += 1000;
    };
    await readFor(20);
    // 1 MiB in 20 ms, before there is a whole sample of the rate.
    expect(reader.bytesPerSecond()).toBe(2 ** 20 * 50);
    for (let i = 0; i < 9; i++) await readFor(20);
    expect(reader.bytesPerSecond()).toBe(2 ** 20 * 50);
    expect(reader.p99Micros()).toBeGreaterThanOrEqual(20_000);
    expect(reader.p99Micros()).toBeLessThan(24_000);
    for (let i = 0; i < 10; i++) await readFor(200);
    expect(reader.bytesPerSecond()).toBeLessThan(2 ** 20 * 7);
    expect(reader.bytesPerSecond()).toBeGreaterThan(2 ** 20 * 5);
    expect(reader.p99Micros()).toBeGreaterThanOrEqual(200_000);
  });

  it('reads no faster than its budget, tells no more than that, and does not take waiting for a late NAS', async () => {
    const volume = new MemoryVolume('a', patternBlocks(64));
    const budgetBytesPerSecond = 16 * BLOCK_BYTES * 10;
    const reader = new BlockReader({
      volumes: [volume],
      maxReadBytes: 16 * BLOCK_BYTES,
      budgetBytesPerSecond,
      deadlineMs: 250,
    });
    const destination = new Uint8Array(64 * BLOCK_BYTES);
    const startedAt = performance.now();
    // Four reads of a tenth of a second each: the last one begins after the deadline of a reader without a budget.
    expect(await reader.readBlocks([makeRun(0, 64, 0)], destination)).toEqual({ pages: 64, ...DONE });
    expect(performance.now() - startedAt).toBeGreaterThan(290);
    expect(Buffer.compare(destination, volume.content)).toBe(0);
    expect(volume.mostOutstanding).toBe(1);
    expect(reader.bytesPerSecond()).toBeLessThanOrEqual(budgetBytesPerSecond);
  });

  it('gives a request up at its deadline when the budget is too small for it, and ends its wait when closed', async () => {
    const volume = new MemoryVolume('a', patternBlocks(64));
    const reader = new BlockReader({
      volumes: [volume],
      maxReadBytes: 16 * BLOCK_BYTES,
      budgetBytesPerSecond: 1,
      deadlineMs: 30,
    });
    const outcome = await reader.readBlocks([makeRun(0, 32, 0)], new Uint8Array(32 * BLOCK_BYTES));
    expect(outcome).toMatchObject({ missingCount: 16, failure: { code: 'NASMIG_NAS_DEADLINE' } });
    const another = reader.readBlocks([makeRun(0, 1, 0)], new Uint8Array(BLOCK_BYTES), 20_000);
    reader.close();
    expect(await another).toMatchObject({ missingCount: 1, failure: { code: 'NASMIG_NAS_CLOSED' } });
  });
});
