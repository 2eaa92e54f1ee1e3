// What a migration that is only observed would have been: looks at the bytes as they are relayed, finds guest pages in them, and
// asks the index for each. It keeps no byte but one page a connection, changes none, and delays none beyond the time of its hash;
// a stream it does not understand counts as bytes without pages. The estimate errs on the side of saving less.
import { constants, zstdCompressSync } from 'node:zlib';
import type { Result } from '../../control/messages.ts';
import type { BlockIndex } from '../index/block-index.ts';
import { PageHasher } from '../index/page-hash.ts';
import { CONNECTION_KIND_BYTES, connectionKind } from '../stream/connection-kind.ts';
import { MainChannelFinder } from '../stream/main-channel.ts';
import { MultifdChannelFinder } from '../stream/multifd-channel.ts';
import { type BoundaryKind, type ChannelFinder, PAGE_BYTES, type PageSink } from '../stream/page-sink.ts';
import { type PassChannel, PassCounter } from '../stream/pass-counter.ts';
import { RamBlocks } from '../stream/ram-blocks.ts';

export type Estimate = NonNullable<Result['estimate']>;

/** One literal in so many is compressed, to know how far the others would be: about 20 us each. */
const COMPRESSED_ONE_IN = 64;
/** A reference is run-length coded (docs/link-protocol.md); where no page follows its neighbour it takes this much. */
const REFERENCE_BYTES = 8;
const ZSTD_LEVEL = 1;

export interface ObservedStreamOptions {
  readonly index: BlockIndex;
  /** By the index's numbers of volumes: those that this migration may use. */
  readonly usable: readonly boolean[];
  /** For how many pages a hit in a sampled block stands: with every tenth block sampled, from the first on, it is 10. */
  readonly hitsStandFor: number;
}

/** All connections of one migration, on the source. */
export class ObservedStream {
  readonly #options: ObservedStreamOptions;
  readonly #hasher: PageHasher;
  readonly #ramBlocks = new RamBlocks();
  readonly #passes = new PassCounter();
  #streamBytes = 0;
  #pages = 0;
  #hits = 0;
  /** Of the hits, those in blocks that a sample takes. */
  #sampledHits = 0;
  #zeroPages = 0;
  #literalsSeen = 0;
  #compressedPages = 0;
  #compressedBytes = 0;

  constructor(options: ObservedStreamOptions) {
    this.#options = options;
    this.#hasher = new PageHasher(options.index.seed);
  }

  /** To be given every byte of one connection, in order. Never throws on content. */
  connection(): (bytes: Uint8Array) => void {
    const observed = new ObservedConnection({
      ramBlocks: this.#ramBlocks,
      passes: this.#passes.channel(),
      page: (bytes, at) => this.#onPage(bytes, at),
      zeroPages: (count) => {
        this.#zeroPages += count;
      },
    });
    return (bytes) => {
      this.#streamBytes += bytes.byteLength;
      observed.push(bytes);
    };
  }

  /** QEMU's passes over the memory. */
  get iterations(): number {
    return this.#passes.passes;
  }

  estimate(): Estimate {
    const { hitsStandFor } = this.#options;
    // What growth brought between the samples is among what they stand for.
    const reference = Math.min(this.#pages, Math.max(this.#hits, this.#sampledHits * hitsStandFor));
    const literal = this.#pages - reference;
    const share =
      this.#compressedPages === 0
        ? 1
        : Math.min(1, this.#compressedBytes / (this.#compressedPages * PAGE_BYTES));
    return {
      linkBytes: Math.round(
        this.#streamBytes -
          this.#pages * PAGE_BYTES +
          reference * REFERENCE_BYTES +
          literal * PAGE_BYTES * share,
      ),
      nasBytes: reference * PAGE_BYTES,
      pages: { reference, literalRaw: 0, literalCompressed: literal, zero: this.#zeroPages },
      hitsCountedTimes: hitsStandFor,
    };
  }

  #onPage(bytes: Uint8Array, at: number): void {
    const { index, usable, hitsStandFor } = this.#options;
    this.#pages += 1;
    this.#hasher.hash(bytes, at);
    const place = index.lookup(this.#hasher.hi, this.#hasher.lo);
    if (place !== -1 && usable[index.volume(place)] === true) {
      this.#hits += 1;
      if (index.block(place) % hitsStandFor === 0) this.#sampledHits += 1;
      return;
    }
    if (this.#literalsSeen++ % COMPRESSED_ONE_IN !== 0) return;
    this.#compressedPages += 1;
    this.#compressedBytes += zstdCompressSync(bytes.subarray(at, at + PAGE_BYTES), {
      params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL },
    }).byteLength;
  }
}

interface ConnectionEvents {
  readonly ramBlocks: RamBlocks;
  readonly passes: PassChannel;
  /** A whole page lies at `at`; the bytes are valid only during the call. */
  page(bytes: Uint8Array, at: number): void;
  zeroPages(count: number): void;
}

class ObservedConnection implements PageSink {
  readonly #events: ConnectionEvents;
  #finder: ChannelFinder | undefined;
  #isUnknown = false;
  readonly #first: number[] = [];
  /** Stream offset of the next byte pushed. */
  #offset = 0;
  /** Page ranges whose content is still to come: offset of the next page, and how many. No more than fit into what one push brings. */
  readonly #nextPage: number[] = [];
  readonly #pagesLeft: number[] = [];
  readonly #partial = new Uint8Array(PAGE_BYTES);

