// Takes a BATCH frame apart at the target: checks every operation, writes skeleton and literals to their places in the
// destination buffer, and lists the references as runs for the NAS reads. Whatever a peer sends ends in a LinkError or in
// writes within the destination; nothing larger than the batch's announced and bounded sizes is allocated.
// Layout: docs/link-protocol.md, "BATCH".
import { copyBytes } from './byte-copy.ts';
import { Decompressor, roomBytes } from './compression.ts';
import { type BatchFrame, MAX_BATCH_PAGES, MAX_VOLUMES, PAGE_BYTES, TAG_BYTES } from './frame-types.ts';
import { LinkBadOpsError, LinkMisuseError } from './link-errors.ts';
import { Scratch } from './scratch.ts';
import { unzigzag, VarintReader } from './varint.ts';

/** What a batch is decompressed into. Used up when `decode` returns, so all decoders of a thread may share it. */
export class DecoderRooms {
  readonly meta = new Scratch();
  readonly literals = new Scratch();

  release(): void {
    this.meta.release();
    this.literals.release();
  }
}

/**
 * A batch at the target between its frame and its delivery. Reusable: one holds 11 KiB and is filled anew by each decode.
 * Only the first `pageCount` and `runCount` entries mean anything.
 */
export class DecodedBatch {
  number = 0;
  reconstructedBytes = 0;
  pageCount = 0;
  /** Pages to be read from volumes: the sum of `runPages`. */
  referencePages = 0;
  /** Where each page begins in the reconstructed bytes, literals and references alike. */
  readonly pageOffsets = new Uint32Array(MAX_BATCH_PAGES);
  /** The tag the source sent; a PATCH brings its own. */
  readonly tag = Buffer.alloc(TAG_BYTES);

  /** Runs of references: consecutive blocks of one volume that go to evenly spaced places. */
  runCount = 0;
  readonly runVolume = new Uint16Array(MAX_BATCH_PAGES);
  readonly runFirstBlock = new Uint32Array(MAX_BATCH_PAGES);
  readonly runPages = new Uint16Array(MAX_BATCH_PAGES);
  /** Where the run's first page goes in the reconstructed bytes. */
  readonly runOffset = new Uint32Array(MAX_BATCH_PAGES);
  /** Bytes from the beginning of one page of the run to that of the next; 4096 when they touch. */
  readonly runStride = new Uint32Array(MAX_BATCH_PAGES);
  /** Position of the run's first page among all pages of the batch. */
  readonly runFirstPage = new Uint16Array(MAX_BATCH_PAGES);
}

export class BatchDecoder {
  /** Blocks that may be referenced, per volume of HELLO; 0 for those the target cannot read. */
  readonly #volumeBlocks: readonly number[];
  readonly #ops = new VarintReader();
  readonly #nextBlock = new Float64Array(MAX_VOLUMES);
  readonly #decompressor: Decompressor;
  readonly #rooms: DecoderRooms;

  /** `volumeSizes` in bytes, in HELLO's order, 0 for unusable ones; a last block that is cut short cannot be referenced. */
  constructor(volumeSizes: readonly number[], decompressor = new Decompressor(), rooms = new DecoderRooms()) {
    if (volumeSizes.length > MAX_VOLUMES) throw new LinkMisuseError(`${volumeSizes.length} volumes`);
    this.#volumeBlocks = volumeSizes.map((bytes) => Math.floor(bytes / PAGE_BYTES));
    this.#decompressor = decompressor;
    this.#rooms = rooms;
  }

