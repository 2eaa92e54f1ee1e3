// A volume as one migration sees it: the same file, with the bytes counted that this migration read from it.

import type { BlockVolume, ReadDone } from '../nas/volume.ts';

export class CountedVolume implements BlockVolume {
  readonly #volume: BlockVolume;
  /** Read so far, gaps between wanted blocks included. */
  bytesRead = 0;

  constructor(volume: BlockVolume) {
    this.#volume = volume;
  }

  get name(): string {
    return this.#volume.name;
  }

  get sizeBytes(): number {
    return this.#volume.sizeBytes;
  }

  get blockCount(): number {
    return this.#volume.blockCount;
  }

  get uncached(): boolean {
    return this.#volume.uncached;
  }

  read(into: Uint8Array, length: number, position: number, done: ReadDone): void {
    this.#volume.read(into, length, position, (error, bytes) => {
      this.bytesRead += bytes;
      done(error, bytes);
    });
  }
}
