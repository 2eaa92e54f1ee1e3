// PATCH: pages of a batch that the target could not take from the NAS, or took and found different, sent as literals with
// a new tag over the whole batch. Encoder for the source, decoder for the target; both rare, so they allocate per call.
// Layout: docs/link-protocol.md, "PATCH".
import type { DecodedBatch } from './batch-decoder.ts';
import { Compressor, Decompressor, roomBytes } from './compression.ts';
import {
  FLAG_LITERALS_ZSTD,
  FRAME_HEADER_BYTES,
  FRAME_PATCH,
  MAX_ATTEMPT,
  MAX_BATCH_PAGES,
  MAX_POSITION_BYTES_PER_PAGE,
  PAGE_BYTES,
  PATCH_FIXED_BYTES,
  type PatchFrame,
  TAG_BYTES,
} from './frame-types.ts';
import { writeFrameHeader } from './frame-writer.ts';
import { LinkBadPatchError, LinkMisuseError } from './link-errors.ts';
import { VarintReader, writeVarint } from './varint.ts';

export interface Patch {
  readonly number: number;
  /** 1 or 2, that of the RESEND which it answers. */
  readonly attempt: number;
  /** The batch as it was sent, kept until acknowledged. */
  readonly reconstructed: Uint8Array;
  readonly pageOffsets: Uint32Array;
  /** Which pages of the batch, ascending. */
  readonly positions: Uint32Array;
  /** How many entries of `positions` are used. */
  readonly count: number;
  /** From TagSealer.seal with this attempt. */
  readonly tag: Uint8Array;
}

export interface EncodedPatch {
  /** For one writev; they own their memory. */
  readonly parts: Uint8Array[];
  readonly frameBytes: number;
}

export class PatchEncoder {
  readonly #compressor: Compressor | undefined;

  /** @param options as for a BatchEncoder. */
  constructor(options: { readonly zstd: boolean; readonly compressor?: Compressor | undefined }) {
    this.#compressor = options.zstd ? (options.compressor ?? new Compressor()) : undefined;
  }

  encode(patch: Patch): EncodedPatch {
    const { number, attempt, reconstructed, pageOffsets, positions, count, tag } = patch;
    if (count < 1 || count > MAX_BATCH_PAGES) throw new LinkMisuseError(`a PATCH of ${count} pages`);
    if (attempt < 1 || attempt > MAX_ATTEMPT) throw new LinkMisuseError(`PATCH attempt ${attempt}`);
    if (tag.length !== TAG_BYTES) throw new LinkMisuseError(`a tag of ${tag.length} bytes`);
    const headAt = FRAME_HEADER_BYTES + PATCH_FIXED_BYTES;
    const head = Buffer.alloc(headAt + count * MAX_POSITION_BYTES_PER_PAGE);
    const pages = Buffer.allocUnsafe(count * PAGE_BYTES);
    let at = headAt;
    let previous = -1;
    for (let i = 0; i < count; i++) {
      const position = positions[i] as number;
      const offset = pageOffsets[position];
      if (position <= previous || position >= MAX_BATCH_PAGES || offset === undefined) {
        throw new LinkMisuseError(`page ${position} follows page ${previous} in a PATCH`);
      }
      if (offset + PAGE_BYTES > reconstructed.length) {
        throw new LinkMisuseError(
          `page ${position} ends at ${offset + PAGE_BYTES}, the batch at ${reconstructed.length}`,
        );
      }
      at = writeVarint(head, at, position - previous - 1);
      previous = position;
      pages.set(reconstructed.subarray(offset, offset + PAGE_BYTES), i * PAGE_BYTES);
    }
    const compressed = this.#compressor?.compressIfWorth(pages);
    const literals = compressed === undefined ? pages : Buffer.from(compressed);
    const bodyBytes = at - FRAME_HEADER_BYTES + literals.length + TAG_BYTES;
    writeFrameHeader(head, FRAME_PATCH, compressed === undefined ? 0 : FLAG_LITERALS_ZSTD, bodyBytes);
    head.writeUInt32BE(number, 8);
    head[12] = attempt;
    head.writeUInt32BE(count, 16);
    head.writeUInt32BE(literals.length, 20);
    head.writeUInt32BE(at - headAt, 24);
    return { parts: [head.subarray(0, at), literals, tag], frameBytes: FRAME_HEADER_BYTES + bodyBytes };
  }
}

export class PatchDecoder {
  readonly #positions = new VarintReader();
  readonly #decompressor: Decompressor;

  /** @param decompressor may be shared with the connection's BatchDecoder. */
  constructor(decompressor = new Decompressor()) {
    this.#decompressor = decompressor;
  }

  /**
   * Writes the pages of `frame` (which a FrameReader delivered) over those of `batch` in `destination`. Throws
   * LinkBadPatchError when it is for another batch or names a page that the batch does not have; the tag is the caller's.
   * @param patched bitmap of the batch's pages (bit i % 8 of byte i >> 3) in which those written are marked.
   */
  apply(frame: PatchFrame, batch: DecodedBatch, destination: Uint8Array, patched?: Uint8Array): void {
    if (frame.number !== batch.number)
      throw new LinkBadPatchError(frame.number, `batch ${batch.number} was to be patched`);
    if (destination.length < batch.reconstructedBytes) {
      throw new LinkMisuseError(
        `a destination of ${destination.length} bytes for ${batch.reconstructedBytes}`,
      );
    }
    const pageBytes = frame.pageCount * PAGE_BYTES;
    const pages = frame.literalsAreZstd
      ? this.#decompressor.decompressExactly(
          frame.literalStored,
          pageBytes,
          `Pages of a PATCH for batch ${frame.number}`,
          Buffer.allocUnsafe(roomBytes(pageBytes)),
        )
      : frame.literalStored;
    const positions = this.#positions;
    positions.reset(frame.positions, 0, frame.positions.length);
    let page = -1;
    for (let i = 0; i < frame.pageCount; i++) {
      const gap = positions.next();
      if (gap < 0) throw new LinkBadPatchError(frame.number, `position ${i} ends or begins badly`);
      page += gap + 1;
      if (page >= batch.pageCount)
        throw new LinkBadPatchError(frame.number, `page ${page} of ${batch.pageCount}`);
      const offset = batch.pageOffsets[page] as number;
      destination.set(pages.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES), offset);
      if (patched !== undefined) patched[page >> 3] = (patched[page >> 3] as number) | (1 << (page & 7));
    }
    if (!positions.done)
      throw new LinkBadPatchError(frame.number, `bytes follow its ${frame.pageCount} positions`);
  }
}
