// A volume in memory for tests: answers each read a turn of the event loop later, or when the test says so, and can fail, end early or hang.
import type { BlockVolume, ReadDone } from './volume.ts';
import { BLOCK_BYTES } from './volume.ts';

export interface SeenRead {
  readonly position: number;
  readonly length: number;
}

export class MemoryVolume implements BlockVolume {
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockCount: number;
  readonly uncached = true;
  readonly content: Uint8Array;
  readonly reads: SeenRead[] = [];
  /** The most reads that were outstanding at once. */
  mostOutstanding = 0;
  /** Reads of these positions fail with EIO. */
  readonly failAt = new Set<number>();
  /** Where the volume ends now, below its size when it has shrunk. */
  endBytes: number;
  /** When true, reads wait for release(). */
  held = false;
  #outstanding = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(name: string, content: Uint8Array) {
    this.name = name;
    this.content = content;
    this.sizeBytes = content.byteLength;
    this.blockCount = Math.floor(content.byteLength / BLOCK_BYTES);
    this.endBytes = content.byteLength;
  }

  read(into: Uint8Array, length: number, position: number, done: ReadDone): void {
    this.reads.push({ position, length });
    this.#outstanding++;
    this.mostOutstanding = Math.max(this.mostOutstanding, this.#outstanding);
    const answer = () => {
      this.#outstanding--;
      if (this.failAt.has(position)) {
        done(Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' }), 0);
        return;
      }
      const bytes = Math.max(0, Math.min(length, this.endBytes - position));
      into.set(this.content.subarray(position, position + bytes));
      done(null, bytes);
    };
    if (this.held) this.#waiting.push(answer);
    else setImmediate(answer);
  }

  /** Answers the reads that wait, and later ones at once. */
  release(): void {
    this.held = false;
    for (const answer of this.#waiting.splice(0)) answer();
  }
}

/** `blocks` blocks of bytes that differ from block to block and from seed to seed; none is zero. */
export function patternBlocks(blocks: number, seed = 1): Uint8Array {
  const words = new Uint32Array((blocks * BLOCK_BYTES) / 4);
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    // xorshift32
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer);
}
