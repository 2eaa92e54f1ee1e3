// Stops references for a while when too many batches were rebuilt wrongly: a stale index must not cost a resend each time.
// More than 1 batch in 20 of the last 64 that needed a resend stops references for a second, doubling each time.
// Pure: time comes in as an argument, in milliseconds.

const HISTORY = 64;
const MAX_RESENT = Math.floor(HISTORY / 20);
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 64_000;

export class ReferenceThrottle {
  #outcomes = new Uint8Array(HISTORY);
  #next = 0;
  #resent = 0;
  #pauseMs = FIRST_PAUSE_MS;
  #resumeAtMs = 0;
  #stops = 0;

  /** How often references were stopped. */
  get stops(): number {
    return this.#stops;
  }

  /** Records the outcome of one batch that carried references. */
  record(resent: boolean, nowMs: number): void {
    this.#resent += (resent ? 1 : 0) - (this.#outcomes[this.#next] ?? 0);
    this.#outcomes[this.#next] = resent ? 1 : 0;
    this.#next = (this.#next + 1) % HISTORY;
    if (this.#resent <= MAX_RESENT || nowMs < this.#resumeAtMs) return;
    this.#stops += 1;
    this.#resumeAtMs = nowMs + this.#pauseMs;
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2);
    this.#outcomes.fill(0);
    this.#resent = 0;
  }

  allows(nowMs: number): boolean {
    return nowMs >= this.#resumeAtMs;
  }
}
