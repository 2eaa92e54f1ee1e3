// What a page finder tells while QEMU's bytes pass through it: where guest pages lie in the stream, which pages are zero, where a
// pipeline must not hold bytes back, and from where on nothing more is understood. Finders own no bytes and keep none: a page is
// told by its offset in the connection's stream. Format: docs on QEMU's stream, "migration/ram.c" and "migration/multifd*.c".
import type { RamBlock } from './ram-blocks.ts';

/** Bytes of a guest page on the wire: the finder goes opaque when the stream announces another size. */
export const PAGE_BYTES = 4096;

/**
 * Places after which a pipeline flushes. Exactly one is told per place, the most specific.
 * - `command`: end of a COMMAND on the main channel, for a post-copy package the end of the package
 * - `switchover-start`: end of the COMMAND SWITCHOVER_START: the guest is stopped (QEMU 10.0 and later)
 * - `ram-section`: end of the footer of RAM's START or of a RAM PART
 * - `ram-end`: end of the footer of RAM's END, the last pages in pre-copy
 * - `multifd-flush`: end of a MULTIFD_FLUSH record on the main channel
 * - `multifd-sync`: end (payload included) of a multifd packet with the SYNC flag
 */
export type BoundaryKind =
  | 'command'
  | 'switchover-start'
  | 'ram-section'
  | 'ram-end'
  | 'multifd-flush'
  | 'multifd-sync';

/**
 * Why a finder stopped looking. `ram-end` is how every pre-copy main channel ends; all others cost savings on that connection.
 * - `ram-end`: RAM's END section is complete; device state follows
 * - `end-of-file`: QEMU's EOF byte without an END of RAM before it, or after post-copy
 * - `header`: not a version 3 stream with a configuration section, or not a multifd init packet
 * - `configuration`: malformed configuration, or a subsection with an unknown length
 * - `page-size`: target pages are not 4096 bytes
 * - `capability`: x-ignore-shared or mapped-ram, which change the format of RAM
 * - `command`: unknown, malformed, or legal only in a post-copy recovery
 * - `colo`: ENABLE_COLO
 * - `section`: a section whose body's length is not known, an unknown section id, or a section out of order
 * - `section-body`: the body of a known section is not what its format says
 * - `section-footer`: the footer is missing or has another section's id
 * - `ram-list`: malformed RAMBlock list, or over its limits
 * - `ram-record`: malformed RAM record, unknown RAMBlock, or an offset outside it
 * - `rdma`: RAM record HOOK
 * - `multifd-packet`: malformed multifd packet
 */
export type OpaqueReason =
  | 'ram-end'
  | 'end-of-file'
  | 'header'
  | 'configuration'
  | 'page-size'
  | 'capability'
  | 'command'
  | 'colo'
  | 'section'
  | 'section-body'
  | 'section-footer'
  | 'ram-list'
  | 'ram-record'
  | 'rdma'
  | 'multifd-packet';

/** Encodings of page content that a finder skips: pages sent so are told as `unknownPages`. The last five are multifd's. */
export type CompressionKind = 'xbzrle' | 'compress-page' | 'zlib' | 'zstd' | 'qpl' | 'uadk' | 'qatzip';

/**
 * Receives what a finder sees, synchronously inside `push`, in the order of the stream. Offsets count bytes from the first byte
 * of the connection. `pageNumbers` (offset in the RAMBlock divided by 4096) is reused: its first `count` entries are valid only
 * during the call. A sink must not call the finder's `push`.
 */
export interface PageSink {
  /** Main channel, once: the RAMBlock list has been read, every entry of `blocks` that QEMU listed has its `pageCount`. */
  ramBlocks(blocks: readonly RamBlock[]): void;
  /**
   * `count` pages of 4096 bytes, contiguous in the stream from `streamOffset` on. Only the header has passed: the content begins
   * with the next byte pushed or later, and never comes when the connection ends early. Calls are in rising, disjoint ranges.
   * Main channel: `count` is 1. Multifd: 1 to 128.
   */
  pages(streamOffset: number, ramBlock: number, pageNumbers: Uint32Array, count: number): void;
  /** Pages that QEMU sent as zero: no content in the stream. */
  zeroPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void;
  /** Pages whose new content is in the stream in a form that is not decoded (XBZRLE, compression, a fill byte other than 0). */
  unknownPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void;
  /** Main channel: `bytes` of the RAMBlocks are not plugged in the guest (virtio-mem), and no page of them comes. */
  unpluggedRam?(bytes: number): void;
  /** An encoding is in use on this channel; told once for each kind, before the pages that use it. */
  compression(kind: CompressionKind): void;
  /** All bytes before `streamOffset` belong to items that are complete: do not hold them back. */
  boundary(streamOffset: number, kind: BoundaryKind): void;

  /** RAM's END section begins: the VM is stopped, what follows is downtime. */
  ramEndBegins?(): void;
  /** POSTCOPY_ADVISE: the migration may switch to post-copy; `advisesRam` is false when only dirty bitmaps would. */
  postcopyAnnounced(advisesRam: boolean): void;
  /** The first RAM_DISCARD or PACKAGED: post-copy has begun, every record may be what a vCPU waits for. Told once. */
  postcopyStarted(): void;
  /** Nothing from the item at `streamOffset` on is looked at any more. The last call that a finder makes. */
  opaque(reason: OpaqueReason, streamOffset: number, detail: string): void;
}

/** Optional view of the stream's skeleton, for tools and logs: the finder works the same without it. */
export interface StreamTrace {
  /** The configuration section's machine type. */
  machineType?(name: string): void;
  /** A section header on the main channel has been read and its body is understood. */
  section?(streamOffset: number, kind: 'start' | 'part' | 'end' | 'full', id: number, idstr: string): void;
  /** A command header on the main channel. */
  command?(streamOffset: number, command: number, dataBytes: number): void;
  /** A multifd page packet, or a device-state packet (then `flags & 0x40`, and both counts are 0). */
  packet?(
    streamOffset: number,
    flags: number,
    normalPages: number,
    zeroPages: number,
    payloadBytes: number,
  ): void;
}

/** A page finder for one connection. */
export interface ChannelFinder {
  /** Looks at the next bytes of the connection, of any length. Keeps no reference to `bytes`, never throws on content. */
  push(bytes: Uint8Array): void;
  /** Bytes pushed so far. */
  readonly streamOffset: number;
  /** After `sink.opaque`: pushing further only counts. */
  readonly isOpaque: boolean;
}
