// Test support: writes QEMU migration streams with known answers. `MainStream` and `MultifdStream` write one item at a time, well
// formed or not, and keep the list of what a finder must tell; `generateMigration` writes a whole plausible migration over one main
// and N multifd channels in the manner of QEMU 7.2, 10.0 or 11.1, with page contents of the caller's choice; `RecordingSink` puts
// what a finder tells into the same form. Streams are in memory, and the same options and seed give the same bytes.
// What is told is kept as lines, one a page, so that differences can be read:
//   blocks pc.ram=256 … | page OFFSET BLOCK PAGE | zero BLOCK PAGE | unknown BLOCK PAGE | compression KIND | boundary OFFSET KIND
//   postcopy-announced true|false | postcopy-started | opaque REASON OFFSET
import type { BoundaryKind, ChannelFinder, CompressionKind, OpaqueReason, PageSink } from './page-sink.ts';
import { PAGE_BYTES } from './page-sink.ts';
import type { RamBlock, RamBlocks } from './ram-blocks.ts';

/** Tells nobody anything: for sinks that listen to a few things only. */
export class SilentSink implements PageSink {
  ramBlocks(..._told: Parameters<PageSink['ramBlocks']>): void {}
  pages(..._told: Parameters<PageSink['pages']>): void {}
  zeroPages(..._told: Parameters<PageSink['zeroPages']>): void {}
  unknownPages(..._told: Parameters<PageSink['unknownPages']>): void {}
  compression(..._told: Parameters<PageSink['compression']>): void {}
  boundary(..._told: Parameters<PageSink['boundary']>): void {}
  postcopyAnnounced(..._told: Parameters<PageSink['postcopyAnnounced']>): void {}
  postcopyStarted(..._told: Parameters<PageSink['postcopyStarted']>): void {}
  opaque(..._told: Parameters<PageSink['opaque']>): void {}
}

/** Puts everything a finder tells into lines. The names come from the table that the finder uses. */
export class RecordingSink implements PageSink {
  readonly lines: string[] = [];
  /** Detail of `opaque`, which is no part of the lines. */
  opaqueDetail = '';
  readonly #blocks: RamBlocks;

  constructor(blocks: RamBlocks) {
    this.#blocks = blocks;
  }

  ramBlocks(blocks: readonly RamBlock[]): void {
    const listed = blocks.filter((block) => block.pageCount > 0);
    this.lines.push(['blocks', ...listed.map((block) => `${block.name}=${block.pageCount}`)].join(' '));
  }

  pages(streamOffset: number, ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    const name = this.#name(ramBlock);
    for (let i = 0; i < count; i++) {
      this.lines.push(`page ${streamOffset + i * PAGE_BYTES} ${name} ${pageNumbers[i]}`);
    }
  }

  zeroPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    const name = this.#name(ramBlock);
    for (let i = 0; i < count; i++) this.lines.push(`zero ${name} ${pageNumbers[i]}`);
  }

  unknownPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    const name = this.#name(ramBlock);
    for (let i = 0; i < count; i++) this.lines.push(`unknown ${name} ${pageNumbers[i]}`);
  }

  unpluggedRam(bytes: number): void {
    this.lines.push(`unplugged ${bytes}`);
  }

  compression(kind: CompressionKind): void {
    this.lines.push(`compression ${kind}`);
  }

  boundary(streamOffset: number, kind: BoundaryKind): void {
    this.lines.push(`boundary ${streamOffset} ${kind}`);
  }

  postcopyAnnounced(advisesRam: boolean): void {
    this.lines.push(`postcopy-announced ${advisesRam}`);
  }

  postcopyStarted(): void {
    this.lines.push('postcopy-started');
  }

  opaque(reason: OpaqueReason, streamOffset: number, detail: string): void {
    this.lines.push(`opaque ${reason} ${streamOffset}`);
    this.opaqueDetail = detail;
  }

  #name(ramBlock: number): string {
    return this.#blocks.all[ramBlock]?.name ?? `no RAMBlock ${ramBlock}`;
  }
}

