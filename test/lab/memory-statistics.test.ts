import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { compareDumps, countNonZeroBlocks, countPagesOnDisk } from './memory-statistics.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'memory-'));
});
afterEach(() => rm(directory, { recursive: true }));

function page(fill: number, last = fill): Buffer {
  const bytes = Buffer.alloc(4096, fill);
  bytes[4095] = last;
  return bytes;
}

async function file(name: string, pages: Buffer[]): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, Buffer.concat(pages));
  return path;
}

describe('countPagesOnDisk', () => {
  it('counts pages with the content of a block, and no zero page', async () => {
    const disk = await file('disk', [page(0), page(1), page(2), page(3)]);
    // Zero; on the disk; on the disk again; zero but for the last byte; different in the last byte.
    const memory = await file('memory', [page(0), page(2), page(2), page(0, 1), page(1, 9)]);
    expect(await countPagesOnDisk(memory, disk)).toEqual({ pages: 5, nonZeroPages: 4, pagesOnDisk: 2 });
  });

  it('takes no unaligned content for a block', async () => {
    const disk = await file('disk', [Buffer.alloc(2048, 1), page(7), Buffer.alloc(2048, 1)]);
    expect(await countPagesOnDisk(await file('memory', [page(7)]), disk)).toMatchObject({ pagesOnDisk: 0 });
  });

  it('counts a guest without a disk', async () => {
    expect(await countPagesOnDisk(await file('memory', [page(0), page(7)]), null)).toEqual({
      pages: 2,
      nonZeroPages: 1,
      pagesOnDisk: 0,
    });
  });
});

describe('compareDumps', () => {
  it('tells how many pages differ, and where the first lie', async () => {
    const a = await file(
      'a',
      Array.from({ length: 3000 }, () => page(1)),
    );
    const b = await file(
      'b',
      Array.from({ length: 3000 }, (_, at) => page(1, at === 2 || at >= 2980 ? 9 : 1)),
    );
    expect(await compareDumps(a, a)).toEqual({ pages: 0, firstAddresses: [] });
    const { pages, firstAddresses } = await compareDumps(a, b);
    expect(pages).toBe(21);
    expect(firstAddresses.slice(0, 3)).toEqual([2 * 4096, 2980 * 4096, 2981 * 4096]);
    expect(firstAddresses).toHaveLength(10);
  });

  it('refuses dumps of different lengths', async () => {
    const [a, b] = [await file('a', [page(1)]), await file('b', [page(1), page(1)])];
    await expect(compareDumps(a, b)).rejects.toThrow(/not the same length/);
  });
});

it('counts blocks that are not zero', async () => {
  const disk = await file('disk', [page(0), page(1), page(0, 1), page(0)]);
  expect(await countNonZeroBlocks(disk)).toBe(2);
});
