// Makes a recorded stream short, for the corpus: of every run of like items a few stay. What stays is as QEMU wrote it, but for
// the counts of a multifd packet whose pages were taken out. The result is understood as far as the recording was.
import { MainChannelFinder } from '../../sidecar/stream/main-channel.ts';
import { PAGE_BYTES } from '../../sidecar/stream/page-sink.ts';
import { RamBlocks } from '../../sidecar/stream/ram-blocks.ts';
import { SilentSink } from '../../sidecar/stream/test-streams.ts';

/** Pages, and zero pages, that stay of each run of them. */
const KEPT_PAGES = 3;
const KEPT_ZEROS = 4;
/** What the finder does not look at: device state. */
const KEPT_REST_BYTES = 200;
/** After so much no more pages stay, but those that begin another RAMBlock. */
const MAX_STREAM_BYTES = 20_000;

const RECORD_BYTES = 8;
const ZERO_RECORD_BYTES = RECORD_BYTES + 1;
const CONTINUE_ZERO = 0x22;
const CONTINUE_PAGE = 0x28;

/** Where pages lie, and where and why the finder stops. */
class Understanding extends SilentSink {
  readonly pageOffsets: number[] = [];
  opaqueReason = '';
  opaqueOffset = 0;

  constructor(main: Uint8Array) {
    super();
    this.opaqueOffset = main.length;
    new MainChannelFinder(this, new RamBlocks()).push(main);
  }

  override pages(streamOffset: number): void {
    this.pageOffsets.push(streamOffset);
  }

  override opaque(reason: string, streamOffset: number): void {
    this.opaqueReason = reason;
    this.opaqueOffset = streamOffset;
  }
}

/** Throws when the trimmed stream is not understood as the recording was. */
export function trimMain(main: Buffer): Buffer {
  const before = new Understanding(main);
  const stream = main.subarray(0, Math.min(main.length, before.opaqueOffset + KEPT_REST_BYTES));
  const out: Buffer[] = [];
  let kept = 0;
  let at = 0;
  let from = 0;
  let zeros = 0;
  let pages = 0;
  let nextPage = 0;
  const drop = (bytes: number): void => {
    out.push(stream.subarray(from, at));
    kept += at - from;
    at += bytes;
    from = at;
  };
  // A record that continues the block before it can go without changing what follows; content of pages is stepped over.
  while (at < before.opaqueOffset) {
    const page = before.pageOffsets[nextPage] ?? Number.POSITIVE_INFINITY;
    if (at === page) {
      at += PAGE_BYTES;
      nextPage += 1;
    } else if (at === page - RECORD_BYTES && isRecord(stream, at, CONTINUE_PAGE)) {
      pages += 1;
      nextPage += 1;
      if (pages > KEPT_PAGES || kept > MAX_STREAM_BYTES) drop(RECORD_BYTES + PAGE_BYTES);
      else at += RECORD_BYTES + PAGE_BYTES;
    } else if (isRecord(stream, at, CONTINUE_ZERO) && stream[at + 8] === 0) {
      zeros += 1;
      if (zeros > KEPT_ZEROS) drop(ZERO_RECORD_BYTES);
      else at += ZERO_RECORD_BYTES;
    } else {
      if (isFooter(stream, at)) {
        zeros = 0;
        pages = 0;
      }
      at += 1;
    }
  }
  out.push(stream.subarray(from));
  const trimmed = Buffer.concat(out);
  const after = new Understanding(trimmed);
  if (after.opaqueReason !== before.opaqueReason)
    throw new Error(
      `the recording ends with ${before.opaqueReason}, trimmed it ends with ${after.opaqueReason}`,
    );
  return trimmed;
}

/** Offsets of these guests are below 2^32, so a record has a clear beginning. */
function isRecord(stream: Buffer, at: number, flags: number): boolean {
  return (
    at + ZERO_RECORD_BYTES <= stream.length &&
    stream.readUInt32BE(at) === 0 &&
    (stream.readUInt32BE(at + 4) & 0xfff) === flags &&
    stream.readUInt32BE(at + 4) < 0xf000_0000
  );
}

/** End of RAM's section: EOS, then the footer. */
function isFooter(stream: Buffer, at: number): boolean {
  return (
    at + RECORD_BYTES + 1 <= stream.length &&
    stream.readUInt32BE(at) === 0 &&
    stream.readUInt32BE(at + 4) === 0x10 &&
    stream[at + 8] === 0x7e
  );
}

const INIT_BYTES = 64;
const HEADER_BYTES = 1344;
const OFFSETS = 320;
const COMPRESSED = 0x3e;
/** A longer compressed payload goes, for it only makes inputs long. */
const MAX_COMPRESSED_BYTES = 12_000;
/** Packets without SYNC that stay between two with it. */
const KEPT_PACKETS = 2;

/** Pages are taken out of packets that are not compressed, packets out of their rows. */
export function trimMultifd(stream: Buffer): Buffer {
  const out = [stream.subarray(0, INIT_BYTES)];
  let plain = 0;
  for (let at = INIT_BYTES; at + HEADER_BYTES <= stream.length; ) {
    const header = Buffer.from(stream.subarray(at, at + HEADER_BYTES));
    const flags = header.readUInt32BE(8);
    const normal = header.readUInt32BE(16);
    const zero = header.readUInt32BE(32);
    const payload = normal === 0 ? 0 : header.readUInt32BE(20);
    let body = stream.subarray(at + HEADER_BYTES, at + HEADER_BYTES + payload);
    at += HEADER_BYTES + payload;
    const isSync = (flags & 1) !== 0;
    plain = isSync ? 0 : plain + 1;
    if (plain > KEPT_PACKETS) continue;
    if ((flags & COMPRESSED) !== 0 && payload > MAX_COMPRESSED_BYTES) continue;
    if ((flags & COMPRESSED) === 0 && normal > KEPT_PAGES) {
      const gone = normal - KEPT_PAGES;
      header.copyWithin(OFFSETS + 8 * KEPT_PAGES, OFFSETS + 8 * normal, OFFSETS + 8 * (normal + zero));
      header.writeUInt32BE(KEPT_PAGES, 16);
      header.writeUInt32BE(payload - gone * PAGE_BYTES, 20);
      body = body.subarray(0, KEPT_PAGES * PAGE_BYTES);
    }
    out.push(header, body);
  }
  return Buffer.concat(out);
}
