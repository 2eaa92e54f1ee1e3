// zstd for the parts of a batch: compressed only when it pays, decompressed only within stated limits. Runs synchronously
// in the caller's thread, because the libuv pool belongs to the NAS reads alone (architecture.md, "Threads").
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { LinkBadZstdError } from './link-errors.ts';

// Level 1: the level QEMU's own multifd zstd uses, and the fastest above "fast" modes; the link, not the ratio, decides.
const LEVEL = 1;
// A call costs about 30 us whatever the size; below this many bytes there is nothing to win.
const MIN_BYTES = 256;
// Compressed bytes must be at most this part of the input, or the receiver's time is not worth it.
const WORTH_RATIO = 0.9;
// From this size on a sample is tried first: incompressible memory then costs 1/8 of the work at most.
const SAMPLE_FROM_BYTES = 128 * 1024;
const SAMPLE_PIECE_BYTES = 512;
const SAMPLE_PIECES = 32;
// No part is longer than 2 MiB, so no honest frame needs a window above 2^21; the decoder would allocate what is asked.
const WINDOW_LOG_MAX = 21;

const sample = Buffer.allocUnsafeSlow(SAMPLE_PIECE_BYTES * SAMPLE_PIECES);

function compressAll(bytes: Uint8Array): Buffer {
  // One output chunk: Node's default of 16 KiB chunks triples the time for 100 KiB and more.
  return zstdCompressSync(bytes, {
    chunkSize: Math.max(1024, bytes.length),
    params: { [constants.ZSTD_c_compressionLevel]: LEVEL },
  });
}

/** Whether 32 pieces spread over `bytes` shrink; pages of the same kind tend to. */
function samplePays(bytes: Uint8Array): boolean {
  const step = Math.floor((bytes.length - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECES - 1));
  for (let i = 0; i < SAMPLE_PIECES; i++) {
    const from = i * step;
    sample.set(bytes.subarray(from, from + SAMPLE_PIECE_BYTES), i * SAMPLE_PIECE_BYTES);
  }
  return compressAll(sample).length <= sample.length * WORTH_RATIO;
}

/** The zstd frame of `bytes`, or undefined when sending them as they are is better. */
export function compressIfWorth(bytes: Uint8Array): Buffer | undefined {
  if (bytes.length < MIN_BYTES) return undefined;
  if (bytes.length >= SAMPLE_FROM_BYTES && !samplePays(bytes)) return undefined;
  const compressed = compressAll(bytes);
  return compressed.length <= bytes.length * WORTH_RATIO ? compressed : undefined;
}

/**
 * Decompresses to exactly `expectedBytes` (already bounded by the caller), or throws LinkBadZstdError. Allocates at most
 * `expectedBytes` twice and the 2 MiB window, whatever the frame claims. `what` names the bytes in the message.
 */
export function decompressExactly(stored: Uint8Array, expectedBytes: number, what: string): Buffer {
  let bytes: Buffer;
  try {
    bytes = zstdDecompressSync(stored, {
      // A chunk that is filled to its last byte makes Node allocate another one.
      chunkSize: Math.max(1024, expectedBytes + 64),
      maxOutputLength: expectedBytes,
      params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX },
    });
  } catch (cause) {
    throw new LinkBadZstdError(what, expectedBytes, (cause as Error).message);
  }
  if (bytes.length !== expectedBytes)
    throw new LinkBadZstdError(what, expectedBytes, `they are ${bytes.length}`);
  return bytes;
}
