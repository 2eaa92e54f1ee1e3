import { describe, expect, it } from 'vitest';
import { ReferenceThrottle } from './reference-throttle.ts';

describe('ReferenceThrottle', () => {
  it('lets 1 reference in 20 be wrong, in however many batches', () => {
    const throttle = new ReferenceThrottle();
    for (let i = 0; i < 640; i++) throttle.record(200, 10, i);
    expect(throttle.allows(640)).toBe(true);
    expect(throttle.stops).toBe(0);
  });

  it('stops references for a second beyond that, and doubles', () => {
    const throttle = new ReferenceThrottle();
    throttle.record(200, 200, 0);
    expect(throttle.allows(999)).toBe(false);
    expect(throttle.allows(1000)).toBe(true);
    for (let i = 0; i < 7; i++) throttle.record(200, 11, 1000);
    expect(throttle.allows(2999)).toBe(false);
    expect(throttle.allows(3000)).toBe(true);
    expect(throttle.stops).toBe(2);
  });

  it('draws nothing from a few wrong pages', () => {
    const throttle = new ReferenceThrottle();
    for (let i = 0; i < 6; i++) throttle.record(20, 10, 0);
    expect(throttle.allows(0)).toBe(true);
  });

  it('forgets what left the last 64 batches', () => {
    const throttle = new ReferenceThrottle();
    for (let i = 0; i < 200; i++) throttle.record(1, 0, 0);
    for (let i = 0; i < 20; i++) throttle.record(200, 9, 0);
    for (let i = 0; i < 64; i++) throttle.record(200, 0, 0);
    for (let i = 0; i < 20; i++) throttle.record(200, 25, 0);
    expect(throttle.stops).toBe(0);
    throttle.record(200, 200, 0);
    expect(throttle.stops).toBe(1);
  });
});
