// The page finders and the batcher behind them, fed with what a QEMU could write and with what it never would. Whatever comes:
// nothing throws, what is told lies in the stream, in rising and disjoint ranges and within its RAMBlock, any cut tells the
// same, and the batches put together are the stream, byte for byte.
import { AssemblyPool, StreamBatcher } from '../../../sidecar/source/stream-batcher.ts';
import { connectionKind } from '../../../sidecar/stream/connection-kind.ts';
import { MainChannelFinder } from '../../../sidecar/stream/main-channel.ts';
import { MultifdChannelFinder } from '../../../sidecar/stream/multifd-channel.ts';
import type {
  BoundaryKind,
  ChannelFinder,
  CompressionKind,
  OpaqueReason,
  PageSink,
} from '../../../sidecar/stream/page-sink.ts';
import { PAGE_BYTES } from '../../../sidecar/stream/page-sink.ts';
import { MAX_RAM_BLOCKS, type RamBlock, RamBlocks } from '../../../sidecar/stream/ram-blocks.ts';
import { generateMigration, type MigrationOptions } from '../../../sidecar/stream/test-streams.ts';
import {
  digestOf,
  type FuzzTarget,
  InvariantError,
  must,
  pieces,
  type Random,
  seededRandom,
} from '../target.ts';

/** Checks every call, and sums up all of them in one number. */
class CheckedSink implements PageSink {
  readonly #blocks: RamBlocks;
  readonly #announce: (streamOffset: number, count: number) => void;
  /** Bytes pushed, the piece being pushed included. */
  pushed = 0;
  told = 0;
  wantsFlush = false;
  readonly pageRanges: [number, number][] = [];
  #pagesEnd = 0;
  #boundary = 0;
  #isOpaque = false;
  #isPostcopyStarted = false;
  opaqueReason = '';

  constructor(blocks: RamBlocks, announce: (streamOffset: number, count: number) => void) {
    this.#blocks = blocks;
    this.#announce = announce;
  }

  ramBlocks(blocks: readonly RamBlock[]): void {
    this.#tell(1);
    must(blocks.length <= MAX_RAM_BLOCKS, () => `${blocks.length} RAMBlocks`);
    for (const { name, pageCount } of blocks) {
      must(pageCount >= 0 && pageCount <= 2 ** 32 && Number.isInteger(pageCount), () => `${pageCount} pages`);
      must(name.length > 0 && name.length <= 255, () => `a name of ${name.length}`);
      this.#tell(pageCount % 2 ** 32);
      this.#tell(digestOf(Buffer.from(name, 'latin1')));
    }
  }

  pages(streamOffset: number, ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#tell(2);
    this.#tell(streamOffset);
    must(count >= 1 && count <= 128, () => `${count} pages at once`);
    must(
      streamOffset >= this.#pagesEnd,
      () => `pages at ${streamOffset} after those up to ${this.#pagesEnd}`,
    );
    must(streamOffset <= this.pushed, () => `pages at ${streamOffset} of ${this.pushed}`);
    this.#pagesEnd = streamOffset + count * PAGE_BYTES;
    this.pageRanges.push([streamOffset, this.#pagesEnd]);
    this.#numbers(ramBlock, pageNumbers, count);
    this.#announce(streamOffset, count);
  }

  zeroPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#tell(3);
    this.#numbers(ramBlock, pageNumbers, count);
  }

  unknownPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#tell(4);
    this.#numbers(ramBlock, pageNumbers, count);
  }

  compression(kind: CompressionKind): void {
    this.#tell(5 + kind.length * 16);
  }

