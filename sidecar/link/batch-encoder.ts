// Turns a reconstructed batch and the plan for its pages into the parts of a BATCH frame: operations (runs of pages),
// skeleton (all bytes that are not pages) and literals (pages only the source has), compressed where that pays.
// One encoder serves all connections of a migration, one batch after the other; nothing is allocated per page. Layout: docs/link-protocol.md, "BATCH".
import { copyBytes } from './byte-copy.ts';
import { Compressor } from './compression.ts';
import {
  BATCH_FIXED_BYTES,
  FLAG_LITERALS_ZSTD,
  FLAG_META_ZSTD,
  FRAME_BATCH,
  FRAME_HEADER_BYTES,
  MAX_BATCH_PAGES,
  MAX_OPS_BYTES_PER_PAGE,
  MAX_RECONSTRUCTED_BYTES,
  MAX_VOLUMES,
  PAGE_BYTES,
  TAG_BYTES,
} from './frame-types.ts';
import { writeFrameHeader } from './frame-writer.ts';
import { LinkMisuseError } from './link-errors.ts';
import { writeVarint, zigzag } from './varint.ts';

/** In `pageVolumes`: the page is sent as it is. Any other value is the index of a volume in HELLO. */
export const LITERAL_PAGE = 0xffff;

// Raw meta up to this size is copied next to the frame's head rather than hold the work buffer until the socket took it.
const SMALL_META_BYTES = 4096;
const HEAD_BYTES = FRAME_HEADER_BYTES + BATCH_FIXED_BYTES;
// Work buffers kept for reuse, of 2 MiB at most: one being filled, and one on its way through the socket of each of KubeVirt's
// nine connections.
const MAX_FREE_BUFFERS = 10;

export interface BatchPlan {
  /** From 0, one more for each batch of the connection. */
  readonly number: number;
  /** All bytes of the batch as QEMU wrote them, at most 2 MiB. */
  readonly reconstructed: Uint8Array;
  /** Where each page begins in `reconstructed`; ascending, pages do not overlap. */
  readonly pageOffsets: Uint32Array;
  /** How many entries of the three arrays are used. */
  readonly pageCount: number;
  /** LITERAL_PAGE, or the volume that has the page. */
  readonly pageVolumes: Uint16Array;
  /** The block of that volume; not looked at for literals. */
  readonly pageBlocks: Uint32Array;
  /** From TagSealer.seal over `reconstructed`. */
  readonly tag: Uint8Array;
  /** The literals go as they are. */
  readonly uncompressed?: boolean;
}

export interface EncodedBatch {
  /** For one writev; valid until `release`. */
  readonly parts: Uint8Array[];
  /** Bytes of all parts: what the link carries. */
  readonly frameBytes: number;
  readonly literalPages: number;
  readonly referencePages: number;
  readonly metaStoredBytes: number;
  readonly literalStoredBytes: number;
  /** The work buffer that parts point into, if any do. */
  readonly memory: Buffer | undefined;
  /** The compressor's copy that parts point into, if any do. */
  readonly literalCopy: Buffer | undefined;
}

export class BatchEncoder {
  readonly #compressor: Compressor | undefined;
  readonly #free: Buffer[] = [];
  /** Per volume: the block that would continue its last reference of this batch. */
  readonly #nextBlock = new Float64Array(MAX_VOLUMES);

  /**
   * With `zstd` false nothing is compressed: for links faster than a core compresses. `compressor` may be shared with others.
   */
  constructor(options: { readonly zstd: boolean; readonly compressor?: Compressor | undefined }) {
    this.#compressor = options.zstd ? (options.compressor ?? new Compressor()) : undefined;
  }

