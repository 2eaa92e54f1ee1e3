// Stand-in for virt-controller (and what virt-api adds to its objects): makes virt-launcher pods for VMIs and for migrations,
// moves both through their phases, hands a migration over to the nodes, cancels, and evicts from a node that is drained. It
// acts through the API server alone, and its pods are made by KubeVirt's service account, so that webhooks see what they
// would see. Order and fields: kubevirt.md, 3 and 4.

import type {
  KubernetesObject,
  V1Namespace,
  V1Node,
  V1PersistentVolumeClaim,
  V1Pod,
} from '@kubernetes/client-node';
import {
  type ApiClient,
  ApiError,
  isAlreadyExists,
  isNotFound,
} from '../../operator/kubernetes/api-client.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { keyOf, resources, splitKey } from '../../operator/kubernetes/resources.ts';
import { WorkQueue } from '../../operator/kubernetes/work-queue.ts';
import {
  type Condition,
  FINALIZER,
  getVmi,
  getVmim,
  instant,
  isFinal,
  isPodOver,
  isPodReady,
  labels,
  launcherPods,
  setVmiStatus,
  type Vmi,
  type Vmim,
} from './kubevirt-objects.ts';
import { launcherManifest } from './launcher-manifest.ts';
import {
  clusterConfiguration,
  configurationFor,
  type KubeVirt,
  type MigrationPolicy,
} from './migration-configuration.ts';

/** What has to be waited for (limits, a pod that is going) is looked at again after this. */
const RECHECK_MS = 300;
/** KubeVirt keeps so many finished migrations of a VMI. */
const FINISHED_KEPT = 5;
/** A target pod that is not ready by then: `migration target pod timeout`. */
const TARGET_TIMEOUT_MS = 15 * 60_000;
/** Phases in which a migration counts against the limits. */
const UNDER_WAY = new Set(['Scheduling', 'Scheduled', 'PreparingTarget', 'TargetReady', 'Running']);

export interface VirtControllerOptions {
  readonly api: ApiClient;
  /** As KubeVirt's service account: for pods. */
  readonly controllerApi: ApiClient;
  readonly log: (event: string, values?: Readonly<Record<string, unknown>>) => void;
}

export class VirtController {
  readonly #api: ApiClient;
  readonly #options: VirtControllerOptions;
  readonly #informers: readonly Informer<KubernetesObject>[];
  readonly #vmiQueue: WorkQueue;
  readonly #vmimQueue: WorkQueue;
  readonly #nodeQueue: WorkQueue;

  constructor(options: VirtControllerOptions) {
    const { api, log } = options;
    this.#api = api;
    this.#options = options;
    const queue = (name: string, work: (key: string) => Promise<number | undefined>): WorkQueue =>
      new WorkQueue({
        work,
        // One at a time: the limits on parallel migrations are counted, not reserved.
        workers: 1,
        minBackoffMs: 50,
        maxBackoffMs: 5000,
        onFailure: (key, error) => log(`${name} failed`, { key, error: String(error) }),
      });
    this.#vmiQueue = queue('vmi', (key) => this.#reconcileVmi(key));
    this.#vmimQueue = queue('migration', (key) => this.#reconcileMigration(key));
    this.#nodeQueue = queue('evacuation', (key) => this.#evacuate(key));
    const onProblem = (problem: string): void => log('watch failed', { problem });
    const vmis = new Informer<KubernetesObject>(api, resources.virtualMachineInstances, { onProblem });
    const vmims = new Informer<KubernetesObject>(api, resources.virtualMachineInstanceMigrations, {
      onProblem,
    });
    const pods = new Informer<V1Pod>(api, resources.pods, {
      onProblem,
      labelSelector: `${labels.app}=${labels.launcher}`,
    });
    const nodes = new Informer<V1Node>(api, resources.nodes, { onProblem });
    const addMigrationsOf = (vmiKey: string): void => {
      for (const vmim of vmims.values()) {
        const { namespace } = splitKey(keyOf(vmim));
        if (`${namespace}/${(vmim as Vmim).spec.vmiName}` === vmiKey) this.#vmimQueue.add(keyOf(vmim));
      }
    };
    vmis.onChange(({ current, previous }) => {
      const vmi = current ?? previous;
      if (vmi === undefined) return;
      this.#vmiQueue.add(keyOf(vmi));
      addMigrationsOf(keyOf(vmi));
    });
    vmims.onChange(({ current }) => {
      if (current !== undefined) this.#vmimQueue.add(keyOf(current));
    });
    pods.onChange(({ current, previous }) => {
      const pod = current ?? previous;
      const name = pod?.metadata?.ownerReferences?.find(({ controller }) => controller === true)?.name;
      if (pod === undefined || name === undefined) return;
      const vmiKey = `${pod.metadata?.namespace}/${name}`;
      this.#vmiQueue.add(vmiKey);
      addMigrationsOf(vmiKey);
    });
    nodes.onChange(({ current }) => {
      if (current !== undefined) this.#nodeQueue.add(keyOf(current));
    });
    this.#informers = [vmis, vmims, pods, nodes];
  }

