import { describe, expect, it } from 'vitest';
import { ReferenceThrottle } from './reference-throttle.ts';

describe('ReferenceThrottle', () => {
  it('lets 1 batch in 20 be wrong', () => {
    const throttle = new ReferenceThrottle();
    for (let i = 0; i < 640; i++) throttle.record(i % 32 === 0, i);
    expect(throttle.allows(640)).toBe(true);
    expect(throttle.stops).toBe(0);
  });

  it('stops references for a second beyond that, and doubles', () => {
    const throttle = new ReferenceThrottle();
    for (let i = 0; i < 4; i++) throttle.record(true, 0);
    expect(throttle.allows(999)).toBe(false);
    expect(throttle.allows(1000)).toBe(true);
    for (let i = 0; i < 4; i++) throttle.record(true, 1000);
    expect(throttle.allows(2999)).toBe(false);
    expect(throttle.allows(3000)).toBe(true);
    expect(throttle.stops).toBe(2);
  });

  it('forgets outcomes that left the last 64 batches', () => {
    const throttle = new ReferenceThrottle();
    for (let i = 0; i < 3; i++) throttle.record(true, 0);
    for (let i = 0; i < 64; i++) throttle.record(false, 0);
    for (let i = 0; i < 3; i++) throttle.record(true, 0);
    expect(throttle.allows(0)).toBe(true);
  });
});
