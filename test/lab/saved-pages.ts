// The pages of a guest's memory in its saved state, which is a migration stream without multifd (warm-state.ts).

import { constants, zstdCompressSync } from 'node:zlib';
import { MainChannelFinder } from '../../sidecar/stream/main-channel.ts';
import { PAGE_BYTES } from '../../sidecar/stream/page-sink.ts';
import { RamBlocks } from '../../sidecar/stream/ram-blocks.ts';
import { SilentSink } from '../../sidecar/stream/test-streams.ts';

/** A page that zstd leaves larger than this share of itself is incompressible. */
const INCOMPRESSIBLE_SHARE = 0.99;

class PageOffsets extends SilentSink {
  readonly offsets: number[] = [];

  override pages(streamOffset: number, _ramBlock: number, _pageNumbers: Uint32Array, count: number): void {
    for (let i = 0; i < count; i++) this.offsets.push(streamOffset + i * PAGE_BYTES);
  }
}

/** Where in `state` each page lies that is not zero. */
export function savedPageOffsets(state: Uint8Array): readonly number[] {
  const sink = new PageOffsets();
  new MainChannelFinder(sink, new RamBlocks()).push(state);
  return sink.offsets;
}

/** How many of its pages zstd makes nothing of, at QEMU's own level of 1. */
export function countIncompressiblePages(state: Uint8Array): number {
  const params = { [constants.ZSTD_c_compressionLevel]: 1 };
  let count = 0;
  for (const offset of savedPageOffsets(state)) {
    const page = state.subarray(offset, offset + PAGE_BYTES);
    if (zstdCompressSync(page, { params }).length > INCOMPRESSIBLE_SHARE * PAGE_BYTES) count++;
  }
  return count;
}
