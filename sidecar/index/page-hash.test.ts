import { describe, expect, it } from 'vitest';
import { PAGE_BYTES, PageHasher, randomSeed, seedFromBytes } from './page-hash.ts';

// XXH64 as its specification states it, in BigInt: slow, and independent of the library under test.
const MASK = 2n ** 64n - 1n;
const P1 = 0x9e3779b185ebca87n;
const P2 = 0xc2b2ae3d27d4eb4fn;
const P3 = 0x165667b19e3779f9n;
const P4 = 0x85ebca77c2b2ae63n;
const rotl = (x: bigint, r: bigint) => ((x << r) | (x >> (64n - r))) & MASK;
const round = (acc: bigint, lane: bigint) => (rotl((acc + lane * P2) & MASK, 31n) * P1) & MASK;

function referenceXxh64(page: Uint8Array, seed: bigint): bigint {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const acc = [(seed + P1 + P2) & MASK, (seed + P2) & MASK, seed, (seed - P1) & MASK];
  for (let at = 0; at < page.byteLength; at += 32) {
    for (let lane = 0; lane < 4; lane++) {
      acc[lane] = round(acc[lane] as bigint, view.getBigUint64(at + 8 * lane, true));
    }
  }
  const [a, b, c, d] = acc as [bigint, bigint, bigint, bigint];
  let h = (rotl(a, 1n) + rotl(b, 7n) + rotl(c, 12n) + rotl(d, 18n)) & MASK;
  for (const lane of acc) h = ((h ^ round(0n, lane)) * P1 + P4) & MASK;
  h = (h + BigInt(page.byteLength)) & MASK;
  h = ((h ^ (h >> 33n)) * P2) & MASK;
  h = ((h ^ (h >> 29n)) * P3) & MASK;
  return h ^ (h >> 32n);
}

describe('PageHasher', () => {
  it('is XXH64 with the seed, in two signed halves', () => {
    const bytes = new Uint8Array(3 * PAGE_BYTES).map((_, i) => (i * 31 + (i >> 7)) & 0xff);
    for (const seed of [
      { hi: 0, lo: 0 },
      { hi: -1, lo: -2 },
      { hi: 0x1234_5678, lo: -0x6543_2100 },
    ]) {
      const hasher = new PageHasher(seed);
      const seed64 = (BigInt(seed.hi >>> 0) << 32n) | BigInt(seed.lo >>> 0);
      for (const offset of [0, 1, PAGE_BYTES, 2 * PAGE_BYTES]) {
        hasher.hash(bytes, offset);
        const expected = referenceXxh64(bytes.slice(offset, offset + PAGE_BYTES), seed64);
        expect(hasher.hi).toBe(Number(BigInt.asIntN(32, expected >> 32n)));
        expect(hasher.lo).toBe(Number(BigInt.asIntN(32, expected)));
      }
    }
  });

  it('hashes many pages as it hashes each: touching, apart, overlapping, out of order, more than are copied at once', () => {
    const bytes = new Uint8Array(100 * PAGE_BYTES).map((_, i) => (i * 31 + (i >> 7)) & 0xff);
    const hasher = new PageHasher(randomSeed());
    const distances = [PAGE_BYTES, PAGE_BYTES + 8, 1, 15 * PAGE_BYTES, 16 * PAGE_BYTES + 1, 40 * PAGE_BYTES];
    for (const distance of distances) {
      const rising: number[] = [];
      for (let at = 3; at + PAGE_BYTES <= bytes.length && rising.length < 200; at += distance)
        rising.push(at);
      for (const places of [rising, rising.toReversed(), [...rising, 0, ...rising]]) {
        const hi = new Int32Array(places.length + 1);
        const lo = new Int32Array(places.length + 1);
        hasher.hashPages(bytes, Uint32Array.from(places), places.length, hi, lo);
        places.forEach((offset, page) => {
          hasher.hash(bytes, offset);
          expect([hi[page], lo[page]]).toEqual([hasher.hi, hasher.lo]);
        });
        expect([hi.at(-1), lo.at(-1)]).toEqual([0, 0]);
      }
    }
  });

  it('refuses a page that is not all there', () => {
    const hasher = new PageHasher(randomSeed());
    const bytes = new Uint8Array(PAGE_BYTES + 10);
    expect(() => hasher.hash(bytes, 11)).toThrow(RangeError);
    expect(() => hasher.hash(bytes, -1)).toThrow(RangeError);
    expect(() => hasher.hash(bytes, Number.NaN)).toThrow(RangeError);
    const hi = new Int32Array(3);
    for (const offsets of [[11], [0, 11], [5, 4096], [0]]) {
      const count = Math.max(2, offsets.length);
      expect(() => hasher.hashPages(bytes, Uint32Array.from(offsets), count, hi, hi)).toThrow(RangeError);
    }
  });

  it('takes a seed from 8 big-endian bytes', () => {
    expect(seedFromBytes(Uint8Array.of(0x80, 0, 0, 1, 0, 0, 1, 2))).toEqual({ hi: -0x7fff_ffff, lo: 0x102 });
    expect(() => seedFromBytes(new Uint8Array(7))).toThrow(RangeError);
    expect(randomSeed()).not.toEqual(randomSeed());
  });
});
