// KubeVirt's VirtualMachineInstance, VirtualMachineInstanceMigration and the VirtualMachineInstance-independent parts that
// our operator reads, as loose CustomResourceDefinitions for tests: names, versions, scope and subresources are KubeVirt's
// (VMI without status subresource, VMIM with it), the content is not checked.
import type { V1CustomResourceDefinition } from '@kubernetes/client-node';

interface LooseKind {
  group: string;
  version: string;
  kind: string;
  plural: string;
  singular: string;
  shortNames: string[];
  scope: 'Namespaced' | 'Cluster';
  statusSubresource: boolean;
}

const kinds: LooseKind[] = [
  {
    group: 'kubevirt.io',
    version: 'v1',
    kind: 'VirtualMachineInstance',
    plural: 'virtualmachineinstances',
    singular: 'virtualmachineinstance',
    shortNames: ['vmi', 'vmis'],
    scope: 'Namespaced',
    statusSubresource: false,
  },
  {
    group: 'kubevirt.io',
    version: 'v1',
    kind: 'VirtualMachineInstanceMigration',
    plural: 'virtualmachineinstancemigrations',
    singular: 'virtualmachineinstancemigration',
    shortNames: ['vmim', 'vmims'],
    scope: 'Namespaced',
    statusSubresource: true,
  },
  {
    group: 'kubevirt.io',
    version: 'v1',
    kind: 'KubeVirt',
    plural: 'kubevirts',
    singular: 'kubevirt',
    shortNames: ['kv', 'kvs'],
    scope: 'Namespaced',
    statusSubresource: true,
  },
  {
    group: 'migrations.kubevirt.io',
    version: 'v1alpha1',
    kind: 'MigrationPolicy',
    plural: 'migrationpolicies',
    singular: 'migrationpolicy',
    shortNames: [],
    scope: 'Cluster',
    statusSubresource: true,
  },
];

export function kubevirtDefinitions(): V1CustomResourceDefinition[] {
  return kinds.map(toDefinition);
}

function toDefinition(loose: LooseKind): V1CustomResourceDefinition {
  const anything = { type: 'object', 'x-kubernetes-preserve-unknown-fields': true };
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${loose.plural}.${loose.group}` },
    spec: {
      group: loose.group,
      scope: loose.scope,
      names: {
        kind: loose.kind,
        listKind: `${loose.kind}List`,
        plural: loose.plural,
        singular: loose.singular,
        shortNames: loose.shortNames,
      },
      versions: [
        {
          name: loose.version,
          served: true,
          storage: true,
          ...(loose.statusSubresource ? { subresources: { status: {} } } : {}),
          schema: { openAPIV3Schema: { type: 'object', properties: { spec: anything, status: anything } } },
        },
      ],
    },
  };
}
