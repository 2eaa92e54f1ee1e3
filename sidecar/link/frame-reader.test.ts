// What a FrameReader refuses, that it stays dead afterwards, what it holds, and who owns the memory of its frames.
import { describe, expect, it } from 'vitest';
import { BatchEncoder } from './batch-encoder.ts';
import { FrameReader } from './frame-reader.ts';
import {
  FRAME_BATCH,
  FRAME_RETURN,
  type FrameAt,
  MAX_FRAME_BODY_BYTES,
  MAX_RECONSTRUCTED_BYTES,
  PAGE_BYTES,
  type Role,
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
  resendFrame,
  returnEndFrame,
  returnFrames,
} from './frame-writer.ts';
import { answerHello, decodeHello, encodeSourceHello } from './hello.ts';
import { LinkError } from './link-errors.ts';
import { deriveProofKey } from './link-keys.ts';
import { cut, samplePlan } from './link-samples.ts';
import { PatchEncoder } from './patch-body.ts';

const proofKey = deriveProofKey(Buffer.alloc(32, 1));
const sourceBody = encodeSourceHello(
  { ordinal: 0, mode: 'framed', random: Buffer.alloc(32, 2), migrationId: Buffer.alloc(16, 3), volumes: [] },
  proofKey,
);
const sourceHello = Buffer.concat(helloFrame(sourceBody));
const answer = answerHello(
  decodeHello(sourceBody),
  { mode: 'framed', random: Buffer.alloc(32, 4), usable: [] },
  proofKey,
);
const targetHello = Buffer.concat(helloFrame(answer));
const encoder = new BatchEncoder({ zstd: false });

function batch(number: number, pages = 1): Buffer {
  const plan = samplePlan(
    number,
    Array.from({ length: pages }, () => ({ gap: 8, reference: undefined, random: false })),
    3,
    number,
  );
  return Buffer.concat(encoder.encode(plan).parts);
}

const grow = () => growFrame({ volume: 0, firstBlock: 0, blockCount: 3, seed: { hi: 1, lo: 2 } });
const grown = () => Buffer.concat(grownFrame({ volume: 0, firstBlock: 0, hashes: Buffer.alloc(8) }));
const ack = (deliveredBatches: number, creditLimit: number) =>
  ackFrame({ deliveredBatches, creditLimit, nasBytesPerSecond: 0, nasP99Micros: 0 });
const resend = (missing: number, digests = Buffer.alloc(8)) =>
  Buffer.concat(
    resendFrame({ number: 0, attempt: 1, reason: 0, pageCount: 1, digests, missing: Buffer.of(missing) }),
  );
const patch = (number: number) => {
  const plan = samplePlan(number, [{ gap: 0, reference: undefined, random: false }], 0, 1);
  const { reconstructed, pageOffsets, tag } = plan;
  const fields = {
    number,
    attempt: 1,
    reconstructed,
    pageOffsets,
    positions: Uint32Array.of(0),
    count: 1,
    tag,
  };
  return Buffer.concat(new PatchEncoder({ zstd: false }).encode(fields).parts);
};

/** A copy of `frame` with bytes replaced at an offset. */
function altered(frame: Buffer, at: number, hex: string): Buffer {
  const copy = Buffer.from(frame);
  Buffer.from(hex, 'hex').copy(copy, at);
  return copy;
}

function failure(role: Role, chunks: Uint8Array[]): LinkError {
  const reader = new FrameReader<Role>({ onFrame: () => {} }, role);
  try {
    for (const chunk of chunks) reader.push(chunk);
  } catch (error) {
    expect(() => reader.push(Buffer.of(0))).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_READER_DEAD' }),
    );
    expect(error).toBeInstanceOf(LinkError);
    return error as LinkError;
  }
  throw new Error('the reader accepted it');
}

