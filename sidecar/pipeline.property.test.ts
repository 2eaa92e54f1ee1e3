// Properties of whole pipelines: whatever QEMU writes, in whatever pieces, whatever the index believes and the NAS holds by
// now, every connection at the destination gets exactly the bytes that were written on its like at the source.
// Streams are generated, or recorded from the QEMUs that we support.

import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockIndex } from './index/block-index.ts';
import { PageHasher, randomSeed } from './index/page-hash.ts';
import { drawWrites, type RecordedStreams, readRecordedStreams, repeatPages } from './recorded-streams.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { generateMigration, seededRandom } from './stream/test-streams.ts';
import { MemoryVolume, type PipelineOutcome, runPipeline } from './test-pipeline.ts';

const BLOCKS = 160;
const SHUT = Buffer.from('00010004' + '00000000', 'hex');

/** A pipeline costs about 0.1 s, a recorded one less; the sum stays below 40 s on two busy cores. */
const RUNS = 240;
const LIMIT_MS = 30_000;

/** With its pages sent so often, every connection with pages is longer than what is never referred to. */
const REPEATS = 8;
const AS_RECORDED = readRecordedStreams();
const REPEATED = AS_RECORDED.map((one) => repeatPages(one, REPEATS));
/** Of the others QEMU compressed every page, or they announce post-copy and everything is relayed raw. */
const REFERABLE = REPEATED.filter(({ name, pages }) => pages.length > 0 && !name.includes('-postcopy'));
const RECORDED: ReadonlyMap<string, RecordedStreams> = new Map(
  [...AS_RECORDED, ...REPEATED].map((one) => [one.name, one]),
);

const scenario = fc.record({
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  /** A migration of the corpus; what follows it, up to `compression`, is of generated ones only. */
  recorded: fc.oneof(
    { weight: 2, arbitrary: fc.constant(undefined) },
    { weight: 1, arbitrary: fc.constantFrom(...RECORDED.keys()) },
  ),
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

/**
 * Come before what is drawn, so that each recording is referred to however few runs there is time for: with a right index, with a
 * wrong one, and with every block rewritten before the first read.
 */
const EVERY_RECORDING: readonly Scenario[] = REFERABLE.flatMap(({ name }, i) =>
  [
    { wrong: 0, rewritten: 0 } as const,
    { wrong: 10, rewritten: 0 } as const,
    { wrong: 0, rewritten: 10 } as const,
  ].map(({ wrong, rewritten }) => ({
    seed: 1 + i,
    recorded: name,
    qemu: '7.2',
    channels: 0,
    pages: 1,
    rounds: 1,
    otherSections: false,
    xbzrle: false,
    compression: undefined,
    zstd: true,
    pace: true,
    cached: 10,
    wrong,
    rewritten,
    rewriteAtRead: 0,
    failAtRead: 0,
    targetReads: true,
    piece: 5000,
    damage: 0,
  })),
);

/** By which what was seen of {@link EVERY_RECORDING} is found again. */
const caseOf = ({ recorded, wrong, rewritten }: Scenario): string =>
  `${recorded}, wrong ${wrong}, rewritten ${rewritten}`;

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

/** What QEMU writes on each connection, and in which order. */
interface Written {
  readonly streams: readonly Uint8Array[];
  readonly writes: readonly { readonly connection: number; readonly from: number; readonly to: number }[];
}

/** The pages that are in the volume lie there one behind the other, as those of a file. */
function cachePages(one: Scenario, { pages }: RecordedStreams, volume: MemoryVolume, random: () => number) {
  let block = Math.floor(random() * BLOCKS);
  for (const page of pages) {
    if (random() * 10 >= one.cached) continue;
    volume.content.set(page, block * PAGE_BYTES);
    block = (block + 1) % BLOCKS;
  }
}

function generated(one: Scenario, volume: MemoryVolume): Written {
  const random = seededRandom(one.seed);
  const { main, multifd, writes } = generateMigration({
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
  return { streams: [main, ...multifd], writes };
}

/** QEMU's writes in its order, cut into pieces of random length; bounded in number. */
function cutWrites(one: Scenario, writes: Written['writes'], random: () => number) {
  const bytes = writes.reduce((sum, { from, to }) => sum + to - from, 0);
  const piece = Math.max(one.piece, bytes / 4000);
  return writes.flatMap(({ connection, from, to }) => {
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
  const recorded = one.recorded === undefined ? undefined : RECORDED.get(one.recorded);
  if (recorded !== undefined) cachePages(one, recorded, volume, random);
  const made = indexWith(volume, one.wrong / 10, random);
  const written =
    recorded === undefined
      ? generated(one, volume)
      : { streams: recorded.streams, writes: drawWrites(recorded, random) };
  const streams = written.streams.map((stream) => new Uint8Array(stream));
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
    writes: cutWrites(one, written.writes, random),
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
    const referring = new Set<string>();
    const resending = new Set<string>();
    await fc.assert(
      fc.asyncProperty(scenario, async (one) => {
        const { outcome, streams } = await run(one);
        runs += 1;
        references += outcome.source.counters.referencePages;
        resent += outcome.source.counters.resentBatches;
        if (outcome.source.counters.referencePages > 0) referring.add(caseOf(one));
        if (outcome.source.counters.resentBatches > 0) resending.add(caseOf(one));
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
      {
        numRuns: RUNS,
        examples: EVERY_RECORDING.map((one) => [one]),
        ...{ interruptAfterTimeLimit: LIMIT_MS, markInterruptAsFailure: false, endOnFailure: true },
      },
    );
    // The property means something only when the interesting ways were taken.
    expect(runs).toBeGreaterThan(10);
    expect(references).toBeGreaterThan(1000);
    expect(resent).toBeGreaterThan(5);
    const names = REFERABLE.map(({ name }) => name);
    for (const suite of ['bookworm', 'trixie', 'sid'])
      expect(names).toEqual(expect.arrayContaining([`${suite}-main repeated`, `${suite}-multifd repeated`]));
    const isWrong = ({ wrong, rewritten }: Scenario): boolean => wrong + rewritten > 0;
    expect([...referring]).toEqual(expect.arrayContaining(EVERY_RECORDING.map(caseOf)));
    expect([...resending]).toEqual(expect.arrayContaining(EVERY_RECORDING.filter(isWrong).map(caseOf)));
  }, 60_000);
});
