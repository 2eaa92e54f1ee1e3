import { describe, expect, it } from 'vitest';
import { AddressLimits } from './address-limits.ts';
import { ADDRESS_BOUNDS } from './hub.ts';

const bounds = { unfinished: 2, authenticating: 1, failuresPerSecond: 1, failureBurst: 2, failureDebt: 3 };

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
    limits.forget(4999);
    expect(limits.size).toBe(2);
    limits.forget(5000);
    expect(limits.size).toBe(1);
  });

  it('are kept while an address is in debt, however long ago its connections were opened', () => {
    const limits = new AddressLimits(bounds);
    limits.opened('a', 1, 0);
    limits.closed('a', 1, 4000);
    limits.forget(8999);
    expect(limits.size).toBe(1);
    limits.forget(9000);
    expect(limits.size).toBe(0);
  });

  it('keep the slot of one that is excused until it is closed, which costs nothing', () => {
    const limits = new AddressLimits({ ...bounds, failureBurst: 1, failureDebt: 0 });
    for (const port of [1, 2]) {
      limits.opened('a', port, 0);
      limits.excuse('a', port);
    }
    expect(limits.opened('a', 3, 0)).toBe(false);
    limits.closed('a', 1, 0);
    limits.closed('a', 2, 0);
    expect(limits.opened('a', 3, 0)).toBe(true);
    limits.excuse('a', 4);
    limits.closed('a', 4, 0);
    limits.excuse('a', 3);
    limits.failed('a', 0);
    limits.closed('a', 3, 0);
    expect(limits.opened('a', 4, 999)).toBe(false);
    expect(limits.opened('a', 4, 1000)).toBe(true);
  });
});

describe('a thousand connections of an address at once', () => {
  const ports = Array.from({ length: 1000 }, (_, port) => port);

  it('that come to nothing cost it 20 s, not a moment', () => {
    const limits = new AddressLimits(ADDRESS_BOUNDS);
    for (const port of ports) expect(limits.opened('a', port, 0)).toBe(true);
    for (const port of ports) limits.closed('a', port, 0);
    expect(limits.opened('a', 0, 20_000)).toBe(false);
    expect(limits.opened('a', 0, 20_200)).toBe(true);
  });

  it('that find the hub full or the API server away, and get through later, cost it nothing', () => {
    const limits = new AddressLimits(ADDRESS_BOUNDS);
    for (const outcome of ['excuse', 'excuse', 'through'] as const) {
      for (const port of ports) {
        expect(limits.opened('a', port, 0)).toBe(true);
        limits[outcome]('a', port);
      }
      for (const port of ports) limits.closed('a', port, 0);
    }
    expect(ports.every((port) => limits.opened('a', port, 0))).toBe(true);
  });
});
