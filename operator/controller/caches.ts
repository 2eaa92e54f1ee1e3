// The caches that decisions are made from, with the look-ups that they need. What nobody reads is dropped on the way in.
import type {
  KubernetesObject,
  V1Namespace,
  V1PersistentVolume,
  V1PersistentVolumeClaim,
  V1Pod,
} from '@kubernetes/client-node';
import type { ApiClient } from '../kubernetes/api-client.ts';
import { Informer } from '../kubernetes/informer.ts';
import { keyOf, resources } from '../kubernetes/resources.ts';
import { controllingVmi, SIDECAR_CONTAINER } from '../kubevirt/launcher-pod.ts';
import { launcherLabels } from '../kubevirt/objects.ts';
import { attemptIndexValues, byAttempt } from './attempts.ts';
import type { PolicyObject } from './policies.ts';
import type { MigrationObject } from './snapshot.ts';

/** KubeVirt's objects as they come; they are read with kubevirt/objects.ts where they are used. */
export type KubevirtObject = KubernetesObject & { spec?: { vmiName?: unknown }; status?: unknown };

export interface Caches {
  migrations: Informer<MigrationObject>;
  policies: Informer<PolicyObject>;
  vmis: Informer<KubevirtObject>;
  vmims: Informer<KubevirtObject>;
  pods: Informer<V1Pod>;
  namespaces: Informer<V1Namespace>;
  claims: Informer<V1PersistentVolumeClaim>;
  volumes: Informer<V1PersistentVolume>;
}

/** Names of the indexes. */
export const byVmi = 'vmi';
export const byOwner = 'owner';
export const byPodUid = 'podUid';
export const byMigrationUid = 'migrationUid';
export const byMigrationName = 'migrationName';

export function createCaches(api: ApiClient, onProblem: (problem: string) => void): Caches {
  return {
    migrations: new Informer<MigrationObject>(api, resources.nasAwareMigrations, {
      onProblem,
      indexes: {
        [byVmi]: (object) => vmiKeyOf(object, specOf(object)?.['vmiName']),
        [byMigrationUid]: (object) => {
          const uid = (object.status as { migration?: { uid?: unknown } } | undefined)?.migration?.uid;
          return typeof uid === 'string' ? [uid] : [];
        },
        [byAttempt]: attemptIndexValues,
        [byMigrationName]: (object) => vmiKeyOf(object, specOf(object)?.['migrationName']),
      },
    }),
    policies: new Informer<PolicyObject>(api, resources.nasMigrationPolicies, { onProblem }),
    vmis: new Informer<KubevirtObject>(api, resources.virtualMachineInstances, { onProblem, trim: trimVmi }),
    vmims: new Informer<KubevirtObject>(api, resources.virtualMachineInstanceMigrations, {
      onProblem,
      indexes: {
        [byVmi]: (object) => vmiKeyOf(object, object.spec?.vmiName),
        [byOwner]: (object) => object.metadata?.ownerReferences?.map(({ uid }) => uid) ?? [],
      },
    }),
    pods: new Informer<V1Pod>(api, resources.pods, {
      onProblem,
      labelSelector: `${launcherLabels.app}=${launcherLabels.launcher}`,
      trim: trimPod,
      indexes: {
        [byVmi]: (pod) => {
          const vmi = controllingVmi(pod);
          return vmi === undefined ? [] : [`${pod.metadata?.namespace ?? ''}/${vmi.name}`];
        },
        [byPodUid]: (pod) => [pod.metadata?.uid ?? ''],
      },
    }),
    namespaces: new Informer<V1Namespace>(api, resources.namespaces, { onProblem, trim: trimMetadata }),
    claims: new Informer<V1PersistentVolumeClaim>(api, resources.persistentVolumeClaims, {
      onProblem,
      trim: trimClaim,
    }),
    volumes: new Informer<V1PersistentVolume>(api, resources.persistentVolumes, {
      onProblem,
      trim: trimVolume,
    }),
  };
}

export function startCaches(caches: Caches): Promise<unknown> {
  const all = Object.values(caches) as Informer<KubernetesObject>[];
  for (const informer of all) informer.start();
  return Promise.all(all.map(({ synced }) => synced));
}

export function stopCaches(caches: Caches): Promise<unknown> {
  return Promise.all(
    (Object.values(caches) as Informer<KubernetesObject>[]).map((informer) => informer.stop()),
  );
}

