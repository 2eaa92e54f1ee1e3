import { describe, expect, it } from 'vitest';
import { type LabCase, type LabReport, outcomeTold, shortcomings, unfuzzed } from './lab-report.ts';

const sound: LabCase = {
  ...{
    name: 'parallel-8/warm/10.0',
    qemu: '10.0.13->10.0.13',
    expected: 'accelerated',
    outcome: 'accelerated',
  },
  ...{ reason: '', identicalStreams: true, guestSelfCheck: 'ok', linkBytes: 1, plainLinkBytes: 10, ok: true },
};

const report = (changes: Partial<LabReport> = {}): LabReport => ({
  cases: Array.from({ length: 40 }, () => sound),
  faults: {
    ...{ runs: 60, vmLost: 0, vmTwice: 0, wrongMemory: 0, stuck: 0, unexpected: 0 },
    ...{ framedInFlight: 36, seed: 1 },
  },
  fuzz: { inputs: 1, crashes: 0, hangs: 0 },
  ...changes,
});

describe('what is wrong with a lab report', () => {
  it('is nothing when all is as the issue asks', () => {
    expect(shortcomings(report(), [])).toEqual([]);
  });

  it('is what is missing', () => {
    const faults = { ...report().faults, runs: 59, framedInFlight: 35 };
    const fuzz = { inputs: 1, crashes: 0, hangs: 0 };
    expect(shortcomings(report({ cases: [sound], faults, fuzz }), ['hello', 'volume'])).toEqual([
      '1 cases, at least 40 wanted',
      '59 fault runs, at least 60 wanted',
      '35 of 59 faults hit framed batches, at least 60 % wanted',
      'not fuzzed: hello, volume; run make fuzz',
    ]);
  });

  it.each(['vmLost', 'vmTwice', 'wrongMemory', 'stuck', 'unexpected'] as const)('is one of %s', (name) => {
    expect(shortcomings(report({ faults: { ...report().faults, [name]: 1 } }), [])).toEqual([
      `faults: ${name} 1`,
    ]);
  });

  it('is a case that did not end as expected, and a fuzzer that found something', () => {
    const cases = [...report().cases.slice(1), { ...sound, outcome: 'plain', reason: 'NoGo', ok: false }];
    expect(shortcomings(report({ cases, fuzz: { inputs: 9, crashes: 1, hangs: 0 } }), [])).toEqual([
      'case parallel-8/warm/10.0: plain (NoGo), expected accelerated with the same bytes and a sound guest',
      'fuzzing: 1 crashes, 0 hangs',
    ]);
  });
});

describe("a case's outcome by what its sidecar told", () => {
  it.each([
    ['accelerated', 'accelerated'],
    ['raw', 'plain'],
    ['observed', 'plain'],
    ['failed', 'failed'],
    ['unused', 'unused'],
    [undefined, 'told nothing'],
  ])('%s is %s', (told, outcome) => {
    expect(outcomeTold(told)).toBe(outcome);
  });
});

describe('parsers that were not fuzzed', () => {
  it('are all without a record, and those without an input in it', () => {
    expect(unfuzzed(['hello', 'volume'], undefined)).toEqual(['hello', 'volume']);
    const parsers = [
      { name: 'hello', inputs: 5 },
      { name: 'volume', inputs: 0 },
    ];
    expect(unfuzzed(['hello', 'volume', 'frame'], { inputs: 5, parsers })).toEqual(['volume', 'frame']);
  });
});
