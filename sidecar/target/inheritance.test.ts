import { afterEach, describe, expect, it, vi } from 'vitest';
import { BlockIndex } from '../index/block-index.ts';
import { type HashSeed, PAGE_BYTES, PageHasher } from '../index/page-hash.ts';
import { DecodedBatch } from '../link/batch-decoder.ts';
import { BlockReader } from '../nas/block-reader.ts';
import { ExtentCache } from '../nas/extent-cache.ts';
import { MemoryVolume, patternBlocks } from '../nas/memory-volume.ts';
import { seededRandom } from '../stream/test-streams.ts';
import { Inheritance, type ProvenBatch } from './inheritance.ts';

const OWN: HashSeed = { hi: 101, lo: -102 };
const SOURCE: HashSeed = { hi: -201, lo: 202 };
const OTHER: HashSeed = { hi: 301, lo: 302 };
/** Blocks of each of the two volumes. */
const BLOCKS = 64;
const EXTENT_BLOCKS = 16;

afterEach(() => {
  vi.restoreAllMocks();
});

function setUp() {
  const content = patternBlocks(2 * BLOCKS);
  const volumes = ['a', 'b'].map(
    (name, i) =>
      new MemoryVolume(name, content.subarray(i * BLOCKS * PAGE_BYTES, (i + 1) * BLOCKS * PAGE_BYTES)),
  );
  const index = BlockIndex.create({
    volumes: volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
    seed: OWN,
    budgetBytes: 1 << 20,
  });
  const extents = new ExtentCache({
    reader: new BlockReader({ volumes }),
    maxBytes: 1 << 20,
    extentBlocks: EXTENT_BLOCKS,
  });
  const inheritance = new Inheritance(index);
  const grow = (volume: number, extent: number, seed: HashSeed) => {
    inheritance.onGrow(seed);
    return extents.fetch(volume, extent * EXTENT_BLOCKS, EXTENT_BLOCKS, new PageHasher(seed));
  };
  /** Rebuilds a batch of runs [volume, first block, pages] with 8 bytes before each page, as main has them. */
  const rebuild = async (...runs: [number, number, number][]): Promise<ProvenBatch> => {
    const decoded = new DecodedBatch();
    const stride = PAGE_BYTES + 8;
    const asked = runs.map(([volume, block, count]) => {
      const run = decoded.runCount++;
      decoded.runVolume[run] = volume;
      decoded.runFirstBlock[run] = block;
      decoded.runPages[run] = count;
      decoded.runFirstPage[run] = decoded.pageCount;
      decoded.runStride[run] = stride;
      const offset = 8 + decoded.pageCount * stride;
      decoded.runOffset[run] = offset;
      for (let i = 0; i < count; i++) decoded.pageOffsets[decoded.pageCount++] = offset + i * stride;
      decoded.referencePages += count;
      return { volume, block, count, offset, stride };
    });
    const buffer = new Uint8Array(decoded.pageCount * stride + 8);
    const known = inheritance.placeForHashes(decoded.referencePages);
    await extents.readBlocks(asked, buffer, known);
    return { decoded, buffer, patched: undefined, known, volumes: [0, 1] };
  };
  /** What a block's hash is found at: [volume, block], or undefined. */
  const found = (volume: number, block: number, seed = index.seed) => {
    const hasher = new PageHasher(seed);
    hasher.hash((volumes[volume] as MemoryVolume).content, block * PAGE_BYTES);
    const place = index.lookup(hasher.hi, hasher.lo);
    return place < 0 ? undefined : [index.volume(place), index.block(place)];
  };
  /** Every entry of the index, as text; and what they are for blocks hashed now. */
  const entries = () => {
    const view = new DataView(new ArrayBuffer(9 * 2 * BLOCKS));
    const { entries: count } = index.exportEntries(0, view, 1 << 20);
    return Array.from({ length: count }, (_, i) =>
      [view.getInt32(9 * i), view.getUint8(9 * i + 4), view.getUint32(9 * i + 5)].join('/'),
    );
  };
  const rightEntries = () => {
    const hasher = new PageHasher(index.seed);
    return Array.from({ length: 2 * BLOCKS }, (_, place) => {
      hasher.hash(content, place * PAGE_BYTES);
      return [hasher.hi, hasher.lo & 0xff, place].join('/');
    });
  };
  return { index, extents, inheritance, grow, rebuild, found, entries, rightEntries };
}

/** Pages hashed from now on. */
function countHashes(): () => number {
  const one = vi.spyOn(PageHasher.prototype, 'hash');
  const many = vi.spyOn(PageHasher.prototype, 'hashPages');
  return () => one.mock.calls.length + many.mock.calls.reduce((sum, [, , count]) => sum + count, 0);
}

