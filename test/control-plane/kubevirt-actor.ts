// Plays, through the API server alone, what KubeVirt's controllers and kubelet do to objects, step by step as a test says: VMs
// with NFS claims, virt-launcher pods created by KubeVirt's service account (so that the webhook is really called), the
// phases of a migration with the fields that each brings (kubevirt.md, 3 and 4). No streams: those are the lab's.
import type { KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { KubeConfig } from '@kubernetes/client-node';
import type { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { ApiClient, isAlreadyExists } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';

export const KUBEVIRT_USER = 'system:serviceaccount:kubevirt:kubevirt-controller';
const KUBEVIRT_NAMESPACE = 'kubevirt';

export interface Vm {
  namespace: string;
  name: string;
  uid: string;
  pod: V1Pod;
  node: string;
  /** Limits of its compute containers. */
  limits?: Record<string, string>;
}

type Loose = KubernetesObject & { spec?: Record<string, unknown>; status?: Record<string, unknown> };

export class KubevirtActor {
  readonly #api: ApiClient;
  /** As KubeVirt's controller: its pods are the ones the webhook looks at. */
  readonly #controllerApi: ApiClient;
  #serial = 0;

  private constructor(api: ApiClient, controllerApi: ApiClient) {
    this.#api = api;
    this.#controllerApi = controllerApi;
  }

  /** Makes KubeVirt's namespace and service account, with the rights to create pods. */
  static async start(plane: ControlPlane, api: ApiClient): Promise<KubevirtActor> {
    await ignoreExisting(
      api.create(resources.namespaces, {
        apiVersion: 'v1',
        kind: 'Namespace',
        metadata: { name: KUBEVIRT_NAMESPACE },
      }),
    );
    await ignoreExisting(
      api.create(resources.serviceAccounts, {
        apiVersion: 'v1',
        kind: 'ServiceAccount',
        metadata: { namespace: KUBEVIRT_NAMESPACE, name: 'kubevirt-controller' },
      }),
    );
    await api.call('PATCH', '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kubevirt-controller', {
      query: { fieldManager: 'test', force: 'true' },
      contentType: 'application/apply-patch+yaml',
      body: {
        apiVersion: 'rbac.authorization.k8s.io/v1',
        kind: 'ClusterRoleBinding',
        metadata: { name: 'kubevirt-controller' },
        roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'cluster-admin' },
        subjects: [{ kind: 'ServiceAccount', namespace: KUBEVIRT_NAMESPACE, name: 'kubevirt-controller' }],
      },
    });
    const token = await api.call<{ status: { token: string } }>(
      'POST',
      pathOf(resources.serviceAccounts, KUBEVIRT_NAMESPACE, 'kubevirt-controller', 'token'),
      {
        body: {
          apiVersion: 'authentication.k8s.io/v1',
          kind: 'TokenRequest',
          spec: { expirationSeconds: 36_000 },
        },
      },
    );
    const config = new KubeConfig();
    config.loadFromString(plane.kubeconfigFor('kubevirt-controller', token.status.token));
    return new KubevirtActor(api, new ApiClient(config, { userAgent: 'kubevirt-actor' }));
  }

  close(): void {
    this.#controllerApi.close();
  }

  async namespace(name: string): Promise<void> {
    await ignoreExisting(
      this.#api.create(resources.namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } }),
    );
    const deadline = performance.now() + 15_000;
    for (;;) {
      const account = await this.#api.get(resources.serviceAccounts, name, 'default').catch(() => undefined);
      if (account !== undefined) return;
      if (performance.now() > deadline) throw new Error(`no default service account in ${name} after 15 s`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** A running VM on `node` with one NFS disk `rootdisk`. */
  async vm(
    namespace: string,
    name: string,
    node: string,
    labels: Record<string, string> = {},
    accessModes: string[] = ['ReadWriteMany'],
    limits: Record<string, string> = {},
  ): Promise<Vm> {
    await this.#claim(namespace, `${name}-root`, accessModes);
    const created = await this.#api.create<Loose>(resources.virtualMachineInstances, {
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstance',
      metadata: { namespace, name, labels },
      spec: { volumes: [{ name: 'rootdisk', persistentVolumeClaim: { claimName: `${name}-root` } }] },
    });
    const uid = created.metadata?.uid ?? '';
    const pod = await this.#pod({ namespace, name, uid, limits }, node);
    const vm = { namespace, name, uid, pod, node, limits };
    await this.#setVmiStatus(vm, {
      phase: 'Running',
      nodeName: node,
      activePods: { [pod.metadata?.uid ?? '']: node },
      conditions: [{ type: 'LiveMigratable', status: 'True' }],
      volumeStatus: [
        {
          name: 'rootdisk',
          persistentVolumeClaimInfo: {
            claimName: `${name}-root`,
            accessModes,
            volumeMode: 'Filesystem',
          },
        },
      ],
    });
    return vm;
  }

  /** Waits for a KubeVirt migration of this VM that is not over. */
  async migrationOf(vm: Vm, timeoutMs = 10_000): Promise<Loose> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const { items } = await this.#api.list<Loose>(resources.virtualMachineInstanceMigrations, vm.namespace);
      const found = items.find(
        ({ spec, status }) =>
          spec?.['vmiName'] === vm.name &&
          status?.['phase'] !== 'Succeeded' &&
          status?.['phase'] !== 'Failed',
      );
      if (found !== undefined) return found;
      if (performance.now() > deadline) throw new Error(`no migration of ${vm.name} after ${timeoutMs} ms`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** A migration that a drain or `virtctl migrate` makes. */
  evict(vm: Vm, name = `kubevirt-evacuation-${vm.name}`): Promise<Loose> {
    return this.#api.create<Loose>(resources.virtualMachineInstanceMigrations, {
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstanceMigration',
      metadata: { namespace: vm.namespace, name },
      spec: { vmiName: vm.name },
    });
  }

  async phase(migration: Loose, phase: string, status: object = {}): Promise<void> {
    const { namespace, name = '' } = migration.metadata ?? {};
    await this.#api.mergePatch(
      resources.virtualMachineInstanceMigrations,
      namespace,
      name,
      { status: { ...status, phase } },
      'status',
    );
  }

  /** From Pending to the hand-off: the target pod is there, and the VMI names both sides and the configuration. */
  async handOff(
    vm: Vm,
    migration: Loose,
    targetNode: string,
    configuration: object = { maxDowntimeMs: 900 },
  ): Promise<V1Pod> {
    await this.phase(migration, 'Scheduling');
    const migrationUid = migration.metadata?.uid ?? '';
    const target = await this.#pod(vm, targetNode, { 'kubevirt.io/migrationJobUID': migrationUid });
    await this.phase(migration, 'Scheduled');
    await this.#setVmiStatus(vm, {
      activePods: { [vm.pod.metadata?.uid ?? '']: vm.node, [target.metadata?.uid ?? '']: targetNode },
      migrationState: {
        migrationUid,
        sourceNode: vm.node,
        targetNode,
        sourcePod: vm.pod.metadata?.name,
        targetPod: target.metadata?.name,
        migrationConfiguration: configuration,
      },
    });
    await this.phase(migration, 'PreparingTarget');
    await this.phase(migration, 'TargetReady');
    return target;
  }

  /** The migration succeeds: the VM is on the target, the old pod is done. */
  async succeed(vm: Vm, migration: Loose, target: V1Pod, targetNode: string): Promise<Vm> {
    await this.phase(migration, 'Running');
    await this.#setVmiStatus(vm, {
      nodeName: targetNode,
      migrationState: { completed: true, endTimestamp: new Date().toISOString() },
      activePods: { [vm.pod.metadata?.uid ?? '']: null },
    });
    await this.phase(migration, 'Succeeded');
    await this.#podPhase(vm.pod, 'Succeeded');
    return { ...vm, pod: target, node: targetNode };
  }

  /** The migration fails: the VM stays. */
  async fail(vm: Vm, migration: Loose, target: V1Pod | undefined, why: string): Promise<void> {
    const migrationState = {
      completed: true,
      failed: true,
      failureReason: why,
      endTimestamp: new Date().toISOString(),
    };
    await this.#setVmiStatus(vm, { migrationState });
    const migrationUid = migration.metadata?.uid;
    await this.phase(migration, 'Failed', { migrationState: { ...migrationState, migrationUid } });
    if (target !== undefined) await this.#podPhase(target, 'Failed');
  }

  async #pod(
    vm: Pick<Vm, 'namespace' | 'name' | 'uid' | 'limits'>,
    node: string,
    labels: Record<string, string> = {},
  ): Promise<V1Pod> {
    this.#serial += 1;
    const vmi = await this.#api.get<Loose>(resources.virtualMachineInstances, vm.namespace, vm.name);
    const created = await this.#controllerApi.create<V1Pod>(resources.pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        namespace: vm.namespace,
        name: `virt-launcher-${vm.name}-${this.#serial}`,
        labels: {
          ...vmi.metadata?.labels,
          'kubevirt.io': 'virt-launcher',
          'kubevirt.io/created-by': vm.uid,
          ...labels,
        },
        annotations: { 'kubevirt.io/domain': vm.name },
        ownerReferences: [
          {
            apiVersion: 'kubevirt.io/v1',
            kind: 'VirtualMachineInstance',
            name: vm.name,
            uid: vm.uid,
            controller: true,
            blockOwnerDeletion: true,
          },
        ],
      },
      spec: {
        nodeName: node,
        automountServiceAccountToken: false,
        securityContext: { fsGroup: 107, runAsUser: 107, runAsGroup: 107, runAsNonRoot: true },
        containers: [
          {
            name: 'compute',
            image: 'example.org/virt-launcher',
            resources: { requests: { memory: '1Gi', cpu: '100m' }, limits: vm.limits ?? {} },
            volumeMounts: [
              { name: 'public', mountPath: '/var/run/kubevirt' },
              { name: 'rootdisk', mountPath: '/var/run/kubevirt-private/vmi-disks/rootdisk' },
            ],
          },
        ],
        volumes: [
          { name: 'public', emptyDir: {} },
          { name: 'rootdisk', persistentVolumeClaim: { claimName: `${vm.name}-root` } },
        ],
      },
    });
    await this.#podPhase(created, 'Running');
    return created;
  }

  async #podPhase(pod: V1Pod, phase: string): Promise<void> {
    const { namespace, name = '' } = pod.metadata ?? {};
    await this.#api.mergePatch(resources.pods, namespace, name, { status: { phase } }, 'status');
  }

  /** KubeVirt's VMI has no status subresource: its status is written with the object. */
  async #setVmiStatus(vm: { namespace: string; name: string }, status: object): Promise<void> {
    await this.#api.mergePatch(resources.virtualMachineInstances, vm.namespace, vm.name, { status });
  }

  async #claim(namespace: string, name: string, accessModes: string[]): Promise<void> {
    const storage = { storage: '10Gi' };
    const volumeName = `${namespace}-${name}`;
    await this.#api.create<Loose>(resources.persistentVolumes, {
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: { name: volumeName },
      spec: {
        capacity: storage,
        accessModes,
        nfs: { server: 'nas.example.org', path: `/${name}` },
      },
    });
    await this.#api.create<Loose>(resources.persistentVolumeClaims, {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { namespace, name },
      spec: {
        accessModes,
        resources: { requests: storage },
        volumeName,
        storageClassName: '',
      },
    });
  }
}

async function ignoreExisting(creation: Promise<unknown>): Promise<void> {
  try {
    await creation;
  } catch (error) {
    if (!isAlreadyExists(error)) throw error;
  }
}
