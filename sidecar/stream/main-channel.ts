// Finds guest pages on the main channel of a migration: file header, configuration, commands, RAM sections, and the few other
// sections whose length can be found out. It follows what the stream says, never QEMU's version, and is strict: what a receiver of
// QEMU would not accept, or what cannot be measured, ends the search ("opaque") at the first byte of that item.
// Guarantees: no reads out of bounds, no allocation for a page, memory bounded by the RAMBlock table and a small buffer.
// Format: migration/savevm.c (items, commands), migration/vmstate.c (subsections), migration/ram.c (records).
import { latin1, u16, u32, u64 } from './big-endian.ts';
import { ItemReader } from './item-reader.ts';
import { type OpaqueReason, PAGE_BYTES, type PageSink, type StreamTrace } from './page-sink.ts';
import { MAX_RAM_BLOCK_PAGES, type RamBlock, type RamBlocks } from './ram-blocks.ts';
import { type BodySkipper, bodySkippers } from './section-bodies.ts';

// File header and configuration (migration/savevm.h, QEMU_VM_*)
const FILE_MAGIC = 0x5145_564d; // "QEVM"
const FILE_VERSION = 3;
const CONFIGURATION = 0x07;
const SUBSECTION = 0x05;
const MAX_MACHINE_TYPE_BYTES = 256;
const TARGET_PAGE_BITS = 12;

// Items
const EOF = 0x00;
const SECTION_START = 0x01;
const SECTION_PART = 0x02;
const SECTION_END = 0x03;
const SECTION_FULL = 0x04;
const COMMAND = 0x08;
const FOOTER = 0x7e;
/** Iterable sections other than RAM that may be open: one for each such device. */
const MAX_OPEN_SECTIONS = 1024;

// Commands (migration/savevm.c, enum qemu_vm_cmd)
const OPEN_RETURN_PATH = 1;
const PING = 2;
const POSTCOPY_ADVISE = 3;
const POSTCOPY_RAM_DISCARD = 6;
const PACKAGED = 7;
const ENABLE_COLO = 8;
const SWITCHOVER_START = 11;

// RAM records: flags in the low 12 bits of the record's u64 (migration/ram.h, RAM_SAVE_FLAG_*)
const RAM_ZERO = 0x002;
const RAM_MEM_SIZE = 0x004;
const RAM_PAGE = 0x008;
const RAM_EOS = 0x010;
const RAM_CONTINUE = 0x020;
const RAM_XBZRLE = 0x040;
const RAM_HOOK = 0x080;
const RAM_COMPRESS_PAGE = 0x100;
const RAM_MULTIFD_FLUSH = 0x200;
const RAM_FLAGS = 0xfff;
const RAM_VERSION = 4;
/** A page that does not compress grows by some bytes: 14 in zlib, more in other deflaters; QEMU's receiver bounds it likewise. */
const MAX_COMPRESSED_PAGE_BYTES = 2 * PAGE_BYTES;

type State =
  | 'file-header'
  | 'machine-type-length'
  | 'machine-type'
  | 'configuration-next'
  | 'subsection-name-length'
  | 'subsection-name'
  | 'target-page-bits'
  | 'capability-count'
  | 'capability-length'
  | 'capability'
  | 'uuid'
  | 'item'
  | 'section-name-length'
  | 'section-name'
  | 'section-version'
  | 'section-id'
  | 'section-body'
  | 'section-footer'
  | 'command'
  | 'advise'
  | 'package-length'
  | 'block-name-length'
  | 'block-name'
  | 'block-length'
  | 'block-page-size-or-next'
  | 'block-page-size'
  | 'record'
  | 'record-name-length'
  | 'record-name'
  | 'zero-fill'
  | 'xbzrle'
  | 'compress-page';

type Section = { readonly idstr: string; readonly makeSkipper: (isStart: boolean) => BodySkipper };

/** Finder for a main channel, from its first byte ("QEVM") on. */
export class MainChannelFinder extends ItemReader {
  readonly #blocks: RamBlocks;
  readonly #trace: StreamTrace;
  #state: State = 'file-header';
  #itemOffset = 0; // stream offset of the item, or of the RAM record, that is being read

