// Two faults of those that `make test-lab` injects by the dozen: one that must fail the migration, at its most delicate moment, and
// one that must not.

import { afterAll, expect, it } from 'vitest';
import { FaultCampaign } from './fault-campaign.ts';
import type { PlannedFault } from './fault-plan.ts';

const FAULTS: readonly PlannedFault[] = [
  { number: 0, fault: 'nas-stale', phase: 'bulk', channels: 8, position: 0.4 },
  // Between SHUT, which the destination QEMU has said, and its relay.
  { number: 1, fault: 'target-sidecar-killed', phase: 'end', channels: 8, position: 0.4 },
];

const campaign = new FaultCampaign({ seed: 0, say: (line) => console.log(line) });

afterAll(() => campaign.close(), 60_000);

it.each(FAULTS)(
  '$fault in $phase',
  async (planned) => {
    const run = await campaign.run(planned);
    expect(campaign.broken).toEqual([]);
    expect(run?.problems).toEqual([]);
  },
  180_000,
);