describe('a reader refuses', () => {
  const atTarget: [string, string, Buffer[]][] = [
    ['a frame before HELLO', 'NASMIG_LINK_FRAME_ORDER', [pingFrame(1)]],
    ['a second HELLO', 'NASMIG_LINK_FRAME_ORDER', [sourceHello, sourceHello]],
    ['a HELLO of something else', 'NASMIG_LINK_BAD_MAGIC', [altered(sourceHello, 8, '51')]],
    ['a HELLO that is too long', 'NASMIG_LINK_FRAME_TOO_LARGE', [Buffer.from('0100000000010000', 'hex')]],
    ['an unknown type', 'NASMIG_LINK_BAD_FRAME', [sourceHello, Buffer.from('0d00000000000000', 'hex')]],
    ['type 0', 'NASMIG_LINK_BAD_FRAME', [sourceHello, Buffer.alloc(8)]],
    ['unknown flags', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 1, '04')]],
    ['flags of another frame', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(pingFrame(1), 1, '01')]],
    ['reserved bytes', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(pingFrame(1), 3, '01')]],
    ['a frame of its own side', 'NASMIG_LINK_DIRECTION', [sourceHello, ack(0, 0)]],
    [
      'a BATCH that is too long',
      'NASMIG_LINK_FRAME_TOO_LARGE',
      [sourceHello, Buffer.from('02000000ffffffff', 'hex')],
    ],
    [
      'a PING of the wrong length',
      'NASMIG_LINK_FRAME_TOO_LARGE',
      [sourceHello, altered(pingFrame(1), 7, '09')],
    ],
    ['a short END', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(endFrame(0, 0), 7, '0b')]],
    ['a clock past 2^53', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(pingFrame(1), 8, 'ff')]],
    ['a first batch that is not 0', 'NASMIG_LINK_BATCH_ORDER', [sourceHello, batch(1)]],
    ['a batch twice', 'NASMIG_LINK_BATCH_ORDER', [sourceHello, batch(0), batch(0)]],
    ['a gap in the numbers', 'NASMIG_LINK_BATCH_ORDER', [sourceHello, batch(0), batch(2)]],
    ['a PATCH for a batch to come', 'NASMIG_LINK_BATCH_ORDER', [sourceHello, batch(0), patch(1)]],
    ['a BATCH after END', 'NASMIG_LINK_FRAME_ORDER', [sourceHello, endFrame(0, 0), batch(0)]],
    ['a second END', 'NASMIG_LINK_FRAME_ORDER', [sourceHello, endFrame(0, 0), endFrame(0, 0)]],
    ['an END with other totals', 'NASMIG_LINK_BAD_FRAME', [sourceHello, batch(0), endFrame(PAGE_BYTES, 1)]],
    ['an END with another count', 'NASMIG_LINK_BAD_FRAME', [sourceHello, endFrame(0, 1)]],
    // Fixed fields of a BATCH, by their offset in the frame.
    ['no reconstructed bytes', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 12, '00000000')]],
    [
      'too many reconstructed bytes',
      'NASMIG_LINK_BAD_FRAME',
      [sourceHello, altered(batch(0), 12, '00200001')],
    ],
    ['more pages than bytes', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 16, '00000002')]],
    ['2^32-1 pages', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 16, 'ffffffff')]],
    ['too many operations', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 20, '00000011')]],
    [
      'meta stored longer than it is',
      'NASMIG_LINK_BAD_FRAME',
      [sourceHello, altered(batch(0), 24, '000000ff')],
    ],
    ['meta that does not add up', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 28, '000000ff')]],
    ['literals stored shorter', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 32, '00000fff')]],
    ['half a literal page', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 36, '00000800')]],
    ['more literals than pages', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 36, '00002000')]],
    ['"compressed" of equal length', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(batch(0), 1, '02')]],
    ['a PATCH attempt 0', 'NASMIG_LINK_BAD_FRAME', [sourceHello, batch(0), altered(patch(0), 12, '00')]],
    ['a PATCH attempt 3', 'NASMIG_LINK_BAD_FRAME', [sourceHello, batch(0), altered(patch(0), 12, '03')]],
    [
      'a PATCH with reserved bytes',
      'NASMIG_LINK_BAD_FRAME',
      [sourceHello, batch(0), altered(patch(0), 15, '01')],
    ],
    [
      'a PATCH of no pages',
      'NASMIG_LINK_BAD_FRAME',
      [sourceHello, batch(0), altered(patch(0), 16, '00000000')],
    ],
    [
      'a PATCH with long positions',
      'NASMIG_LINK_BAD_FRAME',
      [sourceHello, batch(0), altered(patch(0), 24, '00000003')],
    ],
    [
      'a PATCH with short literals',
      'NASMIG_LINK_BAD_FRAME',
      [sourceHello, batch(0), altered(patch(0), 20, '00000fff')],
    ],
    ['a GROW of no blocks', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(grow(), 10, '0000')]],
    ['a GROW of 257 blocks', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(grow(), 10, '0101')]],
    ['a GROW past block 2^32', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(grow(), 12, 'fffffffe')]],
    ['a GROW with reserved bytes', 'NASMIG_LINK_BAD_FRAME', [sourceHello, altered(grow(), 9, '01')]],
    ['a GROWN', 'NASMIG_LINK_DIRECTION', [sourceHello, grown()]],
    [
      'an ABORT whose text is cut',
      'NASMIG_LINK_BAD_FRAME',
      [abortFrame(1, 'x').subarray(0, 12), Buffer.of(0)].map((part, i) =>
        i === 0 ? altered(part, 10, '0002') : part,
      ),
    ],
  ];
  it.each(atTarget)('%s: %s', (_name, code, chunks) => {
    expect(failure('target', chunks).code).toBe(code);
    expect(failure('target', cut(Buffer.concat(chunks), [1])).code).toBe(code);
  });

  const atSource: [string, string, Buffer[]][] = [
    ['a BATCH', 'NASMIG_LINK_DIRECTION', [targetHello, batch(0)]],
    ['credit that falls', 'NASMIG_LINK_BAD_FRAME', [targetHello, ack(0, 10), ack(0, 9)]],
    ['deliveries that fall', 'NASMIG_LINK_BAD_FRAME', [targetHello, ack(2, 10), ack(1, 10)]],
    [
      'a RETURN that is too long',
      'NASMIG_LINK_FRAME_TOO_LARGE',
      [targetHello, Buffer.from('0600000000010001', 'hex')],
    ],
    ['an empty RETURN', 'NASMIG_LINK_BAD_FRAME', [targetHello, Buffer.from('0600000000000000', 'hex')]],
    [
      'a RETURN after RETURN_END',
      'NASMIG_LINK_FRAME_ORDER',
      [targetHello, returnEndFrame(), ...returnFrames(Buffer.of(1)).map((part) => Buffer.from(part))],
    ],
    ['a second RETURN_END', 'NASMIG_LINK_FRAME_ORDER', [targetHello, returnEndFrame(), returnEndFrame()]],
    ['a GROWN of other blocks', 'NASMIG_LINK_BAD_FRAME', [targetHello, altered(grown(), 10, '0002')]],
    ['a GROWN with reserved bytes', 'NASMIG_LINK_BAD_FRAME', [targetHello, altered(grown(), 9, '01')]],
    ['a GROW', 'NASMIG_LINK_DIRECTION', [targetHello, grow()]],
    [
      'a GROWN that is too long',
      'NASMIG_LINK_FRAME_TOO_LARGE',
      [targetHello, Buffer.from('0e00000000000809', 'hex')],
    ],
    ['a RESEND attempt 3', 'NASMIG_LINK_BAD_FRAME', [targetHello, altered(resend(0), 12, '03')]],
    ['a RESEND for no known reason', 'NASMIG_LINK_BAD_FRAME', [targetHello, altered(resend(0), 13, '03')]],
    ['a RESEND with reserved bytes', 'NASMIG_LINK_BAD_FRAME', [targetHello, altered(resend(0), 15, '01')]],
    ['a RESEND of no pages', 'NASMIG_LINK_BAD_FRAME', [targetHello, altered(resend(0), 16, '00000000')]],
    ['a RESEND of other pages', 'NASMIG_LINK_BAD_FRAME', [targetHello, altered(resend(0), 16, '00000002')]],
    ['a RESEND that misses page 1 of 1', 'NASMIG_LINK_BAD_FRAME', [targetHello, resend(2)]],
    ['a digest of a missing page', 'NASMIG_LINK_BAD_FRAME', [targetHello, resend(1, Buffer.alloc(8, 1))]],
  ];
  it.each(atSource)('%s: %s', (_name, code, chunks) => {
    expect(failure('source', chunks).code).toBe(code);
    expect(failure('source', cut(Buffer.concat(chunks), [1])).code).toBe(code);
  });

  it('bytes after its sink threw', () => {
    const reader = new FrameReader<'target'>(
      {
        onFrame: () => {
          throw new RangeError('the sink');
        },
      },
      'target',
    );
    expect(() => reader.push(sourceHello)).toThrow('the sink');
    expect(() => reader.push(sourceHello)).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_READER_DEAD' }),
    );
  });

  it('bytes from within its sink', () => {
    const reader: FrameReader<'target'> = new FrameReader(
      { onFrame: () => reader.push(Buffer.of(1)) },
      'target',
    );
    expect(() => reader.push(sourceHello)).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_READER_DEAD' }),
    );
  });
});

