// Properties of whole pipelines: whatever QEMU writes, in whatever pieces, whatever the index believes and the NAS holds by
// now, every connection at the destination gets exactly the bytes that were written on its like at the source.

import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockIndex } from './index/block-index.ts';
import { PageHasher, randomSeed } from './index/page-hash.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { generateMigration, type Migration, seededRandom } from './stream/test-streams.ts';
import { MemoryVolume, type PipelineOutcome, runPipeline } from './test-pipeline.ts';

const BLOCKS = 160;
const SHUT = Buffer.from('00010004' + '00000000', 'hex');

/** A pipeline costs about 0.1 s; the sum stays below 40 s on two busy cores. */
const RUNS = 200;
const LIMIT_MS = 30_000;

const scenario = fc.record({
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  qemu: fc.constantFrom('7.2' as const, '10.0' as const, '11.1' as const),
  channels: fc.integer({ min: 0, max: 4 }),
  pages: fc.integer({ min: 1, max: 500 }),
  rounds: fc.integer({ min: 1, max: 4 }),
  otherSections: fc.boolean(),
  xbzrle: fc.boolean(),
  compression: fc.constantFrom(undefined, undefined, undefined, 'zstd' as const),
  zstd: fc.boolean(),
  pace: fc.boolean(),
  /** Shares, in tenths: pages that are blocks of the volume, entries that name a wrong block, blocks rewritten. */
  cached: fc.integer({ min: 0, max: 10 }),
  wrong: fc.constantFrom(0, 0, 1, 5, 10),
  rewritten: fc.constantFrom(0, 0, 1, 5, 10),
  /** Blocks are rewritten after so many reads, between plan and read of later batches. */
  rewriteAtRead: fc.constantFrom(0, 1, 5, 20),
  failAtRead: fc.constantFrom(0, 0, 0, 0, 3),
  targetReads: fc.constantFrom(true, true, true, false),
  /** Largest piece of a write. */
  piece: fc.constantFrom(7, 100, 4096, 5000, 70_000, 1 << 20),
  /** Bytes changed and cut off at the end of the streams: QEMU's grammar no longer holds. */
  damage: fc.constantFrom(0, 0, 0, 1, 20),
});
type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never;

/** Rewrites or fails while reads go on, as another writer of the NAS would. */
class RestlessVolume extends MemoryVolume {
  onRead: (reads: number) => void = () => {};

  override read(...args: Parameters<MemoryVolume['read']>): void {
    this.onRead(this.reads);
    super.read(...args);
  }
}

function indexWith(volume: MemoryVolume, wrongShare: number, random: () => number) {
  const index = BlockIndex.create({
    volumes: [{ name: volume.name, sizeBytes: volume.sizeBytes }],
    seed: randomSeed(),
    budgetBytes: 4 * 1024 * 1024,
  });
  const pageHasher = new PageHasher(index.seed);
  for (let block = 0; block < volume.blockCount; block++) {
    pageHasher.hash(volume.content, block * PAGE_BYTES);
    const named = random() < wrongShare ? Math.floor(random() * volume.blockCount) : block;
    index.add(0, named, pageHasher.hi, pageHasher.lo);
  }
  return { index, pageHasher };
}

function migrationOf(one: Scenario, volume: MemoryVolume): Migration {
  const random = seededRandom(one.seed);
  return generateMigration({
    qemu: one.qemu,
    channels: one.channels,
    seed: one.seed,
    rounds: one.rounds,
    otherSections: one.otherSections,
    xbzrle: one.xbzrle && one.channels === 0,
    ...(one.compression === undefined ? {} : { compression: one.compression }),
    ramBlocks: [
      { name: 'pc.ram', pageCount: one.pages },
      { name: 'pc.bios', pageCount: 3 },
    ],
    deviceStateBytes: 3000,
    content: (_block, _page, _round, out) => {
      const kind = random() * 12;
      if (kind > 11) return false;
      if (kind > 10) out.fill(1 + Math.floor(random() * 255));
      else if (kind < one.cached) {
        const block = Math.floor(random() * BLOCKS);
        out.set(volume.content.subarray(block * PAGE_BYTES, (block + 1) * PAGE_BYTES));
      } else randomBytes(PAGE_BYTES).copy(out);
      return true;
    },
  });
}

