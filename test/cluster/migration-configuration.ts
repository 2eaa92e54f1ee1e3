// The configuration that a migration gets: KubeVirt's defaults, then what the KubeVirt object says, then the MigrationPolicy
// that selects the VMI with most labels. Pure. Defaults: kubevirt.md, 4.

import type { KubernetesObject } from '@kubernetes/client-node';
import type { MigrationConfiguration } from './kubevirt-objects.ts';

export const DEFAULT_CONFIGURATION = {
  nodeDrainTaintKey: 'kubevirt.io/drain',
  parallelOutboundMigrationsPerNode: 2,
  parallelMigrationsPerCluster: 5,
  allowAutoConverge: false,
  allowPostCopy: false,
  bandwidthPerMigration: '0Mi',
  completionTimeoutPerGiB: 150,
  progressTimeout: 150,
  maxDowntimeMs: 900,
  disableTLS: false,
} as const satisfies MigrationConfiguration;

/** The KubeVirt object, as far as it is read here. */
export interface KubeVirt extends KubernetesObject {
  spec?: { configuration?: { migrations?: MigrationConfiguration } };
}

export interface MigrationPolicy extends KubernetesObject {
  spec?: {
    selectors?: {
      namespaceSelector?: Record<string, string>;
      virtualMachineInstanceSelector?: Record<string, string>;
    };
  } & Pick<
    MigrationConfiguration,
    | 'allowAutoConverge'
    | 'allowPostCopy'
    | 'bandwidthPerMigration'
    | 'completionTimeoutPerGiB'
    | 'experimental'
  >;
}

type Labels = Readonly<Record<string, string>>;

/** For the whole cluster. */
export function clusterConfiguration(
  kubevirt: KubeVirt | undefined,
): MigrationConfiguration & typeof DEFAULT_CONFIGURATION {
  return { ...DEFAULT_CONFIGURATION, ...(kubevirt?.spec?.configuration?.migrations as object | undefined) };
}

/** For one VMI. Of policies that select it the one with more labels wins, then the one with more of the VMI's, then the first by name. */
export function configurationFor(
  kubevirt: KubeVirt | undefined,
  policies: readonly MigrationPolicy[],
  vmiLabels: Labels,
  namespaceLabels: Labels,
): { configuration: MigrationConfiguration; policyName?: string } {
  const cluster = clusterConfiguration(kubevirt);
  const [policy] = policies
    .filter(
      ({ spec }) =>
        spec?.selectors !== undefined &&
        isIn(spec.selectors.virtualMachineInstanceSelector, vmiLabels) &&
        isIn(spec.selectors.namespaceSelector, namespaceLabels),
    )
    .sort(
      (a, b) =>
        selected(b) - selected(a) || selectedOfVmi(b) - selectedOfVmi(a) || (nameOf(a) < nameOf(b) ? -1 : 1),
    );
  if (policy === undefined) return { configuration: cluster };
  const { selectors: _selectors, ...own } = policy.spec ?? {};
  return { configuration: { ...cluster, ...own }, policyName: nameOf(policy) };
}

function isIn(wanted: Labels | undefined, labels: Labels): boolean {
  return Object.entries(wanted ?? {}).every(([name, value]) => labels[name] === value);
}

function selected(policy: MigrationPolicy): number {
  return selectedOfVmi(policy) + Object.keys(policy.spec?.selectors?.namespaceSelector ?? {}).length;
}

function selectedOfVmi({ spec }: MigrationPolicy): number {
  return Object.keys(spec?.selectors?.virtualMachineInstanceSelector ?? {}).length;
}

function nameOf(policy: MigrationPolicy): string {
  return policy.metadata?.name ?? '';
}
