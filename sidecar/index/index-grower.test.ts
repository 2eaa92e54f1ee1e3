import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { MemoryVolume, patternBlocks } from '../nas/memory-volume.ts';
import { LocalBlockHashes } from './block-hashes.ts';
import { BlockIndex } from './block-index.ts';
import { IndexGrower } from './index-grower.ts';
import { PAGE_BYTES, PageHasher } from './page-hash.ts';

const SEED = { hi: 8, lo: 9 };

function setUp(blocks: number, options: { maxQueued?: number; bytesPerSecond?: number } = {}) {
  const volume = new MemoryVolume('a', patternBlocks(blocks));
  const index = BlockIndex.create({ volumes: [volume], seed: SEED, budgetBytes: 16 << 20 });
  const hashes = new LocalBlockHashes({ volumes: [volume], seed: SEED, maxBlocks: 32, maxInFlight: 4 });
  const grower = new IndexGrower({
    index,
    volumes: [volume],
    hashes,
    maxInFlight: 4,
    extentBlocks: 32,
    ...options,
  });
  const knows = (block: number) => {
    const hasher = new PageHasher(SEED);
    hasher.hash(volume.content, block * PAGE_BYTES);
    return index.lookup(hasher.hi, hasher.lo) === block;
  };
  return { volume, index, grower, knows };
}

describe('IndexGrower', () => {
  it('indexes the extent around a hit, once', async () => {
    const { volume, index, grower, knows } = setUp(1000);
    for (let i = 0; i < 10; i++) grower.grow(0, 40 + i);
    grower.grow(0, 999);
    await grower.idle();
    grower.grow(0, 33);
    await grower.idle();
    expect(volume.reads).toEqual([
      { position: 32 * PAGE_BYTES, length: 32 * PAGE_BYTES },
      { position: 992 * PAGE_BYTES, length: 8 * PAGE_BYTES },
    ]);
    expect([31, 32, 63, 64, 992, 999].map(knows)).toEqual([false, true, true, false, true, true]);
    expect(index.count).toBe(40);
    expect(grower.stats).toEqual({
      bytesRead: 40 * PAGE_BYTES,
      reads: 2,
      blocksAdded: 40,
      extentsQueued: 2,
      extentsDropped: 0,
      extentsFailed: 0,
    });
  });

  it('bounds its queue and its reads; what was dropped can come again', async () => {
    const { volume, grower, knows } = setUp(32 * 200, { maxQueued: 20 });
    volume.held = true;
    for (let extent = 0; extent < 100; extent++) grower.grow(0, extent * 32);
    await nextTurn();
    expect(volume.mostOutstanding).toBe(4);
    expect(grower.stats).toMatchObject({ extentsQueued: 24, extentsDropped: 76 });
    volume.release();
    await grower.idle();
    expect(knows(50 * 32)).toBe(false);
    for (let extent = 50; extent < 60; extent++) grower.grow(0, extent * 32);
    await grower.idle();
    expect(knows(50 * 32)).toBe(true);
    expect(grower.stats.blocksAdded).toBe(34 * 32);
  });

  it('ignores blocks that are not there', async () => {
    const { volume, grower } = setUp(33);
    for (const [v, block] of [
      [0, 33],
      [0, 1e9],
      [1, 0],
      [0, -1],
      [0, Number.NaN],
    ] as const) {
      grower.grow(v, block);
    }
    await grower.idle();
    expect(volume.reads).toEqual([]);
  });

  it('keeps to its budget', async () => {
    const { grower } = setUp(320, { bytesPerSecond: 10 << 20 });
    const startedAt = performance.now();
    for (let block = 0; block < 320; block += 32) grower.grow(0, block);
    await grower.idle();
    // 1.25 MiB at 10 MiB/s, less the first extent, which goes at once.
    expect(performance.now() - startedAt).toBeGreaterThan(105);
    expect(grower.stats.blocksAdded).toBe(320);
  });

  it('leaves a volume alone that failed', async () => {
    const { volume, index, grower } = setUp(32 * 100);
    volume.failAt.add(0);
    for (let extent = 0; extent < 100; extent++) grower.grow(0, extent * 32);
    await grower.idle();
    expect(grower.stats.extentsFailed).toBe(1);
    expect(volume.reads.length).toBeLessThan(12);
    expect(index.count).toBeLessThan(12 * 32);
  });

  it('adds nothing after it is closed, and is idle', async () => {
    const { volume, index, grower } = setUp(32 * 100);
    volume.held = true;
    for (let extent = 0; extent < 100; extent++) grower.grow(0, extent * 32);
    await nextTurn();
    grower.close();
    await grower.idle();
    volume.release();
    grower.grow(0, 0);
    await grower.idle();
    expect(index.count).toBe(0);
    expect(volume.reads).toHaveLength(4);
  });

  it('is caught up when what was asked for until then is in the index', async () => {
    const { grower, knows } = setUp(32 * 8);
    expect(grower.caughtUp()).toBeUndefined();
    for (let extent = 0; extent < 8; extent++) grower.grow(0, extent * 32);
    await grower.caughtUp();
    expect([0, 31, 100, 255].every(knows)).toBe(true);
    expect(grower.caughtUp()).toBeUndefined();
  });

  it('is not caught up while an extent is at hand that later ones have overtaken', async () => {
    const { volume, grower, knows } = setUp(32 * 8);
    const read = volume.read.bind(volume);
    let letGo: () => void = () => {};
    volume.read = (into, length, position, done) => {
      if (position === 0) letGo = () => read(into, length, position, done);
      else read(into, length, position, done);
    };
    for (let extent = 0; extent < 8; extent++) grower.grow(0, extent * 32);
    let caughtUp = false;
    const waiting = grower.caughtUp()?.then(() => {
      caughtUp = true;
    });
    await expect.poll(() => knows(7 * 32)).toBe(true);
    expect(caughtUp).toBe(false);
    letGo();
    await waiting;
    expect(knows(0)).toBe(true);
  });

  it('lets nobody wait when it is closed', async () => {
    const { grower } = setUp(32 * 8);
    grower.grow(0, 0);
    const waiting = grower.caughtUp();
    grower.close();
    await waiting;
    expect(grower.caughtUp()).toBeUndefined();
  });
});
