import { expect, it } from 'vitest';
import { BusyShare } from './busy-share.ts';

it('tells a share of the machine’s CPU time, of which a busy thread has its part', () => {
  const busy = new BusyShare();
  const endMs = performance.now() + 300;
  while (performance.now() < endMs);
  const share = busy.end();
  expect(share).toBeGreaterThan(0.01);
  expect(share).toBeLessThanOrEqual(1);
});
