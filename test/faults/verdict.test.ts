import { describe, expect, it } from 'vitest';
import { judge, outcomeOf, type QemuState, type RunFacts } from './verdict.ts';

const seen = (...states: [number, QemuState, QemuState][]) =>
  states.map(([atMs, source, target]) => ({ atMs, source, target }));

const facts = (changes: Partial<RunFacts>): RunFacts => ({
  injectedAtMs: 1000,
  sightings: seen([900, 'running', 'incoming'], [1500, 'running', 'absent']),
  repeatedCounters: 0,
  selfCheck: 'ok',
  migrationEnded: true,
  ...changes,
});

describe('verdict on a fault run', () => {
  it('sees no outage of a VM that stayed', () => {
    expect(judge(facts({}))).toEqual({
      runsOn: 'source',
      targetRemains: false,
      lost: false,
      twice: false,
      wrongMemory: false,
      stuck: false,
      outageMs: 0,
    });
  });

  it('counts the time of an outage from the fault until the VM runs again', () => {
    const sightings = seen(
      [900, 'running', 'incoming'],
      [1100, 'stopped', 'incoming'],
      [4200, 'stopped', 'running'],
    );
    expect(judge(facts({ sightings }))).toMatchObject({ runsOn: 'target', outageMs: 3100, stuck: false });
  });

  it('sees a VM that runs on both sides, though only once', () => {
    const sightings = seen([1100, 'running', 'running'], [1200, 'running', 'absent']);
    expect(judge(facts({ sightings }))).toMatchObject({ twice: true, lost: false, runsOn: undefined });
  });

  it('takes a counter that came twice for a VM that ran twice', () => {
    expect(judge(facts({ repeatedCounters: 1 }))).toMatchObject({ twice: true });
  });

  it.each([
    ['stopped', 'absent'],
    ['absent', 'stopped'],
    ['stopped', 'incoming'],
  ] as const)('sees a VM that is lost: %s and %s', (source, target) => {
    expect(judge(facts({ sightings: seen([1100, source, target]) }))).toMatchObject({
      lost: true,
      runsOn: undefined,
    });
  });

  it('sees wrong memory, a migration without end, and one that keeps the VM too long', () => {
    expect(judge(facts({ selfCheck: 'failed' }))).toMatchObject({ wrongMemory: true });
    expect(judge(facts({ migrationEnded: false }))).toMatchObject({ stuck: true });
    const sightings = seen([1100, 'stopped', 'incoming'], [31_200, 'running', 'absent']);
    expect(judge(facts({ sightings }))).toMatchObject({ stuck: true, outageMs: 30_100 });
  });
});

describe('outcome of a fault run', () => {
  const outcome = (succeeded: boolean, told: string | undefined, source: QemuState, target: QemuState) =>
    outcomeOf(succeeded, told, judge(facts({ sightings: seen([1100, source, target]) })));

  it('is failed-safe when the VM runs on its source and its target has none', () => {
    expect(outcome(false, 'failed', 'running', 'absent')).toBe('failed-safe');
  });

  it.each(['incoming', 'stopped'] as const)('is unsafe when the target of a failure is %s', (target) => {
    expect(outcome(false, 'failed', 'running', target)).toBe('unsafe');
  });

  it.each([
    ['absent', 'running'],
    ['stopped', 'running'],
    ['stopped', 'absent'],
    ['running', 'running'],
  ] as const)('is unsafe when a failure leaves %s and %s', (source, target) => {
    expect(outcome(false, 'failed', source, target)).toBe('unsafe');
  });

  it('goes by the last look: a target that ends late is safe', () => {
    const sightings = seen([1100, 'running', 'incoming'], [1900, 'running', 'absent']);
    expect(outcomeOf(false, 'failed', judge(facts({ sightings })))).toBe('failed-safe');
  });

  it('is what the source told of a success, and unsafe when the VM has stayed', () => {
    expect(outcome(true, 'accelerated', 'absent', 'running')).toBe('accelerated');
    expect(outcome(true, 'raw', 'absent', 'running')).toBe('plain');
    expect(outcome(true, 'unused', 'stopped', 'running')).toBe('plain');
    expect(outcome(true, undefined, 'absent', 'running')).toBe('completed');
    expect(outcome(true, 'accelerated', 'running', 'absent')).toBe('unsafe');
  });
});
