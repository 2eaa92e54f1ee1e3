// Runs the named test suites one after the other, shows each one's output, and ends with one line
// "N passed, N failed, N skipped" over all of them. A suite that could not run counts as failed.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { z } from 'zod';

interface Suite {
  readonly describe: string;
  /** The command; vitest suites get a JSON reporter whose counts are summed. */
  readonly command: readonly string[];
  readonly vitest: boolean;
}

const vitest = (describe: string, ...args: string[]): Suite => ({
  describe,
  command: ['vitest', 'run', ...args],
  vitest: true,
});

const SUITES: Readonly<Record<string, Suite>> = {
  types: { describe: 'TypeScript types', command: ['tsc', '--noEmit'], vitest: false },
  lint: {
    describe: 'format and lint',
    command: ['biome', 'check', '--error-on-warnings', '.'],
    vitest: false,
  },
  unit: vitest('unit tests'),
  property: vitest('property tests', '--config', 'test/property.vitest.config.ts'),
  'fuzz-smoke': vitest('fuzzing, bounded', '--config', 'test/fuzz/vitest.config.ts'),
  lab: vitest('lab', '--config', 'test/lab/vitest.config.ts'),
  // Its cases are also written to build/e2e.json.
  e2e: vitest(
    'end to end on a real API server',
    ...['--config', 'test/e2e.vitest.config.ts', '--reporter=./test/case-report.ts'],
  ),
  'e2e-smoke': vitest('end to end, smoke subset', '--config', 'test/e2e-smoke.vitest.config.ts'),
  scale: {
    describe: 'the operator at scale',
    command: ['node', 'test/scale/scale.ts'],
    vitest: false,
  },
  ship: vitest('what is shipped: chart, image, documents', '--config', 'test/ship/vitest.config.ts'),
  'lab-smoke': vitest('lab, smoke subset', '--config', 'test/lab/smoke.vitest.config.ts'),
};

/** The part of vitest's JSON report that is summed here. */
const Report = z.object({
  numPassedTests: z.number(),
  numFailedTests: z.number(),
  numPendingTests: z.number(),
  numTodoTests: z.number(),
  success: z.boolean(),
});

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

function runSuite(name: string, suite: Suite): Counts {
  const reportFile = `build/test/${name}.json`;
  rmSync(reportFile, { force: true });
  const extra = suite.vitest
    ? ['--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`]
    : [];
  const [program = '', ...args] = [...suite.command, ...extra];
  const startedAt = performance.now();
  console.log(`\n== ${suite.describe}: ${[program, ...args].join(' ')}`);
  const run = spawnSync(program, args, { stdio: 'inherit' });
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  if (run.error)
    console.error(`${name}: could not start ${program}: ${run.error.message}; run hack/setup.sh node`);
  const exitedWell = run.status === 0;
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  if (suite.vitest && existsSync(reportFile)) {
    const report = Report.parse(JSON.parse(readFileSync(reportFile, 'utf8')));
    counts.passed = report.numPassedTests;
    counts.failed = report.numFailedTests;
    counts.skipped = report.numPendingTests + report.numTodoTests;
    // A file that fails to load has no failed test of its own.
    if (!exitedWell && counts.failed === 0) counts.failed = 1;
    if (exitedWell && counts.passed === 0) counts.failed = 1;
  } else if (exitedWell) counts.passed = 1;
  else counts.failed = 1;
  console.log(
    `== ${name}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped in ${seconds} s`,
  );
  return counts;
}

const names = process.argv.slice(2);
const unknown = names.filter((name) => !(name in SUITES));
if (names.length === 0 || unknown.length > 0) {
  console.error(
    `run-tests: ${unknown.length > 0 ? `unknown suite ${unknown.join(', ')}` : 'no suite named'}; known: ${Object.keys(SUITES).join(', ')}`,
  );
  process.exit(2);
}
mkdirSync('build/test', { recursive: true });
const total: Counts = { passed: 0, failed: 0, skipped: 0 };
for (const name of names) {
  const suite = SUITES[name];
  if (suite === undefined) continue;
  const counts = runSuite(name, suite);
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
}
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed > 0 || total.skipped > 0 || total.passed === 0 ? 1 : 0);
