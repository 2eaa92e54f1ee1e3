// Test support: both sidecars of a migration in this process over real unix sockets, with a destination QEMU and a link that the
// test plays itself, watches or tampers with, a guest with a known share of its pages on the volume, and a source and a target made
// of the link's codec.

import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dialUnix } from './dial.ts';
import type { BlockIndex } from './index/block-index.ts';
import type { PageHasher } from './index/page-hash.ts';
import { BatchEncoder } from './link/batch-encoder.ts';
import { TagSealer } from './link/batch-tag.ts';
import { FrameReader } from './link/frame-reader.ts';
import {
  FRAME_ABORT,
  FRAME_ACK,
  FRAME_BATCH,
  FRAME_END,
  FRAME_HELLO,
  FRAME_PING,
  type Frame,
  type FrameAt,
} from './link/frame-types.ts';
import { ackFrame, endAckFrame, helloFrame, pongFrame } from './link/frame-writer.ts';
import {
  agree,
  answerHello,
  decodeHello,
  encodeSourceHello,
  type LinkVersions,
  migrationIdFromUid,
  randomHello,
} from './link/hello.ts';
import { deriveConnectionKeys, deriveProofKey } from './link/link-keys.ts';
import { BlockReader } from './nas/block-reader.ts';
import { SourceMigration } from './source/source-migration.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { generateMigration, type Migration, seededRandom } from './stream/test-streams.ts';
import { TargetMigration } from './target/target-migration.ts';
import { indexOf, MemoryVolume } from './test-pipeline.ts';

export const UID = '5b3c1f0e-9a7d-4c55-8d1e-0123456789ab';
export const MIB = 1024 * 1024;

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until `holds` does, looking every few milliseconds; says whether it came to that. */
export async function within(ms: number, holds: () => boolean): Promise<boolean> {
  const until = performance.now() + ms;
  while (!holds()) {
    if (performance.now() > until) return false;
    await sleep(5);
  }
  return true;
}

/** A guest of which most pages are blocks of the volume. */
export function guest(options: {
  readonly channels: number;
  readonly pages?: number;
  readonly qemu?: '7.2' | '10.0' | '11.1';
  readonly seed?: number;
  readonly rounds?: number;
  readonly dirtyShare?: number;
  /** Share of pages that only the guest has. */
  readonly ownShare?: number;
}): { volume: MemoryVolume; migration: Migration; streams: Uint8Array[] } {
  const { channels, pages = 2000, qemu = '10.0', seed = 1, rounds = 3, ownShare = 0.2 } = options;
  const blocks = Math.min(pages, 4096);
  const volume = new MemoryVolume('root', randomBytes(blocks * PAGE_BYTES));
  const random = seededRandom(seed);
  const migration = generateMigration({
    qemu,
    channels,
    seed,
    rounds,
    ...(options.dirtyShare === undefined ? {} : { dirtyShare: options.dirtyShare }),
    ramBlocks: [{ name: 'pc.ram', pageCount: pages }],
    content: (_block, page, round, out) => {
      if (page % 11 === 10) return false;
      if (round > 0 || random() < ownShare) randomBytes(PAGE_BYTES).copy(out);
      else out.set(volume.content.subarray((page % blocks) * PAGE_BYTES, ((page % blocks) + 1) * PAGE_BYTES));
      return true;
    },
  });
  return { volume, migration, streams: [migration.main, ...migration.multifd] };
}

/** Stream offsets at which a kind of boundary was told. */
export function boundaries(lines: readonly string[], kinds: readonly string[]): number[] {
  return lines
    .map((line) => line.split(' '))
    .filter(([what, , kind]) => what === 'boundary' && kinds.includes(kind as string))
    .map(([, offset]) => Number(offset));
}

const cleanups: (() => void)[] = [];

/** Called by cleanUp. */
export function atEnd(...those: (() => void)[]): void {
  cleanups.push(...those);
}

/** For afterEach: closes and removes what the test has open, the last first. */
export function cleanUp(): void {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
}

export async function listening(path: string, onSocket: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    socket.on('error', () => {});
    cleanups.push(() => socket.destroy());
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  cleanups.push(() => server.close());
  return server;
}

export interface RigOptions {
  readonly volumes: readonly MemoryVolume[];
  readonly index?: { readonly index: BlockIndex; readonly pageHasher: PageHasher };
  readonly pace?: boolean;
  readonly zstd?: boolean;
  readonly nasDeadlineMs?: number;
  readonly grower?: SourceMigration['options']['grower'];
  readonly inherit?: BlockIndex;
  /** The destination QEMU's end of its n-th connection. */
  readonly onQemu?: (socket: Socket, ordinal: number) => void;
  /** Waited for before the destination QEMU is reached. */
  readonly beforeQemu?: () => Promise<void>;
  /** Takes the target sidecar's place. */
  readonly onLink?: (socket: Socket) => void;
  /** Sees the socket that the source sidecar dialed. */
  readonly onDialed?: (socket: Socket) => void;
  readonly sourceVersions?: LinkVersions;
  readonly targetVersions?: LinkVersions;
  readonly helloTimeoutMs?: number;
}

