// Big-endian integers in byte arrays, as QEMU's qemu_put_be16/32/64 write them. The caller has checked the bounds. 64-bit values
// are read as two halves: a BigInt for each page would cost more than all the rest of the page finder.

/** Unsigned 16-bit integer at `at`. */
export function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** Unsigned 32-bit integer at `at`; also the high half of a 64-bit one, whose low half is at `at + 4`. */
export function u32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** Unsigned 64-bit integer at `at`, or -1 when it is over 2^53 - 1 (no length or size that a stream may carry is). */
export function u64(bytes: Uint8Array, at: number): number {
  const high = u32(bytes, at);
  return high < 0x20_0000 ? high * 0x1_0000_0000 + u32(bytes, at + 4) : -1;
}

/** Text of counted or padded strings on the wire, one character a byte: lossless, whatever the bytes are. */
export function latin1(bytes: Uint8Array, at: number, length: number): string {
  let text = '';
  for (let i = at; i < at + length; i++) text += String.fromCharCode(bytes[i]!);
  return text;
}
