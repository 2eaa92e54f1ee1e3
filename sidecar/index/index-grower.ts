// Grows a sampled index where it was right: a page that equals a sampled block most likely belongs to a file whose other pages are in the
// guest's cache too, so the blocks around it are indexed while the migration goes on. Within a read budget and a bounded queue, every
// stretch at most once. The hashes come from the target, which needs the same blocks anyway, or are read here (block-hashes.ts).
import { ReadBudget } from '../nas/read-budget.ts';
import { BLOCK_BYTES } from '../nas/volume.ts';
import type { BlockHashes, BlockHashSource } from './block-hashes.ts';
import { ADDED, type BlockIndex } from './block-index.ts';

export interface IndexGrowerOptions {
  readonly index: BlockIndex;
  /** The volumes of the index, in its order. */
  readonly volumes: readonly { readonly blockCount: number }[];
  readonly hashes: BlockHashSource;
  /** Most bytes a second to read; 0, the default, for no limit. */
  readonly bytesPerSecond?: number;
  /** Blocks read around a hit, aligned to this number. */
  readonly extentBlocks?: number;
  /** Extents waiting to be read; more are dropped, and come again with the next hit. */
  readonly maxQueued?: number;
  readonly maxInFlight?: number;
}

export interface IndexGrowerStats {
  /** Read on this side. */
  readonly bytesRead: number;
  readonly reads: number;
  readonly blocksAdded: number;
  readonly extentsQueued: number;
  /** Extents not read because the queue was full. */
  readonly extentsDropped: number;
  /** Extents not read to their end because the volume failed. */
  readonly extentsFailed: number;
}

/**
 * 512 KiB. A guest reads ahead 128 KiB, so at least as much of a file is usually cached together; larger reads cost the NAS and us
 * less, and on a disk whose files lie together they bring hardly more than is needed.
 */
export const EXTENT_BLOCKS = 128;
const DEFAULT_MAX_QUEUED = 4096;
export const GROWTH_IN_FLIGHT = 12;

export class IndexGrower {
  readonly #index: BlockIndex;
  readonly #volumes: readonly { readonly blockCount: number }[];
  readonly #hashes: BlockHashSource;
  readonly #budget: ReadBudget;
  readonly #extentBlocks: number;
  readonly #maxQueued: number;
  /** One bit an extent, by volume: read, or waiting to be. */
  readonly #seen: Uint8Array[];
  readonly #failed = new Set<number>();
  readonly #stop = new AbortController();
  /** Volume and extent, alternating, from #head on. */
  #queue: number[] = [];
  #head = 0;
  readonly #idleWaiters: (() => void)[] = [];
  /** Resolved when so many extents have been dealt with. */
  #catchUpWaiters: { readonly extents: number; readonly resolve: () => void }[] = [];
  /** Extents taken from the queue; they are numbered in that order. */
  #extentsTaken = 0;
  /** Numbers of those that a lane has at hand. */
  readonly #atHand = new Set<number>();
  readonly #lanes: number;
  #lanesBusy = 0;
  #blocksAdded = 0;
  #extentsQueued = 0;
  #extentsDropped = 0;
  #extentsFailed = 0;

