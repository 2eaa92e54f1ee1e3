// Reads the frames of one direction of a connection from chunks of any size. Every length, flag and reserved byte is
// checked before it is believed, and the order in which frames may come; a frame that breaks the rules throws one
// LinkError, after which the reader is dead. Layout and rules: docs/link-protocol.md, "Frames".
//
// Bodies are handed to the sink as views: of the caller's chunk when the frame lies in it whole, else of one buffer that
// the next frame overwrites. They are valid during the call.
// Memory: one buffer, as large as the largest body that came in pieces, at most 2 MiB + 64 KiB.
import {
  BATCH_FIXED_BYTES,
  type BatchFrame,
  FLAG_LITERALS_ZSTD,
  FLAG_META_ZSTD,
  FRAME_ABORT,
  FRAME_ACK,
  FRAME_BATCH,
  FRAME_END,
  FRAME_END_ACK,
  FRAME_GROW,
  FRAME_GROWN,
  FRAME_HEADER_BYTES,
  FRAME_HELLO,
  FRAME_PATCH,
  FRAME_PING,
  FRAME_PONG,
  FRAME_RESEND,
  FRAME_RETURN,
  FRAME_RETURN_END,
  type Frame,
  type FrameAt,
  frameName,
  GROW_BYTES,
  GROWN_FIXED_BYTES,
  HELLO_FIXED_BYTES,
  MAX_ABORT_TEXT_BYTES,
  MAX_ATTEMPT,
  MAX_BATCH_PAGES,
  MAX_FRAME_BODY_BYTES,
  MAX_GROW_BLOCKS,
  MAX_HELLO_BODY_BYTES,
  MAX_OPS_BYTES_PER_PAGE,
  MAX_POSITION_BYTES_PER_PAGE,
  MAX_RECONSTRUCTED_BYTES,
  MAX_RETURN_BYTES,
  PAGE_BYTES,
  PATCH_FIXED_BYTES,
  type PatchFrame,
  PROOF_BYTES,
  RESEND_FIXED_BYTES,
  RESEND_NAS_DEADLINE,
  type ResendFrame,
  type Role,
  TAG_BYTES,
} from './frame-types.ts';
import { decodeHello } from './hello.ts';
import {
  LinkBadFrameError,
  LinkBatchOrderError,
  LinkDirectionError,
  LinkFrameOrderError,
  LinkFrameTooLargeError,
  LinkMisuseError,
  LinkReaderDeadError,
} from './link-errors.ts';

/** Takes the frames of one connection. What it throws passes through `push` and leaves the reader dead. */
export interface FrameSink<R extends Role> {
  onFrame(frame: FrameAt<R>): void;
}

interface FrameRule {
  readonly from: Role | 'both';
  readonly flags: number;
  readonly minBytes: number;
  readonly maxBytes: number;
}

const fixed = (from: FrameRule['from'], bytes: number): FrameRule => ({
  from,
  flags: 0,
  minBytes: bytes,
  maxBytes: bytes,
});

