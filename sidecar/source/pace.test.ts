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

const PACKET_BYTES = 512 * 1024;

/** The same with multifd channels, whose packets count when they end, and windows that begin at some moment. */
function bytesLeftOfPackets(
  pace: Pace,
  ramBytes: number,
  limitMs: number,
  channels: number,
  phaseMs: number,
): number {
  let left = ramBytes;
  const inPacket = new Array<number>(channels).fill(0);
  let windowBytes = 0;
  let turn = 0;
  for (let ms = 1; ms < 120_000 && left > 0; ms++) {
    if (ms % 100 === phaseMs) {
      // The packets that the channels have are sent, as QEMU sees it.
      if (left - channels * PACKET_BYTES <= (windowBytes / 100) * limitMs) return left;
      windowBytes = 0;
    }
    // Now and then nothing can be read for a while: the NAS, the link or the machine's other work.
    const isHeldUp = ms % 700 < 250;
    while (left > 0 && !isHeldUp && pace.waitMs(ms) === 0) {
      const channel = turn % channels;
      const bytes = 65_536;
      pace.take(bytes, ms);
      pace.firstSeen(bytes);
      inPacket[channel] = (inPacket[channel] as number) + bytes;
      const hasEnded = inPacket[channel] === PACKET_BYTES;
      if (hasEnded) {
        inPacket[channel] = 0;
        windowBytes += PACKET_BYTES;
        left -= PACKET_BYTES;
      }
      if (hasEnded || !pace.readsInTurns) turn += 1;
    }
  }
  return left;
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

  it.each([
    { limitMs: 300, linkMib: 25 },
    { limitMs: 900, linkMib: 25 },
    { limitMs: 900, linkMib: 10 },
  ])(
    'leaves no more but what 8 channels hold, which take turns, with $limitMs ms and $linkMib MiB/s',
    ({ limitMs, linkMib }) => {
      for (let phaseMs = 0; phaseMs < 100; phaseMs += 5) {
        const pace = new Pace({ downtimeLimitMs: limitMs, connections: 9, enabled: true });
        pace.addRam(1024 * MIB);
        pace.learn(linkMib * MIB, 1, false, 100);
        const left = bytesLeftOfPackets(pace, 1024 * MIB, limitMs, 8, phaseMs);
        expect(left).toBeLessThanOrEqual((linkMib * MIB * (limitMs + 100)) / 1000 + 8 * PACKET_BYTES);
      }
    },
  );

  it('has connections take turns near the end of the first pass and in later ones, while it sets the rate', () => {
    const pace = new Pace({ downtimeLimitMs: 300, connections: 9, enabled: true });
    pace.addRam(1024 * MIB);
    expect(pace.readsInTurns).toBe(false);
    pace.firstSeen(1024 * MIB - 50 * MIB);
    expect(pace.readsInTurns).toBe(true);
    pace.addRam(1024 * MIB);
    expect(pace.readsInTurns).toBe(false);
    pace.laterPass();
    expect(pace.readsInTurns).toBe(true);
    pace.release();
    expect(pace.readsInTurns).toBe(false);
    const off = new Pace({ downtimeLimitMs: 300, connections: 9, enabled: false });
    off.laterPass();
    expect(off.readsInTurns).toBe(false);
  });

  it('decays with what remains in the first pass', () => {
    const pace = start(true, 700);
    expect(pace.bytesPerSecond).toBeCloseTo((1023 * MIB) / 1.05, -6);
    pace.firstSeen(512 * MIB);
    expect(pace.bytesPerSecond).toBeCloseTo((511 * MIB) / 1.05, -6);
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
