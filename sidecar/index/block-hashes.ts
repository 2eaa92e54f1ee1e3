// Where the hashes of blocks come from while a sampled index grows: read here, or (source/remote-block-hashes.ts) read by the
// target, which needs the same blocks anyway. Whoever reads them, they are only hints.
import { BlockReader } from '../nas/block-reader.ts';
import { BLOCK_BYTES, type BlockVolume } from '../nas/volume.ts';
import { type HashSeed, PageHasher } from './page-hash.ts';

/** Hashes of consecutive blocks, as the halves of {@link PageHasher}. */
export interface BlockHashes {
  readonly hi: Int32Array;
  readonly lo: Int32Array;
  readonly count: number;
}

export interface BlockHashSource {
  /** Hashes of `count` blocks from `block` on, or undefined when they could not be read: then nothing more is asked of that volume. */
  hashBlocks(volume: number, block: number, count: number): Promise<BlockHashes | undefined>;
  /** What was read here for it. */
  readonly stats: { readonly bytesRead: number; readonly reads: number };
  close(): void;
}

export interface LocalBlockHashesOptions {
  readonly volumes: readonly BlockVolume[];
  readonly seed: HashSeed;
  /** Largest `count` that is asked for. */
  readonly maxBlocks: number;
  readonly maxInFlight: number;
}

/** Late growth is worthless, and a NAS that slow has better things to do. */
const READ_DEADLINE_MS = 5000;

/** Reads the volumes itself. */
export class LocalBlockHashes implements BlockHashSource {
  readonly #reader: BlockReader;
  readonly #hasher: PageHasher;
  readonly #maxBytes: number;
  readonly #spare: Uint8Array[] = [];

  constructor(options: LocalBlockHashesOptions) {
    this.#maxBytes = options.maxBlocks * BLOCK_BYTES;
    this.#hasher = new PageHasher(options.seed);
    this.#reader = new BlockReader({
      volumes: options.volumes,
      maxInFlight: options.maxInFlight,
      gapBlocks: 0,
      maxReadBytes: this.#maxBytes,
      deadlineMs: READ_DEADLINE_MS,
    });
  }

  get stats(): { readonly bytesRead: number; readonly reads: number } {
    return this.#reader.stats;
  }

  async hashBlocks(volume: number, block: number, count: number): Promise<BlockHashes | undefined> {
    const buffer = this.#spare.pop() ?? new Uint8Array(this.#maxBytes);
    const outcome = await this.#reader.readBlocks(
      [{ volume, block, count, offset: 0, stride: BLOCK_BYTES }],
      buffer,
    );
    const hashes = outcome.failure === null ? hashPages(this.#hasher, buffer, count) : undefined;
    this.#spare.push(buffer);
    return hashes;
  }

  close(): void {
    this.#reader.close();
  }
}

/** Hashes of the first `count` pages of `bytes`. */
export function hashPages(hasher: PageHasher, bytes: Uint8Array, count: number): BlockHashes {
  const offsets = new Uint32Array(count);
  for (let i = 1; i < count; i++) offsets[i] = i * BLOCK_BYTES;
  const hashes = { hi: new Int32Array(count), lo: new Int32Array(count), count };
  hasher.hashPages(bytes, offsets, count, hashes.hi, hashes.lo);
  return hashes;
}
