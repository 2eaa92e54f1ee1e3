// `make bench`: plain, QEMU's multifd zstd and NAS-aware migrations of the lab's guests, in turns on one machine in one go.
//
//   node bench/migrations.ts [--runs N] [--minutes N] [--resume] [--write] [--list] [GROUP | CASE …]
//
// Writes build/bench-runs.jsonl (every run, as it ends), build/bench.json (medians, see bench-record.ts) and, for the whole plan or
// with --write, the tables in docs/benchmarks.md and the plot docs/benchmarks.svg. --resume goes on with an interrupted bench.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { measureHops } from '../test/lab/measured-migration.ts';
import { countNonZeroBlocks } from '../test/lab/memory-statistics.ts';
import { ensureWarmState } from '../test/lab/warm-state.ts';
import { floorResults } from './bench-floors.ts';
import { BENCH_GROUPS, type BenchCase, caseBefore, scenarioOf, selectCases } from './bench-plan.ts';
import { benchPlot } from './bench-plot.ts';
import { type BenchRecord, recordsOf } from './bench-record.ts';
import { appendRun, type BenchRun, readRuns, runOf } from './bench-runs.ts';
import { benchTable, floorTable } from './bench-table.ts';

const RUNS_FILE = 'build/bench-runs.jsonl';
const RECORDS_FILE = 'build/bench.json';
const DOCUMENT = 'docs/benchmarks.md';
const PLOT = 'docs/benchmarks.svg';
const TABLE_BEGIN = '<!-- table made by make bench -->';
const TABLE_END = '<!-- end of table -->';
const MS_PER_MINUTE = 60_000;

const Options = z.object({
  runs: z.coerce.number().int().min(1).max(20).default(3),
  /** No run is begun that is not expected to end within this time. */
  minutes: z.coerce.number().min(1).max(1440).default(75),
  resume: z.boolean().default(false),
  write: z.boolean().default(false),
  list: z.boolean().default(false),
});

function readOptions() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        runs: { type: 'string' },
        minutes: { type: 'string' },
        resume: { type: 'boolean' },
        write: { type: 'boolean' },
        list: { type: 'boolean' },
      },
    });
    return { ...Options.parse(values), cases: selectCases(positionals), isWhole: positionals.length === 0 };
  } catch (error) {
    console.error(
      `bench: ${error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message}`,
    );
    process.exit(2);
  }
}

/** One run of a case in a lab of its own. Throws when it could not be measured, or when what arrived was wrong. */
async function runOnce(one: BenchCase, runs: readonly BenchRun[]): Promise<BenchRun> {
  const { scenario, hops } = scenarioOf(one);
  // As the operator decides: where plain was seen to be faster, the VM's next migration has no sidecar in its way.
  const before = caseBefore(one);
  const isLeftPlain = runs.findLast((run) => run.case === before)?.isPlainFaster === true;
  const measured = await measureHops(isLeftPlain ? { ...scenario, method: 'plain' } : scenario, hops);
  const last = measured.at(-1);
  if (last === undefined || (last.converged && measured.length < hops))
    throw new Error('fewer migrations than asked for');
  for (const { outcome, identicalStreams, guestSelfCheck, differences } of measured) {
    if (outcome.status === 'failed') throw new Error(`the migration failed: ${outcome.error}`);
    if (outcome.status === 'completed' && (identicalStreams !== true || guestSelfCheck !== 'ok'))
      throw new Error(
        `a migration was wrong: identical streams ${identicalStreams}, self-check ${guestSelfCheck}; ${differences.join('; ')}`,
      );
  }
  return runOf(one.id, last, new Date(), loadavg()[0] ?? 0);
}

interface BenchEnd {
  readonly failures: readonly string[];
  readonly runsLeft: number;
}

