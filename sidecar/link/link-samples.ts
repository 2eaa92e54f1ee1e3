// Batches, plans and frames for the tests and the bench of the link codec: made from a seed, so that a failure repeats.
import { createHash } from 'node:crypto';
import type { DecodedBatch } from './batch-decoder.ts';
import { type BatchPlan, LITERAL_PAGE } from './batch-encoder.ts';
import { FrameReader } from './frame-reader.ts';
import {
  type BatchFrame,
  FRAME_BATCH,
  FRAME_PATCH,
  type Frame,
  PAGE_BYTES,
  type PatchFrame,
  type Role,
} from './frame-types.ts';
import { helloFrame } from './frame-writer.ts';
import { encodeSourceHello } from './hello.ts';
import { deriveProofKey } from './link-keys.ts';

/** Small fast generator (mulberry32): the same numbers for the same seed on every machine. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Content of a block of a sample volume: half of it repeats, as text and code do. */
export function sampleBlock(volume: number, block: number): Buffer {
  const seed = createHash('sha256').update(`${volume}:${block}`).digest();
  const out = Buffer.alloc(PAGE_BYTES);
  for (let at = 0; at < PAGE_BYTES; at += 64) {
    seed.copy(out, at);
    out.writeUInt32BE((at * 2654435761) >>> 0, at + 32);
  }
  return out;
}

/** One page of a sample batch: skeleton bytes before it, and what it is. */
export interface SamplePage {
  readonly gap: number;
  /** A volume and block, or undefined for a literal. */
  readonly reference: { readonly volume: number; readonly block: number } | undefined;
  /** Literals only: random bytes (true) or repeating ones. */
  readonly random: boolean;
}

/** The reconstructed batch and its plan; the tag is what `tagFor` makes of the reconstructed bytes, zeros by default. */
export function samplePlan(
  number: number,
  pages: readonly SamplePage[],
  tailBytes: number,
  seed: number,
  tagFor: (bytes: Uint8Array, pageCount: number) => Uint8Array = () => Buffer.alloc(16),
): BatchPlan {
  const random = seededRandom(seed);
  const total = pages.reduce((sum, page) => sum + page.gap + PAGE_BYTES, tailBytes);
  const reconstructed = Buffer.alloc(total);
  for (let i = 0; i < total; i++) reconstructed[i] = i % 8 === 7 ? Math.floor(random() * 256) : i & 3;
  const pageOffsets = new Uint32Array(pages.length);
  const pageVolumes = new Uint16Array(pages.length);
  const pageBlocks = new Uint32Array(pages.length);
  let at = 0;
  pages.forEach((page, i) => {
    at += page.gap;
    pageOffsets[i] = at;
    pageVolumes[i] = page.reference?.volume ?? LITERAL_PAGE;
    pageBlocks[i] = page.reference?.block ?? 0;
    if (page.reference !== undefined)
      sampleBlock(page.reference.volume, page.reference.block).copy(reconstructed, at);
    else if (page.random)
      for (let j = 0; j < PAGE_BYTES; j++) reconstructed[at + j] = Math.floor(random() * 256);
    at += PAGE_BYTES;
  });
  const tag = tagFor(reconstructed, pages.length);
  return { number, reconstructed, pageOffsets, pageCount: pages.length, pageVolumes, pageBlocks, tag };
}

/** A frame with every view replaced by a copy in hex, to be compared and kept. */
export function snapshot(frame: Frame): unknown {
  return JSON.parse(
    JSON.stringify(frame, (_key, value: unknown) => {
      if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
      const buffer = value as { type?: unknown; data?: unknown } | null;
      // Buffer.toJSON has run before the replacer sees a Buffer.
      if (buffer !== null && typeof buffer === 'object' && buffer.type === 'Buffer')
        return Buffer.from(buffer.data as number[]).toString('hex');
      return value;
    }),
  );
}

/** Pushes `chunks` into a fresh reader of `role` and returns what its sink got. */
export function readAll<R extends Role>(role: R, chunks: readonly Uint8Array[]): unknown[] {
  const frames: unknown[] = [];
  const reader = new FrameReader<R>({ onFrame: (frame) => frames.push(snapshot(frame)) }, role);
  for (const chunk of chunks) reader.push(chunk);
  return frames;
}

/** Cuts `bytes` into pieces of the given lengths, repeated until the end; copies, so that no piece sees the next. */
export function cut(bytes: Uint8Array, lengths: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let at = 0;
  for (let i = 0; at < bytes.length; i++) {
    const length = Math.max(1, lengths[i % lengths.length] ?? 1);
    pieces.push(Buffer.from(bytes.subarray(at, at + length)));
    at += length;
  }
  return pieces;
}

/** HELLO of a source with no volumes: what a reader needs before any other frame. */
export const SAMPLE_SOURCE_HELLO: Buffer = Buffer.concat(
  helloFrame(
    encodeSourceHello(
      {
        ordinal: 0,
        mode: 'framed',
        random: Buffer.alloc(32, 1),
        migrationId: Buffer.alloc(16, 2),
        volumes: [],
      },
      deriveProofKey(Buffer.alloc(32, 3)),
    ),
  ),
);

/** The parts of a frame joined and read, behind a HELLO and as many one-byte batches as its number needs. */
function readOne<T extends Frame>(parts: readonly Uint8Array[], type: T['type'], number: number): T {
  let found: T | undefined;
  const reader = new FrameReader<'target'>(
    {
      onFrame: (frame) => {
        if (frame.type === type) found = frame as Frame as T;
      },
    },
    'target',
  );
  reader.push(SAMPLE_SOURCE_HELLO);
  for (let i = 0; i < number; i++) reader.push(oneByteBatch(i));
  reader.push(Buffer.concat(parts));
  if (found === undefined) throw new Error(`no frame of type ${type} came`);
  return found;
}

function oneByteBatch(number: number): Buffer {
  const out = Buffer.alloc(8 + 32 + 1 + 16);
  out[0] = FRAME_BATCH;
  out.writeUInt32BE(49, 4);
  out.writeUInt32BE(number, 8);
  for (const at of [12, 24, 28]) out.writeUInt32BE(1, at);
  return out;
}

/** The BATCH that a reader makes of an encoded batch. */
export function batchFrameOf(encoded: { readonly parts: readonly Uint8Array[] }): BatchFrame {
  return readOne<BatchFrame>(
    encoded.parts,
    FRAME_BATCH,
    Buffer.from(encoded.parts[0] as Uint8Array).readUInt32BE(8),
  );
}

/** The PATCH that a reader makes of an encoded patch. */
export function patchFrameOf(encoded: { readonly parts: readonly Uint8Array[] }): PatchFrame {
  const number = Buffer.from(encoded.parts[0] as Uint8Array).readUInt32BE(8);
  return readOne<PatchFrame>(encoded.parts, FRAME_PATCH, number + 1);
}

/** What the NAS reads do: the sample blocks to the places of the decoded runs. */
export function fillReferences(batch: DecodedBatch, destination: Buffer): void {
  for (let run = 0; run < batch.runCount; run++) {
    for (let i = 0; i < (batch.runPages[run] as number); i++) {
      const at = (batch.runOffset[run] as number) + i * (batch.runStride[run] as number);
      sampleBlock(batch.runVolume[run] as number, (batch.runFirstBlock[run] as number) + i).copy(
        destination,
        at,
      );
    }
  }
}