describe('a reader accepts', () => {
  it('an ABORT in place of HELLO, and drops what follows it', () => {
    const frames: FrameAt<'source'>[] = [];
    const reader = new FrameReader<'source'>({ onFrame: (frame) => frames.push(frame) }, 'source');
    reader.push(Buffer.concat([abortFrame(3, 'wrong proof'), Buffer.from('garbage')]));
    reader.push(Buffer.from('more'));
    expect(frames).toHaveLength(1);
    expect(frames[0]).toMatchObject({ code: 3, text: 'wrong proof' });
  });

  it('an END_ACK, and drops the PONG and RETURN that were under way with it', () => {
    const frames: FrameAt<'source'>[] = [];
    const reader = new FrameReader<'source'>({ onFrame: (frame) => frames.push(frame) }, 'source');
    reader.push(Buffer.concat([targetHello, endAckFrame(5), pingFrame(1), ...returnFrames(Buffer.of(1))]));
    reader.push(returnEndFrame());
    expect(frames).toHaveLength(2);
    expect(frames[1]).toMatchObject({ streamBytes: 5 });
  });

  it('a batch of the largest size', () => {
    const plan = samplePlan(0, [], MAX_RECONSTRUCTED_BYTES, 1);
    const bytes = Buffer.concat(encoder.encode(plan).parts);
    expect(bytes.length - 8).toBeLessThanOrEqual(MAX_FRAME_BODY_BYTES);
    let seen = 0;
    const reader = new FrameReader<'target'>(
      {
        onFrame: (frame) => {
          if (frame.type === FRAME_BATCH) seen = frame.metaStored.length;
        },
      },
      'target',
    );
    for (const chunk of cut(Buffer.concat([sourceHello, bytes]), [65536])) reader.push(chunk);
    expect(seen).toBe(MAX_RECONSTRUCTED_BYTES);
  });
});