// Indexed by frame type. The upper bound of a body is applied to its announced length, before any of it is stored.
const RULES: readonly (FrameRule | undefined)[] = (() => {
  const rules: (FrameRule | undefined)[] = [];
  rules[FRAME_HELLO] = {
    from: 'both',
    flags: 0,
    minBytes: HELLO_FIXED_BYTES + PROOF_BYTES,
    maxBytes: MAX_HELLO_BODY_BYTES,
  };
  rules[FRAME_BATCH] = {
    from: 'source',
    flags: FLAG_META_ZSTD | FLAG_LITERALS_ZSTD,
    minBytes: BATCH_FIXED_BYTES + 1 + TAG_BYTES,
    maxBytes: MAX_FRAME_BODY_BYTES,
  };
  rules[FRAME_ACK] = fixed('target', 20);
  rules[FRAME_RESEND] = {
    from: 'target',
    flags: 0,
    minBytes: RESEND_FIXED_BYTES + 8 + 1,
    maxBytes: RESEND_FIXED_BYTES + MAX_BATCH_PAGES * 8 + MAX_BATCH_PAGES / 8,
  };
  rules[FRAME_PATCH] = {
    from: 'source',
    flags: FLAG_LITERALS_ZSTD,
    minBytes: PATCH_FIXED_BYTES + 1 + 1 + TAG_BYTES,
    maxBytes: PATCH_FIXED_BYTES + MAX_BATCH_PAGES * (MAX_POSITION_BYTES_PER_PAGE + PAGE_BYTES) + TAG_BYTES,
  };
  rules[FRAME_RETURN] = { from: 'target', flags: 0, minBytes: 1, maxBytes: MAX_RETURN_BYTES };
  rules[FRAME_PING] = fixed('both', 8);
  rules[FRAME_PONG] = fixed('both', 8);
  rules[FRAME_ABORT] = { from: 'both', flags: 0, minBytes: 4, maxBytes: 4 + MAX_ABORT_TEXT_BYTES };
  rules[FRAME_END] = fixed('source', 12);
  rules[FRAME_END_ACK] = fixed('target', 8);
  rules[FRAME_RETURN_END] = fixed('target', 0);
  rules[FRAME_GROW] = fixed('source', GROW_BYTES);
  rules[FRAME_GROWN] = {
    from: 'target',
    flags: 0,
    minBytes: GROWN_FIXED_BYTES,
    maxBytes: GROWN_FIXED_BYTES + MAX_GROW_BLOCKS * 8,
  };
  return rules;
})();

const READ_HEADER = 0;
const READ_BODY = 1;
/** After ABORT and END_ACK the connection is being closed: a PONG or RETURN that was under way is dropped. */
const DROP = 2;
/** After `detach`: the rest of the connection is QEMU's. */
const DETACHED = 3;
const DEAD = 4;

// Most frames are far below this; a first buffer of this size is not grown by ACKs and RETURNs.
const SMALL_BODY_BYTES = 64 * 1024;
const NO_BYTES = Buffer.alloc(0);

export class FrameReader<R extends Role> {
  readonly #sink: FrameSink<R>;
  readonly #role: R;
  #state = READ_HEADER;
  #inSink = false;

  readonly #header = Buffer.alloc(FRAME_HEADER_BYTES);
  #headerFill = 0;
  #type = 0;
  #flags = 0;
  #bodyBytes = 0;
  /** Collects a body that comes in pieces; its length is its capacity. */
  #store: Buffer = NO_BYTES;
  #storeFill = 0;
  #rest: Buffer = NO_BYTES;

  #helloSeen = false;
  #nextBatch = 0;
  #streamBytes = 0;
  #endSeen = false;
  #returnEnded = false;
  #deliveredBatches = 0;
  #creditLimit = 0;

  /** `role` is the side this program is on: a target's reader takes what a source sends. */
  constructor(sink: FrameSink<R>, role: R) {
    this.#sink = sink;
    this.#role = role;
  }

  /** Bytes of an unfinished frame are held: a connection that ends now was cut. */
  get midFrame(): boolean {
    return this.#headerFill > 0 || this.#state === READ_BODY;
  }