export interface Rig {
  readonly source: SourceMigration;
  readonly target: TargetMigration;
  readonly sessionKey: Buffer;
  readonly log: string[];
  readonly at: (name: string) => string;
  /** Connects as the source QEMU does. */
  readonly qemu: () => Promise<Socket>;
}

/** Both sidecars in this process, with a destination QEMU and a link that the test controls. */
export async function rig(options: RigOptions): Promise<Rig> {
  const directory = mkdtempSync(join(tmpdir(), 'nasmig-faults-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  const at = (name: string): string => join(directory, name);
  const log: string[] = [];
  const sessionKey = randomBytes(32);
  const shared = {
    migrationId: UID,
    sessionKey,
    volumes: options.volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
    now: () => performance.now(),
    log: (event: string, values: Readonly<Record<string, unknown>>) =>
      void log.push(`${event} ${JSON.stringify(values)}`),
  };
  const reader = new BlockReader({
    volumes: [...options.volumes],
    deadlineMs: options.nasDeadlineMs ?? 2000,
  });
  cleanups.push(() => reader.close());
  const source = new SourceMigration({
    ...shared,
    ...(options.index ?? indexOf(options.volumes)),
    ...(options.grower === undefined ? {} : { grower: options.grower }),
    downtimeLimitMs: 300,
    linkBytesPerSecond: 0,
    paceEnabled: options.pace ?? false,
    zstd: options.zstd ?? true,
    ...(options.sourceVersions === undefined ? {} : { linkVersions: options.sourceVersions }),
    ...(options.helloTimeoutMs === undefined ? {} : { helloTimeoutMs: options.helloTimeoutMs }),
    dial: async () => {
      const socket = await dialUnix(at('target.sock'), 1000);
      options.onDialed?.(socket);
      return socket;
    },
  });
  const target = new TargetMigration({
    ...shared,
    reader,
    ...(options.inherit === undefined ? {} : { inherit: options.inherit }),
    dial: async () => {
      await options.beforeQemu?.();
      return dialUnix(at('qemu.sock'), 1000);
    },
    ...(options.targetVersions === undefined ? {} : { linkVersions: options.targetVersions }),
    ...(options.helloTimeoutMs === undefined ? {} : { helloTimeoutMs: options.helloTimeoutMs }),
  });
  let ordinal = 0;
  await listening(at('qemu.sock'), (socket) => {
    if (options.onQemu === undefined) socket.resume();
    else options.onQemu(socket, ordinal++);
  });
  await listening(at('target.sock'), options.onLink ?? ((socket) => target.accept(socket)));
  await listening(at('source.sock'), (socket) => source.accept(socket));
  const qemu = async (): Promise<Socket> => {
    const socket = connect({ path: at('source.sock'), allowHalfOpen: true });
    socket.on('error', () => socket.destroy());
    cleanups.push(() => socket.destroy());
    await new Promise<void>((resolve) => socket.once('connect', resolve));
    return socket;
  };
  return { source, target, sessionKey, log, at, qemu };
}

/** Writes as a QEMU thread does: blocked while the socket is full, over when it broke. */
export async function feed(socket: Socket, bytes: Uint8Array, piece = 256 * 1024): Promise<void> {
  for (let at = 0; at < bytes.length && !socket.destroyed; at += piece) {
    if (socket.write(bytes.slice(at, at + piece))) continue;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        socket.off('drain', done).off('close', done);
        resolve();
      };
      socket.on('drain', done).on('close', done);
    });
  }
}

/** Puts `change` between the source sidecar and its socket: it gets each whole frame and says what goes on in its place. */
export function tamper(link: Socket, change: (frame: Buffer) => readonly Buffer[]): void {
  const write = link.write.bind(link) as (bytes: Uint8Array, done?: () => void) => boolean;
  let held = Buffer.alloc(0);
  link.write = ((bytes: Uint8Array, done?: () => void) => {
    held = Buffer.concat([held, bytes]);
    let isTaken = true;
    while (held.length >= 8 && held.length >= 8 + held.readUInt32BE(4)) {
      const frame = Buffer.from(held.subarray(0, 8 + held.readUInt32BE(4)));
      held = held.subarray(frame.length);
      for (const out of change(frame)) isTaken = write(out) && isTaken;
    }
    if (done !== undefined) write(Buffer.alloc(0), done);
    return isTaken;
  }) as typeof link.write;
}

