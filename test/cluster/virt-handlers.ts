// Stand-in for virt-handler and virt-launcher of both nodes: starts a VM in its pod, makes the target's listeners and the
// source's sockets, runs the migration by libvirt, aborts it, and writes what happened into the VMI. What it needs to
// know it reads from the VMI; pods are reached as virt-handler does, from their node. Order: kubevirt.md, 3.

import type { KubernetesObject } from '@kubernetes/client-node';
import { type ApiClient, ApiError } from '../../operator/kubernetes/api-client.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { keyOf, resources, splitKey } from '../../operator/kubernetes/resources.ts';
import { WorkQueue } from '../../operator/kubernetes/work-queue.ts';
import { parseQuantity } from '../../operator/kubevirt/quantities.ts';
import { GUEST_DOMAIN } from '../launcher/guest-domain.ts';
import type { LauncherPod } from '../launcher/launcher-pod.ts';
import {
  LiveMigration,
  type MigrationFlags,
  type MigrationResult,
  type MigrationSide,
} from '../launcher/live-migration.ts';
import {
  type Condition,
  getVmi,
  instant,
  isPodReady,
  launcherPods,
  type MigrationState,
  patchMigrationState,
  setVmiStatus,
  type Vmi,
} from './kubevirt-objects.ts';

const MEBIBYTE = 1024 * 1024;
const RECHECK_MS = 100;
/** QEMU's own limit, above which KubeVirt begins no migration. */
const QEMU_DOWNTIME_MS = 300;
/** The lab's slowest link takes a minute for a whole guest. */
const PERFORM_TIMEOUT_MS = 300_000;

/** Looks at one migration from outside of everything under test: it only stands between QEMU and the sockets of the pods. */
export interface MigrationProbe {
  /** In both pods: where QEMU is to connect and to listen. */
  readonly qemuSocket: string;
  /** The target's listeners are there, the source's sockets too; libvirt is called next. */
  begin(): Promise<void>;
  /** libvirt has answered. */
  end(): Promise<void>;
}

export interface VirtHandlersOptions {
  readonly api: ApiClient;
  readonly launcherOf: (namespace: string, pod: string) => LauncherPod | undefined;
  readonly side: (launcher: LauncherPod) => MigrationSide;
  /** Starts the VM in its pod. */
  readonly startGuest: (vmi: Vmi, launcher: LauncherPod) => Promise<void>;
  readonly probe?: (migrationUid: string, source: LauncherPod, target: LauncherPod) => MigrationProbe;
  readonly log: (event: string, values?: Readonly<Record<string, unknown>>) => void;
}

interface Moving {
  readonly migration: LiveMigration;
  readonly source: LauncherPod;
  readonly target: LauncherPod;
  readonly probe: MigrationProbe | undefined;
  performing: Promise<void> | undefined;
  aborting: boolean;
}

export class VirtHandlers {
  readonly #options: VirtHandlersOptions;
  readonly #api: ApiClient;
  readonly #vmis: Informer<KubernetesObject>;
  readonly #queue: WorkQueue;
  readonly #moving = new Map<string, Moving>();
  readonly #results = new Map<string, MigrationResult>();

