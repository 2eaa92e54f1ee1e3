// When compression pays, that hostile zstd frames end in a named error within stated memory, and that no frame is touched by the one
// before it in the same context. All of it both ways: with contexts that are used again, and with Node's own calls.
import { createHook } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { constants, type ZstdOptions, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { Compressor, Decompressor, roomBytes } from './compression.ts';
import { statesContentSize } from './zstd-frame.ts';

const MIB = 2 ** 20;
const badZstd = expect.objectContaining({ code: 'NASMIG_LINK_BAD_ZSTD' });
const pattern = (bytes: number) => Buffer.alloc(bytes, 'a page that repeats itself ');
/** Shrinks to about two thirds, and to other bytes at each level. */
function text(bytes: number): Buffer {
  const out = Buffer.allocUnsafe(bytes);
  for (let i = 0, state = bytes; i < bytes; i++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    out[i] = 97 + ((state >>> 16) % ((state >>> 28) + 2));
  }
  return out;
}

const frameOf = (bytes: Buffer, params: ZstdOptions['params'] = {}) => zstdCompressSync(bytes, { params });

/** A frame of one block that stands for itself, and whatever the header says: contents as they are, each from a window of 2^windowLog. */
function rawFrame(contents: Buffer, windowLog: number, statedBytes?: number): Buffer {
  const head = Buffer.from([
    0x28,
    0xb5,
    0x2f,
    0xfd,
    statedBytes === undefined ? 0 : 0x80,
    (windowLog - 10) << 3,
  ]);
  const stated = Buffer.alloc(statedBytes === undefined ? 0 : 4);
  if (statedBytes !== undefined) stated.writeUInt32LE(statedBytes);
  const blockHeader = Buffer.alloc(3);
  blockHeader.writeUIntLE((contents.length << 3) | 1, 0, 3);
  return Buffer.concat([head, stated, blockHeader, contents]);
}

function decompress(decompressor: Decompressor, stored: Buffer, expectedBytes: number): Buffer {
  return decompressor.decompressExactly(stored, expectedBytes, 'x', Buffer.alloc(roomBytes(expectedBytes)));
}

// Node's own contexts as async_hooks count them.
let contexts = 0;
const hook = createHook({
  init: (_id, type) => {
    if (type === 'ZLIB') contexts++;
  },
});
afterEach(() => hook.disable());
function countContexts(): void {
  contexts = 0;
  hook.enable();
}

describe.each([
  ['a context that is used again', true],
  ["Node's own calls", false],
])('compression with %s', (_name, reuse) => {
  const compressor = new Compressor(reuse);
  const decompressor = new Decompressor(reuse);

  it.each([256, 4096, 100_000, 2 * MIB])('pays for %i repeating bytes and comes back', (bytes) => {
    const input = pattern(bytes);
    const compressed = compressor.compressIfWorth(input);
    expect(compressed?.length).toBeLessThan(bytes / 4);
    expect(decompress(decompressor, compressed as Buffer, bytes).equals(input)).toBe(true);
  });

  it.each([256, 4096, 131_072, 2 * MIB])('does not pay for %i random bytes', (bytes) => {
    expect(compressor.compressIfWorth(randomBytes(bytes))).toBeUndefined();
  });

  it('is not tried for a few bytes', () => {
    expect(compressor.compressIfWorth(pattern(255))).toBeUndefined();
    expect(compressor.compressIfWorth(Buffer.alloc(0))).toBeUndefined();
  });

  it('makes every frame as if it were the first: its level, its size stated, nothing of the frames before', () => {
    for (const bytes of [3000, 144 * 1024, 300, 700_001, 3000, 2 * MIB, 16_384, 100_000]) {
      const input = text(bytes);
      const compressed = compressor.compressIfWorth(input) as Buffer;
      expect(statesContentSize(compressed)).toBe(true);
      expect(zstdDecompressSync(compressed).equals(input)).toBe(true);
      expect(decompress(decompressor, compressed, bytes).equals(input)).toBe(true);
      // Where one block is made of all, the bytes too are those of a context that is made for it.
      if (bytes <= 100_000)
        expect(compressed.equals(frameOf(input, { [constants.ZSTD_c_compressionLevel]: 1 }))).toBe(true);
    }
  });

  it('goes on after its memory was given back', () => {
    compressor.release();
    decompressor.release();
    compressor.release();
    const input = text(5000);
    const compressed = Buffer.from(compressor.compressIfWorth(input) as Buffer);
    expect(decompress(decompressor, compressed, 5000).equals(input)).toBe(true);
  });
});

// This is what it is for: fails when a Node release does it in another way.
describe('in this Node', () => {
  it('all frames of a compressor are made by one context, into one memory', () => {
    const compressor = new Compressor();
    countContexts();
    const memory = new Set<ArrayBufferLike>();
    for (let i = 0; i < 20; i++) {
      const compressed = compressor.compressIfWorth(text(3000 + 7000 * i)) as Buffer;
      expect(compressed.length).toBeLessThan(3000 + 7000 * i);
      memory.add(compressed.buffer);
    }
    expect(contexts).toBe(1);
    expect(memory.size).toBe(1);
    // Given back, a new one is made.
    compressor.release();
    compressor.compressIfWorth(text(3000));
    expect(contexts).toBe(2);
  });

  it('all frames of a decompressor are taken apart by one context, into the room it was given', () => {
    const decompressor = new Decompressor();
    const frames = Array.from({ length: 20 }, (_, i) => frameOf(text(3000 + 7000 * i)));
    const room = Buffer.alloc(roomBytes(200_000));
    countContexts();
    for (const [i, frame] of frames.entries()) {
      const bytes = decompressor.decompressExactly(frame, 3000 + 7000 * i, 'x', room);
      expect(bytes.buffer === room.buffer).toBe(true);
      expect(bytes.equals(text(3000 + 7000 * i))).toBe(true);
    }
    expect(contexts).toBe(1);
  });

  it('a context that failed is not used again', () => {
    const decompressor = new Decompressor();
    const frame = frameOf(text(5000));
    countContexts();
    decompress(decompressor, frame, 5000);
    expect(() => decompress(decompressor, frame, 4999)).toThrow(badZstd);
    decompress(decompressor, frame, 5000);
    expect(contexts).toBe(2);
  });

  it('a context that took a window for a frame without stated size is not kept', () => {
    const decompressor = new Decompressor();
    const frame = frameOf(text(5000), { [constants.ZSTD_c_contentSizeFlag]: 0 });
    countContexts();
    for (let i = 0; i < 3; i++) expect(decompress(decompressor, frame, 5000).equals(text(5000))).toBe(true);
    expect(contexts).toBe(3);
  });
});

describe.each([
  ['a context that is used again', true],
  ["Node's own calls", false],
])('decompression with %s refuses', (_name, reuse) => {
  const decompressor = new Decompressor(reuse);
  const honest = text(10_000);
  const frame = frameOf(honest);
  const withChecksum = frameOf(honest, { [constants.ZSTD_c_checksumFlag]: 1 });
  const withoutSize = frameOf(honest, { [constants.ZSTD_c_contentSizeFlag]: 0 });
  const wide = { [constants.ZSTD_c_windowLog]: 27, [constants.ZSTD_c_contentSizeFlag]: 0 };
  const skippable = Buffer.from('502a4d1804000000deadbeef', 'hex');
  const emptyFrame = frameOf(Buffer.alloc(0));
  const flipped = Buffer.from(frame);
  flipped[12] = (flipped[12] as number) ^ 0xff;
  const checksumFlipped = Buffer.from(withChecksum);
  checksumFlipped[withChecksum.length - 1] = (withChecksum.at(-1) as number) ^ 1;
  const more = (...parts: (Buffer | string)[]) =>
    Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'hex') : part)));

  it.each<[string, Buffer, number]>([
    ['nothing', Buffer.alloc(0), 10_000],
    ['one byte', Buffer.of(1), 10_000],
    ['random bytes', randomBytes(100), 10_000],
    ['fewer bytes than announced', frame, 10_001],
    ['fewer bytes than announced, size not stated', withoutSize, 10_001],
    ['one byte more than announced', frame, 9_999],
    ['one byte more than announced, size not stated', withoutSize, 9_999],
    ['many bytes more than announced', frame, 4096],
    ['many bytes more than announced, size not stated', withoutSize, 4096],
    ['a frame whose last byte is missing', frame.subarray(0, -1), 10_000],
    ['a frame whose last byte is missing, size not stated', withoutSize.subarray(0, -1), 10_000],
    ['a frame whose second half is missing', frame.subarray(0, frame.length >> 1), 10_000],
    ['a frame of which there is only the header', frame.subarray(0, 7), 10_000],
    // All 10,000 bytes are there; only the end of the frame is not.
    ['a frame whose checksum is cut', withChecksum.subarray(0, -1), 10_000],
    ['a frame without its checksum', withChecksum.subarray(0, -4), 10_000],
    ['a frame with a wrong checksum', checksumFlipped, 10_000],
    ['a frame with damage where a block begins', flipped, 10_000],
    ['a frame of another size than it states', rawFrame(honest, 17, 9_999), 10_000],
    ['a frame of more than it states', rawFrame(honest, 17, 5), 10_000],
    ['a frame that states 4 GiB', rawFrame(honest, 17, 0xffffffff), 10_000],
    ['a zero after the frame', more(frame, '00'), 10_000],
    ['garbage after the frame', more(frame, randomBytes(50)), 10_000],
    // zstd takes these for the beginning of the next frame and reports nothing: it would be put together with the next batch's.
    ['the first byte of another frame', more(frame, '28'), 10_000],
    ['the first bytes of another frame', more(frame, '28b52f'), 10_000],
    ['the magic of another frame', more(frame, '28b52ffd'), 10_000],
    ['the first byte of a skippable frame', more(frame, '50'), 10_000],
    ['a header of a skippable frame', more(frame, '502a4d1800000001'), 10_000],
    ['two frames that have the right size together', more(frame, frame), 20_000],
    ['two frames, the first of the right size', more(frame, frame), 10_000],
    ['an empty frame after the frame', more(frame, emptyFrame), 10_000],
    ['an empty frame before the frame', more(emptyFrame, frame), 10_000],
    ['a skippable frame before the frame', more(skippable, frame), 10_000],
    ['a skippable frame after the frame', more(frame, skippable), 10_000],
    ['a skippable frame', skippable, 10_000],
    ['an empty frame', emptyFrame, 10_000],
    ['a window above 2 MiB', rawFrame(honest, 22), 10_000],
    ['the widest window', rawFrame(honest, 41), 10_000],
    ['a window of 128 MiB that is filled', frameOf(text(3 * MIB), wide), 3 * MIB],
    ['a bomb', frameOf(Buffer.alloc(64 * MIB)), 4096],
    [
      'a bomb, size not stated',
      frameOf(Buffer.alloc(64 * MIB), { [constants.ZSTD_c_contentSizeFlag]: 0 }),
      4096,
    ],
  ])('%s, and the next frame does not notice', (_what, hostile, expectedBytes) => {
    const room = Buffer.alloc(roomBytes(expectedBytes) + 1000, 0xcc);
    expect(() => decompressor.decompressExactly(hostile, expectedBytes, 'x', room)).toThrow(badZstd);
    // Nothing is written past the one byte by which too much is noticed.
    expect(room.subarray(roomBytes(expectedBytes)).every((byte) => byte === 0xcc)).toBe(true);
    expect(decompress(decompressor, frame, 10_000).equals(honest)).toBe(true);
    expect(decompress(decompressor, withoutSize, 10_000).equals(honest)).toBe(true);
    expect(decompress(decompressor, withChecksum, 10_000).equals(honest)).toBe(true);
  });

  it('a window above 2 MiB by name, also when all windows before were narrow', () => {
    decompress(decompressor, frame, 10_000);
    expect(() => decompress(decompressor, rawFrame(honest, 22), 10_000)).toThrow(/too much memory/);
    expect(() => decompress(decompressor, rawFrame(honest, 22), 10_000)).toThrow(/too much memory/);
    expect(decompress(decompressor, rawFrame(honest, 21), 10_000).equals(honest)).toBe(true);
  });

  it('a frame at every place where it can be cut', () => {
    const room = Buffer.alloc(roomBytes(10_000));
    for (const whole of [frame, withoutSize, withChecksum]) {
      for (let end = 0; end < whole.length; end += end < 20 || end > whole.length - 20 ? 1 : 97) {
        const cut = whole.subarray(0, end);
        expect(() => decompressor.decompressExactly(cut, 10_000, 'x', room)).toThrow(badZstd);
      }
      expect(decompressor.decompressExactly(whole, 10_000, 'x', room).equals(honest)).toBe(true);
    }
  });

  it('bombs and wide windows, without their output or window being made or kept', () => {
    const bomb = frameOf(Buffer.alloc(64 * MIB), { [constants.ZSTD_c_contentSizeFlag]: 0 });
    // It needs no window, because its size is stated and what comes out goes straight into the room.
    const needless = rawFrame(honest, 31, honest.length);
    const hostile = rawFrame(honest, 31);
    decompress(decompressor, frame, 10_000);
    const before = process.memoryUsage();
    for (let i = 0; i < 20; i++) {
      expect(() => decompress(decompressor, bomb, 4096)).toThrow(badZstd);
      expect(() => decompress(decompressor, hostile, 10_000)).toThrow(badZstd);
      expect(decompress(decompressor, needless, 10_000).equals(honest)).toBe(true);
    }
    const after = process.memoryUsage();
    expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(2 * MIB);
    expect(after.rss - before.rss).toBeLessThan(16 * MIB);
  });

  it('a room that has no byte to spare', () => {
    expect(() => decompressor.decompressExactly(frame, 10_000, 'x', Buffer.alloc(10_000))).toThrow(
      expect.objectContaining({ code: 'NASMIG_LINK_MISUSE' }),
    );
  });
});
