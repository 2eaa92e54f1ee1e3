import type { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { ApiClient, ApiError, type RequestSettings } from '../kubernetes/api-client.ts';
import { json, refusal, TestApiServer } from '../kubernetes/test-api-server.ts';
import { LeaderElection, type Lease, nextEpoch } from './leader-election.ts';

/** An API server with one Lease, that can stop to answer: to reads, or to writes alone; and is late with its first writes. */
function leaseServer(lateMs: number[] = []) {
  let lease: Lease | undefined;
  const silent = { reads: false, writes: false };
  const never = new Promise<never>(() => {});
  const api = {
    call: async (method: string, _path: string, { body }: RequestSettings) => {
      if (method === 'GET' ? silent.reads : silent.writes) return never;
      if (method !== 'GET') {
        lease = body as Lease;
        await new Promise((resolve) => setTimeout(resolve, lateMs.shift() ?? 0));
      }
      if (lease === undefined) throw new ApiError('GET', '/', 404, 'NotFound', '');
      return lease;
    },
  };
  return { api: api as unknown as ApiClient, silent };
}

const short = { namespace: 'own', name: 'lease', identity: 'one', leaseDurationMs: 600, retryMs: 50 };

describe('a leader', () => {
  it.each(['reads', 'writes'] as const)(
    'ends its term by the deadline when the API server does not answer its %s',
    async (what) => {
      const { api, silent } = leaseServer();
      const problems: string[] = [];
      const election = new LeaderElection({
        ...short,
        api,
        renewDeadlineMs: 400,
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

  it('keeps its term when one connection gets no answers any more, over another', async () => {
    const server = await TestApiServer.start();
    let lease: Lease | undefined;
    let stalled: Socket | undefined;
    let isStalling = false;
    server.answers = [
      (request, response, body) => {
        if (isStalling) stalled ??= request.socket;
        if (request.socket === stalled) return;
        if (request.method !== 'GET') lease = JSON.parse(body) as Lease;
        const answer = lease === undefined ? refusal(404, 'NotFound') : json(200, lease);
        answer(request, response, body);
      },
    ];
    const api = new ApiClient(server.access, { userAgent: 'test' });
    const election = new LeaderElection({ ...short, api, leaseDurationMs: 1500, renewDeadlineMs: 1000 });
    const isLost = await new Promise<boolean>((resolve) => {
      election.start(async (_epoch, signal) => {
        await new Promise((wait) => setTimeout(wait, 200));
        isStalling = true;
        await new Promise((wait) => setTimeout(wait, 2000));
        resolve(signal.aborted);
      });
    });
    expect(stalled?.destroyed).toBe(true);
    expect(isLost).toBe(false);
    await election.stop();
    api.close();
    await server.stop();
  });

  it('begins no term with a lease that is half over when it gets it', async () => {
    const { api } = leaseServer([400]);
    const problems: string[] = [];
    const election = new LeaderElection({
      ...short,
      api,
      renewDeadlineMs: 3000,
      onProblem: (problem) => problems.push(problem),
    });
    const startedMs = performance.now();
    const ledMs = await new Promise<number>((resolve) => {
      election.start(async () => resolve(performance.now() - startedMs));
    });
    // After the late one a pause and another.
    expect(ledMs).toBeGreaterThan(430);
    expect(problems).toEqual(['it took more than half of the Lease’s duration to get it']);
    await election.stop();
  });
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
