// What a node sent over the migration network, by time: the interface's counter read every few milliseconds, so that it can be
// said how much crossed the link after a moment that is known only later, such as QEMU's STOP event.

import { MIGRATION_INTERFACE } from './network.ts';
import type { LabNode } from './node.ts';

const SAMPLE_MS = 10;
/** An hour; later samples replace the last one. */
const MAX_SAMPLES = 360_000;

export interface LinkSample {
  /** Wall clock, ms since 1970. */
  readonly atMs: number;
  readonly sentBytes: number;
}

export class LinkTimeline {
  readonly #node: LabNode;
  readonly #samples: LinkSample[] = [];
  #timer: NodeJS.Timeout | undefined;
  #isReading = false;

  private constructor(node: LabNode) {
    this.#node = node;
  }

  static start(node: LabNode): LinkTimeline {
    const timeline = new LinkTimeline(node);
    // A sample that could not be read is one less.
    timeline.#timer = setInterval(() => void timeline.#sample().catch(() => undefined), SAMPLE_MS);
    return timeline;
  }

  async end(): Promise<void> {
    clearInterval(this.#timer);
    this.#isReading = false;
    await this.#sample();
  }

  /** Bytes sent from `sinceMs` to the end; see {@link bytesSince}. */
  bytesSince(sinceMs: number): number {
    return bytesSince(this.#samples, sinceMs);
  }

  async #sample(): Promise<void> {
    if (this.#isReading) return;
    this.#isReading = true;
    try {
      const counters = await this.#node.interfaceCounters();
      const sentBytes = counters.get(MIGRATION_INTERFACE)?.txBytes;
      if (sentBytes === undefined) return;
      if (this.#samples.length >= MAX_SAMPLES) this.#samples.pop();
      this.#samples.push({ atMs: Date.now(), sentBytes });
    } finally {
      this.#isReading = false;
    }
  }
}

/** Bytes between the last sample that is not after `sinceMs` and the last of all: never too few. */
export function bytesSince(samples: readonly LinkSample[], sinceMs: number): number {
  const first = samples.findLast(({ atMs }) => atMs <= sinceMs) ?? samples[0];
  return (samples.at(-1)?.sentBytes ?? 0) - (first?.sentBytes ?? 0);
}