describe('on a raw connection', () => {
  it('the bytes after HELLO are QEMU’s', () => {
    const reader: FrameReader<'target'> = new FrameReader({ onFrame: () => reader.detach() }, 'target');
    reader.push(Buffer.concat([sourceHello, Buffer.from('QEVM')]));
    expect(reader.takeRest().toString()).toBe('QEVM');
    expect(reader.takeRest()).toHaveLength(0);
    expect(() => reader.push(Buffer.of(1))).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_READER_DEAD' }),
    );
  });

  it('nothing may follow yet', () => {
    const reader: FrameReader<'source'> = new FrameReader({ onFrame: () => reader.detach() }, 'source');
    for (const chunk of cut(targetHello, [1])) reader.push(chunk);
    expect(reader.takeRest()).toHaveLength(0);
  });

  it('a reader is not detached later', () => {
    const reader: FrameReader<'source'> = new FrameReader(
      {
        onFrame: (frame) => {
          if (frame.type === FRAME_RETURN) reader.detach();
        },
      },
      'source',
    );
    reader.push(targetHello);
    expect(() => reader.push(Buffer.concat(returnFrames(Buffer.of(1))))).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }),
    );
    expect(() => reader.detach()).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }));
  });
});

describe('bodies', () => {
  it('a reader tells whether it is within a frame', () => {
    const reader = new FrameReader<'target'>({ onFrame: () => {} }, 'target');
    expect(reader.midFrame).toBe(false);
    reader.push(sourceHello.subarray(0, 3));
    expect(reader.midFrame).toBe(true);
    reader.push(sourceHello.subarray(3, 20));
    expect(reader.midFrame).toBe(true);
    reader.push(sourceHello.subarray(20));
    expect(reader.midFrame).toBe(false);
  });

  it('an announced length allocates one bounded buffer', () => {
    const header = Buffer.alloc(8);
    header[0] = FRAME_BATCH;
    header.writeUInt32BE(MAX_FRAME_BODY_BYTES, 4);
    const readers = Array.from(
      { length: 8 },
      () => new FrameReader<'target'>({ onFrame: () => {} }, 'target'),
    );
    const before = process.memoryUsage().arrayBuffers;
    for (const reader of readers) {
      reader.push(sourceHello);
      reader.push(header);
      reader.push(Buffer.of(0));
    }
    const grown = process.memoryUsage().arrayBuffers - before;
    expect(grown).toBeLessThanOrEqual(8 * (MAX_FRAME_BODY_BYTES + 64 * 1024));
  });
});
