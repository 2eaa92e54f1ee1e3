// One connection of an outgoing migration: QEMU's socket on one side, the link to the target sidecar on the other.
// Bytes from QEMU are read to where they are kept until the target acknowledged them, parsed for pages, planned and framed; QEMU's
// return path goes back at once. The protocol's state machine is in docs/link-protocol.md.

import type { Socket } from 'node:net';
import {
  LatePostCopyError,
  LinkClosedError,
  PeerNotReadingError,
  PongsWithheldError,
  ReturnPathStuckError,
  SourceQemuGoneError,
} from '../connection-errors.ts';
import { PageHasher, seedFromBytes } from '../index/page-hash.ts';
import { LITERAL_PAGE } from '../link/batch-encoder.ts';
import { TagSealer } from '../link/batch-tag.ts';
import { FrameReader } from '../link/frame-reader.ts';
import {
  ABORT_INTERNAL,
  type AckFrame,
  FIRST_LITERAL_BYTES,
  FRAME_ABORT,
  FRAME_ACK,
  FRAME_END_ACK,
  FRAME_GROWN,
  FRAME_HELLO,
  FRAME_PING,
  FRAME_PONG,
  FRAME_RESEND,
  FRAME_RETURN,
  FRAME_RETURN_END,
  type FrameAt,
  type GrowFields,
  HELLO_TIMEOUT_MS,
  INITIAL_CREDIT_BYTES,
  MAX_ATTEMPT,
  MAX_BATCH_PAGES,
  MAX_HELD_RETURN_BYTES,
  MAX_OPEN_PINGS,
  MAX_UNREAD_LINK_BYTES,
  type Mode,
  PAGE_BYTES,
  RESEND_NAS_DEADLINE,
  RESEND_TAG_MISMATCH,
  type ResendFrame,
} from '../link/frame-types.ts';
import { abortFrame, endFrame, growFrame, helloFrame, pingFrame, pongFrame } from '../link/frame-writer.ts';
import {
  decodeHello,
  encodeSourceHello,
  type Hello,
  migrationIdFromUid,
  randomHello,
  verifyTargetHello,
} from '../link/hello.ts';
import { KeepAlive } from '../link/keep-alive.ts';
import {
  LinkBadFrameError,
  LinkBadResendError,
  LinkError,
  LinkPeerAbortError,
  LinkSilentError,
} from '../link/link-errors.ts';
import { deriveConnectionKeys, deriveProofKey } from '../link/link-keys.ts';
import { differingPages, isMissing } from '../link/page-digest.ts';
import { PatchEncoder } from '../link/patch-body.ts';
import { drainUntilClosed, endLingering, relayRaw } from '../raw-relay.ts';
import { bufferedIn, type EndListeners, listenForEnd, moveEnds, readInPlace } from '../static-read.ts';
import { CONNECTION_KIND_BYTES, connectionKind } from '../stream/connection-kind.ts';
import { MainChannelFinder } from '../stream/main-channel.ts';
import { MultifdChannelFinder } from '../stream/multifd-channel.ts';
import type {
  BoundaryKind,
  ChannelFinder,
  CompressionKind,
  OpaqueReason,
  PageSink,
} from '../stream/page-sink.ts';
import type { PassChannel } from '../stream/pass-counter.ts';
import type { RamBlock } from '../stream/ram-blocks.ts';
import { type PageHashes, Planner } from './planner.ts';
import type { TurnTaker } from './reading-turns.ts';
import { OFF_READ_FAILED, OFF_TOO_SLOW, type SourceMigration } from './source-migration.ts';
import { type StreamBatch, StreamBatcher } from './stream-batcher.ts';

/** Input idle for this long is flushed where QEMU may decide: waiting for a batch to fill would be downtime. */
const IDLE_FLUSH_MS = 1;
/** In bulk a batch may fill: larger ones cost less, and nothing is decided on what one of them holds. */
const BULK_IDLE_FLUSH_MS = 5;

/** A connection that says nothing for this long after it was opened (post-copy's preempt channel) is relayed raw. */
const SILENT_OPENING_MS = 1000;

/** Bytes of main that are looked at before HELLO: enough for header, configuration and the commands before RAM. */
const OPENING_BYTES = 64 * 1024;

/** What may wait in the link's socket before no more is read from QEMU. */
const LINK_BACKLOG_BYTES = 2 * 1024 * 1024;

/** Whoever closes first is the target; it gets this long after END_ACK. */
const CLOSE_GRACE_MS = 2000;

/** A batch that was cut and not sent yet, with the hashes of its pages. */
interface WaitingBatch extends PageHashes {
  readonly batch: StreamBatch;
  /** False where pages go as they are: nothing was looked up. */
  readonly hashed: boolean;
  /** False while the index grows around its hits. */
  ready: boolean;
  timer: NodeJS.Timeout | undefined;
}

const NO_HASHES: PageHashes = { hi: new Int32Array(0), lo: new Int32Array(0) };

interface KeptBatch {
  readonly number: number;
  readonly batch: StreamBatch;
  /** Per page LITERAL_PAGE or volume, and block; undefined when nothing was referenced. */
  readonly volumes: Uint16Array | undefined;
  readonly blocks: Uint32Array | undefined;
  readonly references: number;
  attempt: number;
  /** Pages that were rebuilt wrongly and had to be sent again. */
  wrongPages: number;
}

type State = 'opening' | 'greeting' | 'framed' | 'raw' | 'ending' | 'closed';