  /**
   * Decodes a frame that a FrameReader delivered (it has checked the fixed fields) into `destination`, which takes
   * `reconstructedBytes` from its beginning. Afterwards the places of the listed runs are still to be filled from the
   * volumes, and the tag to be checked. The frame is not needed any more. On a LinkError both outputs are worthless.
   */
  decode(frame: BatchFrame, destination: Uint8Array, into: DecodedBatch): void {
    const { number, metaBytes, literalBytes, metaStored, literalStored } = frame;
    if (destination.length < frame.reconstructedBytes) {
      throw new LinkMisuseError(
        `a destination of ${destination.length} bytes for ${frame.reconstructedBytes}`,
      );
    }
    const meta = frame.metaIsZstd
      ? this.#decompressor.decompressExactly(
          metaStored,
          metaBytes,
          `Operations and skeleton of batch ${number}`,
          this.#rooms.meta.take(roomBytes(metaBytes)),
        )
      : metaStored;
    const literals = frame.literalsAreZstd
      ? this.#decompressor.decompressExactly(
          literalStored,
          literalBytes,
          `Literals of batch ${number}`,
          this.#rooms.literals.take(roomBytes(literalBytes)),
        )
      : literalStored;
    this.#place(frame, meta, literals, destination, into);
  }

  /** Fills `destination` and `into`, by the operations at the beginning of `meta`. `meta` and `literals` are not read any more afterwards. */
  #place(
    frame: BatchFrame,
    meta: Buffer,
    literals: Buffer,
    destination: Uint8Array,
    into: DecodedBatch,
  ): void {
    const { number, reconstructedBytes, pageCount, opsBytes, metaBytes, literalBytes } = frame;
    const out = Buffer.from(destination.buffer, destination.byteOffset, reconstructedBytes);
    const ops = this.#ops;
    ops.reset(meta, 0, opsBytes);
    this.#nextBlock.fill(0);
    into.number = number;
    into.reconstructedBytes = reconstructedBytes;
    into.pageCount = pageCount;
    into.runCount = 0;
    into.referencePages = 0;
    frame.tag.copy(into.tag);

    let page = 0;
    let outAt = 0;
    let skeletonAt = opsBytes;
    let literalAt = 0;
    while (!ops.done) {
      const gap = ops.next();
      const counted = ops.next();
      const count = Math.floor(counted / 2);
      const strideGap = count > 1 ? ops.next() : 0;
      if (gap < 0 || counted < 0 || strideGap < 0)
        throw new LinkBadOpsError(number, `a number ends or begins badly at ${ops.at}`);
      if (count === 0 || count > pageCount - page) {
        throw new LinkBadOpsError(number, `a run of ${count} pages where ${pageCount - page} are left`);
      }
      const skeletonNeeded = gap + strideGap * (count - 1);
      if (skeletonNeeded > metaBytes - skeletonAt) {
        throw new LinkBadOpsError(
          number,
          `${skeletonNeeded} skeleton bytes where ${metaBytes - skeletonAt} are left`,
        );
      }
      copyBytes(meta, skeletonAt, skeletonAt + gap, out, outAt);
      skeletonAt += gap;
      outAt += gap;

      const isReference = counted % 2 === 1;
      const stride = PAGE_BYTES + strideGap;
      if (isReference) this.#addRun(number, into, page, count, outAt, stride);
      else if (count * PAGE_BYTES > literalBytes - literalAt) {
        throw new LinkBadOpsError(
          number,
          `${count} literal pages where ${literalBytes - literalAt} bytes are left`,
        );
      }
      if (!isReference && strideGap === 0)
        literals.copy(out, outAt, literalAt, literalAt + count * PAGE_BYTES);
      for (let i = 0; i < count; i++) {
        into.pageOffsets[page + i] = outAt;
        if (!isReference && strideGap > 0) {
          const from = literalAt + i * PAGE_BYTES;
          literals.copy(out, outAt, from, from + PAGE_BYTES);
        }
        outAt += PAGE_BYTES;
        if (strideGap > 0 && i + 1 < count) {
          copyBytes(meta, skeletonAt, skeletonAt + strideGap, out, outAt);
          skeletonAt += strideGap;
          outAt += strideGap;
        }
      }
      if (!isReference) literalAt += count * PAGE_BYTES;
      page += count;
    }
    if (page !== pageCount) throw new LinkBadOpsError(number, `they place ${page} of ${pageCount} pages`);
    if (literalAt !== literalBytes)
      throw new LinkBadOpsError(number, `they use ${literalAt} of ${literalBytes} literal bytes`);
    copyBytes(meta, skeletonAt, metaBytes, out, outAt);
  }

  /** Reads volume and block of a run of references, checks that the volume has them all, and lists the run. */
  #addRun(
    number: number,
    into: DecodedBatch,
    page: number,
    count: number,
    offset: number,
    stride: number,
  ): void {
    const volume = this.#ops.next();
    const coded = this.#ops.next();
    if (volume < 0 || coded < 0)
      throw new LinkBadOpsError(number, `a number ends or begins badly at ${this.#ops.at}`);
    const blocks = this.#volumeBlocks[volume];
    if (blocks === undefined)
      throw new LinkBadOpsError(number, `volume ${volume} of ${this.#volumeBlocks.length}`);
    const firstBlock = (this.#nextBlock[volume] as number) + unzigzag(coded);
    if (firstBlock < 0 || firstBlock + count > blocks) {
      throw new LinkBadOpsError(
        number,
        `blocks ${firstBlock} to ${firstBlock + count - 1} of volume ${volume}, which has ${blocks}`,
      );
    }
    this.#nextBlock[volume] = firstBlock + count;
    const run = into.runCount++;
    into.runVolume[run] = volume;
    into.runFirstBlock[run] = firstBlock;
    into.runPages[run] = count;
    into.runOffset[run] = offset;
    into.runStride[run] = stride;
    into.runFirstPage[run] = page;
    into.referencePages += count;
  }
}
