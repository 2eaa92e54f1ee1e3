// Whether the fuzzer finds anything: into every parser a bug is planted that somebody could have made, and it must be found
// within a bounded number of inputs. A parser without a planted bug is not tested at all.
import { describe, expect, it } from 'vitest';
import { CATALOGUE } from './catalogue.ts';
import { runFuzzSession } from './fuzz-session.ts';

const MOST_INPUTS = 30_000;
const SEED = 20_260_102;
/** A planted bug that hangs is told after this long. */
const HANG_MS = 4000;

const planted = Object.entries(CATALOGUE).flatMap(([target, { bugs }]) =>
  bugs.map((bug) => [target, bug.what, bug] as const),
);

describe('a planted bug is found', () => {
  it.each(planted)('%s: %s', async (target, _what, plant) => {
    const budget = { inputs: MOST_INPUTS, milliseconds: 100_000, stopAtFirstFinding: true };
    const session = await runFuzzSession({ target, seed: SEED, budget, hangMs: HANG_MS, plant });
    expect(session.findings.length, `not found by ${session.inputs} inputs`).toBeGreaterThan(0);
  });

  it('every parser has one', () => {
    for (const [target, { bugs }] of Object.entries(CATALOGUE))
      expect(bugs.length, target).toBeGreaterThan(0);
  });
});
