// Builds frames for sending. Bodies given by the caller are put between freshly written headers, not copied; the result is
// a list of parts for one writev. BATCH and PATCH are built by their encoders. Layout: docs/link-protocol.md, "Frames".
import {
  type AckFields,
  FRAME_ABORT,
  FRAME_ACK,
  FRAME_END,
  FRAME_END_ACK,
  FRAME_GROW,
  FRAME_GROWN,
  FRAME_HEADER_BYTES,
  FRAME_HELLO,
  FRAME_PING,
  FRAME_PONG,
  FRAME_RESEND,
  FRAME_RETURN,
  FRAME_RETURN_END,
  GROW_BYTES,
  GROWN_FIXED_BYTES,
  type GrowFields,
  type GrownFields,
  MAX_ABORT_TEXT_BYTES,
  MAX_ATTEMPT,
  MAX_BATCH_PAGES,
  MAX_GROW_BLOCKS,
  MAX_HELLO_BODY_BYTES,
  MAX_RETURN_BYTES,
  RESEND_FIXED_BYTES,
  type ResendFields,
} from './frame-types.ts';
import { LinkMisuseError } from './link-errors.ts';

/** Writes a frame header at the beginning of `out`. */
export function writeFrameHeader(out: Buffer, type: number, flags: number, bodyBytes: number): void {
  out[0] = type;
  out[1] = flags;
  out.writeUInt16BE(0, 2);
  out.writeUInt32BE(bodyBytes, 4);
}

/** A frame of one buffer, its body still to be written from byte 8 on. */
function frame(type: number, bodyBytes: number): Buffer {
  const out = Buffer.alloc(FRAME_HEADER_BYTES + bodyBytes);
  writeFrameHeader(out, type, 0, bodyBytes);
  return out;
}

function writeU64(out: Buffer, value: number, at: number, what: string): void {
  if (!Number.isSafeInteger(value) || value < 0) throw new LinkMisuseError(`${what} is ${value}`);
  out.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  out.writeUInt32BE(value % 2 ** 32, at + 4);
}

/** Frame around a body made by encodeSourceHello or answerHello. */
export function helloFrame(body: Uint8Array): Uint8Array[] {
  if (body.length > MAX_HELLO_BODY_BYTES) throw new LinkMisuseError(`HELLO has ${body.length} bytes`);
  const header = Buffer.alloc(FRAME_HEADER_BYTES);
  writeFrameHeader(header, FRAME_HELLO, 0, body.length);
  return [header, body];
}

/** Rates and times beyond their 32-bit fields are sent as the largest value. */
export function ackFrame(ack: AckFields): Buffer {
  const out = frame(FRAME_ACK, 20);
  out.writeUInt32BE(ack.deliveredBatches, 8);
  writeU64(out, ack.creditLimit, 12, 'the credit limit');
  out.writeUInt32BE(saturate(ack.nasBytesPerSecond / 1024), 20);
  out.writeUInt32BE(saturate(ack.nasP99Micros), 24);
  return out;
}

function saturate(value: number): number {
  return Number.isNaN(value) || value <= 0 ? 0 : Math.min(0xffffffff, Math.floor(value));
}

/** `digests` has 8 bytes a page and `missing` one bit a page, the bits after the last page zero. */
export function resendFrame(resend: ResendFields): Uint8Array[] {
  const { pageCount, digests, missing } = resend;
  if (pageCount < 1 || pageCount > MAX_BATCH_PAGES) throw new LinkMisuseError(`RESEND of ${pageCount} pages`);
  if (digests.length !== pageCount * 8 || missing.length !== Math.ceil(pageCount / 8)) {
    throw new LinkMisuseError(
      `RESEND of ${pageCount} pages with ${digests.length} and ${missing.length} bytes`,
    );
  }
  if (resend.attempt < 1 || resend.attempt > MAX_ATTEMPT)
    throw new LinkMisuseError(`RESEND attempt ${resend.attempt}`);
  const head = Buffer.alloc(FRAME_HEADER_BYTES + RESEND_FIXED_BYTES);
  writeFrameHeader(head, FRAME_RESEND, 0, RESEND_FIXED_BYTES + digests.length + missing.length);
  head.writeUInt32BE(resend.number, 8);
  head[12] = resend.attempt;
  head[13] = resend.reason;
  head.writeUInt32BE(pageCount, 16);
  return [head, digests, missing];
}

