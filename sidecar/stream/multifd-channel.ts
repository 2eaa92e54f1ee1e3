// Finds guest pages on one multifd channel: an init packet, then packets of a header that always has its full length and a payload
// whose length follows from the header. Fields that QEMU leaves stale (the size, RAMBlock and offsets of packets without pages) are
// not looked at. The pages of compressed packets are told as unknown, their payload is skipped.
// Guarantees: no reads out of bounds, no allocation for a page or a packet, all of a packet's header is checked before any of it
// is told. Format: migration/multifd.h (MultiFDInit_t, MultiFDPacket_t, MultiFDPacketDeviceState_t), migration/multifd-nocomp.c.
import { latin1, u32 } from './big-endian.ts';
import { ItemReader } from './item-reader.ts';
import { type CompressionKind, PAGE_BYTES, type PageSink, type StreamTrace } from './page-sink.ts';
import type { RamBlock, RamBlocks } from './ram-blocks.ts';

const MAGIC = 0x1122_3344;
const VERSION = 1;
/** Init packet: magic, version, VM UUID, u8 channel id, padding. */
const INIT_BYTES = 64;
const INIT_CHANNEL_ID = 24;

/** 512 KiB of pages in a packet; QEMU's packet size and our page size are fixed, so all headers are of one length. */
const MAX_PAGES = 128;
const PACKET_HEADER_BYTES = 320 + 8 * MAX_PAGES;
const DEVICE_STATE_HEADER_BYTES = 276;

// The rest of a header is read after its first 12 bytes (magic, version, flags), which both kinds of packet share.
const COMMON_BYTES = 12;
const PAGES_ALLOC = 12 - COMMON_BYTES;
const NORMAL_PAGES = 16 - COMMON_BYTES;
const NEXT_PACKET_SIZE = 20 - COMMON_BYTES;
const ZERO_PAGES = 32 - COMMON_BYTES;
const RAM_BLOCK = 64 - COMMON_BYTES;
const RAM_BLOCK_BYTES = 256;
const OFFSETS = 320 - COMMON_BYTES;
const DEVICE_STATE_PAYLOAD = 272 - COMMON_BYTES;

// Flags
const SYNC = 0x01;
const COMPRESSION_MASK = 0x3e;
const DEVICE_STATE = 0x40;
const COMPRESSIONS: ReadonlyMap<number, CompressionKind> = new Map([
  [0x02, 'zlib'],
  [0x04, 'zstd'],
  [0x08, 'qpl'],
  [0x10, 'uadk'],
  [0x20, 'qatzip'],
] as const);
/** No encoding makes 512 KiB of pages twice as large; more means that these are not QEMU's bytes. */
const MAX_COMPRESSED_BYTES = 2 * MAX_PAGES * PAGE_BYTES;

type State = 'init' | 'packet' | 'pages' | 'device-state';

/** Finder for a multifd channel, from the first byte of its init packet on. */
export class MultifdChannelFinder extends ItemReader {
  readonly #blocks: RamBlocks;
  readonly #trace: StreamTrace;
  #state: State = 'init';
  #packetOffset = 0; // stream offset of the packet that is being read
  #channelId = -1;
  #flags = 0;
  #block: RamBlock | undefined; // RAMBlock of the last packet with pages
  readonly #blockName = new Uint8Array(RAM_BLOCK_BYTES); // its name, to know it again without making a string
  readonly #normalPages = new Uint32Array(MAX_PAGES);
  readonly #zeroPages = new Uint32Array(MAX_PAGES);
  readonly #compressionsTold = new Set<number>();

  constructor(sink: PageSink, ramBlocks: RamBlocks, trace: StreamTrace = {}) {
    super(sink, INIT_BYTES, PACKET_HEADER_BYTES);
    this.#blocks = ramBlocks;
    this.#trace = trace;
  }

  /** The channel's number as QEMU gives it in the init packet; -1 before that. */
  get channelId(): number {
    return this.#channelId;
  }

  protected override header(bytes: Uint8Array, at: number): number {
    switch (this.#state) {
      case 'packet':
        return this.#packet(bytes, at);
      case 'pages':
        return this.#pages(bytes, at);
      case 'device-state':
        return this.#deviceState(u32(bytes, at + DEVICE_STATE_PAYLOAD));
      case 'init':
        return this.#init(bytes, at);
    }
  }

  // The payload of a packet with SYNC has passed.
  protected override skipped(): void {
    this.sink.boundary(this.next, 'multifd-sync');
  }

