// What the connections of one outgoing migration share: RAMBlocks, pace, learned rates, the index, the window of bytes
// under way, and the counters that end up in the result. It also opens the connections one after the other.

import type { Socket } from 'node:net';
import type { Reason } from '../../control/reasons.ts';
import { OtherConnectionError } from '../connection-errors.ts';
import type { BlockIndex } from '../index/block-index.ts';
import type { PageHasher } from '../index/page-hash.ts';
import { BatchEncoder } from '../link/batch-encoder.ts';
import { Compressor } from '../link/compression.ts';
import { MAX_CONNECTIONS } from '../link/frame-types.ts';
import type { LinkVersions } from '../link/hello.ts';
import { canReuseContexts } from '../link/zstd-context.ts';
import { drainUntilClosed } from '../raw-relay.ts';
import { PassCounter } from '../stream/pass-counter.ts';
import { RamBlocks } from '../stream/ram-blocks.ts';
import { Pace } from './pace.ts';
import { PipeRate } from './pipe-rate.ts';
import { RateLimit } from './rate-limit.ts';
import { ReadingTurns } from './reading-turns.ts';
import { ReferenceThrottle } from './reference-throttle.ts';
import type { RemoteBlockHashes } from './remote-block-hashes.ts';
import { RouteChoice } from './route-choice.ts';
import { SeenPages } from './seen-pages.ts';
import { SourceConnection } from './source-connection.ts';
import { AssemblyPool, BULK_BATCH_BYTES } from './stream-batcher.ts';

/** Stream bytes under way over all connections in bulk; with assembly buffers and sockets well below 256 MiB. */
const BULK_WINDOW_BYTES = 48 * 1024 * 1024;

/** Less under way than this costs more in round trips than it saves in downtime. */
const MIN_QUEUE_BYTES = 256 * 1024;

/** As much may always wait for the NAS; the first reads show its rate. */
const MIN_NAS_QUEUE_BYTES = 2 * 1024 * 1024;
/** An eighth of the target's read deadline. */
const MAX_NAS_QUEUE_SECONDS = 0.25;
/** Stream bytes that may always be under way. */
const MIN_WINDOW_BYTES = 512 * 1024;

/** Batches while QEMU may decide: small, so that no byte waits long behind others. */
const DECISION_BATCH_BYTES = 128 * 1024;
const DECISION_READ_BYTES = 64 * 1024;

/** With less than this under way, a batch of a MiB from every connection would be most of it. */
const BULK_FROM_QUEUE_MS = 200;
const BULK_QUEUE_BYTES = 3 * 1024 * 1024;

/** A trial of the other route makes sense while as much is left as takes this long. */
const ROUTE_TRIAL_REST_SECONDS = 2.5;

/** Why a volume is not referred to; 0 while it is. */
export const OFF_READ_FAILED = 1;
export const OFF_TOO_SLOW = 2;
const NEVER_USABLE = 3;

/** What turned a volume off on the way: the constant for the result, and words for the log. */
const offTexts = {
  [OFF_READ_FAILED]: { reason: 'NasReadFailed', detail: 'the target could not read it' },
  [OFF_TOO_SLOW]: { reason: 'NasTooSlow', detail: 'the target could not read it in time' },
} as const;

export type OffCode = keyof typeof offTexts;

const INDEX_WAIT_SHARE = 0.15;
const SHORTEST_INDEX_WAIT_MS = 100;
const LONGEST_INDEX_WAIT_MS = 5000;
/** While nothing is known of the link. */
const INDEX_WAIT_UNKNOWN_MS = 1000;

export type RawReason = Extract<
  Reason,
  'PostCopyAnnounced' | 'UnknownStream' | 'TlsInsideQemu' | 'LinkVersion'
>;

/** What the source needs of the index's grower. */
export interface IndexGrowth {
  /** Notes a hit; what lies around it will be indexed. */
  grow(volume: number, block: number): void;
  /** Resolves when what was noted is in the index; undefined when it is already. */
  caughtUp(): Promise<void> | undefined;
}

export interface SourceMigrationOptions {
  /** UID of the VirtualMachineInstanceMigration. */
  readonly migrationId: string;
  /** 32 bytes that only the two pods of this migration know. */
  readonly sessionKey: Uint8Array;
  readonly volumes: readonly { readonly name: string; readonly sizeBytes: number }[];
  readonly index: BlockIndex;
  readonly pageHasher: PageHasher;
  /** Grows a sampled index around its hits. */
  readonly grower?: IndexGrowth;
  /** Where the grower has its hashes from, when that is the target. */
  readonly remoteHashes?: RemoteBlockHashes;
  readonly downtimeLimitMs: number;
  /** 0 when the operator set none. */
  readonly linkBytesPerSecond: number;
  readonly paceEnabled: boolean;
  readonly zstd: boolean;
  /** Opens a connection towards the target sidecar: the socket whose place ours took. */
  readonly dial: () => Promise<Socket>;
  /** Versions of the link to speak; default: what this release speaks. */
  readonly linkVersions?: LinkVersions;
  /** How long the answer to HELLO may take; default HELLO_TIMEOUT_MS. */
  readonly helloTimeoutMs?: number;
  readonly log: (event: string, values: Readonly<Record<string, unknown>>) => void;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
}