  // COMMAND
  #command = 0;
  #adviseSizesHigh = 0; // OR of the page sizes of all RAMBlocks, from a 16-byte ADVISE; 0 without
  #adviseSizesLow = 0;
  #isPostcopyStarted = false;

  // Section being read
  #sectionKind = 0;
  #sectionId = 0;
  #sectionName = '';
  #skipper: BodySkipper | undefined;
  readonly #sections = new Map<number, Section>();

  // RAM
  #ramId = -1; // section id, -1 before RAM's START
  #isRamEnded = false;
  #isListPending = false; // in START: nothing but the block list is legal yet
  #listBytesLeft = 0;
  #listName = '';
  #recordFlag = 0;
  #page = 0;
  #block: RamBlock | undefined; // what CONTINUE continues: it outlives sections, commands and the switch to post-copy
  readonly #pageNumbers = new Uint32Array(1);
  #isXbzrleTold = false;
  #isCompressPageTold = false;

  constructor(sink: PageSink, ramBlocks: RamBlocks, trace: StreamTrace = {}) {
    super(sink, 9, 288); // first: magic, version and the configuration's byte; the longest header is a name of 256 bytes
    this.#blocks = ramBlocks;
    this.#trace = trace;
  }

  protected override header(bytes: Uint8Array, at: number, length: number): number {
    switch (this.#state) {
      case 'record':
        return this.#record(u32(bytes, at), u32(bytes, at + 4), this.next - 8);
      case 'zero-fill':
        return this.#zero(bytes[at]!);
      case 'record-name-length':
        return this.#expectName('record-name', bytes[at]!, 'ram-record');
      case 'record-name':
        return this.#recordName(latin1(bytes, at, length));
      case 'xbzrle':
        return this.#xbzrle(bytes[at]!, u16(bytes, at + 1));
      case 'compress-page':
        return this.#compressPage(u32(bytes, at));

      case 'item':
        return this.#item(bytes[at]!);
      case 'section-name-length':
        this.#sectionId = u32(bytes, at);
        return this.#expectName('section-name', bytes[at + 4]!, 'section');
      case 'section-name':
        this.#sectionName = latin1(bytes, at, length);
        return this.#expect('section-version', 8);
      case 'section-version':
        return this.#beginSection(u32(bytes, at), u32(bytes, at + 4));
      case 'section-id':
        return this.#continueSection(u32(bytes, at));
      case 'section-body':
        return this.#sectionBody(bytes, at);
      case 'section-footer':
        return this.#footer(bytes[at]!, u32(bytes, at + 1));
      case 'command':
        return this.#commandHeader(u16(bytes, at), u16(bytes, at + 2));
      case 'advise':
        return this.#advise(u32(bytes, at), u32(bytes, at + 4), u64(bytes, at + 8));
      case 'package-length':
        return this.#commandData(u32(bytes, at));

      case 'block-name-length':
        return this.#expectName('block-name', bytes[at]!, 'ram-list');
      case 'block-name':
        this.#listName = latin1(bytes, at, length);
        return this.#expect('block-length', 8);
      case 'block-length':
        return this.#blockLength(u64(bytes, at));
      case 'block-page-size-or-next':
        return this.#blockPageSizeOrNext(bytes[at]!);
      case 'block-page-size':
        return this.#blockPageSize((bytes[at]! << 16) | u16(bytes, at + 1), u32(bytes, at + 3));

      case 'file-header':
        return this.#fileHeader(u32(bytes, at), u32(bytes, at + 4), bytes[at + 8]!);
      case 'machine-type-length':
        return this.#machineTypeLength(u32(bytes, at));
      case 'machine-type':
        return this.#machineType(latin1(bytes, at, length));
      case 'configuration-next':
        return this.#configurationNext(bytes[at]!);
      case 'subsection-name-length':
        return this.#expectName('subsection-name', bytes[at]!, 'configuration');
      case 'subsection-name':
        return this.#subsection(latin1(bytes, at, length));
      case 'target-page-bits':
        return this.#targetPageBits(u32(bytes, at), u32(bytes, at + 4));
      case 'capability-count':
        return this.#capabilityCount(u32(bytes, at), u32(bytes, at + 4));
      case 'capability-length':
        return this.#expectName('capability', bytes[at]!, 'configuration');
      case 'capability':
        return this.#capability(latin1(bytes, at, length));
      case 'uuid':
        if (u32(bytes, at) !== 1) return this.#bad('configuration', 'subsection uuid has an unknown version');
        return this.#expect('configuration-next', 1);
    }
  }

