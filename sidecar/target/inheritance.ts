// What the target learns for the VM's next migration, of which it will be the source: every block that it rebuilt a page from goes
// into its index. The hashes of most of them it has told the source already (GROWN); those it does not compute again, which is why an
// index that is still empty takes over the seed of the source's (docs/adr/0017-an-inherited-index-keeps-its-seed.md).
// A wrong entry would cost resends only; none is added but for bytes that the tag proved and a block that they were read from.

import type { BlockIndex } from '../index/block-index.ts';
import { type HashSeed, isSameSeed, PageHasher } from '../index/page-hash.ts';
import type { DecodedBatch } from '../link/batch-decoder.ts';
import { MAX_BATCH_PAGES } from '../link/frame-types.ts';
import type { KnownHashes } from '../nas/extent-cache.ts';

/** A batch whose tag was right. */
export interface ProvenBatch {
  readonly decoded: DecodedBatch;
  /** It begins with the batch's reconstructed bytes. */
  readonly buffer: Uint8Array;
  /** Bitmap of the pages that a PATCH replaced: they are not what the NAS has. */
  readonly patched: Uint8Array | undefined;
  readonly known: KnownHashes | undefined;
  /** Position in the agreed list of volumes -> volume of the index. */
  readonly volumes: readonly number[];
}

export class Inheritance {
  readonly #index: BlockIndex;
  #hasher: PageHasher;
  /** The source's index and this one have had the same seed. */
  #isShared = false;
  // Pages whose hash nobody has, with their blocks.
  readonly #offsets = new Uint32Array(MAX_BATCH_PAGES);
  readonly #volumes = new Uint16Array(MAX_BATCH_PAGES);
  readonly #blocks = new Uint32Array(MAX_BATCH_PAGES);
  readonly #hi = new Int32Array(MAX_BATCH_PAGES);
  readonly #lo = new Int32Array(MAX_BATCH_PAGES);

  constructor(index: BlockIndex) {
    this.#index = index;
    this.#hasher = new PageHasher(index.seed);
  }

  /** The source asked for hashes with this seed. An index with entries keeps its own, whatever a peer asks with. */
  onGrow(seed: HashSeed): void {
    if (this.#index.adoptSeed(seed)) this.#isShared = true;
  }

  /** Where the hashes of a batch's `pages` references go, as far as they are at hand; undefined when none can be. */
  placeForHashes(pages: number): KnownHashes | undefined {
    if (!this.#isShared || pages === 0) return undefined;
    return { seed: this.#index.seed, hi: new Int32Array(pages), lo: new Int32Array(pages) };
  }

  /** Adds the blocks of the batch. Returns how many it took. */
  add({ decoded, buffer, patched, known, volumes }: ProvenBatch): number {
    const index = this.#index;
    // Since its blocks were read the index may have got another seed, for it had no entries.
    const own = known !== undefined && isSameSeed(known.seed, index.seed) ? known : undefined;
    let taken = 0;
    let unknown = 0;
    let asked = 0;
    for (let run = 0; run < decoded.runCount; run++) {
      const volume = volumes[decoded.runVolume[run] as number] as number;
      const firstBlock = decoded.runFirstBlock[run] as number;
      const count = decoded.runPages[run] as number;
      const firstPage = decoded.runFirstPage[run] as number;
      for (let i = 0; i < count; i++, asked++) {
        const page = firstPage + i;
        if (patched !== undefined && ((patched[page >> 3] as number) & (1 << (page & 7))) !== 0) continue;
        taken++;
        const hi = own?.hi[asked] ?? 0;
        const lo = own?.lo[asked] ?? 0;
        if (hi !== 0 || lo !== 0) {
          index.add(volume, firstBlock + i, hi, lo);
          continue;
        }
        this.#offsets[unknown] = decoded.pageOffsets[page] as number;
        this.#volumes[unknown] = volume;
        this.#blocks[unknown] = firstBlock + i;
        unknown++;
      }
    }
    if (unknown > 0) this.#hashAndAdd(buffer, unknown);
    return taken;
  }

  #hashAndAdd(buffer: Uint8Array, count: number): void {
    const index = this.#index;
    if (!isSameSeed(this.#hasher.seed, index.seed)) this.#hasher = new PageHasher(index.seed);
    this.#hasher.hashPages(buffer, this.#offsets, count, this.#hi, this.#lo);
    for (let i = 0; i < count; i++) {
      const volume = this.#volumes[i] as number;
      index.add(volume, this.#blocks[i] as number, this.#hi[i] as number, this.#lo[i] as number);
    }
  }
}