  async start(): Promise<void> {
    for (const informer of this.#informers) informer.start();
    await Promise.all(this.#informers.map(({ synced }) => synced));
  }

  async stop(): Promise<void> {
    await Promise.all(this.#informers.map((informer) => informer.stop()));
    await Promise.all([this.#vmiQueue.stop(), this.#vmimQueue.stop(), this.#nodeQueue.stop()]);
  }

  // ---- virtual machine instances

  async #reconcileVmi(key: string): Promise<number | undefined> {
    const { namespace, name } = splitKey(key);
    const vmi = await getVmi(this.#api, namespace, name);
    if (vmi === undefined || vmi.metadata.deletionTimestamp !== undefined) return undefined;
    const pods = await launcherPods(this.#api, vmi);
    const phase = vmi.status?.phase ?? '';
    switch (phase) {
      case '':
        await this.#createPod(launcherManifest(vmi));
        await setVmiStatus(this.#api, vmi, { phase: 'Scheduling', ...(await this.#volumeStatus(vmi)) });
        return undefined;
      case 'Scheduling': {
        const pod = pods.find(isPodReady);
        const node = pod?.spec?.nodeName;
        if (pod === undefined || node === undefined) return undefined;
        await this.#api.mergePatch(resources.virtualMachineInstances, namespace, name, {
          metadata: { labels: { [labels.nodeName]: node } },
        });
        await setVmiStatus(this.#api, vmi, {
          ...{ phase: 'Scheduled', nodeName: node, activePods: activePods(pods), runtimeUser: 107 },
          ...{ migrationMethod: 'LiveMigration', migrationTransport: 'Unix' },
        });
        return undefined;
      }
      case 'Scheduled':
      case 'Running': {
        const active = activePods(pods);
        const home = pods.find((pod) => pod.spec?.nodeName === vmi.status?.nodeName && !isPodOver(pod));
        if (JSON.stringify(active) !== JSON.stringify(sorted(vmi.status?.activePods ?? {})))
          await setVmiStatus(this.#api, vmi, { activePods: active });
        // In mid-migration the nodes decide what became of the VM.
        const state = vmi.status?.migrationState;
        const isMoving = state !== undefined && state.completed !== true;
        if (home === undefined && !isMoving) await setVmiStatus(this.#api, vmi, { phase: 'Failed' });
        return undefined;
      }
      default:
        return undefined;
    }
  }

  /** volumeStatus and LiveMigratable: shared means ReadWriteMany, as KubeVirt sees it. */
  async #volumeStatus(vmi: Vmi): Promise<{ volumeStatus: object[]; conditions: Condition[] }> {
    const { namespace } = vmi.metadata;
    const volumeStatus: object[] = [];
    const unshared: string[] = [];
    for (const { name, persistentVolumeClaim } of vmi.spec.volumes ?? []) {
      if (persistentVolumeClaim === undefined) {
        volumeStatus.push({ name });
        continue;
      }
      const { claimName } = persistentVolumeClaim;
      const claim = await this.#api.get<V1PersistentVolumeClaim>(
        resources.persistentVolumeClaims,
        namespace,
        claimName,
      );
      const accessModes = claim.spec?.accessModes ?? [];
      if (!accessModes.includes('ReadWriteMany')) unshared.push(name);
      const persistentVolumeClaimInfo = {
        ...{ claimName, accessModes, volumeMode: claim.spec?.volumeMode ?? 'Filesystem' },
        capacity: claim.status?.capacity ?? claim.spec?.resources?.requests ?? {},
      };
      volumeStatus.push({ name, persistentVolumeClaimInfo });
    }
    const migratable: Condition =
      unshared.length === 0
        ? { type: 'LiveMigratable', status: 'True' }
        : {
            ...{ type: 'LiveMigratable', status: 'False', reason: 'DisksNotLiveMigratable' },
            message: `cannot migrate VMI: PVC of ${unshared.join(', ')} is not shared, live migration requires that all PVCs must be shared (using ReadWriteMany access mode)`,
          };
    return { volumeStatus, conditions: [migratable] };
  }

  // ---- migrations

  async #reconcileMigration(key: string): Promise<number | undefined> {
    const { namespace, name } = splitKey(key);
    const vmim = await getVmim(this.#api, namespace, name);
    if (vmim === undefined) return undefined;
    if (isFinal(vmim)) return this.#tidy(vmim);
    const vmi = await getVmi(this.#api, namespace, vmim.spec.vmiName ?? '');
    if (vmi === undefined) {
      await this.#setPhase(vmim, 'Failed');
      return 0;
    }
    const isHandedOver = vmi.status?.migrationState?.migrationUid === vmim.metadata.uid;
    if (vmim.metadata.deletionTimestamp !== undefined && !isHandedOver) {
      const target = await this.#targetPod(vmi, vmim);
      if (target !== undefined) await this.#deletePod(target);
      await this.#setPhase(vmim, 'Failed', { type: 'migrationAbortRequested', status: 'True' });
      return 0;
    }
    switch (vmim.status?.phase ?? '') {
      case '':
        await this.#api.mergePatch(resources.virtualMachineInstanceMigrations, namespace, name, {
          metadata: { finalizers: [FINALIZER], labels: { [labels.vmiName]: vmim.spec.vmiName } },
        });
        await this.#setPhase(vmim, 'Pending');
        return undefined;
      case 'Pending':
        return this.#begin(vmi, vmim);
      case 'Scheduling':
      case 'Scheduled':
        return this.#handOver(vmi, vmim);
      default:
        return this.#follow(vmi, vmim);
    }
  }

  /** Makes the target pod when the limits allow it and no other pod of the VM lingers. */
  async #begin(vmi: Vmi, vmim: Vmim): Promise<number | undefined> {
    if (vmi.status?.phase !== 'Running') {
      await this.#setPhase(vmim, 'Failed');
      return 0;
    }
    const { items } = await this.#api.list<Vmim>(resources.virtualMachineInstanceMigrations);
    const underWay = items.filter(({ status }) => UNDER_WAY.has(status?.phase ?? ''));
    const limits = clusterConfiguration(await this.#kubevirt());
    if (underWay.length >= limits.parallelMigrationsPerCluster) return RECHECK_MS;
    const { items: vmis } = await this.#api.list<Vmi>(resources.virtualMachineInstances);
    const outbound = underWay.filter((other) => {
      const moved = vmis.find(
        ({ metadata }) =>
          metadata.namespace === other.metadata.namespace && metadata.name === other.spec.vmiName,
      );
      return moved?.status?.nodeName === vmi.status?.nodeName;
    });
    if (outbound.length >= limits.parallelOutboundMigrationsPerNode) return RECHECK_MS;
    const pods = await launcherPods(this.#api, vmi);
    if (pods.filter((pod) => !isPodOver(pod)).length > 1) return RECHECK_MS;
    await this.#createPod(launcherManifest(vmi, vmim));
    await this.#setPhase(vmim, 'Scheduling');
    return undefined;
  }

  /** When the target pod is ready: the VMI gets the migration's state, and the nodes take over. */
  async #handOver(vmi: Vmi, vmim: Vmim): Promise<number | undefined> {
    const target = await this.#targetPod(vmi, vmim);
    if (target === undefined || isPodOver(target)) {
      await this.#setPhase(vmim, 'Failed');
      return 0;
    }
    if (Date.now() - Date.parse(String(target.metadata?.creationTimestamp)) > TARGET_TIMEOUT_MS) {
      await this.#deletePod(target);
      await this.#setPhase(vmim, 'Failed');
      return 0;
    }
    if (!isPodReady(target)) return undefined;
    if (vmim.status?.phase !== 'Scheduled') {
      await this.#setPhase(vmim, 'Scheduled');
      return undefined;
    }
    const pods = await launcherPods(this.#api, vmi);
    const source = pods.find(
      (pod) =>
        pod.spec?.nodeName === vmi.status?.nodeName &&
        isPodReady(pod) &&
        pod.metadata?.uid !== target.metadata?.uid,
    );
    if (source === undefined) return RECHECK_MS;
    const [kubevirt, policies, namespace] = await Promise.all([
      this.#kubevirt(),
      this.#api.list<MigrationPolicy>(resources.migrationPolicies),
      this.#api.get<V1Namespace>(resources.namespaces, undefined, vmi.metadata.namespace),
    ]);
    const { configuration, policyName } = configurationFor(
      kubevirt,
      policies.items,
      vmi.metadata.labels ?? {},
      namespace.metadata?.labels ?? {},
    );
    const targetNode = target.spec?.nodeName ?? '';
    await this.#api.mergePatch(resources.virtualMachineInstances, vmi.metadata.namespace, vmi.metadata.name, {
      metadata: { labels: { [labels.migrationTargetNodeName]: targetNode } },
    });
    await setVmiStatus(this.#api, vmi, {
      activePods: activePods(pods),
      migrationState: {
        migrationUid: vmim.metadata.uid,
        ...{ sourceNode: vmi.status?.nodeName, sourcePod: source.metadata?.name },
        ...{ targetNode, targetPod: target.metadata?.name },
        migrationConfiguration: configuration,
        ...(policyName === undefined ? {} : { migrationPolicyName: policyName }),
      },
    });
    await this.#setPhase(vmim, 'PreparingTarget');
    return undefined;
  }

  /** The nodes are at it: phases follow what they write into the VMI. */
  async #follow(vmi: Vmi, vmim: Vmim): Promise<number | undefined> {
    const state = vmi.status?.migrationState;
    if (state?.migrationUid !== vmim.metadata.uid) {
      await this.#setPhase(vmim, 'Failed');
      return 0;
    }
    const phase = vmim.status?.phase;
    const aborting: Condition = { type: 'migrationAbortRequested', status: 'True' };
    const isDeleting = vmim.metadata.deletionTimestamp !== undefined;
    if (state.completed === true) {
      await this.#setPhase(
        vmim,
        state.failed === true ? 'Failed' : 'Succeeded',
        isDeleting ? aborting : undefined,
        state,
      );
      return 0;
    }
    if (phase === 'PreparingTarget' && state.targetNodeAddress !== undefined) {
      await this.#setPhase(vmim, 'TargetReady');
    } else if (phase === 'TargetReady' && state.startTimestamp !== undefined) {
      await this.#setPhase(vmim, 'Running');
    } else if (phase === 'Running' && isDeleting && state.abortRequested !== true) {
      // Earlier than Running, KubeVirt does nothing about a deletion.
      await this.#setPhase(vmim, 'Running', aborting);
      await setVmiStatus(this.#api, vmi, { migrationState: { ...state, abortRequested: true } });
    }
    return undefined;
  }