  #expect(state: State, headerBytes: number): number {
    this.#state = state;
    return headerBytes;
  }

  #bad(detail: string): number {
    return this.stop('multifd-packet', this.#packetOffset, detail);
  }

  #init(bytes: Uint8Array, at: number): number {
    if (u32(bytes, at) !== MAGIC || u32(bytes, at + 4) !== VERSION) {
      return this.stop(
        'header',
        0,
        `magic 0x${u32(bytes, at).toString(16)} version ${u32(bytes, at + 4)} is not multifd's`,
      );
    }
    this.#channelId = bytes[at + INIT_CHANNEL_ID]!;
    return this.#expect('packet', COMMON_BYTES);
  }

  #packet(bytes: Uint8Array, at: number): number {
    this.#packetOffset = this.next - COMMON_BYTES;
    const flags = u32(bytes, at + 8);
    if (u32(bytes, at) !== MAGIC || u32(bytes, at + 4) !== VERSION) {
      return this.#bad(`magic 0x${u32(bytes, at).toString(16)} version ${u32(bytes, at + 4)}`);
    }
    this.#flags = flags;
    if (flags === DEVICE_STATE) return this.#expect('device-state', DEVICE_STATE_HEADER_BYTES - COMMON_BYTES);
    const compression = flags & COMPRESSION_MASK;
    if ((flags & ~(SYNC | COMPRESSION_MASK)) !== 0 || (compression !== 0 && !COMPRESSIONS.has(compression))) {
      return this.#bad(`flags 0x${flags.toString(16)}`);
    }
    return this.#expect('pages', PACKET_HEADER_BYTES - COMMON_BYTES);
  }

  #deviceState(payloadBytes: number): number {
    this.#trace.packet?.(this.#packetOffset, this.#flags, 0, 0, payloadBytes);
    this.skip(payloadBytes);
    return this.#expect('packet', COMMON_BYTES);
  }

  #pages(bytes: Uint8Array, at: number): number {
    const allocated = u32(bytes, at + PAGES_ALLOC);
    const normal = u32(bytes, at + NORMAL_PAGES);
    const zero = u32(bytes, at + ZERO_PAGES);
    const size = u32(bytes, at + NEXT_PACKET_SIZE);
    const count = normal + zero;
    // QEMU 9.2 and later leave the whole header of a SYNC packet 0.
    if (allocated !== MAX_PAGES && (allocated !== 0 || count !== 0)) {
      return this.#bad(
        `room for ${allocated} pages, not ${MAX_PAGES}: target pages are not ${PAGE_BYTES} bytes`,
      );
    }
    if (count > MAX_PAGES) return this.#bad(`${normal} normal and ${zero} zero pages`);
    const compression = this.#flags & COMPRESSION_MASK;
    const payloadBytes = normal === 0 ? 0 : size;
    if (compression === 0 ? payloadBytes !== normal * PAGE_BYTES : payloadBytes > MAX_COMPRESSED_BYTES) {
      return this.#bad(`payload of ${size} bytes for ${normal} pages`);
    }
    if (count > 0) {
      const block = this.#ramBlock(bytes, at + RAM_BLOCK);
      if (block === undefined) return this.#bad('RAMBlock is not in the list, or has no name');
      const outside = this.#readOffsets(bytes, at + OFFSETS, normal, zero, block);
      if (outside >= 0)
        return this.#bad(`offset of entry ${outside} is outside its RAMBlock of ${block.pageCount} pages`);
    }
    this.#trace.packet?.(this.#packetOffset, this.#flags, normal, zero, payloadBytes);
    if (normal > 0) this.#tellNormal(compression, normal);
    if (zero > 0) this.sink.zeroPages(this.#block!.index, this.#zeroPages, zero);
    if ((this.#flags & SYNC) !== 0) this.skipAndTell(payloadBytes);
    else this.skip(payloadBytes);
    return this.#expect('packet', COMMON_BYTES);
  }

  #tellNormal(compression: number, normal: number): void {
    const index = this.#block!.index;
    if (compression === 0) {
      this.sink.pages(this.next, index, this.#normalPages, normal);
      return;
    }
    if (!this.#compressionsTold.has(compression)) {
      this.#compressionsTold.add(compression);
      this.sink.compression(COMPRESSIONS.get(compression)!);
    }
    this.sink.unknownPages(index, this.#normalPages, normal);
  }

  // Normal pages first, then zero pages. Returns the entry that cannot be, or -1. A RAMBlock whose size is not known yet bounds its page numbers only by their 32 bits.
  #readOffsets(bytes: Uint8Array, at: number, normal: number, zero: number, block: RamBlock): number {
    const isSizeKnown = this.#blocks.isListed;
    for (let i = 0; i < normal + zero; i++) {
      const high = u32(bytes, at + 8 * i);
      const low = u32(bytes, at + 8 * i + 4);
      const page = high * 0x10_0000 + (low >>> 12);
      if ((low & 0xfff) !== 0 || high >= 0x1000 || (isSizeKnown && page >= block.pageCount)) {
        return i;
      }
      if (i < normal) this.#normalPages[i] = page;
      else this.#zeroPages[i - normal] = page;
    }
    return -1;
  }

  #ramBlock(bytes: Uint8Array, at: number): RamBlock | undefined {
    const known = this.#blockName;
    let length = 0;
    let isSame = this.#block !== undefined;
    while (length < RAM_BLOCK_BYTES && bytes[at + length] !== 0) {
      isSame &&= bytes[at + length] === known[length];
      length++;
    }
    if (length === 0 || length === RAM_BLOCK_BYTES) return undefined;
    if (isSame && known[length] === 0) return this.#block;
    const block = this.#blocks.findOrExpect(latin1(bytes, at, length));
    if (block === undefined) return undefined;
    this.#block = block;
    known.fill(0);
    for (let i = 0; i < length; i++) known[i] = bytes[at + i]!;
    return block;
  }
}
