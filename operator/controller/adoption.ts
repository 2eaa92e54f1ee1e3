// Migrations that somebody else started (a drain, `virtctl migrate`), of VMs under a policy: each gets a NasAwareMigration that
// names it, so that it is accelerated and recorded by the same controller. Nothing about the migration itself is changed. Each is
// looked at again when what decides over it changes: its VM, the policies, the labels of its namespace.
import type { KubernetesObject } from '@kubernetes/client-node';
import type { Logger } from 'pino';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { type ApiClient, isAlreadyExists, isNotFound } from '../kubernetes/api-client.ts';
import { apiVersionOf, keyOf, resources, splitKey } from '../kubernetes/resources.ts';
import { WorkQueue } from '../kubernetes/work-queue.ts';
import { isFinal, readVmi, readVmim, type Vmim } from '../kubevirt/objects.ts';
import { byMigrationName, byVmi, type Caches } from './caches.ts';
import { isFinished, migrationNameFor } from './decide.ts';
import { readPolicy, selectPolicy } from './policies.ts';
import { ADOPTED_LABEL, type MigrationObject } from './snapshot.ts';

export class Adoption {
  readonly queue: WorkQueue;
  readonly #api: ApiClient;
  readonly #caches: Caches;
  readonly #log: Logger;
  readonly #subscriptions: (() => void)[];
  /** UIDs of migrations whose record somebody deleted: they are not recorded again. */
  readonly #dismissed = new Set<string>();

