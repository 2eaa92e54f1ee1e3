// A token bucket: so many events a second on average, so many at once. For messages of a connection and for log lines.
export class RateLimit {
  readonly #perSecond: number;
  readonly #burst: number;
  #tokens: number;
  #atMs: number;

  constructor(perSecond: number, burst: number, nowMs: number) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#tokens = burst;
    this.#atMs = nowMs;
  }

  /** Takes one token if there is one. */
  allows(nowMs: number): boolean {
    if (!this.has(nowMs)) return false;
    this.#tokens -= 1;
    return true;
  }

  /** Takes one token, also where there is none: what is owed is at most so many, and comes back like the others. */
  charge(nowMs: number, maxDebt: number): void {
    this.has(nowMs);
    this.#tokens = Math.max(-maxDebt, this.#tokens - 1);
  }

  /** Whether there is a token. */
  has(nowMs: number): boolean {
    this.#tokens = Math.min(this.#burst, this.#tokens + ((nowMs - this.#atMs) / 1000) * this.#perSecond);
    this.#atMs = nowMs;
    return this.#tokens >= 1;
  }
}
