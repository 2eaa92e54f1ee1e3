// How much of a guest's memory lies on its disk: the figure that says what a NAS-aware migration can save at best.
// Counted from a raw dump of the guest's memory and the raw disk image, apart from the system under test.

import { type FileHandle, open } from 'node:fs/promises';
import createXxhash from 'xxhash-wasm';

const PAGE_BYTES = 4096;
/** 8 MiB a read: few calls, little memory. */
const CHUNK_PAGES = 2048;
const MOST_ADDRESSES = 10;

export interface MemoryStatistics {
  pages: number;
  nonZeroPages: number;
  /** Non-zero pages with the content of some aligned 4 KiB block of the disk. */
  pagesOnDisk: number;
}

/** Compares by 64-bit hashes: among a million blocks a false match is less likely than 1 in 10 million. */
export async function countPagesOnDisk(
  memoryPath: string,
  diskPath: string | null,
): Promise<MemoryStatistics> {
  const { h64Raw } = await createXxhash();
  const blocks = new Set<bigint>();
  if (diskPath !== null) {
    await forEachPage(diskPath, (page) => {
      if (!isZero(page)) blocks.add(h64Raw(page));
    });
  }
  const statistics: MemoryStatistics = { pages: 0, nonZeroPages: 0, pagesOnDisk: 0 };
  await forEachPage(memoryPath, (page) => {
    statistics.pages++;
    if (isZero(page)) return;
    statistics.nonZeroPages++;
    if (blocks.has(h64Raw(page))) statistics.pagesOnDisk++;
  });
  return statistics;
}

/** Blocks of a raw disk image that are not zero. */
export async function countNonZeroBlocks(diskPath: string): Promise<number> {
  let count = 0;
  await forEachPage(diskPath, (block) => {
    if (!isZero(block)) count++;
  });
  return count;
}

/** Pages in which two dumps of equal length differ: how many, and where the first of them lie. */
export interface MemoryDifference {
  readonly pages: number;
  /** Guest physical addresses, at most a few. */
  readonly firstAddresses: readonly number[];
}

/** Throws when the dumps have not the same length. */
export async function compareDumps(pathA: string, pathB: string): Promise<MemoryDifference> {
  const [a, b] = await Promise.all([open(pathA, 'r'), open(pathB, 'r')]);
  try {
    const chunks = [Buffer.alloc(CHUNK_PAGES * PAGE_BYTES), Buffer.alloc(CHUNK_PAGES * PAGE_BYTES)] as const;
    const firstAddresses: number[] = [];
    let pages = 0;
    for (let at = 0; ; ) {
      const [lengthA, lengthB] = await Promise.all([readFully(a, chunks[0]), readFully(b, chunks[1])]);
      if (lengthA !== lengthB) throw new Error(`${pathA} and ${pathB} have not the same length`);
      for (let offset = 0; offset < lengthA; offset += PAGE_BYTES) {
        if (chunks[0].compare(chunks[1], offset, offset + PAGE_BYTES, offset, offset + PAGE_BYTES) === 0)
          continue;
        pages++;
        if (firstAddresses.length < MOST_ADDRESSES) firstAddresses.push(at + offset);
      }
      if (lengthA < CHUNK_PAGES * PAGE_BYTES) return { pages, firstAddresses };
      at += lengthA;
    }
  } finally {
    await Promise.all([a.close(), b.close()]);
  }
}

const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

function isZero(page: Buffer): boolean {
  return page[0] === 0 && page.equals(ZERO_PAGE);
}

async function forEachPage(path: string, visit: (page: Buffer) => void): Promise<void> {
  const file = await open(path, 'r');
  try {
    const buffer = Buffer.alloc(CHUNK_PAGES * PAGE_BYTES);
    for (;;) {
      const length = await readFully(file, buffer);
      for (let offset = 0; offset + PAGE_BYTES <= length; offset += PAGE_BYTES) {
        visit(buffer.subarray(offset, offset + PAGE_BYTES));
      }
      if (length < buffer.length) return;
    }
  } finally {
    await file.close();
  }
}

async function readFully(file: FileHandle, buffer: Buffer): Promise<number> {
  let length = 0;
  while (length < buffer.length) {
    const { bytesRead } = await file.read(buffer, length, buffer.length - length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return length;
}
