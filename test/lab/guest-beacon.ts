// Ethernet frames between the lab's guest and the host, and QEMU's framing of them on a `-netdev stream` socket
// (u32 big-endian length, then the frame). The layout is described in go/cmd/guest-init/beacon.go: change both.
// Pure: bytes in, objects out.

const ETHERTYPE = 0x88b5;
const BEACON_MAGIC = 0x4e4d4742; // "NMGB"
const COMMAND_MAGIC = 0x4e4d4743; // "NMGC"
const BEACON_VERSION = 1;
const BEACON_BYTES = 168;
const TEXT_OFFSET = 72;
const TEXT_BYTES = 96;
/** Ethernet's smallest frame without its checksum; network cards pad to it. */
const MIN_FRAME_BYTES = 60;
/** A network card with offloads hands over at most 64 KiB and headers. */
const MAX_FRAME_BYTES = 72 * 1024;
const FLAG_READY = 1;
const FLAG_LOAD = 2;

/** What the guest says of itself, every 10 ms. */
export interface Beacon {
  ready: boolean;
  loadRunning: boolean;
  counter: number;
  guestClockMs: number;
  verifiedSlices: number;
  failedSlices: number;
  rewrittenBytes: number;
  acceptedCommand: number;
  finishedCommand: number;
  /** The guest's first failure; empty while there is none. */
  failure: string;
}

/**
 * What the host can ask of a guest: a load (bytes/s it rewrites of anonymous memory and of cached files, until told
 * otherwise), a one-time rewrite of cached files evenly spread (done when it is on the disk), a check of everything.
 */
export type GuestCommand =
  | { kind: 'load'; anonymousBytesPerSecond: number; fileBytesPerSecond: number }
  | { kind: 'rewriteFiles'; bytes: number; seed: number }
  | { kind: 'verifyAll' };

/** The socket carries something that is not QEMU's framing. */
export class GuestFrameError extends Error {
  readonly code = 'NASMIG_LAB_GUEST_FRAME';
  constructor(length: number) {
    super(
      `a frame of ${length} bytes on the guest's network socket; only QEMU's -netdev stream may connect to it`,
    );
    this.name = 'GuestFrameError';
  }
}

/** Reads a frame from the guest; null when it is something else than a beacon (QEMU's own announcements, for one). */
export function parseBeacon(frame: Buffer): Beacon | null {
  if (frame.length < BEACON_BYTES) return null;
  if (frame.readUInt16BE(12) !== ETHERTYPE || frame.readUInt32BE(14) !== BEACON_MAGIC) return null;
  if (frame.readUInt16BE(18) !== BEACON_VERSION) return null;
  const flags = frame.readUInt16BE(20);
  const textLength = Math.min(frame.readUInt16BE(70), TEXT_BYTES);
  return {
    ready: (flags & FLAG_READY) !== 0,
    loadRunning: (flags & FLAG_LOAD) !== 0,
    counter: Number(frame.readBigUInt64BE(22)),
    guestClockMs: Number(frame.readBigUInt64BE(30)) / 1e6,
    verifiedSlices: Number(frame.readBigUInt64BE(38)),
    failedSlices: Number(frame.readBigUInt64BE(46)),
    rewrittenBytes: Number(frame.readBigUInt64BE(54)),
    acceptedCommand: frame.readUInt32BE(62),
    finishedCommand: frame.readUInt32BE(66),
    failure: frame.toString('utf8', TEXT_OFFSET, TEXT_OFFSET + textLength),
  };
}

/** A command frame with QEMU's length before it, ready for the socket. */
export function encodeCommand(number: number, command: GuestCommand): Buffer {
  const frame = Buffer.alloc(4 + MIN_FRAME_BYTES);
  frame.writeUInt32BE(MIN_FRAME_BYTES, 0);
  const body = frame.subarray(4);
  body.fill(0xff, 0, 6);
  body.writeUInt8(0x02, 6); // a locally administered source address, 02:00:00:00:00:00
  body.writeUInt16BE(ETHERTYPE, 12);
  body.writeUInt32BE(COMMAND_MAGIC, 14);
  body.writeUInt32BE(number, 18);
  const [kind, first, second] = commandNumbers(command);
  body.writeUInt16BE(kind, 22);
  body.writeBigUInt64BE(BigInt(first), 24);
  body.writeBigUInt64BE(BigInt(second), 32);
  return frame;
}

function commandNumbers(command: GuestCommand): [number, number, number] {
  switch (command.kind) {
    case 'load':
      return [1, command.anonymousBytesPerSecond, command.fileBytesPerSecond];
    case 'rewriteFiles':
      return [2, command.bytes, command.seed];
    case 'verifyAll':
      return [3, 0, 0];
  }
}

/** Cuts what arrives on QEMU's stream socket into frames. A frame passed on is valid until the next `push`. */
export class FrameSplitter {
  #held: Buffer = Buffer.alloc(0);
  readonly #onFrame: (frame: Buffer) => void;

  constructor(onFrame: (frame: Buffer) => void) {
    this.#onFrame = onFrame;
  }

  /** Takes the next bytes in any cut. Throws GuestFrameError on a length that no network card makes. */
  push(chunk: Buffer): void {
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    let offset = 0;
    while (bytes.length - offset >= 4) {
      const length = bytes.readUInt32BE(offset);
      if (length === 0 || length > MAX_FRAME_BYTES) throw new GuestFrameError(length);
      if (bytes.length - offset - 4 < length) break;
      this.#onFrame(bytes.subarray(offset + 4, offset + 4 + length));
      offset += 4 + length;
    }
    this.#held = Buffer.from(bytes.subarray(offset));
  }
}
