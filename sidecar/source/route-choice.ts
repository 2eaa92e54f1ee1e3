// Whether pages go by references and compressed, or as they are: a link that carries more than references and compression bring
// forward is best left to carry, for a migration is never to be slower than a plain one. Neither rate can be known without trying,
// so the other way is tried for a moment where it may be the faster one, and what was delivered decides (docs/adr/0007).
// Pure: time comes in as an argument, in milliseconds.

export type Route = 'references' | 'literals';

export interface RouteEvidence {
  readonly nowMs: number;
  /** Stream bytes that the destination QEMU took so far. */
  readonly deliveredBytes: number;
  /** What the link carries in link bytes a second, while something always waited for it; 0 while it was never that busy. */
  readonly busyLinkBytesPerSecond: number;
  /** A batch waits for the index to grow: what is delivered meanwhile says nothing of references. */
  readonly indexAwaited: boolean;
  /** Nothing waits for the link now. */
  readonly linkIdle: boolean;
  /** False where a trial would be pointless or harmful: little is left, or QEMU may decide. */
  readonly mayTry: boolean;
}

/** Nothing is concluded from so long at first, and after a batch waited for the index. */
const SETTLE_MS = 1500;
/** Stretches of references and of literals take turns: what is compared is the rate of several. */
const RATE_MS = 2000;
/** While something waits for the link, sending more bytes over it cannot be faster. */
const IDLE_MS = 1000;
/** What was under way before a trial is delivered in its first half. */
const TRIAL_MS = 800;
const TRIAL_RATE_MS = 300;
/** A trial costs, and the answer changes slowly. */
const STAY_MS = 8000;
/** The other way must be that much faster. */
const FASTER = 1.25;
/** A link known to carry less than this, as a multiple of what is delivered, is not tried. */
const WORTH_TRYING = 1.25;

interface Sample {
  readonly atMs: number;
  readonly deliveredBytes: number;
}

export class RouteChoice {
  #samples: Sample[] = [];
  #route: Route = 'references';
  #trial: { readonly sinceMs: number; readonly rateBefore: number } | undefined;
  #decideAtMs: number | undefined;
  #linkBusyAtMs = Number.NEGATIVE_INFINITY;
  #bestOfReferences = 0;
  #isPlainFaster = false;

  get route(): Route {
    return this.#route;
  }

  /**
   * True when the last whole trial showed that a plain migration would have been faster: pages as they are came sooner, or nothing ever
   * waited for the link although they went over it, so that what limits is us, and not the link.
   */
  get isPlainFaster(): boolean {
    return this.#isPlainFaster;
  }

  /** Takes note, and returns the new route when it has changed for more than a trial. */
  observe(evidence: RouteEvidence): Route | undefined {
    const { nowMs, deliveredBytes } = evidence;
    if (deliveredBytes === 0) return undefined;
    this.#samples.push({ atMs: nowMs, deliveredBytes });
    while (this.#samples.length > 2 && (this.#samples[1] as Sample).atMs <= nowMs - RATE_MS) {
      this.#samples.shift();
    }
    this.#decideAtMs ??= nowMs + SETTLE_MS;
    if (!evidence.linkIdle) this.#linkBusyAtMs = nowMs;
    if (this.#trial !== undefined) return this.#endTrial(this.#trial, evidence);
    const link = evidence.busyLinkBytesPerSecond;
    if (this.#route === 'references' && evidence.indexAwaited) {
      this.#samples = [];
      this.#decideAtMs = Math.max(this.#decideAtMs, nowMs + SETTLE_MS);
    }
    const linkIsSlower = this.#route === 'literals' && link > 0 && link < this.#bestOfReferences;
    if (nowMs < this.#decideAtMs && !linkIsSlower) return undefined;
    if (this.#route === 'literals') {
      this.#route = 'references';
      this.#decideAtMs = nowMs + SETTLE_MS;
      return 'references';
    }
    const rate = this.#rate(RATE_MS, nowMs);
    this.#bestOfReferences = Math.max(this.#bestOfReferences, rate);
    if (!evidence.mayTry || nowMs < this.#linkBusyAtMs + IDLE_MS) return undefined;
    if (link > 0 && link < rate * WORTH_TRYING) return undefined;
    this.#trial = { sinceMs: nowMs, rateBefore: rate };
    this.#route = 'literals';
    return undefined;
  }

  #endTrial(trial: { sinceMs: number; rateBefore: number }, evidence: RouteEvidence): Route | undefined {
    const { nowMs, busyLinkBytesPerSecond: link } = evidence;
    // A link that turns out to be the slower way at once is not kept busy for the sake of the trial.
    const slower = link > 0 && link < trial.rateBefore;
    if (!slower && evidence.mayTry && nowMs < trial.sinceMs + TRIAL_MS) return undefined;
    this.#trial = undefined;
    this.#decideAtMs = nowMs + STAY_MS;
    const isWhole = nowMs >= trial.sinceMs + TRIAL_MS;
    const isFaster = !slower && this.#rate(TRIAL_RATE_MS, nowMs) > trial.rateBefore * FASTER;
    if (isWhole || slower) this.#isPlainFaster = isFaster || (!slower && this.#linkBusyAtMs < trial.sinceMs);
    if (isFaster) return 'literals';
    this.#route = 'references';
    return undefined;
  }

  /** Bytes per second over the last `spanMs`. */
  #rate(spanMs: number, nowMs: number): number {
    const last = this.#samples.at(-1) as Sample;
    let first = last;
    for (let i = this.#samples.length - 1; i >= 0; i--) {
      first = this.#samples[i] as Sample;
      if (first.atMs <= nowMs - spanMs) break;
    }
    const elapsedMs = last.atMs - first.atMs;
    return elapsedMs === 0 ? 0 : ((last.deliveredBytes - first.deliveredBytes) * 1000) / elapsedMs;
  }
}