  /**
   * Encodes one batch. Throws LinkMisuseError when the plan is not valid (too large, pages that overlap or leave the
   * batch, an unknown volume); it never sends what a BatchDecoder would refuse.
   */
  encode(plan: BatchPlan): EncodedBatch {
    const { reconstructed, pageCount } = plan;
    const bytes = reconstructed.length;
    if (bytes === 0 || bytes > MAX_RECONSTRUCTED_BYTES)
      throw new LinkMisuseError(`a batch of ${bytes} bytes`);
    if (pageCount > MAX_BATCH_PAGES || pageCount * PAGE_BYTES > bytes) {
      throw new LinkMisuseError(`${pageCount} pages in a batch of ${bytes} bytes`);
    }
    if (plan.tag.length !== TAG_BYTES) throw new LinkMisuseError(`a tag of ${plan.tag.length} bytes`);
    const source = Buffer.from(reconstructed.buffer, reconstructed.byteOffset, bytes);

    let literalPages = 0;
    for (let i = 0; i < pageCount; i++) if (plan.pageVolumes[i] === LITERAL_PAGE) literalPages++;
    const literalBytes = literalPages * PAGE_BYTES;
    const skeletonBytes = bytes - pageCount * PAGE_BYTES;
    const work = this.#take(pageCount * MAX_OPS_BYTES_PER_PAGE + skeletonBytes + literalBytes);

    const opsBytes = this.#writeOps(plan, bytes, work);
    const metaBytes = opsBytes + skeletonBytes;
    writePayload(plan, source, work, opsBytes, metaBytes);

    const rawMeta = work.subarray(0, metaBytes);
    const rawLiterals = work.subarray(metaBytes, metaBytes + literalBytes);
    // What the compressor gives is valid until its next call: meta goes next to the head, literals into a copy.
    const zstdMeta = this.#compressor?.compressIfWorth(rawMeta);
    const metaStoredBytes = zstdMeta?.length ?? metaBytes;
    const inlineMeta = zstdMeta !== undefined || metaBytes <= SMALL_META_BYTES;
    const head = Buffer.allocUnsafe(HEAD_BYTES + (inlineMeta ? metaStoredBytes : 0));
    if (inlineMeta) (zstdMeta ?? rawMeta).copy(head, HEAD_BYTES);
    const zstdLiterals =
      plan.uncompressed === true ? undefined : this.#compressor?.compressIfWorth(rawLiterals);
    const literalStoredBytes = zstdLiterals?.length ?? literalBytes;
    const literalCopy = zstdLiterals && this.#compressor?.copies.take(literalStoredBytes);

    const bodyBytes = BATCH_FIXED_BYTES + metaStoredBytes + literalStoredBytes + TAG_BYTES;
    const flags =
      (zstdMeta === undefined ? 0 : FLAG_META_ZSTD) | (zstdLiterals === undefined ? 0 : FLAG_LITERALS_ZSTD);
    writeFrameHeader(head, FRAME_BATCH, flags, bodyBytes);
    head.writeUInt32BE(plan.number, 8);
    head.writeUInt32BE(bytes, 12);
    head.writeUInt32BE(pageCount, 16);
    head.writeUInt32BE(opsBytes, 20);
    head.writeUInt32BE(metaStoredBytes, 24);
    head.writeUInt32BE(metaBytes, 28);
    head.writeUInt32BE(literalStoredBytes, 32);
    head.writeUInt32BE(literalBytes, 36);

    const parts: Uint8Array[] = [head];
    let held = false;
    if (!inlineMeta) {
      parts.push(rawMeta);
      held = true;
    }
    if (zstdLiterals !== undefined && literalCopy !== undefined) {
      zstdLiterals.copy(literalCopy);
      parts.push(literalCopy.subarray(0, literalStoredBytes));
    } else if (literalBytes > 0) {
      parts.push(rawLiterals);
      held = true;
    }
    parts.push(plan.tag);
    if (!held) this.#giveBack(work);
    return {
      parts,
      frameBytes: FRAME_HEADER_BYTES + bodyBytes,
      literalPages,
      referencePages: pageCount - literalPages,
      metaStoredBytes,
      literalStoredBytes,
      memory: held ? work : undefined,
      literalCopy,
    };
  }

  /** The socket has taken every part: their memory may be used again. To be called once; not calling costs garbage. */
  release(encoded: EncodedBatch): void {
    if (encoded.parts.length === 0) throw new LinkMisuseError('an encoded batch was released twice');
    encoded.parts.length = 0;
    if (encoded.memory !== undefined) this.#giveBack(encoded.memory);
    if (encoded.literalCopy !== undefined) this.#compressor?.copies.give(encoded.literalCopy);
  }