/** Return-path bytes in as many frames of at most 64 KiB as they need; `bytes` is sent as it is, not copied. */
export function returnFrames(bytes: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += MAX_RETURN_BYTES) {
    const body = bytes.subarray(at, Math.min(at + MAX_RETURN_BYTES, bytes.length));
    const header = Buffer.alloc(FRAME_HEADER_BYTES);
    writeFrameHeader(header, FRAME_RETURN, 0, body.length);
    parts.push(header, body);
  }
  return parts;
}

export function returnEndFrame(): Buffer {
  return frame(FRAME_RETURN_END, 0);
}

/** At most 256 blocks. */
export function growFrame(grow: GrowFields): Buffer {
  const { volume, firstBlock, blockCount, seed } = grow;
  if (blockCount < 1 || blockCount > MAX_GROW_BLOCKS)
    throw new LinkMisuseError(`GROW of ${blockCount} blocks`);
  const out = frame(FRAME_GROW, GROW_BYTES);
  out[8] = volume;
  out.writeUInt16BE(blockCount, 10);
  out.writeUInt32BE(firstBlock, 12);
  out.writeInt32BE(seed.hi, 16);
  out.writeInt32BE(seed.lo, 20);
  return out;
}

/** `hashes` has 8 bytes a block, or none when the blocks could not be read. */
export function grownFrame(grown: GrownFields): Uint8Array[] {
  const { volume, firstBlock, hashes } = grown;
  const head = Buffer.alloc(FRAME_HEADER_BYTES + GROWN_FIXED_BYTES);
  writeFrameHeader(head, FRAME_GROWN, 0, GROWN_FIXED_BYTES + hashes.length);
  head[8] = volume;
  head.writeUInt16BE(hashes.length / 8, 10);
  head.writeUInt32BE(firstBlock, 12);
  return [head, hashes];
}

/** `clockMicros` is whole microseconds of a clock that does not go back. */
export function pingFrame(clockMicros: number): Buffer {
  const out = frame(FRAME_PING, 8);
  writeU64(out, clockMicros, 8, 'the clock of a PING');
  return out;
}

export function pongFrame(clockMicros: number): Buffer {
  const out = frame(FRAME_PONG, 8);
  writeU64(out, clockMicros, 8, 'the clock of a PONG');
  return out;
}

/** A text longer than 512 bytes is cut at a character. */
export function abortFrame(code: number, text: string): Buffer {
  let bytes = Buffer.from(text, 'utf8');
  if (bytes.length > MAX_ABORT_TEXT_BYTES) {
    let end = MAX_ABORT_TEXT_BYTES;
    // Bytes 10xxxxxx continue a character; the cut goes before the one that begins it.
    while (end > 0 && ((bytes[end] as number) & 0xc0) === 0x80) end--;
    bytes = bytes.subarray(0, end);
  }
  const out = frame(FRAME_ABORT, 4 + bytes.length);
  out.writeUInt16BE(code, 8);
  out.writeUInt16BE(bytes.length, 10);
  bytes.copy(out, 12);
  return out;
}

export function endFrame(streamBytes: number, batches: number): Buffer {
  const out = frame(FRAME_END, 12);
  writeU64(out, streamBytes, 8, "END's count of bytes");
  out.writeUInt32BE(batches, 16);
  return out;
}

export function endAckFrame(streamBytes: number): Buffer {
  const out = frame(FRAME_END_ACK, 8);
  writeU64(out, streamBytes, 8, "END_ACK's count of bytes");
  return out;
}