/** Pushes `bytes` in pieces that end at `cuts` (any order, any numbers), each in a buffer of its own that is overwritten afterwards. */
export function pushInPieces(finder: ChannelFinder, bytes: Uint8Array, cuts: readonly number[]): void {
  const ends = [...cuts, bytes.length]
    .filter((cut) => cut >= 0 && cut <= bytes.length)
    .sort((left, right) => left - right);
  let from = 0;
  for (const to of ends) {
    const piece = new Uint8Array(bytes.subarray(from, to)); // not slice: a Buffer's is a view
    finder.push(piece);
    piece.fill(0xa5); // a finder that kept a reference would read this
    from = to;
  }
}

/** Pushes `bytes` one at a time. */
export function pushOneByOne(finder: ChannelFinder, bytes: Uint8Array): void {
  const piece = new Uint8Array(1);
  for (const byte of bytes) {
    piece[0] = byte;
    finder.push(piece);
  }
}

/** Random numbers below 1 that are the same for the same seed. */
export function seededRandom(seed: number): () => number {
  let state = (seed ^ 0x9e37_79b9) >>> 0;
  return () => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

/** Big-endian bytes, growing. Methods return the writer, for chains. */
export class ByteWriter {
  #bytes = new Uint8Array(4096);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** A copy of what has been written. */
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  u8(value: number): this {
    this.#room(1)[this.#length++] = value;
    return this;
  }

  u16(value: number): this {
    return this.u8(value >>> 8).u8(value);
  }

  u32(value: number): this {
    return this.u16(value >>> 16).u16(value);
  }

  /** Any whole number up to 2^53, or a bigint. */
  u64(value: number | bigint): this {
    const wide = BigInt(value);
    return this.u32(Number((wide >> 32n) & 0xffff_ffffn)).u32(Number(wide & 0xffff_ffffn));
  }

  bytes(value: Uint8Array | readonly number[]): this {
    this.#room(value.length).set(value, this.#length);
    this.#length += value.length;
    return this;
  }

  /** `count` bytes of `value`. */
  fill(count: number, value = 0): this {
    this.#room(count).fill(value, this.#length, this.#length + count);
    this.#length += count;
    return this;
  }

  /** Text without a length. */
  text(value: string): this {
    for (let i = 0; i < value.length; i++) this.u8(value.charCodeAt(i));
    return this;
  }

  /** u8 length and text: QEMU's counted string. */
  cstr(value: string): this {
    return this.u8(value.length).text(value);
  }

  #room(count: number): Uint8Array {
    if (this.#length + count > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length + count));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    return this.#bytes;
  }
}

export type TestRamBlock = { readonly name: string; readonly pageCount: number; readonly pageBytes?: number };

export type ConfigurationOptions = {
  readonly machineType?: string;
  /** arm64: subsection target-page-bits. */
  readonly pageBits?: number;
  readonly capabilities?: readonly string[];
  readonly uuid?: boolean;
};

/** Numbers of commands. */
export const Command = {
  openReturnPath: 1,
  ping: 2,
  postcopyAdvise: 3,
  postcopyListen: 4,
  postcopyRun: 5,
  postcopyRamDiscard: 6,
  packaged: 7,
  enableColo: 8,
  postcopyResume: 9,
  recvBitmap: 10,
  switchoverStart: 11,
} as const;

/** Flags of RAM records. */
export const RecordFlag = {
  zero: 0x002,
  memSize: 0x004,
  page: 0x008,
  eos: 0x010,
  continue: 0x020,
  xbzrle: 0x040,
  hook: 0x080,
  compressPage: 0x100,
  multifdFlush: 0x200,
} as const;

/** A main channel. Every method writes one item, or one record, and notes in `lines` what a finder must tell about it. */
export class MainStream extends ByteWriter {
  readonly lines: string[] = [];
  /** Section id of RAM. */
  readonly ramId: number;
  #lastBlock = ''; // what CONTINUE continues
  #isAfterAdvise = false;
  #isPostcopyTold = false;
  readonly #compressionsTold = new Set<CompressionKind>();

  constructor(ramId = 3) {
    super();
    this.ramId = ramId;
  }

  /** Offset at which the next item begins, for `opaque`. */
  opaque(reason: OpaqueReason, offset = this.length): this {
    this.lines.push(`opaque ${reason} ${offset}`);
    return this;
  }

  /** virtio-mem's early section, as QEMU 8.0 and later write it between RAM's START and its first PART. */
  virtioMem(id: number, regionBytes: number, blockBytes: number, pluggedBytes: number): this {
    this.sectionHeader(4, id, '0000:00:04.0/virtio-mem-device-early', 1);
    this.u64(0x1_0000_0000).u64(regionBytes).u64(blockBytes).u32(0).u64(pluggedBytes);
    this.lines.push(`unplugged ${regionBytes - pluggedBytes}`);
    return this.fill(8 * Math.ceil(regionBytes / blockBytes / 64), 0x7e).footer(id);
  }

  header(options: ConfigurationOptions = {}): this {
    const machineType = options.machineType ?? 'pc-q35-rhel9.6.0';
    this.text('QEVM').u32(3).u8(7).u32(machineType.length).text(machineType);
    if (options.pageBits !== undefined) {
      this.u8(5).cstr('configuration/target-page-bits').u32(1).u32(options.pageBits);
    }
    if (options.capabilities !== undefined) {
      this.u8(5).cstr('configuration/capabilities').u32(1).u32(options.capabilities.length);
      for (const name of options.capabilities) this.cstr(name);
    }
    if (options.uuid === true) this.u8(5).cstr('configuration/uuid').u32(1).fill(16, 0x75);
    return this;
  }

  command(number: number, data: Uint8Array | readonly number[] = []): this {
    return this.u8(8).u16(number).u16(data.length).bytes(data).boundary('command');
  }

  ping(value: number): this {
    return this.command(Command.ping, new ByteWriter().u32(value).finish());
  }

  switchoverStart(): this {
    return this.u8(8).u16(Command.switchoverStart).u16(0).boundary('switchover-start');
  }

  /** POSTCOPY_ADVISE; `pageSizes` is the OR of the RAMBlocks' page sizes, none for post-copy of dirty bitmaps alone. */
  advise(pageSizes?: number | bigint): this {
    this.lines.push(`postcopy-announced ${pageSizes !== undefined}`);
    this.#isAfterAdvise = pageSizes !== undefined;
    if (pageSizes === undefined) return this.command(Command.postcopyAdvise);
    return this.command(Command.postcopyAdvise, new ByteWriter().u64(pageSizes).u64(PAGE_BYTES).finish());
  }

  discard(block: string, ranges: readonly (readonly [number, number])[]): this {
    this.postcopyStarted();
    const data = new ByteWriter().u8(0).cstr(block).u8(0);
    for (const [start, length] of ranges) data.u64(start).u64(length);
    return this.command(Command.postcopyRamDiscard, data.finish());
  }

  /** PACKAGED: `content` follows outside the command's length. */
  packaged(content: Uint8Array): this {
    this.postcopyStarted();
    return this.u8(8).u16(Command.packaged).u16(4).u32(content.length).bytes(content).boundary('command');
  }

  postcopyStarted(): this {
    if (!this.#isPostcopyTold) this.lines.push('postcopy-started');
    this.#isPostcopyTold = true;
    return this;
  }

  boundary(kind: BoundaryKind): this {
    this.lines.push(`boundary ${this.length} ${kind}`);
    return this;
  }

  /** START (1) or FULL (4) header. */
  sectionHeader(type: 1 | 4, id: number, idstr: string, version: number, instance = 0): this {
    return this.u8(type).u32(id).cstr(idstr).u32(instance).u32(version);
  }

  /** PART (2) or END (3) header. */
  sectionAgain(type: 2 | 3, id: number): this {
    return this.u8(type).u32(id);
  }

  footer(id: number): this {
    return this.u8(0x7e).u32(id);
  }

  /** RAM's START up to its RAMBlock list: records may follow, then `ramEos`. */
  ramStart(blocks: readonly TestRamBlock[]): this {
    const total = blocks.reduce((sum, block) => sum + block.pageCount * PAGE_BYTES, 0);
    this.sectionHeader(1, this.ramId, 'ram', 4).u64(total + RecordFlag.memSize);
    for (const block of blocks) {
      this.cstr(block.name).u64(block.pageCount * PAGE_BYTES);
      if (this.#isAfterAdvise && block.pageBytes !== undefined) this.u64(block.pageBytes);
    }
    const listed = blocks.filter((block) => block.pageCount > 0);
    this.lines.push(['blocks', ...listed.map((block) => `${block.name}=${block.pageCount}`)].join(' '));
    return this;
  }

  ramPart(): this {
    return this.sectionAgain(2, this.ramId);
  }

  ramEnd(): this {
    return this.sectionAgain(3, this.ramId);
  }

  /** EOS and footer of a RAM section. */
  ramEos(kind: 'ram-section' | 'ram-end' = 'ram-section'): this {
    return this.u64(RecordFlag.eos).footer(this.ramId).boundary(kind);
  }

  /** Head of a record for a page, with CONTINUE if the block is the last record's, or `withName` says otherwise. */
  recordHead(flag: number, block: string, page: number, withName = block !== this.#lastBlock): this {
    this.u64(page * PAGE_BYTES + flag + (withName ? 0 : RecordFlag.continue));
    if (withName) this.cstr(block);
    this.#lastBlock = block;
    return this;
  }

  page(block: string, page: number, content: Uint8Array, withName?: boolean): this {
    this.recordHead(RecordFlag.page, block, page, withName);
    this.lines.push(`page ${this.length} ${block} ${page}`);
    return this.bytes(content);
  }

  zero(block: string, page: number, withName?: boolean, fill = 0): this {
    this.lines.push(`${fill === 0 ? 'zero' : 'unknown'} ${block} ${page}`);
    return this.recordHead(RecordFlag.zero, block, page, withName).u8(fill);
  }

  xbzrle(block: string, page: number, delta: Uint8Array, withName?: boolean): this {
    this.#unknown('xbzrle', block, page);
    return this.recordHead(RecordFlag.xbzrle, block, page, withName).u8(1).u16(delta.length).bytes(delta);
  }

  compressPage(block: string, page: number, content: Uint8Array, withName?: boolean): this {
    this.#unknown('compress-page', block, page);
    return this.recordHead(RecordFlag.compressPage, block, page, withName).u32(content.length).bytes(content);
  }

  multifdFlush(): this {
    return this.u64(RecordFlag.multifdFlush).boundary('multifd-flush');
  }

  #unknown(kind: CompressionKind, block: string, page: number): void {
    if (!this.#compressionsTold.has(kind)) this.lines.push(`compression ${kind}`);
    this.#compressionsTold.add(kind);
    this.lines.push(`unknown ${block} ${page}`);
  }
}

/** Flags of multifd packets. */
export const PacketFlag = {
  sync: 0x01,
  zlib: 0x02,
  zstd: 0x04,
  qpl: 0x08,
  uadk: 0x10,
  qatzip: 0x20,
  deviceState: 0x40,
} as const;

export type PacketOptions = {
  readonly flags?: number;
  readonly block?: string;
  readonly normal?: readonly number[];
  readonly zero?: readonly number[];
  /** Payload; for uncompressed packets 4096 bytes a normal page. */
  readonly payload?: Uint8Array;
  readonly pagesAlloc?: number;
  /** next_packet_size, where it is not the payload's length. */
  readonly nextPacketSize?: number;
  /** Leave in unused fields what the packet before left there, as QEMU up to 9.1 does. */
  readonly stale?: boolean;
};

/** A multifd channel. */
export class MultifdStream extends ByteWriter {
  readonly lines: string[] = [];
  #packets = 0;
  #staleSize = 0;
  #staleBlock = '';
  readonly #staleOffsets: number[] = new Array<number>(128).fill(0);
  readonly #compressionsTold = new Set<string>();

  opaque(reason: OpaqueReason, offset = this.length): this {
    this.lines.push(`opaque ${reason} ${offset}`);
    return this;
  }

  init(id: number): this {
    return this.u32(0x1122_3344).u32(1).fill(16, 0x75).u8(id).fill(7).fill(32);
  }

  packet(options: PacketOptions): this {
    const { flags = 0, normal = [], zero = [], payload = new Uint8Array(0), stale = false } = options;
    const count = normal.length + zero.length;
    const block = options.block ?? '';
    const size = options.nextPacketSize ?? (stale && normal.length === 0 ? this.#staleSize : payload.length);
    const name = count === 0 && stale ? this.#staleBlock : block;
    const offsets = stale ? [...this.#staleOffsets] : new Array<number>(128).fill(0);
    [...normal, ...zero].forEach((page, i) => {
      offsets[i] = page * PAGE_BYTES;
    });
    this.u32(0x1122_3344)
      .u32(1)
      .u32(flags)
      .u32(options.pagesAlloc ?? 128)
      .u32(normal.length)
      .u32(size);
    this.u64(this.#packets++)
      .u32(zero.length)
      .fill(28)
      .text(name)
      .fill(256 - name.length);
    for (const offset of offsets) this.u64(offset);
    this.#staleSize = size;
    this.#staleBlock = name;
    this.#staleOffsets.splice(0, 128, ...offsets.slice(0, 128));
    this.#note(flags, block, normal, zero);
    this.bytes(payload);
    if ((flags & PacketFlag.sync) !== 0) this.lines.push(`boundary ${this.length} multifd-sync`);
    return this;
  }

  deviceState(payload: Uint8Array): this {
    this.u32(0x1122_3344).u32(1).u32(PacketFlag.deviceState);
    return this.text('0000:00:05.0/vfio')
      .fill(256 - 17)
      .u32(0)
      .u32(payload.length)
      .bytes(payload);
  }

  #note(flags: number, block: string, normal: readonly number[], zero: readonly number[]): void {
    const method = (['zlib', 'zstd', 'qpl', 'uadk', 'qatzip'] as const).find(
      (key) => (flags & PacketFlag[key]) !== 0,
    );
    if (method !== undefined && normal.length > 0 && !this.#compressionsTold.has(method)) {
      this.#compressionsTold.add(method);
      this.lines.push(`compression ${method}`);
    }
    normal.forEach((page, i) => {
      this.lines.push(
        method === undefined
          ? `page ${this.length + i * PAGE_BYTES} ${block} ${page}`
          : `unknown ${block} ${page}`,
      );
    });
    for (const page of zero) this.lines.push(`zero ${block} ${page}`);
  }
}

/**
 * Content of a page as it is sent in pass `round` (0 the first): fills `out`, which is 4096 zero bytes, or returns false for a
 * zero page.
 */
export type PageContent = (block: string, page: number, round: number, out: Uint8Array) => boolean;

export type MigrationOptions = {
  /** In whose manner; default '10.0'. */
  readonly qemu?: '7.2' | '10.0' | '11.1';
  /** Multifd channels; 0 (default) sends all pages on the main channel. */
  readonly channels?: number;
  readonly seed?: number;
  /** Default: a guest of 192 pages, and the small blocks that a PC has. */
  readonly ramBlocks?: readonly TestRamBlock[];
  /** Default: a quarter of the pages is zero, the others are random. */
  readonly content?: PageContent;
  /** Passes, the last one in RAM's END; default 3, at least 1. */
  readonly rounds?: number;
  /** Share of the pages that each pass after the first sends again; default 0.2. */
  readonly dirtyShare?: number;
  /** Most pages in a section; default 64. */
  readonly pagesPerSection?: number;
  readonly configuration?: ConfigurationOptions;
  /** Sections of virtio-mem (early), dirty-bitmap and others, before the first page and between. */
  readonly otherSections?: boolean;
  /** `advised`: may switch, does not. `switched`: pages of the last pass travel after the switch. Default off. */
  readonly postcopy?: 'off' | 'advised' | 'switched';
  /** Without multifd: pages of later passes as deltas. */
  readonly xbzrle?: boolean;
  /** Encoding of multifd packets; the payload is not a valid one. */
  readonly compression?: 'zlib' | 'zstd';
  /** Bytes of device state after RAM; default 20000. */
  readonly deviceStateBytes?: number;
};

export type Migration = {
  readonly main: Uint8Array;
  readonly multifd: readonly Uint8Array[];
  /** What a finder of each connection must tell, when the main channel's RAMBlock list is known before the first packet. */
  readonly expected: { readonly main: readonly string[]; readonly multifd: readonly (readonly string[])[] };
  /** In which order QEMU wrote: connection 0 is the main channel, 1 the first multifd channel. Covers all bytes. */
  readonly writes: readonly { readonly connection: number; readonly from: number; readonly to: number }[];
  readonly ramBlocks: readonly TestRamBlock[];
  /** Pages sent, by how; those sent again count again. */
  readonly sent: { readonly normal: number; readonly zero: number; readonly unknown: number };
};

const PC_RAM_BLOCKS: readonly TestRamBlock[] = [
  { name: 'pc.ram', pageCount: 192 },
  { name: '0000:00:01.0/vga.vram', pageCount: 16 },
  { name: 'pc.bios', pageCount: 8 },
  { name: 'pc.rom', pageCount: 4 },
  { name: '/rom@etc/acpi/tables', pageCount: 2 },
];

/** Writes a whole migration. */
export function generateMigration(options: MigrationOptions = {}): Migration {
  return new MigrationWriter(options).write();
}

type PageToSend = { readonly block: TestRamBlock; readonly page: number };

class MigrationWriter {
  readonly #options: MigrationOptions;
  readonly #random: () => number;
  readonly #blocks: readonly TestRamBlock[];
  readonly #content: PageContent;
  readonly #isLegacy: boolean;
  readonly #main: MainStream;
  readonly #channels: MultifdStream[];
  readonly #written: number[];
  readonly #writes: { connection: number; from: number; to: number }[] = [];
  readonly #sent = { normal: 0, zero: 0, unknown: 0 };
  readonly #out = new Uint8Array(PAGE_BYTES);
  #pending: { readonly channel: number; readonly packet: PacketOptions } | undefined;

  constructor(options: MigrationOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed ?? 1);
    this.#blocks = options.ramBlocks ?? PC_RAM_BLOCKS;
    this.#content = options.content ?? this.#randomContent;
    this.#isLegacy = options.qemu === '7.2';
    this.#main = new MainStream(2 + Math.floor(this.#random() * 40));
    this.#channels = Array.from({ length: options.channels ?? 0 }, () => new MultifdStream());
    this.#written = new Array<number>(1 + this.#channels.length).fill(0);
  }

  write(): Migration {
    const { rounds = 3, postcopy = 'off', otherSections = false } = this.#options;
    const main = this.#main;
    if (this.#isLegacy) this.#initChannels(); // up to 8.2 the channels are set up before the header is written
    main.header(this.#options.configuration);
    this.#wrote(0);
    if (!this.#isLegacy) this.#initChannels();
    main.command(Command.openReturnPath).ping(1);
    if (postcopy !== 'off') {
      main.advise(
        this.#blocks.reduce((or, block) => or | BigInt(block.pageBytes ?? PAGE_BYTES), BigInt(PAGE_BYTES)),
      );
    }
    this.#wrote(0);
    main.ramStart(this.#blocks);
    this.#sync();
    this.#endSection('ram-section');
    if (otherSections) this.#setupOfOthers();

    for (let round = 0; round < rounds - 1; round++) {
      this.#pass(this.#dirty(round), round, false);
      if (otherSections) this.#iterationOfOthers();
    }
    const last = this.#dirty(rounds - 1);
    if (postcopy === 'switched') this.#switchToPostcopy(last, rounds - 1);
    else this.#complete(last, rounds - 1);
    return {
      main: main.finish(),
      multifd: this.#channels.map((channel) => channel.finish()),
      expected: { main: main.lines, multifd: this.#channels.map((channel) => channel.lines) },
      writes: this.#writes,
      ramBlocks: this.#blocks,
      sent: this.#sent,
    };
  }

  readonly #randomContent: PageContent = (_block, _page, _round, out) => {
    if (this.#random() < 0.25) return false;
    for (let i = 0; i < PAGE_BYTES; i += 4) {
      const value = Math.floor(this.#random() * 0x1_0000_0000);
      out[i] = value;
      out[i + 1] = value >>> 8;
      out[i + 2] = value >>> 16;
      out[i + 3] = value >>> 24;
    }
    return true;
  };

  #wrote(connection: number): void {
    const to = connection === 0 ? this.#main.length : this.#channels[connection - 1]!.length;
    const from = this.#written[connection]!;
    if (to > from) this.#writes.push({ connection, from, to });
    this.#written[connection] = to;
  }

  #initChannels(): void {
    this.#channels.forEach((channel, id) => {
      channel.init(id);
      this.#wrote(1 + id);
    });
  }

  // Blocks in order, pages in order, as QEMU walks its bitmap.
  #dirty(round: number): PageToSend[] {
    const share = round === 0 ? 1 : (this.#options.dirtyShare ?? 0.2);
    const pages: PageToSend[] = [];
    for (const block of this.#blocks) {
      for (let page = 0; page < block.pageCount; page++) {
        if (round === 0 || this.#random() < share) pages.push({ block, page });
      }
    }
    return pages;
  }

  /** PART sections with `pages`; or, the last pass, one END. */
  #pass(pages: readonly PageToSend[], round: number, isLast: boolean): void {
    const perSection = isLast ? Math.max(1, pages.length) : (this.#options.pagesPerSection ?? 64);
    for (let at = 0; at < Math.max(1, pages.length); at += perSection) {
      if (isLast) this.#main.ramEnd();
      else this.#main.ramPart();
      const section = pages.slice(at, at + perSection);
      if (this.#channels.length > 0) this.#sendOnChannels(section, round);
      else for (const page of section) this.#sendOnMain(page, round);
      const isEndOfPass = at + perSection >= pages.length;
      if (this.#isLegacy || isEndOfPass) this.#sync();
      this.#endSection(isLast ? 'ram-end' : 'ram-section');
    }
  }

  #endSection(kind: 'ram-section' | 'ram-end'): void {
    this.#main.ramEos(kind);
    this.#wrote(0);
  }

  /** All channels get a SYNC packet; its partner on the main channel is a FLUSH, or, up to 8.0, the next EOS. */
  #sync(): void {
    const pending = this.#pending;
    this.#pending = undefined;
    this.#channels.forEach((channel, i) => {
      if (pending?.channel === i) {
        channel.packet({ ...pending.packet, flags: (pending.packet.flags ?? 0) | PacketFlag.sync });
      } else if (this.#isLegacy) channel.packet({ flags: PacketFlag.sync, stale: true });
      else channel.packet({ flags: PacketFlag.sync, pagesAlloc: 0 });
      this.#wrote(1 + i);
    });
    if (this.#channels.length > 0 && !this.#isLegacy) this.#main.multifdFlush();
  }

  #fill(page: PageToSend, round: number): boolean {
    this.#out.fill(0);
    return this.#content(page.block.name, page.page, round, this.#out);
  }

  #sendOnMain(page: PageToSend, round: number): void {
    const { block } = page;
    // QEMU names the block again after ram_state_reset; now and then here, so that CONTINUE is not all that is seen.
    const withName = this.#random() < 0.05 ? true : undefined;
    if (!this.#fill(page, round)) {
      this.#main.zero(block.name, page.page, withName);
      this.#sent.zero++;
    } else if (this.#options.xbzrle === true && round > 0 && this.#random() < 0.5) {
      this.#main.xbzrle(
        block.name,
        page.page,
        this.#out.slice(0, Math.floor(this.#random() * 300)),
        withName,
      );
      this.#sent.unknown++;
    } else {
      this.#main.page(block.name, page.page, this.#out, withName);
      this.#sent.normal++;
    }
  }

  #sendOnChannels(pages: readonly PageToSend[], round: number): void {
    let at = 0;
    while (at < pages.length) {
      const { block } = pages[at]!;
      const most = this.#random() < 0.3 ? 1 + Math.floor(this.#random() * 127) : 128;
      const normal: number[] = [];
      const zero: number[] = [];
      const payload = new ByteWriter();
      // Zero pages are entries of the packet, or, up to 8.2, records on the main channel.
      for (; at < pages.length && pages[at]!.block === block && normal.length + zero.length < most; at++) {
        const page = pages[at]!;
        if (this.#fill(page, round)) {
          normal.push(page.page);
          payload.bytes(this.#out);
        } else if (this.#isLegacy) {
          this.#main.zero(block.name, page.page);
          this.#sent.zero++;
        } else {
          zero.push(page.page);
          this.#sent.zero++;
        }
      }
      if (normal.length + zero.length > 0) this.#sendPacket(block.name, normal, zero, payload.finish());
    }
  }

  #sendPacket(block: string, normal: readonly number[], zero: readonly number[], pages: Uint8Array): void {
    const { compression } = this.#options;
    const index = Math.floor(this.#random() * this.#channels.length);
    if (compression === undefined) this.#sent.normal += normal.length;
    else this.#sent.unknown += normal.length;
    this.#writePending();
    this.#pending = {
      channel: index,
      packet: {
        flags: compression === undefined ? 0 : PacketFlag[compression],
        block,
        normal,
        zero,
        payload: compression === undefined ? pages : pages.subarray(0, Math.ceil(pages.length / 3)),
        stale: this.#isLegacy,
      },
    };
    // Up to 8.2 the last packet before a sync may carry SYNC itself.
    if (!this.#isLegacy || this.#random() < 0.5) this.#writePending();
  }

  #writePending(): void {
    const pending = this.#pending;
    if (pending === undefined) return;
    this.#pending = undefined;
    this.#channels[pending.channel]!.packet(pending.packet);
    this.#wrote(1 + pending.channel);
  }

  #complete(last: readonly PageToSend[], round: number): void {
    if (!this.#isLegacy) {
      this.#main.switchoverStart();
      this.#wrote(0);
    }
    this.#pass(last, round, true);
    this.#main.opaque('ram-end');
    this.#main.bytes(this.#deviceState()).u8(0); // FULL sections, EOF
    const description = '{"configuration": {"vmsd_name": "configuration"}, "page_size": 4096, "devices": []}';
    this.#main.u8(6).u32(description.length).text(description);
    this.#wrote(0);
  }

  #switchToPostcopy(last: readonly PageToSend[], round: number): void {
    const main = this.#main;
    if (!this.#isLegacy) main.switchoverStart();
    for (const block of this.#blocks) main.discard(block.name, [[0, block.pageCount * PAGE_BYTES]]);
    main.ping(2);
    const content = new MainStream().command(Command.postcopyListen).bytes(this.#deviceState()).ping(3);
    if (this.#options.qemu === '11.1') content.ping(0x42);
    main.packaged(content.command(Command.postcopyRun).finish()).ping(4);
    this.#wrote(0);
    for (let at = 0; at < last.length; at += 16) {
      main.ramPart();
      for (const page of last.slice(at, at + 16)) {
        if (this.#fill(page, round)) {
          main.page(page.block.name, page.page, this.#out);
          this.#sent.normal++;
        } else {
          main.zero(page.block.name, page.page);
          this.#sent.zero++;
        }
      }
      this.#endSection('ram-section');
    }
    main.ramEnd();
    this.#endSection('ram-end');
    main.opaque('end-of-file').u8(0);
    this.#wrote(0);
  }

  // Something that begins as a FULL section, with bytes that look like items and footers.
  #deviceState(): Uint8Array {
    const bytes = this.#options.deviceStateBytes ?? 20_000;
    const state = new MainStream().sectionHeader(4, 0, 'timer', 2);
    while (state.length < bytes) {
      state.u32(Math.floor(this.#random() * 0x1_0000_0000));
      if (this.#random() < 0.01) state.footer(this.#main.ramId).u8(2).u32(this.#main.ramId);
    }
    return state.footer(0).finish();
  }

  #setupOfOthers(): void {
    const main = this.#main;
    main.virtioMem(60, 64 * 2 ** 20, 2 * 2 ** 20, 32 * 2 ** 20);
    main.sectionHeader(1, 61, 'dirty-bitmap', 1);
    main.u8(0x1c).cstr('drive0').cstr('backup').u32(65536).u8(1).u8(0x01).footer(61);
    main.sectionHeader(1, 62, '0000:00:05.0/vfio', 1);
    main.u64(0xffff_ffff_ef10_0003n).u64(0xffff_ffff_ef10_0001n).footer(62);
    this.#wrote(0);
  }

  #iterationOfOthers(): void {
    const main = this.#main;
    main.sectionAgain(2, 61).u8(0x40).u64(0).u32(128).u64(32).fill(32, 0x7e).u8(0x01).footer(61);
    const bytes = Math.floor(this.#random() * 5000);
    main
      .sectionAgain(2, 62)
      .u64(0xffff_ffff_ef10_0004n)
      .u64(bytes)
      .fill(bytes, 0x02)
      .u64(0xffff_ffff_ef10_0001n)
      .footer(62);
    this.#wrote(0);
  }
}
