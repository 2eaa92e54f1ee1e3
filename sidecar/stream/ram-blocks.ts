// The RAMBlocks of one migration, shared by the finders of all its connections: name to small number, and how many pages each has.
// The list is on the main channel (RAM's START), but the connections are read independently: a multifd packet can be seen before
// it, so a name may be known before its size. Bounded: at most MAX_RAM_BLOCKS names of at most 255 bytes.

/** QEMU has a few dozen (RAM, ROMs, device memory, one for each memory module); more means that these are not QEMU's bytes. */
export const MAX_RAM_BLOCKS = 4096;

/** Page numbers are kept in 32 bits: blocks of up to 16 TiB less a page. */
export const MAX_RAM_BLOCK_PAGES = 0xffff_ffff;

export interface RamBlock {
  /** Position in `RamBlocks.all`. */
  readonly index: number;
  /** QEMU's idstr, one character a byte. */
  readonly name: string;
  /** Pages of 4096 bytes (used_length); 0 until the main channel's list has it. */
  readonly pageCount: number;
}

type MutableRamBlock = { index: number; name: string; pageCount: number; isDeclared: boolean };

/** The RAMBlock table of one migration. */
export class RamBlocks {
  readonly #all: MutableRamBlock[] = [];
  readonly #byName = new Map<string, MutableRamBlock>();
  #isListed = false;
  #totalPages = 0;

  /** In the order in which names were first seen. */
  get all(): readonly RamBlock[] {
    return this.#all;
  }

  /** The main channel's list is complete: names that it does not have are no RAMBlocks of this migration. */
  get isListed(): boolean {
    return this.#isListed;
  }

  /** Pages of all RAMBlocks declared so far, by used_length. */
  get totalPages(): number {
    return this.#totalPages;
  }

  find(name: string): RamBlock | undefined {
    return this.#byName.get(name);
  }

  /** For multifd finders: the RAMBlock of that name, made known when the list is not there yet; undefined when it cannot be one. */
  findOrExpect(name: string): RamBlock | undefined {
    return this.#byName.get(name) ?? (this.#isListed ? undefined : this.#add(name));
  }

  /**
   * For the main channel's finder: one entry of the list. False when the entry cannot be: declared before, too many, too large, or
   * the list is complete.
   */
  declare(name: string, pageCount: number): boolean {
    if (this.#isListed || pageCount > MAX_RAM_BLOCK_PAGES) return false;
    const block = this.#byName.get(name) ?? this.#add(name);
    if (block === undefined || block.isDeclared) return false;
    block.isDeclared = true;
    block.pageCount = pageCount;
    this.#totalPages += pageCount;
    return true;
  }

  /** For the main channel's finder: the list is complete. */
  finishList(): void {
    this.#isListed = true;
  }

  #add(name: string): MutableRamBlock | undefined {
    if (this.#all.length >= MAX_RAM_BLOCKS) return undefined;
    const block = { index: this.#all.length, name, pageCount: 0, isDeclared: false };
    this.#all.push(block);
    this.#byName.set(name, block);
    return block;
  }
}
