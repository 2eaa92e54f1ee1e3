// Which NasMigrationPolicy applies to a VM: selectors and precedence as KubeVirt's MigrationPolicy has them. Of the policies
// that select it the one with more matching labels wins, then the one with more of the VMI's, then the first by name
// (matchPolicy in package migration of KubeVirt's virt-controller). Pure.

import type { KubernetesObject } from '@kubernetes/client-node';
import { checked } from '../../control/checked.ts';
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
  const parsed = checked(nasMigrationPolicySpecSchema, object.spec ?? {});
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
  const matching: { policy: Policy; labels: number; vmiLabels: number }[] = [];
  for (const policy of policies) {
    const { selectors } = policy.spec;
    if (selectors === undefined) continue;
    const vmi = matchCount(selectors.virtualMachineInstanceSelector ?? {}, vmiLabels);
    const namespace = matchCount(selectors.namespaceSelector ?? {}, namespaceLabels);
    if (vmi !== undefined && namespace !== undefined)
      matching.push({ policy, labels: vmi + namespace, vmiLabels: vmi });
  }
  matching.sort(
    (a, b) => b.labels - a.labels || b.vmiLabels - a.vmiLabels || (a.policy.name < b.policy.name ? -1 : 1),
  );
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
