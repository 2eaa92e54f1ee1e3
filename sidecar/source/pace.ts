// The accepting pace: how fast the source takes bytes from QEMU, so that QEMU's switch-over decision stays honest.
//
// QEMU stops the VM as soon as what remains is less than (rate of its last 100 ms window) x (downtime limit). References
// make us accept far faster than the link carries, so without a pace QEMU would stop the VM with seconds of work left.
// In the first pass the accepted rate decays with what remains; afterwards it is what the link really carries.
// Pure: time comes in as an argument, in milliseconds.

/**
 * Margin over the downtime limit, at least: QEMU's rate is that of a window of 100 ms up to 100 ms ago, and the rate decays meanwhile; in that window
 * may be what a pause saved up, and a packet more than was accepted.
 */
const LEAST_MARGIN_MS = 300;
/** Of the limit: the longer it is, the more of QEMU's estimate is a window's chance. */
const MARGIN_SHARE = 0.5;

/** Bytes per connection that QEMU and the kernel's unix socket may hold beyond what we have read. */
const UNSEEN_BYTES_PER_CONNECTION = 1024 * 1024;

/** QEMU counts a multifd packet, up to 128 pages, when its last byte was accepted. */
const PACKET_BYTES = 512 * 1024;
const QEMU_WINDOW_MS = 100;

/** With this many times what packets of all channels that end in one window let QEMU take for little enough, they begin to take turns. */
const TURNS_FROM = 4;

/** Tokens never pile up for longer than this, so that a pause is not followed by a burst. */
const BURST_MS = 20;

/** A rate below this would stall even control records. 4 MiB/s. */
const MIN_BYTES_PER_SECOND = 4 * 1024 * 1024;

/**
 * In later passes, while nothing queues on the link, the learned rate is only a lower bound: each 100 ms it may be tried this
 * much higher. Not in the first pass, whose rate has to come down to what the link is known to carry.
 */
const PROBE_PER_100_MS = 1.15;

/** Work under way where QEMU may stop the VM at any window. */
const DECISION_QUEUE_MS = 20;
/** Work under way at most. */
const BULK_QUEUE_MS = 1000;

export type PacePhase = 'first-pass' | 'later-pass' | 'released';

export interface PaceOptions {
  /** The downtime limit QEMU was given; KubeVirt's default is 900 ms. */
  readonly downtimeLimitMs: number;
  /** QEMU connections of this migration. May be raised later by {@link Pace.setConnections}. */
  readonly connections: number;
  /** Off means that everything is accepted at once (measured by the switch-over test as the counter-example). */
  readonly enabled: boolean;
}

export class Pace {
  readonly #downtimeLimitMs: number;
  readonly #enabled: boolean;
  #connections: number;
  #phase: PacePhase = 'first-pass';
  #remainingBytes = 0;
  #linkBytesPerSecond = 0;
  #resentRatio = 1;
  #probe = 1;
  #tokens = 0;
  #lastMs: number | undefined;

  constructor(options: PaceOptions) {
    this.#downtimeLimitMs = options.downtimeLimitMs;
    this.#connections = options.connections;
    this.#enabled = options.enabled;
  }

  get phase(): PacePhase {
    return this.#phase;
  }

  /** Bytes of the RAMBlock list that the stream has not shown yet, zero pages included. */
  get remainingBytes(): number {
    return this.#remainingBytes;
  }

  setConnections(connections: number): void {
    this.#connections = connections;
  }

  /** The RAMBlock list is known: `bytes` of guest memory are to come. */
  addRam(bytes: number): void {
    this.#remainingBytes += bytes;
  }

  /** `bytes` of the RAMBlock list have no pages: they must not keep the rate of the first pass up to its end. */
  neverComes(bytes: number): void {
    this.#remainingBytes = Math.max(0, this.#remainingBytes - bytes);
  }

  /** `bytes` of guest memory were seen for the first time. */
  firstSeen(bytes: number): void {
    this.#remainingBytes = Math.max(0, this.#remainingBytes - bytes);
  }

