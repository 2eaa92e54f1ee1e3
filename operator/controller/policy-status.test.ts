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
    ]);
    expect(policyStatus({}, 3, undefined, 0).conditions).toMatchObject([
      { type: 'Ready', status: 'False', reason: 'Unreadable' },
      {},
    ]);
  });
});
