// Stops references for a while when too many of them were wrong: a stale index must not cost every page twice. What counts is pages, for
// a wrong page costs a digest and a literal, not its batch (docs/adr/0008): more than 1 in 20 of the references in the last 64
// batches stops references for a second, doubling each time.
// Pure: time comes in as an argument, in milliseconds.

const HISTORY = 64;
const MAX_WRONG_SHARE = 1 / 20;
/** Fewer wrong pages than this are no evidence of anything. */
const MIN_WRONG_PAGES = 64;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 64_000;

export class ReferenceThrottle {
  readonly #references = new Uint32Array(HISTORY);
  readonly #wrong = new Uint32Array(HISTORY);
  #next = 0;
  #referenceSum = 0;
  #wrongSum = 0;
  #pauseMs = FIRST_PAUSE_MS;
  #resumeAtMs = 0;
  #stops = 0;

  /** How often references were stopped. */
  get stops(): number {
    return this.#stops;
  }

  /** Records one batch that was delivered: how many pages were references, and how many pages were wrong. */
  record(references: number, wrong: number, nowMs: number): void {
    this.#referenceSum += references - (this.#references[this.#next] as number);
    this.#wrongSum += wrong - (this.#wrong[this.#next] as number);
    this.#references[this.#next] = references;
    this.#wrong[this.#next] = wrong;
    this.#next = (this.#next + 1) % HISTORY;
    const few = this.#wrongSum < MIN_WRONG_PAGES || this.#wrongSum <= this.#referenceSum * MAX_WRONG_SHARE;
    if (few || nowMs < this.#resumeAtMs) return;
    this.#stops += 1;
    this.#resumeAtMs = nowMs + this.#pauseMs;
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2);
    this.#references.fill(0);
    this.#wrong.fill(0);
    this.#referenceSum = 0;
    this.#wrongSum = 0;
  }

  allows(nowMs: number): boolean {
    return nowMs >= this.#resumeAtMs;
  }
}
