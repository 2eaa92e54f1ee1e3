// VMIs and what belongs to one: its KubeVirt migrations, its virt-launcher pods, the policy that applies, the backing of its claims.
import type {
  KubernetesObject,
  V1Namespace,
  V1PersistentVolume,
  V1PersistentVolumeClaim,
  V1Pod,
} from '@kubernetes/client-node';
import { driverOfVolume } from '../../operator/controller/claims.ts';
import {
  type Policy,
  type PolicyObject,
  readPolicy,
  selectPolicy,
} from '../../operator/controller/policies.ts';
import { claimOf } from '../../operator/controller/volumes.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { controllingVmi } from '../../operator/kubevirt/launcher-pod.ts';
import { launcherLabels, readVmi, readVmim, type Vmi, type Vmim } from '../../operator/kubevirt/objects.ts';
import { nearest } from '../command-line.ts';
import { isForbidden, PluginError } from '../errors.ts';
import type { ClusterClient } from './cluster-client.ts';
import { find } from './migrations.ts';

/** The VMI, or words about its absence. Throws {@link PluginError} with exit `notFound`. */
export async function vmiNamed(api: ClusterClient, namespace: string, name: string): Promise<Vmi> {
  const found = readVmi(
    await find(api.get<KubernetesObject>(resources.virtualMachineInstances, namespace, name)),
  );
  if (found !== undefined) return found;
  const others = await vmiNames(api, namespace);
  const meant = nearest(name, others);
  const next =
    meant !== undefined
      ? `Did you mean ${meant}?`
      : others.length === 0
        ? 'There are no VMIs in this namespace: a VM that does not run has none; choose another namespace with -n.'
        : `There are: ${others.slice(0, 10).join(', ')}${others.length > 10 ? ` and ${others.length - 10} more` : ''}.`;
  throw new PluginError(
    'notFound',
    `there is no VirtualMachineInstance ${name} in namespace ${namespace}`,
    next,
  );
}

export async function vmiNames(api: ClusterClient, namespace: string | undefined): Promise<string[]> {
  try {
    const all = await api.listAll<KubernetesObject>(resources.virtualMachineInstances, namespace);
    return all.map(({ metadata }) => metadata?.name ?? '').sort();
  } catch {
    // Names are only for help; what could not be read is told where it is needed.
    return [];
  }
}

export async function vmisIn(api: ClusterClient, namespace: string | undefined): Promise<Vmi[]> {
  const objects = await api.listAll<KubernetesObject>(resources.virtualMachineInstances, namespace);
  return objects.flatMap((object) => readVmi(object) ?? []);
}

/** KubeVirt's migrations; empty where one may not see them. */
export async function kubevirtMigrations(api: ClusterClient, namespace: string): Promise<Vmim[]> {
  const objects = await orWhenForbidden(
    api.listAll<KubernetesObject>(resources.virtualMachineInstanceMigrations, namespace),
    [],
  );
  return objects.flatMap((object) => readVmim(object) ?? []);
}

export function launcherPods(api: ClusterClient, namespace: string | undefined): Promise<V1Pod[]> {
  return api.listAll<V1Pod>(resources.pods, namespace, {
    labelSelector: `${launcherLabels.app}=${launcherLabels.launcher}`,
  });
}

export function podsOfVmi(pods: readonly V1Pod[], { metadata }: Vmi): V1Pod[] {
  return pods.filter(
    (pod) => pod.metadata?.namespace === metadata.namespace && controllingVmi(pod)?.uid === metadata.uid,
  );
}

export async function policies(api: ClusterClient): Promise<{ objects: PolicyObject[]; readable: Policy[] }> {
  const objects = await api.listAll<PolicyObject>(resources.nasMigrationPolicies);
  return { objects, readable: objects.flatMap((object) => readPolicy(object) ?? []) };
}