describe('Inheritance', () => {
  it('of an empty index takes over the seed, and hashes no block that the source was told the hash of', async () => {
    const { index, inheritance, grow, rebuild, found } = setUp();
    await grow(0, 1, SOURCE);
    expect(index.seed).toEqual(SOURCE);
    const batch = await rebuild([0, 20, 5], [0, 31, 1]);
    const hashed = countHashes();
    expect(inheritance.add(batch)).toBe(6);
    expect(hashed()).toBe(0);
    expect(index.count).toBe(6);
    for (const block of [20, 21, 22, 23, 24, 31]) expect(found(0, block)).toEqual([0, block]);
  });

  it('hashes the blocks whose hash is not at hand, and leaves out pages that were sent again', async () => {
    const { index, inheritance, grow, rebuild, found } = setUp();
    await grow(0, 1, SOURCE);
    // Blocks 10 to 15 were read for the batch alone, 16 to 21 for the source's index too.
    const batch = await rebuild([0, 10, 12], [1, 40, 2]);
    const hashed = countHashes();
    const patched = Uint8Array.of(0b1000_0010, 0b0010_0000);
    expect(inheritance.add({ ...batch, patched })).toBe(11);
    expect(hashed()).toBe(6);
    expect(index.count).toBe(11);
    for (const [volume, block] of [
      [0, 10],
      [0, 12],
      [0, 16],
      [0, 18],
      [1, 40],
    ] as const)
      expect(found(volume, block)).toEqual([volume, block]);
    expect([found(0, 11), found(0, 17), found(1, 41)]).toEqual([undefined, undefined, undefined]);
  });

  it('without a GROW keeps its own seed, and hashes every block once', async () => {
    const { index, inheritance, rebuild, found } = setUp();
    const batch = await rebuild([1, 5, 30]);
    expect(batch.known).toBeUndefined();
    const hashed = countHashes();
    expect(inheritance.add(batch)).toBe(30);
    expect(hashed()).toBe(30);
    expect(index.seed).toEqual(OWN);
    for (let block = 5; block < 35; block++) expect(found(1, block, OWN)).toEqual([1, block]);
  });

  it('of an index that has entries keeps them and their seed, whatever peers ask with', async () => {
    const { index, inheritance, grow, rebuild, found } = setUp();
    inheritance.add(await rebuild([0, 3, 1]));
    for (const seed of [SOURCE, OTHER, SOURCE]) await grow(0, 1, seed);
    const batch = await rebuild([0, 16, 16]);
    expect(inheritance.add(batch)).toBe(16);
    expect(index.seed).toEqual(OWN);
    expect(index.count).toBe(17);
    for (const block of [3, 16, 31]) expect(found(0, block, OWN)).toEqual([0, block]);
  });

  it('hashes anew when the seed changed between the read and the proof', async () => {
    const { index, inheritance, grow, rebuild, found } = setUp();
    await grow(0, 1, SOURCE);
    const batch = await rebuild([0, 16, 4]);
    await grow(0, 2, OTHER);
    expect(index.seed).toEqual(OTHER);
    const hashed = countHashes();
    inheritance.add(batch);
    expect(hashed()).toBe(4);
    for (let block = 16; block < 20; block++) expect(found(0, block, OTHER)).toEqual([0, block]);
  });

  it('enters blocks by the volumes of this side', async () => {
    const { inheritance, grow, rebuild, found } = setUp();
    await grow(1, 0, SOURCE);
    const batch = await rebuild([1, 0, 4]);
    // The source's first volume is this side's second.
    batch.decoded.runVolume[0] = 0;
    inheritance.add({ ...batch, volumes: [1, -1] });
    for (let block = 0; block < 4; block++) expect(found(1, block)).toEqual([1, block]);
  });

  it('has no entry but the hash of a block that it was given, in whatever order things happen', async () => {
    for (let round = 0; round < 30; round++) {
      const { index, inheritance, grow, rebuild, entries, rightEntries } = setUp();
      const random = seededRandom(round + 1);
      const below = (limit: number) => Math.floor(random() * limit);
      const seeds = [OWN, SOURCE, OTHER];
      const waiting: ProvenBatch[] = [];
      const given = new Set<number>();
      for (let step = 0; step < 40; step++) {
        const what = below(3);
        if (what === 0)
          await grow(below(2), below(BLOCKS / EXTENT_BLOCKS), seeds[below(seeds.length)] as HashSeed);
        else if (what === 1) {
          const [volume, block] = [below(2), below(BLOCKS - 12)];
          const count = 1 + below(12);
          waiting.push(await rebuild([volume, block, count]));
          for (let i = 0; i < count; i++) given.add(volume * BLOCKS + block + i);
        } else if (waiting.length > 0) inheritance.add(waiting.shift() as ProvenBatch);
      }
      for (const batch of waiting) inheritance.add(batch);
      const right = new Set(rightEntries().filter((_, place) => given.has(place)));
      expect(new Set(entries())).toEqual(right);
      expect(index.count).toBe(given.size);
    }
  });
});
