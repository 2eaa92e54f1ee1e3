// Properties of the link codec: any sequence of frames in any cut reads the same; any batch, with any plan, comes back;
// any mutation of a valid stream ends in a NASMIG_LINK_ error or in valid frames, within the stated memory.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PageHasher, seedFromBytes } from '../index/page-hash.ts';
import { BatchDecoder, DecodedBatch } from './batch-decoder.ts';
import { BatchEncoder, type BatchPlan } from './batch-encoder.ts';
import { TagSealer, TagVerifier } from './batch-tag.ts';
import { FrameReader } from './frame-reader.ts';
import {
  FRAME_BATCH,
  FRAME_PATCH,
  type FrameAt,
  MAX_ATTEMPT,
  MAX_BATCH_PAGES,
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
  helloFrame,
  pingFrame,
  pongFrame,
  resendFrame,
  returnEndFrame,
  returnFrames,
} from './frame-writer.ts';
import { answerHello, decodeHello, encodeSourceHello } from './hello.ts';
import { LinkError } from './link-errors.ts';
import { deriveConnectionKeys, deriveProofKey } from './link-keys.ts';
import {
  batchFrameOf,
  cut,
  fillReferences,
  patchFrameOf,
  readAll,
  SAMPLE_SOURCE_HELLO,
  type SamplePage,
  samplePlan,
} from './link-samples.ts';
import { differingPages, digestPages } from './page-digest.ts';
import { PatchDecoder, PatchEncoder } from './patch-body.ts';

const VOLUME_SIZES = [2 ** 32 * PAGE_BYTES, 200 * PAGE_BYTES];
const { tagKey, digestSeed } = deriveConnectionKeys(
  Buffer.alloc(32, 3),
  Buffer.alloc(32, 1),
  Buffer.alloc(32, 2),
  0,
  1,
);
const seed = Buffer.alloc(8);
seed.writeBigUInt64BE(digestSeed);
const hasher = new PageHasher(seedFromBytes(seed));
const proofKey = deriveProofKey(Buffer.alloc(32, 3));
const sourceBody = encodeSourceHello(
  { ordinal: 0, mode: 'framed', random: Buffer.alloc(32, 1), migrationId: Buffer.alloc(16, 2), volumes: [] },
  proofKey,
);
const targetHello = Buffer.concat(
  helloFrame(
    answerHello(
      decodeHello(sourceBody),
      { mode: 'framed', random: Buffer.alloc(32, 2), usable: [] },
      proofKey,
    ),
  ),
);

// Blocks come in short ascending runs, as a page cache has them, and now and then from anywhere.
const page: fc.Arbitrary<SamplePage> = fc.record({
  gap: fc.oneof(fc.constant(0), fc.constant(8), fc.nat(40), fc.nat(3000)),
  reference: fc.option(
    fc.oneof(
      fc.record({ volume: fc.constant(0), block: fc.integer({ min: 0, max: 2 ** 32 - 1 }) }),
      fc.record({ volume: fc.constant(1), block: fc.nat(199) }),
    ),
    { nil: undefined },
  ),
  random: fc.boolean(),
});
const run: fc.Arbitrary<SamplePage[]> = fc
  .tuple(page, fc.integer({ min: 1, max: 40 }))
  .map(([first, count]) =>
    Array.from({ length: count }, (_, i) => {
      if (first.reference === undefined) return first;
      const last = first.reference.volume === 0 ? 2 ** 32 - 1 : 199;
      return {
        ...first,
        reference: { ...first.reference, block: Math.min(last, first.reference.block + i) },
      };
    }),
  );
const pages: fc.Arbitrary<SamplePage[]> = fc
  .array(run, { maxLength: 8 })
  .map((runs) => runs.flat().slice(0, 120));

interface Shape {
  readonly pages: SamplePage[];
  readonly tail: number;
  readonly seed: number;
}
const shape: fc.Arbitrary<Shape> = fc
  .record({ pages, tail: fc.oneof(fc.nat(100), fc.nat(100_000)), seed: fc.nat() })
  .filter(({ pages: list, tail }) => list.length > 0 || tail > 0);

