// zstd for the parts of a batch: compressed only when it pays, decompressed only within stated limits. Runs synchronously
// in the caller's thread, because the libuv pool belongs to the NAS reads alone (architecture.md, "Threads").
import {
  constants,
  createZstdCompress,
  createZstdDecompress,
  zstdCompressSync,
  zstdDecompressSync,
} from 'node:zlib';
import { BufferPool } from '../buffer-pool.ts';
import { LinkBadZstdError, LinkMisuseError } from './link-errors.ts';
import { Scratch } from './scratch.ts';
import { canReuseContexts, LEAST_CHUNK_BYTES, ZstdContext } from './zstd-context.ts';
import { isOneFrame, statesContentSize } from './zstd-frame.ts';

// Level 1: the level QEMU's own multifd zstd uses, and the fastest above "fast" modes; the link, not the ratio, decides.
const COMPRESSION = { [constants.ZSTD_c_compressionLevel]: 1 };
// A call costs some 5 us whatever the size, on each side; below this many bytes there is nothing to win.
const MIN_BYTES = 256;
// Compressed bytes must be at most this part of the input, or the receiver's time is not worth it.
const WORTH_RATIO = 0.9;
// From this size on a sample is tried first: incompressible memory then costs 1/8 of the work at most.
const SAMPLE_FROM_BYTES = 128 * 1024;
const SAMPLE_PIECE_BYTES = 512;
const SAMPLE_PIECES = 32;
// No part is longer than 2 MiB, so no honest frame needs a window above 2^21; the decoder would allocate what is asked.
const DECOMPRESSION = { [constants.ZSTD_d_windowLogMax]: 21 };
// What is kept of copies that were given back: what the links of a few connections hold at once.
const MAX_FREE_COPY_BYTES = 4 * 1024 * 1024;

const sample = Buffer.allocUnsafeSlow(SAMPLE_PIECE_BYTES * SAMPLE_PIECES);

/** Compresses for all connections of one migration. */
export class Compressor {
  readonly #context: ZstdContext | undefined;
  readonly #scratch = new Scratch();
  /** For compressed bytes that are needed for longer than until the next call. */
  readonly copies = new BufferPool(MAX_FREE_COPY_BYTES);

  /** @param reuse false for Node's own calls, which make a context each time. */
  constructor(reuse = canReuseContexts()) {
    if (!reuse) return;
    this.#context = new ZstdContext(() =>
      createZstdCompress({ chunkSize: LEAST_CHUNK_BYTES, params: COMPRESSION }),
    );
  }

  /** The zstd frame of `bytes`, valid until the next call, or undefined when sending them as they are is better. */
  compressIfWorth(bytes: Uint8Array): Buffer | undefined {
    if (bytes.length < MIN_BYTES) return undefined;
    if (bytes.length >= SAMPLE_FROM_BYTES && !this.#samplePays(bytes)) return undefined;
    const compressed = this.#compress(bytes);
    return compressed.length <= bytes.length * WORTH_RATIO ? compressed : undefined;
  }

  /** Gives memory back, some MiB at most; it can be used on. */
  release(): void {
    this.#context?.release();
    this.#scratch.release();
  }

  /** Whether 32 pieces spread over `bytes` shrink; pages of the same kind tend to. */
  #samplePays(bytes: Uint8Array): boolean {
    const step = Math.floor((bytes.length - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECES - 1));
    for (let i = 0; i < SAMPLE_PIECES; i++) {
      const from = i * step;
      sample.set(bytes.subarray(from, from + SAMPLE_PIECE_BYTES), i * SAMPLE_PIECE_BYTES);
    }
    return this.#compress(sample).length <= sample.length * WORTH_RATIO;
  }

  #compress(bytes: Uint8Array): Buffer {
    if (this.#context === undefined) {
      // One output chunk: Node's default of 16 KiB chunks triples the time for 100 KiB and more.
      return zstdCompressSync(bytes, { chunkSize: Math.max(1024, bytes.length), params: COMPRESSION });
    }
    // With room for the worst case zstd writes straight into it, in one pass; one byte more, because a full output may not be all.
    const room = this.#scratch.take(compressBound(bytes.length) + 1);
    return room.subarray(0, this.#context.run(bytes, room));
  }
}

/** ZSTD_compressBound of zstd.h: what incompressible bytes become. */
function compressBound(bytes: number): number {
  return bytes + (bytes >>> 8) + Math.max(0, (128 * 1024 - bytes) >> 11);
}

/** Room that decompressing to `expectedBytes` needs: one that is filled to its last byte would hide that there is more. */
export function roomBytes(expectedBytes: number): number {
  return expectedBytes + 1;
}

/** Decompresses for one connection, so that what a peer sends on another one is never near. */
export class Decompressor {
  readonly #context: ZstdContext | undefined;

  /** @param reuse false for Node's own calls, which make a context each time. */
  constructor(reuse = canReuseContexts()) {
    if (!reuse) return;
    this.#context = new ZstdContext(() =>
      createZstdDecompress({ chunkSize: LEAST_CHUNK_BYTES, params: DECOMPRESSION }),
    );
  }

  /**
   * Decompresses to exactly `expectedBytes` (already bounded by the caller), or throws LinkBadZstdError. `stored` must be one whole zstd
   * frame; `room` has at least `roomBytes(expectedBytes)`, and the result may be a view into it. Allocates at most `expectedBytes` twice
   * and the 2 MiB window, whatever the frame claims, and keeps no window. `what` names the bytes in the message.
   */
  decompressExactly(stored: Buffer, expectedBytes: number, what: string, room: Buffer): Buffer {
    if (room.length < roomBytes(expectedBytes))
      throw new LinkMisuseError(`room of ${room.length} bytes for ${expectedBytes}`);
    if (!isOneFrame(stored))
      throw new LinkBadZstdError(what, expectedBytes, 'they are not one whole zstd frame');
    let bytes: Buffer;
    try {
      bytes = this.#decompress(stored, expectedBytes, room.subarray(0, roomBytes(expectedBytes)));
    } catch (cause) {
      throw new LinkBadZstdError(what, expectedBytes, (cause as Error).message);
    }
    if (bytes.length !== expectedBytes) {
      throw new LinkBadZstdError(what, expectedBytes, `they are ${bytes.length}`);
    }
    return bytes;
  }

  /** Gives memory back; it can be used on. */
  release(): void {
    this.#context?.release();
  }

  #decompress(stored: Buffer, expectedBytes: number, room: Buffer): Buffer {
    if (this.#context === undefined) {
      return zstdDecompressSync(stored, {
        // A chunk that is filled to its last byte makes Node allocate another one.
        chunkSize: Math.max(1024, expectedBytes + 64),
        maxOutputLength: expectedBytes,
        params: DECOMPRESSION,
      });
    }
    const bytes = room.subarray(0, this.#context.run(stored, room));
    // Our frames state their size. One that does not has made the context take a window, 2 MiB for each connection that sends such.
    if (!statesContentSize(stored)) this.#context.release();
    return bytes;
  }
}
