// The guest that the pipelines are measured with: the same pages and the same volume in every process, from numbers alone.
// 85 of 100 pages are blocks of the volume, in runs as a page cache has them; the others are text that zstd shrinks to about a third.

import { PAGE_BYTES } from '../sidecar/stream/page-sink.ts';
import { generateMigration, type Migration, seededRandom } from '../sidecar/stream/test-streams.ts';

export const GUEST_PAGES = 64 * 1024;
/** Of every run of so many pages, the first ones are blocks. */
const RUN_PAGES = 20;
const RUN_BLOCKS = 17;

const noise = new Uint8Array(1 << 20);
const random = seededRandom(7);
for (let i = 0; i < noise.length; i++) noise[i] = Math.floor(random() * 256);
const words = Array.from({ length: 900 }, () =>
  Math.floor(random() * 2 ** 40)
    .toString(36)
    .slice(0, 3 + Math.floor(random() * 6)),
);

/** Block `block` of the volume: bytes that do not compress, unlike those of any other block. */
export function writeBlock(block: number, out: Uint8Array): void {
  const from = (block * 37 * 61) % (noise.length - PAGE_BYTES);
  out.set(noise.subarray(from, from + PAGE_BYTES));
  new DataView(out.buffer, out.byteOffset).setUint32(0, block);
}

function writeText(page: number, out: Uint8Array): void {
  let state = page + 1;
  for (let at = 0; at < PAGE_BYTES; ) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    const word = words[state % words.length] as string;
    for (let i = 0; i < word.length && at < PAGE_BYTES; i++) out[at++] = word.charCodeAt(i);
    if (at < PAGE_BYTES) out[at++] = 32;
  }
}

/** One pass over the guest through main and 8 multifd channels, as QEMU 10.0 writes it. */
export function guestMigration(): Migration {
  return generateMigration({
    qemu: '10.0',
    channels: 8,
    rounds: 1,
    pagesPerSection: 4096,
    ramBlocks: [{ name: 'pc.ram', pageCount: GUEST_PAGES }],
    content: (_block, page, _round, out) => {
      if (page % RUN_PAGES < RUN_BLOCKS) writeBlock(page, out);
      else writeText(page, out);
      return true;
    },
  });
}

/** The volume: block n where the guest has page n, and others that it has not. */
export function guestVolume(): Uint8Array {
  const volume = new Uint8Array(GUEST_PAGES * PAGE_BYTES);
  for (let block = 0; block < GUEST_PAGES; block++) {
    writeBlock(block, volume.subarray(block * PAGE_BYTES, (block + 1) * PAGE_BYTES));
  }
  return volume;
}
