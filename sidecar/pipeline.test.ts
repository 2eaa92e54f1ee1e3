// Whole pipelines in one process: whatever the index says and the NAS does, the destination QEMU gets the bytes that the
// source QEMU wrote, or the migration fails on both sides.

import { randomBytes } from 'node:crypto';
import { describe, expect, it, vi } from 'vitest';
import { BlockIndex } from './index/block-index.ts';
import { PageHasher, randomSeed } from './index/page-hash.ts';
import { forgeBlock } from './index/xxh64-forger.ts';
import { BatchDecoder, DecodedBatch } from './link/batch-decoder.ts';
import { FIRST_LITERAL_BYTES, FRAME_BATCH } from './link/frame-types.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { generateMigration, MultifdStream, seededRandom } from './stream/test-streams.ts';
import { indexOf, MemoryVolume, type PipelineOutcome, runPipeline } from './test-pipeline.ts';
import { watchLink } from './test-rig.ts';

const SHUT = Buffer.from('00010004' + '00000000', 'hex');
const BLOCKS = 1500;

/** A volume of random blocks, and a migration of a guest that has most of them in its memory. */
function guestAndVolume(channels: number, seed = 1, qemu: '7.2' | '10.0' | '11.1' = '10.0') {
  const volume = new MemoryVolume('root', randomBytes(BLOCKS * PAGE_BYTES));
  const random = seededRandom(seed);
  const migration = generateMigration({
    qemu,
    channels,
    seed,
    rounds: 3,
    ramBlocks: [
      { name: 'pc.ram', pageCount: 2000 },
      { name: 'pc.bios', pageCount: 32 },
    ],
    content: (_block, page, round, out) => {
      if (page % 7 === 6) return false;
      if (page % 5 === 4 || round > 1) randomBytes(PAGE_BYTES).copy(out);
      else {
        const block = round === 0 ? page % BLOCKS : Math.floor(random() * BLOCKS);
        out.set(volume.content.subarray(block * PAGE_BYTES, (block + 1) * PAGE_BYTES));
      }
      return true;
    },
  });
  return { volume, migration, streams: [migration.main, ...migration.multifd], writes: migration.writes };
}

function expectSameBytes(outcome: PipelineOutcome, streams: readonly Uint8Array[]): void {
  expect(outcome.source.failure).toBeUndefined();
  expect(outcome.target.failure).toBeUndefined();
  expect(outcome.received.length).toBe(streams.length);
  streams.forEach((stream, i) => {
    expect(Buffer.compare(outcome.received[i] as Buffer, stream)).toBe(0);
  });
  expect(outcome.source.connections).toBe(0);
  expect(outcome.target.connections).toBe(0);
}

