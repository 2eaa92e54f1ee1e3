import type { V1NetworkPolicy } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { type Endpoint, egress, egressToDns, ingress, matches } from './network-policies.ts';

const guest: Endpoint = {
  namespace: 'shop',
  namespaceLabels: { 'kubernetes.io/metadata.name': 'shop' },
  podLabels: { 'kubevirt.io': 'virt-launcher' },
};
const operator: Endpoint = {
  namespace: 'nasmig',
  namespaceLabels: { 'kubernetes.io/metadata.name': 'nasmig' },
  podLabels: { app: 'operator' },
};

const policy = (spec: object, namespace = 'shop', name = 'p'): V1NetworkPolicy =>
  ({ metadata: { namespace, name }, spec }) as V1NetworkPolicy;
const toOperator = { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'nasmig' } } };
const out = (...policies: V1NetworkPolicy[]) => egress(policies, guest, operator, 8443, 'hub').verdict;

describe('egress', () => {
  it('is open where no policy selects the pod for it', () => {
    expect(out()).toBe('open');
    expect(out(policy({ podSelector: {}, policyTypes: ['Ingress'] }))).toBe('open');
    expect(out(policy({ podSelector: { matchLabels: { app: 'other' } }, policyTypes: ['Egress'] }))).toBe(
      'open',
    );
    expect(out(policy({ podSelector: {}, policyTypes: ['Egress'] }, 'elsewhere'))).toBe('open');
    // Without policyTypes and without egress it is about ingress alone.
    expect(out(policy({ podSelector: {} }))).toBe('open');
  });

  it('is closed by one that allows nothing, and opened by another', () => {
    const closed = policy({ podSelector: {}, policyTypes: ['Egress'] });
    expect(out(closed)).toBe('closed');
    expect(
      out(closed, policy({ podSelector: {}, policyTypes: ['Egress'], egress: [{ to: [toOperator] }] })),
    ).toBe('open');
    expect(out(policy({ podSelector: {}, egress: [] }))).toBe('closed');
  });

  it.each([
    [{}, 'open'],
    [{ ports: [{ port: 8443 }] }, 'open'],
    [{ ports: [{ port: 'hub' }] }, 'open'],
    [{ ports: [{ port: 8000, endPort: 9000 }] }, 'open'],
    [{ ports: [{ port: 443 }] }, 'closed'],
    [{ ports: [{ port: 8443, protocol: 'UDP' }] }, 'closed'],
    [{ to: [toOperator], ports: [{ port: 8443, protocol: 'TCP' }] }, 'open'],
    [{ to: [{ ...toOperator, podSelector: { matchLabels: { app: 'other' } } }] }, 'closed'],
    // A pod selector alone is about the policy's own namespace.
    [{ to: [{ podSelector: {} }] }, 'closed'],
    [{ to: [{ namespaceSelector: {} }] }, 'open'],
    [{ to: [{ ipBlock: { cidr: '10.0.0.0/8' } }] }, 'perhaps'],
    [{ to: [{ ipBlock: { cidr: '0.0.0.0/0' } }] }, 'open'],
    [{ to: [{ ipBlock: { cidr: '0.0.0.0/0', except: ['10.0.0.0/8'] } }] }, 'perhaps'],
  ])('a rule %j', (rule, verdict) => {
    expect(out(policy({ podSelector: {}, policyTypes: ['Egress'], egress: [rule] }))).toBe(verdict);
  });
});

describe('egress to DNS', () => {
  const toNamespace = (name: string) => ({
    namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': name } },
  });
  it.each([
    [{ ports: [{ port: 8443 }] }, 'closed'],
    [{}, 'open'],
    [{ ports: [{ port: 53, protocol: 'UDP' }] }, 'open'],
    [{ ports: [{ port: 53 }] }, 'closed'],
    [{ to: [toNamespace('kube-system')], ports: [{ port: 53, protocol: 'UDP' }] }, 'open'],
    [{ to: [toNamespace('openshift-dns')], ports: [{ port: 5353, protocol: 'UDP' }] }, 'open'],
    // The cluster's own label of that namespace counts, too.
    [{ to: [{ namespaceSelector: { matchLabels: { name: 'kube-system' } } }] }, 'open'],
    [{ to: [toNamespace('my-dns')], ports: [{ port: 53, protocol: 'UDP' }] }, 'perhaps'],
    [{ to: [toNamespace('my-dns')] }, 'closed'],
    [{ to: [{ ipBlock: { cidr: '10.0.0.0/8' } }] }, 'perhaps'],
  ])('a rule %j', (rule, verdict) => {
    const own = policy({ podSelector: {}, policyTypes: ['Egress'], egress: [rule] });
    const labels = new Map([['kube-system', { name: 'kube-system' }]]);
    expect(egressToDns([own], guest, labels).verdict).toBe(verdict);
  });
});

describe('ingress', () => {
  it("is told by the other side's policies, as the API server writes them", () => {
    const into = (rule: object) =>
      ingress(
        [policy({ podSelector: {}, policyTypes: ['Ingress'], ingress: [rule] }, 'nasmig')],
        guest,
        operator,
        8443,
        'hub',
      ).verdict;
    expect(
      into({
        from: [{ namespaceSelector: {}, podSelector: { matchLabels: { 'kubevirt.io': 'virt-launcher' } } }],
        ports: [{ port: 'hub' }],
      }),
    ).toBe('open');
    expect(into({ from: [{ namespaceSelector: { matchLabels: { team: 'a' } } }] })).toBe('closed');
    expect(
      ingress([policy({ podSelector: {}, policyTypes: ['Ingress'] })], guest, operator, 8443, 'hub').verdict,
    ).toBe('open');
  });
});

describe('a label selector', () => {
  it.each([
    [undefined, true],
    [{}, true],
    [{ matchLabels: { a: '1' } }, true],
    [{ matchLabels: { a: '2' } }, false],
    [{ matchExpressions: [{ key: 'a', operator: 'In', values: ['1', '2'] }] }, true],
    [{ matchExpressions: [{ key: 'a', operator: 'NotIn', values: ['1'] }] }, false],
    [{ matchExpressions: [{ key: 'b', operator: 'NotIn', values: ['1'] }] }, true],
    [{ matchExpressions: [{ key: 'a', operator: 'Exists' }] }, true],
    [{ matchExpressions: [{ key: 'a', operator: 'DoesNotExist' }] }, false],
    [{ matchExpressions: [{ key: 'a', operator: 'Later' }] }, false],
  ])('%j', (selector, fits) => {
    expect(matches(selector, { a: '1' })).toBe(fits);
  });
});