  constructor(options: { api: ApiClient; caches: Caches; log: Logger }) {
    this.#api = options.api;
    this.#caches = options.caches;
    this.#log = options.log;
    this.queue = new WorkQueue({
      work: (key) => this.#consider(key),
      workers: 2,
      minBackoffMs: 100,
      maxBackoffMs: 30_000,
      onFailure: (key, error) =>
        this.#log.warn({ ...splitKey(key), err: error }, 'adoption failed, it is tried again'),
    });
    const { vmims, vmis, migrations, policies, namespaces } = this.#caches;
    this.#subscriptions = [
      vmims.onChange(({ current, previous }) => {
        if (current !== undefined) this.queue.add(keyOf(current));
        else this.#dismissed.delete(previous?.metadata?.uid ?? '');
      }),
      vmis.onChange(({ current, previous }) => {
        if (current !== undefined && !hasSameLabels(current, previous))
          for (const migration of vmims.find(byVmi, keyOf(current))) this.queue.add(keyOf(migration));
      }),
      migrations.onChange(({ current, previous }) => {
        if (current === undefined) this.#dismiss(previous);
      }),
      policies.onChange(() => this.addAll()),
      namespaces.onChange(({ current, previous }) => {
        if (current === undefined || hasSameLabels(current, previous)) return;
        const name = current.metadata?.name;
        for (const migration of vmims.values())
          if (migration.metadata?.namespace === name) this.queue.add(keyOf(migration));
      }),
    ];
  }

  /** Every migration once: at the beginning of a term, and when policies changed. */
  addAll(): void {
    for (const object of this.#caches.vmims.values()) this.queue.add(keyOf(object));
  }

  async stop(): Promise<void> {
    for (const unsubscribe of this.#subscriptions) unsubscribe();
    await this.queue.stop();
  }

  /** Whoever deletes the record of a migration stops its acceleration, and not for a moment. */
  #dismiss(record: MigrationObject | undefined): void {
    const { migrationName } = (record?.spec ?? {}) as { migrationName?: unknown };
    if (record === undefined || typeof migrationName !== 'string') return;
    const key = `${record.metadata?.namespace ?? ''}/${migrationName}`;
    const uid = this.#caches.vmims.get(key)?.metadata?.uid;
    if (uid !== undefined && isRecordOf(record, { name: migrationName, uid })) this.#dismissed.add(uid);
  }

  async #consider(key: string): Promise<undefined> {
    const vmim = readVmim(this.#caches.vmims.get(key));
    if (
      vmim === undefined ||
      !isAdoptable(vmim) ||
      this.#dismissed.has(vmim.metadata.uid) ||
      this.#caches.migrations.find(byMigrationName, key).some((record) => isRecordOf(record, vmim.metadata))
    )
      return;
    const { namespace, name } = vmim.metadata;
    const vmi = readVmi(this.#caches.vmis.get(`${namespace}/${vmim.spec.vmiName}`));
    if (vmi === undefined) return;
    const selection = selectPolicy(
      [...this.#caches.policies.values()].flatMap((policy) => readPolicy(policy) ?? []),
      vmi.metadata.labels ?? {},
      this.#caches.namespaces.get(namespace)?.metadata?.labels ?? {},
    );
    if (selection === undefined || selection.policy.spec.adoption !== 'Enabled') return;
    const resource = resources.nasAwareMigrations;
    const recordNamed = (recordName: string): KubernetesObject & { spec: object } => ({
      apiVersion: apiVersionOf(resource),
      kind: resource.kind,
      metadata: {
        namespace,
        name: recordName,
        labels: { [ADOPTED_LABEL]: 'true' },
        // The record goes with the VM, not with the migration object, of which KubeVirt keeps only the last five.
        ownerReferences: [
          {
            apiVersion: apiVersionOf(resources.virtualMachineInstances),
            kind: resources.virtualMachineInstances.kind,
            name: vmi.metadata.name,
            uid: vmi.metadata.uid,
          },
        ],
      },
      spec: { vmiName: vmi.metadata.name, migrationName: name },
    });
    try {
      if (!(await this.#createFirst(vmim, recordNamed))) return;
      this.#log.info(
        { namespace, name, vmi: vmi.metadata.name, policy: selection.policy.name },
        'migration adopted',
      );
    } catch (error) {
      // A namespace that is being deleted takes no new objects.
      if (!isNotFound(error)) throw error;
    }
  }

  /**
   * False when it has its record already, which the cache may not show yet. Its own name may be that of another object: of the record of an
   * earlier migration of that name, or of somebody's own.
   */
  async #createFirst(
    { metadata }: Vmim,
    recordNamed: (name: string) => KubernetesObject & { spec: object },
  ): Promise<boolean> {
    const resource = resources.nasAwareMigrations;
    for (const name of [metadata.name, migrationNameFor(metadata)]) {
      try {
        await this.#api.create(resource, recordNamed(name));
        return true;
      } catch (error) {
        if (!isAlreadyExists(error)) throw error;
      }
      const { items } = await this.#api.list<MigrationObject>(resource, metadata.namespace, {
        fieldSelector: `metadata.name=${name}`,
      });
      if (items.some((there) => there.metadata?.name === name && isRecordOf(there, metadata))) return false;
    }
    return false;
  }
}

/** Whether the object records this migration, and not one before it that had the same name. */
function isRecordOf(record: MigrationObject, { name, uid }: { name: string; uid: string }): boolean {
  const { migrationName } = (record.spec ?? {}) as { migrationName?: unknown };
  if (migrationName !== name) return false;
  const status = (record.status ?? {}) as NasAwareMigrationStatus;
  return status.migration?.uid === undefined ? !isFinished(status) : status.migration.uid === uid;
}

function hasSameLabels(current: KubernetesObject, previous: KubernetesObject | undefined): boolean {
  if (previous === undefined) return false;
  const [now, before] = [current.metadata?.labels ?? {}, previous.metadata?.labels ?? {}];
  const names = Object.keys(now);
  return names.length === Object.keys(before).length && names.every((name) => now[name] === before[name]);
}

/** Under way, and not made by us: ours carry an owner. */
export function isAdoptable(vmim: Vmim): boolean {
  if (isFinal(vmim) || vmim.metadata.deletionTimestamp !== undefined || vmim.spec.vmiName === undefined)
    return false;
  return !vmim.metadata.ownerReferences.some(({ kind }) => kind === resources.nasAwareMigrations.kind);
}
