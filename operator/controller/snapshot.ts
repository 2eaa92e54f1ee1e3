// Everything a decision about one NasAwareMigration is made from, as values: the object, KubeVirt's objects, the policy, what
// the sidecars said. Collected by the reconciler from caches; nothing in it is fetched later.

import type { KubernetesObject, V1ObjectMeta } from '@kubernetes/client-node';
import { checked } from '../../control/checked.ts';
import type { IndexStatus } from '../../control/messages.ts';
import type { Acceleration } from '../../crds/fields.ts';
import {
  type NasAwareMigrationSpec,
  type NasAwareMigrationStatus,
  nasAwareMigrationSpecSchema,
  nasAwareMigrationStatusSchema,
} from '../../crds/nas-aware-migration.ts';
import type { CoordinationView } from '../hub/coordinator.ts';
import type { Vmi, Vmim } from '../kubevirt/objects.ts';
import type { BreakerState } from './breaker.ts';
import type { Policy } from './policies.ts';
import type { UsableVolumes } from './volumes.ts';

export const FINALIZER = 'nasmigration.io/cancel';
/** On an object that the operator made for a migration that somebody else started. */
export const ADOPTED_LABEL = 'nasmigration.io/adopted';

/** A NasAwareMigration as it is stored: its spec and status are checked by readMigration. */
export type MigrationObject = KubernetesObject & {
  metadata?: V1ObjectMeta;
  spec?: unknown;
  status?: unknown;
};

export interface Migration {
  namespace: string;
  name: string;
  uid: string;
  generation: number;
  /**
   * When an operator first looked at it, by an operator's clock: the beginning of every wait. creationTimestamp is by the API server's
   * clock, which may be another hour. Undefined when this is the first look.
   */
  firstSeenMs: number | undefined;
  deleting: boolean;
  hasFinalizer: boolean;
  adopted: boolean;
  spec: NasAwareMigrationSpec;
  status: NasAwareMigrationStatus;
  /** False when there is a status that this release cannot read: `status` is empty then, and says nothing of what was done already. */
  isStatusReadable: boolean;
}

/** Undefined for an object of another schema version that cannot be read: nobody must act on a guess. */
export function readMigration(object: MigrationObject): Migration | undefined {
  const spec = checked(nasAwareMigrationSpecSchema, object.spec);
  if (!spec.success) return undefined;
  const status = checked(nasAwareMigrationStatusSchema, object.status ?? {});
  const metadata = object.metadata ?? {};
  return {
    namespace: metadata.namespace ?? '',
    name: metadata.name ?? '',
    uid: metadata.uid ?? '',
    generation: metadata.generation ?? 0,
    firstSeenMs: status.success ? firstSeenMs(status.data) : undefined,
    deleting: metadata.deletionTimestamp !== undefined,
    hasFinalizer: metadata.finalizers?.includes(FINALIZER) === true,
    adopted: metadata.labels?.[ADOPTED_LABEL] === 'true',
    spec: spec.data,
    status: status.success ? status.data : {},
    isStatusReadable: status.success,
  };
}

/** The condition Complete is False from the first status on, and changes once. */
function firstSeenMs({ conditions = [] }: NasAwareMigrationStatus): number | undefined {
  const complete = conditions.find(({ type }) => type === 'Complete');
  return complete?.status === 'False' ? Date.parse(complete.lastTransitionTime) : undefined;
}

export interface PodFacts {
  name: string;
  uid: string;
  node: string | undefined;
  /** In the VMI's activePods, and controlled by the VMI. */
  belongsToVmi: boolean;
  hasSidecar: boolean;
  connected: boolean;
  index: IndexStatus | undefined;
  /** Versions of the link that its sidecar speaks; only while it is connected. */
  link: LinkRange | undefined;
}

export interface LinkRange {
  min: number;
  max: number;
}

/** Whether the NAS may be read: a permit of each server is held, or why not. */
export interface PermitState {
  granted: boolean;
  detail: string;
}

export interface Snapshot {
  nowMs: number;
  migration: Migration;
  vmi: Vmi | undefined;
  /** The KubeVirt migration of this object, as far as the cache has it. */
  vmim: Vmim | undefined;
  /** Other KubeVirt migrations of the same VMI. */
  others: readonly Vmim[];
  policy: Policy | undefined;
  volumes: UsableVolumes;
  breaker: BreakerState;
  sourcePod: PodFacts | undefined;
  targetPod: PodFacts | undefined;
  coordination: CoordinationView | undefined;
  /** It is the success that clears earlier failures of its VM, of which some are still there. */
  clearsFailures: boolean;
  /** A new leader has heard of no sidecar yet: until then one that is not connected may only be on its way back. */
  reconnectUntilMs: number;
  /** What QEMU wrote in the VM's last accelerated migration; undefined when there is none, or it is too old to tell. */
  lastQemuBytes: number | undefined;
  /** The VM's last accelerated migration showed that a plain one would have been faster. */
  isPlainFaster: boolean;
  /** Whether it holds a permit from before. */
  holdsPermit: boolean;
  /** Undefined when none is wanted. */
  permit: PermitState | undefined;
}

/** Spec first, then the policy, then Preferred. */
export function effectiveAcceleration({
  migration,
  policy,
}: Pick<Snapshot, 'migration' | 'policy'>): Acceleration {
  return migration.spec.acceleration ?? policy?.spec.defaults?.acceleration ?? 'Preferred';
}
