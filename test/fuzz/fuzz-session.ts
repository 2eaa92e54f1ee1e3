// Runs the fuzzing of one parser in a thread of its own and watches it: a parser that does not return is a hang, one that
// takes all memory is told too, each with the input that did it.
import { Worker } from 'node:worker_threads';
import type { PlantedBug } from './catalogue.ts';
import type { FuzzWorkerData, FuzzWorkerMessage } from './fuzz-worker.ts';
import { type Finding, type FuzzBudget, type FuzzRun, type FuzzState, MAX_INPUT_BYTES } from './fuzzer.ts';
import type { BranchPoint } from './instrument.ts';

/** A thread of the fuzzer may have this much heap; Buffers are counted apart, for each input. */
const HEAP_MIB = 512;
const LOOK_MS = 250;

export interface FuzzSessionOptions {
  readonly target: string;
  readonly seed: number;
  readonly budget: FuzzBudget;
  /** An input that takes longer is a hang, and the end. */
  readonly hangMs: number;
  readonly plant?: PlantedBug;
  readonly progress?: (state: FuzzState) => void;
}

export interface FuzzSession extends FuzzRun {
  readonly untakenPoints: readonly BranchPoint[];
}

/** Rejects when the fuzzer itself fails; what it finds in the parser is in the result. */
export async function runFuzzSession(options: FuzzSessionOptions): Promise<FuzzSession> {
  const { target, seed, budget, hangMs, plant, progress } = options;
  const header = new SharedArrayBuffer(8);
  const input = new SharedArrayBuffer(MAX_INPUT_BYTES);
  const workerData: FuzzWorkerData = { target, seed, budget, plant, header, input };
  const worker = new Worker(new URL('./fuzz-worker.ts', import.meta.url), {
    workerData,
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
  });
  const startedMs = performance.now();
  let last: FuzzState | undefined;
  let look: NodeJS.Timeout | undefined;
  const underWay = (kind: Finding['kind'], message: string): FuzzSession => {
    const [number = 0, length = 0] = new Int32Array(header);
    const copy = Uint8Array.prototype.slice.call(new Uint8Array(input), 0, length);
    return {
      inputs: number,
      milliseconds: performance.now() - startedMs,
      branchesHit: last?.branchesHit ?? 0,
      branches: last?.branches ?? 0,
      kept: last?.kept ?? 0,
      crashes: (last?.crashes ?? 0) + (kind === 'memory' ? 1 : 0),
      hangs: (last?.hangs ?? 0) + (kind === 'hang' ? 1 : 0),
      answers: {},
      findings: [{ kind, message, number, input: copy }],
      untaken: [],
      untakenPoints: [],
    };
  };
  try {
    return await new Promise<FuzzSession>((resolve, reject) => {
      let seenNumber = 0;
      let seenMs = performance.now();
      look = setInterval(() => {
        const number = Atomics.load(new Int32Array(header), 0);
        if (number !== seenNumber) {
          seenNumber = number;
          seenMs = performance.now();
        } else if (number > 0 && performance.now() - seenMs > hangMs)
          resolve(underWay('hang', `input ${number} did not end within ${hangMs} ms`));
      }, LOOK_MS);
      worker.on('message', (message: FuzzWorkerMessage) => {
        if (message.type === 'progress') {
          last = message.state;
          progress?.(message.state);
        } else resolve({ ...message.run, untakenPoints: message.untaken });
      });
      worker.on('error', (error: Error & { code?: string }) => {
        if (error.code === 'ERR_WORKER_OUT_OF_MEMORY') resolve(underWay('memory', error.message));
        else reject(error);
      });
      worker.on('exit', (code) =>
        reject(new Error(`the fuzzing thread ended with ${code} and said nothing`)),
      );
    });
  } finally {
    clearInterval(look);
    await worker.terminate();
  }
}
