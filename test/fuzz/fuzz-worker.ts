// The thread that a parser is fuzzed in: loads the parser's modules with branch counters in them (and, for the fuzzer's own
// test, with a bug planted), counts what is allocated, and runs the loop. Memory is limited by the thread's limits; the input
// under way is in shared memory, so that the session knows it when the parser never returns.
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { pathToFileURL } from 'node:url';
import { parentPort, workerData } from 'node:worker_threads';
import { CATALOGUE, type PlantedBug, ROOT } from './catalogue.ts';
import { readCorpus } from './corpus.ts';
import { type FuzzBudget, Fuzzer, type FuzzRun, type FuzzState } from './fuzzer.ts';
import { type BranchPoint, COUNTERS, instrument } from './instrument.ts';
import type { FuzzTarget } from './target.ts';

export interface FuzzWorkerData {
  readonly target: string;
  readonly seed: number;
  readonly budget: FuzzBudget;
  readonly plant: PlantedBug | undefined;
  /** Int32: number of the input under way, its length. */
  readonly header: SharedArrayBuffer;
  readonly input: SharedArrayBuffer;
}

export type FuzzWorkerMessage =
  | { readonly type: 'progress'; readonly state: FuzzState }
  | { readonly type: 'done'; readonly run: FuzzRun; readonly untaken: readonly BranchPoint[] };

/** More branches than all modules of a parser have. */
const MAX_BRANCHES = 32_768;

const data = workerData as FuzzWorkerData;
const entry = CATALOGUE[data.target];
if (entry === undefined || parentPort === null) throw new Error(`no parser is named ${data.target}`);

const counters = new Uint32Array(MAX_BRANCHES);
Object.defineProperty(globalThis, COUNTERS, { value: counters });

let allocatedBytes = 0;
for (const name of ['alloc', 'allocUnsafe', 'allocUnsafeSlow'] as const) {
  const original = Buffer[name] as (bytes: number, ...rest: unknown[]) => Buffer;
  const counting = (bytes: number, ...rest: unknown[]): Buffer => {
    allocatedBytes += bytes;
    return original(bytes, ...rest);
  };
  Object.defineProperty(Buffer, name, { value: counting });
}

const points: BranchPoint[] = [];
const dictionary: Uint8Array[] = [];
const sources = new Map<string, string>();
for (const file of entry.files) {
  const path = new URL(file, ROOT);
  let source = readFileSync(path, 'utf8');
  if (data.plant?.file === file) source = planted(source, data.plant);
  const { code, points: more, constants } = instrument(source, file, points.length);
  points.push(...more);
  dictionary.push(...constants);
  sources.set(path.href, code);
}
if (data.plant !== undefined && !entry.files.includes(data.plant.file))
  throw new Error(`a bug is planted in ${data.plant.file}, which is not of ${data.target}`);
if (points.length > MAX_BRANCHES) throw new Error(`${points.length} branches, the limit is ${MAX_BRANCHES}`);

registerHooks({
  load: (url, context, next) => {
    const source = sources.get(url);
    return source === undefined
      ? next(url, context)
      : { format: 'module-typescript', source, shortCircuit: true };
  },
});

function planted(source: string, plant: PlantedBug): string {
  if (source.split(plant.instead).length !== 2)
    throw new Error(`the planted bug's place is in ${plant.file} not exactly once: ${plant.instead}`);
  return source.replace(plant.instead, () => plant.of);
}

const module = (await import(pathToFileURL(`${import.meta.dirname}/targets/${entry.module}.ts`).href)) as {
  readonly [name: string]: FuzzTarget;
};
const target = module[entry.target];
if (target === undefined) throw new Error(`targets/${entry.module}.ts has no ${entry.target}`);

const header = new Int32Array(data.header);
const shared = new Uint8Array(data.input);
const fuzzer = new Fuzzer({
  target,
  corpus: readCorpus(entry.corpus),
  seed: data.seed,
  counters,
  branches: points.length,
  dictionary: [...dictionary, ...(target.dictionary ?? [])],
  about: (input, number) => {
    shared.set(input.length > shared.length ? input.subarray(0, shared.length) : input);
    header[1] = input.length;
    Atomics.store(header, 0, number);
  },
  allocated: () => allocatedBytes,
  progress: (state) => parentPort?.postMessage({ type: 'progress', state } satisfies FuzzWorkerMessage),
});
const run = await fuzzer.run(data.budget);
parentPort.postMessage({
  type: 'done',
  run,
  untaken: run.untaken.map((branch) => points[branch] as BranchPoint),
} satisfies FuzzWorkerMessage);
