// What the pipelines are measured with: a guest's streams and the volume that its pages are on. The generated one has the same pages and
// the same volume in every process, from numbers alone, on 8 channels: 85 of 100 pages are blocks of the volume, in runs as a page cache
// has them; the others are text that zstd shrinks to about a third. The recorded one is in recorded-guest.ts.

import { PAGE_BYTES } from '../sidecar/stream/page-sink.ts';
import { generateMigration, seededRandom } from '../sidecar/stream/test-streams.ts';

export interface PipelineGuest {
  readonly volumeBlocks: number;
  /** The stream of each connection, main first, and the order in which QEMU writes to them. */
  migration(): {
    readonly streams: readonly Uint8Array[];
    readonly writes: readonly { readonly connection: number; readonly from: number; readonly to: number }[];
  };
  /** The volume's blocks that are not zero; `content` is good until `visit` returns. */
  forEachBlock(visit: (block: number, content: Uint8Array) => void): void;
}

const GUEST_PAGES = 64 * 1024;
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
function writeBlock(block: number, out: Uint8Array): void {
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
function guestMigration(): ReturnType<PipelineGuest['migration']> {
  const { main, multifd, writes } = generateMigration({
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
  return { streams: [main, ...multifd], writes };
}

/** Block n of the volume is what page n of the guest is, or would be. */
export const GENERATED_GUEST: PipelineGuest = {
  volumeBlocks: GUEST_PAGES,
  migration: guestMigration,
  forEachBlock: (visit) => {
    const content = new Uint8Array(PAGE_BYTES);
    for (let block = 0; block < GUEST_PAGES; block++) {
      writeBlock(block, content);
      visit(block, content);
    }
  },
};
