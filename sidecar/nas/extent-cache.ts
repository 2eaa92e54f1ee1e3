// What the target read so that the source's index could grow, kept until batches refer to it: those blocks are not read twice.
// Least recently used extents make room for new ones, and an extent goes when every block of it was used once, for a guest's cache
// holds a block of a file once. What is kept may be older than what the volume has: it is then still what the source was told of,
// and the batch's tag decides as it does for a block just read.
// The hashes that the source was told are kept beside the bytes: who inherits the blocks need not hash them again (docs/adr/0017-an-inherited-index-keeps-its-seed.md).
import { type BlockHashes, hashPages } from '../index/block-hashes.ts';
import { type HashSeed, isSameSeed, type PageHasher } from '../index/page-hash.ts';
import type { BlockReader, BlockRun, ReadOutcome } from './block-reader.ts';
import { alignedMemory, BLOCK_BYTES } from './volume.ts';

export interface ExtentCacheOptions {
  readonly reader: Pick<BlockReader, 'readBlocks' | 'readAligned'>;
  /** Memory for extents and their hashes. */
  readonly maxBytes: number;
  /** Only what begins at a multiple of this and is no longer is kept. */
  readonly extentBlocks: number;
}

/** Hashes of the pages that were asked for, in the order of the runs; 0 and 0 where none is at hand. */
export interface KnownHashes {
  readonly seed: HashSeed;
  readonly hi: Int32Array;
  readonly lo: Int32Array;
}

interface Extent {
  readonly buffer: Buffer;
  readonly blocks: number;
  readonly seed: HashSeed;
  readonly hashes: BlockHashes;
  /** Blocks not used yet. */
  left: number;
}

const HASH_BYTES = 8;

/** Late growth is worthless, and a NAS that slow has better things to do. */
const GROWTH_DEADLINE_MS = 5000;

export class ExtentCache {
  readonly #reader: Pick<BlockReader, 'readBlocks' | 'readAligned'>;
  readonly #extentBlocks: number;
  readonly #maxExtents: number;
  /** By volume and number of the extent, the least recently used first. */
  readonly #extents = new Map<number, Extent>();
  readonly #memory: ExtentMemory;
  #blocksFetched = 0;
  #blocksUsed = 0;
  #blocksReused = 0;

  constructor(options: ExtentCacheOptions) {
    this.#reader = options.reader;
    this.#extentBlocks = options.extentBlocks;
    this.#maxExtents = Math.floor(options.maxBytes / (options.extentBlocks * (BLOCK_BYTES + HASH_BYTES)));
    this.#memory = new ExtentMemory(options.extentBlocks * BLOCK_BYTES, this.#maxExtents);
  }

  /** Bytes read for the source's index. */
  get bytesFetched(): number {
    return this.#blocksFetched * BLOCK_BYTES;
  }

  /** Of these, what no batch has used so far. */
  get bytesUnused(): number {
    return (this.#blocksFetched - this.#blocksUsed) * BLOCK_BYTES;
  }

  /** Blocks that were not read because they were here. */
  get blocksReused(): number {
    return this.#blocksReused;
  }

  /** Reads and hashes `count` blocks from `block` on. Undefined when they could not be read. */
  async fetch(
    volume: number,
    block: number,
    count: number,
    hasher: PageHasher,
  ): Promise<BlockHashes | undefined> {
    const buffer = this.#isKept(block, count) ? (this.#memory.take() ?? this.#drop()?.buffer) : undefined;
    if (buffer === undefined) return this.#readAside(volume, block, count, hasher);
    const outcome = await this.#reader.readAligned(
      volume,
      block,
      count,
      buffer.subarray(0, count * BLOCK_BYTES),
      GROWTH_DEADLINE_MS,
    );
    // The kernel may still write to the buffer, so nobody gets it again.
    if (outcome.failure !== null) return undefined;
    this.#blocksFetched += count;
    const hashes = hashPages(hasher, buffer, count);
    const extent = { buffer, blocks: count, seed: hasher.seed, hashes, left: count };
    this.#keep(this.#key(volume, block), extent);
    return hashes;
  }

