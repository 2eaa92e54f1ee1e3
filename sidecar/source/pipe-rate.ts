// What a pipe carries, learned from when what was sent into it comes out: the link by PONGs (bytes that arrived at the target
// sidecar), the whole way by acknowledgements (bytes that the destination QEMU took). An idle pipe shows no capacity, so only
// stretches in which something was always under way are evidence of the rate; others only show that it carries at least that.
// Pure: time comes in as an argument, in milliseconds.

/** Evidence is gathered over stretches of this length. */
const WINDOW_MS = 100;

/** What the kernel and the proxies take in at once says nothing of the link. */
const MIN_BUSY_BYTES = 128 * 1024;

/** What arrives later than this waited for the link, not for the peer. */
const LONGEST_IDLE_DELAY_MS = 50;

/** What was seen so long ago is still taken for what the pipe carries; after that it halves every {@link HALF_LIFE_MS}. */
const TRUSTED_MS = 3000;
const HALF_LIFE_MS = 3000;

/** Weight of a new window against the running estimate. */
const GAIN = 0.3;

export class PipeRate {
  #bytesPerSecond = 0;
  #windowStartMs: number | undefined;
  #windowBytes = 0;
  #underWayBytes = 0;
  #idleInWindow = true;
  #seenBytesPerSecond = 0;
  #evidenceAtMs = 0;
  #seededBytesPerSecond: number;

  /** @param configuredBytesPerSecond the operator's limit, used until something is learned; 0 when there is none. */
  constructor(configuredBytesPerSecond = 0) {
    this.#seededBytesPerSecond = configuredBytesPerSecond;
  }

  /** Bytes sent that did not arrive yet. */
  get underWayBytes(): number {
    return this.#underWayBytes;
  }

  /** Bytes per second, 0 when unknown. */
  get bytesPerSecond(): number {
    return this.#bytesPerSecond === 0 ? this.#seededBytesPerSecond : this.#bytesPerSecond;
  }

  /**
   * Bytes per second that may be relied on now: without fresh evidence it decays to what an idle pipe was seen to carry. 0 when unknown.
   */
  reliableBytesPerSecond(nowMs: number): number {
    if (this.#bytesPerSecond === 0) return this.#seededBytesPerSecond;
    const staleMs = Math.max(0, nowMs - this.#evidenceAtMs - TRUSTED_MS);
    return Math.max(this.#seenBytesPerSecond, this.#bytesPerSecond * 0.5 ** (staleMs / HALF_LIFE_MS));
  }

  /** Bytes per second learned while something was always under way; 0 while there was no such stretch. */
  get busyBytesPerSecond(): number {
    return this.#wasBusy ? this.#bytesPerSecond : 0;
  }
  #wasBusy = false;

  /** True when the last closed window was not limited by the link. */
  get idle(): boolean {
    return this.#lastWindowIdle;
  }
  #lastWindowIdle = true;

  sent(bytes: number): void {
    this.#underWayBytes += bytes;
  }

  /**
   * `bytes` more have arrived.
   * @param queueMs how much the sender lets be under way at most, in milliseconds of the known rate.
   */
  arrived(bytes: number, nowMs: number, queueMs: number): void {
    this.#windowStartMs ??= nowMs;
    this.#underWayBytes = Math.max(0, this.#underWayBytes - bytes);
    this.#windowBytes += bytes;
    // Bytes are under way for a while on an idle link too: its delay, and a peer that is busy with other work.
    const busyMs = Math.min(LONGEST_IDLE_DELAY_MS, queueMs / 2);
    const busyBytes = Math.max(MIN_BUSY_BYTES, (this.bytesPerSecond * busyMs) / 1000);
    if (this.#underWayBytes <= busyBytes) this.#idleInWindow = true;
    this.#close(nowMs);
  }

  #close(nowMs: number): void {
    const startMs = this.#windowStartMs ?? nowMs;
    const elapsedMs = nowMs - startMs;
    if (elapsedMs < WINDOW_MS) return;
    const seen = (this.#windowBytes * 1000) / elapsedMs;
    this.#lastWindowIdle = this.#idleInWindow;
    this.#seenBytesPerSecond = seen;
    // An idle window proves only that the link carries at least this much.
    if (!this.#idleInWindow && elapsedMs < 4 * WINDOW_MS) {
      this.#wasBusy = true;
      this.#evidenceAtMs = nowMs;
      this.#bytesPerSecond =
        this.#bytesPerSecond === 0 ? seen : this.#bytesPerSecond + GAIN * (seen - this.#bytesPerSecond);
    } else if (seen > this.bytesPerSecond) {
      this.#bytesPerSecond = seen;
      this.#evidenceAtMs = nowMs;
    }
    this.#windowStartMs = nowMs;
    this.#windowBytes = 0;
    this.#idleInWindow = this.#underWayBytes === 0;
  }
}
