import { describe, expect, it } from 'vitest';
import { BufferPool } from './buffer-pool.ts';

describe('BufferPool', () => {
  it('gives at least what was asked for, and at most a quarter more', () => {
    const pool = new BufferPool(0);
    expect(pool.take(1).length).toBe(8192);
    for (const bytes of [8193, 10_000, 65_536, 65_537, 473_000, 1 << 20, (1 << 20) + 1, 2 << 20]) {
      const { length } = pool.take(bytes);
      expect(length).toBeGreaterThanOrEqual(bytes);
      expect(length).toBeLessThanOrEqual(1.26 * bytes);
    }
  });

  it('uses a buffer again that was given back, and keeps no more than it may', () => {
    const pool = new BufferPool(2 << 20);
    const first = pool.take(1 << 20);
    pool.give(first);
    expect(pool.take((1 << 20) - 100)).toBe(first);
    const others = [pool.take(1 << 20), pool.take(1 << 20), pool.take(1 << 20)];
    for (const one of others) pool.give(one);
    const again = [pool.take(1 << 20), pool.take(1 << 20), pool.take(1 << 20)];
    expect(again.filter((one) => others.includes(one))).toHaveLength(2);
  });
});