/** `namespace/name` of a VMI or migration that an object of the same namespace names. */
function vmiKeyOf(object: KubernetesObject, name: unknown): string[] {
  return typeof name === 'string' ? [`${object.metadata?.namespace ?? ''}/${name}`] : [];
}

function specOf(object: MigrationObject): Record<string, unknown> | undefined {
  return object.spec as Record<string, unknown> | undefined;
}

/** A VMI of a thousand: its domain is most of it, and nobody reads much of that here. */
function trimVmi(object: KubevirtObject): void {
  const spec = object.spec as Record<string, unknown> | undefined;
  if (spec === undefined || typeof spec !== 'object') return;
  for (const name of Object.keys(spec))
    if (name !== 'volumes' && name !== 'networks' && name !== 'domain') delete spec[name];
  trimDomain(spec);
  const status = object.status as Record<string, unknown> | undefined;
  if (status === undefined || typeof status !== 'object') return;
  for (const name of [
    'interfaces',
    'guestOSInfo',
    'phaseTransitionTimestamps',
    'topologyHints',
    'currentCPUTopology',
  ]) {
    delete status[name];
  }
}

/** How the interfaces are bound is read, and nothing else of them. */
function trimDomain(spec: Record<string, unknown>): void {
  const domain = spec['domain'] as { devices?: { interfaces?: unknown } } | null | undefined;
  const interfaces = domain?.devices?.interfaces;
  spec['domain'] = Array.isArray(interfaces)
    ? {
        devices: {
          interfaces: interfaces.map((one: { name?: unknown; bridge?: unknown } | null) => ({
            name: one?.name,
            ...(one?.bridge === undefined ? {} : { bridge: one.bridge }),
          })),
        },
      }
    : {};
}

/** What readers of the cache ask of a pod: its place, its sidecar and how that fares, whether it was scheduled. */
export function trimPod(pod: V1Pod): void {
  const { spec, status } = pod;
  pod.spec = {
    containers: [],
    initContainers: (spec?.initContainers ?? []).map(({ name }) => ({ name })),
    ...(spec?.nodeName === undefined ? {} : { nodeName: spec.nodeName }),
  };
  const scheduled = status?.conditions?.filter(({ type }) => type === 'PodScheduled') ?? [];
  const sidecar = status?.initContainerStatuses?.filter(({ name }) => name === SIDECAR_CONTAINER) ?? [];
  pod.status = {
    ...(status?.phase === undefined ? {} : { phase: status.phase }),
    ...(scheduled.length === 0 ? {} : { conditions: scheduled }),
    ...(sidecar.length === 0 ? {} : { initContainerStatuses: sidecar }),
  };
  delete pod.metadata?.annotations;
}

function trimClaim(claim: V1PersistentVolumeClaim): void {
  const { accessModes, volumeMode, volumeName } = claim.spec ?? {};
  claim.spec = {
    ...(accessModes === undefined ? {} : { accessModes }),
    ...(volumeMode === undefined ? {} : { volumeMode }),
    ...(volumeName === undefined ? {} : { volumeName }),
  };
  delete claim.status;
  trimMetadata(claim);
}

function trimVolume(volume: V1PersistentVolume): void {
  const { nfs, csi } = volume.spec ?? {};
  const server = csi?.volumeAttributes?.['server'];
  volume.spec = {
    ...(nfs === undefined ? {} : { nfs: { server: nfs.server, path: '' } }),
    ...(csi === undefined
      ? {}
      : {
          csi: {
            driver: csi.driver,
            volumeHandle: '',
            ...(server === undefined ? {} : { volumeAttributes: { server } }),
          },
        }),
  };
  delete volume.status;
  trimMetadata(volume);
}

/** Of objects that are only looked up: by name, and for namespaces by label. */
function trimMetadata({ kind, metadata }: KubernetesObject): void {
  if (metadata === undefined) return;
  delete metadata.annotations;
  delete metadata.ownerReferences;
  delete metadata.finalizers;
  if (kind !== resources.namespaces.kind) delete metadata.labels;
}

/** The key of the object an informer has, for a reference in the same namespace. */
export function siblingKey(object: KubernetesObject, name: string): string {
  return keyOf({
    metadata: {
      ...(object.metadata?.namespace === undefined ? {} : { namespace: object.metadata.namespace }),
      name,
    },
  });
}