/** Tells every frame of both directions as it passes, the source's own before anything tampers with them; for `onDialed`. */
export function watchLink(link: Socket, onFrame: (frame: Frame) => void): void {
  const sent = new FrameReader<'target'>({ onFrame }, 'target');
  const came = new FrameReader<'source'>({ onFrame }, 'source');
  const write = link.write.bind(link) as (bytes: Uint8Array, done?: () => void) => boolean;
  link.write = ((bytes: Uint8Array, done?: () => void) => {
    sent.push(bytes);
    return write(bytes, done);
  }) as typeof link.write;
  link.on('data', (bytes: Buffer) => came.push(bytes));
}

/** A target made of the link's codec: it answers HELLO and PINGs, and leaves the rest to the test. */
export class ScriptedTarget {
  readonly link: Socket;
  ordinal = -1;
  batches = 0;
  streamBytes = 0;
  endSeen = false;
  readonly aborts: number[] = [];
  linkEnded = false;
  answersPings = true;

  constructor(
    link: Socket,
    sessionKey: () => Uint8Array,
    onBatch: (target: ScriptedTarget) => void,
    onEnd: (target: ScriptedTarget) => void = (target) =>
      void target.link.write(endAckFrame(target.streamBytes)),
  ) {
    this.link = link;
    const reader = new FrameReader<'target'>(
      {
        onFrame: (frame: FrameAt<'target'>) => {
          if (frame.type === FRAME_HELLO) {
            this.ordinal = frame.hello.ordinal;
            const answer = answerHello(
              frame.hello,
              { mode: 'framed', random: randomHello(), usable: frame.hello.volumes.map(() => true) },
              deriveProofKey(sessionKey()),
            );
            for (const part of helloFrame(answer)) link.write(part);
            this.acknowledge(2 * MIB);
          } else if (frame.type === FRAME_PING) {
            if (this.answersPings) link.write(pongFrame(frame.clockMicros));
          }
          if (frame.type === FRAME_BATCH) {
            this.batches += 1;
            this.streamBytes += frame.reconstructedBytes;
            onBatch(this);
          } else if (frame.type === FRAME_END) {
            this.endSeen = true;
            onEnd(this);
          } else if (frame.type === FRAME_ABORT) this.aborts.push(frame.code);
        },
      },
      'target',
    );
    link.on('data', (bytes: Buffer) => reader.push(bytes));
    link.on('end', () => {
      this.linkEnded = true;
      link.end();
    });
    link.resume();
  }

  /** Everything that came counts as delivered. */
  acknowledge(windowBytes: number, nasBytesPerSecond = 0): void {
    this.link.write(
      ackFrame({
        deliveredBatches: this.batches,
        creditLimit: this.streamBytes + windowBytes,
        nasBytesPerSecond,
        nasP99Micros: 0,
      }),
    );
  }
}

/** A source made of the link's codec: it says HELLO, notes what it is granted, and sends as many batches as the test wants. */
export class ScriptedSource {
  readonly link: Socket;
  creditLimit = 0;
  readonly aborts: number[] = [];
  readonly #encoder = new BatchEncoder({ zstd: true });
  #sealer: TagSealer | undefined;
  #batches = 0;

  constructor(link: Socket, sessionKey: Uint8Array) {
    this.link = link;
    const hello = encodeSourceHello(
      {
        ordinal: 0,
        mode: 'framed',
        random: randomHello(),
        migrationId: migrationIdFromUid(UID),
        volumes: [],
      },
      deriveProofKey(sessionKey),
    );
    const own = decodeHello(hello);
    const reader = new FrameReader<'source'>(
      {
        onFrame: (frame: FrameAt<'source'>) => {
          if (frame.type === FRAME_HELLO) {
            const { random } = frame.hello;
            const { version } = agree(own, frame.hello);
            this.#sealer = new TagSealer(
              deriveConnectionKeys(sessionKey, own.random, random, 0, version).tagKey,
            );
          } else if (frame.type === FRAME_ACK) this.creditLimit = frame.creditLimit;
          else if (frame.type === FRAME_ABORT) this.aborts.push(frame.code);
        },
      },
      'source',
    );
    link.on('data', (bytes: Buffer) => reader.push(bytes));
    link.resume();
    for (const part of helloFrame(hello)) link.write(part);
  }

  /** The next batch, without pages and with its right tag. On the link it is next to nothing. */
  send(reconstructedBytes: number): void {
    const number = this.#batches++;
    const reconstructed = Buffer.alloc(reconstructedBytes);
    const encoded = this.#encoder.encode({
      number,
      reconstructed,
      pageOffsets: new Uint32Array(0),
      pageCount: 0,
      pageVolumes: new Uint16Array(0),
      pageBlocks: new Uint32Array(0),
      tag: (this.#sealer as TagSealer).seal(number, 0, reconstructed, 0),
    });
    for (const part of encoded.parts) this.link.write(part);
  }
}
