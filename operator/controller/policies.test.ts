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

  it('is the one with more labels of the VMI, where they are as many', () => {
    const [a, b] = [policy('a', {}, { team: 'x' }), policy('b', { tier: 'db' })];
    expect(selectPolicy([a, b], { tier: 'db' }, { team: 'x' })?.policy.name).toBe('b');
    expect(selectPolicy([b, a], { tier: 'db' }, { team: 'x' })?.policy.name).toBe('b');
  });

  it('is the first by name among equals, whatever their order', () => {
    const [a, b] = [policy('a', { tier: 'db' }), policy('b', { size: 'big' })];
    const labels = { tier: 'db', size: 'big' };
    expect(selectPolicy([a, b], labels, {})?.policy.name).toBe('a');
    expect(selectPolicy([b, a], labels, {})?.policy.name).toBe('a');
    const [upper, lower] = [policy('a10'), policy('a9')];
    expect(selectPolicy([lower, upper], {}, {})?.policy.name).toBe('a10');
  });

  it('is none of those that leave out their selectors', () => {
    const silent = readPolicy({ metadata: { name: 'a' }, spec: {} });
    expect(selectPolicy([silent!], { tier: 'db' }, {})).toBeUndefined();
    const empty = readPolicy({ metadata: { name: 'a' }, spec: { selectors: {} } });
    expect(selectPolicy([empty!], { tier: 'db' }, {})?.policy.name).toBe('a');
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

  it('has quantities as text, also where they are stored as integers', () => {
    const spec = { sidecar: { cpu: 1, memory: '256Mi' }, defaults: { limits: { linkBandwidth: 5_000_000 } } };
    expect(readPolicy({ metadata: { name: 'a' }, spec })?.spec).toMatchObject({
      sidecar: { cpu: '1', memory: '256Mi' },
      defaults: { limits: { linkBandwidth: '5000000' } },
    });
    expect(readPolicy({ metadata: { name: 'a' }, spec: { sidecar: { cpu: 0.5 } } })).toBeUndefined();
  });
});
