// Makes a new input out of an old one: flips, sets, known values, copies, cuts, joins. Everything follows from the given
// random numbers, so a run repeats with its seed.
import type { Random } from './target.ts';

const SPECIAL_8 = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff];
const SPECIAL_32 = [
  0, 1, 2, 127, 128, 129, 255, 256, 511, 512, 513, 4095, 4096, 4097, 0x7fff, 0x8000, 0xffff, 0x1_0000,
  0x1f_ffff, 0x20_0000, 0x20_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, 0xffff_ffff,
];

export interface MutatorOptions {
  readonly random: Random;
  /** Values that the parser's modules know. */
  readonly dictionary: readonly Uint8Array[];
  readonly maxBytes: number;
}

export type HotRanges = readonly (readonly [number, number])[];

/** One to many small changes of `input`, mostly in its `hot` ranges. `other` is another input, for joins. */
export function mutateBytes(
  input: Uint8Array,
  hot: HotRanges,
  other: Uint8Array,
  { random, dictionary, maxBytes }: MutatorOptions,
): Uint8Array {
  let bytes = Buffer.from(input);
  const below = (limit: number): number => Math.floor(random() * limit);
  const hotBytes = hot.reduce((sum, [from, to]) => sum + to - from, 0);
  /** A place for a change of `width` bytes; hot ranges are those of the input before its first change of length. */
  const place = (width: number): number => {
    const limit = Math.max(1, bytes.length - width + 1);
    if (hotBytes === 0 || random() < 0.1) return below(limit);
    let skip = below(hotBytes);
    for (const [from, to] of hot) {
      if (skip < to - from) return Math.min(from + skip, limit - 1);
      skip -= to - from;
    }
    return below(limit);
  };
  const replace = (from: number, to: number, by: Uint8Array): void => {
    bytes = Buffer.concat([bytes.subarray(0, from), by, bytes.subarray(to)]);
  };
  const rounds = [1, 1, 1, 2, 2, 4, 8][below(7)] as number;
  for (let round = 0; round < rounds; round++) {
    if (bytes.length === 0) bytes = Buffer.from([below(256)]);
    switch (below(14)) {
      case 0: {
        const at = place(1);
        bytes[at] = (bytes[at] as number) ^ (1 << below(8));
        break;
      }
      case 1:
        bytes[place(1)] = below(256);
        break;
      case 2:
        bytes[place(1)] = SPECIAL_8[below(SPECIAL_8.length)] as number;
        break;
      case 3: {
        if (bytes.length < 4) break;
        bytes.writeUInt32BE(SPECIAL_32[below(SPECIAL_32.length)] as number, place(4));
        break;
      }
      case 4: {
        if (bytes.length < 2) break;
        bytes.writeUInt16BE((SPECIAL_32[below(SPECIAL_32.length)] as number) & 0xffff, place(2));
        break;
      }
      case 5: {
        const width = [1, 2, 4][below(3)] as 1 | 2 | 4;
        if (bytes.length < width) break;
        const at = place(width);
        const value = bytes.readUIntBE(at, width) + below(33) - 16;
        bytes.writeUIntBE(((value % 256 ** width) + 256 ** width) % 256 ** width, at, width);
        break;
      }
      case 6: {
        const at = place(1);
        const count = 1 + below(random() < 0.7 ? 16 : Math.max(1, bytes.length - at));
        replace(at, Math.min(bytes.length, at + count), new Uint8Array(0));
        break;
      }
      case 7: {
        const from = place(1);
        const count = 1 + below(random() < 0.7 ? 64 : bytes.length);
        const to = random() < 0.5 ? from : place(1);
        replace(to, to, bytes.subarray(from, from + count));
        break;
      }
      case 8: {
        const filler = Buffer.alloc(1 + below(random() < 0.9 ? 24 : 5000), below(256));
        const at = place(1);
        replace(at, at, filler);
        break;
      }
      case 9:
      case 10: {
        const token = dictionary[below(dictionary.length)];
        if (token === undefined) break;
        const at = place(token.length);
        replace(at, random() < 0.6 ? Math.min(bytes.length, at + token.length) : at, token);
        break;
      }
      case 11: {
        // The same range of another input, or its rest from a place on.
        if (other.length === 0) break;
        const at = place(1);
        const from = random() < 0.5 ? Math.min(at, other.length - 1) : below(other.length);
        if (random() < 0.5) replace(at, bytes.length, other.subarray(from));
        else {
          const count = 1 + below(512);
          replace(at, Math.min(bytes.length, at + count), other.subarray(from, from + count));
        }
        break;
      }
      case 12: {
        const from = place(1);
        const count = 1 + below(128);
        const to = place(1);
        bytes.copyWithin(to, from, Math.min(bytes.length, from + count));
        break;
      }
      default:
        if (random() < 0.3) bytes = Buffer.from(bytes.subarray(0, place(1)));
        else bytes[place(1)] = 0;
    }
  }
  return bytes.length > maxBytes ? bytes.subarray(0, maxBytes) : bytes;
}