  // Only commands have bytes after which something is told.
  protected override skipped(): void {
    this.sink.boundary(this.next, this.#command === SWITCHOVER_START ? 'switchover-start' : 'command');
  }

  #expect(state: State, headerBytes: number): number {
    this.#state = state;
    return headerBytes;
  }

  #expectName(state: State, length: number, reason: OpaqueReason): number {
    if (length === 0) return this.#bad(reason, `empty name where a ${state} was expected`);
    return this.#expect(state, length);
  }

  #bad(reason: OpaqueReason, detail: string): number {
    return this.stop(reason, this.#itemOffset, detail);
  }

  // ---- file header and configuration ----

  #fileHeader(magic: number, version: number, configuration: number): number {
    if (magic !== FILE_MAGIC) return this.#bad('header', `magic 0x${magic.toString(16)} is not QEMU's`);
    if (version !== FILE_VERSION) return this.#bad('header', `version ${version} is not ${FILE_VERSION}`);
    if (configuration !== CONFIGURATION) return this.#bad('header', 'no configuration section');
    this.#itemOffset = 8;
    return this.#expect('machine-type-length', 4);
  }

  #machineTypeLength(length: number): number {
    if (length === 0 || length > MAX_MACHINE_TYPE_BYTES) {
      return this.#bad('configuration', `machine type of ${length} bytes`);
    }
    return this.#expect('machine-type', length);
  }

  #machineType(name: string): number {
    if (!/^[\x20-\x7e]+$/.test(name)) return this.#bad('configuration', 'machine type is not printable');
    this.#trace.machineType?.(name);
    return this.#expect('configuration-next', 1);
  }

  // The configuration has no length and no footer: it ends where no subsection follows.
  #configurationNext(type: number): number {
    this.#itemOffset = this.next - 1;
    if (type === SUBSECTION) return this.#expect('subsection-name-length', 1);
    return this.#item(type);
  }

  #subsection(idstr: string): number {
    switch (idstr) {
      case 'configuration/target-page-bits':
        return this.#expect('target-page-bits', 8);
      case 'configuration/capabilities':
        return this.#expect('capability-count', 8);
      case 'configuration/uuid':
        return this.#expect('uuid', 4 + 16);
      default:
        return this.#bad('configuration', `subsection ${quoted(idstr)} has an unknown length`);
    }
  }

  #targetPageBits(version: number, bits: number): number {
    if (version !== 1)
      return this.#bad('configuration', `subsection target-page-bits has version ${version}`);
    if (bits !== TARGET_PAGE_BITS) return this.#bad('page-size', `target pages of 2^${bits} bytes`);
    return this.#expect('configuration-next', 1);
  }

  #capabilityCount(version: number, count: number): number {
    if (version !== 1) return this.#bad('configuration', `subsection capabilities has version ${version}`);
    return this.#expect(count === 0 ? 'configuration-next' : 'capability-length', 1);
  }

  // QEMU lists x-ignore-shared and mapped-ram, when they are on, and no others. Both change RAM's format.
  #capability(name: string): number {
    return this.#bad('capability', `capability ${quoted(name)}`);
  }

  // ---- items ----

  #item(type: number): number {
    this.#itemOffset = this.next - 1;
    switch (type) {
      case SECTION_START:
      case SECTION_FULL:
        this.#sectionKind = type;
        return this.#expect('section-name-length', 4 + 1);
      case SECTION_PART:
      case SECTION_END:
        this.#sectionKind = type;
        return this.#expect('section-id', 4);
      case COMMAND:
        return this.#expect('command', 4);
      case EOF:
        return this.#bad('end-of-file', this.#isPostcopyStarted ? 'after post-copy' : "without RAM's END");
      default:
        return this.#bad('section', `item type 0x${type.toString(16)}`);
    }
  }

  #beginSection(instance: number, version: number): number {
    const idstr = this.#sectionName;
    const id = this.#sectionId;
    const isFull = this.#sectionKind === SECTION_FULL;
    if (!isFull && (id === this.#ramId || this.#sections.has(id))) {
      return this.#bad('section', `section id ${id} is started twice`);
    }
    if (idstr === 'ram') {
      if (isFull || instance !== 0 || version !== RAM_VERSION) {
        return this.#bad('section', `section ram of instance ${instance}, version ${version}`);
      }
      if (this.#ramId >= 0) return this.#bad('section', 'section ram is started twice');
      this.#trace.section?.(this.#itemOffset, 'start', id, idstr);
      this.#ramId = id;
      this.#isListPending = true;
      return this.#expect('record', 8);
    }
    const makeSkipper = bodySkippers(idstr, version, isFull);
    if (makeSkipper === undefined) {
      return this.#bad('section', `section ${quoted(idstr)} version ${version} has an unknown length`);
    }
    if (!isFull) {
      if (this.#sections.size >= MAX_OPEN_SECTIONS) return this.#bad('section', 'too many sections');
      this.#sections.set(id, { idstr, makeSkipper });
    }
    this.#trace.section?.(this.#itemOffset, isFull ? 'full' : 'start', id, idstr);
    return this.#beginBody(makeSkipper(true));
  }

  #continueSection(id: number): number {
    const kind = this.#sectionKind === SECTION_END ? 'end' : 'part';
    this.#sectionId = id;
    if (id === this.#ramId) {
      if (this.#isRamEnded) return this.#bad('section', "section ram after RAM's END");
      this.#sectionName = 'ram';
      this.#trace.section?.(this.#itemOffset, kind, id, 'ram');
      if (kind === 'end') this.sink.ramEndBegins?.();
      return this.#expect('record', 8);
    }
    const section = this.#sections.get(id);
    if (section === undefined) return this.#bad('section', `section id ${id} was not started`);
    this.#sectionName = section.idstr;
    this.#trace.section?.(this.#itemOffset, kind, id, section.idstr);
    return this.#beginBody(section.makeSkipper(false));
  }

  #beginBody(skipper: BodySkipper): number {
    this.#skipper = skipper;
    return this.#expect('section-body', skipper.need);
  }

  #sectionBody(bytes: Uint8Array, at: number): number {
    const skipper = this.#skipper!;
    const step = skipper.take(bytes, at);
    if (step === 'malformed') {
      return this.#bad('section-body', `section ${quoted(this.#sectionName)} is not what its format says`);
    }
    this.skip(skipper.skip);
    if (step === 'more') return skipper.need;
    if (skipper.unpluggedBytes !== undefined) this.sink.unpluggedRam?.(skipper.unpluggedBytes);
    this.#skipper = undefined;
    return this.#expect('section-footer', 1 + 4);
  }

  #footer(type: number, id: number): number {
    if (type !== FOOTER || id !== this.#sectionId) {
      return this.#bad('section-footer', `0x${type.toString(16)}, id ${id} after section ${this.#sectionId}`);
    }
    if (id !== this.#ramId || this.#sectionName !== 'ram') return this.#expect('item', 1);
    if (this.#sectionKind !== SECTION_END) {
      this.sink.boundary(this.next, 'ram-section');
      return this.#expect('item', 1);
    }
    this.#isRamEnded = true;
    this.sink.boundary(this.next, 'ram-end');
    // In post-copy the device state has passed already, in the package: what follows can be read.
    if (this.#isPostcopyStarted) return this.#expect('item', 1);
    return this.stop('ram-end', this.next, 'device state follows');
  }

  // ---- commands ----

  #commandHeader(command: number, length: number): number {
    this.#command = command;
    const isKnownLength =
      command === OPEN_RETURN_PATH || command === ENABLE_COLO || command === SWITCHOVER_START
        ? length === 0
        : command === PING || command === PACKAGED
          ? length === 4
          : command === POSTCOPY_ADVISE
            ? length === 0 || length === 16
            : command === POSTCOPY_RAM_DISCARD;
    // The rest is legal only in a package (LISTEN, RUN), in a recovery (RESUME, RECV_BITMAP), or unknown.
    if (!isKnownLength) return this.#bad('command', `command ${command} with ${length} bytes`);
    if (command === ENABLE_COLO) return this.#bad('colo', 'ENABLE_COLO');
    this.#trace.command?.(this.#itemOffset, command, length);
    switch (command) {
      case POSTCOPY_ADVISE:
        this.sink.postcopyAnnounced(length !== 0);
        return length !== 0 ? this.#expect('advise', 16) : this.#commandData(0);
      case PACKAGED:
        this.#startPostcopy();
        return this.#expect('package-length', 4); // that many bytes follow, outside the command's length
      case POSTCOPY_RAM_DISCARD:
        this.#startPostcopy();
        return this.#commandData(length);
      default:
        return this.#commandData(length);
    }
  }

  // The next item comes after the command's data.
  #commandData(bytes: number): number {
    this.skipAndTell(bytes);
    return this.#expect('item', 1);
  }

  #startPostcopy(): void {
    if (this.#isPostcopyStarted) return;
    this.#isPostcopyStarted = true;
    this.sink.postcopyStarted();
  }

  #advise(sizesHigh: number, sizesLow: number, targetPageBytes: number): number {
    if (targetPageBytes !== PAGE_BYTES) {
      return this.#bad('page-size', `POSTCOPY_ADVISE with target pages of ${targetPageBytes} bytes`);
    }
    this.#adviseSizesHigh = sizesHigh;
    this.#adviseSizesLow = sizesLow;
    return this.#commandData(0);
  }

  // ---- RAMBlock list ----

  #blockLength(bytes: number): number {
    if (bytes < 0 || bytes % PAGE_BYTES !== 0 || bytes > this.#listBytesLeft) {
      return this.#bad(
        'ram-list',
        `RAMBlock ${quoted(this.#listName)} of ${bytes} bytes, ${this.#listBytesLeft} left`,
      );
    }
    const pageCount = bytes / PAGE_BYTES;
    if (pageCount > MAX_RAM_BLOCK_PAGES || !this.#blocks.declare(this.#listName, pageCount)) {
      return this.#bad(
        'ram-list',
        `RAMBlock ${quoted(this.#listName)} of ${pageCount} pages: repeated, or over the limits`,
      );
    }
    this.#listBytesLeft -= bytes;
    // With postcopy-ram on, blocks of huge pages have a u64 page size here.
    if (this.#adviseSizesHigh !== 0 || this.#adviseSizesLow !== 0)
      return this.#expect('block-page-size-or-next', 1);
    return this.#nextBlock();
  }

  #nextBlock(): number {
    if (this.#listBytesLeft > 0) return this.#expect('block-name-length', 1);
    this.#finishList();
    return this.#expect('record', 8);
  }

  #finishList(): void {
    this.#blocks.finishList();
    this.sink.ramBlocks(this.#blocks.all);
  }

  // A page size begins with a 0, as a record does, and the length of a name is never 0.
  #blockPageSizeOrNext(first: number): number {
    if (first === 0) return this.#expect('block-page-size', 7);
    if (this.#listBytesLeft === 0)
      return this.#bad('ram-list', 'neither a page size nor a record after the last RAMBlock');
    return this.#expect('block-name', first);
  }

  #blockPageSize(high: number, low: number): number {
    const isPowerOfTwo = (high === 0 && isBit(low)) || (low === 0 && isBit(high));
    // Records have flags in their low 12 bits, page sizes have none there.
    if (isPowerOfTwo && (low & RAM_FLAGS) === 0) {
      if ((high & this.#adviseSizesHigh) === 0 && (low & this.#adviseSizesLow) === 0) {
        return this.#bad('ram-list', 'a RAMBlock has a page size that POSTCOPY_ADVISE does not have');
      }
      return this.#nextBlock();
    }
    if (this.#listBytesLeft > 0)
      return this.#bad('ram-list', 'neither a page size nor a name in the RAMBlock list');
    this.#finishList();
    return this.#record(high, low, this.next - 8);
  }

  // ---- RAM records ----

  #record(high: number, low: number, offset: number): number {
    const flags = low & RAM_FLAGS;
    const flag = flags & ~RAM_CONTINUE;
    this.#itemOffset = offset;
    if (this.#isListPending) {
      this.#isListPending = false;
      const total = high * 0x1_0000_0000 + (low - flags);
      if (flags !== RAM_MEM_SIZE || high >= 0x20_0000)
        return this.#bad('ram-list', "RAM's START has no RAMBlock list");
      this.#listBytesLeft = total;
      return this.#nextBlock();
    }
    if (flag === RAM_PAGE || flag === RAM_ZERO || flag === RAM_XBZRLE || flag === RAM_COMPRESS_PAGE) {
      if (flag === RAM_XBZRLE && this.#isPostcopyStarted)
        return this.#bad('ram-record', 'XBZRLE in post-copy');
      if (high >= 0x1000) return this.#bad('ram-record', 'offset over 2^44'); // page numbers have 32 bits
      this.#recordFlag = flag;
      this.#page = high * 0x10_0000 + (low >>> 12);
      if ((flags & RAM_CONTINUE) === 0) return this.#expect('record-name-length', 1);
      return this.#pageRecord();
    }
    if (high === 0 && low === RAM_EOS) return this.#expect('section-footer', 1 + 4);
    if (high === 0 && low === RAM_MULTIFD_FLUSH) {
      this.sink.boundary(this.next, 'multifd-flush');
      return this.#expect('record', 8);
    }
    if (flag === RAM_HOOK) return this.#bad('rdma', 'record HOOK');
    return this.#bad('ram-record', `flags 0x${flags.toString(16)}`);
  }

  #recordName(name: string): number {
    const block = this.#blocks.find(name);
    if (block === undefined) return this.#bad('ram-record', `RAMBlock ${quoted(name)} is not in the list`);
    this.#block = block;
    return this.#pageRecord();
  }

  // The record's block is known: all that comes before its content has been read.
  #pageRecord(): number {
    const block = this.#block;
    if (block === undefined) return this.#bad('ram-record', 'CONTINUE without a RAMBlock before it');
    if (this.#page >= block.pageCount) {
      return this.#bad(
        'ram-record',
        `page ${this.#page} of RAMBlock ${quoted(block.name)}, which has ${block.pageCount}`,
      );
    }
    switch (this.#recordFlag) {
      case RAM_PAGE:
        this.#pageNumbers[0] = this.#page;
        this.skip(PAGE_BYTES);
        this.sink.pages(this.next, block.index, this.#pageNumbers, 1);
        return this.#expect('record', 8);
      case RAM_ZERO:
        return this.#expect('zero-fill', 1);
      case RAM_XBZRLE:
        return this.#expect('xbzrle', 3);
      default:
        return this.#expect('compress-page', 4);
    }
  }

  #zero(fill: number): number {
    this.#pageNumbers[0] = this.#page;
    if (fill === 0) this.sink.zeroPages(this.#block!.index, this.#pageNumbers, 1);
    else this.sink.unknownPages(this.#block!.index, this.#pageNumbers, 1); // legal for receivers up to QEMU 8.1, never sent
    return this.#expect('record', 8);
  }

  #xbzrle(type: number, length: number): number {
    if (type !== 1 || length > PAGE_BYTES)
      return this.#bad('ram-record', `XBZRLE type ${type} of ${length} bytes`);
    if (!this.#isXbzrleTold) this.sink.compression('xbzrle');
    this.#isXbzrleTold = true;
    return this.#unknownPage(length);
  }

  #compressPage(length: number): number {
    if (length === 0 || length > MAX_COMPRESSED_PAGE_BYTES) {
      return this.#bad('ram-record', `compressed page of ${length} bytes`);
    }
    if (!this.#isCompressPageTold) this.sink.compression('compress-page');
    this.#isCompressPageTold = true;
    return this.#unknownPage(length);
  }

  #unknownPage(contentBytes: number): number {
    this.skip(contentBytes);
    this.#pageNumbers[0] = this.#page;
    this.sink.unknownPages(this.#block!.index, this.#pageNumbers, 1);
    return this.#expect('record', 8);
  }
}

/** Exactly one bit of the 32 is set. */
function isBit(half: number): boolean {
  return half !== 0 && (half & (half - 1)) === 0;
}

/** A name from the stream for a person to read: bounded by the format (255 bytes), control characters escaped. */
function quoted(name: string): string {
  return JSON.stringify(name);
}
