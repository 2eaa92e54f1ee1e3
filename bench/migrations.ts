// `make bench`: plain, QEMU's multifd zstd and NAS-aware migrations of the lab's guests, in turns on one machine in one go.
// Writes build/bench.json (medians) and the table in docs/benchmarks.md. With names of groups only those are run.
//
//   node bench/migrations.ts [--runs N] [--list] [GROUP …]

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Measurement, measureMigration } from '../test/lab/measured-migration.ts';
import { BENCH_GROUPS, type BenchCase, type BenchRecord, benchTable, median } from './bench-plan.ts';

/** A run that has not converged by then is recorded as that. */
const TIMEOUT_MS = 120_000;
const DOWNTIME_LIMIT_MS = 300;
const DEFAULT_RUNS = 3;
const DOCUMENT = 'docs/benchmarks.md';
const TABLE_BEGIN = '<!-- table made by make bench -->';
const TABLE_END = '<!-- end of table -->';

async function runOnce(benchCase: BenchCase): Promise<Measurement | 'not converged'> {
  try {
    const measured = await measureMigration(
      {
        method: benchCase.method,
        profile: benchCase.guest,
        suite: 'trixie',
        channels: benchCase.channels,
        linkMbit: benchCase.linkMbit,
        nasMbit: benchCase.nasMbit,
        downtimeLimitMs: DOWNTIME_LIMIT_MS,
        timeoutMs: TIMEOUT_MS,
        index: 'sampled',
      },
      () => undefined,
      () => undefined,
    );
    if (measured.converged && (measured.identicalStreams !== true || measured.guestSelfCheck !== 'ok')) {
      throw new Error(
        `a migration was wrong: identical streams ${measured.identicalStreams}, self-check ${measured.guestSelfCheck}: ${measured.differences.join('; ')}`,
      );
    }
    return measured;
  } catch (error) {
    if ((error as { code?: string }).code === 'NASMIG_LAB_MIGRATION_TIMEOUT') return 'not converged';
    throw error;
  }
}

function record(benchCase: BenchCase, runs: readonly (Measurement | 'not converged')[]): BenchRecord {
  const measured = runs.filter((run) => run !== 'not converged');
  const over = (pick: (run: Measurement) => number | null): number | null => median(measured.map(pick));
  return {
    ...benchCase,
    runs: runs.length,
    linkBytes: over((run) => run.linkBytes),
    nasBytes: over((run) => run.storage.sourceRead + run.storage.targetRead),
    indexNasBytes: over((run) => run.indexNasBytes),
    totalMs: over((run) => run.outcome.wallMs),
    downtimeMs: over((run) => run.outcome.downtimeMs),
    guestGapMs: over((run) => run.guestGapMs),
    cpuSeconds: over((run) =>
      run.sidecarCpuSeconds === null ? null : run.sidecarCpuSeconds.source + run.sidecarCpuSeconds.target,
    ),
    streamBytes: over((run) => run.streamBytes),
    converged: measured.length === runs.length,
  };
}

function writeTable(records: readonly BenchRecord[]): void {
  const text = readFileSync(DOCUMENT, 'utf8');
  const begin = text.indexOf(TABLE_BEGIN);
  const end = text.indexOf(TABLE_END);
  if (begin < 0 || end < begin)
    throw new Error(`${DOCUMENT} has no place for the table: ${TABLE_BEGIN} … ${TABLE_END}`);
  writeFileSync(
    DOCUMENT,
    `${text.slice(0, begin + TABLE_BEGIN.length)}\n${benchTable(records)}\n${text.slice(end)}`,
  );
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: String(DEFAULT_RUNS) },
    list: { type: 'boolean', default: false },
  },
});
const runs = Number(values.runs);
const unknown = positionals.filter((name) => !(name in BENCH_GROUPS));
if (!Number.isInteger(runs) || runs < 1 || runs > 20 || unknown.length > 0) {
  console.error(
    `bench: ${unknown.length > 0 ? `unknown group ${unknown.join(', ')}` : '--runs takes 1 to 20'}`,
  );
  console.error(`groups: ${Object.keys(BENCH_GROUPS).join(', ')}`);
  process.exit(2);
}
if (values.list) {
  console.log(Object.keys(BENCH_GROUPS).join('\n'));
  process.exit(0);
}
const names = positionals.length > 0 ? positionals : Object.keys(BENCH_GROUPS);
const records: BenchRecord[] = [];
const total = names.reduce((sum, name) => sum + (BENCH_GROUPS[name]?.length ?? 0) * runs, 0);
let done = 0;
const startedAt = performance.now();
mkdirSync('build', { recursive: true });
for (const name of names) {
  const cases = BENCH_GROUPS[name] ?? [];
  const results = new Map<BenchCase, (Measurement | 'not converged')[]>(cases.map((one) => [one, []]));
  // In turns, so that what else the machine does falls on all methods alike.
  for (let run = 0; run < runs; run++) {
    for (const one of cases) {
      const result = await runOnce(one);
      results.get(one)?.push(result);
      done += 1;
      const left = ((performance.now() - startedAt) / done) * (total - done);
      const told = result === 'not converged' ? result : `${(result.outcome.wallMs / 1000).toFixed(2)} s`;
      console.log(
        `bench: ${name} ${one.method}: ${told}; ${done} of ${total}, about ${Math.ceil(left / 60_000)} min left`,
      );
    }
  }
  for (const [one, measured] of results) records.push(record(one, measured));
  writeFileSync('build/bench.json', `${JSON.stringify(records, null, 2)}\n`);
}
writeTable(records);
console.log(`\n${benchTable(records)}`);
