// The fuzzing loop: takes an input that went a new way before, changes it, feeds it to the parser, and keeps it when it went a
// new way again. Bounded in memory; the same seed and the same number of inputs give the same inputs.
import { mutateBytes } from './mutator.ts';
import { type FuzzTarget, InvariantError, type Random, seededRandom } from './target.ts';

/** Inputs kept to begin from; what comes after is tried, and not kept. */
const MAX_KEPT_INPUTS = 4000;
const MAX_KEPT_BYTES = 96 * 1024 * 1024;
export const MAX_INPUT_BYTES = 256 * 1024;
/** One input may take this long; what takes for ever is found by the session, from outside. */
const SLOW_MS = 1000;
const DEFAULT_MAX_ALLOCATED_BYTES = 32 * 1024 * 1024;
const MAX_FINDINGS = 10;
/** The heap is looked at this often. */
const HEAP_LOOK_INPUTS = 2000;
/** Over what the heap was after the seeds and the inputs kept; garbage included, hence ample. */
const MAX_HEAP_GROWTH_BYTES = 192 * 1024 * 1024;

export type FindingKind = 'crash' | 'invariant' | 'slow' | 'allocation' | 'hang' | 'memory';

export interface Finding {
  readonly kind: FindingKind;
  readonly message: string;
  /** Which input it was, from 1. */
  readonly number: number;
  readonly input: Uint8Array;
}

export interface FuzzBudget {
  /** Ends after this many inputs … */
  readonly inputs: number;
  /** … or after this long, whichever comes first; Infinity for none. */
  readonly milliseconds: number;
  readonly stopAtFirstFinding: boolean;
}

export interface FuzzState {
  readonly inputs: number;
  readonly milliseconds: number;
  readonly branchesHit: number;
  readonly branches: number;
  readonly kept: number;
  readonly crashes: number;
  readonly hangs: number;
}

export interface FuzzRun extends FuzzState {
  /** How often the parser took an input, or refused it with which code. */
  readonly answers: Readonly<Record<string, number>>;
  readonly findings: readonly Finding[];
  /** Numbers of the branches that no input took. */
  readonly untaken: readonly number[];
}

interface Kept {
  readonly bytes: Uint8Array;
  readonly hot: readonly (readonly [number, number])[];
}

export interface FuzzerOptions {
  readonly target: FuzzTarget;
  readonly corpus: readonly Uint8Array[];
  readonly seed: number;
  readonly counters: Uint32Array;
  readonly branches: number;
  readonly dictionary: readonly Uint8Array[];
  /** Called before each input is fed. */
  readonly about: (input: Uint8Array, number: number) => void;
  /** Bytes of Buffers that were allocated so far. */
  readonly allocated: () => number;
  /** Called about once a second. */
  readonly progress: (state: FuzzState) => void;
}

/** How often a branch was taken, in classes: going round a loop once more is a new way only up to a point. */
const CLASSES = new Uint8Array(256).map((_, count) => {
  if (count <= 3) return [0, 1, 2, 4][count] as number;
  return count < 8 ? 8 : count < 16 ? 16 : count < 32 ? 32 : count < 128 ? 64 : 128;
});

export class Fuzzer {
  readonly #options: FuzzerOptions;
  readonly #random: Random;
  readonly #seen: Uint8Array;
  readonly #kept: Kept[] = [];
  #keptBytes = 0;
  readonly #answers: Record<string, number> = {};
  readonly #findings: Finding[] = [];
  readonly #foundMessages = new Set<string>();
  #crashes = 0;
  #slow = 0;
  #inputs = 0;
  #startedMs = performance.now();

  constructor(options: FuzzerOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    this.#seen = new Uint8Array(options.branches);
  }

