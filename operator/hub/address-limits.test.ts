import { describe, expect, it } from 'vitest';
import { AddressLimits } from './address-limits.ts';

const bounds = { unfinished: 2, authenticating: 1, failuresPerSecond: 1, failureBurst: 2 };

describe('limits of an address', () => {
  it('count connections until they are through or closed, and each address for itself', () => {
    const limits = new AddressLimits(bounds);
    expect([1, 2, 3].map((port) => limits.opened('a', port, 0))).toEqual([true, true, false]);
    expect(limits.opened('b', 1, 0)).toBe(true);
    limits.through('a', 1);
    expect(limits.opened('a', 3, 0)).toBe(true);
    limits.closed('a', 1, 0);
    expect(limits.opened('a', 4, 0)).toBe(false);
  });

  it('count what came to nothing, and forgive it with time', () => {
    const limits = new AddressLimits(bounds);
    for (const port of [1, 2]) {
      limits.opened('a', port, 0);
      limits.closed('a', port, 0);
    }
    expect(limits.opened('a', 3, 900)).toBe(false);
    expect(limits.opened('a', 3, 1000)).toBe(true);
    limits.through('a', 3);
    limits.closed('a', 3, 1000);
    expect(limits.opened('a', 4, 1000)).toBe(true);
  });

  it('bound how many tokens are looked at for one address', () => {
    const limits = new AddressLimits(bounds);
    limits.opened('a', 1, 0);
    limits.opened('b', 1, 0);
    expect([limits.authenticates('a'), limits.authenticates('a'), limits.authenticates('b')]).toEqual([
      true,
      false,
      true,
    ]);
    limits.authenticated('a');
    expect(limits.authenticates('a')).toBe(true);
  });

  it('are forgotten when an address is as new again', () => {
    const limits = new AddressLimits(bounds);
    limits.opened('a', 1, 0);
    limits.opened('b', 1, 0);
    limits.closed('b', 1, 0);
    limits.forget(1999);
    expect(limits.size).toBe(2);
    limits.forget(2000);
    expect(limits.size).toBe(1);
  });
});
