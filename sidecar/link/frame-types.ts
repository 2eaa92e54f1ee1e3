// What travels between the two sidecars of a migration: frame types, limits, times, abort codes, and the shape of each
// frame once read. The byte layout is in docs/link-protocol.md; every number here has its row there.
// All integers on the wire are big-endian. Views in frames are valid only while the sink is being called.
import type { HashSeed } from '../index/page-hash.ts';
import type { Hello } from './hello.ts';

/** A page of guest memory, and a block of a volume. */
export const PAGE_BYTES = 4096;

// ---- frame header: u8 type, u8 flags, u16 zero, u32 body bytes
export const FRAME_HEADER_BYTES = 8;

export const FRAME_HELLO = 1;
export const FRAME_BATCH = 2;
export const FRAME_ACK = 3;
export const FRAME_RESEND = 4;
export const FRAME_PATCH = 5;
export const FRAME_RETURN = 6;
export const FRAME_PING = 7;
export const FRAME_PONG = 8;
export const FRAME_ABORT = 9;
export const FRAME_END = 10;
export const FRAME_END_ACK = 11;
export const FRAME_RETURN_END = 12;
export const FRAME_GROW = 13;
export const FRAME_GROWN = 14;

/** BATCH: operations and skeleton are one zstd frame. */
export const FLAG_META_ZSTD = 0x01;
/** BATCH and PATCH: the literal pages are one zstd frame. */
export const FLAG_LITERALS_ZSTD = 0x02;

// ---- limits
/** Reconstructed bytes of one batch: what one RAMBlock burst of QEMU fills quickly, and small enough to resend. */
export const MAX_RECONSTRUCTED_BYTES = 2 * 1024 * 1024;
/** A page has 4096 bytes of the batch to itself, so a batch has at most this many. */
export const MAX_BATCH_PAGES = MAX_RECONSTRUCTED_BYTES / PAGE_BYTES;
/** Operation bytes a page can cost at most: gap 3, count 2, stride 3, volume 1, block 5 are 14; rounded up. */
export const MAX_OPS_BYTES_PER_PAGE = 16;
/** Largest body of any frame: a batch in which nothing could be compressed, its operations and its fixed fields. */
export const MAX_FRAME_BODY_BYTES = MAX_RECONSTRUCTED_BYTES + 64 * 1024;
/** Bytes of QEMU's return path in one RETURN frame. */
export const MAX_RETURN_BYTES = 64 * 1024;
/** UTF-8 bytes of the text of an ABORT. */
export const MAX_ABORT_TEXT_BYTES = 512;
/** Volumes of one HELLO: KubeVirt VMs have a handful of disks. */
export const MAX_VOLUMES = 64;
/** UTF-8 bytes of a volume's name: a Kubernetes object name has at most 253. */
export const MAX_VOLUME_NAME_BYTES = 255;
/** Blocks are 32-bit numbers, so nothing past 16 TiB of a volume can be referenced. */
export const MAX_VOLUME_BYTES = 2 ** 32 * PAGE_BYTES;
/** A batch number is a u32 and is never used twice. */
export const MAX_BATCH_NUMBER = 2 ** 32 - 1;
/** Batches whose tags are open at once on one connection; a bound for memory, far above what credit allows. */
export const MAX_OPEN_BATCHES = 65536;
/** Tries after the first: 1 sends the pages that differ, 2 the whole batch as literals. */
export const MAX_ATTEMPT = 2;

export const TAG_BYTES = 16;
export const RANDOM_BYTES = 32;
export const MIGRATION_ID_BYTES = 16;
export const PROOF_BYTES = 32;

/** Fixed fields of a BATCH body, before its operations. */
export const BATCH_FIXED_BYTES = 32;
/** Fixed fields of a PATCH body, before its positions. */
export const PATCH_FIXED_BYTES = 20;
/** Fixed fields of a RESEND body, before its digests. */
export const RESEND_FIXED_BYTES = 12;
/** Fixed fields of a HELLO body, before its volumes. */
export const HELLO_FIXED_BYTES = 60;
/** Longest HELLO body: fixed fields, every volume with the longest name, proof. */
export const MAX_HELLO_BODY_BYTES =
  HELLO_FIXED_BYTES + MAX_VOLUMES * (8 + 1 + MAX_VOLUME_NAME_BYTES) + PROOF_BYTES;
