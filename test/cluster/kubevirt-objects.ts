// KubeVirt's objects as its own controllers see them: more fields than our operator reads, and written by JSON patches that
// replace a part whole. Names and meanings: kubevirt.io/v1, read in its types.go.

import type { KubernetesObject, V1ObjectMeta, V1Pod } from '@kubernetes/client-node';
import type { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { contentTypes, isNotFound } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';

export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False';
  readonly reason?: string;
  readonly message?: string;
}

/** The resolved configuration of a migration. */
export interface MigrationConfiguration {
  readonly allowAutoConverge?: boolean;
  readonly allowPostCopy?: boolean;
  readonly bandwidthPerMigration?: string;
  readonly completionTimeoutPerGiB?: number;
  readonly progressTimeout?: number;
  readonly maxDowntimeMs?: number;
  readonly parallelMigrationsPerCluster?: number;
  readonly parallelOutboundMigrationsPerNode?: number;
  readonly nodeDrainTaintKey?: string;
  readonly disableTLS?: boolean;
  readonly experimental?: { readonly compression?: string };
}

export interface MigrationState {
  readonly migrationUid: string;
  readonly sourceNode: string;
  readonly sourcePod: string;
  readonly targetNode: string;
  readonly targetPod: string;
  readonly migrationConfiguration: MigrationConfiguration;
  readonly targetNodeAddress?: string;
  readonly startTimestamp?: string;
  readonly endTimestamp?: string;
  readonly targetNodeDomainDetected?: boolean;
  readonly targetNodeDomainReadyTimestamp?: string;
  readonly completed?: boolean;
  readonly failed?: boolean;
  readonly failureReason?: string;
  readonly abortRequested?: boolean;
  readonly abortStatus?: string;
  readonly mode?: string;
}

export interface Vmi extends KubernetesObject {
  metadata: V1ObjectMeta & { name: string; namespace: string; uid: string };
  spec: {
    readonly nodeSelector?: Readonly<Record<string, string>>;
    readonly domain?: { readonly resources?: { readonly limits?: { readonly cpu?: string } } };
    readonly volumes?: readonly {
      readonly name: string;
      readonly persistentVolumeClaim?: { readonly claimName: string };
    }[];
  };
  status?: {
    readonly phase?: string;
    readonly nodeName?: string;
    readonly activePods?: Readonly<Record<string, string>>;
    readonly conditions?: readonly Condition[];
    readonly migrationState?: MigrationState;
  };
}

export interface Vmim extends KubernetesObject {
  metadata: V1ObjectMeta & { name: string; namespace: string; uid: string };
  spec: { readonly vmiName?: string; readonly addedNodeSelector?: Readonly<Record<string, string>> };
  status?: { readonly phase?: string; readonly conditions?: readonly Condition[] };
}

export const FINALIZER = 'kubevirt.io/migrationJobFinalize';

/** Labels and annotations that KubeVirt's controllers set and read. */
export const labels = {
  app: 'kubevirt.io',
  launcher: 'virt-launcher',
  createdBy: 'kubevirt.io/created-by',
  domain: 'kubevirt.io/domain',
  nodeName: 'kubevirt.io/nodeName',
  migrationJobUid: 'kubevirt.io/migrationJobUID',
  migrationJobName: 'kubevirt.io/migrationJobName',
  migrationTargetNodeName: 'kubevirt.io/migrationTargetNodeName',
  vmiName: 'kubevirt.io/vmi-name',
} as const;

export async function getVmi(api: ApiClient, namespace: string, name: string): Promise<Vmi | undefined> {
  return api.get<Vmi>(resources.virtualMachineInstances, namespace, name).catch(absentIfNotFound);
}

export async function getVmim(api: ApiClient, namespace: string, name: string): Promise<Vmim | undefined> {
  return api.get<Vmim>(resources.virtualMachineInstanceMigrations, namespace, name).catch(absentIfNotFound);
}

/** virt-launcher pods of a VMI, whatever their phase, the oldest first. */
export async function launcherPods(api: ApiClient, vmi: Vmi): Promise<V1Pod[]> {
  const { items } = await api.list<V1Pod>(resources.pods, vmi.metadata.namespace, {
    labelSelector: `${labels.createdBy}=${vmi.metadata.uid}`,
  });
  return items.sort((a, b) =>
    String(a.metadata?.creationTimestamp).localeCompare(String(b.metadata?.creationTimestamp)),
  );
}

/** Parts of a VMI's status, each replaced whole. KubeVirt's VMI has no status subresource. */
export async function setVmiStatus(
  api: ApiClient,
  vmi: Vmi,
  parts: Readonly<Record<string, unknown>>,
): Promise<void> {
  const { namespace, name } = vmi.metadata;
  const patch = [
    ...(vmi.status === undefined ? [{ op: 'add', path: '/status', value: {} }] : []),
    ...Object.entries(parts).map(([part, value]) => ({ op: 'add', path: `/status/${part}`, value })),
  ];
  await api.call('PATCH', pathOf(resources.virtualMachineInstances, namespace, name), {
    contentType: contentTypes.jsonPatch,
    body: patch,
  });
}

/** Fields of the migration's state; the others stay. Nothing is written when the VMI is in another migration by now. */
export async function patchMigrationState(
  api: ApiClient,
  vmi: Vmi,
  migrationUid: string,
  change: Partial<MigrationState>,
  more: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const { namespace, name } = vmi.metadata;
  const patch = [
    { op: 'test', path: '/status/migrationState/migrationUid', value: migrationUid },
    ...Object.entries(change).map(([field, value]) => ({
      op: 'add',
      path: `/status/migrationState/${field}`,
      value,
    })),
    ...Object.entries(more).map(([part, value]) => ({ op: 'add', path: `/status/${part}`, value })),
  ];
  await api.call('PATCH', pathOf(resources.virtualMachineInstances, namespace, name), {
    contentType: contentTypes.jsonPatch,
    body: patch,
  });
}

/** RFC 3339 in seconds, as the API server keeps times. */
export function instant(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}

export function isPodReady(pod: V1Pod): boolean {
  return (
    pod.status?.phase === 'Running' &&
    pod.metadata?.deletionTimestamp === undefined &&
    (pod.status.containerStatuses ?? []).every(({ ready }) => ready)
  );
}

export function isPodOver(pod: V1Pod): boolean {
  return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
}

export function isFinal(vmim: Vmim): boolean {
  return vmim.status?.phase === 'Succeeded' || vmim.status?.phase === 'Failed';
}

function absentIfNotFound(error: unknown): undefined {
  if (!isNotFound(error)) throw error;
}
