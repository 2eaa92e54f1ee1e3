// Decides for each page of a batch: reference to a block of a volume, or literal. A NAS that is at least as fast as the link
// gets every page it has, for link bytes are what is scarce, and the migration is still no slower than a plain one. With a
// slower NAS both work side by side, and a page goes to the pipe that finishes it sooner (docs/adr/0003).

import { LITERAL_PAGE } from '../link/batch-encoder.ts';
import { PAGE_BYTES } from '../stream/page-sink.ts';

/** With a slow NAS, a literal must beat a reference by this factor before link bytes are spent on it. */
const REFERENCE_PREFERENCE = 1.1;

/** With less than this waiting for the NAS its measured rate is that of few reads at a time, not what it can do: it counts as free. */
const FREE_NAS_BYTES = 1024 * 1024;

/** The part of the block index the planner asks; `place` is whatever lookup returned. */
export interface BlockLookup {
  lookupNear(hi: number, lo: number, volume: number, expectedBlock: number): number;
  volume(place: number): number;
  block(place: number): number;
}

/** Hashes of a batch's pages, by their order. */
export interface PageHashes {
  readonly hi: Int32Array;
  readonly lo: Int32Array;
}

/** What is known about the two pipes when a batch is planned. Rates in bytes per second, 0 when unknown. */
export interface PipeState {
  readonly linkBytesPerSecond: number;
  readonly linkQueuedBytes: number;
  /** Stream bytes of literals per link byte. */
  readonly literalRatio: number;
  readonly nasBytesPerSecond: number;
  readonly nasQueuedBytes: number;
}

export interface Plan {
  /** Per page: index of the volume, or LITERAL_PAGE. Valid up to the batch's page count until the next plan. */
  readonly volumes: Uint16Array;
  /** Per page: block of the volume, where it is a reference. */
  readonly blocks: Uint32Array;
  references: number;
  /** Pages that the index knows but the NAS was too busy for. */
  declined: number;
}

export class Planner {
  readonly #index: BlockLookup;
  readonly #usable: readonly boolean[];
  readonly #off: Uint8Array;
  readonly #plan: Plan;

  /**
   * @param usable per volume: whether the target can read it.
   * @param maxPages largest page count of a batch.
   * @param off per volume: not 0 from when on it is not referred to any more.
   */
  constructor(
    index: BlockLookup,
    usable: readonly boolean[],
    maxPages: number,
    off: Uint8Array = new Uint8Array(usable.length),
  ) {
    this.#index = index;
    this.#usable = usable;
    this.#off = off;
    this.#plan = {
      volumes: new Uint16Array(maxPages),
      blocks: new Uint32Array(maxPages),
      references: 0,
      declined: 0,
    };
  }

  /** Plans a batch whose pages start at `pageOffsets` and have these hashes; pages before `firstReferencable` stay literals. */
  plan(
    hashes: PageHashes,
    pageOffsets: Uint32Array,
    pageCount: number,
    firstReferencable: number,
    pipes: PipeState,
  ): Plan {
    const plan = this.#plan;
    plan.references = 0;
    plan.declined = 0;
    const linkRate = pipes.linkBytesPerSecond * Math.max(1, pipes.literalRatio);
    let linkSeconds = pipes.linkBytesPerSecond > 0 ? pipes.linkQueuedBytes / pipes.linkBytesPerSecond : 0;
    let nasBytes = pipes.nasQueuedBytes;
    const weigh = pipes.nasBytesPerSecond > 0 && pipes.nasBytesPerSecond < pipes.linkBytesPerSecond;
    let expectedVolume = 0;
    let expectedBlock = 0;
    for (let i = 0; i < pageCount; i++) {
      plan.volumes[i] = LITERAL_PAGE;
      const offset = pageOffsets[i] as number;
      let place = -1;
      if (offset >= firstReferencable) {
        const { hi, lo } = hashes;
        place = this.#index.lookupNear(hi[i] as number, lo[i] as number, expectedVolume, expectedBlock);
        if (place >= 0) {
          const volume = this.#index.volume(place);
          if (this.#usable[volume] !== true || this.#off[volume] !== 0) place = -1;
        }
      }
      if (place >= 0 && weigh) {
        const byNas = (nasBytes + PAGE_BYTES) / pipes.nasBytesPerSecond;
        const byLink = linkSeconds + PAGE_BYTES / linkRate;
        if (nasBytes > FREE_NAS_BYTES && byNas > byLink * REFERENCE_PREFERENCE) {
          plan.declined += 1;
          place = -1;
        }
      }
      if (place < 0) {
        if (linkRate > 0) linkSeconds += PAGE_BYTES / linkRate;
        continue;
      }
      nasBytes += PAGE_BYTES;
      expectedVolume = this.#index.volume(place);
      const block = this.#index.block(place);
      expectedBlock = block + 1;
      plan.volumes[i] = expectedVolume;
      plan.blocks[i] = block;
      plan.references += 1;
    }
    return plan;
  }
}
