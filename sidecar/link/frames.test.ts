// Exact bytes of every frame, as docs/link-protocol.md lays them out, and the same frames read back from every cut.
import { createHmac, hkdfSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { BatchEncoder } from './batch-encoder.ts';
import {
  ABORT_PROOF,
  FRAME_ABORT,
  FRAME_ACK,
  FRAME_BATCH,
  FRAME_END,
  FRAME_END_ACK,
  FRAME_GROW,
  FRAME_GROWN,
  FRAME_HELLO,
  FRAME_PATCH,
  FRAME_PING,
  FRAME_PONG,
  FRAME_RESEND,
  FRAME_RETURN,
  FRAME_RETURN_END,
  PAGE_BYTES,
} from './frame-types.ts';
import {
  abortFrame,
  ackFrame,
  endAckFrame,
  endFrame,
  growFrame,
  grownFrame,
  helloFrame,
  pingFrame,
  pongFrame,
  resendFrame,
  returnEndFrame,
  returnFrames,
} from './frame-writer.ts';
import { answerHello, decodeHello, encodeSourceHello } from './hello.ts';
import { LinkMisuseError } from './link-errors.ts';
import { deriveProofKey } from './link-keys.ts';
import { cut, readAll, samplePlan } from './link-samples.ts';
import { PatchEncoder } from './patch-body.ts';

const SESSION_KEY = Buffer.alloc(32, 0x5a);
const PROOF_KEY = deriveProofKey(SESSION_KEY);
const MIGRATION_ID = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');
const sourceBody = encodeSourceHello(
  {
    ordinal: 3,
    mode: 'framed',
    random: Buffer.alloc(32, 0x11),
    migrationId: MIGRATION_ID,
    volumes: [{ name: 'root', sizeBytes: 8 * 2 ** 32 + 4096 }],
  },
  PROOF_KEY,
);
const targetBody = answerHello(
  decodeHello(sourceBody),
  { mode: 'framed', random: Buffer.alloc(32, 0x22), usable: [true] },
  PROOF_KEY,
);
const sourceHello = Buffer.concat(helloFrame(sourceBody));
const targetHello = Buffer.concat(helloFrame(targetBody));
const plainEncoder = new BatchEncoder({ zstd: false });

/** Skeleton "ab", a literal page of 0x01, skeleton "c", blocks 7 and 8 of volume 0 with "de" between, skeleton "f". */
const smallPlan = samplePlan(
  0,
  [
    { gap: 2, reference: undefined, random: false },
    { gap: 1, reference: { volume: 0, block: 7 }, random: false },
    { gap: 2, reference: { volume: 0, block: 8 }, random: false },
  ],
  1,
  1,
  () => Buffer.alloc(16, 0xee),
);
smallPlan.reconstructed.set(Buffer.from('ab'), 0);
smallPlan.reconstructed.fill(1, 2, 2 + PAGE_BYTES);
smallPlan.reconstructed.set(Buffer.from('c'), 2 + PAGE_BYTES);
smallPlan.reconstructed.set(Buffer.from('de'), 3 + 2 * PAGE_BYTES);
smallPlan.reconstructed.set(Buffer.from('f'), 5 + 3 * PAGE_BYTES);
const sampleGrow = { volume: 2, firstBlock: 0x12380, blockCount: 128, seed: { hi: -(2 ** 31) + 1, lo: 2 } };
const smallBatch = Buffer.concat(plainEncoder.encode(smallPlan).parts);
const smallPatch = Buffer.concat(
  new PatchEncoder({ zstd: false }).encode({
    number: 0,
    attempt: 1,
    reconstructed: smallPlan.reconstructed,
    pageOffsets: smallPlan.pageOffsets,
    positions: Uint32Array.of(0, 2),
    count: 2,
    tag: Buffer.alloc(16, 0xdd),
  }).parts,
);

describe('bytes of a frame', () => {
  it('HELLO of the source', () => {
    const unproved =
      '4e41534d 01 01 00 01 0003 0001' +
      '11'.repeat(32) +
      '000102030405060708090a0b0c0d0e0f' +
      '0000000800001000 04 726f6f74';
    const body = Buffer.from(unproved.replaceAll(' ', ''), 'hex');
    const key = Buffer.from(hkdfSync('sha256', SESSION_KEY, '', 'nasmig hello', 32));
    const proof = createHmac('sha256', key).update(body).digest();
    expect(sourceHello.toString('hex')).toBe(
      `01000000${(body.length + 32).toString(16).padStart(8, '0')}${body.toString('hex')}${proof.toString('hex')}`,
    );
  });

  it('HELLO of the target proves the source body too', () => {
    const body = targetBody.subarray(0, -32);
    expect(body.subarray(0, 12).toString('hex')).toBe('4e41534d0101010100030001');
    const key = Buffer.from(hkdfSync('sha256', SESSION_KEY, '', 'nasmig hello', 32));
    const proof = createHmac('sha256', key).update(sourceBody).update(body).digest();
    expect(targetBody.subarray(-32).toString('hex')).toBe(proof.toString('hex'));
  });

  it('BATCH', () => {
    // gap 2, one literal | gap 1, two references (2 << 1 | 1), stride gap 2, volume 0, block 7 zigzagged to 14
    const ops = '0202' + '010502000e';
    const fixed = [
      '00000000',
      '00003006',
      '00000003',
      '00000007',
      '0000000d',
      '0000000d',
      '00001000',
      '00001000',
    ].join('');
    const skeleton = Buffer.from('abcdef').toString('hex');
    const bodyBytes = 32 + 7 + 6 + PAGE_BYTES + 16;
    expect(smallBatch.toString('hex')).toBe(
      `02000000${bodyBytes.toString(16).padStart(8, '0')}${fixed}${ops}${skeleton}${'01'.repeat(PAGE_BYTES)}${'ee'.repeat(16)}`,
    );
  });

  it('BATCH marks what is compressed', () => {
    const pages = Array.from({ length: 8 }, () => ({ gap: 300, reference: undefined, random: false }));
    const plan = samplePlan(0, pages, 0, 7);
    const encoded = new BatchEncoder({ zstd: true }).encode(plan);
    const bytes = Buffer.concat(encoded.parts);
    expect(bytes[1]).toBe(0x03);
    expect(encoded.frameBytes).toBe(bytes.length);
    expect(bytes.readUInt32BE(24)).toBe(encoded.metaStoredBytes);
    expect(bytes.readUInt32BE(32)).toBe(encoded.literalStoredBytes);
    expect(encoded.literalStoredBytes).toBeLessThan(8 * PAGE_BYTES);
  });

  it('PATCH', () => {
    // Page 0 after none, page 2 after page 0: gaps 0 and 1.
    const fixed = '00000000' + '01000000' + '00000002' + '00002000' + '00000002' + '0001';
    const bodyBytes = 20 + 2 + 2 * PAGE_BYTES + 16;
    expect(smallPatch.subarray(0, 30).toString('hex')).toBe(
      `05000000${bodyBytes.toString(16).padStart(8, '0')}${fixed}`,
    );
    expect(smallPatch.subarray(30, 30 + PAGE_BYTES).every((byte) => byte === 1)).toBe(true);
    const third = smallPlan.reconstructed.subarray(5 + 2 * PAGE_BYTES, 5 + 3 * PAGE_BYTES);
    expect(smallPatch.subarray(30 + PAGE_BYTES, -16).equals(third)).toBe(true);
    expect(smallPatch.subarray(-16).toString('hex')).toBe('dd'.repeat(16));
  });

  it('ACK', () => {
    const bytes = ackFrame({
      deliveredBatches: 5,
      creditLimit: 2 ** 33 + 1,
      nasBytesPerSecond: 300 * 1024 * 1024,
      nasP99Micros: 1500,
    });
    expect(bytes.toString('hex')).toBe(
      '0300000000000014' + '00000005' + '0000000200000001' + '0004b000' + '000005dc',
    );
  });

  it('ACK sends rates beyond its fields as the largest', () => {
    const bytes = ackFrame({
      deliveredBatches: 0,
      creditLimit: 0,
      nasBytesPerSecond: 1e20,
      nasP99Micros: Number.NaN,
    });
    expect(bytes.subarray(20).toString('hex')).toBe('ffffffff00000000');
  });

  it('RESEND', () => {
    const digests = Buffer.from('00000000000000000102030405060708', 'hex');
    const parts = resendFrame({
      number: 9,
      attempt: 1,
      reason: 2,
      pageCount: 2,
      digests,
      missing: Buffer.of(1),
    });
    expect(Buffer.concat(parts).toString('hex')).toBe(
      '040000000000001d' +
        '00000009' +
        '01' +
        '02' +
        '0000' +
        '00000002' +
        '0000000000000000' +
        '0102030405060708' +
        '01',
    );
  });

  it('RETURN, in pieces of 64 KiB', () => {
    expect(Buffer.concat(returnFrames(Buffer.from('abc'))).toString('hex')).toBe('0600000000000003616263');
    const long = Buffer.alloc(64 * 1024 + 1, 7);
    const parts = returnFrames(long);
    expect(parts.map((part) => part.length)).toEqual([8, 65536, 8, 1]);
    expect(parts[1]?.buffer).toBe(long.buffer);
    expect(returnFrames(Buffer.alloc(0))).toEqual([]);
  });

  it('PING, PONG, END, END_ACK, RETURN_END', () => {
    expect(pingFrame(2 ** 40).toString('hex')).toBe('07000000000000080000010000000000');
    expect(pongFrame(1).toString('hex')).toBe('08000000000000080000000000000001');
    expect(endFrame(2 ** 32, 3).toString('hex')).toBe('0a0000000000000c000000010000000000000003');
    expect(endAckFrame(258).toString('hex')).toBe('0b000000000000080000000000000102');
    expect(returnEndFrame().toString('hex')).toBe('0c00000000000000');
  });

  it('GROW and GROWN', () => {
    expect(growFrame(sampleGrow).toString('hex')).toBe(
      '0d00000000000010' + '02000080' + '00012380' + '8000000100000002',
    );
    const hashes = Buffer.from('0011223344556677' + '8899aabbccddeeff', 'hex');
    expect(Buffer.concat(grownFrame({ volume: 2, firstBlock: 9, hashes })).toString('hex')).toBe(
      '0e00000000000018' + '02000002' + '00000009' + '00112233445566778899aabbccddeeff',
    );
    expect(
      Buffer.concat(grownFrame({ volume: 0, firstBlock: 9, hashes: Buffer.alloc(0) })).toString('hex'),
    ).toBe('0e00000000000008' + '00000000' + '00000009');
    expect(() => growFrame({ ...sampleGrow, blockCount: 257 })).toThrow(LinkMisuseError);
  });

  it('ABORT, its text cut at a character', () => {
    expect(abortFrame(ABORT_PROOF, 'no').toString('hex')).toBe('0900000000000006000300026e6f');
    const long = abortFrame(1, `${'x'.repeat(511)}é`);
    expect(long.readUInt32BE(4)).toBe(4 + 511);
    expect(long.toString('utf8', 12)).toBe('x'.repeat(511));
  });

  it('refuses to write what no reader takes', () => {
    expect(() => pingFrame(-1)).toThrow(LinkMisuseError);
    expect(() => endFrame(2 ** 53, 0)).toThrow(LinkMisuseError);
    const digests = Buffer.alloc(8);
    expect(() =>
      resendFrame({ number: 0, attempt: 3, reason: 0, pageCount: 1, digests, missing: Buffer.of(0) }),
    ).toThrow(LinkMisuseError);
    expect(() =>
      resendFrame({ number: 0, attempt: 1, reason: 0, pageCount: 2, digests, missing: Buffer.of(0) }),
    ).toThrow(LinkMisuseError);
  });
});

describe('frames read back', () => {
  const fromSource = Buffer.concat([
    sourceHello,
    smallBatch,
    pingFrame(12),
    smallPatch,
    growFrame(sampleGrow),
    endFrame(smallPlan.reconstructed.length, 1),
    pongFrame(13),
    abortFrame(8, 'stopped\nnow'),
  ]);
  const fromTarget = Buffer.concat([
    targetHello,
    ackFrame({ deliveredBatches: 0, creditLimit: 4096, nasBytesPerSecond: 2048, nasP99Micros: 3 }),
    ...resendFrame({
      number: 0,
      attempt: 1,
      reason: 1,
      pageCount: 1,
      digests: Buffer.alloc(8),
      missing: Buffer.of(1),
    }),
    ...returnFrames(Buffer.from('return')),
    ...grownFrame({ volume: 1, firstBlock: 5, hashes: Buffer.alloc(16, 3) }),
    returnEndFrame(),
    pongFrame(12),
    endAckFrame(77),
  ]);

  it('at the target', () => {
    const frames = readAll('target', [fromSource]) as { type: number }[];
    expect(frames.map((frame) => frame.type)).toEqual([
      FRAME_HELLO,
      FRAME_BATCH,
      FRAME_PING,
      FRAME_PATCH,
      FRAME_GROW,
      FRAME_END,
      FRAME_PONG,
      FRAME_ABORT,
    ]);
    expect(frames[1]).toMatchObject({
      number: 0,
      reconstructedBytes: smallPlan.reconstructed.length,
      pageCount: 3,
      opsBytes: 7,
      metaBytes: 13,
      literalBytes: PAGE_BYTES,
      metaStored: `0202010502000e${Buffer.from('abcdef').toString('hex')}`,
      literalStored: '01'.repeat(PAGE_BYTES),
      tag: 'ee'.repeat(16),
    });
    expect(frames[3]).toMatchObject({
      number: 0,
      attempt: 1,
      pageCount: 2,
      positions: '0001',
      tag: 'dd'.repeat(16),
    });
    expect(frames[4]).toMatchObject(sampleGrow);
    expect(frames[7]).toMatchObject({ code: 8, text: 'stopped now' });
  });

  it('at the source', () => {
    const frames = readAll('source', [fromTarget]) as { type: number }[];
    expect(frames.map((frame) => frame.type)).toEqual([
      FRAME_HELLO,
      FRAME_ACK,
      FRAME_RESEND,
      FRAME_RETURN,
      FRAME_GROWN,
      FRAME_RETURN_END,
      FRAME_PONG,
      FRAME_END_ACK,
    ]);
    expect(frames[1]).toMatchObject({
      deliveredBatches: 0,
      creditLimit: 4096,
      nasBytesPerSecond: 2048,
      nasP99Micros: 3,
    });
    expect(frames[2]).toMatchObject({ number: 0, attempt: 1, reason: 1, pageCount: 1, missing: '01' });
    expect(frames[3]).toMatchObject({ bytes: Buffer.from('return').toString('hex') });
    expect(frames[4]).toMatchObject({ volume: 1, firstBlock: 5, hashes: '03'.repeat(16) });
    expect(frames[7]).toMatchObject({ streamBytes: 77 });
  });

  it.each([1, 2, 3, 7, 8, 9, 4095, 4104])('in pieces of %i bytes', (length) => {
    expect(readAll('target', cut(fromSource, [length]))).toEqual(readAll('target', [fromSource]));
    expect(readAll('source', cut(fromTarget, [length]))).toEqual(readAll('source', [fromTarget]));
  });
});
