// What a container of a pod says, as the process that kubelet makes of it: command line, environment with the downward API,
// user, memory limit, and which volume is seen where. Pure. Rules are those of the Kubernetes API reference (Container,
// EnvVar, VolumeMount); what the lab cannot do is refused, never left out in silence.

import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { parseQuantity } from '../../operator/kubevirt/quantities.ts';
import type { Bind } from '../launcher/container.ts';
import type { Image } from './images.ts';

/** A pod's volume on its node. */
export type VolumeOnNode =
  | { readonly kind: 'directory'; readonly path: string }
  /** A file-system volume of which the node sees only the VM's image: `disk.img` at its root. */
  | { readonly kind: 'disk-image'; readonly path: string };

export interface ContainerProcess {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly user: { readonly uid: number; readonly gid: number };
  readonly binds: readonly Bind[];
  readonly memoryLimitBytes?: number;
}

/** The container cannot be made of what its pod says: kubelet's CreateContainerConfigError. */
export class ContainerConfigError extends Error {
  readonly code = 'NASMIG_LAB_CONTAINER_CONFIG';
  constructor(container: string, problem: string) {
    super(`container ${container}: ${problem}; change the pod, or teach test/cluster/container-spec.ts`);
    this.name = 'ContainerConfigError';
  }
}

/** Throws {@link ContainerConfigError}. */
export function containerProcess(
  pod: V1Pod,
  container: V1Container,
  image: Image,
  volumes: ReadonlyMap<string, VolumeOnNode>,
): ContainerProcess {
  const env = { ...image.env, ...environmentOf(pod, container) };
  const command = container.command ?? image.entrypoint;
  const argv = [...command, ...(container.args ?? [])].map((word) => expand(word, env));
  const limit = parseQuantity(container.resources?.limits?.['memory']);
  return {
    argv,
    env,
    user: userOf(pod, container),
    binds: [...image.files, ...bindsOf(container, volumes, image.rootfs === undefined)],
    ...(limit === undefined ? {} : { memoryLimitBytes: limit }),
  };
}

/** The container's own variables, in their order, with `$(NAME)` of earlier ones put in. */
export function environmentOf(pod: V1Pod, container: V1Container): Record<string, string> {
  if ((container.envFrom ?? []).length > 0)
    throw new ContainerConfigError(container.name, 'envFrom is not known here');
  const env: Record<string, string> = {};
  for (const { name, value, valueFrom } of container.env ?? []) {
    if (valueFrom === undefined) {
      env[name] = expand(value ?? '', env);
      continue;
    }
    const path = valueFrom.fieldRef?.fieldPath;
    const field = path === undefined ? undefined : podField(pod, path);
    if (field === undefined) {
      throw new ContainerConfigError(
        container.name,
        `variable ${name} comes from ${JSON.stringify(valueFrom)}`,
      );
    }
    env[name] = field;
  }
  return env;
}

/** A field of the downward API; undefined when there is no such. */
export function podField(pod: V1Pod, path: string): string | undefined {
  const { metadata, spec, status } = pod;
  const entry = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
  if (entry !== null) {
    const [, kind, key = ''] = entry;
    return (kind === 'labels' ? metadata?.labels : metadata?.annotations)?.[key] ?? '';
  }
  switch (path) {
    case 'metadata.name':
      return metadata?.name;
    case 'metadata.namespace':
      return metadata?.namespace;
    case 'metadata.uid':
      return metadata?.uid;
    case 'spec.nodeName':
      return spec?.nodeName;
    case 'spec.serviceAccountName':
      return spec?.serviceAccountName;
    case 'status.podIP':
      return status?.podIP;
    case 'status.hostIP':
      return status?.hostIP;
    default:
      return undefined;
  }
}

/**
 * Where a path of a container is in the lab's Debian roots, whose /var/run is an absolute link to /run: bound from outside
 * of the root it would lead to this machine's.
 */
export function inDebianRoot(path: string): string {
  return path === '/var/run' || path.startsWith('/var/run/') ? path.slice('/var'.length) : path;
}

function bindsOf(
  container: V1Container,
  volumes: ReadonlyMap<string, VolumeOnNode>,
  isInDebianRoot: boolean,
): Bind[] {
  return (container.volumeMounts ?? []).map((mount) => {
    const volume = volumes.get(mount.name);
    if (volume === undefined)
      throw new ContainerConfigError(container.name, `there is no volume ${mount.name}`);
    if (mount.subPath !== undefined || mount.subPathExpr !== undefined) {
      throw new ContainerConfigError(container.name, `volume ${mount.name} is mounted by subPath`);
    }
    const to = isInDebianRoot ? inDebianRoot(mount.mountPath) : mount.mountPath;
    return {
      from: volume.path,
      to: volume.kind === 'disk-image' ? `${to}/disk.img` : to,
      readOnly: mount.readOnly === true,
    };
  });
}

function userOf(pod: V1Pod, container: V1Container): ContainerProcess['user'] {
  const uid = container.securityContext?.runAsUser ?? pod.spec?.securityContext?.runAsUser ?? 0;
  const gid = container.securityContext?.runAsGroup ?? pod.spec?.securityContext?.runAsGroup ?? 0;
  const mustNotBeRoot =
    container.securityContext?.runAsNonRoot ?? pod.spec?.securityContext?.runAsNonRoot ?? false;
  if (mustNotBeRoot && uid === 0)
    throw new ContainerConfigError(container.name, 'runAsNonRoot, and the user is root');
  return { uid, gid };
}

function expand(text: string, env: Readonly<Record<string, string>>): string {
  return text.replace(/\$(\$|\(([A-Za-z_][A-Za-z0-9_]*)\))/g, (whole, escaped: string, name: string) =>
    escaped === '$' ? '$' : (env[name] ?? whole),
  );
}