  async run(budget: FuzzBudget): Promise<FuzzRun> {
    const { target, corpus, progress } = this.#options;
    this.#startedMs = performance.now();
    const isOver = (): boolean =>
      this.#inputs >= budget.inputs ||
      performance.now() - this.#startedMs >= budget.milliseconds ||
      (budget.stopAtFirstFinding && this.#findings.length > 0);
    for (const seed of await target.seeds(corpus)) {
      if (isOver()) break;
      // A seed is kept whatever way it goes: it was chosen.
      if (!(await this.#try(seed))) this.#keep(seed);
    }
    if (this.#kept.length === 0) this.#keep(new Uint8Array(1));
    let lastProgressMs = performance.now();
    const heapBefore = process.memoryUsage();
    while (!isOver()) {
      await this.#try(this.#next());
      if (this.#inputs % 256 !== 0) continue;
      if (performance.now() - lastProgressMs > 1000) {
        lastProgressMs = performance.now();
        progress(this.#state());
      }
      if (this.#inputs % HEAP_LOOK_INPUTS === 0) {
        const { heapUsed, arrayBuffers } = process.memoryUsage();
        const grown =
          heapUsed + arrayBuffers - heapBefore.heapUsed - heapBefore.arrayBuffers - this.#keptBytes;
        if (grown > MAX_HEAP_GROWTH_BYTES)
          this.#found('memory', `${grown} bytes more are in use than after the seeds`, new Uint8Array(0));
      }
    }
    const untaken: number[] = [];
    this.#seen.forEach((classes, branch) => {
      if (classes === 0) untaken.push(branch);
    });
    return { ...this.#state(), answers: this.#answers, findings: this.#findings, untaken };
  }

  #state(): FuzzState {
    let branchesHit = 0;
    for (const classes of this.#seen) if (classes !== 0) branchesHit += 1;
    return {
      inputs: this.#inputs,
      milliseconds: performance.now() - this.#startedMs,
      branchesHit,
      branches: this.#options.branches,
      kept: this.#kept.length,
      crashes: this.#crashes,
      hangs: this.#slow,
    };
  }

  #pick(): Kept {
    const random = this.#random;
    // Half of the time one of the youngest fifth: what was new last is where something new is near.
    const from = random() < 0.5 ? Math.floor(this.#kept.length * 0.8) : 0;
    return this.#kept[from + Math.floor(random() * (this.#kept.length - from))] as Kept;
  }

  #next(): Uint8Array {
    const { target, dictionary } = this.#options;
    const random = this.#random;
    const chosen = this.#pick();
    const other = this.#pick().bytes;
    const maxBytes = Math.min(MAX_INPUT_BYTES, target.maxInputBytes ?? MAX_INPUT_BYTES);
    let bytes =
      target.mutate !== undefined && random() < 0.75 ? target.mutate(chosen.bytes, random, other) : undefined;
    if (bytes === undefined || random() < 0.08) {
      const hot = bytes === undefined ? chosen.hot : [];
      bytes = mutateBytes(bytes ?? chosen.bytes, hot, other, { random, dictionary, maxBytes });
    }
    if (target.repair !== undefined && random() < 0.7) bytes = target.repair(bytes, random);
    return bytes.length > maxBytes ? bytes.subarray(0, maxBytes) : bytes;
  }

  /** Feeds one input; true when it was kept. */
  async #try(input: Uint8Array): Promise<boolean> {
    const { target, counters, about, allocated } = this.#options;
    this.#inputs += 1;
    about(input, this.#inputs);
    counters.fill(0, 0, this.#options.branches);
    const allocatedBefore = allocated();
    const startedMs = performance.now();
    let answer: string;
    try {
      const answered = target.run(input);
      answer = typeof answered === 'string' ? answered : await answered;
    } catch (error) {
      this.#crashes += 1;
      const message = error instanceof Error ? `${error.message}\n${error.stack ?? ''}` : String(error);
      this.#found(error instanceof InvariantError ? 'invariant' : 'crash', message, input);
      return false;
    }
    const bytes = allocated() - allocatedBefore;
    if (performance.now() - startedMs > SLOW_MS && (await this.#isSlow(input))) {
      this.#slow += 1;
      this.#found('slow', `one input takes more than ${SLOW_MS} ms each time`, input);
    }
    const limit = target.maxAllocatedBytes ?? DEFAULT_MAX_ALLOCATED_BYTES;
    if (bytes > limit) {
      this.#crashes += 1;
      this.#found('allocation', `${bytes} bytes of Buffers for ${input.length} bytes of input`, input);
    }
    this.#answers[answer] = (this.#answers[answer] ?? 0) + 1;
    if (!this.#isNew()) return false;
    this.#keep(input);
    return true;
  }

  /** Whether it is the input that takes long, and not a machine that was busy with something else. */
  async #isSlow(input: Uint8Array): Promise<boolean> {
    for (let again = 0; again < 2; again++) {
      const startedMs = performance.now();
      await this.#options.target.run(input);
      if (performance.now() - startedMs <= SLOW_MS) return false;
    }
    return true;
  }

  #isNew(): boolean {
    const { counters, branches } = this.#options;
    const seen = this.#seen;
    let isNew = false;
    for (let i = 0; i < branches; i++) {
      const count = counters[i] as number;
      if (count === 0) continue;
      const classes = CLASSES[Math.min(count, 255)] as number;
      if (((seen[i] as number) & classes) !== 0) continue;
      seen[i] = (seen[i] as number) | classes;
      isNew = true;
    }
    return isNew;
  }

  #keep(input: Uint8Array): void {
    if (this.#kept.length >= MAX_KEPT_INPUTS || this.#keptBytes + input.length > MAX_KEPT_BYTES) return;
    const bytes = Uint8Array.prototype.slice.call(input);
    this.#keptBytes += bytes.length;
    this.#kept.push({ bytes, hot: this.#options.target.hot?.(bytes) ?? [] });
  }

  #found(kind: FindingKind, message: string, input: Uint8Array): void {
    // The same place found again is one finding: numbers in the message differ, the stack does not.
    const place = `${kind} ${message.replaceAll(/\d+/g, '').slice(0, 300)}`;
    if (this.#foundMessages.has(place) || this.#findings.length >= MAX_FINDINGS) return;
    this.#foundMessages.add(place);
    const copy = Uint8Array.prototype.slice.call(input);
    this.#findings.push({ kind, message: message.slice(0, 2000), number: this.#inputs, input: copy });
  }
}
