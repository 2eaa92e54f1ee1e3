import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { WorkQueue } from './work-queue.ts';

function queueOf(work: (key: string) => Promise<number | undefined>, workers = 2) {
  const failures: number[] = [];
  const queue = new WorkQueue({
    work,
    workers,
    minBackoffMs: 2,
    maxBackoffMs: 10,
    onFailure: (_key, _error, count) => failures.push(count),
  });
  return { queue, failures };
}

describe('work queue', () => {
  it('works on a key once for many additions, and once more for those that came meanwhile', async () => {
    const seen: string[] = [];
    const { queue } = queueOf(async (key) => {
      seen.push(key);
      await sleep(10);
      return undefined;
    });
    queue.add('a');
    queue.add('a');
    await sleep(2);
    queue.add('a');
    queue.add('a');
    await sleep(60);
    expect(seen).toEqual(['a', 'a']);
  });

  it('never works on one key twice at a time, and on no more keys than it has workers', async () => {
    let now = 0;
    let most = 0;
    const active = new Set<string>();
    const { queue } = queueOf(async (key) => {
      expect(active.has(key)).toBe(false);
      active.add(key);
      now += 1;
      most = Math.max(most, now);
      await sleep(3);
      now -= 1;
      active.delete(key);
      return undefined;
    });
    for (let round = 0; round < 5; round += 1) for (const key of ['a', 'b', 'c', 'd']) queue.add(key);
    await queue.stop();
    expect(most).toBe(2);
  });

  it('comes back with back-off after failures, and forgets them after a success', async () => {
    let calls = 0;
    const { queue, failures } = queueOf(async () => {
      calls += 1;
      if (calls < 4) throw new Error('not yet');
      return undefined;
    });
    queue.add('a');
    await sleep(100);
    expect(calls).toBe(4);
    expect(failures).toEqual([1, 2, 3]);
  });

  it('does not spin when a failing key is added again and again', async () => {
    let calls = 0;
    const { queue } = queueOf(async (key) => {
      calls += 1;
      queue.add(key);
      throw new Error('never');
    });
    queue.add('a');
    await sleep(50);
    await queue.stop();
    expect(calls).toBeLessThan(20);
  });

  it('comes back after the time that was asked for', async () => {
    const at: number[] = [];
    const { queue } = queueOf(async () => {
      at.push(performance.now());
      return at.length === 1 ? 20 : undefined;
    });
    queue.add('a');
    await sleep(60);
    expect(at).toHaveLength(2);
    expect((at[1] ?? 0) - (at[0] ?? 0)).toBeGreaterThanOrEqual(19);
  });

  it('ends after what is under way', async () => {
    let done = 0;
    const { queue } = queueOf(async () => {
      await sleep(10);
      done += 1;
      return 1;
    }, 1);
    queue.add('a');
    queue.add('b');
    await queue.stop();
    await sleep(20);
    expect(done).toBe(1);
  });
});