export class SourceConnection implements PageSink, TurnTaker {
  readonly ordinal: number;
  readonly #migration: SourceMigration;
  readonly #passes: PassChannel;
  #qemu: Socket;
  #link: Socket | undefined;
  #state: State = 'opening';
  #finder: ChannelFinder | undefined;
  #isMain = false;
  readonly #batcher: StreamBatcher;
  #flushWanted = false;
  #opening: Buffer[] = [];
  #openingBytes = 0;
  #openingDecided: (mode: Mode) => void = () => {};
  #qemuEnded = false;
  #qemuPaused = true;
  #paceTimer: NodeJS.Timeout | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #limitTimer: NodeJS.Timeout | undefined;
  #bytesAtIdleTimer = 0;
  readonly #keepAlive: KeepAlive;

  #reader: FrameReader<'source'> | undefined;
  #patchEncoder: PatchEncoder | undefined;
  #sealer: TagSealer | undefined;
  #digester: PageHasher | undefined;
  #planner: Planner | undefined;
  #ownHello: Hello | undefined;
  #helloAnswered: (mode: Mode) => void = () => {};

  #queue: WaitingBatch[] = [];
  #queueBytes = 0;
  readonly #kept = new Map<number, KeptBatch>();
  #nextNumber = 0;
  #delivered = 0;
  #streamBytes = 0;
  /** Stream offset at which the multifd packet that was begun last ends; 0 on main. */
  #packetEnd = 0;
  #sentBytes = 0;
  #creditLimit = INITIAL_CREDIT_BYTES;
  #outstandingBytes = 0;
  /** PINGs that wait for their PONG, at most MAX_OPEN_PINGS. */
  readonly #pings: { readonly micros: number; readonly linkSentBytes: number }[] = [];
  #lastPingMicros = 0;
  #linkSentBytes = 0;
  #linkArrivedBytes = 0;
  readonly #differing = new Uint32Array(MAX_BATCH_PAGES);

