// Memory that every use writes anew, for bytes that are read or copied before the next use: fresh memory for each of them costs more than
// filling it.

/** In such steps it grows: few enough that most batches find it large enough. */
const STEP_BYTES = 256 * 1024;

export class Scratch {
  #memory = Buffer.alloc(0);

  /** At least `bytes`, with whatever was in it; what was taken before is overwritten. */
  take(bytes: number): Buffer {
    if (this.#memory.length < bytes)
      this.#memory = Buffer.allocUnsafeSlow(Math.ceil(bytes / STEP_BYTES) * STEP_BYTES);
    return this.#memory;
  }

  /** Gives the memory back; it can be used on. */
  release(): void {
    this.#memory = Buffer.alloc(0);
  }
}
