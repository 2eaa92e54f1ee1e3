// Collects the bytes of one QEMU connection and cuts them into batches, never inside a guest page. It owns the copy of
// every byte that was read: the stream comes from guest memory that changes, and a batch may have to be sent again.

import { BufferPool } from '../buffer-pool.ts';
import { PAGE_BYTES } from '../stream/page-sink.ts';

/** Batches up to this size are cut in bulk: GMAC and coalesced NAS reads pay from here on. */
export const BULK_BATCH_BYTES = 1024 * 1024;

/** A batch and what came of the page after it. */
const ASSEMBLY_BYTES = BULK_BATCH_BYTES + PAGE_BYTES;

/** A batch up to this is copied out: kept until acknowledged, it would hold an assembly buffer of more than twice its size. */
const COPY_OUT_BYTES = Math.ceil(ASSEMBLY_BYTES * 0.55);

export interface StreamBatch {
  /** The stream's bytes; its length is the batch's reconstructed size. */
  readonly bytes: Uint8Array;
  /** Offset of the batch's first byte in the connection's stream. */
  readonly streamOffset: number;
  /** Offsets of guest pages inside `bytes`, ascending; the first `pageCount` entries count. */
  readonly pageOffsets: Uint32Array;
  readonly pageCount: number;
}

/** Memory of batches that acknowledged ones gave back. Shared by the connections of one migration. */
export class AssemblyPool {
  readonly #free: Uint8Array[] = [];
  readonly #maxFree: number;
  readonly #copies: BufferPool;

  /** @param maxBytes kept of whole assemblies, and as much of copies: what may be out at once, so that all of it comes back. */
  constructor(maxBytes: number) {
    this.#maxFree = Math.floor(maxBytes / ASSEMBLY_BYTES);
    this.#copies = new BufferPool(maxBytes);
  }

  take(): Uint8Array {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(ASSEMBLY_BYTES);
  }

  /** Memory of its own for a short batch. */
  copy(bytes: Uint8Array): Uint8Array {
    const copy = this.#copies.take(bytes.length).subarray(0, bytes.length);
    copy.set(bytes);
    return copy;
  }

  /** The bytes of a batch that nobody needs any more. */
  give(bytes: Uint8Array): void {
    if (bytes.buffer.byteLength !== ASSEMBLY_BYTES) this.#copies.give(Buffer.from(bytes.buffer));
    else if (this.#free.length < this.#maxFree) this.#free.push(new Uint8Array(bytes.buffer));
  }
}

/** The next read gets at least this, where what is held leaves it. */
const LEAST_ROOM_BYTES = 64 * 1024;

export class StreamBatcher {
  readonly #pool: AssemblyPool;
  #assembly: Uint8Array;
  /** Where what is held begins in the assembly, and how much it is. */
  #base = 0;
  #length = 0;
  /** Stream offset of what is held. */
  #start = 0;
  /** The socket's next read goes behind what is held, for the address was given away: neither that nor the assembly may go elsewhere. */
  #roomIsOut = false;
  /** Pages announced and not yet cut, as stream offsets; a queue in [#head, #tail). */
  #announced = new Float64Array(1024);
  #head = 0;
  #tail = 0;

  constructor(pool: AssemblyPool) {
    this.#pool = pool;
    this.#assembly = pool.take();
  }

  /** Bytes held and not cut yet. */
  get heldBytes(): number {
    return this.#length;
  }

  /** True when a cut is due: the batch is as large as it may be, or a read would have little room behind it. */
  isFull(batchBytes: number): boolean {
    const behind = this.#assembly.length - this.#base - this.#length;
    return this.#roomFor(batchBytes) <= 0 || (this.#base > 0 && behind < LEAST_ROOM_BYTES);
  }