export interface SourceCounters {
  streamBytes: number;
  linkBytes: number;
  zeroPages: number;
  referencePages: number;
  literalPages: number;
  /** Of the literal pages, those that went uncompressed. */
  rawLiteralPages: number;
  /** Pages the index knew but which were sent because the NAS was the slower pipe. */
  declinedPages: number;
  resentBatches: number;
  resentPages: number;
  batches: number;
}

export class SourceMigration {
  readonly options: SourceMigrationOptions;
  readonly ramBlocks = new RamBlocks();
  readonly seen = new SeenPages(this.ramBlocks);
  readonly passes = new PassCounter();
  readonly pace: Pace;
  /** What the link carries, in link bytes. */
  readonly linkRate: PipeRate;
  /** What the whole way to the destination QEMU carries, in stream bytes. */
  readonly deliveryRate = new PipeRate();
  readonly throttle = new ReferenceThrottle();
  readonly routes = new RouteChoice();
  readonly turns = new ReadingTurns(() => this.pace.waitMs(this.options.now()) > 0);
  /** What the operator allows on the link; once the VM is stopped only downtime counts, as with QEMU's own limit. */
  readonly linkLimit: RateLimit;
  readonly pool = new AssemblyPool(BULK_WINDOW_BYTES);
  /** For all connections: a batch is compressed at once, in one thread. Undefined when nothing is to be compressed. */
  readonly compressor: Compressor | undefined;
  /** For all connections, as the compressor. */
  readonly encoder: BatchEncoder;
  readonly counters: SourceCounters = {
    streamBytes: 0,
    linkBytes: 0,
    zeroPages: 0,
    referencePages: 0,
    literalPages: 0,
    rawLiteralPages: 0,
    declinedPages: 0,
    resentBatches: 0,
    resentPages: 0,
    batches: 0,
  };
  /** Stream bytes sent and not acknowledged, over all connections. */
  windowBytes = 0;
  /** Batches that wait for the index to grow. */
  indexWaits = 0;
  nasQueuedBytes = 0;
  nasBytesPerSecond = 0;
  /** Per volume: 0, or why nothing refers to it: an OffCode, or NEVER_USABLE. */
  readonly volumesOff: Uint8Array;
  /** Why everything is relayed raw: decided by main before its first framed byte. A reason of control/reasons.ts. */
  rawReason: RawReason | undefined;
  /** A connection was decided to be framed. */
  isFramed = false;
  ramEnded = false;
  failure: Error | undefined;
  /** False when the first connection turned out to be another: then main is one of which nothing is known yet. */
  firstMayBeMain = true;
  /** What first broke a connection that was relayed raw: no failure of ours, QEMU sees what it would see without us. */
  relayFailure: Error | undefined;

  readonly #connections = new Set<SourceConnection>();
  #opening: Promise<void> = Promise.resolve();
  #accepted = 0;
  /** Channels that came to a QEMU that had lost its main connection. */
  #late = 0;
  #literalStreamBytes = 0;
  #literalLinkBytes = 0;
  #resentStreamBytes = 0;
  #resentLinkBytes = 0;
  #indexTooSlow = false;
  #deliveredBytes = 0;
  #lastLearnMs: number;

  constructor(options: SourceMigrationOptions) {
    this.options = options;
    this.volumesOff = new Uint8Array(options.volumes.length);
    this.pace = new Pace({
      downtimeLimitMs: options.downtimeLimitMs,
      connections: 1,
      enabled: options.paceEnabled,
    });
    this.linkLimit = new RateLimit(options.linkBytesPerSecond);
    this.linkRate = new PipeRate(options.linkBytesPerSecond);
    this.#lastLearnMs = options.now();
    this.compressor = options.zstd ? new Compressor() : undefined;
    this.encoder = new BatchEncoder({ zstd: options.zstd, compressor: this.compressor });
    if (options.zstd && !canReuseContexts())
      options.log('zstd contexts cannot be used again in this Node: compression is slower', {});
  }

  /** Connections open now. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Connections that QEMU opened so far. */
  get accepted(): number {
    return this.#accepted;
  }

