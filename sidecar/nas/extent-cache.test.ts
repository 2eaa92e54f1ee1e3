import { describe, expect, it } from 'vitest';
import { BlockReader } from './block-reader.ts';
import { ExtentCache } from './extent-cache.ts';
import { MemoryVolume, patternBlocks } from './memory-volume.ts';
import { BLOCK_BYTES } from './volume.ts';

function setUp(extents: number) {
  const volume = new MemoryVolume('a', patternBlocks(1000));
  const reader = new BlockReader({ volumes: [volume], gapBlocks: 0 });
  const cache = new ExtentCache({ reader, maxBytes: extents * 16 * BLOCK_BYTES, extentBlocks: 16 });
  const readAt = async (block: number, count: number, stride = BLOCK_BYTES) => {
    const destination = new Uint8Array(count * stride);
    const outcome = await cache.readBlocks([{ volume: 0, block, count, offset: 0, stride }], destination);
    return { outcome, destination };
  };
  const block = (number: number) => volume.content.subarray(number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES);
  return { volume, cache, readAt, block };
}

describe('ExtentCache', () => {
  it('reads once what was fetched before, also across extents and with gaps between the pages', async () => {
    const { volume, cache, readAt, block } = setUp(8);
    const fetched = await cache.fetch(0, 16, 16);
    expect(fetched?.equals(volume.content.subarray(16 * BLOCK_BYTES, 32 * BLOCK_BYTES))).toBe(true);
    await cache.fetch(0, 32, 16);
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
    const { volume, cache, readAt, block } = setUp(8);
    await cache.fetch(0, 16, 16);
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

  it('gives what it read, also when the volume changed since: the source was told of that', async () => {
    const { volume, cache, readAt, block } = setUp(8);
    const before = Buffer.from(block(20));
    await cache.fetch(0, 16, 16);
    volume.content.fill(9, 20 * BLOCK_BYTES, 21 * BLOCK_BYTES);
    const { destination } = await readAt(20, 1);
    expect(Buffer.compare(destination, before)).toBe(0);
  });

  it('holds no more than its share, the least recently used goes first, and one that was used up at once', async () => {
    const { volume, cache, readAt } = setUp(2);
    await cache.fetch(0, 0, 16);
    await cache.fetch(0, 16, 16);
    await readAt(3, 1);
    await cache.fetch(0, 32, 16);
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

  it('keeps nothing that failed or does not lie on an extent', async () => {
    const { volume, cache, readAt } = setUp(8);
    volume.failAt.add(0);
    expect(await cache.fetch(0, 0, 16)).toBeUndefined();
    volume.failAt.clear();
    await cache.fetch(0, 17, 16);
    volume.reads.length = 0;
    await readAt(0, 1);
    await readAt(20, 1);
    expect(volume.reads).toHaveLength(2);
  });
});
