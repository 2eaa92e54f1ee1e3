// The volumes of one pod on its node, as kubelet makes them: empty directories with the pod's fsGroup, claims by their
// PersistentVolume, and projected directories with a token that is bound to the pod, ConfigMaps and fields of the pod. Tokens
// are renewed, and ConfigMaps that come or change later appear, as long as the pod lives.

import { chmod, chown, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type {
  V1ConfigMap,
  V1ConfigMapProjection,
  V1PersistentVolume,
  V1PersistentVolumeClaim,
  V1Pod,
  V1ProjectedVolumeSource,
  V1ServiceAccountTokenProjection,
  V1Volume,
} from '@kubernetes/client-node';
import { type ApiClient, isNotFound } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { podField, type VolumeOnNode } from './container-spec.ts';

/** kubelet renews a projected token when this part of its life is over. */
const TOKEN_RENEWAL = 0.8;
const DEFAULT_TOKEN_SECONDS = 3600;
const DEFAULT_FILE_MODE = 0o644;
/** kubelet looks at ConfigMaps once a minute; a minute is long in a test. */
const REFRESH_MS = 500;

/** A volume is not there yet; kubelet waits for it. */
export class VolumeNotReadyError extends Error {
  readonly code = 'NASMIG_LAB_VOLUME_NOT_READY';
  constructor(volume: string, problem: string) {
    super(`volume ${volume}: ${problem}`);
    this.name = 'VolumeNotReadyError';
  }
}

export interface PodVolumesOptions {
  readonly api: ApiClient;
  readonly pod: V1Pod;
  /** Directory of the pod on the node. */
  readonly directory: string;
  /** The image file that the node sees of an NFS PersistentVolume; undefined when the NAS does not have it. */
  readonly imageOf: (volume: V1PersistentVolume) => string | undefined;
  readonly onProblem: (problem: string) => void;
}

export class PodVolumes {
  readonly #options: PodVolumesOptions;
  readonly #tokens = new Map<string, { token: string; renewAtMs: number }>();
  #refresh: NodeJS.Timeout | undefined;
  #refreshing: Promise<void> | undefined;

  constructor(options: PodVolumesOptions) {
    this.#options = options;
  }

  /** Makes all volumes of the pod. Throws {@link VolumeNotReadyError} when one has to be waited for. */
  async make(): Promise<Map<string, VolumeOnNode>> {
    const made = new Map<string, VolumeOnNode>();
    for (const volume of this.#options.pod.spec?.volumes ?? [])
      made.set(volume.name, await this.#makeOne(volume));
    this.#refresh = setInterval(() => {
      this.#refreshing ??= this.#projectAll()
        .catch((error: unknown) => this.#options.onProblem(String(error)))
        .finally(() => {
          this.#refreshing = undefined;
        });
    }, REFRESH_MS);
    this.#refresh.unref();
    return made;
  }

  /** The pod has ended: nothing is renewed any more. */
  async stop(): Promise<void> {
    clearInterval(this.#refresh);
    await this.#refreshing;
  }

  async #makeOne(volume: V1Volume): Promise<VolumeOnNode> {
    if (volume.persistentVolumeClaim !== undefined) {
      return {
        kind: 'disk-image',
        path: await this.#claimedImage(volume.name, volume.persistentVolumeClaim.claimName),
      };
    }
    const path = join(this.#options.directory, 'volumes', volume.name);
    const group = this.#options.pod.spec?.securityContext?.fsGroup ?? 0;
    await mkdir(path, { recursive: true });
    await chown(path, 0, group);
    if (volume.emptyDir !== undefined) {
      // After the change of owner, which clears the set-group-id bit.
      await chmod(path, 0o2777);
      return { kind: 'directory', path };
    }
    if (volume.projected !== undefined) {
      await this.#project(path, volume.projected);
      return { kind: 'directory', path };
    }
    throw new VolumeNotReadyError(
      volume.name,
      `only emptyDir, persistentVolumeClaim and projected are known here`,
    );
  }

  async #claimedImage(volumeName: string, claimName: string): Promise<string> {
    const { api, pod, imageOf } = this.#options;
    const claim = await api
      .get<V1PersistentVolumeClaim>(resources.persistentVolumeClaims, pod.metadata?.namespace, claimName)
      .catch(absentIfNotFound);
    const name = claim?.spec?.volumeName ?? '';
    if (name === '') throw new VolumeNotReadyError(volumeName, `claim ${claimName} is not bound`);
    const persistent = await api.get<V1PersistentVolume>(resources.persistentVolumes, undefined, name);
    const image = imageOf(persistent);
    if (image === undefined)
      throw new VolumeNotReadyError(volumeName, `the NAS has no ${JSON.stringify(persistent.spec?.nfs)}`);
    return image;
  }

  async #projectAll(): Promise<void> {
    for (const { name, projected } of this.#options.pod.spec?.volumes ?? []) {
      if (projected !== undefined)
        await this.#project(join(this.#options.directory, 'volumes', name), projected);
    }
  }

  async #project(directory: string, volume: V1ProjectedVolumeSource): Promise<void> {
    const { pod } = this.#options;
    const mode = volume.defaultMode ?? DEFAULT_FILE_MODE;
    const files = new Map<string, string | undefined>();
    for (const source of volume.sources ?? []) {
      if (source.serviceAccountToken !== undefined) {
        files.set(source.serviceAccountToken.path, await this.#token(source.serviceAccountToken));
      } else if (source.configMap !== undefined) {
        for (const [path, text] of await this.#configMap(source.configMap)) files.set(path, text);
      } else if (source.downwardAPI !== undefined) {
        for (const { path, fieldRef } of source.downwardAPI.items ?? []) {
          files.set(path, fieldRef === undefined ? undefined : podField(pod, fieldRef.fieldPath));
        }
      } else {
        throw new VolumeNotReadyError(
          directory,
          `projection ${Object.keys(source).join()} is not known here`,
        );
      }
    }
    const group = pod.spec?.securityContext?.fsGroup ?? 0;
    for (const [path, text] of files) await put(join(directory, path), text, mode, group);
  }

  async #token(projection: V1ServiceAccountTokenProjection): Promise<string> {
    const { api, pod } = this.#options;
    const known = this.#tokens.get(projection.path);
    if (known !== undefined && Date.now() < known.renewAtMs) return known.token;
    const { namespace = '', name = '', uid = '' } = pod.metadata ?? {};
    const seconds = projection.expirationSeconds ?? DEFAULT_TOKEN_SECONDS;
    const answer = await api.call<{ status: { token: string } }>(
      'POST',
      pathOf(resources.serviceAccounts, namespace, pod.spec?.serviceAccountName ?? 'default', 'token'),
      {
        body: {
          apiVersion: 'authentication.k8s.io/v1',
          kind: 'TokenRequest',
          spec: {
            audiences: projection.audience === undefined ? [] : [projection.audience],
            expirationSeconds: seconds,
            boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name, uid },
          },
        },
      },
    );
    const { token } = answer.status;
    this.#tokens.set(projection.path, { token, renewAtMs: Date.now() + seconds * 1000 * TOKEN_RENEWAL });
    return token;
  }

  async #configMap(projection: V1ConfigMapProjection): Promise<Map<string, string | undefined>> {
    const { api, pod } = this.#options;
    const name = projection.name ?? '';
    const found = await api
      .get<V1ConfigMap>(resources.configMaps, pod.metadata?.namespace, name)
      .catch(absentIfNotFound);
    if (found === undefined && projection.optional !== true)
      throw new VolumeNotReadyError(name, 'no such ConfigMap');
    const data = found?.data ?? {};
    if (projection.items === undefined) return new Map(Object.entries(data));
    return new Map(projection.items.map(({ key, path }) => [path, data[key]]));
  }
}

/** Whole or not at all, so that a reader never sees half a token; absent: taken away. */
async function put(path: string, text: string | undefined, mode: number, group: number): Promise<void> {
  if (text === undefined) {
    await rm(path, { force: true });
    return;
  }
  const whole = `${path}.new`;
  await writeFile(whole, text);
  await chown(whole, 0, group);
  await chmod(whole, mode);
  await rename(whole, path);
}

function absentIfNotFound(error: unknown): undefined {
  if (!isNotFound(error)) throw error;
}
