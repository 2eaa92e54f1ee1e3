// `node test/report/write-lab-report.ts [--clear]`: puts build/lab.json together from what the lab's tests recorded, says in a
// few lines what it shows, and fails when it does not show what is asked for. `--clear` forgets what earlier runs recorded.

import { mkdirSync, writeFileSync } from 'node:fs';
import { CATALOGUE } from '../fuzz/catalogue.ts';
import {
  clearLabReport,
  LAB_REPORT,
  readFuzzRecord,
  readLabReport,
  shortcomings,
  unfuzzed,
} from './lab-report.ts';

if (process.argv[2] === '--clear') clearLabReport();
else {
  const report = readLabReport();
  mkdirSync('build', { recursive: true });
  writeFileSync(LAB_REPORT, `${JSON.stringify(report, null, 2)}\n`);
  const { cases, faults, fuzz } = report;
  console.log(`${cases.length} cases, ${cases.filter(({ ok }) => ok).length} as expected`);
  console.log(
    `${faults.runs} fault runs (seed ${faults.seed}), ${faults.framedInFlight} with framed batches in flight: ` +
      `${faults.vmLost} VMs lost, ${faults.vmTwice} twice, ${faults.wrongMemory} with wrong memory, ` +
      `${faults.stuck} stuck, ${faults.unexpected} unexpected`,
  );
  console.log(`${fuzz.inputs} fuzzing inputs, ${fuzz.crashes} crashes, ${fuzz.hangs} hangs`);
  const missing = shortcomings(report, unfuzzed(Object.keys(CATALOGUE), readFuzzRecord()));
  for (const one of missing) console.error(`${LAB_REPORT}: ${one}`);
  if (missing.length > 0) process.exitCode = 1;
}
