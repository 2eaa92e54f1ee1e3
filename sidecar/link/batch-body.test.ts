// BATCH bodies: how pages become runs, what comes back, and every way in which operations can be wrong.
import { describe, expect, it } from 'vitest';
import { BatchDecoder, DecodedBatch, DecoderRooms } from './batch-decoder.ts';
import { BatchEncoder, type BatchPlan, type EncodedBatch, LITERAL_PAGE } from './batch-encoder.ts';
import { Compressor, Decompressor } from './compression.ts';
import {
  type BatchFrame,
  FRAME_BATCH,
  MAX_BATCH_PAGES,
  MAX_RECONSTRUCTED_BYTES,
  PAGE_BYTES,
} from './frame-types.ts';
import { batchFrameOf, fillReferences, type SamplePage, samplePlan } from './link-samples.ts';

const plain = new BatchEncoder({ zstd: false });
const VOLUME_SIZES = [2 ** 32 * PAGE_BYTES, 100 * PAGE_BYTES + 17, 0];
const literal = (gap: number): SamplePage => ({ gap, reference: undefined, random: false });
const block = (gap: number, volume: number, at: number): SamplePage => ({
  gap,
  reference: { volume, block: at },
  random: false,
});

function opsOf(plan: BatchPlan): string {
  const frame = batchFrameOf(plain.encode(plan));
  return frame.metaStored.subarray(0, frame.opsBytes).toString('hex');
}

function roundTrip(plan: BatchPlan, zstd: boolean): DecodedBatch {
  const encoder = new BatchEncoder({ zstd });
  const encoded = encoder.encode(plan);
  const destination = Buffer.alloc(plan.reconstructed.length + 100, 0xcc);
  const decoded = new DecodedBatch();
  new BatchDecoder(VOLUME_SIZES).decode(batchFrameOf(encoded), destination, decoded);
  encoder.release(encoded);
  fillReferences(decoded, destination);
  expect(destination.subarray(0, plan.reconstructed.length).equals(plan.reconstructed)).toBe(true);
  expect(destination.subarray(plan.reconstructed.length).every((byte) => byte === 0xcc)).toBe(true);
  expect(decoded.pageOffsets.subarray(0, decoded.pageCount)).toEqual(plan.pageOffsets);
  expect(decoded.tag.equals(plan.tag)).toBe(true);
  return decoded;
}

describe('operations', () => {
  it('of pages in a row with a header each: one run', () => {
    const pages = Array.from({ length: 40 }, (_, i) => block(8, 0, 1000 + i));
    // gap 8, 40 << 1 | 1, stride gap 8, volume 0, zigzag(1000)
    expect(opsOf(samplePlan(0, pages, 0, 1))).toBe('085108' + '00d00f');
  });

  it('of pages that touch: stride gap 0', () => {
    const pages = [literal(20), literal(0), literal(0)];
    expect(opsOf(samplePlan(0, pages, 0, 1))).toBe('140600');
  });

  it('of blocks that go on after another run cost one byte', () => {
    const pages = [block(0, 0, 5), literal(0), block(0, 0, 6), block(0, 1, 6), block(0, 0, 4)];
    expect(opsOf(samplePlan(0, pages, 0, 1))).toBe(
      '000300' + '0a' + '0002' + '000300' + '00' + '000301' + '0c' + '000300' + '05',
    );
  });

  it('of the last block there is', () => {
    const plan = samplePlan(0, [block(0, 0, 2 ** 32 - 1), block(0, 0, 0)], 0, 1);
    expect(opsOf(plan)).toBe('000300' + 'feffffff1f' + '000300' + 'ffffffff1f');
    roundTrip(plan, false);
  });

  it('change run where gap, kind, volume or block changes', () => {
    const pages = [
      block(8, 0, 1),
      block(8, 0, 2),
      block(9, 0, 3),
      literal(8),
      block(8, 1, 4),
      block(8, 0, 5),
      block(8, 0, 5),
    ];
    const decoded = roundTrip(samplePlan(0, pages, 3, 1), false);
    expect(decoded.runCount).toBe(5);
    expect([...decoded.runPages.subarray(0, 5)]).toEqual([2, 1, 1, 1, 1]);
    expect([...decoded.runFirstPage.subarray(0, 5)]).toEqual([0, 2, 4, 5, 6]);
    expect([...decoded.runVolume.subarray(0, 5)]).toEqual([0, 0, 1, 0, 0]);
    expect([...decoded.runFirstBlock.subarray(0, 5)]).toEqual([1, 3, 4, 5, 5]);
    expect([...decoded.runStride.subarray(0, 1)]).toEqual([PAGE_BYTES + 8]);
    expect(decoded.referencePages).toBe(6);
  });
});

