import { describe, expect, it } from 'vitest';
import { ReadBudget } from './read-budget.ts';

describe('ReadBudget', () => {
  it('lets the first request go, and each next when the ones before are paid for', async () => {
    let now = 1000;
    const budget = new ReadBudget(1000, () => now);
    expect(budget.take(30)).toBeUndefined();
    const startedAt = performance.now();
    await budget.take(10);
    expect(performance.now() - startedAt).toBeGreaterThan(28);
    now += 40;
    expect(budget.take(10)).toBeUndefined();
    now += 1e6;
    // Idle time is not saved up: only one request goes at once.
    expect(budget.take(1000)).toBeUndefined();
    expect(budget.take(1)).toBeInstanceOf(Promise);
  });

  it('never waits without a limit', () => {
    const budget = new ReadBudget(0);
    for (let i = 0; i < 10; i++) expect(budget.take(1e12)).toBeUndefined();
  });

  it('stops waiting when it is told to', async () => {
    const budget = new ReadBudget(1);
    const abort = new AbortController();
    budget.take(1e6);
    const waiting = budget.take(1, abort.signal);
    abort.abort();
    await expect(waiting).resolves.toBeUndefined();
  });
});