  boundary(streamOffset: number, kind: BoundaryKind): void {
    this.#tell(6 + kind.length * 16);
    this.#tell(streamOffset);
    must(streamOffset > this.#boundary, () => `boundary ${streamOffset} after ${this.#boundary}`);
    must(
      streamOffset >= this.#pagesEnd,
      () => `boundary ${streamOffset} within pages up to ${this.#pagesEnd}`,
    );
    must(streamOffset <= this.pushed, () => `boundary ${streamOffset} of ${this.pushed}`);
    this.#boundary = streamOffset;
    this.wantsFlush = true;
  }

  postcopyAnnounced(advisesRam: boolean): void {
    this.#tell(advisesRam ? 7 : 8);
  }

  postcopyStarted(): void {
    this.#tell(9);
    must(!this.#isPostcopyStarted, () => 'post-copy starts twice');
    this.#isPostcopyStarted = true;
  }

  opaque(reason: OpaqueReason, streamOffset: number, detail: string): void {
    this.#tell(10 + reason.length * 16);
    this.#tell(streamOffset);
    must(detail.length > 0 && detail.length < 2000, () => `${detail.length} characters of detail`);
    must(
      streamOffset >= this.#boundary && streamOffset <= this.pushed,
      () => `opaque from ${streamOffset} on`,
    );
    this.#isOpaque = true;
    this.opaqueReason = reason;
  }

  #numbers(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    const block = this.#blocks.all[ramBlock];
    if (block === undefined) throw new InvariantError(`RAMBlock ${ramBlock} of ${this.#blocks.all.length}`);
    must(count >= 1 && count <= pageNumbers.length, () => `${count} page numbers`);
    this.#tell(ramBlock);
    for (let i = 0; i < count; i++) {
      const page = pageNumbers[i] as number;
      if (this.#blocks.isListed && page >= block.pageCount)
        throw new InvariantError(`page ${page} of ${block.name}, which has ${block.pageCount}`);
      this.#tell(page);
    }
  }

  #tell(value: number): void {
    if (this.#isOpaque) throw new InvariantError('something is told after opaque');
    this.told = (Math.imul(this.told ^ (value | 0), 0x01000193) + 0x9e37 + Math.floor(value / 2 ** 32)) | 0;
  }
}

/** One buffer for all inputs: batches this small are copied out of it. */
class OneAssembly extends AssemblyPool {
  readonly #assembly = super.take();
  override take(): Uint8Array {
    return this.#assembly;
  }
}
const pool = new OneAssembly(0);

type MakeFinder = (sink: PageSink, blocks: RamBlocks) => ChannelFinder;

/** As sidecar/source/source-connection.ts collects: the batches must be the stream, with each whole page in one of them. */
function checkBatches(input: Uint8Array, make: MakeFinder, blocks: RamBlocks): CheckedSink {
  const random = seededRandom(digestOf(input));
  const batcher = new StreamBatcher(pool);
  const sink = new CheckedSink(blocks, (streamOffset, count) => batcher.announce(streamOffset, count));
  const finder = make(sink, blocks);
  let out = 0;
  let pages = 0;
  const cut = (): boolean => {
    const batch = batcher.cut();
    if (batch === undefined) return false;
    const { bytes, streamOffset, pageOffsets, pageCount } = batch;
    must(bytes.length > 0, () => 'an empty batch');
    must(streamOffset === out, () => `a batch from ${streamOffset} on, ${out} bytes were batched`);
    must(
      Buffer.compare(bytes, input.subarray(out, out + bytes.length)) === 0,
      () => `the batch at ${out} is not the stream`,
    );
    must(pageCount <= pageOffsets.length, () => `${pageCount} pages in a list of ${pageOffsets.length}`);
    let end = 0;
    for (let i = 0; i < pageCount; i++) {
      const at = pageOffsets[i] as number;
      must(at >= end && at + PAGE_BYTES <= bytes.length, () => `a page at ${at} of ${bytes.length}`);
      end = at + PAGE_BYTES;
    }
    out += bytes.length;
    pages += pageCount;
    return true;
  };
  const batchBytes = random() < 0.5 ? 1024 * 1024 : 16 * 1024;
  for (const piece of pieces(input, random)) {
    for (let at = 0; at < piece.length; ) {
      const taken = batcher.append(piece, at, batchBytes);
      if (taken === 0) {
        must(cut(), () => 'the batcher takes nothing and has nothing to cut');
        continue;
      }
      sink.pushed += taken;
      finder.push(piece.subarray(at, at + taken));
      at += taken;
      if (sink.wantsFlush) {
        sink.wantsFlush = false;
        cut();
      }
    }
    piece.fill(0xa5); // a finder that kept a reference would read this
  }
  while (cut());
  const torn = sink.pageRanges.filter(([from, to]) => from < input.length && to > input.length).length;
  if (torn > 0) {
    batcher.forgetPages();
    cut();
  }
  must(out === input.length, () => `${out} of ${input.length} bytes came out`);
  const whole = sink.pageRanges.reduce(
    (sum, [from, to]) => sum + Math.max(0, Math.floor((Math.min(to, input.length) - from) / PAGE_BYTES)),
    0,
  );
  must(pages === whole, () => `${pages} pages in batches, ${whole} were told`);
  return sink;
}

function runFinder(input: Uint8Array, make: MakeFinder, table: () => RamBlocks): string {
  const blocks = table();
  const sink = new CheckedSink(blocks, () => {});
  const finder = make(sink, blocks);
  sink.pushed = input.length;
  finder.push(input);
  must(
    finder.streamOffset === input.length,
    () => `the finder is at ${finder.streamOffset} of ${input.length}`,
  );
  const inPieces = checkBatches(input, make, table());
  must(sink.told === inPieces.told, () => 'another cut tells something else');
  return sink.opaqueReason || 'understood';
}

/** All but the content of pages: there a change means nothing. */
function outsidePages(input: Uint8Array, make: MakeFinder, blocks: RamBlocks): [number, number][] {
  const sink = new CheckedSink(blocks, () => {});
  sink.pushed = input.length;
  make(sink, blocks).push(input);
  const out: [number, number][] = [];
  let from = 0;
  for (const [start, end] of sink.pageRanges) {
    if (start > from) out.push([from, start]);
    from = end;
  }
  if (from < input.length) out.push([from, input.length]);
  return out;
}

const RAM_BLOCKS = [
  { name: 'pc.ram', pageCount: 24 },
  { name: 'vga.vram', pageCount: 5 },
  { name: 'mem0', pageCount: 512, pageBytes: 0x20_0000 },
];

const fewPages: NonNullable<MigrationOptions['content']> = (_block, page, round, out) => {
  if ((page + round) % 8 !== 0 || page > 100) return false;
  out.fill(1 + (page % 7));
  return true;
};

const GENERATED: readonly MigrationOptions[] = [
  { qemu: '7.2' },
  { qemu: '10.0', otherSections: true, configuration: { uuid: true, pageBits: 12, capabilities: [] } },
  { qemu: '11.1', postcopy: 'advised' },
  { qemu: '10.0', postcopy: 'switched', otherSections: true },
  { qemu: '7.2', xbzrle: true, rounds: 4, dirtyShare: 0.3 },
].map((options, seed) => ({
  rounds: 2,
  pagesPerSection: 9,
  deviceStateBytes: 60,
  ramBlocks: RAM_BLOCKS,
  content: fewPages,
  seed,
  ...(options as MigrationOptions),
}));

const CHANNELS: readonly MigrationOptions[] = [
  { qemu: '7.2' as const },
  { qemu: '10.0' as const },
  { qemu: '11.1' as const, otherSections: true },
  { qemu: '10.0' as const, compression: 'zstd' as const },
  { qemu: '7.2' as const, compression: 'zlib' as const },
].map((options, seed) => ({ ...GENERATED[0], channels: 2, seed, ...options }));

const makeMain: MakeFinder = (sink, blocks) => new MainChannelFinder(sink, blocks, {});
const makeMultifd: MakeFinder = (sink, blocks) => new MultifdChannelFinder(sink, blocks, {});

/** A main channel as QEMU writes it. */
export const qemuMain: FuzzTarget = {
  seeds: (corpus) => [...corpus, ...GENERATED.map((options) => generateMigration(options).main)],
  run: (input) => {
    connectionKind(input.subarray(0, 4));
    return runFinder(input, makeMain, () => new RamBlocks());
  },
  hot: (input) => outsidePages(input, makeMain, new RamBlocks()),
};

/** The blocks of the recordings' guests and of the generated streams. */
const LISTED = [
  ...RAM_BLOCKS.slice(1),
  { name: 'pc.ram', pageCount: 8192 },
  ...['pc.bios', '/rom@etc/acpi/tables', '/rom@etc/acpi/rsdp', '/rom@etc/table-loader'].map((name) => ({
    name,
    pageCount: 512,
  })),
];

function multifdTable(isListed: boolean): RamBlocks {
  const blocks = new RamBlocks();
  if (!isListed) return blocks;
  for (const { name, pageCount } of LISTED) blocks.declare(name, pageCount);
  blocks.finishList();
  return blocks;
}

const PACKET_HEADER_BYTES = 1344;
const COUNTS = [0, 1, 2, 3, 126, 127, 128, 129, 130, 200, 255, 256, 257, 0xffff_ffff];

/** Changes the fields of one packet: flags, counts, size, name, an offset. */
function mutatePacket(input: Uint8Array, random: Random): Uint8Array | undefined {
  const bytes = Buffer.from(input);
  const below = (limit: number): number => Math.floor(random() * limit);
  const packets: number[] = [];
  const magic = Buffer.from([0x11, 0x22, 0x33, 0x44]);
  for (let at = bytes.indexOf(magic, 1); at >= 0 && packets.length < 100; at = bytes.indexOf(magic, at + 1))
    if (at + PACKET_HEADER_BYTES <= bytes.length) packets.push(at);
  const at = packets[below(packets.length)];
  if (at === undefined) return undefined;
  for (let changes = 1 + below(2); changes > 0; changes--) {
    switch (below(6)) {
      case 0:
        bytes.writeUInt32BE(random() < 0.8 ? 1 << below(8) : below(256), at + 8);
        break;
      case 1:
        bytes.writeUInt32BE(COUNTS[below(COUNTS.length)] ?? 0, at + (random() < 0.3 ? 12 : 32));
        break;
      case 2: {
        const normal = COUNTS[below(COUNTS.length)] ?? 0;
        bytes.writeUInt32BE(normal, at + 16);
        if (random() < 0.8) bytes.writeUInt32BE((normal * PAGE_BYTES) >>> 0, at + 20);
        break;
      }
      case 3:
        bytes.writeUInt32BE((below(40) * PAGE_BYTES + (random() < 0.1 ? 1 : 0)) >>> 0, at + 20);
        break;
      case 4: {
        const page = random() < 0.5 ? below(600) : below(2 ** 32);
        bytes.writeBigUInt64BE(BigInt(page) * 4096n + (random() < 0.1 ? 1n : 0n), at + 320 + 8 * below(128));
        break;
      }
      default:
        Buffer.from(`${LISTED[below(LISTED.length)]?.name}\0`, 'latin1').copy(bytes, at + 64);
    }
  }
  return bytes;
}

/** A multifd channel, with the list of RAMBlocks there already or still to come on main. */
export const qemuMultifd: FuzzTarget = {
  seeds: (corpus) => [...corpus, ...CHANNELS.flatMap((options) => generateMigration(options).multifd)],
  run: (input) => {
    connectionKind(input.subarray(0, 4));
    // The init packet's unused bytes choose; a recording has zeros there.
    const isListed = ((input[63] ?? 0) & 1) === 0;
    return runFinder(input, makeMultifd, () => multifdTable(isListed));
  },
  hot: (input) => outsidePages(input, makeMultifd, multifdTable(true)),
  mutate: mutatePacket,
};
