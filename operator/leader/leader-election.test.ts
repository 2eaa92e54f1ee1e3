import { describe, expect, it } from 'vitest';
import type { ApiClient } from '../kubernetes/api-client.ts';
import { ApiError } from '../kubernetes/api-client.ts';
import { LeaderElection, type Lease, nextEpoch } from './leader-election.ts';

/** An API server with one Lease, that can stop to answer: to reads, or to writes alone. */
function leaseServer() {
  let lease: Lease | undefined;
  const silent = { reads: false, writes: false };
  const never = new Promise<never>(() => {});
  const write = (next: Lease) => {
    if (silent.writes) return never;
    lease = next;
    return Promise.resolve(next);
  };
  const api = {
    get: () => {
      if (silent.reads) return never;
      return lease === undefined
        ? Promise.reject(new ApiError('GET', '/', 404, 'NotFound', ''))
        : Promise.resolve(lease);
    },
    create: (_resource: unknown, next: Lease) => write(next),
    replace: (_resource: unknown, next: Lease) => write(next),
  };
  return { api: api as unknown as ApiClient, silent };
}

describe('a leader', () => {
  it.each(['reads', 'writes'] as const)(
    'ends its term by the deadline when the API server does not answer its %s',
    async (what) => {
      const { api, silent } = leaseServer();
      const problems: string[] = [];
      const election = new LeaderElection({
        api,
        namespace: 'own',
        name: 'lease',
        identity: 'one',
        leaseDurationMs: 600,
        renewDeadlineMs: 400,
        retryMs: 50,
        onProblem: (problem) => problems.push(problem),
      });
      const ended = await new Promise<number>((resolve) => {
        election.start(async (_epoch, signal) => {
          // Renewed a few times first.
          await new Promise((wait) => setTimeout(wait, 500));
          expect(signal.aborted).toBe(false);
          silent[what] = true;
          const silentMs = performance.now();
          await new Promise((aborted) => signal.addEventListener('abort', aborted));
          resolve(performance.now() - silentMs);
        });
      });
      expect(ended).toBeLessThan(600);
      expect(problems[0]).toMatch(/^no answer about the Lease within \d+ ms$/);
      await election.stop();
    },
  );
});

describe('epoch', () => {
  it('is higher than the one before, whatever the clock says', () => {
    expect(nextEpoch('1780000000', 1_779_999_000_000)).toBe(1_780_000_001);
  });

  it('is not lower than before when the Lease was deleted', () => {
    expect(nextEpoch(undefined, 1_780_000_000_000)).toBe(1_780_000_000);
  });

  it('does not trust what is not a number', () => {
    expect(nextEpoch('Infinity', 1000)).toBe(1);
    expect(nextEpoch('-5', 1000)).toBe(1);
  });
});
