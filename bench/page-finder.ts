// How fast the page finder goes over recorded and generated streams, in GB/s of stream, by chunk size: node bench/page-finder.ts [SECONDS]
// Chunks are slices of a stream in memory that is larger than the caches; page contents are never touched, so the figures are an
// upper bound for a pipeline, and what counts is the cost per page.
// Recorded are the main channel of the lab's guest `warm`, and a multifd channel of the fuzzer's corpus, whose packets come again and
// again and are trimmed to three pages: what it shows is the cost of a packet. Packets of 128 pages are generated.
import { readFileSync } from 'node:fs';
import { readRecordedStreams, repeatPages } from '../sidecar/recorded-streams.ts';
import { MainChannelFinder } from '../sidecar/stream/main-channel.ts';
import { MultifdChannelFinder } from '../sidecar/stream/multifd-channel.ts';
import type { ChannelFinder, PageSink } from '../sidecar/stream/page-sink.ts';
import { RamBlocks } from '../sidecar/stream/ram-blocks.ts';
import { generateMigration, SilentSink } from '../sidecar/stream/test-streams.ts';
import { ensureRecordedFiles } from './recorded-guest.ts';

const seconds = Number(process.argv[2] ?? '1');
if (!(seconds > 0)) throw new Error('usage: node bench/page-finder.ts [SECONDS for each line, more than 0]');

const CHUNK_BYTES = [4 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024];

/** Reads every page number, as an index would. */
class CountingSink extends SilentSink {
  pagesSeen = 0;
  sum = 0;

  override pages(streamOffset: number, _ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.pagesSeen += count;
    for (let i = 0; i < count; i++) this.sum = (this.sum + streamOffset + pageNumbers[i]!) | 0;
  }

  override zeroPages(_ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.pagesSeen += count;
    for (let i = 0; i < count; i++) this.sum = (this.sum + pageNumbers[i]!) | 0;
  }
}

function measure(name: string, stream: Uint8Array, make: (sink: PageSink) => ChannelFinder): void {
  for (const chunkBytes of CHUNK_BYTES) {
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < stream.length; at += chunkBytes) chunks.push(stream.subarray(at, at + chunkBytes));
    const sink = new CountingSink();
    const run = () => {
      const finder = make(sink);
      for (const chunk of chunks) finder.push(chunk);
    };
    for (let i = 0; i < 5; i++) run(); // until compiled
    sink.pagesSeen = 0;
    let runs = 0;
    const start = process.hrtime.bigint();
    let elapsed = 0;
    while (elapsed < seconds) {
      run();
      runs++;
      elapsed = Number(process.hrtime.bigint() - start) / 1e9;
    }
    const rate = (runs * stream.length) / elapsed / 1e9;
    const perPage = (elapsed / sink.pagesSeen) * 1e9;
    const chunk = `${chunkBytes / 1024} KiB`.padStart(8);
    console.log(
      `${name.padEnd(34)} chunks of ${chunk}: ${rate.toFixed(1).padStart(7)} GB/s, ${perPage.toFixed(1).padStart(6)} ns a page`,
    );
  }
}

const { statePath } = await ensureRecordedFiles();
measure(
  'recorded main channel',
  readFileSync(statePath),
  (sink) => new MainChannelFinder(sink, new RamBlocks()),
);

/** Makes 57 MB of the longest recorded channel. */
const REPEATS = 2000;
const RECORDED_CHANNELS = 'trixie-multifd';
const recorded = readRecordedStreams().find(({ name }) => name === RECORDED_CHANNELS);
if (recorded === undefined) throw new Error(`the corpus has no ${RECORDED_CHANNELS}`);
const channels = repeatPages(recorded, REPEATS).streams.slice(1);
measure(
  'recorded multifd, packets of 3',
  channels.reduce((one, other) => (one.length >= other.length ? one : other)),
  (sink) => {
    const blocks = new RamBlocks();
    new MainChannelFinder(new CountingSink(), blocks).push(recorded.streams[0]!);
    return new MultifdChannelFinder(sink, blocks);
  },
);

const ramBlocks = [{ name: 'pc.ram', pageCount: 32 * 1024 }];
const dense = (_block: string, page: number, _round: number, out: Uint8Array) => {
  out.fill(1 + (page & 0x7f));
  return true;
};
const shape = { ramBlocks, rounds: 1, pagesPerSection: 4096 };

const main = generateMigration({ ...shape, content: dense }).main;
measure('generated main, 4 KiB records', main, (sink) => new MainChannelFinder(sink, new RamBlocks()));

const zero = generateMigration({ ...shape, content: () => false }).main;
measure('generated main, zero records', zero, (sink) => new MainChannelFinder(sink, new RamBlocks()));

const listed = () => {
  const blocks = new RamBlocks();
  for (const { name, pageCount } of ramBlocks) blocks.declare(name, pageCount);
  blocks.finishList();
  return blocks;
};
const multifd = generateMigration({ ...shape, content: dense, channels: 1 }).multifd[0]!;
measure('generated multifd, packets of 128', multifd, (sink) => new MultifdChannelFinder(sink, listed()));
