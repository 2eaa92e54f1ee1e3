// Whether the API server knows native sidecars: init containers with restartPolicy Always, on by default since Kubernetes 1.29.
// An older one drops the field, and our container, which never ends, would keep every VM from starting.
import type { ApiClient } from '../kubernetes/api-client.ts';

/** The first minor release of Kubernetes 1 with native sidecars on by default. */
export const MIN_MINOR = 29;

export interface KubernetesVersion {
  major: number;
  minor: number;
}

/** From `/version`: minor may end in a plus sign, as managed clusters have it. Undefined when it is not a version. */
export function parseVersion(version: { major?: unknown; minor?: unknown }): KubernetesVersion | undefined {
  const number = (text: unknown) => (/^\d{1,4}/.exec(String(text ?? '')) ?? [])[0];
  const major = number(version.major);
  const minor = number(version.minor);
  return major === undefined || minor === undefined
    ? undefined
    : { major: Number(major), minor: Number(minor) };
}

/** Why sidecars are not injected into this cluster's pods; undefined when they may be. */
export function versionProblem(version: KubernetesVersion | undefined): string | undefined {
  if (version === undefined)
    return 'the API server does not say which version it is; sidecars need Kubernetes 1.29 or later and are not injected';
  const { major, minor } = version;
  if (major > 1 || (major === 1 && minor >= MIN_MINOR)) return undefined;
  return `Kubernetes ${major}.${minor} has no native sidecars; they need 1.${MIN_MINOR} or later, so none are injected and all migrations are plain: upgrade the cluster, then restart the operator`;
}

/** Asks the API server. Throws what the client throws. */
export async function clusterVersionProblem(api: Pick<ApiClient, 'call'>): Promise<string | undefined> {
  return versionProblem(
    parseVersion(await api.call<{ major?: unknown; minor?: unknown }>('GET', '/version')),
  );
}
