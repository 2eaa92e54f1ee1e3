// Every parser that reads from outside, for a fixed number of inputs from a fixed seed: no crash, no hang, nothing that breaks
// what must hold. A failure names the input by its number and repeats.
import { describe, expect, it } from 'vitest';
import { CATALOGUE } from './catalogue.ts';
import { readCorpus, readNamedCorpus } from './corpus.ts';
import { runFuzzSession } from './fuzz-session.ts';
import { controlFromHub, controlFromSidecar } from './targets/control-messages.ts';
import { helloBody } from './targets/hello.ts';

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

describe('recordings', () => {
  it.each([
    ['control-from-sidecar', controlFromSidecar],
    ['control-from-hub', controlFromHub],
  ] as const)('%s: each is a message that is understood', async (folder, target) => {
    for (const [name, bytes] of readNamedCorpus(folder))
      expect(`${await target.run(bytes)}-${name.split('-')[1]}`).toBe(name);
  });

  it('of a link begin with a HELLO that is understood, and proved with a key that nobody has', async () => {
    const recordings = readCorpus(CATALOGUE['hello']?.corpus);
    const hellos = (await helloBody.seeds(recordings)).slice(0, recordings.length);
    expect(await Promise.all(hellos.map((hello) => helloBody.run(hello)))).toEqual(
      hellos.map(() => 'NASMIG_LINK_PROOF'),
    );
  });
});