const planOf = (number: number, from: Shape, sealer?: TagSealer): BatchPlan =>
  samplePlan(number, from.pages, from.tail, from.seed, (bytes, count) =>
    sealer === undefined ? Buffer.alloc(16, number) : sealer.seal(number, 0, bytes, count),
  );

describe('a batch', () => {
  it('of any pages, plan and skeleton comes back with its tag', () => {
    const encoders = [new BatchEncoder({ zstd: false }), new BatchEncoder({ zstd: true })];
    const decoder = new BatchDecoder(VOLUME_SIZES);
    const decoded = new DecodedBatch();
    fc.assert(
      fc.property(shape, fc.integer({ min: 0, max: 1 }), (from, which) => {
        const plan = planOf(0, from, new TagSealer(tagKey));
        const encoder = encoders[which] as BatchEncoder;
        const encoded = encoder.encode(plan);
        const destination = Buffer.alloc(plan.reconstructed.length);
        decoder.decode(batchFrameOf(encoded), destination, decoded);
        encoder.release(encoded);
        fillReferences(decoded, destination);
        expect(destination.equals(plan.reconstructed)).toBe(true);
        expect(decoded.referencePages).toBe(encoded.referencePages);
        expect(new TagVerifier(tagKey).verify(0, 0, destination, decoded.pageCount, decoded.tag)).toBe(true);
      }),
      { numRuns: 600 },
    );
  });

  it('with any stale blocks is put right by one RESEND and PATCH', () => {
    const encoder = new BatchEncoder({ zstd: true });
    fc.assert(
      fc.property(
        shape,
        fc.array(fc.nat(119), { minLength: 1, maxLength: 20 }),
        fc.boolean(),
        (from, wrong, asMissing) => {
          const sealer = new TagSealer(tagKey);
          const plan = planOf(0, from, sealer);
          if (plan.pageCount === 0) return;
          const destination = Buffer.alloc(plan.reconstructed.length);
          const decoded = new DecodedBatch();
          new BatchDecoder(VOLUME_SIZES).decode(batchFrameOf(encoder.encode(plan)), destination, decoded);
          fillReferences(decoded, destination);
          const missing = new Uint8Array(Math.ceil(plan.pageCount / 8));
          const expected = [...new Set(wrong.map((at) => at % plan.pageCount))].sort((a, b) => a - b);
          for (const at of expected) {
            const offset = decoded.pageOffsets[at] as number;
            destination[offset + (at % PAGE_BYTES)] =
              (destination[offset + (at % PAGE_BYTES)] as number) ^ 0x40;
            if (asMissing) missing[at >> 3] = (missing[at >> 3] as number) | (1 << (at & 7));
          }
          const verifier = new TagVerifier(tagKey);
          if (!asMissing) expect(verifier.verify(0, 0, destination, plan.pageCount, decoded.tag)).toBe(false);
          const digests = Buffer.alloc(plan.pageCount * 8);
          digestPages(hasher, destination, decoded.pageOffsets, plan.pageCount, missing, digests);
          const resend = { number: 0, attempt: 1, reason: 0, pageCount: plan.pageCount, digests, missing };
          const positions = new Uint32Array(MAX_BATCH_PAGES);
          const count = differingPages(
            hasher,
            plan.reconstructed,
            plan.pageOffsets,
            plan.pageCount,
            resend,
            positions,
          );
          expect([...positions.subarray(0, count)]).toEqual(expected);
          const { reconstructed, pageOffsets } = plan;
          const tag = sealer.seal(0, 1, reconstructed, plan.pageCount);
          const patch = new PatchEncoder({ zstd: true }).encode({
            number: 0,
            attempt: 1,
            reconstructed,
            pageOffsets,
            positions,
            count,
            tag,
          });
          const frame = patchFrameOf(patch);
          new PatchDecoder().apply(frame, decoded, destination);
          expect(destination.equals(plan.reconstructed)).toBe(true);
          expect(verifier.verify(0, 1, destination, plan.pageCount, frame.tag)).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });
});

/** A valid stream from a source: HELLO, batches and patches of them, PING and PONG in between, perhaps END. */
const sourceStream = fc
  .tuple(fc.array(fc.tuple(shape, fc.nat(3), fc.boolean()), { maxLength: 4 }), fc.boolean())
  .map(([batches, ends]) => {
    const encoder = new BatchEncoder({ zstd: true });
    const parts: Uint8Array[] = [SAMPLE_SOURCE_HELLO];
    const types: number[] = [];
    let streamBytes = 0;
    batches.forEach(([from, then, patched], number) => {
      const plan = planOf(number, from);
      parts.push(...encoder.encode(plan).parts);
      streamBytes += plan.reconstructed.length;
      types.push(FRAME_BATCH);
      if (then & 1) parts.push(pingFrame(number));
      if (then & 2) parts.push(pongFrame(number));
      if (!patched || plan.pageCount === 0) return;
      const { reconstructed, pageOffsets, tag } = plan;
      const fields = {
        number,
        attempt: 1,
        reconstructed,
        pageOffsets,
        positions: Uint32Array.of(plan.pageCount - 1),
        count: 1,
        tag,
      };
      parts.push(...new PatchEncoder({ zstd: (then & 1) === 1 }).encode(fields).parts);
      types.push(FRAME_PATCH);
    });
    if (ends) parts.push(endFrame(streamBytes, batches.length));
    return { bytes: Buffer.concat(parts), types };
  });

/** A valid stream from a target. */
const targetStream = fc
  .tuple(
    fc.array(
      fc.oneof(
        fc.tuple(fc.nat(1000), fc.nat(2 ** 31)).map(([batches, credit]) => ({ batches, credit })),
        fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => ({ bytes })),
        fc
          .tuple(fc.integer({ min: 1, max: MAX_BATCH_PAGES }), fc.integer({ min: 1, max: MAX_ATTEMPT }))
          .map(([count, attempt]) => ({ count, attempt })),
        fc.nat().map((clock) => ({ clock })),
      ),
      { maxLength: 12 },
    ),
    fc.nat(3),
  )
  .map(([list, ending]) => {
    const parts: Uint8Array[] = [targetHello];
    let deliveredBatches = 0;
    let creditLimit = 0;
    for (const one of list) {
      if ('batches' in one) {
        deliveredBatches += one.batches;
        creditLimit += one.credit;
        parts.push(
          ackFrame({
            deliveredBatches,
            creditLimit,
            nasBytesPerSecond: one.credit,
            nasP99Micros: one.batches,
          }),
        );
      } else if ('bytes' in one) parts.push(...returnFrames(one.bytes));
      else if ('clock' in one) parts.push(pongFrame(one.clock), pingFrame(one.clock));
      else {
        const pageCount = one.count;
        const missing = new Uint8Array(Math.ceil(pageCount / 8));
        missing[0] = 1;
        const digests = Buffer.alloc(pageCount * 8, 5).fill(0, 0, 8);
        parts.push(
          ...resendFrame({ number: 0, attempt: one.attempt, reason: 1, pageCount, digests, missing }),
        );
      }
    }
    if (ending & 1) parts.push(returnEndFrame());
    parts.push(ending & 2 ? endAckFrame(creditLimit) : abortFrame(ending, 'ü'.repeat(300)));
    return { bytes: Buffer.concat(parts) };
  });

const cuts = fc.array(fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 70_000 })), {
  minLength: 1,
  maxLength: 20,
});