/** Fixed fields of a GROW body: all of it. */
export const GROW_BYTES = 16;
/** Fixed fields of a GROWN body, before its hashes. */
export const GROWN_FIXED_BYTES = 8;
/** Blocks of one GROW: 1 MiB of a volume. */
export const MAX_GROW_BLOCKS = 256;
/** GROWs of a migration that were not answered yet; what the target reads for them is bounded by it. */
export const MAX_OPEN_GROWS = 32;
/** Longest positions field of a PATCH: a gap below 512 is at most two varint bytes. */
export const MAX_POSITION_BYTES_PER_PAGE = 2;

// ---- credit and times
/** Reconstructed bytes the source may send before the first ACK: the batch of reserve that every connection has. */
export const INITIAL_CREDIT_BYTES = MAX_RECONSTRUCTED_BYTES;
/** Return-path bytes that the source holds for a QEMU that does not read; QEMU's messages are at most 516 bytes. */
export const MAX_HELD_RETURN_BYTES = 1024 * 1024;
/** PINGs without a PONG. A PONG comes when its batch has arrived, so an honest target never leaves as many open. */
export const MAX_OPEN_PINGS = 4096;
/** What a side holds for a peer that does not read, besides batches and their patches: answers are a few bytes each. */
export const MAX_UNREAD_LINK_BYTES = 1024 * 1024;
/** Connections of one migration at a time: QEMU numbers its multifd channels with a byte, and main is one more. */
export const MAX_CONNECTIONS = 257;
/** The first bytes of a connection go as literals: QEMU's receiver spins on its first bytes in its main loop. */
export const FIRST_LITERAL_BYTES = 64 * 1024;
/** Each side of a framed connection sends PING this often. */
export const PING_INTERVAL_MS = 1000;
/** Nothing received for this long: the connection is late, which is logged once and counted. */
export const LATE_AFTER_MS = 5000;
/**
 * Nothing received for this long: the connection is silent and is aborted. A link may break while the VM is stopped for the
 * switch-over, and the VM is to run again within 30 s: QEMU needs some of them. (libvirt gives its own connection up after 30 s of
 * silence, KubeVirt a migration without progress after 150 s.)
 */
export const SILENT_AFTER_MS = 20_000;
/** The answer to HELLO needs a connect to the destination QEMU's socket and no NAS, so it is quick or does not come. */
export const HELLO_TIMEOUT_MS = 10_000;

// ---- versions
export const MIN_LINK_VERSION = 1;
export const MAX_LINK_VERSION = 1;

// ---- reasons of RESEND
export const RESEND_TAG_MISMATCH = 0;
export const RESEND_NAS_ERROR = 1;
export const RESEND_NAS_DEADLINE = 2;

// ---- codes of ABORT
/** The peer broke the protocol; the text names the error. */
export const ABORT_PROTOCOL = 1;
/** No version of the protocol is spoken by both, although the peer wants frames. */
export const ABORT_VERSION = 2;
/** The peer's HELLO is not from this migration's other sidecar. */
export const ABORT_PROOF = 3;
/** The source QEMU closed its connection before the end of RAM. */
export const ABORT_SOURCE_QEMU_GONE = 4;
/** The destination QEMU closed its connection, or refused it, while bytes for it remained. */
export const ABORT_DESTINATION_QEMU_GONE = 5;
/** A batch sent whole as literals still has a wrong tag. */
export const ABORT_TAG = 6;
/** Nothing came from the peer for SILENT_AFTER_MS. */
export const ABORT_SILENT = 7;
/** The sidecar is being stopped. */
export const ABORT_SHUTDOWN = 8;
/** A fault of the sender's own. */
export const ABORT_INTERNAL = 9;
/** The source QEMU does not read its return path: more than MAX_HELD_RETURN_BYTES wait. */
export const ABORT_RETURN_PATH_STUCK = 10;
/** Another connection of the same migration was aborted. */
export const ABORT_OTHER_CONNECTION = 11;

/** The side of the link a program is on: the source has the running VM. */
export type Role = 'source' | 'target';
/** Framed connections carry batches; raw ones carry QEMU's bytes untouched after the two HELLOs. */
export type Mode = 'raw' | 'framed';

export interface HelloFrame {
  readonly type: typeof FRAME_HELLO;
  /** Owns its memory. */
  readonly hello: Hello;
}

/** Fixed fields are checked against each other; operations, skeleton and literals are not yet looked at. */
export interface BatchFrame {
  readonly type: typeof FRAME_BATCH;
  readonly number: number;
  readonly reconstructedBytes: number;
  readonly pageCount: number;
  readonly opsBytes: number;
  /** Operations and skeleton, uncompressed length. */
  readonly metaBytes: number;
  /** Literal pages, uncompressed length. */
  readonly literalBytes: number;
  readonly metaIsZstd: boolean;
  readonly literalsAreZstd: boolean;
  readonly metaStored: Buffer;
  readonly literalStored: Buffer;
  readonly tag: Buffer;
}

