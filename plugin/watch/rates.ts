// How fast a migration's bytes go, from what its status said last and before that. Status carries totals; a rate needs two. Pure.
import type { Migration } from '../cluster/migration.ts';

export interface Rates {
  linkBytesPerSecond: number;
  nasBytesPerSecond: number;
}

interface Sample {
  atMs: number;
  linkBytes: number;
  nasBytes: number;
}

export class RateMeter {
  readonly #last = new Map<string, { sample: Sample; rates: Rates | undefined }>();

  /** Takes in what a status says; the rates between the last two reports that differ, undefined before there are two. */
  take({ uid, status }: Migration): Rates | undefined {
    const progress = status.progress;
    if (progress === undefined) return undefined;
    const sample = {
      atMs: Date.parse(progress.updateTime),
      linkBytes: progress.linkBytes,
      nasBytes: progress.nasBytes,
    };
    const before = this.#last.get(uid);
    if (before === undefined) {
      this.#last.set(uid, { sample, rates: undefined });
      return undefined;
    }
    const seconds = (sample.atMs - before.sample.atMs) / 1000;
    if (!(seconds > 0)) return before.rates;
    const rates = {
      linkBytesPerSecond: Math.max(0, sample.linkBytes - before.sample.linkBytes) / seconds,
      nasBytesPerSecond: Math.max(0, sample.nasBytes - before.sample.nasBytes) / seconds,
    };
    this.#last.set(uid, { sample, rates });
    return rates;
  }

  forget(uid: string): void {
    this.#last.delete(uid);
  }
}