describe('a batch comes back', () => {
  const cases: [string, BatchPlan][] = [
    ['of skeleton alone', samplePlan(0, [], 1000, 1)],
    ['of one byte', samplePlan(0, [], 1, 1)],
    [
      'of literals alone',
      samplePlan(
        4,
        Array.from({ length: 100 }, () => literal(8)),
        0,
        2,
      ),
    ],
    [
      'of random literals',
      samplePlan(
        4,
        Array.from({ length: 50 }, () => ({ ...literal(0), random: true })),
        7,
        2,
      ),
    ],
    [
      'of references alone',
      samplePlan(
        4,
        Array.from({ length: 64 }, (_, i) => block(0, 1, i)),
        0,
        2,
      ),
    ],
    [
      'of the most pages',
      samplePlan(
        4,
        Array.from({ length: MAX_BATCH_PAGES }, (_, i) => (i % 3 ? block(0, i & 1, i % 100) : literal(0))),
        0,
        2,
      ),
    ],
    [
      'of skeleton of the largest size',
      samplePlan(0, [literal(5)], MAX_RECONSTRUCTED_BYTES - PAGE_BYTES - 5, 3),
    ],
  ];
  it.each(cases)('%s', (_name, plan) => {
    roundTrip(plan, false);
    roundTrip(plan, true);
  });

  it('from buffers that are used again', () => {
    const encoder = new BatchEncoder({ zstd: false });
    const first = encoder.encode(samplePlan(0, [{ ...literal(0), random: true }], 0, 1));
    const bytes = Buffer.concat(first.parts);
    const second = encoder.encode(samplePlan(1, [{ ...literal(0), random: true }], 0, 2));
    expect(Buffer.concat(first.parts).equals(bytes)).toBe(true);
    encoder.release(first);
    expect(() => encoder.release(first)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }));
    const third = encoder.encode(samplePlan(2, [{ ...literal(0), random: true }], 0, 3));
    expect(third.memory).toBe(first.memory);
    expect(second.memory).not.toBe(first.memory);
  });

  it('from buffers of which a few are kept, however many were out at once', () => {
    const encoder = new BatchEncoder({ zstd: false });
    const manyOut = () =>
      Array.from({ length: 40 }, (_, number) =>
        encoder.encode(samplePlan(number, [{ ...literal(0), random: true }], 0, number)),
      );
    const first = manyOut();
    const memories = new Set(first.map(({ memory }) => memory));
    expect(memories.size).toBe(40);
    for (const encoded of first) encoder.release(encoded);
    expect(manyOut().filter(({ memory }) => memories.has(memory))).toHaveLength(10);
  });

  it('compressed, with memory that others get only when it was released', () => {
    const compressor = new Compressor();
    const [encoder, other] = [
      new BatchEncoder({ zstd: true, compressor }),
      new BatchEncoder({ zstd: true, compressor }),
    ];
    // Skeleton that shrinks, so that meta is compressed too.
    const planOf = (number: number) =>
      samplePlan(
        number,
        Array.from({ length: 20 + number }, () => literal(64)),
        5000,
        number,
      );
    const plans = Array.from({ length: 12 }, (_, number) => planOf(number));
    const encoded = plans.map((plan) => (plan.number % 2 === 0 ? encoder : other).encode(plan));
    const memories = encoded.map(({ literalCopy }) => literalCopy);
    expect(memories.every((memory) => memory !== undefined)).toBe(true);
    expect(new Set(memories).size).toBe(plans.length);
    const expectIntact = (at: number) => {
      const plan = plans[at] as BatchPlan;
      const frame = batchFrameOf(encoded[at] as EncodedBatch);
      expect([frame.metaIsZstd, frame.literalsAreZstd]).toEqual([true, true]);
      const destination = Buffer.alloc(plan.reconstructed.length);
      new BatchDecoder(VOLUME_SIZES).decode(frame, destination, new DecodedBatch());
      expect(destination.equals(plan.reconstructed)).toBe(true);
    };
    for (let at = 0; at < plans.length; at++) expectIntact(at);
    encoder.release(encoded[0] as EncodedBatch);
    expect(() => encoder.release(encoded[0] as EncodedBatch)).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }),
    );
    const next = other.encode(planOf(0));
    expect(next.literalCopy).toBe(memories[0]);
    expect(other.encode(planOf(0)).literalCopy).not.toBe(memories[0]);
    // What the context is given back for is not what was made with it.
    compressor.release();
    for (let at = 1; at < plans.length; at++) expectIntact(at);
  });

  it('into memory that connections share, whatever was decoded there before and failed', () => {
    const rooms = new DecoderRooms();
    const decoders = [1, 2].map(() => new BatchDecoder(VOLUME_SIZES, new Decompressor(), rooms));
    const encoder = new BatchEncoder({ zstd: true });
    for (let number = 0; number < 24; number++) {
      const pages = Array.from({ length: 5 + ((number * 37) % 60) }, (_, i) =>
        i % 7 === 3 ? block(20, 0, i) : literal(20),
      );
      const plan = samplePlan(number, pages, 900, number);
      const frame = batchFrameOf(encoder.encode(plan));
      const [decoder, other] = (number % 3 === 0 ? decoders : decoders.toReversed()) as [
        BatchDecoder,
        BatchDecoder,
      ];
      const damaged = { ...frame, literalStored: frame.literalStored.subarray(0, -1) };
      expect(() =>
        other.decode(damaged, Buffer.alloc(plan.reconstructed.length), new DecodedBatch()),
      ).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_BAD_ZSTD' }));
      const decoded = new DecodedBatch();
      const destination = Buffer.alloc(plan.reconstructed.length, 0xcc);
      decoder.decode(frame, destination, decoded);
      // What is decoded next, there and elsewhere, leaves it as it is.
      const next = batchFrameOf(encoder.encode(samplePlan(number, pages.slice(1), 1900, 100 + number)));
      for (const one of decoders)
        one.decode(next, Buffer.alloc(plan.reconstructed.length + 1000), new DecodedBatch());
      if (number % 5 === 0) rooms.release();
      fillReferences(decoded, destination);
      expect(destination.equals(plan.reconstructed)).toBe(true);
    }
  });
});

