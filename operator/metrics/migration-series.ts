// The migrations that have series of their own: those that run, and for one scrape interval those that ended, so that the last
// numbers are seen. Bounded in number; what does not fit has no series, its numbers are in the object's status. Pure but for
// what it remembers.
import type { Progress } from '../../control/messages.ts';

/** Longer than usual scrape intervals (15 s to a minute). */
export const LINGER_MS = 60_000;
/** Several times of what KubeVirt lets run at once in the largest clusters. */
export const MAX_SERIES = 1000;

export interface MigrationLabels {
  namespace: string;
  name: string;
  vmi: string;
}

export interface MigrationSample {
  labels: MigrationLabels;
  progress: Progress;
}

export class MigrationSeries {
  readonly #now: () => number;
  readonly #samples = new Map<string, MigrationSample & { untilMs: number }>();

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  running(labels: MigrationLabels, progress: Progress): void {
    const key = keyOf(labels);
    this.#expire();
    if (!this.#samples.has(key) && this.#samples.size >= MAX_SERIES) return;
    this.#samples.set(key, { labels, progress, untilMs: Number.POSITIVE_INFINITY });
  }

  /** It ended, or is gone. */
  ended(labels: Pick<MigrationLabels, 'namespace' | 'name'>): void {
    const sample = this.#samples.get(keyOf(labels));
    if (sample !== undefined && sample.untilMs === Number.POSITIVE_INFINITY)
      sample.untilMs = this.#now() + LINGER_MS;
  }

  /** This replica does not lead any longer: another tells of all of them. */
  clear(): void {
    this.#samples.clear();
  }

  samples(): MigrationSample[] {
    this.#expire();
    return [...this.#samples.values()];
  }

  #expire(): void {
    const nowMs = this.#now();
    for (const [key, { untilMs }] of this.#samples) if (untilMs <= nowMs) this.#samples.delete(key);
  }
}

function keyOf({ namespace, name }: Pick<MigrationLabels, 'namespace' | 'name'>): string {
  return `${namespace}/${name}`;
}
