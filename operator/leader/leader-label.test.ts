import { describe, expect, it } from 'vitest';
import { ApiError } from '../kubernetes/api-client.ts';
import { LEADER_LABEL, LeaderLabel } from './leader-label.ts';

/** Pods of the operator's namespace by name, with whether they carry the label. */
function cluster(pods: Record<string, boolean>) {
  const state = { failures: 0, hang: false };
  const writes: string[] = [];
  const api = {
    list: async (_resource: unknown, _namespace: string, query: Record<string, string>) => {
      if (state.failures-- > 0) throw new Error('no answer');
      expect(query['labelSelector']).toBe(`${LEADER_LABEL}=true`);
      const items = Object.entries(pods).filter(([, labelled]) => labelled);
      return { items: items.map(([name]) => ({ metadata: { name } })) };
    },
    mergePatch: async (_resource: unknown, _namespace: string, name: string, patch: never) => {
      if (state.hang) return new Promise(() => {});
      if (!(name in pods)) throw new ApiError('PATCH', name, 404, 'NotFound', 'no such pod');
      const value = (patch as { metadata: { labels: Record<string, string | null> } }).metadata.labels[
        LEADER_LABEL
      ];
      pods[name] = value === 'true';
      writes.push(`${name}=${value}`);
      return {};
    },
  };
  const problems: string[] = [];
  const label = new LeaderLabel({
    api: api as never,
    namespace: 'operators',
    podName: 'me',
    onProblem: (problem) => problems.push(problem),
    checkMs: 5,
  });
  return { label, pods, writes, problems, state };
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !condition(); i += 1) await new Promise((resolve) => setTimeout(resolve, 2));
  expect(condition()).toBe(true);
}

describe("the leader's label", () => {
  it('is taken off a predecessor before it is put on', async () => {
    const { label, writes } = cluster({ me: false, dead: true });
    await label.settle();
    expect(writes).toEqual(['dead=null', 'me=true']);
    await label.settle();
    expect(writes).toHaveLength(2);
  });

  it('comes back when somebody took it away, and goes when the term ends', async () => {
    const { label, pods } = cluster({ me: false });
    const term = new AbortController();
    const held = label.hold(term.signal);
    await until(() => pods['me'] === true);
    pods['me'] = false;
    await until(() => pods['me'] === true);
    term.abort();
    await held;
    expect(pods['me']).toBe(false);
  });

  it('is not needed where there is no pod', async () => {
    const { label, problems } = cluster({});
    await label.settle();
    await label.release();
    expect(problems).toEqual([]);
  });

  it('ends the term also when the API server does not answer, and says so when it fails', async () => {
    const { label, problems, state } = cluster({ me: false });
    state.failures = 1;
    const term = new AbortController();
    const held = label.hold(term.signal);
    await until(() => problems.length === 1);
    state.hang = true;
    term.abort();
    await held;
    expect(problems[0]).toContain('no answer');
  });
});
