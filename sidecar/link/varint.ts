// Unsigned LEB128 of at most five bytes (35 bits), the form of every number in a batch's operations and a PATCH's
// positions. Only the shortest form is accepted, so that equal content has equal bytes.
// Values pass 2^32 (a signed difference of two 32-bit blocks needs 33 bits), so the top bits are added, not shifted.

/** Bytes of the longest varint. */
export const MAX_VARINT_BYTES = 5;
/** Largest value of five groups of seven bits. */
export const MAX_VARINT = 2 ** 35 - 1;

/** Writes `value` (0 to 2^35-1) at `at` and returns the offset after it. The caller has made sure that it fits. */
export function writeVarint(out: Uint8Array, at: number, value: number): number {
  while (value > 0x7fffffff) {
    out[at++] = (value % 128) | 0x80;
    value = Math.floor(value / 128);
  }
  while (value > 0x7f) {
    out[at++] = (value & 0x7f) | 0x80;
    value >>>= 7;
  }
  out[at++] = value;
  return at;
}

/**
 * Reads varints one after the other from a range of bytes. `next` gives -1 when the range ends inside a varint, when it
 * is longer than five bytes or not in its shortest form; the caller turns that into its own named error.
 */
export class VarintReader {
  #bytes: Uint8Array = new Uint8Array(0);
  #end = 0;
  /** Offset of the next byte. */
  at = 0;

  reset(bytes: Uint8Array, from: number, to: number): void {
    this.#bytes = bytes;
    this.at = from;
    this.#end = Math.min(to, bytes.length);
  }

  get done(): boolean {
    return this.at >= this.#end;
  }

  next(): number {
    const bytes = this.#bytes;
    let at = this.at;
    let value = 0;
    let scale = 1;
    for (let i = 0; i < MAX_VARINT_BYTES; i++) {
      if (at >= this.#end) return -1;
      const byte = bytes[at++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (byte === 0 && i > 0) return -1;
        this.at = at;
        return value;
      }
      scale *= 128;
    }
    return -1;
  }
}

/** Signed to unsigned, small magnitudes first: 0, -1, 1, -2 become 0, 1, 2, 3. */
export function zigzag(value: number): number {
  return value >= 0 ? value * 2 : -value * 2 - 1;
}

/** The inverse of `zigzag`. */
export function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}
