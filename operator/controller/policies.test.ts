import { describe, expect, it } from 'vitest';
import { type Policy, readPolicy, selectPolicy } from './policies.ts';

function policy(
  name: string,
  vmi: Record<string, string> = {},
  namespace: Record<string, string> = {},
): Policy {
  const read = readPolicy({
    metadata: { name },
    spec: { selectors: { virtualMachineInstanceSelector: vmi, namespaceSelector: namespace } },
  });
  if (read === undefined) throw new Error('a test policy that is not one');
  return read;
}

describe('policy of a VM', () => {
  it('is none when none selects it', () => {
    expect(selectPolicy([policy('a', { tier: 'db' })], { tier: 'web' }, {})).toBeUndefined();
    expect(selectPolicy([policy('a', {}, { team: 'x' })], {}, {})).toBeUndefined();
  });

  it('is the one with more labels, over VMI and namespace together', () => {
    const all = [
      policy('z', { tier: 'db' }, { team: 'x' }),
      policy('a', { tier: 'db' }),
      policy('everything'),
    ];
    expect(selectPolicy(all, { tier: 'db', more: '1' }, { team: 'x' })).toMatchObject({
      policy: { name: 'z' },
      overridden: ['a', 'everything'],
    });
  });

  it('is the first by name among equals, whatever their order', () => {
    const [a, b] = [policy('a', { tier: 'db' }), policy('b', {}, { team: 'x' })];
    expect(selectPolicy([a, b], { tier: 'db' }, { team: 'x' })?.policy.name).toBe('a');
    expect(selectPolicy([b, a], { tier: 'db' }, { team: 'x' })?.policy.name).toBe('a');
  });

  it('does not take a label of Object.prototype for one of the VM', () => {
    expect(selectPolicy([policy('a', { constructor: 'x' })], {}, {})).toBeUndefined();
  });

  it('has the defaults of its schema, and is none at all when it cannot be read', () => {
    expect(readPolicy({ metadata: { name: 'a' }, spec: {} })?.spec).toMatchObject({
      injection: 'Enabled',
      suspend: false,
    });
    expect(readPolicy({ metadata: { name: 'a' }, spec: { injection: 'Perhaps' } })).toBeUndefined();
  });
});