  /** A finished migration: finalizer off, target of a failed one away, only the last ones kept. */
  async #tidy(vmim: Vmim): Promise<undefined> {
    const { namespace, name } = vmim.metadata;
    if (vmim.metadata.finalizers?.includes(FINALIZER) === true) {
      await this.#api
        .mergePatch(resources.virtualMachineInstanceMigrations, namespace, name, {
          metadata: { finalizers: vmim.metadata.finalizers.filter((one) => one !== FINALIZER) },
        })
        .catch((error: unknown) => {
          if (!isNotFound(error)) throw error;
        });
    }
    const { items } = await this.#api.list<Vmim>(resources.virtualMachineInstanceMigrations, namespace, {
      labelSelector: `${labels.vmiName}=${vmim.spec.vmiName}`,
    });
    const finished = items
      .filter(isFinal)
      .sort((a, b) =>
        String(b.metadata.creationTimestamp).localeCompare(String(a.metadata.creationTimestamp)),
      );
    for (const old of finished.slice(FINISHED_KEPT)) {
      await this.#api.delete(resources.virtualMachineInstanceMigrations, namespace, old.metadata.name);
    }
  }

  // ---- drains

  /** VMs on a node that has the drain taint are moved; each by a migration that says so in its name. */
  async #evacuate(nodeName: string): Promise<number | undefined> {
    const node = await this.#api.get<V1Node>(resources.nodes, undefined, nodeName);
    const { nodeDrainTaintKey } = clusterConfiguration(await this.#kubevirt());
    if (node.spec?.taints?.some(({ key }) => key === nodeDrainTaintKey) !== true) return undefined;
    const { items: vmis } = await this.#api.list<Vmi>(resources.virtualMachineInstances);
    const here = vmis.filter(({ status }) => status?.phase === 'Running' && status.nodeName === nodeName);
    const { items: vmims } = await this.#api.list<Vmim>(resources.virtualMachineInstanceMigrations);
    for (const vmi of here) {
      const { namespace, name } = vmi.metadata;
      const isMoving = vmims.some(
        (vmim) => vmim.metadata.namespace === namespace && vmim.spec.vmiName === name && !isFinal(vmim),
      );
      if (isMoving) continue;
      await this.#api.create<KubernetesObject & { spec: object }>(
        resources.virtualMachineInstanceMigrations,
        {
          apiVersion: 'kubevirt.io/v1',
          kind: 'VirtualMachineInstanceMigration',
          metadata: { namespace, generateName: 'kubevirt-evacuation-' },
          spec: { vmiName: name },
        },
      );
    }
    return here.length > 0 ? RECHECK_MS * 10 : undefined;
  }

  // ---- parts

  async #createPod(pod: V1Pod): Promise<void> {
    try {
      await this.#options.controllerApi.create(resources.pods, pod);
      this.#options.log('pod created', { pod: pod.metadata?.name });
    } catch (error) {
      if (isAlreadyExists(error)) return;
      throw error;
    }
  }

  async #deletePod(pod: V1Pod): Promise<void> {
    await this.#api.delete(
      resources.pods,
      pod.metadata?.namespace,
      pod.metadata?.name ?? '',
      pod.metadata?.uid,
    );
  }

  async #targetPod(vmi: Vmi, vmim: Vmim): Promise<V1Pod | undefined> {
    const pods = await launcherPods(this.#api, vmi);
    return pods.find((pod) => pod.metadata?.labels?.[labels.migrationJobUid] === vmim.metadata.uid);
  }

  async #kubevirt(): Promise<KubeVirt | undefined> {
    const { items } = await this.#api.list<KubeVirt>(resources.kubeVirts);
    return items[0];
  }

  async #setPhase(vmim: Vmim, phase: string, condition?: Condition, migrationState?: object): Promise<void> {
    const { namespace, name } = vmim.metadata;
    const before = (vmim.status?.conditions ?? []).filter(({ type }) => type !== condition?.type);
    const transition = { phase, phaseTransitionTimestamp: instant() };
    const earlier = (vmim.status as { phaseTransitionTimestamps?: object[] } | undefined)
      ?.phaseTransitionTimestamps;
    const status = {
      phase,
      ...(condition === undefined ? {} : { conditions: [...before, condition] }),
      ...(migrationState === undefined ? {} : { migrationState }),
      ...(phase === vmim.status?.phase
        ? {}
        : { phaseTransitionTimestamps: [...(earlier ?? []), transition] }),
    };
    try {
      await this.#api.mergePatch(
        resources.virtualMachineInstanceMigrations,
        namespace,
        name,
        { status },
        'status',
      );
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
    }
    this.#options.log('migration', { name, phase });
  }
}

/** Pods of the VMI that are not over: UID to node. */
function activePods(pods: readonly V1Pod[]): Record<string, string> {
  const active = pods.filter((pod) => !isPodOver(pod) && pod.spec?.nodeName !== undefined);
  return sorted(Object.fromEntries(active.map((pod) => [pod.metadata?.uid ?? '', pod.spec?.nodeName ?? ''])));
}

function sorted(map: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1)));
}
