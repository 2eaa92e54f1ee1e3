// When compression pays, and that hostile zstd frames end in a named error within stated memory.
import { randomBytes } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { compressIfWorth, decompressExactly } from './compression.ts';

const badZstd = expect.objectContaining({ code: 'NASMIG_LINK_BAD_ZSTD' });
const pattern = (bytes: number) => Buffer.alloc(bytes, 'a page that repeats itself ');

describe('compression', () => {
  it.each([256, 4096, 100_000, 2 ** 21])('pays for %i repeating bytes and comes back', (bytes) => {
    const input = pattern(bytes);
    const compressed = compressIfWorth(input);
    expect(compressed?.length).toBeLessThan(bytes / 4);
    expect(decompressExactly(compressed as Buffer, bytes, 'x').equals(input)).toBe(true);
  });

  it.each([256, 4096, 131_072, 2 ** 21])('does not pay for %i random bytes', (bytes) => {
    expect(compressIfWorth(randomBytes(bytes))).toBeUndefined();
  });

  it('is not tried for a few bytes', () => {
    expect(compressIfWorth(pattern(255))).toBeUndefined();
    expect(compressIfWorth(Buffer.alloc(0))).toBeUndefined();
  });
});

describe('decompression refuses', () => {
  const compressed = zstdCompressSync(pattern(10_000));

  it('bytes that are no zstd frame', () => {
    expect(() => decompressExactly(randomBytes(100), 10_000, 'x')).toThrow(badZstd);
    expect(() => decompressExactly(Buffer.of(1), 10_000, 'x')).toThrow(badZstd);
  });

  it('fewer bytes than announced', () => {
    expect(() => decompressExactly(compressed, 10_001, 'x')).toThrow(badZstd);
  });

  it('more bytes than announced', () => {
    expect(() => decompressExactly(compressed, 9_999, 'x')).toThrow(badZstd);
  });

  it('a frame that is cut', () => {
    expect(() => decompressExactly(compressed.subarray(0, -1), 10_000, 'x')).toThrow(badZstd);
  });

  it('a bomb, without its output being made', () => {
    const bomb = zstdCompressSync(Buffer.alloc(64 * 1024 * 1024));
    const before = process.memoryUsage();
    expect(() => decompressExactly(bomb, 4096, 'x')).toThrow(badZstd);
    const after = process.memoryUsage();
    expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(1024 * 1024);
    expect(after.rss - before.rss).toBeLessThan(16 * 1024 * 1024);
  });

  it('a window above 2 MiB', () => {
    const input = Buffer.concat([randomBytes(3 * 2 ** 20), Buffer.alloc(2 ** 20)]);
    const params = { [constants.ZSTD_c_windowLog]: 27, [constants.ZSTD_c_contentSizeFlag]: 0 };
    const wide = zstdCompressSync(input, { params });
    expect(() => decompressExactly(wide, input.length, 'x')).toThrow(/too much memory|window/i);
  });
});