  /**
   * Takes the next bytes of the connection and calls the sink for every frame they finish. Throws a LinkError at the first
   * byte that breaks the protocol, and LinkReaderDeadError when called again after that, or from within the sink.
   */
  push(chunk: Uint8Array): void {
    if (this.#inSink) throw new LinkReaderDeadError('push was called from within its sink');
    if (this.#state === DEAD) throw new LinkReaderDeadError('an earlier frame broke the protocol');
    if (this.#state === DETACHED) throw new LinkReaderDeadError('it was detached from a raw connection');
    try {
      this.#parse(
        Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength),
      );
    } catch (error) {
      this.#state = DEAD;
      this.#store = NO_BYTES;
      throw error;
    }
  }

  /** Called from within onFrame with HELLO on a connection that goes raw: what follows is QEMU's, see `takeRest`. */
  detach(): void {
    if (!this.#inSink || this.#type !== FRAME_HELLO)
      throw new LinkMisuseError('a reader can be detached at HELLO only');
    this.#state = DETACHED;
  }

  /** A copy of the bytes that came after the HELLO at which the reader was detached. */
  takeRest(): Buffer {
    const rest = this.#rest;
    this.#rest = NO_BYTES;
    return rest;
  }

  #parse(chunk: Buffer): void {
    let at = 0;
    for (;;) {
      if (this.#state === READ_HEADER) {
        if (at === chunk.length) return;
        const taken = Math.min(FRAME_HEADER_BYTES - this.#headerFill, chunk.length - at);
        chunk.copy(this.#header, this.#headerFill, at, at + taken);
        this.#headerFill += taken;
        at += taken;
        if (this.#headerFill < FRAME_HEADER_BYTES) return;
        this.#readHeader();
        this.#state = READ_BODY;
      } else if (this.#state === READ_BODY) {
        let body: Buffer;
        if (this.#storeFill === 0 && chunk.length - at >= this.#bodyBytes) {
          body = chunk.subarray(at, at + this.#bodyBytes);
          at += this.#bodyBytes;
        } else {
          if (at === chunk.length) return;
          if (this.#storeFill === 0) this.#grow();
          const taken = Math.min(this.#bodyBytes - this.#storeFill, chunk.length - at);
          chunk.copy(this.#store, this.#storeFill, at, at + taken);
          this.#storeFill += taken;
          at += taken;
          if (this.#storeFill < this.#bodyBytes) return;
          body = this.#store.subarray(0, this.#bodyBytes);
        }
        this.#state = READ_HEADER;
        this.#headerFill = 0;
        this.#storeFill = 0;
        this.#deliver(body);
      } else {
        if (this.#state === DETACHED) this.#rest = Buffer.from(chunk.subarray(at));
        return;
      }
    }
  }

  #grow(): void {
    const bytes = this.#bodyBytes;
    if (this.#store.length >= bytes) return;
    // Three sizes, so that bodies of slightly growing size do not each bring a new buffer.
    const capacity =
      bytes <= SMALL_BODY_BYTES ? SMALL_BODY_BYTES : bytes <= 512 * 1024 ? 512 * 1024 : MAX_FRAME_BODY_BYTES;
    this.#store = Buffer.allocUnsafeSlow(capacity);
  }

  #readHeader(): void {
    const header = this.#header;
    const type = header.readUInt8(0);
    const flags = header.readUInt8(1);
    const bodyBytes = header.readUInt32BE(4);
    const rule = RULES[type];
    const name = frameName(type);
    if (rule === undefined)
      throw new LinkBadFrameError(name, `there is no such frame in this version (flags ${flags})`);
    if (rule.from === this.#role) throw new LinkDirectionError(name, this.#role);
    if ((flags & ~rule.flags) !== 0)
      throw new LinkBadFrameError(name, `flags ${flags}, known are ${rule.flags}`);
    if (header.readUInt16BE(2) !== 0)
      throw new LinkBadFrameError(name, `reserved bytes are ${header.readUInt16BE(2)}`);
    if (bodyBytes > rule.maxBytes) throw new LinkFrameTooLargeError(name, bodyBytes, rule.maxBytes);
    if (bodyBytes < rule.minBytes)
      throw new LinkBadFrameError(name, `${bodyBytes} bytes, at least ${rule.minBytes} are needed`);
    this.#checkOrder(type, name);
    this.#type = type;
    this.#flags = flags;
    this.#bodyBytes = bodyBytes;
  }

  #checkOrder(type: number, name: string): void {
    if (type === FRAME_ABORT) return;
    if (type === FRAME_HELLO) {
      if (this.#helloSeen) throw new LinkFrameOrderError(name, 'a second time');
      return;
    }
    if (!this.#helloSeen) throw new LinkFrameOrderError(name, 'before HELLO');
    if (this.#endSeen && (type === FRAME_BATCH || type === FRAME_END))
      throw new LinkFrameOrderError(name, 'after END');
    if (this.#returnEnded && (type === FRAME_RETURN || type === FRAME_RETURN_END)) {
      throw new LinkFrameOrderError(name, 'after RETURN_END');
    }
  }

  #deliver(body: Buffer): void {
    const frame = this.#readFrame(body);
    this.#inSink = true;
    try {
      // readHeader has let only frames of the other side through, which is what FrameAt says.
      this.#sink.onFrame(frame as FrameAt<R>);
    } finally {
      this.#inSink = false;
    }
    if (frame.type === FRAME_ABORT || frame.type === FRAME_END_ACK) this.#state = DROP;
  }

  #readFrame(body: Buffer): Frame {
    switch (this.#type) {
      case FRAME_HELLO: {
        const hello = decodeHello(body);
        this.#helloSeen = true;
        return { type: FRAME_HELLO, hello };
      }
      case FRAME_BATCH: {
        const frame = this.#readBatch(body);
        if (frame.number !== this.#nextBatch) {
          throw new LinkBatchOrderError(frame.number, 0, `batch ${this.#nextBatch}`);
        }
        this.#nextBatch++;
        this.#streamBytes += frame.reconstructedBytes;
        return frame;
      }
      case FRAME_ACK:
        return this.#readAck(body);
      case FRAME_RESEND:
        return readResend(body);
      case FRAME_PATCH: {
        const frame = readPatch(body, this.#flags);
        if (frame.number >= this.#nextBatch) {
          throw new LinkBatchOrderError(frame.number, frame.attempt, `a batch below ${this.#nextBatch}`);
        }
        return frame;
      }
      case FRAME_RETURN:
        return { type: FRAME_RETURN, bytes: body };
      case FRAME_PING:
        return { type: FRAME_PING, clockMicros: readSafeU64(body, 0, 'PING') };
      case FRAME_PONG:
        return { type: FRAME_PONG, clockMicros: readSafeU64(body, 0, 'PONG') };
      case FRAME_ABORT:
        return readAbort(body);
      case FRAME_END: {
        const streamBytes = readSafeU64(body, 0, 'END');
        const batches = body.readUInt32BE(8);
        if (streamBytes !== this.#streamBytes || batches !== this.#nextBatch) {
          throw new LinkBadFrameError(
            'END',
            `it counts ${streamBytes} bytes in ${batches} batches, ${this.#streamBytes} in ${this.#nextBatch} came`,
          );
        }
        this.#endSeen = true;
        return { type: FRAME_END, streamBytes, batches };
      }
      case FRAME_END_ACK:
        return { type: FRAME_END_ACK, streamBytes: readSafeU64(body, 0, 'END_ACK') };
      case FRAME_RETURN_END:
        this.#returnEnded = true;
        return { type: FRAME_RETURN_END };
      case FRAME_GROW:
        return readGrow(body);
      case FRAME_GROWN:
        return readGrown(body);
      default:
        throw new LinkBadFrameError(frameName(this.#type), 'there is no such frame');
    }
  }

  #readBatch(body: Buffer): BatchFrame {
    const number = body.readUInt32BE(0);
    const reconstructedBytes = body.readUInt32BE(4);
    const pageCount = body.readUInt32BE(8);
    const opsBytes = body.readUInt32BE(12);
    const metaStoredBytes = body.readUInt32BE(16);
    const metaBytes = body.readUInt32BE(20);
    const literalStoredBytes = body.readUInt32BE(24);
    const literalBytes = body.readUInt32BE(28);
    const metaIsZstd = (this.#flags & FLAG_META_ZSTD) !== 0;
    const literalsAreZstd = (this.#flags & FLAG_LITERALS_ZSTD) !== 0;
    const bad = (what: string) => new LinkBadFrameError('BATCH', `number ${number}: ${what}`);
    if (reconstructedBytes === 0 || reconstructedBytes > MAX_RECONSTRUCTED_BYTES) {
      throw bad(`${reconstructedBytes} reconstructed bytes, the limit is ${MAX_RECONSTRUCTED_BYTES}`);
    }
    // Compared before it is multiplied, so that every product below is small.
    if (pageCount > MAX_BATCH_PAGES || pageCount * PAGE_BYTES > reconstructedBytes) {
      throw bad(`${pageCount} pages in ${reconstructedBytes} bytes`);
    }
    if (opsBytes > pageCount * MAX_OPS_BYTES_PER_PAGE)
      throw bad(`${opsBytes} bytes of operations for ${pageCount} pages`);
    const skeletonBytes = reconstructedBytes - pageCount * PAGE_BYTES;
    if (metaBytes !== opsBytes + skeletonBytes) {
      throw bad(
        `${metaBytes} meta bytes, ${opsBytes} of operations and ${skeletonBytes} of skeleton are due`,
      );
    }
    if (literalBytes > pageCount * PAGE_BYTES || literalBytes % PAGE_BYTES !== 0) {
      throw bad(`${literalBytes} literal bytes for ${pageCount} pages`);
    }
    if (!storedFits(metaIsZstd, metaStoredBytes, metaBytes))
      throw bad(`${metaBytes} meta bytes in ${metaStoredBytes}`);
    if (!storedFits(literalsAreZstd, literalStoredBytes, literalBytes)) {
      throw bad(`${literalBytes} literal bytes in ${literalStoredBytes}`);
    }
    if (BATCH_FIXED_BYTES + metaStoredBytes + literalStoredBytes + TAG_BYTES !== body.length) {
      throw bad(`its parts do not add up to ${body.length} bytes`);
    }
    const literalsAt = BATCH_FIXED_BYTES + metaStoredBytes;
    const tagAt = literalsAt + literalStoredBytes;
    return {
      type: FRAME_BATCH,
      number,
      reconstructedBytes,
      pageCount,
      opsBytes,
      metaBytes,
      literalBytes,
      metaIsZstd,
      literalsAreZstd,
      metaStored: body.subarray(BATCH_FIXED_BYTES, literalsAt),
      literalStored: body.subarray(literalsAt, tagAt),
      tag: body.subarray(tagAt),
    };
  }

  #readAck(body: Buffer): Frame {
    const deliveredBatches = body.readUInt32BE(0);
    const creditLimit = readSafeU64(body, 4, 'ACK');
    if (deliveredBatches < this.#deliveredBatches) {
      throw new LinkBadFrameError(
        'ACK',
        `${deliveredBatches} batches delivered, ${this.#deliveredBatches} were before`,
      );
    }
    if (creditLimit < this.#creditLimit) {
      throw new LinkBadFrameError('ACK', `credit falls from ${this.#creditLimit} to ${creditLimit}`);
    }
    this.#deliveredBatches = deliveredBatches;
    this.#creditLimit = creditLimit;
    return {
      type: FRAME_ACK,
      deliveredBatches,
      creditLimit,
      nasBytesPerSecond: body.readUInt32BE(12) * 1024,
      nasP99Micros: body.readUInt32BE(16),
    };
  }
}

/** Compressed bytes are fewer than what they stand for, stored ones are the same. */
function storedFits(isZstd: boolean, storedBytes: number, bytes: number): boolean {
  return isZstd ? storedBytes > 0 && storedBytes < bytes : storedBytes === bytes;
}

/** Counters and clocks stay below 2^53, where JavaScript numbers are exact; a peer that says more is not counting. */
function readSafeU64(body: Buffer, at: number, frame: string): number {
  const high = body.readUInt32BE(at);
  if (high > 0x1fffff) throw new LinkBadFrameError(frame, 'a count is above 2^53');
  return high * 2 ** 32 + body.readUInt32BE(at + 4);
}

function readResend(body: Buffer): ResendFrame {
  const number = body.readUInt32BE(0);
  const attempt = body.readUInt8(4);
  const reason = body.readUInt8(5);
  const pageCount = body.readUInt32BE(8);
  const bad = (what: string) => new LinkBadFrameError('RESEND', `batch ${number}: ${what}`);
  if (attempt < 1 || attempt > MAX_ATTEMPT) throw bad(`attempt ${attempt}`);
  if (reason > RESEND_NAS_DEADLINE) throw bad(`reason ${reason}`);
  if (body.readUInt16BE(6) !== 0) throw bad('reserved bytes are not zero');
  if (pageCount < 1 || pageCount > MAX_BATCH_PAGES) throw bad(`${pageCount} pages`);
  const missingAt = RESEND_FIXED_BYTES + pageCount * 8;
  const missingBytes = Math.ceil(pageCount / 8);
  if (body.length !== missingAt + missingBytes) throw bad(`${body.length} bytes for ${pageCount} pages`);
  const missing = body.subarray(missingAt);
  for (let page = 0; page < missingBytes * 8; page++) {
    if (((missing[page >> 3] as number) & (1 << (page & 7))) === 0) continue;
    if (page >= pageCount) throw bad(`page ${page} of ${pageCount} is missing`);
    const at = RESEND_FIXED_BYTES + page * 8;
    if (body.readUInt32BE(at) !== 0 || body.readUInt32BE(at + 4) !== 0)
      throw bad(`page ${page} is missing and has a digest`);
  }
  const digests = body.subarray(RESEND_FIXED_BYTES, missingAt);
  return { type: FRAME_RESEND, number, attempt, reason, pageCount, digests, missing };
}

function readPatch(body: Buffer, flags: number): PatchFrame {
  const number = body.readUInt32BE(0);
  const attempt = body.readUInt8(4);
  const pageCount = body.readUInt32BE(8);
  const literalStoredBytes = body.readUInt32BE(12);
  const positionsBytes = body.readUInt32BE(16);
  const literalsAreZstd = (flags & FLAG_LITERALS_ZSTD) !== 0;
  const bad = (what: string) => new LinkBadFrameError('PATCH', `batch ${number}: ${what}`);
  if (attempt < 1 || attempt > MAX_ATTEMPT) throw bad(`attempt ${attempt}`);
  if (body.readUInt8(5) !== 0 || body.readUInt16BE(6) !== 0) throw bad('reserved bytes are not zero');
  if (pageCount < 1 || pageCount > MAX_BATCH_PAGES) throw bad(`${pageCount} pages`);
  if (positionsBytes < pageCount || positionsBytes > pageCount * MAX_POSITION_BYTES_PER_PAGE) {
    throw bad(`${positionsBytes} bytes of positions for ${pageCount} pages`);
  }
  if (!storedFits(literalsAreZstd, literalStoredBytes, pageCount * PAGE_BYTES)) {
    throw bad(`${pageCount} pages in ${literalStoredBytes} bytes`);
  }
  if (PATCH_FIXED_BYTES + positionsBytes + literalStoredBytes + TAG_BYTES !== body.length) {
    throw bad(`its parts do not add up to ${body.length} bytes`);
  }
  const literalsAt = PATCH_FIXED_BYTES + positionsBytes;
  const tagAt = literalsAt + literalStoredBytes;
  return {
    type: FRAME_PATCH,
    number,
    attempt,
    pageCount,
    literalsAreZstd,
    positions: body.subarray(PATCH_FIXED_BYTES, literalsAt),
    literalStored: body.subarray(literalsAt, tagAt),
    tag: body.subarray(tagAt),
  };
}

function readGrow(body: Buffer): Frame {
  const volume = body.readUInt8(0);
  const blockCount = body.readUInt16BE(2);
  const firstBlock = body.readUInt32BE(4);
  if (body.readUInt8(1) !== 0) throw new LinkBadFrameError('GROW', 'reserved bytes are not zero');
  if (blockCount < 1 || blockCount > MAX_GROW_BLOCKS || firstBlock + blockCount > 2 ** 32) {
    throw new LinkBadFrameError('GROW', `${blockCount} blocks from ${firstBlock} on`);
  }
  const seed = { hi: body.readInt32BE(8), lo: body.readInt32BE(12) };
  return { type: FRAME_GROW, volume, firstBlock, blockCount, seed };
}

function readGrown(body: Buffer): Frame {
  const volume = body.readUInt8(0);
  const blockCount = body.readUInt16BE(2);
  const firstBlock = body.readUInt32BE(4);
  if (body.readUInt8(1) !== 0) throw new LinkBadFrameError('GROWN', 'reserved bytes are not zero');
  const hashes = body.subarray(GROWN_FIXED_BYTES);
  if (hashes.length !== blockCount * 8)
    throw new LinkBadFrameError('GROWN', `${hashes.length} bytes of hashes for ${blockCount} blocks`);
  return { type: FRAME_GROWN, volume, firstBlock, hashes };
}

function readAbort(body: Buffer): Frame {
  const textBytes = body.readUInt16BE(2);
  if (4 + textBytes !== body.length)
    throw new LinkBadFrameError('ABORT', `${textBytes} text bytes in ${body.length}`);
  // The text goes into logs and conditions: no control characters, and no failure over a damaged letter.
  const text = body.toString('utf8', 4).replace(/\p{Cc}/gu, ' ');
  return { type: FRAME_ABORT, code: body.readUInt16BE(0), text };
}
