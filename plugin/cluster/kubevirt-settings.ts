// How KubeVirt would migrate a VM: its configuration, and the MigrationPolicy that selects the VM, which wins field by field
// (kubevirt.io user guide, "Migration Policies"). Pure.

import type { KubernetesObject } from '@kubernetes/client-node';
import { z } from 'zod';
import { checked } from '../../control/checked.ts';
import { selectPolicy } from '../../operator/controller/policies.ts';
import type { MigrationConfiguration, Vmi } from '../../operator/kubevirt/objects.ts';

const labels = z.record(z.string(), z.string()).optional().catch(undefined);
const quantity = z.union([z.string(), z.number()]).optional().catch(undefined);
const flag = z.boolean().optional().catch(undefined);

const settings = z.object({
  allowPostCopy: flag,
  bandwidthPerMigration: quantity,
  experimental: z
    .object({ compression: z.string().optional().catch(undefined) })
    .optional()
    .catch(undefined),
});

const kubeVirtSchema = z.object({
  metadata: z.object({ name: z.string().catch(''), namespace: z.string().catch('') }),
  spec: z
    .object({
      configuration: z
        .object({
          migrations: settings.optional().catch(undefined),
          developerConfiguration: z
            .object({ featureGates: z.array(z.string()).optional().catch(undefined) })
            .optional()
            .catch(undefined),
        })
        .optional()
        .catch(undefined),
    })
    .catch({}),
  status: z
    .object({
      phase: z.string().optional().catch(undefined),
      observedKubeVirtVersion: z.string().optional().catch(undefined),
      operatorVersion: z.string().optional().catch(undefined),
    })
    .catch({}),
});
/** The KubeVirt object, as far as it is read. */
export type KubeVirt = z.infer<typeof kubeVirtSchema>;

export function readKubeVirt(object: KubernetesObject): KubeVirt | undefined {
  const parsed = checked(kubeVirtSchema, { spec: {}, status: {}, ...object });
  return parsed.success ? parsed.data : undefined;
}

const policySchema = z.object({
  metadata: z.object({ name: z.string() }),
  spec: settings
    .extend({
      selectors: z
        .object({ namespaceSelector: labels, virtualMachineInstanceSelector: labels })
        .optional()
        .catch(undefined),
    })
    .catch({}),
});
/** A MigrationPolicy of KubeVirt. */
export type MigrationPolicy = z.infer<typeof policySchema>;

export function readMigrationPolicy(object: KubernetesObject): MigrationPolicy | undefined {
  const parsed = checked(policySchema, { spec: {}, ...object });
  return parsed.success ? parsed.data : undefined;
}

export interface Resolved {
  configuration: MigrationConfiguration;
  /** Where it comes from, for words: `KubeVirt kubevirt/kubevirt` or `MigrationPolicy fast`. */
  from: string;
}

/** What KubeVirt would hand to a migration of this VM now. */
export function resolvedConfiguration(
  kubeVirt: KubeVirt | undefined,
  migrationPolicies: readonly MigrationPolicy[],
  vmi: Pick<Vmi, 'metadata'>,
  namespaceLabels: Readonly<Record<string, string>>,
): Resolved {
  const base = kubeVirt?.spec.configuration?.migrations ?? {};
  // KubeVirt's precedence is ours.
  const selection = selectPolicy(
    migrationPolicies.map(({ metadata, spec }) => ({
      name: metadata.name,
      spec: {
        selectors: spec.selectors && {
          ...(spec.selectors.namespaceSelector === undefined
            ? {}
            : { namespaceSelector: spec.selectors.namespaceSelector }),
          ...(spec.selectors.virtualMachineInstanceSelector === undefined
            ? {}
            : { virtualMachineInstanceSelector: spec.selectors.virtualMachineInstanceSelector }),
        },
        injection: 'Enabled',
        adoption: 'Enabled',
        suspend: false,
      },
    })),
    vmi.metadata.labels ?? {},
    namespaceLabels,
  );
  const chosen = migrationPolicies.find(({ metadata }) => metadata.name === selection?.policy.name);
  const own = Object.fromEntries(
    Object.entries(chosen?.spec ?? {}).filter(([name, value]) => name !== 'selectors' && value !== undefined),
  );
  return {
    configuration: { ...base, ...own } as MigrationConfiguration,
    from:
      chosen !== undefined
        ? `MigrationPolicy ${chosen.metadata.name}`
        : kubeVirt === undefined
          ? 'KubeVirt'
          : `KubeVirt ${kubeVirt.metadata.namespace}/${kubeVirt.metadata.name}`,
  };
}