  #isKept(block: number, count: number): boolean {
    return block % this.#extentBlocks === 0 && count <= this.#extentBlocks;
  }

  /** For blocks that are not kept, also because too many reads hold memory that never came back. */
  async #readAside(
    volume: number,
    block: number,
    count: number,
    hasher: PageHasher,
  ): Promise<BlockHashes | undefined> {
    const buffer = Buffer.allocUnsafeSlow(count * BLOCK_BYTES);
    const run = { volume, block, count, offset: 0, stride: BLOCK_BYTES };
    const outcome = await this.#reader.readBlocks([run], buffer, GROWTH_DEADLINE_MS);
    if (outcome.failure !== null) return undefined;
    this.#blocksFetched += count;
    return hashPages(hasher, buffer, count);
  }

  /** As {@link BlockReader.readBlocks}, but for blocks that are here. Their hashes go to `known`, where its seed is theirs. */
  async readBlocks(
    runs: readonly BlockRun[],
    destination: Uint8Array,
    known?: KnownHashes,
  ): Promise<ReadOutcome> {
    const misses: BlockRun[] = [];
    /** Number of the first page of each miss, among the pages of all runs. */
    const missPages: number[] = [];
    let pages = 0;
    for (const run of runs) {
      for (let done = 0; done < run.count; ) {
        const block = run.block + done;
        const within = block % this.#extentBlocks;
        const count = Math.min(run.count - done, this.#extentBlocks - within);
        const offset = run.offset + done * run.stride;
        const extent = this.#use(this.#key(run.volume, block), within, count);
        if (extent === undefined) {
          misses.push({ ...run, block, count, offset });
          missPages.push(pages + done);
        } else {
          copyBlocks(extent.buffer, within, count, destination, offset, run.stride);
          if (known !== undefined) copyHashes(extent, within, count, known, pages + done);
        }
        done += count;
      }
      pages += run.count;
    }
    const nothing = { pages, missingCount: 0, missing: null, failure: null, failedVolume: -1 };
    if (misses.length === 0) return nothing;
    const outcome = await this.#reader.readBlocks(misses, destination);
    if (outcome.missing === null) return { ...outcome, pages };
    const missing = new Uint8Array(Math.ceil(pages / 8));
    let asked = 0;
    misses.forEach((miss, m) => {
      for (let i = 0; i < miss.count; i++, asked++) {
        if (((outcome.missing?.[asked >> 3] ?? 0) & (1 << (asked & 7))) === 0) continue;
        const page = (missPages[m] as number) + i;
        missing[page >> 3] = (missing[page >> 3] as number) | (1 << (page & 7));
      }
    });
    return { ...outcome, pages, missing };
  }

  /** The extent with these blocks, which count as used: undefined when they are not here. Its bytes are valid until control is given back. */
  #use(key: number, within: number, count: number): Extent | undefined {
    const extent = this.#extents.get(key);
    if (extent === undefined || within + count > extent.blocks) return undefined;
    this.#extents.delete(key);
    this.#blocksUsed += Math.min(count, extent.left);
    extent.left -= count;
    this.#blocksReused += count;
    if (extent.left > 0) this.#extents.set(key, extent);
    else this.#memory.give(extent.buffer);
    return extent;
  }

  #keep(key: number, extent: Extent): void {
    const before = this.#extents.get(key);
    if (before !== undefined) {
      this.#extents.delete(key);
      this.#memory.give(before.buffer);
    }
    this.#extents.set(key, extent);
    if (this.#extents.size <= this.#maxExtents) return;
    this.#memory.give((this.#drop() as Extent).buffer);
  }

  /** The least recently used extent, which is not here any more. */
  #drop(): Extent | undefined {
    const oldest = this.#extents.entries().next().value;
    if (oldest === undefined) return undefined;
    this.#extents.delete(oldest[0]);
    return oldest[1];
  }

  #key(volume: number, block: number): number {
    return volume * 2 ** 32 + Math.floor(block / this.#extentBlocks);
  }
}

/**
 * Aligned memory for extents: for those that are kept, and as many again while they are read. It becomes resident as it is used,
 * and what was given back last is used first.
 */
class ExtentMemory {
  readonly #extentBytes: number;
  readonly #places: number;
  readonly #free: Buffer[] = [];
  #slab: Uint8Array | undefined;
  #used = 0;

  constructor(extentBytes: number, extents: number) {
    this.#extentBytes = extentBytes;
    this.#places = 2 * extents;
  }

  /** Undefined when all is out. */
  take(): Buffer | undefined {
    const free = this.#free.pop();
    if (free !== undefined || this.#used === this.#places) return free;
    this.#slab ??= alignedMemory(this.#places * this.#extentBytes);
    return Buffer.from(this.#slab.buffer, this.#used++ * this.#extentBytes, this.#extentBytes);
  }

  give(buffer: Buffer): void {
    this.#free.push(buffer);
  }
}

function copyBlocks(
  from: Buffer,
  within: number,
  count: number,
  to: Uint8Array,
  offset: number,
  stride: number,
): void {
  const start = within * BLOCK_BYTES;
  if (stride === BLOCK_BYTES) {
    to.set(from.subarray(start, start + count * BLOCK_BYTES), offset);
    return;
  }
  const destination = Buffer.from(to.buffer, to.byteOffset, to.byteLength);
  for (let i = 0; i < count; i++) {
    const at = start + i * BLOCK_BYTES;
    from.copy(destination, offset + i * stride, at, at + BLOCK_BYTES);
  }
}

function copyHashes(
  { seed, hashes }: Extent,
  within: number,
  count: number,
  to: KnownHashes,
  page: number,
): void {
  if (!isSameSeed(seed, to.seed)) return;
  for (let i = 0; i < count; i++) {
    to.hi[page + i] = hashes.hi[within + i] as number;
    to.lo[page + i] = hashes.lo[within + i] as number;
  }
}
