// Which guest pages the stream has shown already, over all connections of one migration. The first page that comes a
// second time is the first sign of QEMU's second pass, from which on QEMU may stop the VM at any moment.

import type { RamBlocks } from '../stream/ram-blocks.ts';

/** Bitmaps of 64 MiB, for 2 TiB of guest memory. A list that claims more gets none: every page then counts as seen again. */
const MAX_TRACKED_PAGES = 2 ** 29;

/** Packets with one page or two, all of them again: so many are taken for strays. */
const MAX_LONE_STRAYS = 16;

export class SeenPages {
  readonly #ramBlocks: RamBlocks;
  #bitmaps: Uint32Array[] | undefined;
  #loneStrays = 0;

  constructor(ramBlocks: RamBlocks) {
    this.#ramBlocks = ramBlocks;
  }

  /**
   * Marks `count` pages of one RAMBlock.
   * @returns how many of them were not seen before; -1 while the RAMBlock list is not known.
   */
  mark(ramBlock: number, pageNumbers: Uint32Array, count: number): number {
    if (!this.#ramBlocks.isListed) return -1;
    const bitmap = this.#bitmapOf(ramBlock);
    if (bitmap === undefined) return 0;
    let fresh = 0;
    for (let i = 0; i < count; i++) {
      const page = pageNumbers[i] as number;
      const word = bitmap[page >>> 5];
      if (word === undefined) continue;
      const bit = 1 << (page & 31);
      if ((word & bit) !== 0) continue;
      bitmap[page >>> 5] = word | bit;
      fresh += 1;
    }
    return fresh;
  }

  /**
   * Whether the `again` of `count` pages that a multifd packet shows a second time say nothing of a second pass. Before QEMU 9.0 a race
   * on the list of pages (multifd_queue_page) makes the last page of one packet the first of the next, too, which may be on another
   * channel and read before it: up to one page at each end.
   */
  isStray(again: number, count: number): boolean {
    if (again > 2) return false;
    if (again < count) return true;
    this.#loneStrays += 1;
    return this.#loneStrays <= MAX_LONE_STRAYS;
  }

  #bitmapOf(ramBlock: number): Uint32Array | undefined {
    if (this.#bitmaps === undefined) {
      if (this.#ramBlocks.totalPages > MAX_TRACKED_PAGES) return undefined;
      this.#bitmaps = this.#ramBlocks.all.map((block) => new Uint32Array(Math.ceil(block.pageCount / 32)));
    }
    return this.#bitmaps[ramBlock];
  }
}
