import { describe, expect, it } from 'vitest';
import type { RamBlock, RamBlocks } from '../stream/ram-blocks.ts';
import { SeenPages } from './seen-pages.ts';

function listed(...pageCounts: number[]): RamBlocks {
  const all: RamBlock[] = pageCounts.map((pageCount, index) => ({ index, name: `block${index}`, pageCount }));
  return {
    all,
    isListed: true,
    totalPages: pageCounts.reduce((sum, n) => sum + n, 0),
  } as unknown as RamBlocks;
}

describe('SeenPages', () => {
  it('counts each page once per RAMBlock', () => {
    const seen = new SeenPages(listed(100, 100));
    expect(seen.mark(0, Uint32Array.of(0, 31, 32, 99), 4)).toBe(4);
    expect(seen.mark(0, Uint32Array.of(31, 33), 2)).toBe(1);
    expect(seen.mark(1, Uint32Array.of(31), 1)).toBe(1);
  });

  it('looks only at the first count numbers', () => {
    expect(new SeenPages(listed(100)).mark(0, Uint32Array.of(1, 2, 3), 1)).toBe(1);
  });

  it('takes a page or two again among others for strays, and alone only a few times', () => {
    const seen = new SeenPages(listed(100));
    expect(Array.from({ length: 1000 }, () => seen.isStray(2, 128))).not.toContain(false);
    expect(seen.isStray(3, 128)).toBe(false);
    const alone = Array.from({ length: 100 }, () => seen.isStray(1, 1));
    expect(alone.filter(Boolean)).toHaveLength(16);
    expect(alone[0]).toBe(true);
    expect(seen.isStray(1, 128)).toBe(true);
  });

  it('says that it does not know before the list came', () => {
    expect(
      new SeenPages({ all: [], isListed: false, totalPages: 0 } as unknown as RamBlocks).mark(
        0,
        Uint32Array.of(1),
        1,
      ),
    ).toBe(-1);
  });

  it('takes every page for one that comes again where the list is too large to track', () => {
    const seen = new SeenPages(listed(2 ** 29, 1));
    expect(seen.mark(0, Uint32Array.of(1, 2), 2)).toBe(0);
    expect(seen.mark(1, Uint32Array.of(0), 1)).toBe(0);
  });
});
