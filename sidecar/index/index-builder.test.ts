import { describe, expect, it } from 'vitest';
import { MemoryVolume, patternBlocks } from '../nas/memory-volume.ts';
import { BlockIndex } from './block-index.ts';
import { type BuildProgress, buildFull, buildSample } from './index-builder.ts';
import { PAGE_BYTES, PageHasher } from './page-hash.ts';

const SEED = { hi: 3, lo: 4 };

function makeIndex(volumes: readonly MemoryVolume[]): BlockIndex {
  return BlockIndex.create({ volumes, seed: SEED, budgetBytes: 16 << 20 });
}

/** Blocks of a volume that the index finds, each at its own place. */
function foundBlocks(index: BlockIndex, volumes: readonly MemoryVolume[], volume: number): number[] {
  const hasher = new PageHasher(SEED);
  const { content, blockCount } = volumes[volume] as MemoryVolume;
  const found: number[] = [];
  for (let block = 0; block < blockCount; block++) {
    hasher.hash(content, block * PAGE_BYTES);
    const place = index.lookupNear(hasher.hi, hasher.lo, volume, block);
    if (place >= 0 && index.volume(place) === volume && index.block(place) === block) found.push(block);
  }
  return found;
}

function range(from: number, to: number, step = 1): number[] {
  return Array.from({ length: Math.ceil((to - from) / step) }, (_, i) => from + i * step);
}

describe('buildFull', () => {
  it('indexes every block of its volume but the zero ones, and counts', async () => {
    const a = new MemoryVolume('a', patternBlocks(1000, 1));
    a.content.fill(0, 100 * PAGE_BYTES, 300 * PAGE_BYTES);
    const b = new MemoryVolume('b', new Uint8Array([...patternBlocks(3, 2), 1, 2, 3]));
    const volumes = [a, b];
    const index = makeIndex(volumes);
    const progress: BuildProgress[] = [];
    const result = await buildFull({ index, volume: a, number: 0, onProgress: (p) => progress.push(p) });
    expect(result).toMatchObject({
      bytesRead: 1000 * PAGE_BYTES,
      reads: 4,
      blocksAdded: 800,
      zeroBlocks: 200,
      aborted: false,
      failure: null,
    });
    expect(index.full).toBe(false);
    expect(b.reads).toEqual([]);
    expect(progress[0]).toMatchObject({ bytesTotal: 1000 * PAGE_BYTES });
    expect(progress.at(-1)).toMatchObject({ bytesRead: 1000 * PAGE_BYTES, blocks: 800, secondsLeft: 0 });
    expect(await buildFull({ index, volume: b, number: 1 })).toMatchObject({ blocksAdded: 3, reads: 1 });
    expect(foundBlocks(index, volumes, 0)).toEqual([...range(0, 100), ...range(300, 1000)]);
    expect(foundBlocks(index, volumes, 1)).toEqual([0, 1, 2]);
  });

  it('keeps to its budget', async () => {
    const volume = new MemoryVolume('a', patternBlocks(1024, 3));
    const startedAt = performance.now();
    const index = makeIndex([volume]);
    await buildFull({ index, volume, number: 0, bytesPerSecond: 20 << 20 });
    // 4 MiB, of which the first MiB goes at once: 150 ms at 20 MiB/s.
    expect(performance.now() - startedAt).toBeGreaterThan(140);
    expect(index.count).toBe(1024);
  });

  it('stops when it is aborted, also in the midst of a read or a wait', async () => {
    for (const bytesPerSecond of [0, 1000]) {
      const volume = new MemoryVolume('a', patternBlocks(1024, 3));
      volume.held = true;
      const abort = new AbortController();
      const build = buildFull({
        index: makeIndex([volume]),
        ...{ volume, number: 0 },
        bytesPerSecond,
        signal: abort.signal,
      });
      setTimeout(() => abort.abort(), 10);
      expect(await build).toMatchObject({ aborted: true, blocksAdded: 0, failure: null });
      volume.release();
    }
  });

  it.each([
    ['cannot be read', { failAt: 512 }, 'NASMIG_NAS_READ', 512],
    ['is shorter than it was', { endAt: 700 }, 'NASMIG_VOLUME_SHORT', 700],
  ])(
    'gives a volume up that %s, with its name, and keeps what it has of it',
    async (_, { failAt, endAt }: { failAt?: number; endAt?: number }, code, kept) => {
      const volume = new MemoryVolume('bad', patternBlocks(2048, 4));
      if (failAt !== undefined) volume.failAt.add(failAt * PAGE_BYTES);
      if (endAt !== undefined) volume.endBytes = endAt * PAGE_BYTES;
      const index = makeIndex([volume]);
      const { failure } = await buildFull({ index, volume, number: 0 });
      expect(failure).toMatchObject({ code, volume: 'bad' });
      expect(volume.reads.length).toBeLessThan(8);
      expect(foundBlocks(index, [volume], 0).slice(0, kept)).toEqual(range(0, kept));
    },
  );

  it('tells when the index is full', async () => {
    const volume = new MemoryVolume('a', patternBlocks(1024, 3));
    const index = BlockIndex.create({
      volumes: [volume],
      seed: SEED,
      budgetBytes: 1 << 20,
      capacityBlocks: 500,
    });
    expect(await buildFull({ index, volume, number: 0 })).toMatchObject({ blocksAdded: 500 });
    expect(index.full).toBe(true);
  });

  it('lets others have the thread', async () => {
    const volume = new MemoryVolume('a', patternBlocks(8192, 3));
    const index = makeIndex([volume]);
    let before = 0;
    let mostBlocksATurn = 0;
    const tick = () => {
      mostBlocksATurn = Math.max(mostBlocksATurn, index.count - before);
      before = index.count;
      timer = setImmediate(tick);
    };
    let timer = setImmediate(tick);
    await buildFull({ index, volume, number: 0 });
    clearImmediate(timer);
    // Three requests of 256 are under way at once; hashing them takes less than a millisecond.
    expect(mostBlocksATurn).toBeGreaterThan(0);
    expect(mostBlocksATurn).toBeLessThanOrEqual(3 * 256);
  });
});