  constructor(options: VirtHandlersOptions) {
    this.#options = options;
    this.#api = options.api;
    const onProblem = (problem: string): void => options.log('watch failed', { problem });
    this.#vmis = new Informer(options.api, resources.virtualMachineInstances, { onProblem });
    this.#queue = new WorkQueue({
      work: (key) => this.#reconcile(key),
      workers: 8,
      minBackoffMs: 50,
      maxBackoffMs: 2000,
      onFailure: (key, error) => options.log('node', { key, error: String(error) }),
    });
    this.#vmis.onChange(({ current }) => {
      if (current !== undefined) this.#queue.add(keyOf(current));
    });
  }

  async start(): Promise<void> {
    this.#vmis.start();
    await this.#vmis.synced;
  }

  /** Stops watching; migrations under way are aborted. */
  async stop(): Promise<void> {
    await this.#vmis.stop();
    await this.#queue.stop();
    for (const moving of this.#moving.values()) {
      await moving.migration.cancel().catch(() => undefined);
      await moving.performing;
      await moving.migration.finish();
    }
  }

  /** What libvirt said at the end of a migration; undefined before. */
  resultOf(migrationUid: string): MigrationResult | undefined {
    return this.#results.get(migrationUid);
  }

  /** The migration under way, for faults; undefined before its target is prepared and after its end. */
  migration(migrationUid: string): LiveMigration | undefined {
    return this.#moving.get(migrationUid)?.migration;
  }

  async #reconcile(key: string): Promise<number | undefined> {
    const { namespace, name } = splitKey(key);
    const vmi = await getVmi(this.#api, namespace, name);
    if (vmi === undefined || vmi.metadata.deletionTimestamp !== undefined) return undefined;
    if (vmi.status?.phase === 'Scheduled') return this.#startVm(vmi);
    const state = vmi.status?.migrationState;
    if (state === undefined || state.completed === true) return undefined;
    return this.#move(vmi, state);
  }

  async #startVm(vmi: Vmi): Promise<number | undefined> {
    const pods = await launcherPods(this.#api, vmi);
    const pod = pods.find((one) => isPodReady(one) && one.spec?.nodeName === vmi.status?.nodeName);
    const launcher = this.#options.launcherOf(vmi.metadata.namespace, pod?.metadata?.name ?? '');
    if (launcher === undefined) return RECHECK_MS;
    const domain = await launcher.domainState(GUEST_DOMAIN);
    if (domain !== 'running') await this.#options.startGuest(vmi, launcher);
    const ready: Condition = { type: 'Ready', status: 'True' };
    const others = (vmi.status?.conditions ?? []).filter(({ type }) => type !== ready.type);
    await setVmiStatus(this.#api, vmi, { phase: 'Running', conditions: [...others, ready] });
    this.#options.log('vm runs', { vmi: vmi.metadata.name, launcher: launcher.name });
    return undefined;
  }

  async #move(vmi: Vmi, state: MigrationState): Promise<number | undefined> {
    const { migrationUid } = state;
    let moving = this.#moving.get(migrationUid);
    if (moving === undefined) {
      if (this.#results.has(migrationUid)) return undefined;
      const { namespace } = vmi.metadata;
      const source = this.#options.launcherOf(namespace, state.sourcePod);
      const target = this.#options.launcherOf(namespace, state.targetPod);
      if (source === undefined || target === undefined) return RECHECK_MS;
      const probe = this.#options.probe?.(migrationUid, source, target);
      const migration = new LiveMigration({
        ...(probe === undefined ? {} : { qemuSocket: probe.qemuSocket }),
        ...{ migrationUid, domain: GUEST_DOMAIN, flags: flagsOf(vmi, state) },
        ...{ source: this.#options.side(source), target: this.#options.side(target) },
      });
      moving = { migration, source, target, probe, performing: undefined, aborting: false };
      this.#moving.set(migrationUid, moving);
    }
    if (state.targetNodeAddress === undefined) {
      await moving.migration.prepareTarget();
      await patchMigrationState(this.#api, vmi, migrationUid, {
        targetNodeAddress: this.#options.side(moving.target).address,
      });
      return undefined;
    }
    if (moving.performing === undefined) {
      await moving.migration.prepareSource();
      const { maxDowntimeMs = QEMU_DOWNTIME_MS } = state.migrationConfiguration;
      await moving.migration.setMaxDowntime(Math.min(QEMU_DOWNTIME_MS, maxDowntimeMs));
      await patchMigrationState(this.#api, vmi, migrationUid, { startTimestamp: instant(), mode: 'PreCopy' });
      moving.performing = this.#perform(vmi, state, moving).catch((error: unknown) =>
        this.#options.log('migration broke', { migrationUid, error: String(error) }),
      );
      return undefined;
    }
    if (state.abortRequested === true && !moving.aborting) {
      moving.aborting = true;
      await patchMigrationState(this.#api, vmi, migrationUid, { abortStatus: 'Aborting' });
      await moving.migration
        .cancel()
        .catch((error: unknown) =>
          this.#options.log('abort refused', { migrationUid, error: String(error) }),
        );
    }
    return undefined;
  }

  /** libvirt's migration from its call to the VMI's new state. */
  async #perform(vmi: Vmi, state: MigrationState, moving: Moving): Promise<void> {
    const { migrationUid } = state;
    await moving.probe?.begin();
    const result = await moving.migration.perform({ timeoutMs: PERFORM_TIMEOUT_MS });
    await moving.probe?.end();
    this.#results.set(migrationUid, result);
    this.#options.log('libvirt has ended', { migrationUid, ...result });
    await moving.migration.finish();
    const now = instant();
    if (result.succeeded) {
      await this.#write(
        vmi,
        migrationUid,
        {
          ...{
            targetNodeDomainDetected: true,
            targetNodeDomainReadyTimestamp: now,
            endTimestamp: now,
            completed: true,
          },
        },
        { nodeName: state.targetNode },
      );
      // Without a domain virt-launcher ends.
      await moving.source.compute.stop();
    } else {
      await this.#write(vmi, migrationUid, {
        ...{ completed: true, failed: true, failureReason: result.error.slice(0, 1024), endTimestamp: now },
        ...(moving.aborting ? { abortStatus: 'Succeeded' } : {}),
      });
      await moving.target.compute.stop();
    }
    this.#moving.delete(migrationUid);
  }

  /** The end of a migration must be written, also when the API server is away for a while. */
  async #write(
    vmi: Vmi,
    migrationUid: string,
    change: Partial<MigrationState>,
    more: object = {},
  ): Promise<void> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        await patchMigrationState(this.#api, vmi, migrationUid, change, { ...more });
        return;
      } catch (error) {
        // 404: the VM was deleted; 422: it is in another migration.
        const isPointless = error instanceof ApiError && (error.status === 404 || error.status === 422);
        if (isPointless || attempt >= 100) throw error;
        await new Promise((resolve) => setTimeout(resolve, RECHECK_MS * 3));
      }
    }
  }
}

/** What virt-handler makes of the configuration: eight multifd channels unless the VM has a CPU limit. */
export function flagsOf(vmi: Vmi, { migrationConfiguration }: MigrationState): MigrationFlags {
  const { allowAutoConverge, allowPostCopy, bandwidthPerMigration, experimental } = migrationConfiguration;
  const bytesPerSecond = parseQuantity(bandwidthPerMigration) ?? 0;
  return {
    channels: vmi.spec.domain?.resources?.limits?.cpu === undefined ? 8 : 0,
    autoConverge: allowAutoConverge === true,
    postCopy: allowPostCopy === true,
    bandwidthMib: Math.ceil(bytesPerSecond / MEBIBYTE),
    zstd: experimental?.compression === 'zstd',
  };
}
