// `node test/faults/soak.ts [--minutes 60] [--seed N] [--from N]`: repeats seeded faults for a given time, with a line for each,
// and ends with the counts (build/soak.json). Fails when a run found something. The same seed gives the same faults.

import { mkdirSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { FaultCampaign } from './fault-campaign.ts';
import { faultPlan } from './fault-plan.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    /** Number of the first fault of the plan: for going on, or for repeating one. */
    from: { type: 'string', default: '0' },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
const from = Number(values.from);
if (!(minutes > 0) || !Number.isInteger(seed) || !Number.isInteger(from)) {
  console.error('usage: soak.ts [--minutes 60] [--seed N] [--from N]');
  process.exit(2);
}

console.log(`faults for ${minutes} minutes, seed ${seed}`);
const startedMs = Date.now();
const campaign = new FaultCampaign({
  seed,
  say: (line) => console.log(`${((Date.now() - startedMs) / 60_000).toFixed(1)} min  ${line}`),
  keepLogsIn: 'build/soak-logs',
});
mkdirSync('build', { recursive: true });
for (const planned of faultPlan(seed)) {
  if (Date.now() - startedMs > minutes * 60_000) break;
  if (planned.number < from) continue;
  await campaign.run(planned);
  record();
}
await campaign.close();
record();
const { summary, broken, phases } = campaign;
console.log(JSON.stringify(summary));
console.log(`by phase: ${JSON.stringify(phases)}; could not be made: ${broken.length}`);
const bad =
  summary.vmLost + summary.vmTwice + summary.wrongMemory + summary.stuck + summary.unexpected + broken.length;
process.exit(bad > 0 ? 1 : 0);

/** After every run, so that an interrupted soak has left what it saw. */
function record(): void {
  const { summary, broken, phases, runs } = campaign;
  const minutesTaken = (Date.now() - startedMs) / 60_000;
  writeFileSync(
    'build/soak.json',
    `${JSON.stringify({ ...summary, minutes: minutesTaken, phases, broken, each: runs }, null, 2)}\n`,
  );
}
