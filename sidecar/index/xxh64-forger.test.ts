import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { PageHasher, randomSeed } from './page-hash.ts';
import { forgeBlock } from './xxh64-forger.ts';

describe('forgeBlock', () => {
  it('makes a block of other content with the same hash, for the seed it was made for and no other', () => {
    const seed = randomSeed();
    const asBigInt = (BigInt(seed.hi >>> 0) << 32n) | BigInt(seed.lo >>> 0);
    const page = randomBytes(4096);
    const wanted = randomBytes(4096);
    const forged = forgeBlock(page, wanted, asBigInt);
    expect(forged.subarray(0, 4064).equals(wanted.subarray(0, 4064))).toBe(true);
    expect(forged.equals(page)).toBe(false);
    const hashOf = (hasher: PageHasher, bytes: Uint8Array): string => {
      hasher.hash(bytes, 0);
      return `${hasher.hi}:${hasher.lo}`;
    };
    const hasher = new PageHasher(seed);
    expect(hashOf(hasher, forged)).toBe(hashOf(hasher, page));
    const other = new PageHasher(randomSeed());
    expect(hashOf(other, forged)).not.toBe(hashOf(other, page));
  });
});
