import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LATE_AFTER_MS, PING_INTERVAL_MS, SILENT_AFTER_MS } from './frame-types.ts';
import { KeepAlive } from './keep-alive.ts';

describe('KeepAlive', () => {
  const told: string[] = [];
  const start = (): KeepAlive => {
    const keepAlive = new KeepAlive({
      ping: () => told.push('ping'),
      late: (ms) => told.push(`late ${ms}`),
      silent: (ms) => {
        told.push(`silent ${ms}`);
        keepAlive.stop();
      },
    });
    keepAlive.start();
    return keepAlive;
  };

  beforeEach(() => {
    told.length = 0;
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('sends a PING at each interval while the peer is heard', () => {
    const keepAlive = start();
    for (let i = 0; i < 40; i++) {
      vi.advanceTimersByTime(PING_INTERVAL_MS);
      keepAlive.heard();
    }
    expect(told).toEqual(Array.from({ length: 40 }, () => 'ping'));
    keepAlive.stop();
  });

  it('tells once that the peer is late, then that it is silent', () => {
    start();
    vi.advanceTimersByTime(SILENT_AFTER_MS + 2 * PING_INTERVAL_MS);
    expect(told.filter((one) => one !== 'ping')).toEqual([
      `late ${LATE_AFTER_MS + PING_INTERVAL_MS}`,
      `silent ${SILENT_AFTER_MS + PING_INTERVAL_MS}`,
    ]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('is silent in time for a stopped VM to run again within 30 s of the break', () => {
    start();
    vi.advanceTimersByTime(25_000);
    expect(told.at(-1)).toMatch(/^silent /);
  });

  it('tells again when the peer is late again', () => {
    const keepAlive = start();
    vi.advanceTimersByTime(LATE_AFTER_MS + PING_INTERVAL_MS);
    keepAlive.heard();
    vi.advanceTimersByTime(LATE_AFTER_MS + PING_INTERVAL_MS);
    expect(told.filter((one) => one !== 'ping')).toHaveLength(2);
    keepAlive.stop();
  });
});
