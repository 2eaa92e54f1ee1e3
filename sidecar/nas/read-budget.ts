// A byte-per-second budget for reads that nobody waits for (building and growing an index). It never lets more than one request run
// ahead: a request goes at once when the ones before it are paid for.
import { setTimeout as sleep } from 'node:timers/promises';

export class ReadBudget {
  readonly #bytesPerMs: number;
  readonly #now: () => number;
  #paidAt = 0;

  /** 0 bytes per second: no limit. `now` is a clock in milliseconds. */
  constructor(bytesPerSecond: number, now: () => number = performance.now.bind(performance)) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#now = now;
  }

  /**
   * Undefined when `bytes` may be read now, else a promise of the moment they may. It resolves early when `signal` aborts; the caller looks.
   */
  take(bytes: number, signal?: AbortSignal): Promise<void> | undefined {
    if (this.#bytesPerMs === 0) return undefined;
    const now = this.#now();
    const start = Math.max(now, this.#paidAt);
    this.#paidAt = start + bytes / this.#bytesPerMs;
    if (start <= now) return undefined;
    return sleep(start - now, undefined, signal && { signal }).catch(() => undefined);
  }
}