/** QEMU's writes in its order, cut into pieces of random length; bounded in number. */
function cutWrites(one: Scenario, migration: Migration, random: () => number) {
  const bytes = migration.writes.reduce((sum, { from, to }) => sum + to - from, 0);
  const piece = Math.max(one.piece, bytes / 4000);
  return migration.writes.flatMap(({ connection, from, to }) => {
    const pieces: { connection: number; from: number; to: number }[] = [];
    for (let at = from; at < to; ) {
      const end = Math.min(to, at + 1 + Math.floor(random() * piece));
      pieces.push({ connection, from: at, to: end });
      at = end;
    }
    return pieces;
  });
}

async function run(one: Scenario): Promise<{ outcome: PipelineOutcome; streams: Uint8Array[] }> {
  const random = seededRandom(one.seed + 1);
  const volume = new RestlessVolume('root', randomBytes(BLOCKS * PAGE_BYTES));
  const made = indexWith(volume, one.wrong / 10, random);
  const migration = migrationOf(one, volume);
  const streams = [migration.main, ...migration.multifd].map((stream) => new Uint8Array(stream));
  for (const stream of streams) {
    // Behind the first KiB, so that main still announces its RAM.
    for (let i = 0; i < one.damage && stream.length > 2000; i++)
      stream[1000 + Math.floor(random() * (stream.length - 1000))] = Math.floor(random() * 256);
  }
  volume.onRead = (reads) => {
    if (reads === one.rewriteAtRead) {
      for (let block = 0; block < BLOCKS; block++) {
        if (random() * 10 < one.rewritten) randomBytes(PAGE_BYTES).copy(volume.content, block * PAGE_BYTES);
      }
    }
    if (one.failAtRead > 0 && reads >= one.failAtRead) volume.failure = new Error('EIO: i/o error, read');
  };
  const other = new MemoryVolume('other', Buffer.alloc(PAGE_BYTES));
  const outcome = await runPipeline({
    streams,
    writes: cutWrites(one, migration, random),
    volumes: [volume],
    ...(one.targetReads ? {} : { targetVolumes: [other] }),
    ...made,
    answer: SHUT,
    zstd: one.zstd,
    pace: one.pace,
  });
  return { outcome, streams };
}

describe('pipelines', () => {
  it('output equals input, for any stream, index, NAS and cut', async () => {
    let runs = 0;
    let references = 0;
    let resent = 0;
    await fc.assert(
      fc.asyncProperty(scenario, async (one) => {
        const { outcome, streams } = await run(one);
        runs += 1;
        references += outcome.source.counters.referencePages;
        resent += outcome.source.counters.resentBatches;
        expect(outcome.source.failure).toBeUndefined();
        expect(outcome.target.failure).toBeUndefined();
        streams.forEach((stream, i) => {
          expect(Buffer.compare(outcome.received[i] as Buffer, stream)).toBe(0);
        });
        expect(outcome.answered.equals(SHUT)).toBe(true);
        expect(outcome.source.counters.streamBytes).toBe(outcome.target.counters.streamBytes);
        expect(outcome.source.windowBytes).toBe(0);
        expect(outcome.source.nasQueuedBytes).toBe(0);
        expect(outcome.source.connections + outcome.target.connections).toBe(0);
      }),
      { numRuns: RUNS, interruptAfterTimeLimit: LIMIT_MS, markInterruptAsFailure: false, endOnFailure: true },
    );
    // The property means something only when the interesting ways were taken.
    expect(runs).toBeGreaterThan(10);
    expect(references).toBeGreaterThan(1000);
    expect(resent).toBeGreaterThan(5);
  }, 60_000);
});