describe('any sequence of frames', () => {
  it('from a source reads the same in any cut', () => {
    fc.assert(
      fc.property(sourceStream, cuts, ({ bytes, types }, lengths) => {
        const whole = readAll('target', [bytes]) as { type: number }[];
        const content = whole
          .map(({ type }) => type)
          .filter((type) => type === FRAME_BATCH || type === FRAME_PATCH);
        expect(content).toEqual(types);
        expect(readAll('target', cut(bytes, lengths))).toEqual(whole);
      }),
      { numRuns: 300 },
    );
  });

  it('from a target reads the same in any cut', () => {
    fc.assert(
      fc.property(targetStream, cuts, ({ bytes }, lengths) => {
        const whole = readAll('source', [bytes]);
        expect(whole.length).toBeGreaterThanOrEqual(2);
        expect(readAll('source', cut(bytes, lengths))).toEqual(whole);
      }),
      { numRuns: 300 },
    );
  });
});

/** Changes of a stream: a byte overwritten, a range removed, bytes put in, the end cut off. */
const mutation = fc.oneof(
  fc.record({ kind: fc.constant('set' as const), at: fc.nat(), value: fc.nat(255) }),
  fc.record({ kind: fc.constant('head' as const), at: fc.nat(120), value: fc.nat(255) }),
  fc.record({ kind: fc.constant('remove' as const), at: fc.nat(), value: fc.nat(50) }),
  fc.record({ kind: fc.constant('insert' as const), at: fc.nat(), value: fc.nat(255) }),
  fc.record({ kind: fc.constant('cut' as const), at: fc.nat(), value: fc.nat(255) }),
);

