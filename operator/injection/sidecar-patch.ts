// The JSON patch that adds the sidecar to a virt-launcher pod: one native sidecar (an init container with restartPolicy Always)
// before nothing else changes; the pod's own `public` volume whole and its disk volumes read-only, a projected token for our
// audience, the operator's CA. Idempotent: a pod that has it is left alone. Pure. The reasons for every field are in
// docs/adr/0005 and in what KubeVirt asks of a pod's containers (107:107, no probes, no sub-path, no integer CPU).
import type { V1Container, V1Pod, V1Volume } from '@kubernetes/client-node';
import { TOKEN_AUDIENCE } from '../../control/limits.ts';
import type { IndexBuild } from '../../control/messages.ts';
import { controllingVmi, hasSidecar, SIDECAR_CONTAINER } from '../kubevirt/launcher-pod.ts';
import { launcherLabels } from '../kubevirt/objects.ts';
import { parseQuantity } from '../kubevirt/quantities.ts';

/** The emptyDir of virt-launcher that holds the migration sockets, mounted by compute at /var/run/kubevirt. */
const PUBLIC_VOLUME = 'public';
const CREDENTIALS_VOLUME = 'nas-aware-migration-credentials';
const CREDENTIALS_PATH = '/var/run/secrets/nasmigration.io';
const VOLUMES_PATH = '/var/run/nasmigration/volumes';
const RUN_PATH = '/var/run/kubevirt';
/** KubeVirt's non-root user and group `qemu`. */
const QEMU_UID = 107;
/** kubelet renews a projected token at 80 % of this. */
const TOKEN_SECONDS = 3600;
/** The most that a sidecar is given as its limit: its main thread and its threads for NAS reads have no use for more. */
const MOST_CPU = '2';

export interface SidecarSettings {
  image: string;
  imagePullPolicy?: 'Always' | 'IfNotPresent' | 'Never';
  /** `wss://<service>.<namespace>.svc:<port>`. */
  hubUrl: string;
  /** Name of the ConfigMap with the operator's CA (`ca.crt`), which the operator keeps in each namespace with VMs. */
  caConfigMap: string;
  cpu: string;
  memory: string;
  /** Part of the memory that the index may take. */
  indexMemory: string;
  /** How the index is made; the sidecar's own default when left out. */
  indexBuild?: IndexBuild;
  /** Bytes per second for it; the sidecar's own default when left out. */
  indexBytesPerSecond?: number;
  logLevel: string;
}

export type JsonPatch = { op: 'add'; path: string; value: unknown }[];

/** Why a pod is left as it is. */
export type Skip =
  | 'NotALauncherPod'
  | 'AlreadyInjected'
  | 'Provisioning'
  | 'NoPublicVolume'
  | 'NoDiskVolume'
  | 'NoSharedVolume';

/** The patch, or why there is none. `isShared` tells of a claim whether its disk may be one that both nodes read; the others are not mounted. */
export function sidecarPatch(
  pod: V1Pod,
  settings: SidecarSettings,
  isShared: (claim: string) => boolean = () => true,
): { patch: JsonPatch } | { skip: Skip } {
  const vmi = controllingVmi(pod);
  if (vmi === undefined) return { skip: 'NotALauncherPod' };
  if (hasSidecar(pod)) return { skip: 'AlreadyInjected' };
  // A pod that only makes a WaitForFirstConsumer claim bind; it never runs the VM.
  if (pod.metadata?.annotations?.[launcherLabels.ephemeralProvisioning] !== undefined)
    return { skip: 'Provisioning' };
  const volumes = pod.spec?.volumes ?? [];
  if (!volumes.some(({ name, emptyDir }) => name === PUBLIC_VOLUME && emptyDir !== undefined))
    return { skip: 'NoPublicVolume' };
  const found = diskVolumesOf(pod);
  if (found.length === 0) return { skip: 'NoDiskVolume' };
  const disks = found.filter(({ claim }) => isShared(claim)).map(({ name }) => name);
  if (disks.length === 0) return { skip: 'NoSharedVolume' };
  const container = sidecarContainer(pod, vmi, disks, settings);
  return {
    patch: [
      ...append(pod.spec?.volumes, '/spec/volumes', credentialsVolume(settings)),
      // Last of the init containers: KubeVirt's own must not wait for an image of ours.
      ...append(pod.spec?.initContainers, '/spec/initContainers', container),
    ],
  };
}

/**
 * Claims in Filesystem mode that compute mounts as VM disks. A block-mode claim is in volumeDevices; others that compute
 * mounts (vm-state) lie elsewhere than under vmi-disks.
 */
export function diskVolumesOf(pod: V1Pod): { name: string; claim: string }[] {
  const compute = pod.spec?.containers.find(({ name }) => name === 'compute');
  const claims = new Map(
    (pod.spec?.volumes ?? []).flatMap(({ name, persistentVolumeClaim }) =>
      persistentVolumeClaim === undefined ? [] : [[name, persistentVolumeClaim.claimName] as const],
    ),
  );
  return (compute?.volumeMounts ?? []).flatMap(({ name, mountPath }) => {
    const claim = claims.get(name);
    return claim === undefined || mountPath !== `/var/run/kubevirt-private/vmi-disks/${name}`
      ? []
      : [{ name, claim }];
  });
}

