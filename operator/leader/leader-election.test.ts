import { describe, expect, it } from 'vitest';
import { nextEpoch } from './leader-election.ts';

describe('epoch', () => {
  it('is higher than the one before, whatever the clock says', () => {
    expect(nextEpoch('1780000000', 1_779_999_000_000)).toBe(1_780_000_001);
  });

  it('is not lower than before when the Lease was deleted', () => {
    expect(nextEpoch(undefined, 1_780_000_000_000)).toBe(1_780_000_000);
  });

  it('does not trust what is not a number', () => {
    expect(nextEpoch('Infinity', 1000)).toBe(1);
    expect(nextEpoch('-5', 1000)).toBe(1);
  });
});
