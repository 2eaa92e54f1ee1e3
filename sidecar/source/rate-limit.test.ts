import { describe, expect, it } from 'vitest';
import { RateLimit } from './rate-limit.ts';

describe('RateLimit', () => {
  it('holds the rate over frames of any size, and a pause gives no burst', () => {
    const limit = new RateLimit(1_000_000);
    let nowMs = 5000;
    let sent = 0;
    const sendUntil = (endMs: number): void => {
      while (nowMs < endMs) {
        const wait = limit.waitMs(nowMs);
        if (wait > 0) {
          nowMs += wait;
          continue;
        }
        const bytes = 1000 + ((sent * 7) % 300_000);
        limit.take(bytes, nowMs);
        sent += bytes;
      }
    };
    sendUntil(15_000);
    expect(sent).toBeGreaterThan(9_900_000);
    expect(sent).toBeLessThan(10_400_000);
    nowMs = 60_000;
    sent = 0;
    sendUntil(61_000);
    expect(sent).toBeLessThan(1_400_000);
  });

  it('without a limit never waits', () => {
    const limit = new RateLimit(0);
    limit.take(1e12, 0);
    expect(limit.waitMs(0)).toBe(0);
  });
});
