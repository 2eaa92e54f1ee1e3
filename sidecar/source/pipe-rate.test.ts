import { describe, expect, it } from 'vitest';
import { PipeRate } from './pipe-rate.ts';

/** A link of `bytesPerMs` that a sender keeps filled with `queue` bytes for `ms`. */
function run(rate: PipeRate, fromMs: number, ms: number, bytesPerMs: number, queue: number): number {
  rate.sent(queue);
  for (let t = fromMs; t < fromMs + ms; t += 5) {
    rate.sent(bytesPerMs * 5);
    rate.arrived(bytesPerMs * 5, t + 5, 1000);
  }
  return fromMs + ms;
}

describe('PipeRate', () => {
  it('learns the rate of a link that is kept busy', () => {
    const rate = new PipeRate();
    run(rate, 0, 2000, 25_000, 2_000_000);
    expect(rate.bytesPerSecond).toBeGreaterThan(24e6);
    expect(rate.bytesPerSecond).toBeLessThan(26.5e6);
    expect(rate.idle).toBe(false);
  });

  it('follows a link that becomes slower', () => {
    const rate = new PipeRate();
    const at = run(rate, 0, 1000, 100_000, 6_000_000);
    run(rate, at, 2000, 10_000, 0);
    expect(rate.bytesPerSecond).toBeLessThan(12e6);
  });

  it('takes an idle link only as a lower bound', () => {
    const rate = new PipeRate();
    const at = run(rate, 0, 1000, 25_000, 2_000_000);
    for (let t = at + 5; rate.underWayBytes > 0; t += 5) rate.arrived(125_000, t, 1000);
    const learned = rate.bytesPerSecond;
    for (let t = at + 50; t < at + 2000; t += 10) {
      rate.sent(100);
      rate.arrived(100, t, 1000);
    }
    expect(rate.idle).toBe(true);
    expect(rate.bytesPerSecond).toBe(learned);
  });

  it('starts from what the operator configured', () => {
    const rate = new PipeRate(5_000_000);
    expect(rate.bytesPerSecond).toBe(5_000_000);
    expect(rate.reliableBytesPerSecond(60_000)).toBe(5_000_000);
  });

  it('relies the less on what it learned the longer ago that was, down to what an idle link was seen to carry', () => {
    const rate = new PipeRate();
    let at = run(rate, 0, 1000, 25_000, 2_000_000);
    for (; rate.underWayBytes > 0; at += 5) rate.arrived(125_000, at, 1000);
    const learned = rate.bytesPerSecond;
    const relied: number[] = [];
    for (let t = at; t <= at + 60_000; t += 10) {
      rate.sent(10_000);
      rate.arrived(10_000, t, 1000);
      if ((t - at) % 2000 === 0) relied.push(rate.reliableBytesPerSecond(t) / learned);
    }
    expect(relied[1]).toBe(1);
    expect(relied[3]).toBeLessThan(0.6);
    expect(relied[5]).toBeLessThan(0.25);
    // 1 MB/s is seen all the time.
    expect((relied.at(-1) ?? 0) * learned).toBeCloseTo(1e6, -5);
    // One busy window is evidence again, of what the link carries now.
    run(rate, at + 60_000, 1000, 12_000, 2_000_000);
    expect(rate.reliableBytesPerSecond(at + 61_000)).toBeGreaterThan(11e6);
    expect(rate.reliableBytesPerSecond(at + 61_000)).toBeLessThan(14e6);
  });

  it('does not take the delay of an idle link, or of a busy peer, for its limit', () => {
    const rate = new PipeRate();
    let at = run(rate, 0, 1000, 25_000, 1_500_000);
    for (; rate.underWayBytes > 0; at += 5) rate.arrived(125_000, at, 1000);
    const learned = rate.bytesPerSecond;
    // 5 MB/s that arrive 20 ms after they were sent.
    rate.sent(100_000);
    for (let t = at; t < at + 2000; t += 20) {
      rate.sent(100_000);
      rate.arrived(100_000, t + 20, 1000);
    }
    expect(rate.bytesPerSecond).toBe(learned);
  });

  it('learns with little under way, too, when that is all the sender may have', () => {
    const rate = new PipeRate(25_000_000);
    rate.sent(300_000);
    for (let t = 0; t < 2000; t += 5) {
      rate.sent(50_000);
      rate.arrived(50_000, t + 5, 20);
    }
    expect(rate.bytesPerSecond).toBeLessThan(11e6);
  });
});