function mutate(bytes: Buffer, changes: { kind: string; at: number; value: number }[], base: number): Buffer {
  let out = Buffer.from(bytes);
  for (const { kind, at, value } of changes) {
    if (out.length <= base) break;
    const where = base + (at % (out.length - base));
    if (kind === 'set' || kind === 'head') out[where] = value;
    else if (kind === 'remove') out = Buffer.concat([out.subarray(0, where), out.subarray(where + value)]);
    else if (kind === 'insert')
      out = Buffer.concat([out.subarray(0, where), Buffer.alloc(value, value), out.subarray(where)]);
    else out = Buffer.from(out.subarray(0, where));
  }
  return out;
}

// One store for all runs; its margin must stay untouched, which stands for "never out of bounds".
const store = Buffer.alloc(MAX_RECONSTRUCTED_BYTES + 4096, 0x3c);
const margin = Buffer.alloc(4096, 0x3c);

/** Reads and decodes all there is; returns the LinkError that ended it, if one did. Anything else is thrown. */
function consume(role: Role, chunks: readonly Buffer[]): LinkError | undefined {
  const decoder = new BatchDecoder(VOLUME_SIZES);
  const patches = new PatchDecoder();
  const decoded = new DecodedBatch();
  let held = -1;
  const reader = new FrameReader<Role>(
    {
      onFrame: (frame: FrameAt<Role>) => {
        if (frame.type === FRAME_BATCH) {
          held = frame.number;
          decoder.decode(frame, store.subarray(0, frame.reconstructedBytes), decoded);
          expect(decoded.runCount).toBeLessThanOrEqual(decoded.pageCount);
        } else if (frame.type === FRAME_PATCH && frame.number === held) patches.apply(frame, decoded, store);
      },
    },
    role,
  );
  try {
    for (const chunk of chunks) reader.push(chunk);
  } catch (error) {
    if (!(error instanceof LinkError)) throw error;
    expect(error.code).toMatch(/^NASMIG_LINK_/);
    return error;
  } finally {
    expect(store.subarray(MAX_RECONSTRUCTED_BYTES).equals(margin)).toBe(true);
  }
  return undefined;
}

