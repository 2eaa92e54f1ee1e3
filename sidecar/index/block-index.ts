// The block index: 40 bits of a seeded page hash to (volume, block), in one SharedArrayBuffer, 9 bytes a slot, at most 7 of 8 slots used
// (10.3 bytes a block). One thread writes, any number read without locks.
// It is only a hint: an entry may be stale, and a reader racing the writer may miss an entry or pair a hash with a neighbour's
// block. Both are harmless, because the batch tag decides over what reaches QEMU. What is guaranteed in every race: a place that
// lookup returns is a real block of a real volume, and every loop ends.
//
// Slots are kept sorted by the hash's upper 32 bits (linear probing in sorted order, home = hash / 2^32 x slots), which ends an
// unsuccessful lookup early, needs no tombstones, and lets the file format be a plain sorted list (docs/index-file.md).
import { type HashSeed, isSameSeed, PAGE_BYTES, PageHasher } from './page-hash.ts';

/** A raw volume as the index knows it. The name is the volume's name in the pod, the same on both nodes. */
export interface IndexVolume {
  readonly name: string;
  readonly sizeBytes: number;
}

/** Everything another thread needs to use the same index; survives structured cloning. Holds the secret seed: never log it. */
export interface BlockIndexHandle {
  readonly memory: SharedArrayBuffer;
  readonly slots: number;
  readonly capacity: number;
  readonly seed: HashSeed;
  readonly volumes: readonly IndexVolume[];
}

export interface BlockIndexOptions {
  readonly volumes: readonly IndexVolume[];
  readonly seed: HashSeed;
  /** Most memory the index may take, in bytes. When that is less than the volumes need, it fills up and then refuses more. */
  readonly budgetBytes: number;
  /** Most blocks it is expected to hold, when fewer than the volumes have (a sampled index). */
  readonly capacityBlocks?: number;
}

/** What has happened to an index since it was made, over all threads. */
export interface BlockIndexStats {
  readonly count: number;
  readonly capacity: number;
  readonly bytes: number;
  readonly refusedFull: number;
  readonly refusedCopies: number;
  readonly refusedZero: number;
  readonly removed: number;
}

/** The block is new in the index. */
export const ADDED = 0;
/** The very same hash and block was there already. */
export const PRESENT = 1;
/** Refused: QEMU sends zero pages as a flag, so a reference to one saves nothing. */
export const ZERO_PAGE = 2;
/** Refused: MAX_COPIES blocks with this content are known. */
export const TOO_MANY_COPIES = 3;
/** Refused: the index holds as many blocks as its budget allows, or (rarely) too many whose hashes are near this one. */
export const FULL = 4;
export type AddResult =
  | typeof ADDED
  | typeof PRESENT
  | typeof ZERO_PAGE
  | typeof TOO_MANY_COPIES
  | typeof FULL;

/** Blocks with one content that are kept. More give coalescing no better choice, and a disk full of one pattern would make one endless run. */
export const MAX_COPIES = 8;
/** The most volumes of one index; a VM has a handful. */
export const MAX_VOLUMES = 64;
/** 4 bytes of hash, 4 of place, 1 more of hash. */
const SLOT_BYTES = 9;
/** Above 7/8 the runs of linear probing grow quickly: about 5 slots are looked at on average at 7/8, 10 at 15/16. */
const MAX_LOAD = 7 / 8;
/**
 * Slots an entry may lie behind its home. At 7/8 full not one block in 5000 is refused for it; it bounds every loop also for a hostile index
 * file whose hashes are all alike.
 */
const MAX_RUN = 1024;
/** The list does not wrap round, so the last run needs room beyond the last home. The very last slot is never used: it ends every loop. */
const SLACK_SLOTS = MAX_RUN + 1;
/** A place is stored plus one in 32 bits; zero is an empty slot. 16 TiB less 8 KiB. */
const MAX_PLACES = 0xffff_fffe;

const HEADER_WORDS = 16;
const COUNT = 0;
const REFUSED_FULL = 1;
const REFUSED_COPIES = 2;
const REFUSED_ZERO = 3;
const REMOVED = 4;
const IS_FULL = 5;

/** Flips the order of unsigned 32-bit numbers into that of signed ones. */
const SIGN = -0x8000_0000;

