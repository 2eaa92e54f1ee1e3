import { describe, expect, it } from 'vitest';
import { type Policy, readPolicy } from './policies.ts';
import { policyFacts, policyStatus } from './policy-status.ts';

function policy(name: string, labels: Record<string, string> = {}): Policy {
  const read = readPolicy({
    metadata: { name },
    spec: { selectors: { virtualMachineInstanceSelector: labels } },
  });
  if (read === undefined) throw new Error('a test policy that is not one');
  return read;
}

const vm = (labels: Record<string, string>) => ({ labels, namespaceLabels: {} });

describe('status of policies', () => {
  it('counts the VMs that each really applies to, and tells who wins', () => {
    const facts = policyFacts(
      [policy('all'), policy('db', { tier: 'db' })],
      [vm({ tier: 'db' }), vm({}), vm({})],
    );
    expect(facts.get('all')).toEqual({ selected: 2, overriddenBy: new Set(['db']) });
    expect(facts.get('db')).toEqual({ selected: 1, overriddenBy: new Set() });
  });

  it('says it in conditions', () => {
    const status = policyStatus({}, 3, { selected: 2, overriddenBy: new Set(['b', 'a']) }, 0);
    expect(status).toMatchObject({
      observedGeneration: 3,
      selectedVirtualMachineInstances: 2,
      overridden: ['a', 'b'],
    });
    expect(status.conditions).toMatchObject([
      { type: 'Ready', status: 'True' },
      { type: 'Overridden', status: 'True', reason: 'MoreSpecificPolicy' },
      { type: 'Degraded' },
      { type: 'Injecting' },
    ]);
    expect(policyStatus({}, 3, undefined, 0).conditions).toMatchObject([
      { type: 'Ready', status: 'False', reason: 'Unreadable' },
      {},
      {},
      {},
    ]);
  });

  it('tells of the cluster, what keeps policies from their work', () => {
    const facts = { selected: 1, overriddenBy: new Set<string>() };
    const conditionsOf = (cluster: Parameters<typeof policyStatus>[4]) =>
      policyStatus({}, 1, facts, 0, cluster).conditions ?? [];
    expect(conditionsOf(undefined)).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ type: 'Degraded', status: 'False', reason: 'BreakerClosed' }),
        expect.objectContaining({ type: 'Injecting', status: 'True', reason: 'Registered' }),
      ]),
    );
    const breaker = { failures: 3, untilMs: 0, detail: '3 failed attempts' };
    const stopped = Array.from({ length: 7 }, (_, i) => ({ namespace: `shop-${i}`, why: 'exceeded quota' }));
    expect(conditionsOf({ breaker, injectionProblem: undefined, stopped })).toEqual(
      expect.arrayContaining([
        expect.objectContaining({
          type: 'Degraded',
          status: 'True',
          reason: 'ClusterBreakerOpen',
          message: expect.stringContaining('3 failed attempts'),
        }),
        expect.objectContaining({
          type: 'Injecting',
          status: 'False',
          reason: 'StoppedInNamespaces',
          message: expect.stringContaining('shop-4 (exceeded quota) and 2 more'),
        }),
      ]),
    );
    const injectionProblem = { reason: 'KubernetesTooOld' as const, message: 'Kubernetes 1.28' };
    expect(conditionsOf({ breaker: undefined, injectionProblem, stopped: [] })).toContainEqual(
      expect.objectContaining({ type: 'Injecting', status: 'False', ...injectionProblem }),
    );
  });
});