  constructor(migration: SourceMigration, ordinal: number, qemu: Socket) {
    this.#migration = migration;
    this.#passes = migration.passes.channel();
    this.ordinal = ordinal;
    this.#qemu = qemu;
    this.#batcher = new StreamBatcher(migration.pool);
    this.#keepAlive = new KeepAlive({
      // After END the target may close at any moment, and a write that it does not take would lose its END_ACK, which may be
      // here unread. It asks by PINGs of its own until then.
      ping: () => {
        if (!this.#endSent) this.#guard(() => this.#writeLink([this.#pingAfter(0)]));
      },
      late: (silentMs) => migration.options.log('target sidecar late', { connection: ordinal, silentMs }),
      silent: (silentMs) => this.fail(new LinkSilentError(silentMs, 'an answer to PING')),
    });
    qemu.on('data', (bytes: Buffer) => this.#guard(() => this.#onQemuBytes(bytes)));
    listenForEnd(qemu, this.#qemuEnds);
  }
  readonly #qemuEnds: EndListeners = {
    end: () => this.#guard(() => this.#onQemuEnd()),
    error: (error) => this.#guard(() => this.#onQemuError(error)),
    close: () =>
      this.#guard(() => {
        if (this.#state === 'opening' || this.#state === 'greeting' || this.#state === 'framed')
          this.#onQemuEnd();
      }),
  };

  /** Decides framed or raw by the first bytes, connects to the target sidecar, and resolves when HELLO was answered. */
  async open(): Promise<void> {
    if (this.#state === 'closed') return;
    try {
      const wanted = await this.#decideMode();
      if (this.#isClosed()) return;
      this.#link = await this.#migration.options.dial();
      if (this.#isClosed()) {
        this.#link.destroy();
        return;
      }
      const mode = await this.#greet(this.#link, wanted);
      if (this.#isClosed()) return;
      if (mode === 'raw') this.#goRaw(this.#link);
      else this.#goFramed();
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Runs one step of this connection; whatever it throws ends the connection, never the process. */
  #guard(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  // ---- opening

  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  #decideMode(): Promise<Mode> {
    return new Promise((resolve) => {
      // A connection that said nothing is not one that we understand; a main channel that pauses after its header is.
      const timer = setTimeout(
        () => this.#openingDecided(this.#finder === undefined ? 'raw' : 'framed'),
        SILENT_OPENING_MS,
      );
      this.#openingDecided = (mode) => {
        clearTimeout(timer);
        this.#openingDecided = () => {};
        this.#pauseQemu();
        // What the pace is made of is on main: without it the other channels go raw too.
        if (mode === 'raw' && this.ordinal === 0) this.#migration.rawReason ??= 'UnknownStream';
        const decided = this.#migration.rawReason === undefined ? mode : 'raw';
        if (decided === 'framed') this.#migration.isFramed = true;
        resolve(decided);
      };
      this.#resumeQemu();
    });
  }

  /** Looks at the first bytes while they are held back. */
  #onOpeningBytes(bytes: Buffer): void {
    this.#opening.push(bytes);
    this.#openingBytes += bytes.length;
    if (this.#finder === undefined) {
      const first = this.#opening.length === 1 ? bytes : Buffer.concat(this.#opening);
      const kind = connectionKind(first.subarray(0, CONNECTION_KIND_BYTES));
      if (kind === 'more-bytes-needed') return;
      this.#isMain = kind === 'main';
      if (this.ordinal === 0) this.#migration.firstMayBeMain = this.#isMain;
      if (kind === 'main') this.#finder = new MainChannelFinder(this, this.#migration.ramBlocks);
      else if (kind === 'multifd') this.#finder = new MultifdChannelFinder(this, this.#migration.ramBlocks);
      else {
        if (kind === 'tls') this.#migration.rawReason ??= 'TlsInsideQemu';
        this.#migration.options.log('connection relayed raw', { connection: this.ordinal, kind });
        this.#openingDecided('raw');
        return;
      }
      this.#finder.push(first);
      // A multifd channel is framed unless main already went raw; main itself is looked at until RAM's list came.
      if (kind === 'multifd') this.#openingDecided('framed');
    } else this.#finder.push(bytes);
    const known = this.#migration.rawReason !== undefined || this.#migration.ramBlocks.isListed;
    // Without the list nothing is known of post-copy or of what remains.
    if (this.#isMain && this.#finder.isOpaque && !this.#migration.ramBlocks.isListed)
      this.#openingDecided('raw');
    if (known || this.#openingBytes >= OPENING_BYTES) this.#openingDecided('framed');
  }

  async #greet(link: Socket, mode: Mode): Promise<Mode> {
    this.#state = 'greeting';
    const { migrationId, sessionKey, volumes } = this.#migration.options;
    const body = encodeSourceHello(
      {
        ordinal: this.ordinal,
        mode,
        random: randomHello(),
        migrationId: migrationIdFromUid(migrationId),
        volumes,
        versions: this.#migration.options.linkVersions,
      },
      deriveProofKey(sessionKey),
    );
    this.#ownHello = decodeHello(body);
    this.#reader = new FrameReader<'source'>({ onFrame: (frame) => this.#onFrame(frame) }, 'source');
    link.on('data', (bytes: Buffer) => this.#onLinkBytes(bytes));
    link.on('error', (error) => this.#onLinkClose(error));
    link.on('end', () => this.#onLinkClose());
    link.on('close', () => this.#onLinkClose());
    this.#writeLink(helloFrame(body));
    // The answer can only be raw, and the destination QEMU is not to be reached by a connection that has nothing to say yet.
    if (mode === 'raw') this.#sendOpening(link);
    const { helloTimeoutMs = HELLO_TIMEOUT_MS } = this.#migration.options;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new LinkSilentError(helloTimeoutMs, 'the answer to HELLO')),
        helloTimeoutMs,
      );
      this.#helloAnswered = (answered) => {
        clearTimeout(timer);
        resolve(answered);
      };
      this.#failed = (error) => {
        clearTimeout(timer);
        reject(error);
      };
    });
  }
  #failed: (error: Error) => void = () => {};

  #onHello(answer: Hello): void {
    const own = this.#ownHello;
    if (own === undefined) return;
    const { sessionKey, index } = this.#migration.options;
    const agreement = verifyTargetHello(answer, deriveProofKey(sessionKey), own);
    if (agreement.mode === 'raw') {
      if (own.mode === 'framed') this.#migration.rawReason ??= 'LinkVersion';
      this.#reader?.detach();
      this.#helloAnswered('raw');
      return;
    }
    const keys = deriveConnectionKeys(sessionKey, own.random, answer.random, this.ordinal, agreement.version);
    this.#sealer = new TagSealer(keys.tagKey);
    const seed = Buffer.alloc(8);
    seed.writeBigUInt64BE(keys.digestSeed);
    this.#digester = new PageHasher(seedFromBytes(seed));
    const { compressor } = this.#migration;
    this.#patchEncoder = new PatchEncoder({ zstd: compressor !== undefined, compressor });
    const usable = agreement.volumes.map((volume) => volume.usable);
    this.#migration.agreed(usable);
    this.#planner = new Planner(index, usable, MAX_BATCH_PAGES, this.#migration.volumesOff);
    this.#helloAnswered('framed');
  }

  #goFramed(): void {
    this.#state = 'framed';
    this.#keepAlive.start();
    this.#migration.options.remoteHashes?.attach(this);
    const held = this.#opening;
    this.#opening = [];
    // The finder saw these bytes already; only what it announced was noted, so they are just collected here.
    for (const bytes of held) this.#collect(bytes, false);
    this.#readInPlace();
    if (this.#isClosed()) return;
    this.#cut();
    this.regulate();
    if (this.#qemuEnded) this.#finish();
  }

  /** From here on a socket's bytes are read to where batches are cut from. */
  #readInPlace(): void {
    const accepted = this.#qemu;
    if (this.#isClosed() || this.#qemuEnded || accepted.destroyed) return;
    accepted.removeAllListeners('data');
    for (const bytes of bufferedIn(accepted)) {
      this.#migration.pace.take(bytes.length, this.#migration.options.now());
      this.#collect(bytes, true);
    }
    if (this.#isClosed()) return;
    this.#qemu = readInPlace(
      accepted,
      (bytes) => this.#guard(() => this.#onQemuBytes(bytes)),
      () => this.#batcher.room(this.#migration.readBytes),
    );
    // Also where it stays the accepted one: what was buffered may have let it go on.
    this.#qemuPaused = true;
    if (this.#qemu === accepted) return;
    moveEnds(accepted, this.#qemu, this.#qemuEnds);
  }

  /** What was held back, as it is. */
  #sendOpening(link: Socket): void {
    for (const bytes of this.#opening) {
      this.#migration.counters.streamBytes += bytes.length;
      link.write(bytes);
    }
    this.#opening = [];
  }

  #goRaw(link: Socket): void {
    this.#state = 'raw';
    this.#sendOpening(link);
    const early = this.#reader?.takeRest();
    if (early !== undefined && early.length > 0) this.#qemu.write(early);
    for (const event of ['data', 'end', 'error', 'close']) this.#qemu.removeAllListeners(event);
    for (const event of ['data', 'end', 'error', 'close']) link.removeAllListeners(event);
    if (this.#qemuEnded) link.end();
    void relayRaw(this.#qemu, link, (bytes) => {
      this.#migration.counters.streamBytes += bytes;
      this.#migration.counters.linkBytes += bytes;
    }).then((error) => {
      if (error !== undefined) this.#migration.relayBroke(this.ordinal, error);
      this.#close(undefined);
    });
  }

  // ---- from QEMU

  #onQemuBytes(bytes: Buffer): void {
    if (this.#state === 'opening') this.#onOpeningBytes(bytes);
    else if (this.#state === 'framed') {
      const { pace, turns, options } = this.#migration;
      const packetEnd = this.#packetEnd;
      pace.take(bytes.length, options.now());
      turns.progressed(this);
      this.#collect(bytes, true);
      this.#armIdleFlush();
      if (packetEnd <= this.#streamBytes) turns.passOn(this);
      this.regulate();
    } else if (this.#state === 'greeting') {
      // Read before the pause took effect.
      this.#opening.push(bytes);
      this.#finder?.push(bytes);
    }
  }

  #collect(bytes: Buffer, parse: boolean): void {
    this.#streamBytes += bytes.length;
    this.#migration.counters.streamBytes += bytes.length;
    let at = 0;
    while (at < bytes.length) {
      const taken = this.#batcher.append(bytes, at, this.#migration.batchBytes);
      if (taken === 0) {
        this.#cut();
        continue;
      }
      if (parse) this.#finder?.push(taken === bytes.length ? bytes : bytes.subarray(at, at + taken));
      at += taken;
      if (this.#flushWanted || this.#batcher.isFull(this.#migration.batchBytes)) {
        this.#flushWanted = false;
        this.#cut();
      }
    }
  }

  #armIdleFlush(): void {
    if (this.#idleTimer !== undefined || this.#batcher.heldBytes === 0) return;
    this.#bytesAtIdleTimer = this.#streamBytes;
    this.#idleTimer = setTimeout(
      () => {
        this.#idleTimer = undefined;
        if (this.#state !== 'framed') return;
        // While we hold QEMU back ourselves nothing can come, so that pause counts as idle too.
        if (this.#streamBytes === this.#bytesAtIdleTimer) this.#guard(() => this.#cut());
        this.#armIdleFlushIfMoving();
        this.regulate();
      },
      this.#migration.inBulk ? BULK_IDLE_FLUSH_MS : IDLE_FLUSH_MS,
    );
  }

  #armIdleFlushIfMoving(): void {
    if (this.#streamBytes !== this.#bytesAtIdleTimer) this.#armIdleFlush();
  }

  #onQemuEnd(): void {
    if (this.#qemuEnded || this.#state === 'closed') return;
    this.#qemuEnded = true;
    // Nothing came of it: the destination QEMU would wait for its first bytes, for the proxies do not pass on that it is gone.
    if (this.#state === 'opening' && this.#openingBytes === 0) this.#close(undefined);
    else if (this.#state === 'opening') this.#openingDecided('raw');
    else if (this.#state === 'framed') this.#finish();
  }

  /** A broken QEMU socket ends the stream where it is; whether that is a failure #finish tells by RAM's end. */
  #onQemuError(error: Error): void {
    this.#migration.options.log('QEMU connection broke', { connection: this.ordinal, error: error.message });
    this.#onQemuEnd();
  }

  /**
   * QEMU closed: everything held goes out, then END. A main channel that closes before the end of RAM and before the
   * destination closed its own end is a failed migration; that must not hang on the page finder alone, which may have lost its way.
   */
  #finish(): void {
    if (
      this.#isMain &&
      !this.#returnEnded &&
      !this.#migration.ramEnded &&
      this.#migration.rawReason === undefined &&
      !this.#finder?.isOpaque
    ) {
      this.fail(new SourceQemuGoneError(this.#streamBytes));
      return;
    }
    this.#state = 'ending';
    this.#cut();
    this.#sendQueued();
  }

  // ---- what the page finder tells

  ramBlocks(blocks: readonly RamBlock[]): void {
    const { pace, options } = this.#migration;
    pace.addRam(this.#migration.ramBlocks.totalPages * PAGE_BYTES);
    options.log('RAM listed', {
      blocks: blocks.length,
      bytes: this.#migration.ramBlocks.totalPages * PAGE_BYTES,
    });
  }

  unpluggedRam(bytes: number): void {
    this.#migration.pace.neverComes(bytes);
    this.#migration.options.log('RAM not plugged', { bytes });
  }

  pages(streamOffset: number, ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#batcher.announce(streamOffset, count);
    if (!this.#isMain) this.#packetEnd = streamOffset + count * PAGE_BYTES;
    this.#markSeen(ramBlock, pageNumbers, count);
  }

  zeroPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#migration.counters.zeroPages += count;
    this.#markSeen(ramBlock, pageNumbers, count);
  }

  unknownPages(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#markSeen(ramBlock, pageNumbers, count);
  }

  #markSeen(ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    this.#passes.pages(ramBlock, pageNumbers, count);
    const { seen, pace } = this.#migration;
    const fresh = seen.mark(ramBlock, pageNumbers, count);
    if (fresh > 0) pace.firstSeen(fresh * PAGE_BYTES);
    const again = count - fresh;
    if (fresh < 0 || again === 0 || (!this.#isMain && seen.isStray(again, count))) return;
    this.#laterPass();
  }

  #laterPass(): void {
    const { pace } = this.#migration;
    if (pace.phase !== 'first-pass') return;
    this.#migration.options.log('later pass', { remainingBytes: pace.remainingBytes });
    pace.laterPass();
    this.#migration.regulate();
  }

  /** The VM is stopped, also where machine types before 10.0 send no SWITCHOVER_START. */
  ramEndBegins(): void {
    this.#release();
  }

  #release(): void {
    const { pace, options } = this.#migration;
    if (pace.phase === 'released') return;
    if (pace.phase === 'first-pass')
      options.log('one pass was enough', { remainingBytes: pace.remainingBytes });
    pace.release();
    this.#migration.regulate();
  }

  compression(kind: CompressionKind): void {
    this.#migration.options.log('QEMU compresses pages itself: they pass as they are', {
      connection: this.ordinal,
      kind,
    });
  }

  boundary(_streamOffset: number, kind: BoundaryKind): void {
    this.#flushWanted = true;
    if (kind === 'multifd-flush') this.#passes.flush();
    else if (kind === 'multifd-sync') this.#passes.sync();
    if (kind === 'multifd-flush' && this.#migration.counters.streamBytes > OPENING_BYTES && this.#isMain) {
      // QEMU wraps around with a FLUSH; the one in RAM's START comes before any page.
      if (this.#migration.counters.zeroPages + this.#migration.counters.batches > 0) this.#laterPass();
    }
    if (kind === 'switchover-start' || kind === 'ram-end') {
      this.#release();
      if (kind === 'ram-end') this.#migration.ramEnded = true;
    }
  }

  postcopyAnnounced(advisesRam: boolean): void {
    if (!advisesRam) return;
    // Too late to go raw, and nothing that is framed may switch to post-copy.
    if (this.#migration.isFramed && this.#migration.rawReason === undefined) throw new LatePostCopyError();
    const reason = 'PostCopyAnnounced';
    this.#migration.rawReason ??= reason;
    this.#migration.options.log('connection relayed raw', { connection: this.ordinal, reason });
    this.#openingDecided('raw');
  }

  postcopyStarted(): void {
    this.#migration.options.log('post-copy started inside a framed migration', { connection: this.ordinal });
  }

  opaque(reason: OpaqueReason, streamOffset: number, detail: string): void {
    if (reason === 'ram-end') return;
    this.#migration.options.log('stream not understood from here on: no references', {
      connection: this.ordinal,
      reason,
      streamOffset,
      detail,
    });
  }

  // ---- to the link

  /** Asks the target for the hashes of blocks; at once, for a batch waits for them. */
  grow(fields: GrowFields): void {
    if (!this.#endSent) this.#guard(() => this.#writeLink([growFrame(fields)]));
  }

  #cut(): void {
    const batch = this.#batcher.cut();
    if (batch !== undefined) {
      const hashed = this.#migration.routes.route === 'references';
      const waiting: WaitingBatch = {
        batch,
        hashed,
        ...(hashed ? this.#hash(batch) : NO_HASHES),
        ready: true,
        timer: undefined,
      };
      this.#queue.push(waiting);
      this.#queueBytes += batch.bytes.length;
      if (hashed) this.#letIndexGrow(waiting);
    }
    this.#sendQueued();
  }

  #hash(batch: StreamBatch): PageHashes {
    const hi = new Int32Array(batch.pageCount);
    const lo = new Int32Array(batch.pageCount);
    this.#migration.options.pageHasher.hashPages(batch.bytes, batch.pageOffsets, batch.pageCount, hi, lo);
    return { hi, lo };
  }

  /** With a sampled index: the blocks around each hit are indexed before the batch is planned, for its pages are their neighbours. */
  #letIndexGrow(waiting: WaitingBatch): void {
    const { grower, index } = this.#migration.options;
    if (grower === undefined || !this.#migration.mayWaitForIndex) return;
    for (let i = 0; i < waiting.batch.pageCount; i++) {
      const place = index.lookup(waiting.hi[i] as number, waiting.lo[i] as number);
      if (place >= 0) grower.grow(index.volume(place), index.block(place));
    }
    const grown = grower.caughtUp();
    if (grown === undefined) return;
    waiting.ready = false;
    this.#migration.indexWaits += 1;
    waiting.timer = setTimeout(() => {
      this.#migration.indexTooSlow();
      this.#stopWaiting();
    }, this.#migration.indexWaitMs);
    void grown.then(() => {
      if (waiting.ready) return;
      this.#makeReady(waiting);
      this.#guard(() => this.#sendQueued());
      this.regulate();
    });
  }

  #makeReady(waiting: WaitingBatch): void {
    if (waiting.ready) return;
    clearTimeout(waiting.timer);
    waiting.ready = true;
    this.#migration.indexWaits -= 1;
  }

  /** Nothing waits for the index any more: QEMU may decide from now on, or the index is too slow. */
  #stopWaiting(): void {
    for (const waiting of this.#queue) if (!waiting.ready) this.#makeReady(waiting);
    this.#guard(() => this.#sendQueued());
    this.regulate();
  }

  #sendQueued(): void {
    if (this.#state !== 'framed' && this.#state !== 'ending') return;
    while (this.#queue.length > 0) {
      const waiting = this.#queue[0] as WaitingBatch;
      const { length } = waiting.batch.bytes;
      if (!waiting.ready || this.#sentBytes + length > this.#creditLimit || this.#mustWaitForLimit()) return;
      this.#queue.shift();
      this.#queueBytes -= length;
      this.#send(waiting);
    }
    if (this.#state === 'ending' && this.#batcher.heldBytes === 0 && !this.#endSent) {
      this.#endSent = true;
      this.#writeLink([endFrame(this.#streamBytes, this.#nextNumber)]);
    } else if (this.#state === 'ending' && this.#batcher.heldBytes > 0 && !this.#endSent) {
      // QEMU closed inside a page: the torn rest goes out as it is.
      this.#batcher.forgetPages();
      this.#cut();
    }
  }
  #endSent = false;

  /** True while the allowed rate is used up; a timer goes on then. */
  #mustWaitForLimit(): boolean {
    const { linkLimit, pace, options } = this.#migration;
    const waitMs = pace.phase === 'released' ? 0 : linkLimit.waitMs(options.now());
    if (waitMs === 0) return false;
    this.#limitTimer ??= setTimeout(
      () => {
        this.#limitTimer = undefined;
        this.#guard(() => this.#sendQueued());
        this.regulate();
      },
      Math.min(100, Math.max(1, waitMs)),
    );
    return true;
  }

  #send(waiting: WaitingBatch): void {
    const { batch } = waiting;
    const migration = this.#migration;
    const { counters, encoder } = migration;
    const number = this.#nextNumber++;
    const plan = this.#plan(waiting);
    const sealer = this.#sealer as TagSealer;
    const tag = sealer.seal(number, 0, batch.bytes, batch.pageCount);
    const encoded = encoder.encode({
      number,
      reconstructed: batch.bytes,
      pageOffsets: batch.pageOffsets,
      pageCount: batch.pageCount,
      pageVolumes: plan.volumes,
      pageBlocks: plan.blocks,
      tag,
      uncompressed: !waiting.hashed,
    });
    const references = plan.references;
    this.#kept.set(number, {
      number,
      batch,
      volumes: references > 0 ? plan.volumes.slice(0, batch.pageCount) : undefined,
      blocks: references > 0 ? plan.blocks.slice(0, batch.pageCount) : undefined,
      references,
      attempt: 0,
      wrongPages: 0,
    });
    this.#sentBytes += batch.bytes.length;
    this.#outstandingBytes += batch.bytes.length;
    migration.sent(batch.bytes.length);
    migration.nasQueuedBytes += references * PAGE_BYTES;
    if (encoded.literalPages > 0)
      migration.countLiterals(encoded.literalPages * PAGE_BYTES, encoded.literalStoredBytes);
    counters.batches += 1;
    counters.linkBytes += encoded.frameBytes;
    counters.referencePages += references;
    counters.literalPages += encoded.literalPages;
    if (encoded.literalStoredBytes === encoded.literalPages * PAGE_BYTES)
      counters.rawLiteralPages += encoded.literalPages;
    migration.linkLimit.take(encoded.frameBytes, migration.options.now());
    counters.declinedPages += plan.declined;
    this.#writeLink([...encoded.parts, this.#pingAfter(encoded.frameBytes)], () => encoder.release(encoded));
  }

  #plan(waiting: WaitingBatch): ReturnType<Planner['plan']> {
    const migration = this.#migration;
    const allowed =
      waiting.hashed && !migration.referencesOff && migration.throttle.allows(migration.options.now());
    const { batch } = waiting;
    const firstReferencable = allowed ? FIRST_LITERAL_BYTES - batch.streamOffset : Number.POSITIVE_INFINITY;
    return (this.#planner as Planner).plan(waiting, batch.pageOffsets, batch.pageCount, firstReferencable, {
      linkBytesPerSecond: migration.linkRate.bytesPerSecond,
      linkQueuedBytes: migration.linkRate.underWayBytes,
      literalRatio: migration.literalRatio,
      nasBytesPerSecond: migration.nasBytesPerSecond,
      nasQueuedBytes: migration.nasQueuedBytes,
    });
  }

  #writeLink(parts: readonly Uint8Array[], taken?: () => void): void {
    const link = this.#link;
    if (link === undefined || link.destroyed) return;
    link.cork();
    for (let i = 0; i < parts.length - 1; i++) link.write(parts[i] as Uint8Array);
    const last = parts.at(-1);
    if (last !== undefined) {
      link.write(last, () => {
        taken?.();
        if (link.writableLength < LINK_BACKLOG_BYTES) this.regulate();
      });
    }
    link.uncork();
  }

  /** Reads on from QEMU, or stops, as credit, window, pace and the link's backlog allow. */
  regulate(): void {
    if (this.#state !== 'framed' || this.#qemuEnded) return;
    const migration = this.#migration;
    if (this.#queue[0]?.ready === false && !migration.mayWaitForIndex) {
      this.#stopWaiting();
      return;
    }
    const blocked =
      this.#queueBytes >= migration.queueBytes ||
      (this.#link as Socket).writableLength >= LINK_BACKLOG_BYTES ||
      // Every connection may have something under way, whatever the others have: multifd's SYNC stops a channel until another moves.
      (this.#outstandingBytes > 0 && migration.isFull);
    if (blocked) {
      this.#pauseQemu();
      return;
    }
    const waitMs = migration.pace.waitMs(migration.options.now());
    if (waitMs > 0) {
      this.#pauseQemu();
      this.#paceTimer ??= setTimeout(
        () => {
          this.#paceTimer = undefined;
          this.regulate();
        },
        Math.min(100, Math.max(1, waitMs)),
      );
      return;
    }
    const isInsidePacket = this.#streamBytes < this.#packetEnd;
    if (isInsidePacket && migration.pace.readsInTurns && !migration.turns.mayRead(this)) this.#pauseQemu();
    else this.#resumeQemu();
  }

  get isReading(): boolean {
    return !this.#qemuPaused;
  }

  #pauseQemu(): void {
    if (this.#qemuPaused) return;
    this.#qemuPaused = true;
    this.#qemu.pause();
  }

  #resumeQemu(): void {
    if (!this.#qemuPaused) return;
    this.#qemuPaused = false;
    this.#qemu.resume();
  }

  // ---- from the link

  #onLinkBytes(bytes: Buffer): void {
    if (this.#state === 'closed' || this.#state === 'raw') return;
    this.#keepAlive.heard();
    this.#guard(() => (this.#reader as FrameReader<'source'>).push(bytes));
  }

  #onFrame(frame: FrameAt<'source'>): void {
    // A frame before this one in the same read may have ended the connection.
    if (this.#isClosed()) return;
    this.#checkUnread();
    switch (frame.type) {
      case FRAME_HELLO:
        this.#onHello(frame.hello);
        return;
      case FRAME_ACK:
        this.#onAck(frame);
        return;
      case FRAME_RESEND:
        this.#onResend(frame);
        return;
      case FRAME_GROWN:
        if (this.#migration.options.remoteHashes === undefined)
          throw new LinkBadFrameError('GROWN', 'nothing was asked for');
        this.#migration.options.remoteHashes.grown(frame);
        return;
      case FRAME_RETURN:
        this.#onReturn(frame.bytes);
        return;
      case FRAME_RETURN_END:
        this.#returnEnded = true;
        this.#qemu.end();
        return;
      case FRAME_PING:
        // When END_ACK is all that is due the target may have closed, and a write would lose it.
        if (!this.#endSent || this.#kept.size > 0) this.#writeLink([pongFrame(frame.clockMicros)]);
        return;
      case FRAME_PONG:
        this.#onPong(frame.clockMicros);
        return;
      case FRAME_ABORT:
        this.fail(new LinkPeerAbortError(frame.code, frame.text));
        return;
      case FRAME_END_ACK:
        if (!this.#endSent || frame.streamBytes !== this.#streamBytes || this.#kept.size > 0) {
          throw new LinkBadFrameError(
            'END_ACK',
            `${frame.streamBytes} stream bytes, ${this.#streamBytes} were sent and ${this.#kept.size} batches are open`,
          );
        }
        this.#endAcknowledged = true;
        this.#keepAlive.stop();
        // The target closes first; a target that does not is closed on.
        setTimeout(() => this.#close(undefined), CLOSE_GRACE_MS).unref();
        return;
    }
  }
  #endAcknowledged = false;

  /** Batches and their patches are bounded by credit; whoever makes us answer without end and does not read is closed. */
  #checkUnread(): void {
    const held = this.#link?.writableLength ?? 0;
    const due = (1 + MAX_ATTEMPT) * this.#outstandingBytes;
    if (held > due + MAX_UNREAD_LINK_BYTES) throw new PeerNotReadingError(held);
  }

  /** The destination QEMU closed its end: on main it does so when it has loaded everything. */
  #returnEnded = false;

  /** A PING to follow `linkBytes` that are about to be written: its PONG tells when they arrived. */
  #pingAfter(linkBytes: number): Buffer {
    this.#linkSentBytes += linkBytes;
    this.#migration.linkRate.sent(linkBytes);
    const micros = Math.max(this.#lastPingMicros + 1, Math.round(this.#migration.options.now() * 1000));
    this.#lastPingMicros = micros;
    if (this.#pings.length >= MAX_OPEN_PINGS) throw new PongsWithheldError(this.#pings.length);
    this.#pings.push({ micros, linkSentBytes: this.#linkSentBytes });
    return pingFrame(micros);
  }

  /** PONGs come in the order of the PINGs; one that answers none of them is ignored. */
  #onPong(micros: number): void {
    while (this.#pings[0] !== undefined && this.#pings[0].micros <= micros) {
      const { linkSentBytes } = this.#pings.shift() as { linkSentBytes: number };
      const arrived = linkSentBytes - this.#linkArrivedBytes;
      this.#linkArrivedBytes = linkSentBytes;
      this.#migration.arrived(arrived);
    }
  }

  #onReturn(bytes: Uint8Array): void {
    if (this.#qemu.destroyed || this.#qemu.writableEnded) return;
    if (this.#qemu.writableLength > MAX_HELD_RETURN_BYTES) {
      this.fail(new ReturnPathStuckError(this.#qemu.writableLength));
      return;
    }
    // The view dies with the call, so the bytes are copied; the return path carries a few hundred bytes.
    this.#qemu.write(Buffer.from(bytes));
  }

  #onAck(frame: AckFrame): void {
    const migration = this.#migration;
    // Throws when the target counts batches that were never sent, before that count is believed.
    this.#sealer?.settle(frame.deliveredBatches);
    for (; this.#delivered < frame.deliveredBatches; this.#delivered++) {
      const kept = this.#kept.get(this.#delivered);
      if (kept === undefined) continue;
      this.#kept.delete(this.#delivered);
      this.#outstandingBytes -= kept.batch.bytes.length;
      migration.delivered(kept.batch.bytes.length);
      migration.nasQueuedBytes -= kept.references * PAGE_BYTES;
      if (kept.references > 0)
        migration.throttle.record(kept.references, kept.wrongPages, migration.options.now());
      migration.pool.give(kept.batch.bytes);
    }
    this.#creditLimit = Math.max(this.#creditLimit, frame.creditLimit);
    if (frame.nasBytesPerSecond > 0) migration.nasBytesPerSecond = frame.nasBytesPerSecond;
    this.#sendQueued();
    migration.regulate();
  }

  #onResend(frame: ResendFrame): void {
    const kept = this.#kept.get(frame.number);
    if (kept === undefined || frame.pageCount !== kept.batch.pageCount) {
      throw new LinkBadResendError(
        frame.number,
        `no open batch with that number has ${frame.pageCount} pages`,
      );
    }
    const migration = this.#migration;
    const { bytes, pageOffsets, pageCount } = kept.batch;
    kept.attempt = frame.attempt;
    let count = 0;
    if (frame.attempt === 1) {
      count = differingPages(
        this.#digester as PageHasher,
        bytes,
        pageOffsets,
        pageCount,
        frame,
        this.#differing,
      );
      if (frame.reason === RESEND_TAG_MISMATCH) this.#forgetBlocks(kept, count);
    }
    if (frame.reason !== RESEND_TAG_MISMATCH) this.#turnVolumesOff(kept, frame);
    // Nothing differs by digest although the tag does (a forged collision), or the second try failed: all of it.
    if (count === 0) for (count = 0; count < pageCount; count++) this.#differing[count] = count;
    // What could not be read says nothing of the index.
    if (frame.reason === RESEND_TAG_MISMATCH) kept.wrongPages = Math.max(kept.wrongPages, count);
    const tag = (this.#sealer as TagSealer).seal(frame.number, frame.attempt, bytes, pageCount);
    const patch = (this.#patchEncoder as PatchEncoder).encode({
      number: frame.number,
      attempt: frame.attempt,
      reconstructed: bytes,
      pageOffsets,
      positions: this.#differing,
      count,
      tag,
    });
    migration.counters.resentBatches += 1;
    migration.counters.resentPages += count;
    migration.counters.linkBytes += patch.frameBytes;
    // It goes at once, for a batch waits for it; the batches after it pay.
    migration.linkLimit.take(patch.frameBytes, migration.options.now());
    this.#writeLink([...patch.parts, this.#pingAfter(patch.frameBytes)]);
  }

  /** Nothing refers any more to the volumes of the pages that were not read; when the target names none, to no volume of the batch. */
  #turnVolumesOff({ volumes, batch }: KeptBatch, { missing, reason }: ResendFrame): void {
    if (volumes === undefined) return;
    const used = volumes.subarray(0, batch.pageCount);
    const unread = used.filter((_, page) => isMissing(missing, page));
    const failed = new Set(unread.length > 0 ? unread : used);
    failed.delete(LITERAL_PAGE);
    const code = reason === RESEND_NAS_DEADLINE ? OFF_TOO_SLOW : OFF_READ_FAILED;
    for (const volume of failed) this.#migration.turnVolumeOff(volume, code);
  }

  /** The first `count` entries of #differing were rebuilt wrongly: their blocks are not what the index believed. */
  #forgetBlocks(kept: KeptBatch, count: number): void {
    if (kept.volumes === undefined || kept.blocks === undefined) return;
    const { index, pageHasher } = this.#migration.options;
    for (let i = 0; i < count; i++) {
      const page = this.#differing[i] as number;
      const volume = kept.volumes[page] as number;
      if (volume === LITERAL_PAGE) continue;
      pageHasher.hash(kept.batch.bytes, kept.batch.pageOffsets[page] as number);
      index.remove(volume, kept.blocks[page] as number, pageHasher.hi, pageHasher.lo);
    }
  }

  #onLinkClose(error?: Error): void {
    if (this.#state === 'closed') return;
    if (this.#endAcknowledged) this.#close(undefined);
    else this.fail(new LinkClosedError(this.#state, error));
  }

  // ---- ends

  /**
   * Ends this connection because something broke: QEMU loses its main connection, so that its migration fails and the VM goes on here. It closes
   * the others itself: were they closed under it, its migration thread could wait for ever for one of them (docs/adr/0018-a-failed-migration-closes-main.md).
   */
  fail(error: Error): void {
    if (this.#state === 'closed') return;
    const speaksFrames = this.#state !== 'raw' && this.#ownHello?.mode !== 'raw';
    if (speaksFrames && !(error instanceof LinkPeerAbortError)) {
      this.#writeLink([
        abortFrame(error instanceof LinkError ? error.abortCode : ABORT_INTERNAL, error.message),
      ]);
    }
    this.#failed(error);
    this.#close(error);
  }

  #close(error: Error | undefined): void {
    if (this.#state === 'closed') return;
    const mayDrain = error !== undefined && this.#state !== 'raw' && this.#isChannel;
    this.#state = 'closed';
    this.#migration.options.remoteHashes?.detach(this);
    this.#migration.turns.passOn(this);
    clearTimeout(this.#paceTimer);
    clearTimeout(this.#idleTimer);
    clearTimeout(this.#limitTimer);
    this.#keepAlive.stop();
    this.#openingDecided('raw');
    if (this.#link !== undefined) endLingering(this.#link);
    if (mayDrain && !this.#qemuEnded && !this.#qemu.destroyed) drainUntilClosed(this.#qemu);
    else if (error === undefined) this.#qemu.destroySoon();
    else this.#qemu.destroy();
    for (const waiting of this.#queue) this.#makeReady(waiting);
    this.#queue = [];
    for (const kept of this.#kept.values()) {
      this.#migration.delivered(kept.batch.bytes.length);
      this.#migration.nasQueuedBytes -= kept.references * PAGE_BYTES;
    }
    this.#kept.clear();
    if (error !== undefined) this.#migration.failed(this, error);
    this.#migration.closed(this);
  }

  /** Any connection of QEMU's but main, which it opens first. */
  get #isChannel(): boolean {
    return this.#finder === undefined ? this.ordinal > 0 && this.#migration.firstMayBeMain : !this.#isMain;
  }
}
