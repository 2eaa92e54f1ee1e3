// A work queue of object keys: a key waits at most once, is worked on by one worker at a time, and comes back later with
// exponential back-off after a failure. What happens to an object while it is worked on makes it run once more.
export interface WorkQueueOptions {
  /** Works on one key. A number is "again in so many ms"; throwing is "again with back-off". */
  work: (key: string) => Promise<number | undefined>;
  workers: number;
  minBackoffMs: number;
  maxBackoffMs: number;
  onFailure: (key: string, error: unknown, failures: number) => void;
  /** Seconds a key waited, and seconds it was worked on. */
  onDone?: (waitSeconds: number, workSeconds: number, failed: boolean) => void;
}

export class WorkQueue {
  readonly #options: WorkQueueOptions;
  /** Keys that are due, with the time they became so. Insertion order is the order of work. */
  readonly #due = new Map<string, number>();
  readonly #active = new Set<string>();
  /** Keys that became due while they were worked on. */
  readonly #again = new Set<string>();
  readonly #timers = new Map<string, { timer: NodeJS.Timeout; atMs: number }>();
  readonly #failures = new Map<string, number>();
  #stopped = false;
  #idle: (() => void) | undefined;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
  }

  get depth(): number {
    return this.#due.size;
  }

  add(key: string): void {
    if (this.#stopped) return;
    this.#cancelTimer(key);
    if (this.#active.has(key)) {
      this.#again.add(key);
      return;
    }
    if (!this.#due.has(key)) this.#due.set(key, performance.now());
    this.#pump();
  }

  /** Adds the key after a while; an earlier time that is already planned stays. */
  addAfter(key: string, ms: number): void {
    if (this.#stopped || this.#due.has(key)) return;
    const atMs = performance.now() + ms;
    const planned = this.#timers.get(key);
    if (planned !== undefined && planned.atMs <= atMs) return;
    this.#cancelTimer(key);
    const timer = setTimeout(() => {
      this.#timers.delete(key);
      this.add(key);
    }, ms);
    timer.unref();
    this.#timers.set(key, { timer, atMs });
  }

  /** Takes no more work and returns when what is under way is done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#due.clear();
    for (const key of [...this.#timers.keys()]) this.#cancelTimer(key);
    if (this.#active.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }

  #pump(): void {
    while (this.#active.size < this.#options.workers) {
      const next = this.#due.entries().next();
      if (next.done) return;
      const [key, dueSince] = next.value;
      this.#due.delete(key);
      this.#active.add(key);
      void this.#workOn(key, dueSince);
    }
  }

  async #workOn(key: string, dueSince: number): Promise<void> {
    const startedAt = performance.now();
    let failed = false;
    let againInMs: number | undefined;
    try {
      againInMs = await this.#options.work(key);
      this.#failures.delete(key);
    } catch (error) {
      failed = true;
      const failures = (this.#failures.get(key) ?? 0) + 1;
      this.#failures.set(key, failures);
      const ceiling = Math.min(
        this.#options.maxBackoffMs,
        this.#options.minBackoffMs * 2 ** Math.min(failures - 1, 20),
      );
      againInMs = ceiling / 2 + Math.random() * (ceiling / 2);
      this.#options.onFailure(key, error, failures);
    }
    const endedAt = performance.now();
    this.#options.onDone?.((startedAt - dueSince) / 1000, (endedAt - startedAt) / 1000, failed);
    this.#active.delete(key);
    // After a failure the back-off counts, whatever changed meanwhile: else a failing object would spin with its own events.
    if (this.#again.delete(key) && !failed) this.add(key);
    else if (againInMs !== undefined) this.addAfter(key, againInMs);
    if (this.#stopped && this.#active.size === 0) this.#idle?.();
    this.#pump();
  }

  #cancelTimer(key: string): void {
    const planned = this.#timers.get(key);
    if (planned === undefined) return;
    clearTimeout(planned.timer);
    this.#timers.delete(key);
  }
}
