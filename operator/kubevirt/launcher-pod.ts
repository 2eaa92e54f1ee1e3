// What the operator reads of a virt-launcher pod, and which VMI it belongs to.
import type { V1Pod } from '@kubernetes/client-node';
import { launcherLabels } from './objects.ts';

/** The name of the native sidecar that injection adds. */
export const SIDECAR_CONTAINER = 'nas-aware-migration';

/** UID and name of the VMI that controls this pod; undefined when it is not a virt-launcher pod of a VMI. */
export function controllingVmi(pod: V1Pod): { name: string; uid: string } | undefined {
  if (pod.metadata?.labels?.[launcherLabels.app] !== launcherLabels.launcher) return undefined;
  const owner = pod.metadata.ownerReferences?.find(({ controller }) => controller === true);
  if (owner?.kind !== 'VirtualMachineInstance' || !owner.apiVersion.startsWith('kubevirt.io/'))
    return undefined;
  return { name: owner.name, uid: owner.uid };
}

/** True when injection added a sidecar to this pod. */
export function hasSidecar(pod: V1Pod): boolean {
  return pod.spec?.initContainers?.some(({ name }) => name === SIDECAR_CONTAINER) === true;
}

export function isOver(pod: V1Pod): boolean {
  return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
}
