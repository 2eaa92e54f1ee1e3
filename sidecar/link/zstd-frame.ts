// The outer form of a zstd frame (RFC 8878, 3.1.1), read without decompressing anything: where it ends, and whether it says how much comes
// out. A context that goes on to the next frame must have been given exactly one whole frame; what else it gets it may keep for later.

const MAGIC = 0xfd2fb528;
const MAGIC_BYTES = 4;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;
/** Bytes of the content's size and of the dictionary's number, by their two bits of the descriptor. */
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;

const HAS_CHECKSUM = 0x04;
const SINGLE_SEGMENT = 0x20;
const CONTENT_SIZE_SHIFT = 6;
const BLOCK_RLE = 1;
const BLOCK_RESERVED = 3;

/** Whether `bytes` are one frame from the first byte to the last: not cut, nothing before or after it. */
export function isOneFrame(bytes: Buffer): boolean {
  const { length } = bytes;
  if (length <= MAGIC_BYTES || bytes.readUInt32LE(0) !== MAGIC) return false;
  const descriptor = bytes[MAGIC_BYTES] as number;
  const isSingleSegment = (descriptor & SINGLE_SEGMENT) !== 0;
  const contentSizeBits = descriptor >> CONTENT_SIZE_SHIFT;
  let at = MAGIC_BYTES + 1;
  // A single segment has a byte for its size where others have one for their window.
  at += isSingleSegment && contentSizeBits === 0 ? 1 : (CONTENT_SIZE_BYTES[contentSizeBits] as number);
  at += (isSingleSegment ? 0 : 1) + (DICTIONARY_BYTES[descriptor & 3] as number);

  for (let isLast = false; !isLast; ) {
    if (at + BLOCK_HEADER_BYTES > length) return false;
    // Not readUIntLE, which takes several times as long; a peer may send 700,000 empty blocks.
    const header =
      (bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16);
    const type = (header >> 1) & 3;
    if (type === BLOCK_RESERVED) return false;
    isLast = (header & 1) !== 0;
    at += BLOCK_HEADER_BYTES + (type === BLOCK_RLE ? 1 : header >> 3);
  }
  return at + ((descriptor & HAS_CHECKSUM) === 0 ? 0 : CHECKSUM_BYTES) === length;
}

/** Whether a frame says how many bytes come out. Those bytes then go straight to where they are wanted, and no window is allocated. */
export function statesContentSize(frame: Buffer): boolean {
  const descriptor = frame[MAGIC_BYTES] as number;
  return descriptor >> CONTENT_SIZE_SHIFT !== 0 || (descriptor & SINGLE_SEGMENT) !== 0;
}
