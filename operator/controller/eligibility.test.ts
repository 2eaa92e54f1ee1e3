import { describe, expect, it } from 'vitest';
import { exampleHello } from '../../control/example-messages.ts';
import { gainProblem, linkProblem } from './eligibility.ts';

const own = { min: 2, max: 4 };

describe('link versions', () => {
  it('are fine when there is one in common, or when they are not known yet', () => {
    expect(linkProblem({ min: 1, max: 2 }, undefined, own)).toBeUndefined();
    expect(linkProblem({ min: 1, max: 2 }, { min: 2, max: 4 }, own)).toBeUndefined();
    expect(linkProblem(undefined, { min: 9, max: 9 }, own)).toBeUndefined();
  });

  it('of a source that this release does not speak any longer are too old', () => {
    const problem = linkProblem({ min: 1, max: 1 }, undefined, own);
    expect(problem?.reason).toBe('ProtocolTooOld');
    expect(problem?.message).toContain("the source's sidecar speaks 1, this release 2 to 4");
  });

  it('are compared with the target, once there is one', () => {
    // Both of an earlier release: what this one speaks does not matter to them.
    expect(linkProblem({ min: 1, max: 1 }, { min: 1, max: 1 }, own)).toBeUndefined();
    const problem = linkProblem({ min: 3, max: 4 }, { min: 1, max: 2 }, own);
    expect(problem?.message).toContain("the source's sidecar speaks 3 to 4, the target's 1 to 2");
  });
});

describe('gain', () => {
  const index = (blocks: number, ready = true) => ({ ...exampleHello.index, blocks, ready });

  it('is not judged without numbers', () => {
    expect(gainProblem(undefined, 1e9)).toBeUndefined();
    expect(gainProblem(index(0, false), undefined)).toBeUndefined();
    expect(gainProblem(index(1), undefined)).toBeUndefined();
    expect(gainProblem(index(1), 0)).toBeUndefined();
  });

  it('is too small with an index that is ready and empty', () => {
    expect(gainProblem(index(0), undefined)).toMatchObject({
      reason: 'GainTooSmall',
      message: expect.stringContaining('the index is empty'),
    });
  });

  it('is too small when all the index can grow to is below a fifth of what QEMU wrote the last time', () => {
    const blocks = 1000;
    const most = blocks * 10 * 4096;
    expect(gainProblem(index(blocks), most * 5)).toBeUndefined();
    expect(gainProblem(index(blocks), most * 5 + most)).toMatchObject({
      reason: 'GainTooSmall',
      message: expect.stringContaining('at most 16 %'),
    });
    // One that does not grow covers what it has.
    const inherited = { ...index(blocks), blockStandsFor: 1 };
    expect(gainProblem(inherited, blocks * 4096 * 5)).toBeUndefined();
    expect(gainProblem(inherited, most)).toMatchObject({ message: expect.stringContaining('at most 10 %') });
  });
});
