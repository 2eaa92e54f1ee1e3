import { expect, it } from 'vitest';
import { readThreads } from './read-threads.ts';

it.each([
  ['64', 64],
  ['many', 4],
  ['0', 4],
  [undefined, 4],
])('UV_THREADPOOL_SIZE=%s is %i threads', (value, threads) => {
  expect(readThreads({ UV_THREADPOOL_SIZE: value })).toBe(threads);
});
