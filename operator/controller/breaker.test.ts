import { describe, expect, it } from 'vitest';
import { type Attempt, breakerFor } from './breaker.ts';

const HOUR = 3_600_000;
const now = 100 * HOUR;
const vm = { namespace: 'shop', vmiName: 'db' };
const failed = (hoursAgo: number, vmiName = 'db'): Attempt => ({
  namespace: 'shop',
  vmiName,
  endMs: now - hoursAgo * HOUR,
  outcome: 'failed',
});
const good = (hoursAgo: number): Attempt => ({ ...failed(hoursAgo), outcome: 'accelerated' });

describe('breaker', () => {
  it('is closed without failures', () => {
    expect(breakerFor(vm, [], now)).toBeUndefined();
    expect(breakerFor(vm, [good(0.1), failed(0.1, 'other')], now)).toBeUndefined();
  });

  it('is open for an hour after a failure', () => {
    expect(breakerFor(vm, [failed(0.9)], now)?.reason).toBe('BreakerOpen');
    expect(breakerFor(vm, [failed(1.1)], now)).toBeUndefined();
  });

  it('stays open twice as long after each failure in a row, up to a day', () => {
    expect(breakerFor(vm, [failed(1.9), failed(5)], now)?.reason).toBe('BreakerOpen');
    expect(breakerFor(vm, [failed(2.1), failed(5)], now)).toBeUndefined();
    const many = Array.from({ length: 30 }, (_, index) => failed(25 + index));
    expect(breakerFor(vm, many, now)).toBeUndefined();
    expect(breakerFor(vm, [failed(23), ...many], now)?.reason).toBe('BreakerOpen');
  });

  it('is cleared by a success', () => {
    expect(breakerFor(vm, [failed(0.5), good(0.4)], now)).toBeUndefined();
    expect(breakerFor(vm, [failed(5), good(3), failed(1.5)], now)).toBeUndefined();
  });

  it('is open for everybody after three failures in the cluster in an hour', () => {
    const three = [failed(0.1, 'a'), failed(0.2, 'b'), failed(0.9, 'c')];
    expect(breakerFor(vm, three, now)?.reason).toBe('ClusterBreakerOpen');
    expect(breakerFor(vm, [failed(0.1, 'a'), failed(0.2, 'b'), failed(1.1, 'c')], now)).toBeUndefined();
  });
});