describe('an encoder refuses', () => {
  const good = samplePlan(0, [literal(0), block(0, 0, 1)], 10, 1);
  const twoPages = (first: number, second: number) => ({
    ...good,
    pageOffsets: Uint32Array.of(first, second),
  });
  it.each<[string, BatchPlan]>([
    ['nothing', { ...good, reconstructed: new Uint8Array(0), pageCount: 0 }],
    ['too much', { ...good, reconstructed: new Uint8Array(MAX_RECONSTRUCTED_BYTES + 1) }],
    ['more pages than fit', { ...good, pageCount: 3 }],
    ['pages that overlap', twoPages(0, 4095)],
    ['pages out of order', twoPages(4096, 0)],
    ['a page past the end', twoPages(0, 4107)],
    ['a volume that HELLO cannot name', { ...good, pageVolumes: Uint16Array.of(LITERAL_PAGE, 64) }],
    ['a short tag', { ...good, tag: Buffer.alloc(15) }],
  ])('%s', (_name, plan) => {
    expect(() => plain.encode(plan)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }));
  });
});

describe('a decoder refuses', () => {
  /** A frame of 3 pages (2 literal) and 10 skeleton bytes with the given operations; the fixed fields are consistent. */
  function frameWith(ops: string, literalPages = 2): BatchFrame {
    const opsBytes = Buffer.from(ops, 'hex');
    return {
      type: FRAME_BATCH,
      number: 5,
      reconstructedBytes: 3 * PAGE_BYTES + 10,
      pageCount: 3,
      opsBytes: opsBytes.length,
      metaBytes: opsBytes.length + 10,
      literalBytes: literalPages * PAGE_BYTES,
      metaIsZstd: false,
      literalsAreZstd: false,
      metaStored: Buffer.concat([opsBytes, Buffer.alloc(10)]),
      literalStored: Buffer.alloc(literalPages * PAGE_BYTES),
      tag: Buffer.alloc(16),
    };
  }
  const decode = (frame: BatchFrame) =>
    new BatchDecoder(VOLUME_SIZES).decode(frame, Buffer.alloc(frame.reconstructedBytes), new DecodedBatch());

  it('none of these, as a check of the frame itself', () => {
    decode(frameWith('000400' + '00030000'));
    decode(frameWith('050401' + '0103' + '01' + 'c601'));
  });

  it.each([
    ['no operations', ''],
    ['fewer pages than announced', '000400'],
    ['more pages than announced', '000400' + '00030000' + '00030000'],
    ['a run of no pages', '0000'],
    ['a run of 2^34 pages', '00feffffff7f00'],
    ['a gap longer than the skeleton', '0b0400' + '00030000'],
    ['a stride longer than the skeleton', '00040b' + '00030000'],
    ['a stride of 2^35-1', '0004ffffffff7f' + '00030000'],
    ['skeleton used up before', '050401' + '05030000'],
    ['an unfinished number', '000400' + '000300' + '80'],
    ['an unfinished operation', '000400' + '0003'],
    ['a number that is longer than need be', '8000' + '0400' + '00030000'],
    ['a number of six bytes', 'ffffffffff01'],
    ['a volume that HELLO does not have', '000400' + '00030300'],
    ['volume 2^35-1', '000400' + '0003ffffffff7f00'],
    ['a volume that the target cannot read', '000400' + '00030200'],
    ['a block before the first', '000400' + '00030001'],
    ['a block after the last', '000400' + '000301' + 'c801'],
    ['a run that passes the last block', '0002' + '00050001' + 'c601'],
    ['three literals where two came', '000600'],
    ['a literal fewer than came', '0002' + '0005000000'],
  ])('%s', (_name, ops) => {
    expect(() => decode(frameWith(ops))).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_BAD_OPS' }));
  });

  it('a destination that is too small', () => {
    const frame = frameWith('000400' + '00030000');
    expect(() => new BatchDecoder(VOLUME_SIZES).decode(frame, Buffer.alloc(100), new DecodedBatch())).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }),
    );
  });

  it('compressed parts that are none', () => {
    const frame = { ...frameWith('000400' + '00030000'), metaIsZstd: true };
    expect(() => decode(frame)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_BAD_ZSTD' }));
  });
});
