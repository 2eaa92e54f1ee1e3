// Which NasMigrationPolicy applies to a VM: selectors and precedence as KubeVirt's MigrationPolicy has them. Of the policies
// that select it the one with more matching labels wins, then the first by name. Pure.
import type { KubernetesObject } from '@kubernetes/client-node';
import {
  type NasMigrationPolicySpec,
  nasMigrationPolicySpecSchema,
} from '../../crds/nas-migration-policy.ts';

export interface Policy {
  name: string;
  spec: NasMigrationPolicySpec;
}

export type PolicyObject = KubernetesObject & { spec?: unknown; status?: unknown };

/** Objects of a cache are never changed, and every reconcile and every pod asks for all policies. */
const alreadyRead = new WeakMap<PolicyObject, { policy: Policy | undefined }>();

/** Reads a policy as the API server stores it; undefined for one that an older or newer schema let in. */
export function readPolicy(object: PolicyObject): Policy | undefined {
  const known = alreadyRead.get(object);
  if (known !== undefined) return known.policy;
  const parsed = nasMigrationPolicySpecSchema.safeParse(object.spec ?? {});
  const policy = parsed.success ? { name: object.metadata?.name ?? '', spec: parsed.data } : undefined;
  alreadyRead.set(object, { policy });
  return policy;
}

export interface Selection {
  /** The policy that applies. */
  policy: Policy;
  /** Others that select the VM too, and lose. */
  overridden: string[];
}

/** The policy for a VM with these labels in a namespace with those. */
export function selectPolicy(
  policies: Iterable<Policy>,
  vmiLabels: Readonly<Record<string, string>>,
  namespaceLabels: Readonly<Record<string, string>>,
): Selection | undefined {
  const matching: { policy: Policy; weight: number }[] = [];
  for (const policy of policies) {
    const { virtualMachineInstanceSelector = {}, namespaceSelector = {} } = policy.spec.selectors;
    const vmi = matchCount(virtualMachineInstanceSelector, vmiLabels);
    const namespace = matchCount(namespaceSelector, namespaceLabels);
    if (vmi !== undefined && namespace !== undefined) matching.push({ policy, weight: vmi + namespace });
  }
  matching.sort((a, b) => b.weight - a.weight || (a.policy.name < b.policy.name ? -1 : 1));
  const [winner, ...others] = matching;
  return winner === undefined
    ? undefined
    : { policy: winner.policy, overridden: others.map(({ policy }) => policy.name) };
}

/** How many labels a selector asks for, if all of them are there. */
function matchCount(
  selector: Record<string, string>,
  labels: Readonly<Record<string, string>>,
): number | undefined {
  const entries = Object.entries(selector);
  return entries.every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value)
    ? entries.length
    : undefined;
}