/** The volumes or the budget do not make an index. */
export class IndexOptionsError extends Error {
  readonly code = 'NASMIG_INDEX_OPTIONS';
  constructor(detail: string) {
    super(`${detail}. Correct the list of volumes or the index's memory budget.`);
    this.name = 'IndexOptionsError';
  }
}

export class BlockIndex {
  readonly volumes: readonly IndexVolume[];
  /** The most blocks it holds. */
  readonly capacity: number;
  readonly #memory: SharedArrayBuffer;
  readonly #slots: number;
  readonly #header: Int32Array;
  /** Two words a slot: hash, place + 1. */
  readonly #words: Int32Array;
  /** The lowest byte of the hash of each slot. */
  readonly #tails: Uint8Array;
  /** Homes per unit of hash. */
  readonly #scale: number;
  /** The first place of each volume, and, last, one past the last place. */
  readonly #bases: Float64Array;
  #seed: HashSeed;
  #zeroTag = 0;
  #zeroTail = 0;

  private constructor(handle: BlockIndexHandle) {
    this.volumes = handle.volumes;
    this.#seed = handle.seed;
    this.capacity = handle.capacity;
    this.#memory = handle.memory;
    this.#slots = handle.slots;
    this.#header = new Int32Array(handle.memory, 0, HEADER_WORDS);
    this.#words = new Int32Array(handle.memory, HEADER_WORDS * 4, handle.slots * 2);
    this.#tails = new Uint8Array(handle.memory, HEADER_WORDS * 4 + handle.slots * 8, handle.slots);
    this.#scale = (handle.slots - SLACK_SLOTS) / 2 ** 32;
    this.#bases = placeBases(handle.volumes);
    this.#learnZeroPage();
  }

  /**
   * A new, empty index. Its memory is reserved at once and becomes resident as it fills.
   * Throws IndexOptionsError for no or too many volumes, more than 16 TiB less 8 KiB in all (see addressable), or a budget that holds nothing.
   */
  static create(options: BlockIndexOptions): BlockIndex {
    const { volumes, seed, budgetBytes } = options;
    if (volumes.length < 1 || volumes.length > MAX_VOLUMES) {
      throw new IndexOptionsError(`${volumes.length} volumes: an index has 1 to ${MAX_VOLUMES}`);
    }
    const bases = placeBases(volumes);
    const places = bases[volumes.length] as number;
    if (!(places <= MAX_PLACES))
      throw new IndexOptionsError(`${places} blocks are more than 32 bits can tell apart`);
    const affordableSlots = Math.floor((budgetBytes - HEADER_WORDS * 4) / SLOT_BYTES) - SLACK_SLOTS;
    const affordable = Math.floor(affordableSlots * MAX_LOAD);
    const capacity = Math.min(places, options.capacityBlocks ?? places, affordable);
    if (!(capacity >= 1)) {
      throw new IndexOptionsError(
        `a budget of ${budgetBytes} bytes for ${places} blocks leaves room for none`,
      );
    }
    const slots = Math.ceil(capacity / MAX_LOAD) + SLACK_SLOTS;
    const memory = new SharedArrayBuffer(HEADER_WORDS * 4 + slots * SLOT_BYTES);
    const named = volumes.map((volume) => ({ name: volume.name, sizeBytes: volume.sizeBytes }));
    return new BlockIndex({ memory, slots, capacity, seed, volumes: named });
  }

  /** The same index in another thread. Only one of them all may call add and remove. */
  static fromHandle(handle: BlockIndexHandle): BlockIndex {
    return new BlockIndex(handle);
  }

  /** What the blocks are hashed with. */
  get seed(): HashSeed {
    return this.#seed;
  }