  /**
   * Takes over a connection that QEMU opened (it must be paused, with half-open allowed). The link connection of the
   * next one is opened only after this one's HELLO was answered: QEMU 7.2's receiver takes the first as its main channel.
   */
  accept(qemu: Socket): void {
    if (this.#connections.size + this.#late >= MAX_CONNECTIONS) {
      this.options.log('connection refused: too many', { limit: MAX_CONNECTIONS });
      qemu.destroy();
      return;
    }
    if (this.failure !== undefined) {
      this.#late += 1;
      drainUntilClosed(qemu);
      return;
    }
    const connection = new SourceConnection(this, this.#accepted, qemu);
    this.#accepted += 1;
    this.#connections.add(connection);
    this.pace.setConnections(this.#connections.size);
    this.#opening = this.#opening.then(() => connection.open());
  }

  /** Stream bytes per link byte, over what was sent as literals so far. */
  get literalRatio(): number {
    return this.#literalLinkBytes === 0 ? 1 : Math.max(1, this.#literalStreamBytes / this.#literalLinkBytes);
  }

  /** Counts what literals shrank to: over all of them, and over those of later passes, which say how re-sent pages compress. */
  countLiterals(streamBytes: number, linkBytes: number): void {
    // Halved now and then, so that the ratio follows what is being sent.
    if (this.#literalStreamBytes > 64 * 1024 * 1024) {
      this.#literalStreamBytes /= 2;
      this.#literalLinkBytes /= 2;
    }
    this.#literalStreamBytes += streamBytes;
    this.#literalLinkBytes += linkBytes;
    if (this.pace.phase === 'first-pass') return;
    this.#resentStreamBytes += streamBytes;
    this.#resentLinkBytes += linkBytes;
  }

  /** Stream bytes per link byte of re-sent pages; 1 while none were. */
  get #resentRatio(): number {
    return this.#resentLinkBytes === 0 ? 1 : Math.max(1, this.#resentStreamBytes / this.#resentLinkBytes);
  }

  /** Stream bytes that one connection may have waiting for the index to grow, or for credit. */
  get queueBytes(): number {
    return Math.max(1, (BULK_QUEUE_BYTES * this.pace.queueMs) / 1000);
  }

  /** True while there is time to let the index grow around a batch's hits before it is planned. */
  get mayWaitForIndex(): boolean {
    return this.inBulk && this.pace.phase === 'first-pass' && !this.referencesOff && !this.#indexTooSlow;
  }

  /** How large a batch may grow now. */
  get batchBytes(): number {
    return this.inBulk ? BULK_BATCH_BYTES : DECISION_BATCH_BYTES;
  }

  /** How much one read may take: nearer to QEMU's decision what is accepted at once counts. */
  get readBytes(): number {
    return this.inBulk && !this.pace.readsInTurns ? BULK_BATCH_BYTES : DECISION_READ_BYTES;
  }

  /** While much may be under way, batches are large and may wait; nearer to QEMU's decision every byte in hand is downtime. */
  get inBulk(): boolean {
    return isBulk(this.pace.queueMs);
  }

  /**
   * The longest that a batch may wait for the index to grow around its hits, in milliseconds. The first batches wait for many
   * reads, and those after them find what the reads brought; so it may be a part of what the rest would take as it is.
   */
  get indexWaitMs(): number {
    const link = this.linkRate.bytesPerSecond;
    if (link === 0) return INDEX_WAIT_UNKNOWN_MS;
    const restMs = (this.pace.remainingBytes * 1000) / link;
    return Math.min(LONGEST_INDEX_WAIT_MS, Math.max(SHORTEST_INDEX_WAIT_MS, restMs * INDEX_WAIT_SHARE));
  }

  /**
   * L: what the link is taken to carry. In bulk nothing is decided, and a link that was idle because the NAS was waited for may have all
   * that it once carried; where QEMU may decide only what may be relied on counts.
   */
  #linkBytesPerSecond(inBulk: boolean): number {
    return inBulk ? this.linkRate.bytesPerSecond : this.linkRate.reliableBytesPerSecond(this.options.now());
  }

