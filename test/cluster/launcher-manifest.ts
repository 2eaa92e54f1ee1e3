// The virt-launcher pod that virt-controller makes for a VMI: labels, annotations, owner, volumes and mounts as KubeVirt's
// template service renders them for a VM with claims in Filesystem mode (kubevirt.md, 1 and 2). Pure.

import type { V1Pod } from '@kubernetes/client-node';
import { LAUNCHER_IMAGE } from './images.ts';
import { labels, type Vmi, type Vmim } from './kubevirt-objects.ts';

const QEMU_UID = 107;
const DISKS_PATH = '/var/run/kubevirt-private/vmi-disks';

/** emptyDirs of compute, by name and place. */
const EMPTY_DIRECTORIES: Readonly<Record<string, string>> = {
  private: '/var/run/kubevirt-private',
  public: '/var/run/kubevirt',
  sockets: '/var/run/kubevirt/sockets',
  'ephemeral-disks': '/var/run/kubevirt-ephemeral-disks',
  'libvirt-runtime': '/var/run/libvirt',
  'hotplug-disks': '/var/run/kubevirt/hotplug-disks',
};

/** A pod that VMI may run in; with `migration` its target. It is not bound to a node yet. */
export function launcherManifest(vmi: Vmi, migration?: Vmim): V1Pod {
  const { name, namespace, uid } = vmi.metadata;
  const disks = (vmi.spec.volumes ?? []).flatMap(({ name, persistentVolumeClaim }) =>
    persistentVolumeClaim === undefined ? [] : [{ name, claimName: persistentVolumeClaim.claimName }],
  );
  const suffix = (migration?.metadata.uid ?? uid).slice(0, 5);
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace,
      // KubeVirt lets the API server choose the suffix; this one makes a repeated creation the same.
      name: `virt-launcher-${name}-${suffix}`,
      labels: {
        ...vmi.metadata.labels,
        [labels.app]: labels.launcher,
        [labels.createdBy]: uid,
        ...(migration === undefined ? {} : { [labels.migrationJobUid]: migration.metadata.uid }),
      },
      annotations: {
        ...vmi.metadata.annotations,
        [labels.domain]: name,
        'kubectl.kubernetes.io/default-container': 'compute',
        ...(migration === undefined ? {} : { [labels.migrationJobName]: migration.metadata.name }),
      },
      ownerReferences: [
        {
          apiVersion: 'kubevirt.io/v1',
          kind: 'VirtualMachineInstance',
          ...{ name, uid, controller: true, blockOwnerDeletion: true },
        },
      ],
    },
    spec: {
      restartPolicy: 'Never',
      automountServiceAccountToken: false,
      terminationGracePeriodSeconds: 60,
      // The VM's own selector wins.
      nodeSelector: { ...migration?.spec.addedNodeSelector, ...vmi.spec.nodeSelector },
      securityContext: {
        ...{ fsGroup: QEMU_UID, runAsUser: QEMU_UID, runAsGroup: QEMU_UID, runAsNonRoot: true },
      },
      ...(migration === undefined ? {} : { affinity: awayFromItself(uid) }),
      containers: [
        {
          name: 'compute',
          image: LAUNCHER_IMAGE,
          imagePullPolicy: 'IfNotPresent',
          command: ['/usr/bin/virt-launcher-monitor', '--name', name, '--uid', uid, '--namespace', namespace],
          resources: { requests: { cpu: '100m', memory: '1300Mi', 'ephemeral-storage': '50M' } },
          securityContext: {
            ...{ runAsUser: QEMU_UID, runAsGroup: QEMU_UID, runAsNonRoot: true },
            allowPrivilegeEscalation: false,
            capabilities: { drop: ['ALL'], add: ['NET_BIND_SERVICE'] },
          },
          volumeMounts: [
            ...Object.entries(EMPTY_DIRECTORIES).map(([name, mountPath]) => ({ name, mountPath })),
            ...disks.map(({ name }) => ({ name, mountPath: `${DISKS_PATH}/${name}` })),
          ],
        },
      ],
      volumes: [
        ...Object.keys(EMPTY_DIRECTORIES).map((name) => ({ name, emptyDir: {} })),
        ...disks.map(({ name, claimName }) => ({ name, persistentVolumeClaim: { claimName } })),
      ],
    },
  };
}

/** A migration's target is on another node than the VMI's pods. */
function awayFromItself(vmiUid: string): object {
  return {
    podAntiAffinity: {
      requiredDuringSchedulingIgnoredDuringExecution: [
        {
          labelSelector: { matchLabels: { [labels.createdBy]: vmiUid } },
          topologyKey: 'kubernetes.io/hostname',
        },
      ],
    },
  };
}