  constructor(options: IndexGrowerOptions) {
    this.#index = options.index;
    this.#volumes = options.volumes;
    this.#hashes = options.hashes;
    this.#extentBlocks = options.extentBlocks ?? EXTENT_BLOCKS;
    this.#maxQueued = options.maxQueued ?? DEFAULT_MAX_QUEUED;
    this.#lanes = options.maxInFlight ?? GROWTH_IN_FLIGHT;
    this.#budget = new ReadBudget(options.bytesPerSecond ?? 0);
    this.#seen = options.volumes.map(
      (volume) => new Uint8Array(Math.ceil(volume.blockCount / this.#extentBlocks / 8)),
    );
  }

  get stats(): IndexGrowerStats {
    const { bytesRead, reads } = this.#hashes.stats;
    return {
      bytesRead,
      reads,
      blocksAdded: this.#blocksAdded,
      extentsQueued: this.#extentsQueued,
      extentsDropped: this.#extentsDropped,
      extentsFailed: this.#extentsFailed,
    };
  }

  /** Notes a hit at a block. Costs a look at one bit when the surroundings are known; does nothing for a block that is not there. */
  grow(volume: number, block: number): void {
    const seen = this.#seen[volume];
    const extent = Math.floor(block / this.#extentBlocks);
    const bits = seen?.[extent >> 3];
    if (seen === undefined || bits === undefined) return;
    const bit = 1 << (extent & 7);
    if ((bits & bit) !== 0 || this.#stop.signal.aborted || this.#failed.has(volume)) return;
    if (!(block < (this.#volumes[volume]?.blockCount ?? 0))) return;
    if ((this.#queue.length - this.#head) / 2 >= this.#maxQueued) {
      this.#extentsDropped++;
      return;
    }
    seen[extent >> 3] = bits | bit;
    this.#extentsQueued++;
    this.#queue.push(volume, extent);
    if (this.#lanesBusy < this.#lanes) {
      this.#lanesBusy++;
      void this.#lane();
    }
  }

  /** Resolves when nothing is waiting or being read. */
  idle(): Promise<void> {
    if (this.#lanesBusy === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  /**
   * For a batch whose hits were just noted: resolves when everything asked for until now is in the index, or undefined when it is
   * already.
   */
  caughtUp(): Promise<void> | undefined {
    const extents = this.#extentsQueued;
    if (this.#extentsDone() >= extents || this.#stop.signal.aborted) return undefined;
    return new Promise((resolve) => this.#catchUpWaiters.push({ extents, resolve }));
  }

  /** Drops what is waiting and adds nothing any more. */
  close(): void {
    this.#stop.abort();
    this.#queue = [];
    this.#head = 0;
    this.#hashes.close();
    for (const waiter of this.#catchUpWaiters.splice(0)) waiter.resolve();
  }

  /** Every extent with a lower number is dealt with: lanes overtake each other, so the oldest at hand counts. */
  #extentsDone(): number {
    return this.#atHand.size === 0 ? this.#extentsTaken : Math.min(...this.#atHand);
  }

  #extentDone(number: number): void {
    this.#atHand.delete(number);
    const done = this.#extentsDone();
    while (this.#catchUpWaiters[0] !== undefined && this.#catchUpWaiters[0].extents <= done) {
      this.#catchUpWaiters.shift()?.resolve();
    }
  }

  async #lane(): Promise<void> {
    for (let next = this.#next(); next !== null; next = this.#next()) {
      const blocks = this.#volumes[next.volume]?.blockCount ?? 0;
      const block = next.extent * this.#extentBlocks;
      const count = Math.min(this.#extentBlocks, blocks - block);
      await this.#budget.take(count * BLOCK_BYTES, this.#stop.signal);
      if (this.#stop.signal.aborted) break;
      const hashes = await this.#hashes.hashBlocks(next.volume, block, count);
      if (this.#stop.signal.aborted) break;
      this.#addBlocks(next.volume, block, hashes);
      this.#extentDone(next.number);
    }
    this.#lanesBusy--;
    if (this.#lanesBusy > 0) return;
    for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }

  #next(): { volume: number; extent: number; number: number } | null {
    for (;;) {
      const volume = this.#queue[this.#head];
      const extent = this.#queue[this.#head + 1];
      if (volume === undefined || extent === undefined) return null;
      this.#head += 2;
      if (this.#head > this.#maxQueued) {
        this.#queue.splice(0, this.#head);
        this.#head = 0;
      }
      const number = this.#extentsTaken++;
      this.#atHand.add(number);
      if (!this.#failed.has(volume)) return { volume, extent, number };
      this.#extentDone(number);
    }
  }

  #addBlocks(volume: number, block: number, hashes: BlockHashes | undefined): void {
    if (hashes === undefined) {
      this.#failed.add(volume);
      this.#extentsFailed++;
      return;
    }
    for (let i = 0; i < hashes.count; i++) {
      const added = this.#index.add(volume, block + i, hashes.hi[i] as number, hashes.lo[i] as number);
      if (added === ADDED) this.#blocksAdded++;
    }
  }
}