  /** The index did not grow in time around a batch's hits: no batch waits for it any more. */
  indexTooSlow(): void {
    if (this.#indexTooSlow) return;
    this.#indexTooSlow = true;
    this.options.log('the index grows too slowly: batches do not wait for it any more', {});
  }

  /** True when as much is under way as memory, link, NAS and destination should have now; see {@link Pace.queueMs}. */
  get isFull(): boolean {
    if (this.windowBytes >= BULK_WINDOW_BYTES) return true;
    const { queueMs } = this.pace;
    const queueSeconds = queueMs / 1000;
    const link = this.#linkBytesPerSecond(isBulk(queueMs));
    if (link > 0 && this.linkRate.underWayBytes > Math.max(MIN_QUEUE_BYTES, link * queueSeconds)) return true;
    // What waits for the NAS must be read well within its deadline, also before its rate is known.
    const nas = this.nasBytesPerSecond;
    const nasBytes = Math.max(MIN_NAS_QUEUE_BYTES, nas * Math.min(queueSeconds, MAX_NAS_QUEUE_SECONDS));
    if (this.nasQueuedBytes > nasBytes) return true;
    if (isBulk(queueMs)) return false;
    // Nearer to QEMU's decision the destination counts too: what it did not take yet is downtime.
    return this.windowBytes > Math.max(MIN_WINDOW_BYTES, this.deliveryRate.bytesPerSecond * queueSeconds);
  }

  /** The destination QEMU took `streamBytes` more. */
  delivered(streamBytes: number): void {
    this.windowBytes -= streamBytes;
    this.deliveryRate.arrived(streamBytes, this.options.now(), this.pace.queueMs);
    this.#deliveredBytes += streamBytes;
    this.#chooseRoute();
  }

  /** What the link is known to carry: what was seen of it, and what the operator allows at most; 0 when neither is known. */
  get #knownLinkBytesPerSecond(): number {
    const known = [this.linkRate.busyBytesPerSecond, this.options.linkBytesPerSecond].filter(
      (rate) => rate > 0,
    );
    return known.length === 0 ? 0 : Math.min(...known);
  }

  #chooseRoute(): void {
    const { pace, linkRate, deliveryRate } = this;
    const changed = this.routes.observe({
      nowMs: this.options.now(),
      deliveredBytes: this.#deliveredBytes,
      busyLinkBytesPerSecond: this.#knownLinkBytesPerSecond,
      indexAwaited: this.indexWaits > 0,
      linkIdle: linkRate.idle,
      mayTry:
        pace.phase === 'first-pass' &&
        pace.remainingBytes > deliveryRate.bytesPerSecond * ROUTE_TRIAL_REST_SECONDS,
    });
    if (changed === undefined) return;
    this.options.log(
      changed === 'literals'
        ? 'the link is faster than references: pages go as they are'
        : 'references are tried again',
      { linkBytesPerSecond: Math.round(linkRate.bytesPerSecond) },
    );
  }

  /** `streamBytes` more are under way. */
  sent(streamBytes: number): void {
    this.windowBytes += streamBytes;
    this.deliveryRate.sent(streamBytes);
  }

  /** Link bytes arrived at the target sidecar: what the link carries is learned anew. */
  arrived(linkBytes: number): void {
    const nowMs = this.options.now();
    this.linkRate.arrived(linkBytes, nowMs, this.pace.queueMs);
    this.pace.learn(
      this.#linkBytesPerSecond(this.inBulk),
      this.#resentRatio,
      // An idle link shows nothing when it is the destination that holds us up.
      this.linkRate.idle && !this.isFull,
      nowMs - this.#lastLearnMs,
    );
    this.#lastLearnMs = nowMs;
    this.regulate();
  }

  /** Ends every connection, telling the other side why: the sidecar is being stopped. */
  abort(error: Error): void {
    for (const connection of [...this.#connections]) connection.fail(error);
  }

  /** Something that gates reading changed. */
  regulate(): void {
    for (const connection of this.#connections) connection.regulate();
  }

  /** What the target can read; nothing waits for an index of which no volume can be referred to. */
  agreed(usable: readonly boolean[]): void {
    for (const [volume, isUsable] of usable.entries()) {
      if (!isUsable && this.volumesOff[volume] === 0) this.volumesOff[volume] = NEVER_USABLE;
    }
  }

  /** True when no volume is referred to (any more). */
  get referencesOff(): boolean {
    return !this.volumesOff.includes(0);
  }

  turnVolumeOff(volume: number, code: OffCode): void {
    if (this.volumesOff[volume] !== 0) return;
    this.volumesOff[volume] = code;
    this.options.log('references off', { volume: this.options.volumes[volume]?.name, ...offTexts[code] });
  }

  /** Why a volume was turned off on the way; undefined for one that was not. */
  offReason(volume: number): Reason | undefined {
    const code = this.volumesOff[volume];
    return code === OFF_READ_FAILED || code === OFF_TOO_SLOW ? offTexts[code].reason : undefined;
  }

  relayBroke(connection: number, error: Error): void {
    this.relayFailure ??= error;
    this.options.log('relayed connection broke', { connection, error: error.message });
  }

  /** One broken connection breaks the migration: QEMU's other channels must not wait for it. */
  failed(connection: SourceConnection, error: Error): void {
    if (this.failure !== undefined) return;
    this.failure = error;
    this.options.log('migration failed', { connection: connection.ordinal, error: error.message });
    for (const other of [...this.#connections]) {
      if (other !== connection) other.fail(new OtherConnectionError(error));
    }
  }

  closed(connection: SourceConnection): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0) this.compressor?.release();
  }
}

function isBulk(queueMs: number): boolean {
  return queueMs >= BULK_FROM_QUEUE_MS;
}