  #take(bytes: number): Buffer {
    for (let i = this.#free.length - 1; i >= 0; i--) {
      const buffer = this.#free[i] as Buffer;
      if (buffer.length < bytes) continue;
      this.#free.splice(i, 1);
      return buffer;
    }
    // Powers of two from 64 KiB: batches of about one size then share buffers.
    let capacity = 64 * 1024;
    while (capacity < bytes) capacity *= 2;
    return Buffer.allocUnsafeSlow(capacity);
  }

  #giveBack(buffer: Buffer): void {
    if (this.#free.length >= MAX_FREE_BUFFERS) this.#free.shift();
    this.#free.push(buffer);
  }

  /** Writes the operations at the beginning of `out` and returns how many bytes they take. */
  #writeOps(plan: BatchPlan, bytes: number, out: Buffer): number {
    const { pageOffsets, pageVolumes, pageBlocks, pageCount } = plan;
    this.#nextBlock.fill(0);
    let at = 0;
    let page = 0;
    let previousEnd = 0;
    while (page < pageCount) {
      const offset = pageOffsets[page] as number;
      const volume = pageVolumes[page] as number;
      const block = pageBlocks[page] as number;
      const isReference = volume !== LITERAL_PAGE;
      if (offset < previousEnd)
        throw new LinkMisuseError(`page ${page} begins at ${offset}, before byte ${previousEnd}`);
      if (isReference && volume >= MAX_VOLUMES)
        throw new LinkMisuseError(`page ${page} refers to volume ${volume}`);

      let count = 1;
      const stride = page + 1 < pageCount ? (pageOffsets[page + 1] as number) - offset : 0;
      while (
        page + count < pageCount &&
        stride >= PAGE_BYTES &&
        pageOffsets[page + count] === offset + count * stride &&
        pageVolumes[page + count] === volume &&
        (!isReference || pageBlocks[page + count] === block + count)
      ) {
        count++;
      }
      const end = offset + (count - 1) * stride + PAGE_BYTES;
      if (end > bytes)
        throw new LinkMisuseError(`page ${page + count - 1} ends at ${end}, the batch at ${bytes}`);

      at = writeVarint(out, at, offset - previousEnd);
      at = writeVarint(out, at, count * 2 + (isReference ? 1 : 0));
      if (count > 1) at = writeVarint(out, at, stride - PAGE_BYTES);
      if (isReference) {
        at = writeVarint(out, at, volume);
        at = writeVarint(out, at, zigzag(block - (this.#nextBlock[volume] as number)));
        this.#nextBlock[volume] = block + count;
      }
      page += count;
      previousEnd = end;
    }
    return at;
  }
}

/** Gathers the skeleton at `skeletonAt` and the literal pages at `literalsAt` of `out`; the plan has been checked. */
function writePayload(
  plan: BatchPlan,
  source: Buffer,
  out: Buffer,
  skeletonAt: number,
  literalsAt: number,
): void {
  const { pageOffsets, pageVolumes, pageCount } = plan;
  let previousEnd = 0;
  // Literal pages that touch are copied as one range.
  let literalFrom = 0;
  let literalTo = 0;
  for (let page = 0; page < pageCount; page++) {
    const offset = pageOffsets[page] as number;
    if (offset > previousEnd) {
      copyBytes(source, previousEnd, offset, out, skeletonAt);
      skeletonAt += offset - previousEnd;
    }
    previousEnd = offset + PAGE_BYTES;
    if (pageVolumes[page] !== LITERAL_PAGE) continue;
    if (offset !== literalTo) {
      copyBytes(source, literalFrom, literalTo, out, literalsAt);
      literalsAt += literalTo - literalFrom;
      literalFrom = offset;
    }
    literalTo = previousEnd;
  }
  copyBytes(source, literalFrom, literalTo, out, literalsAt);
  copyBytes(source, previousEnd, source.length, out, skeletonAt);
}