  /**
   * Goes over to the seed of another index, so that blocks hashed for that one can be added. Only an index without entries does: they
   * would not be found any more. False when it keeps another. The one writer only, and before other threads have it: they are not told.
   */
  adoptSeed(seed: HashSeed): boolean {
    if (isSameSeed(seed, this.#seed)) return true;
    if (this.count > 0) return false;
    this.#seed = { hi: seed.hi, lo: seed.lo };
    this.#learnZeroPage();
    return true;
  }

  handle(): BlockIndexHandle {
    return {
      memory: this.#memory,
      slots: this.#slots,
      capacity: this.capacity,
      seed: this.seed,
      volumes: this.volumes,
    };
  }

  /** Blocks in the index. */
  get count(): number {
    return this.#header[COUNT] as number;
  }

  /** True from the first block refused for lack of room until one is removed. */
  get full(): boolean {
    return this.#header[IS_FULL] === 1;
  }

  get stats(): BlockIndexStats {
    const header = this.#header;
    return {
      count: header[COUNT] as number,
      capacity: this.capacity,
      bytes: this.#memory.byteLength,
      refusedFull: header[REFUSED_FULL] as number,
      refusedCopies: header[REFUSED_COPIES] as number,
      refusedZero: header[REFUSED_ZERO] as number,
      removed: header[REMOVED] as number,
    };
  }

  /**
   * Notes that a block has the content with this hash. The one writer only. An older entry of the same block stays: it leaves
   * when it is proven wrong. Throws RangeError for a block that the volume does not have.
   */
  add(volume: number, block: number, hi: number, lo: number): AddResult {
    const stored = (this.#place(volume, block) + 1) | 0;
    const tag = hi ^ SIGN;
    const tail = lo & 0xff;
    if (tag === this.#zeroTag && tail === this.#zeroTail) {
      this.#bump(REFUSED_ZERO);
      return ZERO_PAGE;
    }
    const words = this.#words;
    const tails = this.#tails;
    const home = this.#home(tag);
    let slot = home;
    let copies = 0;
    for (; words[2 * slot + 1] !== 0 && (words[2 * slot] as number) <= tag; slot++) {
      if (words[2 * slot] !== tag || tails[slot] !== tail) continue;
      if (words[2 * slot + 1] === stored) return PRESENT;
      copies++;
    }
    if (copies >= MAX_COPIES) {
      this.#bump(REFUSED_COPIES);
      return TOO_MANY_COPIES;
    }
    let empty = slot;
    while (words[2 * empty + 1] !== 0) empty++;
    if (this.count >= this.capacity || empty - home >= MAX_RUN) {
      if (this.count >= this.capacity) this.#header[IS_FULL] = 1;
      this.#bump(REFUSED_FULL);
      return FULL;
    }
    // From the back, so that a reader sees an entry twice rather than not at all.
    for (let to = empty; to > slot; to--) this.#move(to - 1, to);
    tails[slot] = tail;
    words[2 * slot] = tag;
    words[2 * slot + 1] = stored;
    this.#bump(COUNT);
    return ADDED;
  }

  /** The place of a block that probably has the content with this hash, or -1. */
  lookup(hi: number, lo: number): number {
    const tag = hi ^ SIGN;
    const tail = lo & 0xff;
    const words = this.#words;
    for (let slot = this.#home(tag); ; slot++) {
      const stored = words[2 * slot + 1] as number;
      const found = words[2 * slot] as number;
      if (stored === 0 || found > tag) return -1;
      if (found === tag && this.#tails[slot] === tail) return (stored >>> 0) - 1;
    }
  }

  /**
   * Like lookup; of several copies the one at `expectedBlock`, else the first one after it in the same volume (the read that
   * fetched its predecessor goes on to it), else the one least far before, else one of another volume.
   */
  lookupNear(hi: number, lo: number, volume: number, expectedBlock: number): number {
    const tag = hi ^ SIGN;
    const tail = lo & 0xff;
    const words = this.#words;
    const base = this.#bases[volume] ?? 0;
    const end = this.#bases[volume + 1] ?? 0;
    const expected = base + expectedBlock;
    let best = -1;
    let bestCost = Number.POSITIVE_INFINITY;
    for (let slot = this.#home(tag); ; slot++) {
      const stored = words[2 * slot + 1] as number;
      const found = words[2 * slot] as number;
      if (stored === 0 || found > tag) return best;
      if (found !== tag || this.#tails[slot] !== tail) continue;
      const place = (stored >>> 0) - 1;
      if (place === expected) return place;
      // Costs in three bands: after it, before it, elsewhere.
      let cost = place > expected ? place - expected : 2 ** 33 + (expected - place);
      if (place < base || place >= end) cost = 2 ** 34;
      if (cost < bestCost) {
        best = place;
        bestCost = cost;
      }
    }
  }

  /** The volume of a place that lookup returned. */
  volume(place: number): number {
    const bases = this.#bases;
    let volume = 0;
    while (place >= (bases[volume + 1] as number)) volume++;
    return volume;
  }

  /** The block, within its volume, of a place that lookup returned. */
  block(place: number): number {
    return place - (this.#bases[this.volume(place)] as number);
  }

  /** Forgets a block that was proven not to have the content with this hash. The one writer only. False when it was not known. */
  remove(volume: number, block: number, hi: number, lo: number): boolean {
    const stored = (this.#place(volume, block) + 1) | 0;
    const tag = hi ^ SIGN;
    const tail = lo & 0xff;
    const words = this.#words;
    let slot = this.#home(tag);
    for (; ; slot++) {
      if (words[2 * slot + 1] === 0 || (words[2 * slot] as number) > tag) return false;
      if (words[2 * slot] === tag && words[2 * slot + 1] === stored && this.#tails[slot] === tail) break;
    }
    // Close the gap with the entries that are not at home, so that nothing becomes unreachable.
    let next = slot + 1;
    while (words[2 * next + 1] !== 0 && this.#home(words[2 * next] as number) < next) {
      this.#move(next, next - 1);
      next++;
    }
    words[2 * (next - 1) + 1] = 0;
    const header = this.#header;
    header[COUNT] = this.count - 1;
    header[IS_FULL] = 0;
    this.#bump(REMOVED);
    return true;
  }

  /**
   * Copies entries from slot `from` on into `out`, 9 bytes each: u32 hash, u8 tail, u32 place, big-endian, sorted by hash.
   * Returns how many, and the slot to go on from (-1 at the end); examines at most `maxSlots`. For the index file.
   */
  exportEntries(from: number, out: DataView, maxSlots: number): { entries: number; next: number } {
    const words = this.#words;
    const room = Math.floor(out.byteLength / SLOT_BYTES);
    const end = Math.min(from + maxSlots, this.#slots);
    let entries = 0;
    let slot = from;
    for (; slot < end && entries < room; slot++) {
      const stored = words[2 * slot + 1] as number;
      if (stored === 0) continue;
      const at = entries * SLOT_BYTES;
      out.setInt32(at, (words[2 * slot] as number) ^ SIGN);
      out.setUint8(at + 4, this.#tails[slot] as number);
      out.setUint32(at + 5, (stored >>> 0) - 1);
      entries++;
    }
    return { entries, next: slot < this.#slots ? slot : -1 };
  }

  /** Blocks of all volumes together: one more than the greatest place. */
  get places(): number {
    return this.#bases[this.volumes.length] as number;
  }

  #place(volume: number, block: number): number {
    const base = this.#bases[volume];
    const end = this.#bases[volume + 1];
    if (base === undefined || end === undefined || !(block >= 0) || block >= end - base) {
      throw new RangeError(`volume ${volume} of the index has no block ${block}`);
    }
    return base + block;
  }

  #learnZeroPage(): void {
    const hasher = new PageHasher(this.#seed);
    hasher.hash(new Uint8Array(PAGE_BYTES), 0);
    this.#zeroTag = hasher.hi ^ SIGN;
    this.#zeroTail = hasher.lo & 0xff;
  }

  #home(tag: number): number {
    return Math.floor((tag + 2 ** 31) * this.#scale);
  }

  #move(from: number, to: number): void {
    const words = this.#words;
    this.#tails[to] = this.#tails[from] as number;
    words[2 * to] = words[2 * from] as number;
    words[2 * to + 1] = words[2 * from + 1] as number;
  }

  #bump(word: number): void {
    this.#header[word] = (this.#header[word] as number) + 1;
  }
}

/** Of these volumes those that one index can tell the blocks of, as many as it can: the smallest first. In the order given. */
export function addressable<V extends IndexVolume>(volumes: readonly V[]): V[] {
  const kept = new Set<V>();
  let places = 0;
  for (const volume of volumes.toSorted((a, b) => a.sizeBytes - b.sizeBytes)) {
    places += Math.floor(volume.sizeBytes / PAGE_BYTES);
    if (places > MAX_PLACES) break;
    kept.add(volume);
  }
  return volumes.filter((volume) => kept.has(volume));
}

function placeBases(volumes: readonly IndexVolume[]): Float64Array {
  const bases = new Float64Array(volumes.length + 1);
  volumes.forEach((volume, i) => {
    bases[i + 1] = (bases[i] as number) + Math.floor(volume.sizeBytes / PAGE_BYTES);
  });
  return bases;
}
