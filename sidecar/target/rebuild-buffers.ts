// Buffers that batches are rebuilt in. Their number is bounded by credit; freed ones are used again, because fresh
// memory of this size costs more than filling it.

/** Sizes are rounded up to powers of two from this on, so that a freed buffer fits the next batch of its kind. */
const SMALLEST_BYTES = 8 * 1024;
const MAX_FREE_BYTES = 32 * 1024 * 1024;

export class RebuildBuffers {
  readonly #free = new Map<number, Buffer[]>();
  #freeBytes = 0;

  /** A buffer of at least `bytes`. */
  take(bytes: number): Buffer {
    const size = Math.max(SMALLEST_BYTES, 2 ** Math.ceil(Math.log2(bytes)));
    const buffer = this.#free.get(size)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(size);
    this.#freeBytes -= size;
    return buffer;
  }

  give(buffer: Buffer): void {
    if (this.#freeBytes + buffer.length > MAX_FREE_BYTES) return;
    this.#freeBytes += buffer.length;
    const list = this.#free.get(buffer.length);
    if (list === undefined) this.#free.set(buffer.length, [buffer]);
    else list.push(buffer);
  }
}
