// The outer form of frames, byte by byte. That it agrees with zstd on any frame is in compression.property.test.ts.
import { constants, zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { isOneFrame, statesContentSize } from './zstd-frame.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');

describe('one frame', () => {
  it.each([
    ['single segment, size of 1 byte, empty', '28b52ffd 20 00 010000'],
    ['single segment, size of 2 bytes, one raw block', '28b52ffd 60 0000 110000 6162'],
    ['window, no size', '28b52ffd 00 58 110000 6162'],
    ['window, size of 4 bytes', '28b52ffd 80 58 02000000 110000 6162'],
    ['window, size of 8 bytes', '28b52ffd c0 58 0200000000000000 110000 6162'],
    ['dictionary of 1 byte', '28b52ffd 21 07 02 110000 6162'],
    ['dictionary of 2 bytes', '28b52ffd 22 0707 02 110000 6162'],
    ['dictionary of 4 bytes', '28b52ffd 23 07070707 02 110000 6162'],
    ['checksum', '28b52ffd 04 58 110000 6162 00000000'],
    ['a run of 100,000 equal bytes', '28b52ffd 00 58 03350c 61'],
    ['three blocks', '28b52ffd 00 58 080000 61 420000 62 010000'],
  ])('%s', (_what, text) => {
    const frame = hex(text);
    expect(isOneFrame(frame)).toBe(true);
    for (let end = 0; end < frame.length; end++) expect(isOneFrame(frame.subarray(0, end))).toBe(false);
    expect(isOneFrame(Buffer.concat([frame, hex('00')]))).toBe(false);
    expect(isOneFrame(Buffer.concat([frame, frame]))).toBe(false);
  });

  it.each([
    ['another magic', '28b52ffe 20 00 010000'],
    ['a skippable frame', '502a4d18 04000000 deadbeef'],
    ['a block of the reserved type', '28b52ffd 20 00 070000'],
    ['a block longer than all', '28b52ffd 20 00 f9ffff 61'],
  ])('is not %s', (_what, text) => {
    expect(isOneFrame(hex(text))).toBe(false);
  });
});

describe('the size of the content is stated', () => {
  it.each([
    ['in none of a small frame', 50, { [constants.ZSTD_c_contentSizeFlag]: 0 }, false],
    ['in none of a large frame', 500_000, { [constants.ZSTD_c_contentSizeFlag]: 0 }, false],
    ['in one byte', 50, {}, true],
    ['in two bytes', 5000, {}, true],
    ['in four bytes', 500_000, {}, true],
  ])('%s', (_where, bytes, params, isStated) => {
    expect(statesContentSize(zstdCompressSync(Buffer.alloc(bytes, 'ab'), { params }))).toBe(isStated);
  });
});
