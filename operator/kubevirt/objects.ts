// What the operator reads of KubeVirt's objects, checked once where they enter. A field of an unexpected shape counts as
// absent: whatever an API server lets in leads to a condition, never to a crash. Names and meanings are KubeVirt's.

import type { KubernetesObject } from '@kubernetes/client-node';
import { z } from 'zod';
import { checked } from '../../control/checked.ts';

const text = z.string().optional().catch(undefined);
const flag = z.boolean().optional().catch(undefined);
const labels = z.record(z.string(), z.string()).optional().catch(undefined);

/** Entries that do not fit are left out; the others stay. */
function listOf<T extends z.ZodType>(item: T) {
  return z
    .array(z.unknown())
    .catch([])
    .transform((entries) =>
      entries.flatMap((entry) => {
        const parsed = checked(item, entry);
        return parsed.success ? [parsed.data] : [];
      }),
    );
}

const ownerReferences = listOf(
  z.object({ apiVersion: z.string(), kind: z.string(), name: z.string(), uid: z.string(), controller: flag }),
);

const metadata = z.object({
  name: z.string(),
  namespace: z.string().catch(''),
  uid: z.string().catch(''),
  resourceVersion: text,
  creationTimestamp: text,
  deletionTimestamp: text,
  labels,
  annotations: labels,
  ownerReferences,
  finalizers: listOf(z.string()),
});

const conditions = listOf(z.object({ type: z.string(), status: z.string(), reason: text, message: text }));

const quantity = z.union([z.string(), z.number()]).optional().catch(undefined);

/** The resolved MigrationConfiguration of a migration, from `vmi.status.migrationState`. */
const migrationConfiguration = z
  .object({
    allowPostCopy: flag,
    allowWorkloadDisruption: flag,
    bandwidthPerMigration: quantity,
    maxDowntimeMs: z.number().optional().catch(undefined),
    disableTLS: flag,
    experimental: z.object({ compression: text }).optional().catch(undefined),
  })
  .optional()
  .catch(undefined);
export type MigrationConfiguration = NonNullable<z.infer<typeof migrationConfiguration>>;

const migrationState = z
  .object({
    migrationUid: text,
    sourceNode: text,
    targetNode: text,
    sourcePod: text,
    targetPod: text,
    completed: flag,
    failed: flag,
    failureReason: text,
    startTimestamp: text,
    endTimestamp: text,
    mode: text,
    migrationConfiguration,
  })
  .optional()
  .catch(undefined);

const present = z.unknown().optional();

const volume = z.object({
  name: z.string(),
  persistentVolumeClaim: z.object({ claimName: z.string(), hotpluggable: flag }).optional().catch(undefined),
  dataVolume: z.object({ name: z.string(), hotpluggable: flag }).optional().catch(undefined),
  containerDisk: present,
  cloudInitNoCloud: present,
});
export type VmiVolume = z.infer<typeof volume>;

const volumeStatus = z.object({
  name: z.string(),
  hotplugVolume: present,
  persistentVolumeClaimInfo: z
    .object({ claimName: text, accessModes: listOf(z.string()), volumeMode: text })
    .optional()
    .catch(undefined),
});

/** `bridge` is an empty object where that is the binding. */
const networkInterface = z.object({ name: z.string(), bridge: present });

const vmiSchema = z.object({
  metadata,
  spec: z
    .object({
      volumes: listOf(volume),
      networks: listOf(z.object({ name: z.string(), pod: present })),
      domain: z
        .object({
          devices: z
            .object({ interfaces: listOf(networkInterface) })
            .optional()
            .catch(undefined),
        })
        .optional()
        .catch(undefined),
    })
    .catch({ volumes: [], networks: [] }),
  status: z
    .object({
      phase: text,
      nodeName: text,
      conditions,
      migrationState,
      migrationMethod: text,
      activePods: labels,
      volumeStatus: listOf(volumeStatus),
      migratedVolumes: listOf(present),
      runtimeUser: z.number().optional().catch(undefined),
    })
    .catch({ conditions: [], volumeStatus: [], migratedVolumes: [] }),
});

/** A VirtualMachineInstance, as far as it is read. */
export type Vmi = z.infer<typeof vmiSchema>;

const vmimSchema = z.object({
  metadata,
  spec: z.object({ vmiName: text, sendTo: present, receive: present, addedNodeSelector: labels }).catch({}),
  status: z.object({ phase: text, conditions, migrationState }).catch({ conditions: [] }),
});

/** A VirtualMachineInstanceMigration, as far as it is read. */
export type Vmim = z.infer<typeof vmimSchema>;

/** Undefined when not even its name can be read. */
export function readVmi(object: KubernetesObject | undefined): Vmi | undefined {
  const parsed = checked(vmiSchema, withStatus(object));
  return parsed.success ? parsed.data : undefined;
}

export function readVmim(object: KubernetesObject | undefined): Vmim | undefined {
  const parsed = checked(vmimSchema, withStatus(object));
  return parsed.success ? parsed.data : undefined;
}

/** The guest has the pod's address then, and the pod none: a sidecar in it reaches nobody. */
export function isPodNetworkBridged({ spec }: Vmi): boolean {
  const bridged = spec.domain?.devices?.interfaces.filter(({ bridge }) => isObject(bridge)) ?? [];
  return bridged.some(({ name }) =>
    spec.networks.some((network) => network.name === name && isObject(network.pod)),
  );
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

/** KubeVirt leaves status out before it has one. */
function withStatus(object: KubernetesObject | undefined): unknown {
  return object === undefined ? undefined : { spec: {}, status: {}, ...object };
}

/** Phases after which KubeVirt does nothing more with a migration. */
export function isFinal(migration: Vmim): boolean {
  return migration.status.phase === 'Succeeded' || migration.status.phase === 'Failed';
}

/** Labels and annotations of virt-launcher pods that KubeVirt sets (pkg/virt-controller/services/template.go). */
export const launcherLabels = {
  app: 'kubevirt.io',
  launcher: 'virt-launcher',
  createdBy: 'kubevirt.io/created-by',
  migrationJobUid: 'kubevirt.io/migrationJobUID',
  ephemeralProvisioning: 'kubevirt.io/ephemeral-provisioning',
  domain: 'kubevirt.io/domain',
} as const;