describe('buildSample', () => {
  it('reads one block in 8 of what is used, and next to nothing of what is not', async () => {
    const blocks = 64 * 256;
    const volume = new MemoryVolume('a', new Uint8Array(blocks * PAGE_BYTES));
    // Used from the middle of region 10 to the middle of region 20.
    volume.content.set(patternBlocks(10 * 256, 7), (10 * 256 + 128) * PAGE_BYTES);
    const index = makeIndex([volume]);
    const result = await buildSample({ index, volume, number: 0, oneIn: 8 });
    expect(foundBlocks(index, [volume], 0)).toEqual(range(10 * 256 + 128, 20 * 256 + 128, 8));
    // One probe a region, 31 more in each region from 10 (beside a used probe) to 21.
    expect(result).toMatchObject({ reads: 64 + 12 * 31, bytesRead: (64 + 12 * 31) * PAGE_BYTES });
    expect(volume.mostOutstanding).toBe(16);
    expect(volume.reads.every(({ length }) => length === PAGE_BYTES)).toBe(true);
  });

  it('samples another volume, the last region too, at another rate', async () => {
    const volumes = [
      new MemoryVolume('a', patternBlocks(40, 9)),
      new MemoryVolume('b', patternBlocks(300, 8)),
    ];
    const index = makeIndex(volumes);
    const progress: BuildProgress[] = [];
    const volume = volumes[1] as MemoryVolume;
    await buildSample({ index, volume, number: 1, oneIn: 32, onProgress: (p) => progress.push(p) });
    expect(foundBlocks(index, volumes, 0)).toEqual([]);
    expect(foundBlocks(index, volumes, 1)).toEqual(range(0, 300, 32));
    expect(progress.at(-1)).toMatchObject({ bytesRead: 10 * PAGE_BYTES, blocks: 10 });
  });

  it.each([1, 10, 7, 255, 300])(
    'samples one block in %i of all, whatever divides a region',
    async (oneIn) => {
      const volume = new MemoryVolume('a', patternBlocks(1500, 8));
      const index = makeIndex([volume]);
      const { bytesRead } = await buildSample({ index, volume, number: 0, oneIn });
      expect(foundBlocks(index, [volume], 0)).toEqual(range(0, 1500, oneIn));
      expect(bytesRead).toBe(Math.ceil(1500 / oneIn) * PAGE_BYTES);
    },
  );

  it.each([0, -1, 1.5, Number.NaN])('does not sample one block in %d', async (oneIn) => {
    const volume = new MemoryVolume('a', patternBlocks(10, 8));
    const sampling = buildSample({ index: makeIndex([volume]), volume, number: 0, oneIn });
    await expect(sampling).rejects.toThrow(RangeError);
  });

  it('stops when it is aborted or the volume fails', async () => {
    const volume = new MemoryVolume('a', patternBlocks(256 * 64, 8));
    const abort = new AbortController();
    abort.abort();
    const options = { index: makeIndex([volume]), volume, number: 0 };
    expect(await buildSample({ ...options, signal: abort.signal })).toMatchObject({
      aborted: true,
      reads: 0,
    });
    volume.endBytes = 0;
    const result = await buildSample(options);
    expect(result.failure?.code).toBe('NASMIG_VOLUME_SHORT');
    expect(result.reads).toBeLessThanOrEqual(3 * 64);
  });
});
