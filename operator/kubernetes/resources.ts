// Which resources the operator speaks of, and their paths on the API server.
import type { KubernetesObject } from '@kubernetes/client-node';

/** A kind of objects by its path. The core group is the empty string. */
export interface Resource {
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
  readonly namespaced: boolean;
}

const resource = (
  group: string,
  version: string,
  plural: string,
  kind: string,
  namespaced = true,
): Resource => ({
  group,
  version,
  plural,
  kind,
  namespaced,
});

export const resources = {
  nasAwareMigrations: resource('nasmigration.io', 'v1alpha1', 'nasawaremigrations', 'NasAwareMigration'),
  nasMigrationPolicies: resource(
    'nasmigration.io',
    'v1alpha1',
    'nasmigrationpolicies',
    'NasMigrationPolicy',
    false,
  ),
  virtualMachineInstances: resource('kubevirt.io', 'v1', 'virtualmachineinstances', 'VirtualMachineInstance'),
  virtualMachineInstanceMigrations: resource(
    'kubevirt.io',
    'v1',
    'virtualmachineinstancemigrations',
    'VirtualMachineInstanceMigration',
  ),
  kubeVirts: resource('kubevirt.io', 'v1', 'kubevirts', 'KubeVirt'),
  migrationPolicies: resource(
    'migrations.kubevirt.io',
    'v1alpha1',
    'migrationpolicies',
    'MigrationPolicy',
    false,
  ),
  pods: resource('', 'v1', 'pods', 'Pod'),
  namespaces: resource('', 'v1', 'namespaces', 'Namespace', false),
  nodes: resource('', 'v1', 'nodes', 'Node', false),
  secrets: resource('', 'v1', 'secrets', 'Secret'),
  configMaps: resource('', 'v1', 'configmaps', 'ConfigMap'),
  events: resource('', 'v1', 'events', 'Event'),
  services: resource('', 'v1', 'services', 'Service'),
  serviceAccounts: resource('', 'v1', 'serviceaccounts', 'ServiceAccount'),
  persistentVolumeClaims: resource('', 'v1', 'persistentvolumeclaims', 'PersistentVolumeClaim'),
  persistentVolumes: resource('', 'v1', 'persistentvolumes', 'PersistentVolume', false),
  leases: resource('coordination.k8s.io', 'v1', 'leases', 'Lease'),
  endpointSlices: resource('discovery.k8s.io', 'v1', 'endpointslices', 'EndpointSlice'),
  tokenReviews: resource('authentication.k8s.io', 'v1', 'tokenreviews', 'TokenReview', false),
  mutatingWebhooks: resource(
    'admissionregistration.k8s.io',
    'v1',
    'mutatingwebhookconfigurations',
    'MutatingWebhookConfiguration',
    false,
  ),
  customResourceDefinitions: resource(
    'apiextensions.k8s.io',
    'v1',
    'customresourcedefinitions',
    'CustomResourceDefinition',
    false,
  ),
} as const satisfies Record<string, Resource>;

/** `apiVersion` of a resource's objects. */
export function apiVersionOf({ group, version }: Resource): string {
  return group === '' ? version : `${group}/${version}`;
}

/**
 * The path of a collection, or of one object, or of one object's subresource. Throws TypeError for an empty name: that would be the path
 * of the collection, and a DELETE of it deletes every object.
 */
export function pathOf(target: Resource, namespace?: string, name?: string, subresource?: string): string {
  const { group, version, plural, namespaced } = target;
  const parts = group === '' ? ['api', version] : ['apis', group, version];
  if (namespaced && namespace !== undefined) parts.push('namespaces', namespace);
  parts.push(plural);
  if (name === '') throw new TypeError(`a request for one of ${plural} without its name`);
  if (name !== undefined) parts.push(name);
  if (subresource !== undefined) parts.push(subresource);
  return `/${parts.map(encodeURIComponent).join('/')}`;
}

/** The plural of the resource that a path is about, as {@link pathOf} makes it. */
export function resourceOfPath(path: string): string {
  const parts = path.split('/').slice(1);
  const rest = parts[0] === 'api' ? parts.slice(2) : parts.slice(3);
  // `namespaces/x/pods/…` is about pods, `namespaces` and `namespaces/x` about namespaces.
  return (rest[0] === 'namespaces' && rest.length > 2 ? rest[2] : rest[0]) ?? '';
}

/** `namespace/name`, or the name alone: the key of an object in caches and queues. */
export function keyOf(object: KubernetesObject): string {
  const { namespace, name = '' } = object.metadata ?? {};
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/** The two parts of a namespaced key. */
export function splitKey(key: string): { namespace: string; name: string } {
  const slash = key.indexOf('/');
  return { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}
