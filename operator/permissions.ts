// What the operator may do, and nothing more: the rules of its ClusterRole and of the Role in its own namespace. The chart's
// templates are checked against this file, and the end-to-end tests run the operator with exactly these rights.
export interface PolicyRule {
  apiGroups: string[];
  resources: string[];
  verbs: string[];
  resourceNames?: string[];
}

/** Cluster-wide. */
export const clusterRules: readonly PolicyRule[] = [
  // Our objects: records of adopted migrations are created, finished ones deleted after their time.
  {
    apiGroups: ['nasmigration.io'],
    resources: ['nasawaremigrations'],
    verbs: ['list', 'watch', 'create', 'patch', 'delete'],
  },
  {
    apiGroups: ['nasmigration.io'],
    resources: ['nasawaremigrations/status', 'nasmigrationpolicies/status'],
    verbs: ['patch'],
  },
  { apiGroups: ['nasmigration.io'], resources: ['nasmigrationpolicies'], verbs: ['list', 'watch'] },
  // KubeVirt's: VMs are only read; migrations are made and cancelled.
  { apiGroups: ['kubevirt.io'], resources: ['virtualmachineinstances'], verbs: ['list', 'watch'] },
  {
    apiGroups: ['kubevirt.io'],
    resources: ['virtualmachineinstancemigrations'],
    verbs: ['get', 'list', 'watch', 'create', 'delete'],
  },
  { apiGroups: [''], resources: ['pods', 'namespaces'], verbs: ['list', 'watch'] },
  {
    apiGroups: [''],
    resources: ['persistentvolumeclaims', 'persistentvolumes'],
    verbs: ['list', 'watch'],
  },
  { apiGroups: [''], resources: ['events'], verbs: ['create'] },
  // Server-side apply of the CA into namespaces with VMs. An apply that creates is checked as a creation of that name.
  {
    apiGroups: [''],
    resources: ['configmaps'],
    verbs: ['create', 'patch'],
    resourceNames: ['nas-aware-migration-ca'],
  },
  { apiGroups: ['authentication.k8s.io'], resources: ['tokenreviews'], verbs: ['create'] },
  {
    apiGroups: ['admissionregistration.k8s.io'],
    resources: ['mutatingwebhookconfigurations'],
    verbs: ['create', 'patch'],
    resourceNames: ['nas-aware-migration'],
  },
];

/** In the operator's own namespace. */
export const namespaceRules: readonly PolicyRule[] = [
  // Made once, or again when somebody deleted them. A creation that fails when there is one already cannot be limited to a name.
  { apiGroups: [''], resources: ['secrets'], verbs: ['create'] },
  {
    apiGroups: [''],
    resources: ['secrets'],
    verbs: ['get', 'update'],
    resourceNames: ['nas-aware-migration-authority'],
  },
  // The leader's label on its own pod, and off a predecessor's. Pods of this namespace are the operator's own.
  { apiGroups: [''], resources: ['pods'], verbs: ['patch'] },
  { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['create'] },
  {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    verbs: ['get', 'update'],
    resourceNames: ['nas-aware-migration'],
  },
];
