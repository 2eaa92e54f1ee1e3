// Which volumes of a VM both nodes can read the same bytes from: a PersistentVolumeClaim that is ReadWriteMany, in Filesystem
// mode (raw disk.img), present in the launcher pod, on a driver that is a shared file system. Everything else gets a
// reason in words. Pure; the claim's driver is looked up by the caller.
import type { Vmi, VmiVolume } from '../kubevirt/objects.ts';

export interface UsableVolumes {
  /** Pod volume names, which are the VMI's volume names. */
  usable: string[];
  /** For each other volume that was considered: why not. */
  refused: { name: string; why: string }[];
}

/** The name of a claim's driver: `nfs` for an in-tree NFS volume, a CSI driver's name, undefined when not bound. */
export type DriverOfClaim = (claimName: string) => string | undefined;

/** CSI drivers of shared file systems that give the same bytes to every node, and the in-tree NFS volume. */
export const defaultSharedFileSystemDrivers: readonly string[] = [
  'nfs',
  'nfs.csi.k8s.io',
  'csi.trident.netapp.io',
  'csi-isilon.dellemc.com',
  'efs.csi.aws.com',
  'filestore.csi.storage.gke.io',
  'file.csi.azure.com',
  'driver.longhorn.io',
  'openshift-storage.cephfs.csi.ceph.com',
  'cephfs.csi.ceph.com',
];

/** The claim of a VMI volume, if it has one: a DataVolume's claim carries its name. */
export function claimOf(volume: VmiVolume): string | undefined {
  return volume.persistentVolumeClaim?.claimName ?? volume.dataVolume?.name;
}

/** `wanted`: names from the spec; undefined means every volume that can be used. */
export function usableVolumes(
  vmi: Vmi,
  wanted: readonly string[] | undefined,
  driverOf: DriverOfClaim,
  sharedDrivers: ReadonlySet<string>,
): UsableVolumes {
  const result: UsableVolumes = { usable: [], refused: [] };
  const byName = new Map(vmi.spec.volumes.map((volume) => [volume.name, volume]));
  for (const name of wanted ?? byName.keys()) {
    const volume = byName.get(name);
    const why =
      volume === undefined ? 'the VM has no such volume' : whyNot(vmi, volume, driverOf, sharedDrivers);
    if (why === undefined) result.usable.push(name);
    else result.refused.push({ name, why });
  }
  return result;
}

function whyNot(
  vmi: Vmi,
  volume: VmiVolume,
  driverOf: DriverOfClaim,
  sharedDrivers: ReadonlySet<string>,
): string | undefined {
  const claim = claimOf(volume);
  if (claim === undefined) return 'not on a PersistentVolumeClaim';
  if (volume.persistentVolumeClaim?.hotpluggable === true || volume.dataVolume?.hotpluggable === true) {
    return 'hot-plugged, so not a volume of the virt-launcher pod';
  }
  const status = vmi.status.volumeStatus.find(({ name }) => name === volume.name);
  if (status?.hotplugVolume !== undefined) return 'hot-plugged, so not a volume of the virt-launcher pod';
  const info = status?.persistentVolumeClaimInfo;
  if (info === undefined) return 'KubeVirt does not report its claim yet';
  if (!info.accessModes.includes('ReadWriteMany'))
    return `access mode ${info.accessModes.join(', ') || 'unknown'}, not ReadWriteMany`;
  if ((info.volumeMode ?? 'Filesystem') !== 'Filesystem')
    return `volume mode ${info.volumeMode}, not Filesystem`;
  const driver = driverOf(claim);
  if (driver === undefined) return 'its claim is not bound, or cannot be read';
  if (!sharedDrivers.has(driver)) return `driver ${driver} is not in sharedFileSystemDrivers`;
  return undefined;
}
