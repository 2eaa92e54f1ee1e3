// RESEND and PATCH together: the source finds the pages that differ, the target puts them right, whatever was wrong.
import { describe, expect, it } from 'vitest';
import { PageHasher, seedFromBytes } from '../index/page-hash.ts';
import { BatchDecoder, DecodedBatch } from './batch-decoder.ts';
import { BatchEncoder } from './batch-encoder.ts';
import { MAX_BATCH_PAGES, PAGE_BYTES, type PatchFrame, type ResendFields } from './frame-types.ts';
import { batchFrameOf, fillReferences, patchFrameOf, type SamplePage, samplePlan } from './link-samples.ts';
import { differingPages, digestPages } from './page-digest.ts';
import { PatchDecoder, PatchEncoder } from './patch-body.ts';

const hasher = () => new PageHasher(seedFromBytes(Buffer.from('0123456789abcdef', 'hex')));
const pages: SamplePage[] = Array.from({ length: 20 }, (_, i) => ({
  gap: 8,
  reference: i % 4 === 0 ? undefined : { volume: 0, block: i * 3 },
  random: i % 8 === 0,
}));
const plan = samplePlan(0, pages, 5, 9);

/** The batch as the target has it, right so far. */
function rebuilt() {
  const destination = Buffer.alloc(plan.reconstructed.length);
  const decoded = new DecodedBatch();
  new BatchDecoder([1000 * PAGE_BYTES]).decode(
    batchFrameOf(new BatchEncoder({ zstd: false }).encode(plan)),
    destination,
    decoded,
  );
  fillReferences(decoded, destination);
  return { destination, decoded };
}

function resendOf(destination: Buffer, decoded: DecodedBatch, missing: Uint8Array): ResendFields {
  const digests = Buffer.alloc(decoded.pageCount * 8, 0xff);
  digestPages(hasher(), destination, decoded.pageOffsets, decoded.pageCount, missing, digests);
  return { number: 0, attempt: 1, reason: 0, pageCount: decoded.pageCount, digests, missing };
}

function differing(resend: ResendFields): number[] {
  const out = new Uint32Array(MAX_BATCH_PAGES);
  const count = differingPages(hasher(), plan.reconstructed, plan.pageOffsets, plan.pageCount, resend, out);
  return [...out.subarray(0, count)];
}

function patchFor(positions: number[], zstd: boolean): PatchFrame {
  const { reconstructed, pageOffsets, tag } = plan;
  return patchFrameOf(
    new PatchEncoder({ zstd }).encode({
      number: 0,
      attempt: 1,
      reconstructed,
      pageOffsets,
      positions: Uint32Array.from(positions),
      count: positions.length,
      tag,
    }),
  );
}

describe('a batch with wrong and missing pages', () => {
  it.each([false, true])('is put right, zstd %s', (zstd) => {
    const { destination, decoded } = rebuilt();
    destination[(decoded.pageOffsets[3] as number) + 4095] = 0x77;
    destination.fill(
      0x99,
      decoded.pageOffsets[17] as number,
      (decoded.pageOffsets[17] as number) + PAGE_BYTES,
    );
    destination.fill(0, decoded.pageOffsets[10] as number, (decoded.pageOffsets[10] as number) + PAGE_BYTES);
    const missing = Buffer.alloc(3);
    missing[1] = 1 << 2;
    const positions = differing(resendOf(destination, decoded, missing));
    expect(positions).toEqual([3, 10, 17]);
    new PatchDecoder().apply(patchFor(positions, zstd), decoded, destination);
    expect(destination.equals(plan.reconstructed)).toBe(true);
  });

  it('has a digest of zero where a page is missing', () => {
    const { destination, decoded } = rebuilt();
    const { digests } = resendOf(destination, decoded, Buffer.from('010000', 'hex'));
    expect(Buffer.from(digests.subarray(0, 8)).toString('hex')).toBe('0000000000000000');
    const expected = hasher();
    expected.hash(plan.reconstructed, plan.pageOffsets[1] as number);
    expect(Buffer.from(digests).readInt32BE(8)).toBe(expected.hi);
    expect(Buffer.from(digests).readInt32BE(12)).toBe(expected.lo);
  });

  it('that is right has no differing pages, and can be sent whole', () => {
    const { destination, decoded } = rebuilt();
    expect(differing(resendOf(destination, decoded, Buffer.alloc(3)))).toEqual([]);
    for (let i = 0; i < decoded.pageCount; i++) {
      destination.fill(0, decoded.pageOffsets[i] as number, (decoded.pageOffsets[i] as number) + PAGE_BYTES);
    }
    new PatchDecoder().apply(
      patchFor(
        Array.from({ length: 20 }, (_, i) => i),
        true,
      ),
      decoded,
      destination,
    );
    expect(destination.equals(plan.reconstructed)).toBe(true);
  });
});

describe('refused', () => {
  const badPatch = expect.objectContaining({ code: 'NASMIG_LINK_BAD_PATCH' });
  const misuse = expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' });
  const apply = (frame: PatchFrame) => {
    const { destination, decoded } = rebuilt();
    new PatchDecoder().apply(frame, decoded, destination);
  };

  it('a RESEND of another number of pages', () => {
    const { destination, decoded } = rebuilt();
    const resend = { ...resendOf(destination, decoded, Buffer.alloc(3)), pageCount: 19 };
    expect(() => differing(resend)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_BAD_RESEND' }));
  });

  it.each([
    ['another batch', { ...patchFor([1], false), number: 1 }],
    ['a page the batch does not have', { ...patchFor([1], false), positions: Buffer.of(20) }],
    ['a second page past the end', { ...patchFor([1, 2], false), positions: Buffer.of(19, 0) }],
    ['a position that is cut', { ...patchFor([1], false), positions: Buffer.of(0x80) }],
    ['fewer positions than pages', { ...patchFor([1, 2], false), positions: Buffer.of(1) }],
    ['more positions than pages', { ...patchFor([1], false), positions: Buffer.of(1, 1) }],
  ])('a PATCH with %s', (_name, frame) => {
    expect(() => apply(frame)).toThrow(badPatch);
  });

  it('a PATCH whose pages do not decompress', () => {
    const frame = { ...patchFor([1], false), literalsAreZstd: true };
    expect(() => apply(frame)).toThrow(expect.objectContaining({ code: 'NASMIG_LINK_BAD_ZSTD' }));
  });

  it('a PATCH that cannot be', () => {
    expect(() => patchFor([], false)).toThrow(misuse);
    expect(() => patchFor([2, 1], false)).toThrow(misuse);
    expect(() => patchFor([1, 1], false)).toThrow(misuse);
    expect(() => patchFor([20], false)).toThrow(misuse);
  });

  it('digests without room', () => {
    const { destination, decoded } = rebuilt();
    const tooSmall = () =>
      digestPages(hasher(), destination, decoded.pageOffsets, 20, Buffer.alloc(3), Buffer.alloc(159));
    expect(tooSmall).toThrow(misuse);
  });
});
