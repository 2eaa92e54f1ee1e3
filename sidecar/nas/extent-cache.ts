// What the target read so that the source's index could grow, kept until batches refer to it: those blocks are not read twice.
// Least recently used extents make room for new ones, and an extent goes when every block of it was used once, for a guest's cache
// holds a block of a file once. What is kept may be older than what the volume has: it is then still what the source was told of,
// and the batch's tag decides as it does for a block just read.
import type { BlockReader, BlockRun, ReadOutcome } from './block-reader.ts';
import { BLOCK_BYTES } from './volume.ts';

export interface ExtentCacheOptions {
  readonly reader: Pick<BlockReader, 'readBlocks'>;
  /** Memory for extents. */
  readonly maxBytes: number;
  /** Only what begins at a multiple of this and is no longer is kept. */
  readonly extentBlocks: number;
}

interface Extent {
  readonly buffer: Buffer;
  readonly blocks: number;
  /** Blocks not used yet. */
  left: number;
}

/** Late growth is worthless, and a NAS that slow has better things to do. */
const GROWTH_DEADLINE_MS = 5000;

export class ExtentCache {
  readonly #reader: Pick<BlockReader, 'readBlocks'>;
  readonly #extentBlocks: number;
  readonly #maxExtents: number;
  /** By volume and number of the extent, the least recently used first. */
  readonly #extents = new Map<number, Extent>();
  readonly #spare: Buffer[] = [];
  #blocksReused = 0;

  constructor(options: ExtentCacheOptions) {
    this.#reader = options.reader;
    this.#extentBlocks = options.extentBlocks;
    this.#maxExtents = Math.floor(options.maxBytes / (options.extentBlocks * BLOCK_BYTES));
  }

  /** Blocks that were not read because they were here. */
  get blocksReused(): number {
    return this.#blocksReused;
  }

  /**
   * Reads `count` blocks from `block` on; their bytes are valid until the caller gives control back. Undefined when they
   * could not be read.
   */
  async fetch(volume: number, block: number, count: number): Promise<Buffer | undefined> {
    const kept = block % this.#extentBlocks === 0 && count <= this.#extentBlocks && this.#maxExtents > 0;
    const buffer =
      (kept ? this.#spare.pop() : undefined) ??
      Buffer.allocUnsafeSlow((kept ? this.#extentBlocks : count) * BLOCK_BYTES);
    const run = { volume, block, count, offset: 0, stride: BLOCK_BYTES };
    const outcome = await this.#reader.readBlocks([run], buffer, GROWTH_DEADLINE_MS);
    if (outcome.failure !== null) return undefined;
    if (kept) this.#keep(this.#key(volume, block), { buffer, blocks: count, left: count });
    return buffer.subarray(0, count * BLOCK_BYTES);
  }

  /** As {@link BlockReader.readBlocks}, but for blocks that are here. */
  async readBlocks(runs: readonly BlockRun[], destination: Uint8Array): Promise<ReadOutcome> {
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
        if (!this.#copy(this.#key(run.volume, block), within, count, destination, offset, run.stride)) {
          misses.push({ ...run, block, count, offset });
          missPages.push(pages + done);
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

  /** False when the blocks are not here. */
  #copy(key: number, within: number, count: number, to: Uint8Array, offset: number, stride: number): boolean {
    const extent = this.#extents.get(key);
    if (extent === undefined || within + count > extent.blocks) return false;
    this.#extents.delete(key);
    const start = within * BLOCK_BYTES;
    if (stride === BLOCK_BYTES) to.set(extent.buffer.subarray(start, start + count * BLOCK_BYTES), offset);
    else {
      const destination = Buffer.from(to.buffer, to.byteOffset, to.byteLength);
      for (let i = 0; i < count; i++) {
        const at = start + i * BLOCK_BYTES;
        extent.buffer.copy(destination, offset + i * stride, at, at + BLOCK_BYTES);
      }
    }
    extent.left -= count;
    this.#blocksReused += count;
    if (extent.left > 0) this.#extents.set(key, extent);
    else this.#spare.push(extent.buffer);
    return true;
  }

  #keep(key: number, extent: Extent): void {
    const before = this.#extents.get(key);
    if (before !== undefined) {
      this.#extents.delete(key);
      this.#spare.push(before.buffer);
    }
    this.#extents.set(key, extent);
    if (this.#extents.size <= this.#maxExtents) return;
    const [oldest, dropped] = this.#extents.entries().next().value as [number, Extent];
    this.#extents.delete(oldest);
    this.#spare.push(dropped.buffer);
  }

  #key(volume: number, block: number): number {
    return volume * 2 ** 32 + Math.floor(block / this.#extentBlocks);
  }
}