function sidecarContainer(
  pod: V1Pod,
  vmi: { name: string; uid: string },
  disks: readonly string[],
  settings: SidecarSettings,
): V1Container {
  const fromField = (name: string, fieldPath: string) => ({
    name,
    valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath } },
  });
  return {
    name: SIDECAR_CONTAINER,
    image: settings.image,
    imagePullPolicy: settings.imagePullPolicy ?? 'IfNotPresent',
    restartPolicy: 'Always',
    env: [
      { name: 'NASMIG_HUB_URL', value: settings.hubUrl },
      { name: 'NASMIG_TOKEN_FILE', value: `${CREDENTIALS_PATH}/token` },
      { name: 'NASMIG_CA_FILE', value: `${CREDENTIALS_PATH}/ca.crt` },
      fromField('NASMIG_POD_NAMESPACE', 'metadata.namespace'),
      fromField('NASMIG_POD_NAME', 'metadata.name'),
      fromField('NASMIG_POD_UID', 'metadata.uid'),
      { name: 'NASMIG_VMI_NAME', value: vmi.name },
      { name: 'NASMIG_VMI_UID', value: vmi.uid },
      { name: 'NASMIG_RUN_DIR', value: RUN_PATH },
      { name: 'NASMIG_VOLUMES_DIR', value: VOLUMES_PATH },
      {
        name: 'NASMIG_INDEX_MEMORY_BYTES',
        value: String(Math.floor(parseQuantity(settings.indexMemory) ?? 0)),
      },
      ...optional('NASMIG_INDEX_BUILD', settings.indexBuild),
      ...optional('NASMIG_INDEX_BYTES_PER_SECOND', settings.indexBytesPerSecond),
      { name: 'NASMIG_LOG_LEVEL', value: settings.logLevel },
    ],
    resources: resourcesFor(pod, settings),
    securityContext: {
      runAsUser: QEMU_UID,
      runAsGroup: QEMU_UID,
      runAsNonRoot: true,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
      seccompProfile: { type: 'RuntimeDefault' },
    },
    terminationMessagePolicy: 'FallbackToLogsOnError',
    volumeMounts: [
      { name: PUBLIC_VOLUME, mountPath: RUN_PATH },
      { name: CREDENTIALS_VOLUME, mountPath: CREDENTIALS_PATH, readOnly: true },
      ...disks.map((name) => ({ name, mountPath: `${VOLUMES_PATH}/${name}`, readOnly: true })),
    ],
  };
}

function optional(name: string, value: string | number | undefined): { name: string; value: string }[] {
  return value === undefined ? [] : [{ name, value: String(value) }];
}

/** Optional CA: a namespace without the ConfigMap must not keep a VM from starting; the sidecar waits for it. */
function credentialsVolume(settings: SidecarSettings): V1Volume {
  return {
    name: CREDENTIALS_VOLUME,
    projected: {
      defaultMode: 0o440,
      sources: [
        {
          serviceAccountToken: { audience: TOKEN_AUDIENCE, expirationSeconds: TOKEN_SECONDS, path: 'token' },
        },
        {
          configMap: {
            name: settings.caConfigMap,
            optional: true,
            items: [{ key: 'ca.crt', path: 'ca.crt' }],
          },
        },
      ],
    },
  };
}

/**
 * Requests equal limits where the pod is Guaranteed, and then never whole CPUs: one would be taken for itself alone. Otherwise there
 * is a limit of CPU where compute has one: a ResourceQuota on limits.cpu refuses a pod of which any container has none.
 */
function resourcesFor(pod: V1Pod, { cpu, memory }: SidecarSettings): V1Container['resources'] & object {
  const cores = parseQuantity(cpu) ?? 0;
  if (!isGuaranteed(pod)) {
    const limit = cpuLimit(pod);
    if (limit === undefined) return { requests: { cpu, memory }, limits: { memory } };
    const most = cores > (parseQuantity(limit) ?? 0) ? cpu : limit;
    return { requests: { cpu, memory }, limits: { cpu: most, memory } };
  }
  const fraction = Number.isInteger(cores) ? `${Math.round(cores * 1000) - 1}m` : cpu;
  return { requests: { cpu: fraction, memory }, limits: { cpu: fraction, memory } };
}

/** Not above compute's own, which a LimitRange of the namespace allows. */
function cpuLimit(pod: V1Pod): string | undefined {
  const compute = pod.spec?.containers.find(({ name }) => name === 'compute');
  const limit = compute?.resources?.limits?.['cpu'];
  const cores = parseQuantity(limit);
  if (limit === undefined || cores === undefined || cores === 0) return undefined;
  return cores < Number(MOST_CPU) ? limit : MOST_CPU;
}

/** The QoS class the pod would have without us (every container: limits for CPU and memory, requests equal or absent). */
export function isGuaranteed(pod: V1Pod): boolean {
  const containers = [...(pod.spec?.containers ?? []), ...(pod.spec?.initContainers ?? [])];
  return containers.every(({ resources }) =>
    ['cpu', 'memory'].every((name) => {
      const limit = parseQuantity(resources?.limits?.[name]);
      if (limit === undefined || limit === 0) return false;
      const request = resources?.requests?.[name];
      return request === undefined || parseQuantity(request) === limit;
    }),
  );
}

function append(list: readonly unknown[] | undefined, path: string, value: unknown): JsonPatch {
  return list === undefined
    ? [{ op: 'add', path, value: [value] }]
    : [{ op: 'add', path: `${path}/-`, value }];
}
