import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import {
  ADDED,
  addressable,
  BlockIndex,
  FULL,
  IndexOptionsError,
  MAX_COPIES,
  PRESENT,
  TOO_MANY_COPIES,
  ZERO_PAGE,
} from './block-index.ts';
import { type HashSeed, PAGE_BYTES, PageHasher } from './page-hash.ts';

const SEED = { hi: 0x1357_9bdf, lo: -0x0246_8ace };
const MIB = 1 << 20;

function makeIndex(
  blocks: readonly number[],
  options: { budgetBytes?: number; capacityBlocks?: number } = {},
) {
  const volumes = blocks.map((count, i) => ({ name: `disk${i}`, sizeBytes: count * PAGE_BYTES }));
  return BlockIndex.create({ volumes, seed: SEED, budgetBytes: MIB, ...options });
}

function makeHash(i: number): [number, number] {
  return [Math.imul(i + 1, 0x9e37_79b1) | 0, Math.imul(i + 7, 0x85eb_ca6b) | 0];
}

describe('BlockIndex', () => {
  it('finds what was added, over several volumes', () => {
    const index = makeIndex([1000, 500]);
    for (let i = 0; i < 1500; i++) {
      const [hi, lo] = makeHash(i);
      expect(index.add(i < 1000 ? 0 : 1, i % 1000, hi, lo)).toBe(ADDED);
    }
    expect(index.count).toBe(1500);
    for (let i = 0; i < 1500; i++) {
      const [hi, lo] = makeHash(i);
      const place = index.lookup(hi, lo);
      expect([index.volume(place), index.block(place)]).toEqual([i < 1000 ? 0 : 1, i % 1000]);
    }
    for (let i = 1500; i < 5000; i++) expect(index.lookup(...makeHash(i))).toBe(-1);
  });

  it('tells apart hashes that share 32 bits, at both ends of the range', () => {
    const index = makeIndex([100]);
    const extremes = [0, -1, 0x7fff_ffff, -0x8000_0000, 1];
    extremes.forEach((hi, i) => {
      expect(index.add(0, 2 * i, hi, 1)).toBe(ADDED);
      expect(index.add(0, 2 * i + 1, hi, 2)).toBe(ADDED);
    });
    extremes.forEach((hi, i) => {
      expect(index.lookup(hi, 1)).toBe(2 * i);
      expect(index.lookup(hi, 2)).toBe(2 * i + 1);
      expect(index.lookup(hi, 3)).toBe(-1);
    });
  });

  it('never stores the zero page', () => {
    const index = makeIndex([10]);
    const hasher = new PageHasher(SEED);
    hasher.hash(new Uint8Array(PAGE_BYTES), 0);
    expect(index.add(0, 3, hasher.hi, hasher.lo)).toBe(ZERO_PAGE);
    expect(index.lookup(hasher.hi, hasher.lo)).toBe(-1);
    expect(index.stats).toMatchObject({ count: 0, refusedZero: 1 });
  });

  it('takes over another seed while it is empty, with the zero page that belongs to it', () => {
    const index = makeIndex([10]);
    const other = { hi: 7, lo: -8 };
    const zeroWith = (seed: HashSeed): [number, number] => {
      const hasher = new PageHasher(seed);
      hasher.hash(new Uint8Array(PAGE_BYTES), 0);
      return [hasher.hi, hasher.lo];
    };
    expect(index.adoptSeed(other)).toBe(true);
    expect(index.seed).toEqual(other);
    expect(index.handle().seed).toEqual(other);
    expect(index.add(0, 3, ...zeroWith(other))).toBe(ZERO_PAGE);
    expect(index.add(0, 3, ...zeroWith(SEED))).toBe(ADDED);
    expect(index.adoptSeed(SEED)).toBe(false);
    expect(index.adoptSeed(other)).toBe(true);
    expect(index.seed).toEqual(other);
    expect(index.lookup(...zeroWith(SEED))).toBe(3);
    index.remove(0, 3, ...zeroWith(SEED));
    expect(index.adoptSeed(SEED)).toBe(true);
    expect(index.add(0, 3, ...zeroWith(SEED))).toBe(ZERO_PAGE);
  });

  it('keeps a bounded number of copies and prefers the one that coalesces', () => {
    const index = makeIndex([1000, 1000]);
    for (const block of [700, 10, 300]) expect(index.add(0, block, 5, 6)).toBe(ADDED);
    expect(index.add(0, 300, 5, 6)).toBe(PRESENT);
    expect(index.add(1, 300, 5, 6)).toBe(ADDED);
    const near = (volume: number, block: number) => {
      const place = index.lookupNear(5, 6, volume, block);
      return [index.volume(place), index.block(place)];
    };
    expect(near(0, 300)).toEqual([0, 300]);
    expect(near(0, 11)).toEqual([0, 300]);
    expect(near(0, 299)).toEqual([0, 300]);
    expect(near(0, 900)).toEqual([0, 700]);
    expect(near(1, 0)).toEqual([1, 300]);
    expect(index.lookupNear(5, 6, 7, 0)).toBeGreaterThanOrEqual(0);
    expect(index.lookupNear(5, 7, 0, 300)).toBe(-1);
    for (let i = 4; i < MAX_COPIES; i++) expect(index.add(0, 800 + i, 5, 6)).toBe(ADDED);
    expect(index.add(0, 999, 5, 6)).toBe(TOO_MANY_COPIES);
    expect(index.stats).toMatchObject({ count: MAX_COPIES, refusedCopies: 1 });
  });

  it('holds forged collisions side by side, and only the one proven wrong leaves', () => {
    const index = makeIndex([100]);
    index.add(0, 1, 77, 88);
    index.add(0, 2, 77, 88);
    expect(index.remove(0, 3, 77, 88)).toBe(false);
    expect(index.remove(0, 1, 77, 88)).toBe(true);
    expect(index.lookup(77, 88)).toBe(2);
    expect(index.remove(0, 2, 77, 88)).toBe(true);
    expect(index.remove(0, 2, 77, 88)).toBe(false);
    expect(index.lookup(77, 88)).toBe(-1);
    expect(index.stats).toMatchObject({ count: 0, removed: 2 });
  });

  it('refuses more when it is full, says so, and takes more after a removal', () => {
    const index = makeIndex([1000], { capacityBlocks: 100 });
    for (let i = 0; i < 100; i++) expect(index.add(0, i, ...makeHash(i))).toBe(ADDED);
    expect(index.full).toBe(false);
    expect(index.add(0, 100, ...makeHash(100))).toBe(FULL);
    expect(index.add(0, 5, ...makeHash(5))).toBe(PRESENT);
    expect(index.full).toBe(true);
    index.remove(0, 5, ...makeHash(5));
    expect(index.full).toBe(false);
    expect(index.add(0, 100, ...makeHash(100))).toBe(ADDED);
  });

  it('stays within its budget, at about 10 bytes a block', () => {
    const blocks = 1 << 20;
    const whole = makeIndex([blocks], { budgetBytes: 64 * MIB });
    expect(whole.capacity).toBe(blocks);
    expect(whole.stats.bytes / blocks).toBeLessThan(10.4);
    const bounded = makeIndex([blocks], { budgetBytes: 4 * MIB });
    expect(bounded.stats.bytes).toBeLessThanOrEqual(4 * MIB);
    expect(bounded.capacity).toBeGreaterThan((4 * MIB) / 10.4);
  });

  it('keeps loops short when all hashes are alike', () => {
    const index = makeIndex([100_000], { budgetBytes: 4 * MIB });
    const results = new Map<number, number>();
    for (let i = 0; i < 20_000; i++) {
      const result = index.add(0, i, Math.floor(i / 256) - 0x8000, i & 0xff);
      results.set(result, (results.get(result) ?? 0) + 1);
    }
    expect(results.get(ADDED)).toBeGreaterThan(1000);
    expect(results.get(FULL)).toBeGreaterThan(10_000);
    expect(index.full).toBe(false);
  });

  it('can be made of as many volumes as 32 bits tell the blocks of, the smallest first', () => {
    const chosen = (...blocks: number[]) =>
      addressable(blocks.map((count, i) => ({ name: `${i}`, sizeBytes: count * PAGE_BYTES }))).map(
        ({ name }) => Number(name),
      );
    const most = 2 ** 32 - 2;
    expect(chosen(most)).toEqual([0]);
    expect(chosen(most + 1)).toEqual([]);
    expect(chosen(most - 5, 5)).toEqual([0, 1]);
    expect(chosen(most - 5, 6)).toEqual([1]);
    expect(chosen(2 ** 31, 2 ** 30, 2 ** 31, 7)).toEqual([0, 1, 3]);
    const volumes = [{ name: 'disk', sizeBytes: most * PAGE_BYTES }];
    expect(BlockIndex.create({ volumes, seed: SEED, budgetBytes: MIB }).capacity).toBeGreaterThan(0);
  });

  it('refuses volumes and blocks that make no sense', () => {
    expect(() => makeIndex([])).toThrow(IndexOptionsError);
    expect(() => makeIndex([2 ** 32])).toThrow(/32 bits/);
    expect(() => makeIndex([10], { budgetBytes: 100 })).toThrow(IndexOptionsError);
    expect(() => makeIndex([0])).toThrow(IndexOptionsError);
    const index = makeIndex([10, 20]);
    for (const [volume, block] of [
      [0, 10],
      [2, 0],
      [-1, 0],
      [0, -1],
      [0, Number.NaN],
    ] as const) {
      expect(() => index.add(volume, block, 1, 2)).toThrow(RangeError);
    }
  });

  it('is one index in several threads', async () => {
    const index = makeIndex([100]);
    index.add(0, 42, 123, 456);
    const source = `
      const { workerData, parentPort } = require('node:worker_threads');
      import(workerData.module).then(({ BlockIndex }) => {
        const index = BlockIndex.fromHandle(workerData.handle);
        const before = index.lookup(123, 456);
        index.add(0, 43, 9, 9);
        parentPort.postMessage({ before, count: index.count });
      });`;
    const worker = new Worker(source, {
      eval: true,
      workerData: { handle: index.handle(), module: new URL('./block-index.ts', import.meta.url).href },
    });
    const message = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    await worker.terminate();
    expect(message).toEqual({ before: 42, count: 2 });
    expect(index.lookup(9, 9)).toBe(43);
  });

  it('gives readers real places, and an end, while it is written to', async () => {
    const index = makeIndex([2000], { capacityBlocks: 2000 });
    const source = `
      const { workerData, parentPort } = require('node:worker_threads');
      import(workerData.module).then(({ BlockIndex }) => {
        const index = BlockIndex.fromHandle(workerData.handle);
        const stop = new Int32Array(workerData.stop);
        let lookups = 0, found = 0, wrong = 0;
        parentPort.postMessage('ready');
        while (Atomics.load(stop, 0) === 0 || lookups < 1000) {
          for (let i = 0; i < 2000; i++, lookups++) {
            const [hi, lo] = [Math.imul(i + 1, 0x9e3779b1) | 0, Math.imul(i + 7, 0x85ebca6b) | 0];
            const place = index.lookupNear(hi, lo, 0, i);
            if (place >= 0) found++;
            if (!(place >= -1 && place < 2000)) wrong++;
          }
        }
        parentPort.postMessage({ found: found > 0, wrong });
      });`;
    const stop = new SharedArrayBuffer(4);
    const worker = new Worker(source, {
      eval: true,
      workerData: {
        handle: index.handle(),
        module: new URL('./block-index.ts', import.meta.url).href,
        stop,
      },
    });
    const failed = new Promise<never>((_, reject) => worker.once('error', reject));
    const message = () => Promise.race([failed, new Promise((resolve) => worker.once('message', resolve))]);
    expect(await message()).toBe('ready');
    for (let round = 0; round < 40; round++) {
      for (let i = 0; i < 2000; i++) index.add(0, i, ...makeHash(i));
      for (let i = round % 2; i < 2000; i += 2) index.remove(0, i, ...makeHash(i));
    }
    for (let i = 0; i < 2000; i++) index.add(0, i, ...makeHash(i));
    Atomics.store(new Int32Array(stop), 0, 1);
    expect(await message()).toEqual({ found: true, wrong: 0 });
    await worker.terminate();
    expect(index.count).toBe(2000);
    for (let i = 0; i < 2000; i++) expect(index.lookup(...makeHash(i))).toBe(i);
  });
});
