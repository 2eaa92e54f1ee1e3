// The tag: its bytes against AES-GCM used as specified, that every input counts, and that no nonce is used twice.
import { createCipheriv, createSecretKey } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { TagSealer, TagVerifier } from './batch-tag.ts';

const raw = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');
const key = createSecretKey(raw);
const bytes = Buffer.from('the reconstructed bytes of a batch');
const order = expect.objectContaining({ code: 'NASMIG_LINK_BATCH_ORDER' });

describe('a tag', () => {
  it('is AES-128-GMAC over header and bytes', () => {
    const nonce = Buffer.from('000000000000000000000000', 'hex');
    const gcm = createCipheriv('aes-128-gcm', raw, nonce);
    const header = Buffer.from('0000000000000000' + '00000022' + '00000005', 'hex');
    gcm.setAAD(Buffer.concat([header, bytes]));
    gcm.final();
    expect(new TagSealer(key).seal(0, 0, bytes, 5).toString('hex')).toBe(gcm.getAuthTag().toString('hex'));
  });

  it('of attempt 2 of batch 1 has both in nonce and header', () => {
    const sealer = new TagSealer(key);
    sealer.seal(0, 0, bytes, 5);
    sealer.seal(1, 0, bytes, 5);
    sealer.seal(1, 1, bytes, 5);
    const gcm = createCipheriv('aes-128-gcm', raw, Buffer.from('000000020000000000000001', 'hex'));
    gcm.setAAD(Buffer.concat([Buffer.from('0000000100000002' + '00000022' + '00000005', 'hex'), bytes]));
    gcm.final();
    expect(sealer.seal(1, 2, bytes, 5).toString('hex')).toBe(gcm.getAuthTag().toString('hex'));
  });

  it('is right for its own batch only', () => {
    const sealer = new TagSealer(key);
    const tag = sealer.seal(0, 0, bytes, 5);
    const second = sealer.seal(1, 0, bytes, 5);
    const changed = Buffer.from(bytes);
    changed[3] = (changed[3] as number) ^ 1;
    expect(new TagVerifier(key).verify(0, 0, bytes, 5, tag)).toBe(true);
    expect(new TagVerifier(key).verify(0, 0, changed, 5, tag)).toBe(false);
    expect(new TagVerifier(key).verify(0, 0, bytes.subarray(1), 5, tag)).toBe(false);
    expect(new TagVerifier(key).verify(0, 0, bytes, 4, tag)).toBe(false);
    expect(new TagVerifier(key).verify(0, 1, bytes, 5, tag)).toBe(false);
    expect(new TagVerifier(key).verify(0, 0, bytes, 5, second)).toBe(false);
    const otherKey = createSecretKey(Buffer.alloc(16));
    expect(new TagVerifier(otherKey).verify(0, 0, bytes, 5, tag)).toBe(false);
  });
});

describe('a sealer', () => {
  it('takes numbers in order and each once', () => {
    const sealer = new TagSealer(key);
    expect(() => sealer.seal(1, 0, bytes, 0)).toThrow(order);
    sealer.seal(0, 0, bytes, 0);
    expect(() => sealer.seal(0, 0, bytes, 0)).toThrow(order);
    expect(() => sealer.seal(2, 0, bytes, 0)).toThrow(order);
    sealer.seal(1, 0, bytes, 0);
  });

  it('takes attempts in order and each once', () => {
    const sealer = new TagSealer(key);
    sealer.seal(0, 0, bytes, 0);
    sealer.seal(1, 0, bytes, 0);
    expect(() => sealer.seal(0, 2, bytes, 0)).toThrow(order);
    sealer.seal(0, 1, bytes, 0);
    expect(() => sealer.seal(0, 1, bytes, 0)).toThrow(order);
    sealer.seal(0, 2, bytes, 0);
    expect(() => sealer.seal(0, 3, bytes, 0)).toThrow(order);
    expect(() => sealer.seal(7, 1, bytes, 0)).toThrow(order);
  });

  it('takes none for a delivered batch', () => {
    const sealer = new TagSealer(key);
    sealer.seal(0, 0, bytes, 0);
    sealer.seal(1, 0, bytes, 0);
    sealer.settle(1);
    expect(() => sealer.seal(0, 1, bytes, 0)).toThrow(order);
    sealer.seal(1, 1, bytes, 0);
    expect(() => sealer.settle(3)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_BAD_FRAME' }));
  });
});

describe('a verifier', () => {
  const tag = Buffer.alloc(16);

  it('takes each attempt once, upwards', () => {
    const verifier = new TagVerifier(key);
    expect(verifier.verify(0, 0, bytes, 0, tag)).toBe(false);
    expect(() => verifier.verify(0, 0, bytes, 0, tag)).toThrow(order);
    expect(verifier.verify(0, 2, bytes, 0, tag)).toBe(false);
    expect(() => verifier.verify(0, 1, bytes, 0, tag)).toThrow(order);
    expect(() => verifier.verify(0, 3, bytes, 0, tag)).toThrow(order);
  });

  it('takes attempt 1 alone, when a NAS read failed before anything could be checked', () => {
    const sealer = new TagSealer(key);
    sealer.seal(0, 0, bytes, 1);
    const verifier = new TagVerifier(key);
    expect(verifier.verify(0, 1, bytes, 1, sealer.seal(0, 1, bytes, 1))).toBe(true);
  });

  it('takes batches as they come to be ready', () => {
    const sealer = new TagSealer(key);
    const first = sealer.seal(0, 0, bytes, 1);
    const second = sealer.seal(1, 0, bytes, 1);
    const verifier = new TagVerifier(key);
    expect(verifier.verify(1, 0, bytes, 1, second)).toBe(true);
    expect(verifier.verify(0, 0, bytes, 1, first)).toBe(true);
    verifier.settle(2);
  });

  it('takes nothing after a right tag, before delivery and after', () => {
    const sealer = new TagSealer(key);
    const first = sealer.seal(0, 0, bytes, 1);
    const again = sealer.seal(0, 1, bytes, 1);
    const verifier = new TagVerifier(key);
    verifier.verify(0, 0, bytes, 1, first);
    expect(() => verifier.verify(0, 1, bytes, 1, again)).toThrow(order);
    verifier.settle(1);
    expect(() => verifier.verify(0, 0, bytes, 1, first)).toThrow(order);
  });

  it('does not let an unproven batch be delivered', () => {
    const verifier = new TagVerifier(key);
    expect(() => verifier.settle(1)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }));
    verifier.verify(0, 0, bytes, 0, tag);
    expect(() => verifier.settle(1)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }));
  });

  it('holds a bounded number of open batches', () => {
    expect(() => new TagVerifier(key).verify(65536, 0, bytes, 0, tag)).toThrow(order);
  });
});
