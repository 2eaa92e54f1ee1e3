// The link bandwidth that an admin allows a migration. Bytes are counted when they are sent, and may go into debt by what one frame is
// larger than what is left. Pure: time comes in as an argument, in milliseconds.

/** A pause is not followed by more than this much at once. */
const BURST_MS = 50;

export class RateLimit {
  readonly #bytesPerSecond: number;
  #tokens: number;
  #lastMs: number | undefined;

  /** @param bytesPerSecond 0 for no limit. */
  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#tokens = (bytesPerSecond * BURST_MS) / 1000;
  }

  take(bytes: number, nowMs: number): void {
    if (this.#bytesPerSecond === 0) return;
    this.#refill(nowMs);
    this.#tokens -= bytes;
  }

  /** Milliseconds until more may be sent; 0 when it may now. */
  waitMs(nowMs: number): number {
    if (this.#bytesPerSecond === 0) return 0;
    this.#refill(nowMs);
    return this.#tokens >= 0 ? 0 : (-this.#tokens * 1000) / this.#bytesPerSecond;
  }

  #refill(nowMs: number): void {
    const elapsedMs = this.#lastMs === undefined ? 0 : Math.max(0, nowMs - this.#lastMs);
    this.#lastMs = nowMs;
    const most = (this.#bytesPerSecond * BURST_MS) / 1000;
    this.#tokens = Math.min(most, this.#tokens + (this.#bytesPerSecond * elapsedMs) / 1000);
  }
}
