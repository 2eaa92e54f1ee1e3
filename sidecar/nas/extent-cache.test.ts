import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type HashSeed, PageHasher } from '../index/page-hash.ts';
import { BlockReader } from './block-reader.ts';
import { ExtentCache } from './extent-cache.ts';
import { MemoryVolume, patternBlocks } from './memory-volume.ts';
import { BLOCK_BYTES } from './volume.ts';

const SEED = { hi: 11, lo: -12 };
/** Of one extent of 16 blocks, with its hashes. */
const EXTENT_BYTES = 16 * (BLOCK_BYTES + 8);

function setUp(extents: number) {
  const volume = new MemoryVolume('a', patternBlocks(1000));
  const reader = new BlockReader({ volumes: [volume], gapBlocks: 0 });
  const cache = new ExtentCache({ reader, maxBytes: extents * EXTENT_BYTES, extentBlocks: 16 });
  const readAt = async (block: number, count: number, stride = BLOCK_BYTES, seed: HashSeed = SEED) => {
    const destination = new Uint8Array(count * stride);
    const known = { seed, hi: new Int32Array(count), lo: new Int32Array(count) };
    const runs = [{ volume: 0, block, count, offset: 0, stride }];
    const outcome = await cache.readBlocks(runs, destination, known);
    return { outcome, destination, known };
  };
  const fetch = (block: number, count: number, seed: HashSeed = SEED) =>
    cache.fetch(0, block, count, new PageHasher(seed));
  const block = (number: number) => volume.content.subarray(number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES);
  /** The halves of a block's hash. */
  const hashOf = (number: number, seed: HashSeed = SEED) => {
    const hasher = new PageHasher(seed);
    hasher.hash(volume.content, number * BLOCK_BYTES);
    return [hasher.hi, hasher.lo];
  };
  return { volume, cache, fetch, readAt, block, hashOf };
}

afterEach(() => {
  vi.useRealTimers();
});

