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

export class StreamBatcher {
  readonly #pool: AssemblyPool;
  #assembly: Uint8Array;
  #length = 0;
  /** Stream offset of assembly[0]. */
  #start = 0;
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

  /** Copies as much of `chunk` from `at` on as fits below `batchBytes` and returns how much that was; 0 means: cut first. */
  append(chunk: Uint8Array, at: number, batchBytes: number): number {
    const room = Math.min(this.#assembly.length, Math.max(batchBytes, 2 * PAGE_BYTES)) - this.#length;
    const taken = Math.min(room, chunk.length - at);
    if (taken <= 0) return 0;
    this.#assembly.set(
      at === 0 && taken === chunk.length ? chunk : chunk.subarray(at, at + taken),
      this.#length,
    );
    this.#length += taken;
    return taken;
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

  /** Gives the first `length` bytes away and keeps the rest at the beginning of the assembly buffer. */
  #handOver(length: number): Uint8Array {
    const rest = this.#length - length;
    if (length < COPY_OUT_BYTES) {
      const copy = this.#pool.copy(this.#assembly.subarray(0, length));
      this.#assembly.copyWithin(0, length, this.#length);
      this.#length = rest;
      return copy;
    }
    const full = this.#assembly;
    this.#assembly = this.#pool.take();
    this.#assembly.set(full.subarray(length, this.#length));
    this.#length = rest;
    return full.subarray(0, length);
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
