// Every parser that reads from outside, for a fixed number of inputs from a fixed seed: no crash, no hang, nothing that breaks
// what must hold. A failure names the input by its number and repeats.
import { describe, expect, it } from 'vitest';
import { CATALOGUE } from './catalogue.ts';
import { runFuzzSession } from './fuzz-session.ts';

/** A parser's errors cost more than its work: the numbers differ so that all parsers together take some ten seconds of CPU. */
const INPUTS: Readonly<Record<string, number>> = {
  'qemu-main': 1500,
  'qemu-multifd': 2000,
  'link-at-target': 2500,
  'link-at-source': 8000,
  hello: 10_000,
  'control-from-sidecar': 4000,
  'control-from-hub': 4000,
  'index-file': 1500,
  'sidecar-environment': 2500,
  'operator-environment': 2500,
  'standalone-configuration': 4000,
  'socket-names': 10_000,
  'admission-review': 4000,
  'kubevirt-object': 2000,
};
const SEED = 20_260_101;

/** Least share of the parser's branches, so that a fuzzer that has lost its corpus or its counters is noticed. */
const LEAST_BRANCHES = 0.25;

describe('no input makes a parser crash, hang, or say what cannot be', () => {
  it.each(Object.keys(CATALOGUE))('%s', async (target) => {
    const inputs = INPUTS[target] ?? 0;
    expect(inputs, `${target} has no number of inputs here`).toBeGreaterThan(0);
    const budget = { inputs, milliseconds: Number.POSITIVE_INFINITY, stopAtFirstFinding: true };
    const session = await runFuzzSession({ target, seed: SEED, budget, hangMs: 20_000 });
    expect(
      session.findings.map(({ kind, number, message }) => `${kind}, input ${number}: ${message}`),
    ).toEqual([]);
    expect(session).toMatchObject({ inputs, crashes: 0, hangs: 0 });
    expect(session.branchesHit / session.branches).toBeGreaterThan(LEAST_BRANCHES);
  });
});

describe('the fuzzer', () => {
  const run = (seed: number) =>
    runFuzzSession({
      target: 'hello',
      seed,
      budget: { inputs: 3000, milliseconds: Number.POSITIVE_INFINITY, stopAtFirstFinding: false },
      hangMs: 20_000,
    });

  it('does the same for the same seed, and something else for another', async () => {
    const [first, again, other] = await Promise.all([run(1), run(1), run(2)]);
    expect([again?.answers, again?.kept, again?.untaken]).toEqual([
      first?.answers,
      first?.kept,
      first?.untaken,
    ]);
    expect(other?.answers).not.toEqual(first?.answers);
  });
});