  constructor(events: ConnectionEvents) {
    this.#events = events;
  }

  push(bytes: Uint8Array): void {
    if (this.#isUnknown) return;
    if (this.#finder !== undefined) {
      this.#look(this.#finder, bytes);
      return;
    }
    const missing = CONNECTION_KIND_BYTES - this.#first.length;
    this.#first.push(...bytes.subarray(0, missing));
    const first = Uint8Array.from(this.#first);
    const kind = connectionKind(first);
    if (kind === 'more-bytes-needed') return;
    if (kind === 'main') this.#finder = new MainChannelFinder(this, this.#events.ramBlocks);
    else if (kind === 'multifd') this.#finder = new MultifdChannelFinder(this, this.#events.ramBlocks);
    else {
      this.#isUnknown = true;
      return;
    }
    this.#look(this.#finder, first);
    this.#look(this.#finder, bytes.subarray(Math.min(missing, bytes.byteLength)));
  }

  #look(finder: ChannelFinder, bytes: Uint8Array): void {
    if (!finder.isOpaque) finder.push(bytes);
    this.#takePages(bytes);
    this.#offset += bytes.byteLength;
  }

  #takePages(bytes: Uint8Array): void {
    const begin = this.#offset;
    const end = begin + bytes.byteLength;
    while (this.#nextPage.length > 0) {
      const page = this.#nextPage[0] as number;
      if (page >= end) return;
      const pageEnd = page + PAGE_BYTES;
      if (page >= begin && pageEnd <= end) this.#events.page(bytes, page - begin);
      else {
        const from = Math.max(page, begin);
        const to = Math.min(pageEnd, end);
        this.#partial.set(bytes.subarray(from - begin, to - begin), from - page);
        if (to < pageEnd) return;
        this.#events.page(this.#partial, 0);
      }
      this.#nextPage[0] = pageEnd;
      const left = (this.#pagesLeft[0] as number) - 1;
      this.#pagesLeft[0] = left;
      if (left > 0) continue;
      this.#nextPage.shift();
      this.#pagesLeft.shift();
    }
  }

  pages(streamOffset: number, ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#events.passes.pages(ramBlock, pageNumbers, count);
    const last = this.#nextPage.length - 1;
    const follows =
      last >= 0 &&
      (this.#nextPage[last] as number) + (this.#pagesLeft[last] as number) * PAGE_BYTES === streamOffset;
    if (follows) this.#pagesLeft[last] = (this.#pagesLeft[last] as number) + count;
    else {
      this.#nextPage.push(streamOffset);
      this.#pagesLeft.push(count);
    }
  }

  zeroPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#events.passes.pages(ramBlock, pageNumbers, count);
    this.#events.zeroPages(count);
  }

  boundary(_streamOffset: number, kind: BoundaryKind): void {
    if (kind === 'multifd-flush') this.#events.passes.flush();
    else if (kind === 'multifd-sync') this.#events.passes.sync();
  }

  ramBlocks(): void {}
  unknownPages(): void {}
  compression(): void {}
  postcopyAnnounced(): void {}
  postcopyStarted(): void {}
  opaque(): void {}
}