  /** A page came again, or QEMU wrapped around: from here on it may stop the VM at any window. */
  laterPass(): void {
    if (this.#phase === 'first-pass') this.#phase = 'later-pass';
  }

  /** The VM is stopped (SWITCHOVER_START, RAM's END): nothing is decided any more, speed is all. */
  release(): void {
    this.#phase = 'released';
  }

  /**
   * What was learned about the link.
   * @param linkBytesPerSecond acknowledged rate while the link was the limit; 0 when unknown.
   * @param resentRatio stream bytes per link byte over pages that were sent before; at least 1.
   * @param linkIdle true when nothing queued, so that the rate is only a lower bound.
   */
  learn(linkBytesPerSecond: number, resentRatio: number, linkIdle: boolean, elapsedMs: number): void {
    this.#linkBytesPerSecond = linkBytesPerSecond;
    this.#resentRatio = Math.max(1, resentRatio);
    if (linkIdle && this.#phase === 'later-pass')
      this.#probe = Math.min(1024, this.#probe * PROBE_PER_100_MS ** (elapsedMs / 100));
    else this.#probe = 1;
  }

  /**
   * True where packets that end together could make QEMU stop the VM: there each is read to its end before the next one, so that QEMU's windows
   * see them end evenly. Before that connections are read side by side, which is faster.
   */
  get readsInTurns(): boolean {
    if (!this.#enabled || this.#phase === 'released') return false;
    if (this.#phase === 'later-pass') return true;
    const together = (this.#connections * PACKET_BYTES * this.#downtimeLimitMs) / QEMU_WINDOW_MS;
    return this.#remainingBytes <= TURNS_FROM * together;
  }

  /** In the first pass, what is left is accepted at a rate at which it would take this long. */
  get #horizonMs(): number {
    return this.#downtimeLimitMs + Math.max(LEAST_MARGIN_MS, this.#downtimeLimitMs * MARGIN_SHARE);
  }

  /** What the link carries of the stream for as long as need be, in bytes per second. */
  get #sustained(): number {
    return Math.max(MIN_BYTES_PER_SECOND, this.#linkBytesPerSecond * this.#resentRatio * this.#probe);
  }

  /**
   * How much work, in milliseconds of link or NAS, may be under way. Whatever is under way when QEMU stops the VM is
   * downtime, so it is little wherever QEMU may decide; before that it may be as much as is gone by then, so that stretches
   * of literals and stretches of references overlap.
   */
  get queueMs(): number {
    if (this.#phase === 'released' || !this.#enabled) return BULK_QUEUE_MS;
    if (this.#phase === 'later-pass') return DECISION_QUEUE_MS;
    const decisionBytes =
      (2 * this.#sustained * this.#downtimeLimitMs) / 1000 + this.#connections * UNSEEN_BYTES_PER_CONNECTION;
    if (this.#remainingBytes <= decisionBytes) return DECISION_QUEUE_MS;
    // With the decaying pace it takes (limit + margin) x ln(remaining / there) to come from here to there.
    const untilDecisionMs = this.#horizonMs * Math.log(this.#remainingBytes / decisionBytes);
    return Math.min(BULK_QUEUE_MS, Math.max(DECISION_QUEUE_MS, untilDecisionMs / 2));
  }

  /** The rate QEMU may be accepted at now, in bytes per second; Infinity when there is no limit. */
  get bytesPerSecond(): number {
    if (!this.#enabled || this.#phase === 'released') return Number.POSITIVE_INFINITY;
    const sustained = this.#sustained;
    if (this.#phase === 'later-pass') return sustained;
    const ahead = this.#remainingBytes - this.#connections * UNSEEN_BYTES_PER_CONNECTION;
    return Math.max(sustained, (ahead * 1000) / this.#horizonMs);
  }

  /** Counts bytes just read from QEMU. */
  take(bytes: number, nowMs: number): void {
    this.#refill(nowMs);
    this.#tokens -= bytes;
  }

  /** Milliseconds until reading may go on; 0 when it may now. */
  waitMs(nowMs: number): number {
    this.#refill(nowMs);
    if (this.#tokens >= 0) return 0;
    return (-this.#tokens * 1000) / this.bytesPerSecond;
  }

  #refill(nowMs: number): void {
    const rate = this.bytesPerSecond;
    if (rate === Number.POSITIVE_INFINITY) {
      this.#tokens = 0;
      this.#lastMs = nowMs;
      return;
    }
    const elapsedMs = this.#lastMs === undefined ? 0 : Math.max(0, nowMs - this.#lastMs);
    this.#lastMs = nowMs;
    this.#tokens = Math.min(this.#tokens + (rate * elapsedMs) / 1000, (rate * BURST_MS) / 1000);
  }
}
