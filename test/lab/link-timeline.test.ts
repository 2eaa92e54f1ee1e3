import { expect, it } from 'vitest';
import { bytesSince } from './link-timeline.ts';
import { fastestForwardBytes, type RecorderReport } from './recorders.ts';

it('counts what was sent after a moment, never too little', () => {
  const samples = [
    { atMs: 100, sentBytes: 1000 },
    { atMs: 110, sentBytes: 1500 },
    { atMs: 120, sentBytes: 1700 },
  ];
  expect(bytesSince(samples, 110)).toBe(200);
  expect(bytesSince(samples, 119)).toBe(200);
  expect(bytesSince(samples, 50)).toBe(700);
  expect(bytesSince(samples, 130)).toBe(0);
  expect(bytesSince([], 130)).toBe(0);
});

it('finds the fastest stretch over all connections', () => {
  const connection = (...timeline: [number, number][]): unknown => ({ forward: { timeline } });
  const report = {
    connections: [connection([0, 5], [90, 5], [200, 1]), connection([10, 7], [300, 11])],
  } as unknown as RecorderReport;
  expect(fastestForwardBytes(report, 100)).toBe(17);
  expect(fastestForwardBytes(report, 1000)).toBe(29);
  expect(fastestForwardBytes(report, 1)).toBe(11);
});
