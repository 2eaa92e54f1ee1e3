import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { countNonZeroBlocks, countPagesOnDisk } from './memory-statistics.ts';

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

it('counts blocks that are not zero', async () => {
  const disk = await file('disk', [page(0), page(1), page(0, 1), page(0)]);
  expect(await countNonZeroBlocks(disk)).toBe(2);
});
