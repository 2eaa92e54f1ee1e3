// The driver and the NFS server behind a PersistentVolumeClaim, kept for some minutes: a bound claim's volume does not change.
import type { V1PersistentVolume, V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { type ApiClient, isNotFound } from '../kubernetes/api-client.ts';
import { resources } from '../kubernetes/resources.ts';

const BOUND_MAX_AGE_MS = 10 * 60_000;
/** An unbound or absent claim is asked for again soon. */
const UNBOUND_MAX_AGE_MS = 5000;
/** Claims of all running VMs fit; beyond, the oldest go. */
const MAX_ENTRIES = 20_000;

export interface ClaimBacking {
  driver: string;
  server: string;
}

export class ClaimDrivers {
  readonly #api: ApiClient;
  readonly #known = new Map<string, { backing: ClaimBacking | undefined; untilMs: number }>();

  constructor(api: ApiClient) {
    this.#api = api;
  }

  /** Looks up what is not known; afterwards `driverOf` answers for these claims. */
  async load(namespace: string, claims: readonly string[]): Promise<void> {
    await Promise.all(
      claims.map(async (claim) => {
        const key = `${namespace}/${claim}`;
        const known = this.#known.get(key);
        if (known !== undefined && performance.now() < known.untilMs) return;
        const backing = await this.#lookUp(namespace, claim);
        const age = backing === undefined ? UNBOUND_MAX_AGE_MS : BOUND_MAX_AGE_MS;
        this.#known.delete(key);
        this.#known.set(key, { backing, untilMs: performance.now() + age });
        const oldest = this.#known.keys().next();
        if (this.#known.size > MAX_ENTRIES && !oldest.done) this.#known.delete(oldest.value);
      }),
    );
  }

  driverOf(namespace: string, claim: string): string | undefined {
    return this.#known.get(`${namespace}/${claim}`)?.backing?.driver;
  }

  /** What a budget of reads is counted for. */
  serverOf(namespace: string, claim: string): string | undefined {
    return this.#known.get(`${namespace}/${claim}`)?.backing?.server;
  }

  async #lookUp(namespace: string, claim: string): Promise<ClaimBacking | undefined> {
    try {
      const found = await this.#api.get<V1PersistentVolumeClaim>(
        resources.persistentVolumeClaims,
        namespace,
        claim,
      );
      const name = found.spec?.volumeName;
      if (name === undefined || name === '') return undefined;
      const volume = await this.#api.get<V1PersistentVolume>(resources.persistentVolumes, undefined, name);
      const driver = driverOfVolume(volume);
      return driver === undefined ? undefined : { driver, server: serverOfVolume(volume, driver) };
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
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