describe('ExtentCache', () => {
  it('reads once what was fetched before, also across extents and with gaps between the pages', async () => {
    const { volume, cache, fetch, readAt, block, hashOf } = setUp(8);
    const fetched = await fetch(16, 16);
    expect(fetched?.count).toBe(16);
    for (let i = 0; i < 16; i++) expect([fetched?.hi[i], fetched?.lo[i]]).toEqual(hashOf(16 + i));
    await fetch(32, 16);
    volume.reads.length = 0;
    const { outcome, destination } = await readAt(30, 4, BLOCK_BYTES + 100);
    expect(outcome).toEqual({ pages: 4, missingCount: 0, missing: null, failure: null, failedVolume: -1 });
    for (let i = 0; i < 4; i++) {
      const at = i * (BLOCK_BYTES + 100);
      expect(Buffer.compare(destination.subarray(at, at + BLOCK_BYTES), block(30 + i))).toBe(0);
    }
    expect(volume.reads).toEqual([]);
    expect(cache.blocksReused).toBe(4);
  });

  it('reads only what is not here, and says which pages are missing by their place among all', async () => {
    const { volume, fetch, readAt, block } = setUp(8);
    await fetch(16, 16);
    volume.reads.length = 0;
    volume.endBytes = 34 * BLOCK_BYTES;
    const { outcome, destination } = await readAt(14, 22);
    expect(volume.reads).toEqual([
      { position: 14 * BLOCK_BYTES, length: 2 * BLOCK_BYTES },
      { position: 32 * BLOCK_BYTES, length: 4 * BLOCK_BYTES },
    ]);
    expect(outcome.pages).toBe(22);
    expect(outcome.missingCount).toBe(2);
    expect([...(outcome.missing as Uint8Array)]).toEqual([0, 0, 0b110000]);
    expect(Buffer.compare(destination.subarray(0, BLOCK_BYTES), block(14))).toBe(0);
    expect(Buffer.compare(destination.subarray(5 * BLOCK_BYTES, 6 * BLOCK_BYTES), block(19))).toBe(0);
  });

  it('has the hashes of what was here, by the place of their pages among all', async () => {
    const { fetch, readAt, hashOf } = setUp(8);
    await fetch(16, 16);
    await fetch(48, 10);
    for (const stride of [BLOCK_BYTES, BLOCK_BYTES + 8]) {
      const { known } = await readAt(14, 50, stride);
      for (let i = 0; i < 50; i++) {
        const isHere = 14 + i >= 16 && 14 + i < 32;
        // Of the last extent too much is asked: its blocks are read.
        expect([known.hi[i], known.lo[i]]).toEqual(isHere ? hashOf(14 + i) : [0, 0]);
      }
      await fetch(16, 16);
    }
    const { known } = await readAt(50, 8);
    for (let i = 0; i < 8; i++) expect([known.hi[i], known.lo[i]]).toEqual(hashOf(50 + i));
  });

  it('has no hashes for who has another seed, and those of the bytes it gives when the volume has changed', async () => {
    const { volume, fetch, readAt, hashOf } = setUp(8);
    const before = hashOf(20);
    await fetch(16, 16);
    volume.content.fill(9, 20 * BLOCK_BYTES, 21 * BLOCK_BYTES);
    const other = await readAt(20, 1, BLOCK_BYTES, { hi: SEED.hi, lo: SEED.lo + 1 });
    expect([other.known.hi[0], other.known.lo[0]]).toEqual([0, 0]);
    const { known } = await readAt(20, 1);
    expect([known.hi[0], known.lo[0]]).toEqual(before);
    // Asked for anew, with another seed: those are its hashes now.
    const seed = { hi: 1, lo: 2 };
    await fetch(16, 16, seed);
    const later = await readAt(20, 1, BLOCK_BYTES, seed);
    expect([later.known.hi[0], later.known.lo[0]]).toEqual(hashOf(20, seed));
  });

  it('gives what it read, also when the volume changed since: the source was told of that', async () => {
    const { volume, fetch, readAt, block } = setUp(8);
    const before = Buffer.from(block(20));
    await fetch(16, 16);
    volume.content.fill(9, 20 * BLOCK_BYTES, 21 * BLOCK_BYTES);
    const { destination } = await readAt(20, 1);
    expect(Buffer.compare(destination, before)).toBe(0);
  });

  it('holds no more than its share, the least recently used goes first, and one that was used up at once', async () => {
    const { volume, fetch, readAt } = setUp(2);
    await fetch(0, 16);
    await fetch(16, 16);
    await readAt(3, 1);
    await fetch(32, 16);
    volume.reads.length = 0;
    await readAt(4, 1);
    expect(volume.reads).toEqual([]);
    await readAt(16, 1);
    expect(volume.reads).toHaveLength(1);
    // Every block of the third extent was used once: it is read anew.
    await readAt(32, 16);
    expect(volume.reads).toHaveLength(1);
    await readAt(32, 1);
    expect(volume.reads).toHaveLength(2);
  });

  it('counts what it read, and what of that was used for no page', async () => {
    const { volume, cache, fetch, readAt } = setUp(2);
    const counted = () => [cache.bytesFetched / BLOCK_BYTES, cache.bytesUnused / BLOCK_BYTES];
    expect(counted()).toEqual([0, 0]);
    volume.failAt.add(0);
    await fetch(0, 16);
    expect(counted()).toEqual([0, 0]);
    await fetch(16, 16);
    await readAt(20, 10);
    expect(counted()).toEqual([16, 6]);
    // Some of them again: no more than all of them were used.
    await readAt(18, 10);
    expect(counted()).toEqual([16, 0]);
    // What is not kept, and what makes room, is used by nobody.
    await fetch(33, 3);
    for (const block of [48, 64, 80]) await fetch(block, 16);
    await readAt(48, 16);
    expect(counted()).toEqual([67, 51]);
  });

  it('keeps nothing that failed or does not lie on an extent', async () => {
    const { volume, fetch, readAt } = setUp(8);
    volume.failAt.add(0);
    expect(await fetch(0, 16)).toBeUndefined();
    volume.failAt.clear();
    await fetch(17, 16);
    volume.reads.length = 0;
    await readAt(0, 1);
    await readAt(20, 1);
    expect(volume.reads).toHaveLength(2);
  });

  describe('with reads that were given up', () => {
    /** Fetches that meet their deadline; what they read to is still the kernel's. */
    async function giveUp({ volume, fetch }: ReturnType<typeof setUp>, blocks: number[]): Promise<void> {
      volume.held = true;
      const late = blocks.map((block) => fetch(block, 16));
      vi.advanceTimersByTime(5000);
      expect(await Promise.all(late)).toEqual(blocks.map(() => undefined));
      volume.held = false;
    }
    beforeEach(() => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    });

    it('does not use memory again that they may still write to', async () => {
      const all = setUp(2);
      await giveUp(all, [0]);
      await all.fetch(16, 16);
      all.volume.release();
      const { destination } = await all.readAt(20, 1);
      expect(Buffer.compare(destination, all.block(20))).toBe(0);
    });

    it('makes room among what is kept when they have the rest of its memory', async () => {
      const all = setUp(2);
      await all.fetch(0, 16);
      await giveUp(all, [16, 32, 48]);
      await all.fetch(64, 16);
      all.volume.reads.length = 0;
      await all.readAt(70, 1);
      expect(all.volume.reads).toHaveLength(0);
      await all.readAt(5, 1);
      expect(all.volume.reads).toHaveLength(1);
    });

    it('answers when they have all of its memory, and keeps nothing then', async () => {
      const all = setUp(1);
      await giveUp(all, [0, 16]);
      const fetched = await all.fetch(32, 16);
      expect([fetched?.hi[15], fetched?.lo[15]]).toEqual(all.hashOf(47));
      all.volume.reads.length = 0;
      await all.readAt(40, 1);
      expect(all.volume.reads).toHaveLength(1);
    });
  });
});
