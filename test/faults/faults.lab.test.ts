// Sixty seeded faults in migrations through libvirt, each against the table of expected outcomes (expected-outcomes.ts), judged by
// what both QEMUs' monitors and the guest say. NASMIG_FAULT_SEED and NASMIG_FAULT_RUNS change the plan; `make soak` goes on for longer.

import { afterAll, describe, expect, it } from 'vitest';
import { LEAST_FRAMED_SHARE, recordFaults } from '../report/lab-report.ts';
import { PHASES } from './expected-outcomes.ts';
import { FaultCampaign } from './fault-campaign.ts';
import { firstFaults, LAB_RUNS, LAB_SEED } from './fault-plan.ts';

const SEED = Number(process.env['NASMIG_FAULT_SEED'] ?? LAB_SEED);
const RUNS = Number(process.env['NASMIG_FAULT_RUNS'] ?? LAB_RUNS);
/** The guest boots in the first; a migration that hangs is given up by libvirt after half a minute, and one more waits for it. */
const RUN_TIMEOUT_MS = 300_000;
const LEAST_IN_A_PHASE = 5;

const campaign = new FaultCampaign({
  seed: SEED,
  say: (line) => console.log(line),
  keepLogsIn: process.env['NASMIG_LAB_LOGS'] ?? 'build/lab/fault-logs',
});

afterAll(async () => {
  await campaign.close();
  recordFaults(campaign.summary, campaign.runs);
}, 120_000);

describe(`faults, seed ${SEED}`, () => {
  it.each(firstFaults(SEED, RUNS))(
    '$number: $fault in $phase, $channels channels',
    async (planned) => {
      const run = await campaign.run(planned);
      expect(campaign.broken).toEqual([]);
      expect(run?.problems).toEqual([]);
    },
    RUN_TIMEOUT_MS,
  );

  it('hit framed batches in flight in most runs, and every phase', () => {
    const { runs, framedInFlight } = campaign.summary;
    expect(runs).toBe(RUNS);
    expect(framedInFlight).toBeGreaterThanOrEqual(Math.ceil(RUNS * LEAST_FRAMED_SHARE));
    const least = Math.min(LEAST_IN_A_PHASE, Math.floor(RUNS / 12));
    for (const phase of PHASES) expect(campaign.phases[phase] ?? 0, phase).toBeGreaterThanOrEqual(least);
  });

  it('leaves a VM that can be accelerated', async () => {
    await campaign.close();
    expect(campaign.broken).toEqual([]);
  }, 180_000);
});