  /**
   * Memory for the next read of up to `bytes`, behind what is held; it is not empty when a full batch is cut at once. Until the bytes that were read
   * are appended nothing else can be.
   */
  room(bytes: number): Buffer {
    if (this.#assembly.length - this.#base - this.#length < LEAST_ROOM_BYTES) this.#moveToBeginning();
    this.#roomIsOut = true;
    const { buffer, byteOffset, byteLength } = this.#assembly;
    const held = this.#base + this.#length;
    return Buffer.from(buffer, byteOffset + held, Math.min(bytes, byteLength - held));
  }

  /**
   * Takes as much of `chunk` from `at` on as fits below `batchBytes`, by a copy unless it was read into {@link room}, and returns how much that
   * was; 0 means: cut first.
   */
  append(chunk: Uint8Array, at: number, batchBytes: number): number {
    const isInPlace = this.#isInPlace(chunk, at);
    if (this.#roomIsOut && !isInPlace)
      throw new RangeError(`${chunk.length} bytes that were read elsewhere while there is room for a read`);
    this.#roomIsOut = false;
    const taken = Math.min(this.#roomFor(batchBytes), chunk.length - at);
    if (taken <= 0) return 0;
    if (!isInPlace) {
      if (this.#base + this.#length + taken > this.#assembly.length) this.#moveToBeginning();
      this.#assembly.set(
        at === 0 && taken === chunk.length ? chunk : chunk.subarray(at, at + taken),
        this.#base + this.#length,
      );
    }
    this.#length += taken;
    return taken;
  }

  #roomFor(batchBytes: number): number {
    return Math.min(this.#assembly.length, Math.max(batchBytes, 2 * PAGE_BYTES)) - this.#length;
  }

  #isInPlace(chunk: Uint8Array, at: number): boolean {
    const { buffer, byteOffset } = this.#assembly;
    return chunk.buffer === buffer && chunk.byteOffset + at === byteOffset + this.#base + this.#length;
  }

  #moveToBeginning(): void {
    this.#assembly.copyWithin(0, this.#base, this.#base + this.#length);
    this.#base = 0;
  }

  /** The page finder found `count` pages that follow one another from `streamOffset` on; their bytes may still be to come. */
  announce(streamOffset: number, count: number): void {
    if (this.#tail + count > this.#announced.length) this.#makeRoom(count);
    for (let i = 0; i < count; i++) this.#announced[this.#tail++] = streamOffset + i * PAGE_BYTES;
  }

  /** Cuts everything held, but for a page of which only the beginning is here; undefined when nothing can be cut. */
  cut(): StreamBatch | undefined {
    const end = this.#start + this.#length;
    let cutEnd = end;
    let pageCount = 0;
    while (this.#head + pageCount < this.#tail) {
      const page = this.#announced[this.#head + pageCount] as number;
      if (page + PAGE_BYTES <= end) {
        pageCount += 1;
        continue;
      }
      if (page < end) cutEnd = page;
      break;
    }
    const length = cutEnd - this.#start;
    if (length === 0) return undefined;
    const pageOffsets = new Uint32Array(pageCount);
    for (let i = 0; i < pageCount; i++)
      pageOffsets[i] = (this.#announced[this.#head + i] as number) - this.#start;
    this.#head += pageCount;
    const streamOffset = this.#start;
    const bytes = this.#handOver(length);
    this.#start = cutEnd;
    return { bytes, streamOffset, pageOffsets, pageCount };
  }

  /** QEMU closed inside a page: what is held is no longer cut at page borders. */
  forgetPages(): void {
    this.#head = 0;
    this.#tail = 0;
  }

  /** Gives the first `length` bytes away and keeps the rest. */
  #handOver(length: number): Uint8Array {
    const rest = this.#length - length;
    const bytes = this.#assembly.subarray(this.#base, this.#base + length);
    this.#length = rest;
    if (length < COPY_OUT_BYTES || this.#roomIsOut) {
      this.#base += length;
      return this.#pool.copy(bytes);
    }
    const full = this.#assembly;
    const restAt = this.#base + length;
    this.#assembly = this.#pool.take();
    this.#assembly.set(full.subarray(restAt, restAt + rest));
    this.#base = 0;
    return bytes;
  }

  #makeRoom(count: number): void {
    const waiting = this.#tail - this.#head;
    const target =
      waiting + count > this.#announced.length / 2
        ? new Float64Array(Math.max(this.#announced.length * 2, waiting + count))
        : this.#announced;
    target.set(this.#announced.subarray(this.#head, this.#tail));
    this.#announced = target;
    this.#head = 0;
    this.#tail = waiting;
  }
}