describe('a hostile stream', () => {
  it('from a source: valid frames with bytes changed', () => {
    const codes = new Set<string>();
    fc.assert(
      fc.property(
        sourceStream,
        fc.array(mutation, { minLength: 1, maxLength: 6 }),
        cuts,
        ({ bytes }, changes, lengths) => {
          // Every other stream keeps its HELLO, or hardly any would be read further.
          const base = changes.length % 2 === 0 ? 0 : SAMPLE_SOURCE_HELLO.length;
          const error = consume('target', cut(mutate(bytes, changes, base), lengths));
          if (error !== undefined) codes.add(error.code);
        },
      ),
      { numRuns: 800 },
    );
    // The mutations reach past the reader into operations and compressed parts.
    expect(codes).toContain('NASMIG_LINK_BAD_FRAME');
    expect(codes).toContain('NASMIG_LINK_BAD_OPS');
    expect(codes).toContain('NASMIG_LINK_BAD_ZSTD');
  });

  it('from a target', () => {
    fc.assert(
      fc.property(
        targetStream,
        fc.array(mutation, { minLength: 1, maxLength: 6 }),
        cuts,
        ({ bytes }, changes, lengths) => {
          consume(
            'source',
            cut(mutate(bytes, changes, changes.length % 2 === 0 ? 0 : targetHello.length), lengths),
          );
        },
      ),
      { numRuns: 800 },
    );
  });

  it('of any bytes behind HELLO', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), cuts, (bytes, lengths) => {
        consume('target', cut(Buffer.concat([SAMPLE_SOURCE_HELLO, bytes]), lengths));
        consume('source', cut(Buffer.concat([targetHello, bytes]), lengths));
        consume('target', cut(bytes.length > 0 ? bytes : Buffer.of(0), lengths));
      }),
      { numRuns: 800 },
    );
  });

  it('of any operations in a consistent frame', () => {
    // Operations close to valid ones: mostly small numbers.
    const ops = fc.array(fc.oneof(fc.nat(12), fc.nat(255)), { minLength: 2, maxLength: 48 });
    let accepted = 0;
    fc.assert(
      fc.property(ops, fc.integer({ min: 0, max: 3 }), (list, literalPages) => {
        const meta = Buffer.concat([Buffer.from(list), Buffer.alloc(20)]);
        const body = Buffer.alloc(32);
        const fields = [
          0,
          3 * PAGE_BYTES + 20,
          3,
          list.length,
          meta.length,
          meta.length,
          literalPages * PAGE_BYTES,
          literalPages * PAGE_BYTES,
        ];
        for (const [i, value] of fields.entries()) body.writeUInt32BE(value, i * 4);
        const header = Buffer.from('0200000000000000', 'hex');
        const frame = [body, meta, Buffer.alloc(literalPages * PAGE_BYTES), Buffer.alloc(16)];
        header.writeUInt32BE(
          frame.reduce((sum, part) => sum + part.length, 0),
          4,
        );
        const error = consume('target', [Buffer.concat([SAMPLE_SOURCE_HELLO, header, ...frame])]);
        if (error === undefined) accepted++;
        else expect(error.code).toBe('NASMIG_LINK_BAD_OPS');
      }),
      { numRuns: 3000 },
    );
    expect(accepted).toBeLessThan(3000);
  });

  it('holds at most its stated memory, whatever lengths it announces', () => {
    const announce = fc.record({
      type: fc.integer({ min: 0, max: 13 }),
      bytes: fc.nat(2 ** 32 - 1),
      sent: fc.nat(3000),
    });
    fc.assert(
      fc.property(fc.array(announce, { minLength: 1, maxLength: 5 }), (list) => {
        const before = process.memoryUsage().arrayBuffers;
        const stream: Buffer[] = [SAMPLE_SOURCE_HELLO];
        for (const { type, bytes, sent } of list) {
          const header = Buffer.alloc(8);
          header[0] = type;
          header.writeUInt32BE(bytes % 2 === 0 ? bytes % (MAX_FRAME_BODY_BYTES + 1) : bytes, 4);
          stream.push(header, Buffer.alloc(sent));
        }
        const reader = new FrameReader<'target'>({ onFrame: () => {} }, 'target');
        try {
          for (const chunk of stream) reader.push(chunk);
        } catch (error) {
          if (!(error instanceof LinkError)) throw error;
        }
        const own = list.reduce((sum, { sent }) => sum + sent, 64 * 1024);
        expect(process.memoryUsage().arrayBuffers - before).toBeLessThanOrEqual(
          2 * MAX_FRAME_BODY_BYTES + own,
        );
      }),
      { numRuns: 300 },
    );
  });
});