describe('source and target pipelines', () => {
  it.each([
    ['10.0', 0],
    ['10.0', 2],
    ['7.2', 0],
    ['7.2', 3],
    ['11.1', 8],
  ] as const)(
    'QEMU %s with %i multifd channels: same bytes, most pages from the NAS',
    async (qemu, channels) => {
      const { volume, streams, writes } = guestAndVolume(channels, 1, qemu);
      const outcome = await runPipeline({
        streams,
        writes,
        volumes: [volume],
        ...indexOf([volume]),
        answer: SHUT,
      });
      expectSameBytes(outcome, streams);
      expect(outcome.answered.equals(SHUT)).toBe(true);
      const { counters } = outcome.source;
      expect(counters.referencePages).toBeGreaterThan(900);
      expect(counters.resentBatches).toBe(0);
      expect(counters.linkBytes).toBeLessThan(counters.streamBytes / 2);
      expect(outcome.target.counters.referencePages).toBe(counters.referencePages);
    },
  );

  it('a stale index costs resends of the pages that differ, never a wrong byte, and only wrong blocks leave it', async () => {
    const { volume, streams, writes } = guestAndVolume(0, 2);
    const { index, pageHasher } = indexOf([volume]);
    const before = index.count;
    const rewritten = [5, 77, 300, 301, 302];
    for (const block of rewritten) randomBytes(PAGE_BYTES).copy(volume.content, block * PAGE_BYTES);
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      index,
      pageHasher,
      answer: SHUT,
    });
    expectSameBytes(outcome, streams);
    const { counters } = outcome.source;
    expect(counters.resentPages).toBeGreaterThanOrEqual(rewritten.length - 1);
    expect(counters.resentPages).toBeLessThan(50);
    expect(before - index.count).toBeGreaterThanOrEqual(rewritten.length - 1);
    expect(before - index.count).toBeLessThanOrEqual(rewritten.length);
  });

  it.each([0, 3])(
    'a sampled index grows by what the target reads anyway (%i multifd channels)',
    async (channels) => {
      const { volume, streams, writes } = guestAndVolume(channels, 6);
      const { index, pageHasher } = indexOf([volume], 8);
      const outcome = await runPipeline({
        streams,
        writes,
        volumes: [volume],
        index,
        pageHasher,
        growing: true,
        answer: SHUT,
      });
      expectSameBytes(outcome, streams);
      expect(outcome.source.counters.referencePages).toBeGreaterThan(900);
      expect(outcome.source.counters.resentBatches).toBe(0);
      // All the reads are the target's, and a batch finds what was read for the index.
      expect(outcome.target.counters.grownBlocks).toBeGreaterThan(0.8 * BLOCKS);
      expect(outcome.target.extents.blocksReused).toBeGreaterThan(0.6 * outcome.target.counters.grownBlocks);
    },
  );

  it('a target that answers with wrong hashes costs resends, never a wrong byte', async () => {
    const { volume, streams, writes } = guestAndVolume(0, 6);
    const { index, pageHasher } = indexOf([volume], 8);
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      index,
      pageHasher,
      growing: true,
      answer: SHUT,
      prepare: (_source, target) => {
        // The hashes of other blocks than those that were asked for.
        const fetch = target.extents.fetch.bind(target.extents);
        target.extents.fetch = async (number, block, count, hasher) => {
          const found = await fetch(number, block, count, hasher);
          if (found === undefined) return found;
          const turned = (hashes: Int32Array): Int32Array =>
            Int32Array.of(...hashes.subarray(1), hashes[0] as number);
          return { ...found, hi: turned(found.hi), lo: turned(found.lo) };
        };
      },
    });
    expectSameBytes(outcome, streams);
    expect(outcome.source.counters.resentPages).toBeGreaterThan(0);
  });

  it('a link limit holds', async () => {
    const { volume, streams, writes } = guestAndVolume(2, 8);
    // The index knows a block or two: nearly all pages are literals.
    const { index, pageHasher } = indexOf([volume], 1000);
    const startedAt = performance.now();
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      index,
      pageHasher,
      zstd: false,
      linkBytesPerSecond: 4_000_000,
      // Without the pace the last pass is read, and the limit off, before the first one went.
      pace: true,
      answer: SHUT,
    });
    const seconds = (performance.now() - startedAt) / 1000;
    expectSameBytes(outcome, streams);
    // The first of three passes is most of it; what goes after the VM is stopped is not held back.
    const limited = 2000 * 0.85 * PAGE_BYTES - 1024 * 1024;
    expect(outcome.source.counters.linkBytes).toBeGreaterThan(limited);
    expect(seconds).toBeGreaterThan(limited / 4_000_000);
  });

  it.each(['literals', 'one after the other'])('pages that go as they are (%s): same bytes', async (how) => {
    const { volume, streams, writes } = guestAndVolume(2, 9);
    let asked = 0;
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      ...indexOf([volume]),
      answer: SHUT,
      prepare: (source) => {
        const route = (): string => (how === 'literals' || asked++ % 2 === 0 ? 'literals' : 'references');
        Object.defineProperty(source.routes, 'route', { get: route });
      },
    });
    expectSameBytes(outcome, streams);
    const { counters } = outcome.source;
    // How many batches there are depends on how fast the machine is.
    expect(counters.rawLiteralPages).toBeGreaterThan(50);
    if (how === 'literals') {
      expect(counters.referencePages).toBe(0);
      expect(counters.rawLiteralPages).toBe(counters.literalPages);
    } else expect(counters.referencePages).toBeGreaterThan(50);
  });

  it('guest memory is read into one buffer for each connection once it is framed', async () => {
    const { volume, streams, writes } = guestAndVolume(2, 10);
    const memory = new Set<ArrayBufferLike>();
    let pieces = 0;
    await runPipeline({
      streams,
      writes,
      volumes: [volume],
      ...indexOf([volume]),
      answer: SHUT,
      prepare: (source) => {
        const take = source.pace.take.bind(source.pace);
        source.pace.take = (bytes, nowMs) => {
          pieces += 1;
          take(bytes, nowMs);
        };
        const accept = source.accept.bind(source);
        source.accept = (socket) => {
          // Fresh buffers would come by 'data' events of the accepted socket, which carries none once it is framed.
          socket.on('newListener', () => {});
          socket.prependListener('data', (bytes: Buffer) => void memory.add(bytes.buffer));
          socket.pause();
          accept(socket);
        };
      },
    });
    expect(pieces).toBeGreaterThan(20);
    expect(memory.size).toBeLessThan(pieces / 3);
  });

  it('an index that is wrong everywhere stops being asked', async () => {
    const { volume, streams, writes } = guestAndVolume(2, 3);
    const { index, pageHasher } = indexOf([volume]);
    randomBytes(volume.content.length).copy(volume.content);
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      index,
      pageHasher,
      answer: SHUT,
      prepare: ({ throttle }) => {
        // However slow this machine is, the first pause is not over before the end.
        const allows = throttle.allows.bind(throttle);
        throttle.allows = () => allows(0);
      },
    });
    expectSameBytes(outcome, streams);
    const { counters, throttle } = outcome.source;
    expect(counters.resentBatches).toBeGreaterThan(0);
    expect(throttle.stops).toBeGreaterThan(0);
    // The index knows over 1100 of the pages.
    expect(counters.referencePages).toBeLessThan(700);
  });

  it.each([0, 2])(
    'the first 64 KiB of a connection go as they are, also what the index knows (%i multifd channels)',
    async (channels) => {
      const { volume, migration, streams, writes } = guestAndVolume(channels, 13);
      const { index, pageHasher } = indexOf([volume]);
      const { main, multifd } = migration.expected;
      const known = [main, ...multifd].map((lines, i) =>
        lines
          .filter((line) => line.startsWith('page '))
          .map((line) => Number(line.split(' ')[1]))
          .filter((offset) => {
            pageHasher.hash(streams[i] as Uint8Array, offset);
            return index.lookup(pageHasher.hi, pageHasher.lo) >= 0;
          }),
      );
      /** Stream offsets of runs of references, by connection. */
      const referred: number[][] = [];
      const outcome = await runPipeline({
        streams,
        writes,
        volumes: [volume],
        index,
        pageHasher,
        answer: SHUT,
        onDialed: (link) => {
          const offsets: number[] = [];
          referred.push(offsets);
          const decoder = new BatchDecoder([volume.sizeBytes]);
          const decoded = new DecodedBatch();
          let streamOffset = 0;
          watchLink(link, (frame) => {
            if (frame.type !== FRAME_BATCH) return;
            decoder.decode(frame, new Uint8Array(frame.reconstructedBytes), decoded);
            for (const offset of decoded.runOffset.subarray(0, decoded.runCount))
              offsets.push(streamOffset + offset);
            streamOffset += frame.reconstructedBytes;
          });
        },
      });
      expectSameBytes(outcome, streams);
      const early = known.map((offsets) => offsets.filter((offset) => offset < FIRST_LITERAL_BYTES).length);
      // With multifd there are no pages on main.
      expect(early.filter((count) => count > 5)).toHaveLength(Math.max(1, channels));
      expect(referred.map((offsets) => offsets[0])).toEqual(
        known.map((offsets) => offsets.find((offset) => offset >= FIRST_LITERAL_BYTES)),
      );
    },
  );

  it('forged collisions in the index end as literals', async () => {
    const { volume, streams, writes } = guestAndVolume(0, 4);
    const honest = indexOf([volume]);
    // Every page of the guest has an entry that names a block with other content, as if their hashes were equal.
    const forged = indexOf([new MemoryVolume('root', Buffer.alloc(BLOCKS * PAGE_BYTES))]).index;
    for (let block = 0; block < BLOCKS; block++) {
      honest.pageHasher.hash(volume.content, block * PAGE_BYTES);
      forged.add(0, (block + 1) % BLOCKS, honest.pageHasher.hi, honest.pageHasher.lo);
    }
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      index: forged,
      pageHasher: honest.pageHasher,
      answer: SHUT,
    });
    expectSameBytes(outcome, streams);
    expect(outcome.source.counters.resentPages).toBeGreaterThan(0);
  });

  it('a block forged to have the hash of a page is found out: the page is sent again and the guest gets its own', async () => {
    const { volume, streams, writes } = guestAndVolume(0, 12);
    const { index, pageHasher } = indexOf([volume]);
    const seed = (BigInt(index.seed.hi >>> 0) << 32n) | BigInt(index.seed.lo >>> 0);
    // An attacker in the guest that knew the seed overwrites blocks of system files with others of the same hash.
    const attacked = [11, 12, 700];
    for (const block of attacked) {
      const at = block * PAGE_BYTES;
      const page = volume.content.subarray(at, at + PAGE_BYTES);
      forgeBlock(page, randomBytes(PAGE_BYTES), seed).copy(volume.content, at);
      pageHasher.hash(volume.content, at);
      expect(index.lookup(pageHasher.hi, pageHasher.lo)).toBe(block);
    }
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      index,
      pageHasher,
      answer: SHUT,
    });
    expectSameBytes(outcome, streams);
    expect(outcome.target.counters.resends).toBeGreaterThan(0);
    expect(outcome.source.counters.resentPages).toBeGreaterThanOrEqual(attacked.length);
  });

  it('a NAS that fails costs literals and its references', async () => {
    const { volume, streams, writes } = guestAndVolume(0, 5);
    const made = indexOf([volume]);
    volume.failure = Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    const outcome = await runPipeline({ streams, writes, volumes: [volume], ...made, answer: SHUT });
    expectSameBytes(outcome, streams);
    expect(outcome.source.referencesOff).toBe(true);
    expect(outcome.source.offReason(0)).toBe('NasReadFailed');
    expect(outcome.log.filter((line) => line.startsWith('references off'))).toEqual([
      'references off {"volume":"root","reason":"NasReadFailed","detail":"the target could not read it"}',
    ]);
    expect(outcome.source.counters.resentPages).toBeGreaterThan(0);
  });

  it('a volume that fails costs the references to that volume alone', async () => {
    const { volume: whole, streams, writes } = guestAndVolume(0, 5);
    // Block by block in turn, so that every batch refers to both.
    const [broken, sound] = [0, 1].map((which) => {
      const volume = new MemoryVolume(`disk${which}`, Buffer.alloc(whole.sizeBytes / 2));
      for (let block = 0; block < volume.blockCount; block++)
        whole.content.copy(volume.content, block * PAGE_BYTES, (2 * block + which) * PAGE_BYTES);
      return volume;
    }) as [MemoryVolume, MemoryVolume];
    const volumes = [broken, sound];
    const made = indexOf(volumes);
    broken.failure = Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    // Many batches refer to it before the first of them has failed.
    broken.delayMs = 200;
    // Beside a page that is missing, one that is wrong says nothing against its volume.
    for (const block of [20, 30, 40, 50]) randomBytes(PAGE_BYTES).copy(sound.content, block * PAGE_BYTES);
    const outcome = await runPipeline({ streams, writes, volumes, ...made, answer: SHUT });
    expectSameBytes(outcome, streams);
    expect([0, 1].map((volume) => outcome.source.offReason(volume))).toEqual(['NasReadFailed', undefined]);
    expect(outcome.source.referencesOff).toBe(false);
    expect(outcome.source.throttle.stops).toBe(0);
    const { resentPages, referencePages } = outcome.source.counters;
    expect(resentPages).toBeGreaterThan(0);
    expect(referencePages).toBeGreaterThan(resentPages);
  });

  it('a NAS that hangs costs its deadline once', async () => {
    const { volume, streams, writes } = guestAndVolume(2, 6);
    const made = indexOf([volume]);
    volume.delayMs = 3000;
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      ...made,
      nasDeadlineMs: 100,
      answer: SHUT,
    });
    expectSameBytes(outcome, streams);
    expect(outcome.source.referencesOff).toBe(true);
    expect(outcome.source.offReason(0)).toBe('NasTooSlow');
  });

  it('a target that cannot read the volume gets literals', async () => {
    const { volume, streams, writes } = guestAndVolume(0, 7);
    const other = new MemoryVolume('other', randomBytes(PAGE_BYTES));
    const made = indexOf([volume]);
    const outcome = await runPipeline({
      streams,
      writes,
      volumes: [volume],
      ...made,
      answer: SHUT,
      targetVolumes: [other],
    });
    expectSameBytes(outcome, streams);
    expect(outcome.source.counters.referencePages).toBe(0);
    // And nothing waits for an index that would serve nothing.
    expect(outcome.source.referencesOff).toBe(true);
    expect(outcome.source.mayWaitForIndex).toBe(false);
  });

  it('a peer with another session key never gets a byte of the guest', async () => {
    const { volume, streams } = guestAndVolume(0, 8);
    const outcome = await runPipeline({
      streams,
      volumes: [volume],
      ...indexOf([volume]),
      targetKey: randomBytes(32),
    });
    expect(outcome.source.failure).toBeDefined();
    expect(outcome.target.failure).toMatchObject({ code: 'NASMIG_LINK_PROOF' });
    expect(outcome.received.reduce((sum, bytes) => sum + bytes.length, 0)).toBe(0);
  });

  it('a source QEMU that closes before the end of RAM fails the migration on both sides', async () => {
    const { volume, migration } = guestAndVolume(0, 9);
    const cut = migration.main.slice(0, 400_000);
    const outcome = await runPipeline({
      streams: [cut],
      closeAfterWriting: true,
      volumes: [volume],
      ...indexOf([volume]),
      answer: SHUT,
    });
    expect(outcome.source.failure).toMatchObject({ code: 'NASMIG_SOURCE_QEMU_GONE' });
    expect(outcome.target.failure).toBeDefined();
    expect(Buffer.compare(outcome.received[0] as Buffer, cut.subarray(0, outcome.received[0]?.length))).toBe(
      0,
    );
  });

  it('a source that is not armed is relayed raw by an armed target', async () => {
    const { volume, migration } = guestAndVolume(0, 11);
    const outcome = await runPipeline({
      streams: [migration.main],
      volumes: [volume],
      ...indexOf([volume]),
      answer: SHUT,
      unarmedSource: true,
    });
    expect(outcome.target.failure).toBeUndefined();
    expect(Buffer.compare(outcome.received[0] as Buffer, migration.main)).toBe(0);
    expect(outcome.answered.equals(SHUT)).toBe(true);
  });

  it('post-copy announced by main sends everything raw', async () => {
    const volume = new MemoryVolume('root', randomBytes(BLOCKS * PAGE_BYTES));
    const migration = generateMigration({ postcopy: 'advised', seed: 10 });
    const outcome = await runPipeline({
      streams: [migration.main],
      volumes: [volume],
      ...indexOf([volume]),
      answer: SHUT,
    });
    expect(outcome.source.rawReason).toBe('PostCopyAnnounced');
    expect(Buffer.compare(outcome.received[0] as Buffer, migration.main)).toBe(0);
    expect(outcome.answered.equals(SHUT)).toBe(true);
    expect(outcome.source.counters.batches).toBe(0);
  });

  it.each([
    ['TLS inside QEMU', 'TlsInsideQemu', '16030100f5010000f10303'],
    ['an unknown stream', 'UnknownStream', '6e6f697365'],
  ])('an armed pair surprised by %s relays it as it is, both ways', async (_what, reason, beginning) => {
    const volume = new MemoryVolume('root', randomBytes(BLOCKS * PAGE_BYTES));
    const streams = [
      Buffer.concat([Buffer.from(beginning, 'hex'), randomBytes(700_000)]),
      // A channel that would be understood, beside a main channel that is not.
      Buffer.concat([new MultifdStream().init(0).finish(), randomBytes(300_000)]),
    ];
    const answer = randomBytes(300_000);
    const outcome = await runPipeline({ streams, volumes: [volume], ...indexOf([volume]), answer });
    expectSameBytes(outcome, streams);
    expect(outcome.answered.equals(answer)).toBe(true);
    expect(outcome.source.rawReason).toBe(reason);
    expect(outcome.source.counters.batches).toBe(0);
  });
});

