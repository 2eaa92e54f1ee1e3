// What the link carries, learned from acknowledgements. An idle link shows no capacity, so only stretches in which
// something was always outstanding count as evidence; without evidence the estimate decays slowly towards what is seen.
// Pure: time comes in as an argument, in milliseconds.

/** Evidence is gathered over stretches of this length. */
const WINDOW_MS = 100;

/** Weight of a new window against the running estimate. */
const GAIN = 0.3;

export class LinkRate {
  #bytesPerSecond = 0;
  #windowStartMs: number | undefined;
  #windowBytes = 0;
  #outstandingBytes = 0;
  #idleInWindow = true;
  #seededBytesPerSecond: number;

  /** @param configuredBytesPerSecond the operator's limit, used until something is learned; 0 when there is none. */
  constructor(configuredBytesPerSecond = 0) {
    this.#seededBytesPerSecond = configuredBytesPerSecond;
  }

  /** Link bytes sent and not acknowledged yet. */
  get outstandingBytes(): number {
    return this.#outstandingBytes;
  }

  /** Bytes per second, 0 when unknown. */
  get bytesPerSecond(): number {
    return this.#bytesPerSecond === 0 ? this.#seededBytesPerSecond : this.#bytesPerSecond;
  }

  /** True when the last closed window was not limited by the link. */
  get idle(): boolean {
    return this.#lastWindowIdle;
  }
  #lastWindowIdle = true;

  sent(linkBytes: number): void {
    this.#outstandingBytes += linkBytes;
  }

  /** @param linkBytes link bytes of the batches that this acknowledgement covers. */
  acknowledged(linkBytes: number, nowMs: number): void {
    this.#windowStartMs ??= nowMs;
    this.#outstandingBytes = Math.max(0, this.#outstandingBytes - linkBytes);
    this.#windowBytes += linkBytes;
    // With less outstanding than one window's worth of what is known, the sender, not the link, was the limit.
    const busyBytes = (this.bytesPerSecond * WINDOW_MS) / 1000 / 16;
    if (this.#outstandingBytes <= busyBytes) this.#idleInWindow = true;
    this.#close(nowMs);
  }

  #close(nowMs: number): void {
    const startMs = this.#windowStartMs ?? nowMs;
    const elapsedMs = nowMs - startMs;
    if (elapsedMs < WINDOW_MS) return;
    const seen = (this.#windowBytes * 1000) / elapsedMs;
    this.#lastWindowIdle = this.#idleInWindow;
    // An idle window proves only that the link carries at least this much.
    if (!this.#idleInWindow && elapsedMs < 4 * WINDOW_MS) {
      this.#bytesPerSecond =
        this.#bytesPerSecond === 0 ? seen : this.#bytesPerSecond + GAIN * (seen - this.#bytesPerSecond);
    } else if (seen > this.bytesPerSecond) this.#bytesPerSecond = seen;
    this.#windowStartMs = nowMs;
    this.#windowBytes = 0;
    this.#idleInWindow = this.#outstandingBytes === 0;
  }
}
