// Buffers for the bytes of batches, used again: fresh memory of this size costs more than filling it, and it is outside the JavaScript
// heap, where every few of them bring a collection. How many are out is bounded by those who take them (window, credit).

/** The smallest size. */
const SMALLEST_BYTES = 8 * 1024;
/** Sizes between two powers of two: at most a fifth of a buffer is more than was asked for. */
const SIZES_PER_DOUBLING = 4;

export class BufferPool {
  readonly #free = new Map<number, Buffer[]>();
  readonly #maxFreeBytes: number;
  #freeBytes = 0;

  /** @param maxFreeBytes what is kept of buffers that were given back. */
  constructor(maxFreeBytes: number) {
    this.#maxFreeBytes = maxFreeBytes;
  }

  /** A buffer of at least `bytes`, with whatever was in it. */
  take(bytes: number): Buffer {
    const size = sizeFor(bytes);
    const buffer = this.#free.get(size)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(size);
    this.#freeBytes -= size;
    return buffer;
  }

  /** For a buffer from `take`, whole. */
  give(buffer: Buffer): void {
    if (this.#freeBytes + buffer.length > this.#maxFreeBytes) return;
    this.#freeBytes += buffer.length;
    const list = this.#free.get(buffer.length);
    if (list === undefined) this.#free.set(buffer.length, [buffer]);
    else list.push(buffer);
  }
}

function sizeFor(bytes: number): number {
  if (bytes <= SMALLEST_BYTES) return SMALLEST_BYTES;
  const step = 2 ** Math.floor(Math.log2(bytes - 1)) / SIZES_PER_DOUBLING;
  return Math.ceil(bytes / step) * step;
}
