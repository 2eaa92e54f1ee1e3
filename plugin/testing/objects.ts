// Objects for unit tests of the plugin: a migration, a VM, a pod as they come from the API server, with what a test says otherwise.
import type { V1Pod } from '@kubernetes/client-node';
import type { NasAwareMigrationSpec, NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { readVmi, type Vmi } from '../../operator/kubevirt/objects.ts';
import { type Migration, readMigration } from '../cluster/migration.ts';
import { paletteFor, signsFor } from '../output/colours.ts';
import type { VerbContext } from '../verb.ts';

export const NOW_MS = Date.parse('2026-11-23T12:00:00Z');

let serial = 0;

export function migration(
  name: string,
  status: NasAwareMigrationStatus = {},
  more: {
    vmi?: string;
    namespace?: string;
    createdAgoMs?: number;
    spec?: Partial<NasAwareMigrationSpec>;
    adopted?: boolean;
  } = {},
): Migration {
  serial += 1;
  const read = readMigration({
    apiVersion: 'nasmigration.io/v1alpha1',
    kind: 'NasAwareMigration',
    metadata: {
      namespace: more.namespace ?? 'shop',
      name,
      uid: `uid-${serial}`,
      creationTimestamp: new Date(NOW_MS - (more.createdAgoMs ?? 60_000)).toISOString() as unknown as Date,
      ...(more.adopted === true ? { labels: { 'nasmigration.io/adopted': 'true' } } : {}),
    },
    spec: { vmiName: more.vmi ?? 'db', ...more.spec },
    status,
  });
  if (read === undefined) throw new Error('a migration of the test cannot be read');
  return read;
}

export const instant = (agoMs = 0) => new Date(NOW_MS - agoMs).toISOString().replace(/\.\d+Z$/, 'Z');

export function condition(
  type: string,
  status: 'True' | 'False' | 'Unknown',
  reason: string,
  message = 'words',
) {
  return { type, status, reason, message, lastTransitionTime: instant() };
}

export const progress = (change: Partial<NonNullable<NasAwareMigrationStatus['progress']>> = {}) => ({
  percent: 43,
  iteration: 1,
  remainingBytes: 400 * 1024 * 1024,
  bytesPerSecond: 210 * 1024 * 1024,
  secondsLeft: 2,
  linkBytes: 75 * 1024 * 1024,
  nasBytes: 1600 * 1024 * 1024,
  updateTime: instant(),
  ...change,
});

/** An observed migration sends everything; what it would have been stands beside it. */
const whole = { linkBytes: 980_000_000, nasBytes: 0, savedBytes: 0, savedPercent: 0 };
const wouldBe = {
  linkBytes: 80_000_000,
  nasBytes: 700_000_000,
  savedBytes: 900_000_000,
  savedPercent: 90,
  pages: { reference: 200_000, literalRaw: 1000, literalCompressed: 38_000, zero: 22_000 },
  hitsCountedTimes: 8,
};
const without = <T extends object, Name extends keyof T>(object: T, name: Name): Omit<T, Name> => {
  const { [name]: _left, ...rest } = object;
  return rest;
};

export const succeeded = (
  attempt: 'Accelerated' | 'Observed' | 'Plain' | 'FailedWhileArmed',
  result: Omit<Partial<NonNullable<NasAwareMigrationStatus['result']>>, 'estimate'> & {
    estimate?: Partial<typeof wouldBe>;
  } = {},
): NasAwareMigrationStatus => ({
  phase: attempt === 'FailedWhileArmed' ? 'Failed' : 'Succeeded',
  completionTime: instant(30_000),
  conditions: [
    attempt === 'Accelerated'
      ? condition('Accelerated', 'True', 'Framed', 'pages came from the NAS')
      : condition('Accelerated', 'False', attempt === 'Observed' ? 'Observing' : 'NoSidecar'),
    condition('Complete', 'True', 'Migrated', 'the VM runs on node-2'),
  ],
  result: {
    accelerated: attempt === 'Accelerated',
    attempt,
    qemuBytes: 1_000_000_000,
    linkBytes: 80_000_000,
    nasBytes: 700_000_000,
    savedBytes: 900_000_000,
    savedPercent: 90,
    pages: { reference: 200_000, literalRaw: 1000, literalCompressed: 38_000, zero: 22_000 },
    resends: 0,
    iterations: 3,
    durationMs: 14_920,
    downtimeMs: 111,
    ...(attempt === 'Observed' ? { ...whole, estimate: { ...wouldBe, ...result.estimate } } : {}),
    ...without(result, 'estimate'),
  },
});

export function vmi(
  name: string,
  change: { status?: object; spec?: object; labels?: Record<string, string>; namespace?: string } = {},
): Vmi {
  const read = readVmi({
    apiVersion: 'kubevirt.io/v1',
    kind: 'VirtualMachineInstance',
    metadata: {
      namespace: change.namespace ?? 'shop',
      name,
      uid: `vmi-${name}`,
      labels: change.labels ?? {},
    },
    spec: {
      volumes: [{ name: 'root', persistentVolumeClaim: { claimName: `${name}-root` } }],
      ...change.spec,
    },
    status: {
      phase: 'Running',
      volumeStatus: [
        {
          name: 'root',
          persistentVolumeClaimInfo: {
            claimName: `${name}-root`,
            accessModes: ['ReadWriteMany'],
            volumeMode: 'Filesystem',
          },
        },
      ],
      ...change.status,
    },
  } as object);
  if (read === undefined) throw new Error('a VMI of the test cannot be read');
  return read;
}

export function launcherPod(
  of: Vmi,
  change: { sidecar?: string | false; status?: V1Pod['status'] } = {},
): V1Pod {
  const image = change.sidecar ?? 'registry.example/nas-aware-migration:0.1.0';
  return {
    metadata: {
      namespace: of.metadata.namespace,
      name: `virt-launcher-${of.metadata.name}-abc`,
      uid: `pod-${of.metadata.name}`,
      labels: { 'kubevirt.io': 'virt-launcher' },
      ownerReferences: [
        {
          apiVersion: 'kubevirt.io/v1',
          kind: 'VirtualMachineInstance',
          name: of.metadata.name,
          uid: of.metadata.uid,
          controller: true,
        },
      ],
    },
    spec: {
      containers: [{ name: 'compute' }],
      ...(image === false ? {} : { initContainers: [{ name: SIDECAR_CONTAINER, image }] }),
    },
    status: { phase: 'Running', ...change.status },
  };
}

/** A terminal without colours whose output is kept. */
export function plainTerminal(): VerbContext['terminal'] & { written: string[]; noted: string[] } {
  const written: string[] = [];
  const noted: string[] = [];
  return {
    write: (text) => void written.push(text),
    note: (text) => void noted.push(text),
    isTerminal: false,
    palette: paletteFor(false, {}),
    signs: signsFor({}),
    written,
    noted,
  };
}
