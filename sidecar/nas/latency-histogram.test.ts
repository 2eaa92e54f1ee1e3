import { describe, expect, it } from 'vitest';
import { LatencyHistogram } from './latency-histogram.ts';

describe('LatencyHistogram', () => {
  it('gives a quantile rounded up by at most a fifth', () => {
    const histogram = new LatencyHistogram();
    expect(histogram.quantileMicros(0.99)).toBe(0);
    for (let i = 1; i <= 1000; i++) histogram.add(i * 10);
    for (const quantile of [0.5, 0.9, 0.99]) {
      const exact = quantile * 10_000;
      expect(histogram.quantileMicros(quantile)).toBeGreaterThanOrEqual(exact);
      expect(histogram.quantileMicros(quantile)).toBeLessThanOrEqual(exact * 1.2);
    }
  });

  it('takes any duration, and forgets old ones', () => {
    const histogram = new LatencyHistogram();
    for (const micros of [0, -1, 1e12]) histogram.add(micros);
    expect(histogram.quantileMicros(0.1)).toBe(100);
    expect(histogram.quantileMicros(1)).toBeGreaterThan(20e6);
    for (let i = 0; i < 1000; i++) histogram.add(1e6);
    for (let i = 0; i < 100_000; i++) histogram.add(500);
    expect(histogram.quantileMicros(0.99)).toBeLessThan(600);
  });
});
