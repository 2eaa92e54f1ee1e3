import { expect, test } from 'vitest';
import { namespaceName, tokenBucket } from './network.ts';

test('a token bucket holds 1 ms and queues 20 ms of its rate', () => {
  // 1 Gbit/s is 125 000 bytes a ms.
  expect(tokenBucket(1000)).toEqual({
    bitsPerSecond: 1_000_000_000,
    burstBytes: 125_000,
    queueBytes: 2_500_000,
  });
});

test('slow links keep a burst of several frames and a queue that TCP can work with', () => {
  expect(tokenBucket(1)).toEqual({ bitsPerSecond: 1_000_000, burstBytes: 16_384, queueBytes: 64 * 1514 });
});

test('0 is unlimited, and what is no rate is refused', () => {
  expect(tokenBucket(0)).toBeNull();
  expect(() => tokenBucket(-1)).toThrow(RangeError);
  expect(() => tokenBucket(Number.NaN)).toThrow('NaN Mbit/s');
  expect(() => tokenBucket(Number.POSITIVE_INFINITY)).toThrow(RangeError);
});

test('namespaces carry the run and the place', () => {
  expect(namespaceName('0badcafe', 'nas')).toBe('nasmig-0badcafe-nas');
});