export interface AckFields {
  /** Batches, counted from the first, whose bytes are all in the destination QEMU's socket. */
  readonly deliveredBatches: number;
  /** Reconstructed bytes the source may have sent on this connection since its beginning. */
  readonly creditLimit: number;
  /** What the target's NAS reads reach, to the 1024 bytes. */
  readonly nasBytesPerSecond: number;
  readonly nasP99Micros: number;
}
export interface AckFrame extends AckFields {
  readonly type: typeof FRAME_ACK;
}

export interface ResendFields {
  readonly number: number;
  /** 1: pages that differ are wanted; 2: all of them. */
  readonly attempt: number;
  /** RESEND_TAG_MISMATCH, RESEND_NAS_ERROR or RESEND_NAS_DEADLINE. */
  readonly reason: number;
  readonly pageCount: number;
  /** Eight bytes a page, in the order of the batch; zero where the page is missing. */
  readonly digests: Uint8Array;
  /** One bit a page, lowest bit first: the target could not read this page. */
  readonly missing: Uint8Array;
}
export interface ResendFrame extends ResendFields {
  readonly type: typeof FRAME_RESEND;
}

export interface PatchFrame {
  readonly type: typeof FRAME_PATCH;
  readonly number: number;
  readonly attempt: number;
  readonly pageCount: number;
  readonly literalsAreZstd: boolean;
  readonly positions: Buffer;
  readonly literalStored: Buffer;
  readonly tag: Buffer;
}

export interface ReturnFrame {
  readonly type: typeof FRAME_RETURN;
  readonly bytes: Buffer;
}
export interface PingFrame {
  readonly type: typeof FRAME_PING;
  /** The sender's clock; only its sender compares it. */
  readonly clockMicros: number;
}
export interface PongFrame {
  readonly type: typeof FRAME_PONG;
  readonly clockMicros: number;
}
export interface AbortFrame {
  readonly type: typeof FRAME_ABORT;
  readonly code: number;
  readonly text: string;
}
export interface EndFrame {
  readonly type: typeof FRAME_END;
  readonly streamBytes: number;
  readonly batches: number;
}
export interface EndAckFrame {
  readonly type: typeof FRAME_END_ACK;
  readonly streamBytes: number;
}
export interface ReturnEndFrame {
  readonly type: typeof FRAME_RETURN_END;
}

/** The source wants to know what lies around a block that a guest page equals. */
export interface GrowFields {
  /** Position in the agreed list of volumes. */
  readonly volume: number;
  readonly firstBlock: number;
  readonly blockCount: number;
  /** Seed of the source's index, as two signed 32-bit halves. */
  readonly seed: HashSeed;
}
export interface GrowFrame extends GrowFields {
  readonly type: typeof FRAME_GROW;
}

export interface GrownFields {
  readonly volume: number;
  readonly firstBlock: number;
  /** Eight bytes a block: its XXH64 with the seed of the GROW. Empty when the target could not read the blocks. */
  readonly hashes: Uint8Array;
}
export interface GrownFrame extends GrownFields {
  readonly type: typeof FRAME_GROWN;
}

type FrameFromEither = HelloFrame | PingFrame | PongFrame | AbortFrame;
export type FrameFromSource = FrameFromEither | BatchFrame | PatchFrame | EndFrame | GrowFrame;
export type FrameFromTarget =
  | FrameFromEither
  | AckFrame
  | ResendFrame
  | ReturnFrame
  | EndAckFrame
  | ReturnEndFrame
  | GrownFrame;
export type Frame = FrameFromSource | FrameFromTarget;
/** What a side may receive. */
export type FrameAt<R extends Role> = R extends 'source' ? FrameFromTarget : FrameFromSource;

const FRAME_NAMES: readonly string[] = [
  'type 0',
  'HELLO',
  'BATCH',
  'ACK',
  'RESEND',
  'PATCH',
  'RETURN',
  'PING',
  'PONG',
  'ABORT',
  'END',
  'END_ACK',
  'RETURN_END',
  'GROW',
  'GROWN',
];

/** The name of a frame type for messages and logs. */
export function frameName(type: number): string {
  return FRAME_NAMES[type] ?? `type ${type}`;
}