export async function namespaceLabels(api: ClusterClient): Promise<Map<string, Record<string, string>>> {
  const all = await orWhenForbidden(api.listAll<V1Namespace>(resources.namespaces), []);
  return new Map(all.map(({ metadata }) => [metadata?.name ?? '', metadata?.labels ?? {}]));
}

/** Every namespace carries its own name as a label, also one whose labels may not be read. */
export function labelsOfNamespace(
  labels: ReadonlyMap<string, Record<string, string>>,
  namespace: string,
): Record<string, string> {
  return labels.get(namespace) ?? { 'kubernetes.io/metadata.name': namespace };
}

export function policyFor(
  vmi: Vmi,
  readable: readonly Policy[],
  labels: ReadonlyMap<string, Record<string, string>>,
): Policy | undefined {
  return selectPolicy(readable, vmi.metadata.labels ?? {}, labelsOfNamespace(labels, vmi.metadata.namespace))
    ?.policy;
}

/** Above it two lists are quicker than two requests for each. */
const MANY_CLAIMS = 8;

/** What is behind claims, by `namespace/claim`. */
export interface Claims {
  /** The driver of each bound claim. */
  drivers: ReadonlyMap<string, string>;
  /** Claims of which nothing is known, because they or their volumes may not be read: the view role has no PersistentVolumes. */
  unreadable: ReadonlySet<string>;
}

export async function claimsOf(api: ClusterClient, vmis: readonly Vmi[]): Promise<Claims> {
  const drivers = new Map<string, string>();
  const unreadable = new Set<string>();
  const wanted = new Set(
    vmis.flatMap(({ metadata, spec }) =>
      spec.volumes.flatMap((volume) => {
        const claim = claimOf(volume);
        return claim === undefined ? [] : [`${metadata.namespace}/${claim}`];
      }),
    ),
  );
  if (wanted.size > MANY_CLAIMS) {
    const lists = await orWhenForbidden(
      Promise.all([
        api.listAll<V1PersistentVolumeClaim>(resources.persistentVolumeClaims),
        api.listAll<V1PersistentVolume>(resources.persistentVolumes),
      ]),
      undefined,
    );
    if (lists !== undefined) {
      const [claims, volumes] = lists;
      const driverOf = new Map(
        volumes.map((volume) => [volume.metadata?.name ?? '', driverOfVolume(volume)]),
      );
      for (const { metadata, spec } of claims) {
        const key = `${metadata?.namespace}/${metadata?.name}`;
        const driver = driverOf.get(spec?.volumeName ?? '');
        if (wanted.has(key) && driver !== undefined) drivers.set(key, driver);
      }
      return { drivers, unreadable };
    }
  }
  for (const key of wanted) {
    const [namespace = '', claim = ''] = key.split('/');
    try {
      const found = await find(
        api.get<V1PersistentVolumeClaim>(resources.persistentVolumeClaims, namespace, claim),
      );
      const volumeName = found?.spec?.volumeName;
      if (volumeName === undefined || volumeName === '') continue;
      const volume = await find(
        api.get<V1PersistentVolume>(resources.persistentVolumes, undefined, volumeName),
      );
      const driver = volume === undefined ? undefined : driverOfVolume(volume);
      if (driver !== undefined) drivers.set(key, driver);
    } catch (error) {
      if (!isForbidden(error)) throw error;
      unreadable.add(key);
    }
  }
  return { drivers, unreadable };
}

/** Whether one of these volumes may be usable after all: its claim could not be read. */
export function mayBeUsable(
  { metadata, spec }: Vmi,
  refused: readonly { name: string }[],
  unreadable: ReadonlySet<string>,
): boolean {
  return spec.volumes.some((volume) => {
    const claim = claimOf(volume);
    return (
      claim !== undefined &&
      unreadable.has(`${metadata.namespace}/${claim}`) &&
      refused.some(({ name }) => name === volume.name)
    );
  });
}

/** What a person may not read is not known, and no reason to end. */
export async function orWhenForbidden<T>(reading: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    if (isForbidden(error)) return otherwise;
    throw error;
  }
}
