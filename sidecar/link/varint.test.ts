// Varints at every length boundary, and the forms that are refused.
import { describe, expect, it } from 'vitest';
import { MAX_VARINT, unzigzag, VarintReader, writeVarint, zigzag } from './varint.ts';

function read(hex: string): number {
  const reader = new VarintReader();
  const bytes = Buffer.from(hex, 'hex');
  reader.reset(bytes, 0, bytes.length);
  return reader.next();
}

describe('a varint', () => {
  it.each([
    [0, '00'],
    [127, '7f'],
    [128, '8001'],
    [16383, 'ff7f'],
    [16384, '808001'],
    [2 ** 28 - 1, 'ffffff7f'],
    [2 ** 28, '8080808001'],
    [2 ** 31 - 1, 'ffffffff07'],
    [2 ** 31, '8080808008'],
    [2 ** 32, '8080808010'],
    [MAX_VARINT, 'ffffffff7f'],
  ])('%i', (value, hex) => {
    const out = Buffer.alloc(5);
    expect(out.subarray(0, writeVarint(out, 0, value)).toString('hex')).toBe(hex);
    expect(read(hex)).toBe(value);
  });

  it.each([['', '80', '808080', '8000', 'ff00', 'ffffffffff', 'ffffffffff01', '8080808000']].flat())(
    '%s is refused',
    (hex) => {
      expect(read(hex)).toBe(-1);
    },
  );

  it('is not read past its range', () => {
    const reader = new VarintReader();
    reader.reset(Buffer.from('018001', 'hex'), 0, 2);
    expect(reader.next()).toBe(1);
    expect(reader.done).toBe(false);
    expect(reader.next()).toBe(-1);
  });

  it('signed', () => {
    expect([0, -1, 1, -2, 2].map(zigzag)).toEqual([0, 1, 2, 3, 4]);
    for (const value of [0, 1, -1, 2 ** 32, -(2 ** 32)]) expect(unzigzag(zigzag(value))).toBe(value);
    expect(Object.is(unzigzag(0), 0)).toBe(true);
  });
});
