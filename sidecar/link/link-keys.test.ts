// Key derivation against HKDF-SHA256 done by hand (RFC 5869: extract, then expand), and that nothing shares a key.
import { createHmac, type KeyObject } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { deriveConnectionKeys, deriveProofKey } from './link-keys.ts';

const sessionKey = Buffer.alloc(32, 7);
const sourceRandom = Buffer.alloc(32, 1);
const targetRandom = Buffer.alloc(32, 2);
const bytesOf = (key: KeyObject) => key.export().toString('hex');

function hkdfByHand(salt: Uint8Array, info: Uint8Array, bytes: number): string {
  const extracted = createHmac('sha256', salt).update(sessionKey).digest();
  return createHmac('sha256', extracted)
    .update(info)
    .update(Buffer.of(1))
    .digest()
    .subarray(0, bytes)
    .toString('hex');
}

describe('keys', () => {
  it('of the proof', () => {
    expect(bytesOf(deriveProofKey(sessionKey))).toBe(
      hkdfByHand(Buffer.alloc(32), Buffer.from('nasmig hello'), 32),
    );
  });

  it('of a connection', () => {
    const keys = deriveConnectionKeys(sessionKey, sourceRandom, targetRandom, 0x0102, 1);
    const salt = Buffer.concat([sourceRandom, targetRandom]);
    const tagInfo = Buffer.concat([Buffer.from('nasmig link v1'), Buffer.of(1, 2, 0)]);
    const seedInfo = Buffer.concat([Buffer.from('nasmig digest'), Buffer.of(1, 2)]);
    expect(bytesOf(keys.tagKey)).toBe(hkdfByHand(salt, tagInfo, 16));
    expect(keys.digestSeed.toString(16).padStart(16, '0')).toBe(hkdfByHand(salt, seedInfo, 8));
  });

  it('differ by random, side and ordinal', () => {
    const all = [
      deriveConnectionKeys(sessionKey, sourceRandom, targetRandom, 0, 1),
      deriveConnectionKeys(sessionKey, sourceRandom, targetRandom, 1, 1),
      deriveConnectionKeys(sessionKey, sourceRandom, targetRandom, 256, 1),
      deriveConnectionKeys(sessionKey, targetRandom, sourceRandom, 0, 1),
      deriveConnectionKeys(Buffer.alloc(32, 8), sourceRandom, targetRandom, 0, 1),
    ];
    expect(new Set(all.map((keys) => bytesOf(keys.tagKey))).size).toBe(all.length);
    expect(new Set(all.map((keys) => keys.digestSeed)).size).toBe(all.length);
  });

  it('are not made from too little', () => {
    const short = () => deriveProofKey(Buffer.alloc(31));
    expect(short).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }));
    const shortRandom = () => deriveConnectionKeys(sessionKey, sourceRandom.subarray(1), targetRandom, 0, 1);
    expect(shortRandom).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }));
  });
});
