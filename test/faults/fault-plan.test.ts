// The plan of faults and the table that they are checked against.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { expectedOutcome, FAULTS, PHASES } from './expected-outcomes.ts';
import { firstFaults, LAB_RUNS, LAB_SEED as SEED } from './fault-plan.ts';

describe('fault plan', () => {
  it('is the same for the same seed, and another for another', () => {
    expect(firstFaults(SEED, 60)).toEqual(firstFaults(SEED, 60));
    expect(firstFaults(SEED + 1, 60)).not.toEqual(firstFaults(SEED, 60));
  });

  it.each([1, 7, SEED])(
    'reaches every phase five times and the batches three times out of five, seed %i',
    (seed) => {
      const plan = firstFaults(seed, 60);
      for (const phase of PHASES) {
        expect(plan.filter((planned) => planned.phase === phase).length).toBeGreaterThanOrEqual(5);
      }
      const withBatches = plan.filter(({ phase }) => phase !== 'arming' && phase !== 'end');
      expect(withBatches.length).toBeGreaterThanOrEqual(36);
    },
  );

  it('comes to every fault in every phase', () => {
    const cells = new Set(firstFaults(SEED, 18 * 12).map(({ fault, phase }) => `${fault} ${phase}`));
    expect(cells.size).toBe(FAULTS.length * PHASES.length);
  });

  it.each(PHASES)('of the lab leaves out in %s what the documentation says', (phase) => {
    const page = readFileSync(new URL('../../docs/failure-modes.md', import.meta.url), 'utf8');
    const table = page.split('| phase | only in a soak |')[1] ?? '';
    const [, leftOut] = new RegExp(`^\\| ${phase} \\| (.*) \\|$`, 'm').exec(table) ?? [];
    const planned = firstFaults(SEED, LAB_RUNS).filter((one) => one.phase === phase);
    const missing = FAULTS.filter((fault) => !planned.some((one) => one.fault === fault));
    expect(leftOut).toBe(missing.length === 0 ? 'none' : missing.map((fault) => `\`${fault}\``).join(', '));
  });
});

describe('expected outcomes', () => {
  it('has an outcome and a reason for every cell, and never a lost VM', () => {
    for (const fault of FAULTS) {
      for (const phase of PHASES) {
        const { outcomes, because } = expectedOutcome(fault, phase);
        expect(outcomes.length).toBeGreaterThan(0);
        expect(because).not.toBe('');
      }
    }
  });

  it('lets no fault of the NAS fail a migration', () => {
    for (const fault of FAULTS.filter((name) => name.startsWith('nas-'))) {
      for (const phase of PHASES) expect(expectedOutcome(fault, phase).outcomes).not.toContain('failed-safe');
    }
  });
});
