import { describe, expect, it } from 'vitest';
import { Pace } from './pace.ts';

const MIB = 1024 * 1024;

/** What QEMU does every 100 ms: stop the VM when what remains fits into the last window's rate times the limit. */
function bytesLeftWhenQemuStops(
  pace: Pace,
  ramBytes: number,
  limitMs: number,
  offeredBytesPerMs: number,
): number {
  let remaining = ramBytes;
  let windowBytes = 0;
  for (let ms = 0; ms < 120_000; ms++) {
    if (ms % 100 === 0 && ms > 0) {
      const threshold = (windowBytes / 100) * limitMs;
      if (remaining <= threshold) return remaining;
      windowBytes = 0;
    }
    let offered = offeredBytesPerMs;
    while (offered > 0 && remaining > 0 && pace.waitMs(ms) === 0) {
      const bytes = Math.min(65_536, offered, remaining);
      pace.take(bytes, ms);
      pace.firstSeen(bytes);
      windowBytes += bytes;
      remaining -= bytes;
      offered -= bytes;
    }
  }
  return remaining;
}

describe('Pace', () => {
  const start = (enabled: boolean, limitMs: number): Pace => {
    const pace = new Pace({ downtimeLimitMs: limitMs, connections: 1, enabled });
    pace.addRam(1024 * MIB);
    pace.learn(25 * MIB, 1, false, 100);
    return pace;
  };

  it.each([300, 900])(
    'leaves QEMU no more than the link carries in the limit of %i ms when it stops the VM',
    (limitMs) => {
      const left = bytesLeftWhenQemuStops(start(true, limitMs), 1024 * MIB, limitMs, 400 * 1024);
      expect(left).toBeLessThanOrEqual((25 * MIB * (limitMs + 100)) / 1000);
    },
  );

  it('leaves as little of a guest with memory that is not plugged, which never comes', () => {
    const pace = start(true, 300);
    pace.addRam(2048 * MIB);
    pace.neverComes(2048 * MIB);
    const left = bytesLeftWhenQemuStops(pace, 1024 * MIB, 300, 400 * 1024);
    expect(left).toBeLessThanOrEqual((25 * MIB * 400) / 1000);
  });

  it('is what makes the difference: switched off, QEMU stops the VM with many times that left', () => {
    const left = bytesLeftWhenQemuStops(start(false, 300), 1024 * MIB, 300, 400 * 1024);
    expect(left).toBeGreaterThan(4 * ((25 * MIB * 400) / 1000));
  });

  it('decays with what remains in the first pass', () => {
    const pace = start(true, 700);
    const atStart = pace.bytesPerSecond;
    expect(atStart).toBeCloseTo(1023 * MIB, -6);
    pace.firstSeen(512 * MIB);
    expect(pace.bytesPerSecond).toBeCloseTo(511 * MIB, -6);
    pace.firstSeen(512 * MIB);
    expect(pace.bytesPerSecond).toBe(25 * MIB);
  });

  it('accepts what the link carries times the compression of re-sent pages in later passes', () => {
    const pace = start(true, 300);
    pace.laterPass();
    pace.learn(25 * MIB, 3, false, 100);
    expect(pace.bytesPerSecond).toBe(75 * MIB);
  });

  it('tries more while the link is idle and falls back at the first sign of a queue', () => {
    const pace = start(true, 300);
    pace.laterPass();
    pace.learn(25 * MIB, 1, true, 100);
    pace.learn(25 * MIB, 1, true, 100);
    expect(pace.bytesPerSecond).toBeGreaterThan(30 * MIB);
    pace.learn(25 * MIB, 1, false, 100);
    expect(pace.bytesPerSecond).toBe(25 * MIB);
  });

  it('does not try more than it knows of in the first pass, however idle the link is', () => {
    const pace = start(true, 300);
    pace.firstSeen(1024 * MIB);
    for (let i = 0; i < 50; i++) pace.learn(25 * MIB, 1, true, 100);
    expect(pace.bytesPerSecond).toBe(25 * MIB);
  });

  it('lets much be under way in bulk, little where QEMU may decide, and comes down in time', () => {
    const pace = start(true, 300);
    expect(pace.queueMs).toBe(1000);
    let before = pace.queueMs;
    for (let seen = 0; seen < 1010; seen += 10) {
      pace.firstSeen(10 * MIB);
      expect(pace.queueMs).toBeLessThanOrEqual(before);
      before = pace.queueMs;
    }
    expect(pace.queueMs).toBe(20);
    pace.laterPass();
    expect(pace.queueMs).toBe(20);
    pace.release();
    expect(pace.queueMs).toBe(1000);
  });

  it('holds nothing back once the VM is stopped', () => {
    const pace = start(true, 300);
    pace.take(500 * MIB, 0);
    expect(pace.waitMs(0)).toBeGreaterThan(0);
    pace.release();
    expect(pace.waitMs(0)).toBe(0);
  });

  it('waits as long as the rate asks for and does not save up a pause for a burst', () => {
    const pace = start(true, 300);
    pace.laterPass();
    pace.take(MIB, 0);
    expect(pace.waitMs(0)).toBeCloseTo(40, 5);
    expect(pace.waitMs(40)).toBe(0);
    expect(pace.waitMs(10_000)).toBe(0);
    pace.take(MIB, 10_000);
    expect(pace.waitMs(10_000)).toBeCloseTo(20, 5);
  });
});