/** Runs what is missing, round by round, so that what else the machine does falls on all methods alike. */
async function runAll(
  cases: readonly BenchCase[],
  runs: BenchRun[],
  options: { runs: number; minutes: number },
): Promise<BenchEnd> {
  const startedAt = performance.now();
  const deadline = startedAt + options.minutes * MS_PER_MINUTE;
  const failures: string[] = [];
  const countOf = (one: BenchCase): number => runs.filter((run) => run.case === one.id).length;
  const missing = (): number => cases.reduce((sum, one) => sum + Math.max(0, options.runs - countOf(one)), 0);
  const tookMs = new Map<BenchCase, number>();
  for (let round = 1; round <= options.runs; round++) {
    for (const one of cases) {
      if (countOf(one) >= round) continue;
      const began = performance.now();
      if (began + (tookMs.get(one) ?? 0) > deadline) continue;
      try {
        const run = await runOnce(one, runs);
        runs.push(run);
        appendRun(RUNS_FILE, run);
        const told = run.converged ? `${(run.totalMs / 1000).toFixed(2)} s` : 'did not converge';
        const minutes = ((performance.now() - startedAt) / MS_PER_MINUTE).toFixed(1);
        console.log(
          `bench: ${one.id}: ${told}, ${(run.linkBytes / 2 ** 20).toFixed(1)} MiB on the link; ${missing()} runs left, ${minutes} min gone`,
        );
      } catch (error) {
        failures.push(`${one.id}: ${(error as Error).message}`);
        console.error(`bench: ${failures.at(-1)}`);
      }
      tookMs.set(one, performance.now() - began);
    }
  }
  return { failures, runsLeft: missing() };
}

function writeDocument(records: readonly BenchRecord[], runs: readonly BenchRun[], floors: string): void {
  const text = readFileSync(DOCUMENT, 'utf8');
  const begin = text.indexOf(TABLE_BEGIN);
  const end = text.indexOf(TABLE_END);
  if (begin < 0 || end < begin)
    throw new Error(`${DOCUMENT} has no place for the table: ${TABLE_BEGIN} … ${TABLE_END}`);
  const times = runs.map((run) => run.at).sort();
  const loads = runs.map((run) => run.loadAverage).sort((left, right) => left - right);
  const facts =
    `${runs.length} runs from ${times[0]} to ${times.at(-1)} on ${cpus().length} CPUs (${cpus()[0]?.model ?? 'unknown'}), ` +
    `load average after a run ${loads[0]} to ${loads.at(-1)}.`;
  const made = [facts, '![link bytes and total time](benchmarks.svg)', benchTable(records), floors].join(
    '\n\n',
  );
  writeFileSync(DOCUMENT, `${text.slice(0, begin + TABLE_BEGIN.length)}\n${made}\n${text.slice(end)}`);
  writeFileSync(PLOT, benchPlot(records));
}

const options = readOptions();
if (options.list) {
  for (const [group, cases] of Object.entries(BENCH_GROUPS))
    console.log(`${group}\n${cases.map(({ id }) => `  ${id}`).join('\n')}`);
  process.exit(0);
}
mkdirSync('build', { recursive: true });
if (!options.resume) rmSync(RUNS_FILE, { force: true });
const runs = readRuns(RUNS_FILE);
if (options.resume) console.log(`bench: going on after ${runs.length} runs`);
// Made before the time runs: roots, guests, and their saved states.
for (const guest of new Set(options.cases.map((one) => one.guest)))
  await ensureWarmState(guest, 'trixie', (message) => console.log(`bench: ${message}`));
const { failures, runsLeft } = await runAll(options.cases, runs, options);
const records = recordsOf(Object.values(BENCH_GROUPS).flat(), runs);
writeFileSync(RECORDS_FILE, `${JSON.stringify(records, null, 2)}\n`);
const { diskTemplatePath } = await ensureWarmState('warm', 'trixie');
const nonZeroBlocks = await countNonZeroBlocks(diskTemplatePath);
const floors = floorTable(floorResults(records, { nonZeroBlocks }));
if (options.isWhole || options.write) writeDocument(records, runs, floors);
console.log(`\n${benchTable(records)}\n\n${floors}`);
if (runsLeft > 0)
  console.error(
    `bench: ${runsLeft} runs are missing: time was up after ${options.minutes} minutes, or they failed; RESUME=1 makes them`,
  );
for (const failure of failures) console.error(`bench: ${failure}`);
if (failures.length > 0) process.exitCode = 1;
