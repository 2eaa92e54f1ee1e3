// A recorded guest for the microbenchmarks: the saved state of the lab's guest `warm` (test/lab/warm-state.ts), which is a migration
// stream as QEMU 10.0 wrote it, all on its main channel, and the disk that its page cache was read from. Some 85 of 100 of its
// pages are blocks of that disk.
// The fuzzer's recordings (test/fuzz/corpus) cannot take its place here: they are trimmed to three pages of each run and packet and have
// about ten distinct pages each. Repeated, each of these is in every cache, and zstd makes nothing of them.

import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { PAGE_BYTES } from '../sidecar/stream/page-sink.ts';
import { ensureWarmState } from '../test/lab/warm-state.ts';
import type { PipelineGuest } from './pipeline-guest.ts';

/** What QEMU writes at a time is at most this; a socket takes less. */
const WRITE_BYTES = 256 * 1024;
const READ_BLOCKS = 256;

export interface RecordedFiles {
  readonly statePath: string;
  readonly diskPath: string;
}

/** Makes the saved state when it is missing, which takes root and some minutes. */
export async function ensureRecordedFiles(): Promise<RecordedFiles> {
  const { statePath, diskTemplatePath } = await ensureWarmState('warm', 'trixie', (message) =>
    console.error(message),
  );
  return { statePath, diskPath: diskTemplatePath };
}

export function recordedGuest({ statePath, diskPath }: RecordedFiles): PipelineGuest {
  return {
    volumeBlocks: Math.floor(statSync(diskPath).size / PAGE_BYTES),
    migration: () => {
      const main = readFileSync(statePath);
      const writes: { connection: number; from: number; to: number }[] = [];
      for (let from = 0; from < main.length; from += WRITE_BYTES)
        writes.push({ connection: 0, from, to: Math.min(main.length, from + WRITE_BYTES) });
      return { streams: [main], writes };
    },
    forEachBlock: (visit) => forEachBlock(diskPath, visit),
  };
}

function forEachBlock(path: string, visit: (block: number, content: Uint8Array) => void): void {
  const file = openSync(path, 'r');
  const zero = Buffer.alloc(PAGE_BYTES);
  const buffer = Buffer.alloc(READ_BLOCKS * PAGE_BYTES);
  try {
    for (let first = 0; ; ) {
      const blocks = Math.floor(readSync(file, buffer, 0, buffer.length, first * PAGE_BYTES) / PAGE_BYTES);
      if (blocks === 0) return;
      for (let i = 0; i < blocks; i++) {
        const content = buffer.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES);
        if (!content.equals(zero)) visit(first + i, content);
      }
      first += blocks;
    }
  } finally {
    closeSync(file);
  }
}
