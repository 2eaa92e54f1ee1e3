// Test support: writes a block whose XXH64 equals that of a given page, as a process in a guest could that knew the seed.
// XXH64 takes 32-byte stripes into four 64-bit lanes by steps that can be undone, so the last stripe can be chosen to bring
// the lanes of any content to those of any other: the hash proves nothing, which is why the tag decides.

const MASK = (1n << 64n) - 1n;
const PRIME_1 = 0x9e3779b185ebca87n;
const PRIME_2 = 0xc2b2ae3d27d4eb4fn;
const STRIPE_BYTES = 32;
const LANES = 4;

const rotateLeft = (value: bigint, bits: bigint): bigint =>
  ((value << bits) | (value >> (64n - bits))) & MASK;

/** The inverse of an odd number modulo 2^64, by Newton's iteration. */
function inverse(odd: bigint): bigint {
  let x = odd;
  for (let i = 0; i < 6; i++) x = (x * (2n - odd * x)) & MASK;
  return x;
}

const INVERSE_1 = inverse(PRIME_1);
const INVERSE_2 = inverse(PRIME_2);

/** The four lanes after all whole stripes of `bytes` but the last. */
function lanesBeforeLastStripe(bytes: Buffer, seed: bigint): bigint[] {
  const lanes = [seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1].map((lane) => lane & MASK);
  for (let at = 0; at < bytes.length - STRIPE_BYTES; at += STRIPE_BYTES) {
    for (let lane = 0; lane < LANES; lane++) {
      const input = bytes.readBigUInt64LE(at + lane * 8);
      lanes[lane] = (rotateLeft(((lanes[lane] as bigint) + input * PRIME_2) & MASK, 31n) * PRIME_1) & MASK;
    }
  }
  return lanes;
}

/** A block that begins as `wanted` does, and has the XXH64 of `page` under `seed`. Both are 4096 bytes. */
export function forgeBlock(page: Uint8Array, wanted: Uint8Array, seed: bigint): Buffer {
  const original = Buffer.from(page);
  const forged = Buffer.from(wanted);
  const from = lanesBeforeLastStripe(forged, seed);
  const to = lanesBeforeLastStripe(original, seed);
  const last = original.length - STRIPE_BYTES;
  for (let lane = 0; lane < LANES; lane++) {
    const input = original.readBigUInt64LE(last + lane * 8);
    const end = (rotateLeft(((to[lane] as bigint) + input * PRIME_2) & MASK, 31n) * PRIME_1) & MASK;
    const sum = rotateLeft((end * INVERSE_1) & MASK, 33n);
    forged.writeBigUInt64LE(((sum - (from[lane] as bigint)) * INVERSE_2) & MASK, last + lane * 8);
  }
  return forged;
}
