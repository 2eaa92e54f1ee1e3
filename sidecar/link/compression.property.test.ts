// Any frame that zstd makes is seen as one frame, and nothing else that can be made of it by cutting and adding; contexts that are used
// again answer to any sequence of good and damaged frames what Node's own calls answer to each.
import { constants, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Compressor, Decompressor, roomBytes } from './compression.ts';
import { LinkError } from './link-errors.ts';
import { seededRandom } from './link-samples.ts';
import { isOneFrame } from './zstd-frame.ts';

/** Bytes of several kinds: runs, text, noise. */
const contents = fc
  .record({
    bytes: fc.oneof(fc.integer({ min: 1, max: 3000 }), fc.integer({ min: 3000, max: 400_000 })),
    kinds: fc.integer({ min: 1, max: 256 }),
    run: fc.integer({ min: 1, max: 50 }),
    seed: fc.integer(),
  })
  .map(({ bytes, kinds, run, seed }) => {
    const random = seededRandom(seed);
    const out = Buffer.alloc(bytes);
    for (let at = 0; at < bytes; ) {
      const value = Math.floor(random() * kinds);
      for (let end = Math.min(bytes, at + 1 + Math.floor(random() * run)); at < end; at++) out[at] = value;
    }
    return out;
  });

const parameters = fc.record({
  [constants.ZSTD_c_compressionLevel]: fc.constantFrom(-5, 1, 3, 9),
  [constants.ZSTD_c_checksumFlag]: fc.constantFrom(0, 1),
  [constants.ZSTD_c_contentSizeFlag]: fc.constantFrom(0, 1),
  [constants.ZSTD_c_windowLog]: fc.constantFrom(10, 17, 21, 23),
});

interface Sent {
  readonly stored: Buffer;
  readonly expectedBytes: number;
}

/** A frame, or what a peer could make of it. */
const sent: fc.Arbitrary<Sent> = fc
  .record({
    content: contents,
    params: parameters,
    damage: fc.constantFrom('none', 'none', 'flip', 'cut', 'append', 'twice', 'more', 'fewer'),
    at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
    byte: fc.integer({ min: 1, max: 255 }),
    tail: fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 12 }),
      fc.constantFrom(Buffer.of(0x28), Buffer.of(0x28, 0xb5)),
    ),
  })
  .map(({ content, params, damage, at, byte, tail }) => {
    const frame = zstdCompressSync(content, { params });
    const place = Math.floor(at * frame.length);
    const expectedBytes = content.length;
    switch (damage) {
      case 'flip':
        frame[place] = (frame[place] as number) ^ byte;
        return { stored: frame, expectedBytes };
      case 'cut':
        return { stored: frame.subarray(0, place), expectedBytes };
      case 'append':
        return { stored: Buffer.concat([frame, tail]), expectedBytes };
      case 'twice':
        return { stored: Buffer.concat([frame, frame]), expectedBytes: expectedBytes * (1 + (byte & 1)) };
      case 'more':
        return { stored: frame, expectedBytes: expectedBytes + byte };
      case 'fewer':
        return { stored: frame, expectedBytes: Math.max(1, expectedBytes - byte) };
      default:
        return { stored: frame, expectedBytes };
    }
  });

function answerOf(decompressor: Decompressor, { stored, expectedBytes }: Sent): Buffer | string {
  const room = Buffer.alloc(roomBytes(expectedBytes) + 64, 0xcc);
  try {
    return Buffer.from(decompressor.decompressExactly(stored, expectedBytes, 'x', room));
  } catch (error) {
    if (!(error instanceof LinkError)) throw error;
    return error.code;
  } finally {
    expect(room.subarray(roomBytes(expectedBytes)).every((byte) => byte === 0xcc)).toBe(true);
  }
}

describe('zstd', () => {
  it('frames are seen as one, cut ones and longer ones are not', () => {
    fc.assert(
      fc.property(
        contents,
        parameters,
        fc.double({ min: 0, max: 1, noNaN: true }),
        (content, params, part) => {
          const frame = zstdCompressSync(content, { params });
          expect(isOneFrame(frame)).toBe(true);
          expect(
            isOneFrame(frame.subarray(0, Math.min(frame.length - 1, Math.floor(frame.length * part)))),
          ).toBe(false);
          expect(isOneFrame(Buffer.concat([frame, Buffer.of(0x28)]))).toBe(false);
          expect(isOneFrame(Buffer.concat([frame, frame]))).toBe(false);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('one context answers to any sequence what a new one answers to each', () => {
    const reused = new Decompressor(true);
    const fresh = new Decompressor(false);
    fc.assert(
      fc.property(fc.array(sent, { minLength: 1, maxLength: 8 }), (sequence) => {
        for (const one of sequence) {
          const [answer, expected] = [answerOf(reused, one), answerOf(fresh, one)];
          if (typeof answer === 'string' || typeof expected === 'string') expect(answer).toBe(expected);
          else expect(answer.equals(expected)).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('what one context compresses comes back, whatever it compressed before', () => {
    const compressor = new Compressor(true);
    const decompressor = new Decompressor(true);
    fc.assert(
      fc.property(fc.array(contents, { minLength: 1, maxLength: 8 }), (sequence) => {
        for (const content of sequence) {
          const compressed = compressor.compressIfWorth(content);
          if (compressed === undefined) continue;
          expect(compressed.length).toBeLessThanOrEqual(content.length * 0.9);
          const back = answerOf(decompressor, { stored: compressed, expectedBytes: content.length });
          expect((back as Buffer).equals(content)).toBe(true);
        }
      }),
      { numRuns: 200 },
    );
  });
});