describe('a guest that is moved to and fro', () => {
  function emptyIndex(volume: MemoryVolume): BlockIndex {
    const volumes = [{ name: volume.name, sizeBytes: volume.sizeBytes }];
    return BlockIndex.create({ volumes, seed: randomSeed(), budgetBytes: 4 * 1024 * 1024 });
  }

  /** One move; the pages that the target hashed are counted. */
  async function move(
    { volume, streams, writes }: ReturnType<typeof guestAndVolume>,
    index: BlockIndex,
    inherit: BlockIndex,
    growing = true,
  ) {
    const pageHasher = new PageHasher(index.seed);
    const one = vi.spyOn(PageHasher.prototype, 'hash');
    const many = vi.spyOn(PageHasher.prototype, 'hashPages');
    const outcome = await runPipeline({
      ...{ streams, writes, volumes: [volume], index, pageHasher, inherit, growing },
      answer: SHUT,
    });
    const ofTarget = (hasher: unknown): boolean => hasher !== pageHasher;
    const hashedByTarget =
      one.mock.contexts.filter(ofTarget).length +
      many.mock.calls
        .filter((_, call) => ofTarget(many.mock.contexts[call]))
        .reduce((sum, [, , count]) => sum + count, 0);
    vi.restoreAllMocks();
    expectSameBytes(outcome, streams);
    expect(outcome.source.counters.resentBatches).toBe(0);
    expect(outcome.target.counters.inheritedBlocks).toBe(outcome.source.counters.referencePages);
    return { references: outcome.source.counters.referencePages, target: outcome.target, hashedByTarget };
  }

  it.each([0, 3])(
    'has each block hashed once by a target, and finds its pages on the way back (%i channels)',
    async (channels) => {
      const guest = guestAndVolume(channels, 13);
      const sampled = indexOf([guest.volume], 8).index;
      const there = emptyIndex(guest.volume);
      const first = await move(guest, sampled, there);
      expect(first.references).toBeGreaterThan(900);
      expect(there.seed).toEqual(sampled.seed);
      // For the source's index, and what was read for a batch alone; one more is the zero page, with the seed that came.
      const readAlone = first.references - first.target.extents.blocksReused;
      expect(first.hashedByTarget).toBe(first.target.counters.grownBlocks + readAlone + 1);
      expect(readAlone).toBeLessThan(first.references / 2);

      // An inherited index does not grow: the next target is told no seed, and hashes each block once, as it inherits it.
      const here = emptyIndex(guest.volume);
      const { seed } = here;
      const second = await move(guest, there, here, false);
      expect(second.references).toBeGreaterThan(0.95 * first.references);
      expect(second.hashedByTarget).toBe(second.references);
      expect(here.seed).toEqual(seed);
    },
  );

  it('adds to an index that has entries of its own, with the seed of that, and finds its pages on the way back', async () => {
    const guest = guestAndVolume(2, 14);
    const own = indexOf([guest.volume], 16).index;
    const { seed } = own;
    const first = await move(guest, indexOf([guest.volume], 8).index, own);
    expect(own.seed).toEqual(seed);

    const second = await move(guest, own, emptyIndex(guest.volume), false);
    expect(second.references).toBeGreaterThan(0.95 * first.references);
  });
});
