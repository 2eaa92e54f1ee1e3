import { expect, it } from 'vitest';
import { busyShare, cpuTimes, parseCpuTimes } from './busy-share.ts';

it('counts waiting for disks as idle, and what guests used once', () => {
  const stat = 'cpu  100 10 50 800 40 1 2 3 90 5\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 7\n';
  expect(parseCpuTimes(stat)).toEqual({ idle: 840, all: 1006 });
  expect(() => parseCpuTimes('cpu0 1 2\n')).toThrow(/no line "cpu"/);
});

it('tells the share of what passed', () => {
  expect(busyShare({ idle: 840, all: 1000 }, { idle: 890, all: 1200 })).toBe(0.75);
  expect(busyShare({ idle: 840, all: 1000 }, { idle: 840, all: 1000 })).toBe(0);
});

it('reads this machine', () => {
  const { idle, all } = cpuTimes();
  expect(all).toBeGreaterThan(idle);
});
