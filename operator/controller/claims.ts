// The driver and the NFS server behind a PersistentVolumeClaim, from the caches of claims and volumes: no request for any of it,
// neither in a reconcile nor while a pod waits for the webhook's answer.
import type { V1PersistentVolume, V1PersistentVolumeClaim } from '@kubernetes/client-node';

/** The two caches, as far as they are read. */
export interface ClaimCaches {
  /** By `namespace/name`. */
  claims: { get(key: string): V1PersistentVolumeClaim | undefined };
  /** By name. */
  volumes: { get(key: string): V1PersistentVolume | undefined };
}

export class Claims {
  readonly #caches: ClaimCaches;

  constructor(caches: ClaimCaches) {
    this.#caches = caches;
  }

  /** Undefined when the claim is not bound, or not (yet) in the caches. */
  driverOf(namespace: string, claim: string): string | undefined {
    const volume = this.#volumeOf(namespace, claim);
    return volume === undefined ? undefined : driverOfVolume(volume);
  }

  /** What a budget of reads is counted for. */
  serverOf(namespace: string, claim: string): string | undefined {
    const volume = this.#volumeOf(namespace, claim);
    const driver = volume === undefined ? undefined : driverOfVolume(volume);
    return volume === undefined || driver === undefined ? undefined : serverOfVolume(volume, driver);
  }

  /**
   * Why a disk on this claim can never be read by both nodes, as far as it is known. Undefined when it can, and also when the caches
   * do not have the claim or its volume yet: a sidecar too many is idle, one too few makes the VM's next migration a plain one.
   */
  notShared(namespace: string, claim: string, sharedDrivers: ReadonlySet<string>): string | undefined {
    const spec = this.#caches.claims.get(`${namespace}/${claim}`)?.spec;
    if (spec === undefined) return undefined;
    const modes = spec.accessModes ?? [];
    if (!modes.includes('ReadWriteMany')) return `access mode ${modes.join(', ') || 'unknown'}`;
    if ((spec.volumeMode ?? 'Filesystem') !== 'Filesystem') return `volume mode ${spec.volumeMode}`;
    const volume = this.#volumeOf(namespace, claim);
    if (volume === undefined) return undefined;
    const driver = driverOfVolume(volume);
    return driver !== undefined && sharedDrivers.has(driver) ? undefined : `driver ${driver ?? 'unknown'}`;
  }

  #volumeOf(namespace: string, claim: string): V1PersistentVolume | undefined {
    const name = this.#caches.claims.get(`${namespace}/${claim}`)?.spec?.volumeName;
    return name === undefined || name === '' ? undefined : this.#caches.volumes.get(name);
  }
}

/** `nfs` for an in-tree NFS volume, the driver's name for a CSI volume. */
export function driverOfVolume(volume: V1PersistentVolume): string | undefined {
  if (volume.spec?.nfs !== undefined) return 'nfs';
  return volume.spec?.csi?.driver;
}

/**
 * The server of an NFS volume, in-tree or of a CSI driver that names it (`server` in nfs.csi.k8s.io and others); else the driver,
 * whose volumes then share one budget: to count too many as one server is safe, to count one server as many is not.
 */
export function serverOfVolume(volume: V1PersistentVolume, driver: string): string {
  const attributes = volume.spec?.csi?.volumeAttributes;
  const server = volume.spec?.nfs?.server ?? attributes?.['server'] ?? '';
  return server === '' ? `driver ${driver}` : server.toLowerCase().replace(/\.$/, '');
}
