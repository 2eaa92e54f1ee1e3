// What NetworkPolicies let through, as Kubernetes defines it: a pod that no policy of a direction selects is open in it; one that
// some select gets what any of them allows. Address blocks cannot be told from names: they count as "perhaps". Pure.
import type {
  V1LabelSelector,
  V1NetworkPolicy,
  V1NetworkPolicyPeer,
  V1NetworkPolicyPort,
} from '@kubernetes/client-node';

type Labels = Readonly<Record<string, string>>;

export interface Endpoint {
  namespace: string;
  namespaceLabels: Labels;
  podLabels: Labels;
}

export type Passage =
  | { verdict: 'open' }
  /** Only a policy with address blocks could let it through. */
  | { verdict: 'perhaps'; policies: string[] }
  | { verdict: 'closed'; policies: string[] };

/** Where DNS usually is; more than one of them may be there. The port is that of the pods. */
const DNS_PLACES: readonly { end: Endpoint; port: number }[] = [
  {
    end: {
      namespace: 'kube-system',
      namespaceLabels: { 'kubernetes.io/metadata.name': 'kube-system' },
      podLabels: { 'k8s-app': 'kube-dns' },
    },
    port: 53,
  },
  {
    end: {
      namespace: 'openshift-dns',
      namespaceLabels: { 'kubernetes.io/metadata.name': 'openshift-dns' },
      podLabels: { 'dns.operator.openshift.io/daemonset-dns': 'default' },
    },
    port: 5353,
  },
];

/**
 * Whether `from` may ask for names. A cluster's DNS may be anywhere: a rule that names a DNS port towards somebody else lets it through
 * perhaps.
 */
export function egressToDns(
  policies: readonly V1NetworkPolicy[],
  from: Endpoint,
  namespaceLabels: ReadonlyMap<string, Labels>,
): Passage {
  const places = DNS_PLACES.map(({ end, port }) => {
    const labels = { ...end.namespaceLabels, ...namespaceLabels.get(end.namespace) };
    return egress(policies, from, { ...end, namespaceLabels: labels }, port, 'dns', 'UDP');
  });
  const best = places.find(({ verdict }) => verdict === 'open') ?? places[0] ?? { verdict: 'open' };
  if (best.verdict !== 'closed') return best;
  const named = selecting(policies, from, 'Egress').some((policy) =>
    (policy.spec?.egress ?? []).some((rule) =>
      (rule.ports ?? []).some((one) => DNS_PLACES.some(({ port }) => coversPort(one, port, 'dns', 'UDP'))),
    ),
  );
  return named ? { verdict: 'perhaps', policies: best.policies } : best;
}

/** Whether `from` may open a connection to `to`, by policies of `from`'s namespace. `portName`: its name in the target's pod. */
export function egress(
  policies: readonly V1NetworkPolicy[],
  from: Endpoint,
  to: Endpoint,
  port: number,
  portName: string,
  protocol: 'TCP' | 'UDP' = 'TCP',
): Passage {
  const own = selecting(policies, from, 'Egress');
  return passage(own, (policy) =>
    (policy.spec?.egress ?? []).map((rule) =>
      ruleVerdict(rule.to, rule.ports, from.namespace, to, port, portName, protocol),
    ),
  );
}

/** The same by policies of `to`'s namespace. */
export function ingress(
  policies: readonly V1NetworkPolicy[],
  from: Endpoint,
  to: Endpoint,
  port: number,
  portName: string,
): Passage {
  const own = selecting(policies, to, 'Ingress');
  return passage(own, (policy) =>
    (policy.spec?.ingress ?? []).map((rule) =>
      ruleVerdict(
        rule._from ?? (rule as { from?: V1NetworkPolicyPeer[] }).from,
        rule.ports,
        to.namespace,
        from,
        port,
        portName,
        'TCP',
      ),
    ),
  );
}

function selecting(
  policies: readonly V1NetworkPolicy[],
  pod: Endpoint,
  direction: 'Egress' | 'Ingress',
): V1NetworkPolicy[] {
  return policies.filter(({ metadata, spec }) => {
    if (metadata?.namespace !== pod.namespace) return false;
    const types = spec?.policyTypes ?? ['Ingress', ...(spec?.egress === undefined ? [] : ['Egress'])];
    return types.includes(direction) && matches(spec?.podSelector, pod.podLabels);
  });
}

type RuleVerdict = 'yes' | 'perhaps' | 'no';

function passage(
  selecting: readonly V1NetworkPolicy[],
  verdictsOf: (policy: V1NetworkPolicy) => RuleVerdict[],
): Passage {
  if (selecting.length === 0) return { verdict: 'open' };
  const verdicts = selecting.flatMap(verdictsOf);
  if (verdicts.includes('yes')) return { verdict: 'open' };
  const policies = selecting.map(({ metadata }) => metadata?.name ?? '');
  return { verdict: verdicts.includes('perhaps') ? 'perhaps' : 'closed', policies };
}

function ruleVerdict(
  peers: readonly V1NetworkPolicyPeer[] | undefined,
  ports: readonly V1NetworkPolicyPort[] | undefined,
  policyNamespace: string,
  other: Endpoint,
  port: number,
  portName: string,
  protocol: 'TCP' | 'UDP',
): RuleVerdict {
  if (
    ports !== undefined &&
    ports.length > 0 &&
    !ports.some((one) => coversPort(one, port, portName, protocol))
  )
    return 'no';
  if (peers === undefined || peers.length === 0) return 'yes';
  const verdicts = peers.map((peer): RuleVerdict => {
    if (peer.ipBlock !== undefined)
      return peer.ipBlock.cidr === '0.0.0.0/0' && (peer.ipBlock.except ?? []).length === 0
        ? 'yes'
        : 'perhaps';
    const namespaceFits =
      peer.namespaceSelector === undefined
        ? other.namespace === policyNamespace
        : matches(peer.namespaceSelector, other.namespaceLabels);
    return namespaceFits && (peer.podSelector === undefined || matches(peer.podSelector, other.podLabels))
      ? 'yes'
      : 'no';
  });
  return verdicts.includes('yes') ? 'yes' : verdicts.includes('perhaps') ? 'perhaps' : 'no';
}

function coversPort(
  { port: asked, endPort, protocol: ofRule = 'TCP' }: V1NetworkPolicyPort,
  port: number,
  portName: string,
  protocol: 'TCP' | 'UDP',
): boolean {
  if (ofRule !== protocol) return false;
  if (asked === undefined) return true;
  if (typeof asked === 'string' && !/^\d+$/.test(asked)) return asked === portName;
  const first = Number(asked);
  return port >= first && port <= (endPort ?? first);
}

/** A label selector; none, or an empty one, matches everything. */
export function matches(selector: V1LabelSelector | undefined, labels: Labels): boolean {
  const exact = Object.entries(selector?.matchLabels ?? {}).every(([key, value]) => labels[key] === value);
  return (
    exact &&
    (selector?.matchExpressions ?? []).every(({ key, operator, values = [] }) => {
      const value = labels[key];
      switch (operator) {
        case 'In':
          return value !== undefined && values.includes(value);
        case 'NotIn':
          return value === undefined || !values.includes(value);
        case 'Exists':
          return value !== undefined;
        case 'DoesNotExist':
          return value === undefined;
        default:
          return false;
      }
    })
  );
}
