// Reconciles NasAwareMigrations: gathers a snapshot from the caches, asks decide() what to do, writes the status by
// server-side apply when it changed, and carries out the effects in order. One reconcile at a time per object; every effect
// can be repeated, so that a reconcile that was interrupted anywhere is simply run again.
import type { V1Pod } from '@kubernetes/client-node';
import type { Logger } from 'pino';
import type { Progress } from '../../control/messages.ts';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import type { Coordinator } from '../hub/coordinator.ts';
import { type ApiClient, isConflict, isNotFound } from '../kubernetes/api-client.ts';
import { pause } from '../kubernetes/informer.ts';
import { apiVersionOf, keyOf, resources, splitKey } from '../kubernetes/resources.ts';
import { WorkQueue } from '../kubernetes/work-queue.ts';
import { controllingVmi, hasSidecar } from '../kubevirt/launcher-pod.ts';
import { readVmi, readVmim, type Vmi, type Vmim } from '../kubevirt/objects.ts';
import { attemptsOfVm, clearsFailures, isPlainFaster, recentFailures } from './attempts.ts';
import { ATTEMPT_MEMORY_MS, type Attempt, type BreakerState, clusterBreaker, vmBreaker } from './breaker.ts';
import {
  byMigrationName,
  byMigrationUid,
  byOwner,
  byVmi,
  type Caches,
  type KubevirtObject,
} from './caches.ts';
import type { Claims } from './claims.ts';
import { decide, decideRefused, type Effect, heldPermit, isFinished, wantsPermit } from './decide.ts';
import { EventRecorder, type EventSubject } from './events.ts';
import { MigrationMaker } from './migration-maker.ts';
import { NasPermits } from './nas-permits.ts';
import { readPolicy, selectPolicy } from './policies.ts';
import {
  FINALIZER,
  type Migration,
  type MigrationObject,
  type PermitState,
  type PodFacts,
  readMigration,
  type Snapshot,
} from './snapshot.ts';
import { claimOf, usableVolumes } from './volumes.ts';

export const FIELD_MANAGER = 'nas-aware-migration';

export interface ControllerOptions {
  api: ApiClient;
  caches: Caches;
  claims: Claims;
  coordinator: Coordinator;
  log: Logger;
  sharedFileSystemDrivers: ReadonlySet<string>;
  workers: number;
  /** Accelerated migrations at a time for each NFS server; 0 is no limit. */
  nasReadPermits: number;
  now?: () => number;
  onReconcile?: (waitSeconds: number, workSeconds: number, failed: boolean) => void;
  /** A migration came to its end; called once for each end that this process wrote. */
  onFinished?: (migration: Migration, status: NasAwareMigrationStatus) => void;
  onArmed?: (armingSeconds: number) => void;
  /** One that runs was looked at; its sidecars' latest word is in `progress`. */
  onRunning?: (migration: Migration, progress: Progress) => void;
  /** The object is gone. */
  onGone?: (migration: { namespace: string; name: string }) => void;
}

/** Objects in one page when a new leader counts what runs. */
const LIST_PAGE = 500;
const RESTORE_RETRY_MS = 1000;
/** The longest back-off of a sidecar that lost its connection (docs/control-protocol.md). */
const RECONNECT_MS = 15_000;

const MIN_BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 30_000;
/** The cache has not yet seen what was written: its event brings the object back anyway, this is for one that was lost. */
const RECHECK_MS = 200;

export class Controller {
  readonly queue: WorkQueue;
  readonly #options: ControllerOptions;
  readonly #events: EventRecorder;
  readonly #now: () => number;
  readonly #reconnectUntilMs: number;
  /** What the last write per object left: an older cache entry is not acted on. */
  readonly #written = new Map<string, { resourceVersion: string; finalizers: string[] }>();
  readonly #armed = new Set<string>();
  readonly #maker: MigrationMaker;
  /** UIDs of objects of which it was told that they cannot be read. */
  readonly #unreadable = new Set<string>();
  readonly permits: NasPermits;
  readonly #stopping = new AbortController();
  #restored: Promise<void> | undefined;
  readonly #subscriptions: (() => void)[] = [];

  constructor(options: ControllerOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#reconnectUntilMs = this.#now() + RECONNECT_MS;
    this.#maker = new MigrationMaker(options.api, this.#now);
    this.#events = new EventRecorder(options.api, (problem) =>
      options.log.warn({ problem }, 'event was not written'),
    );
    this.queue = new WorkQueue({
      work: (key) => this.#reconcile(key),
      workers: options.workers,
      minBackoffMs: MIN_BACKOFF_MS,
      maxBackoffMs: MAX_BACKOFF_MS,
      onFailure: (key, error, failures) => {
        const level = isConflict(error) ? 'debug' : 'warn';
        options.log[level]({ ...splitKey(key), err: error, failures }, 'reconcile failed, it is tried again');
      },
      ...(options.onReconcile === undefined ? {} : { onDone: options.onReconcile }),
    });
    this.permits = new NasPermits({
      limit: options.nasReadPermits,
      onFree: (keys) => {
        for (const key of keys) this.queue.add(key);
      },
    });
    this.#watch();
  }

  /** Every object once: at the beginning of a term. */
  addAll(): void {
    for (const object of this.#options.caches.migrations.values()) this.queue.add(keyOf(object));
  }

  /** Finishes what is under way; takes nothing more. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    for (const unsubscribe of this.#subscriptions) unsubscribe();
    await this.queue.stop();
    await this.#events.stop();
  }

  /** What a sidecar said of this migration changed. */
  migrationChanged(migrationUid: string): void {
    for (const object of this.#options.caches.migrations.find(byMigrationUid, migrationUid))
      this.queue.add(keyOf(object));
  }

  /** A sidecar of this pod connected or went. */
  podChanged(namespace: string, podName: string): void {
    const pod = this.#options.caches.pods.get(`${namespace}/${podName}`);
    if (pod !== undefined) this.#addOfPod(pod);
  }

  /** Whether the result of this KubeVirt migration is written. */
  isRecorded(migrationUid: string): boolean {
    return this.#options.caches.migrations
      .find(byMigrationUid, migrationUid)
      .some((object) => isFinished((object.status ?? {}) as NasAwareMigrationStatus));
  }

  #watch(): void {
    const { migrations, policies, vmis, vmims, pods } = this.#options.caches;
    this.#subscriptions.push(
      migrations.onChange(({ current, previous }) => {
        const object = current ?? previous;
        if (object === undefined) return;
        if (current === undefined) {
          this.#written.delete(keyOf(object));
          this.#options.onGone?.(splitKey(keyOf(object)));
        }
        if (previous !== undefined && current?.metadata?.uid !== previous.metadata?.uid)
          this.#letGo(previous);
        this.queue.add(keyOf(object));
      }),
      vmims.onChange(({ current, previous }) => {
        const object = current ?? previous;
        if (object === undefined) return;
        const owners = object.metadata?.ownerReferences ?? [];
        for (const { kind, name } of owners) {
          if (kind === resources.nasAwareMigrations.kind)
            this.queue.add(`${object.metadata?.namespace ?? ''}/${name}`);
        }
        for (const record of migrations.find(byMigrationName, keyOf(object))) this.queue.add(keyOf(record));
      }),
      vmis.onChange(({ current, previous }) => {
        const object = current ?? previous;
        if (object !== undefined) this.#addOfVmi(keyOf(object));
      }),
      pods.onChange(({ current, previous }) => {
        const pod = current ?? previous;
        if (pod !== undefined) this.#addOfPod(pod);
      }),
      // Finished ones too: how long they are kept is the policy's to say.
      policies.onChange(() => {
        for (const object of migrations.values()) this.queue.add(keyOf(object));
      }),
    );
  }

  /** The object is gone: with its finalizer all of this has happened before, without it nobody comes back for it. */
  #letGo(object: MigrationObject): void {
    const { migrations, vmims } = this.#options.caches;
    const uid = object.metadata?.uid ?? '';
    this.permits.release(uid);
    this.#maker.forget(uid);
    this.#unreadable.delete(uid);
    const told = (object.status as NasAwareMigrationStatus | undefined)?.migration?.uid;
    const migrationUids = new Set([
      ...(typeof told === 'string' ? [told] : []),
      ...vmims.find(byOwner, uid).flatMap(({ metadata }) => metadata?.uid ?? []),
    ]);
    for (const migrationUid of migrationUids) {
      // Of somebody else's migration there may be another record.
      if (migrations.find(byMigrationUid, migrationUid).length > 0) continue;
      this.#armed.delete(migrationUid);
      this.#options.coordinator.giveUp(migrationUid, 'Cancelled', 'the NasAwareMigration was deleted');
      this.#options.coordinator.recorded(migrationUid);
    }
  }

  #addOfPod(pod: V1Pod): void {
    const vmi = controllingVmi(pod);
    if (vmi !== undefined) this.#addOfVmi(`${pod.metadata?.namespace ?? ''}/${vmi.name}`);
  }

  #addOfVmi(vmiKey: string): void {
    for (const object of this.#options.caches.migrations.find(byVmi, vmiKey)) {
      if (!isFinished((object.status ?? {}) as NasAwareMigrationStatus)) this.queue.add(keyOf(object));
    }
  }

  async #reconcile(key: string): Promise<number | undefined> {
    const object = this.#options.caches.migrations.get(key);
    if (object === undefined) return undefined;
    if (isOlder(object.metadata?.resourceVersion, this.#written.get(key)?.resourceVersion)) return RECHECK_MS;
    const migration = readMigration(object);
    if (migration === undefined || !migration.isStatusReadable) this.#tellUnreadable(object);
    if (migration === undefined) {
      // Nothing can be decided of it, and nothing be waited for: KubeVirt's migration goes with its owner.
      const { namespace = '', name = '', uid = '', deletionTimestamp } = object.metadata ?? {};
      if (deletionTimestamp !== undefined)
        await this.#setFinalizers(key, { namespace, name, uid }, withoutOurs);
      return undefined;
    }
    // Nothing is decided before it is counted who reads the NAS already.
    this.#restored ??= this.#restorePermits();
    await this.#restored;
    if (this.#stopping.signal.aborted) return undefined;
    const facts = await this.#snapshot(this.#withMade(migration));
    // From here to the decision nothing waits: what is free now is free when it is taken.
    const snapshot: Snapshot = { ...facts, permit: this.#permitFor(facts, key) };
    const decision = decide(snapshot);
    const [first] = decision.effects;
    // The finalizer comes before anything that would have to be undone, and the name of KubeVirt's migration is in the status before it
    // is made. Each of these steps is one reconcile, which the event of its own write brings back: none takes longer than a request.
    if (first?.type === 'addFinalizer') {
      await this.#carryOut(first, snapshot, key);
      return RECHECK_MS;
    }
    if (decision.status !== undefined) await this.#writeStatus(key, migration, decision.status);
    if (
      migration.status.migration === undefined &&
      decision.effects.some(({ type }) => type === 'createMigration')
    )
      return RECHECK_MS;
    for (const effect of decision.effects) {
      if (effect.type === 'createMigration') {
        const refused = await this.#make(effect.name, snapshot, key, decision.status ?? migration.status);
        // What follows tells of a migration that was made.
        if (refused !== undefined) return this.#refuse(refused, snapshot, key);
      } else {
        await this.#carryOut(effect, snapshot, key);
      }
    }
    this.#observeArming(snapshot);
    if (snapshot.coordination?.progress !== undefined && !isFinished(decision.status ?? migration.status))
      this.#options.onRunning?.(migration, snapshot.coordination.progress);
    return decision.requeueAfterMs;
  }

  #permitFor(facts: Omit<Snapshot, 'permit'>, key: string): PermitState | undefined {
    const { uid } = facts.migration;
    if (!wantsPermit(facts)) {
      this.permits.release(uid);
      return undefined;
    }
    const servers = this.#serversOf(facts.migration.namespace, facts.vmi, facts.volumes.usable);
    const granted = this.permits.take({ uid, key, servers });
    return { granted, detail: granted ? '' : this.permits.describe(servers) };
  }

  #serversOf(namespace: string, vmi: Vmi | undefined, volumes: readonly string[]): string[] {
    const { claims } = this.#options;
    const servers = (vmi?.spec.volumes ?? [])
      .filter(({ name }) => volumes.includes(name))
      .flatMap((volume) => claimOf(volume) ?? [])
      .flatMap((claim) => claims.serverOf(namespace, claim) ?? []);
    return [...new Set(servers)];
  }

  /** Counts what runs from the objects on the API server: the cache may not have the last words of the leader before. */
  async #restorePermits(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        return await this.#countRunning();
      } catch (error) {
        this.#options.log.warn({ err: error }, 'what runs could not be counted, it is tried again');
        await pause(RESTORE_RETRY_MS, signal);
      }
    }
  }

  async #countRunning(): Promise<void> {
    const { api, caches, claims } = this.#options;
    let token = '';
    do {
      const page = await api.list<MigrationObject>(resources.nasAwareMigrations, undefined, {
        limit: String(LIST_PAGE),
        ...(token === '' ? {} : { continue: token }),
      });
      for (const object of page.items) {
        const migration = readMigration(object);
        if (migration === undefined || migration.deleting || !heldPermit(migration.status)) continue;
        const { namespace, uid, spec } = migration;
        const vmi = readVmi(caches.vmis.get(`${namespace}/${spec.vmiName}`));
        const usable =
          vmi === undefined
            ? []
            : usableVolumes(
                vmi,
                spec.volumes,
                (claim) => claims.driverOf(namespace, claim),
                this.#options.sharedFileSystemDrivers,
              ).usable;
        this.permits.occupy({ uid, key: keyOf(object), servers: this.#serversOf(namespace, vmi, usable) });
      }
      token = (page.metadata as { continue?: string } | undefined)?.continue ?? '';
    } while (token !== '');
  }

  async #snapshot(migration: Migration): Promise<Omit<Snapshot, 'permit'>> {
    const { caches, claims, coordinator, sharedFileSystemDrivers } = this.#options;
    const vmiKey = `${migration.namespace}/${migration.spec.vmiName}`;
    const vmi = readVmi(caches.vmis.get(vmiKey));
    const ownVmim = this.#vmimOf(migration) ?? (await this.#liveVmimOf(migration));
    const others = caches.vmims
      .find(byVmi, vmiKey)
      .flatMap((other) => readVmim(other) ?? [])
      .filter((other) => other.metadata.uid !== ownVmim?.metadata.uid);
    const nowMs = this.#now();
    const finished = migration.deleting || isFinished(migration.status);
    const policies = [...caches.policies.values()].flatMap((policy) => readPolicy(policy) ?? []);
    const { policyName } = migration.status;
    const policy =
      vmi === undefined && policyName !== undefined
        ? // The VM is off, and its labels with it: the policy that applied last.
          policies.find(({ name }) => name === policyName)
        : selectPolicy(
            policies,
            vmi?.metadata.labels ?? {},
            caches.namespaces.get(migration.namespace)?.metadata?.labels ?? {},
          )?.policy;
    const attempts = attemptsOfVm(caches.migrations, migration.namespace, migration.spec.vmiName);
    const state =
      vmi?.status.migrationState?.migrationUid === ownVmim?.metadata.uid
        ? vmi?.status.migrationState
        : undefined;
    const sourcePod = this.#podFacts(
      migration,
      vmi,
      state?.sourcePod ?? migration.status.source?.pod ?? this.#onlyPodOf(vmi),
    );
    const targetPod = this.#podFacts(migration, vmi, state?.targetPod ?? migration.status.target?.pod);
    return {
      nowMs,
      migration,
      vmi,
      vmim: ownVmim,
      others,
      policy,
      volumes:
        vmi === undefined || finished
          ? { usable: [], refused: [] }
          : usableVolumes(
              vmi,
              migration.spec.volumes,
              (claim) => claims.driverOf(migration.namespace, claim),
              sharedFileSystemDrivers,
            ),
      breaker: finished ? undefined : this.#breaker(attempts, nowMs),
      clearsFailures:
        migration.status.result?.attempt === 'Accelerated' &&
        clearsFailures(attempts, Date.parse(migration.status.completionTime ?? '')),
      reconnectUntilMs: this.#reconnectUntilMs,
      holdsPermit: this.permits.isHeldBy(migration.uid),
      lastQemuBytes: lastQemuBytes(attempts, nowMs),
      isPlainFaster: isPlainFaster(attempts, nowMs),
      sourcePod,
      targetPod,
      coordination: ownVmim === undefined ? undefined : coordinator.view(ownVmim.metadata.uid),
    };
  }

  #vmimOf(migration: Migration): Vmim | undefined {
    const { vmims } = this.#options.caches;
    const { migrationName } = migration.spec;
    if (migrationName !== undefined) {
      const named = readVmim(vmims.get(`${migration.namespace}/${migrationName}`));
      const told = migration.status.migration?.uid;
      // One that was made again under the name is another migration.
      if (told === undefined) return isFinished(migration.status) ? undefined : named;
      return named?.metadata.uid === told ? named : undefined;
    }
    const owned = vmims.find(byOwner, migration.uid);
    return owned.length === 0 ? undefined : readVmim(owned[0]);
  }

  /** The cache may not have yet what was made a moment ago; that it is gone is for the API server to say. */
  async #liveVmimOf(migration: Migration): Promise<Vmim | undefined> {
    const { name, uid } = migration.status.migration ?? {};
    if (name === undefined || uid === undefined || isFinished(migration.status)) return undefined;
    try {
      const live = await this.#options.api.get<KubevirtObject>(
        resources.virtualMachineInstanceMigrations,
        migration.namespace,
        name,
      );
      return live.metadata?.uid === uid ? readVmim(live) : undefined;
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** Before the hand-off KubeVirt names no source pod: it is the one pod of the VMI on the VMI's node. */
  #onlyPodOf(vmi: Vmi | undefined): string | undefined {
    if (vmi === undefined) return undefined;
    const pods = this.#options.caches.pods
      .find(byVmi, `${vmi.metadata.namespace}/${vmi.metadata.name}`)
      .filter((pod) => pod.status?.phase === 'Running' && pod.spec?.nodeName === vmi.status.nodeName);
    return pods.length === 1 ? pods[0]?.metadata?.name : undefined;
  }

  #podFacts(migration: Migration, vmi: Vmi | undefined, name: string | undefined): PodFacts | undefined {
    if (name === undefined) return undefined;
    const pod = this.#options.caches.pods.get(`${migration.namespace}/${name}`);
    const uid = pod?.metadata?.uid;
    if (pod === undefined || uid === undefined) return undefined;
    const session = this.#options.coordinator.session(uid);
    return {
      name,
      uid,
      node: pod.spec?.nodeName,
      belongsToVmi:
        vmi !== undefined &&
        controllingVmi(pod)?.uid === vmi.metadata.uid &&
        vmi.status.activePods?.[uid] !== undefined,
      hasSidecar: hasSidecar(pod),
      connected: session !== undefined,
      index: this.#options.coordinator.index(uid),
      link: session?.hello.link,
    };
  }

  #breaker(attempts: readonly Attempt[], nowMs: number): BreakerState {
    const cluster = clusterBreaker(recentFailures(this.#options.caches.migrations, nowMs), nowMs);
    return cluster === undefined
      ? vmBreaker(attempts, nowMs)
      : { reason: 'ClusterBreakerOpen', detail: cluster.detail };
  }

  async #writeStatus(key: string, migration: Migration, status: NasAwareMigrationStatus): Promise<void> {
    if (JSON.stringify(sorted(status)) === JSON.stringify(sorted(migration.status))) return;
    const { namespace, name, uid } = migration;
    const written = await this.#options.api.apply<MigrationObject>(
      resources.nasAwareMigrations,
      { metadata: { namespace, name, uid }, status },
      FIELD_MANAGER,
      'status',
    );
    this.#remember(key, written);
    if (isFinished(status) && !isFinished(migration.status)) {
      this.#maker.forget(uid);
      this.#options.log.info(
        {
          namespace,
          name,
          vmi: migration.spec.vmiName,
          migrationUid: status.migration?.uid,
          phase: status.phase,
          result: status.result,
        },
        'migration finished',
      );
      this.#options.onFinished?.(migration, status);
    }
  }

  /** The UID is in the status before anything else happens: one that is gone later is then not made again. Or the refusal. */
  async #make(
    name: string,
    snapshot: Snapshot,
    key: string,
    status: NasAwareMigrationStatus,
  ): Promise<string | undefined> {
    const made = await this.#maker.make(name, snapshot.migration);
    if ('refusal' in made) return made.refusal;
    await this.#writeStatus(
      key,
      { ...snapshot.migration, status },
      { ...status, migration: { name, ...made } },
    );
    return undefined;
  }

  async #refuse(refusal: string, snapshot: Snapshot, key: string): Promise<undefined> {
    const { status, effects } = decideRefused(snapshot, refusal);
    if (status !== undefined) await this.#writeStatus(key, snapshot.migration, status);
    for (const effect of effects)
      if (effect.type !== 'createMigration') await this.#carryOut(effect, snapshot, key);
  }

  /** What was made, and could not be written yet. */
  #withMade(migration: Migration): Migration {
    const { status } = migration;
    const uid = this.#maker.madeFor(migration.uid);
    if (uid === undefined || status.migration === undefined || status.migration.uid !== undefined)
      return migration;
    return { ...migration, status: { ...status, migration: { ...status.migration, uid } } };
  }

  /** Once for each object: it is left alone until a release that can read it is there. */
  #tellUnreadable(object: MigrationObject): void {
    const { namespace = '', name = '', uid = '' } = object.metadata ?? {};
    if (this.#unreadable.has(uid)) return;
    this.#unreadable.add(uid);
    const message =
      'this release cannot read the object, which another release wrote, and leaves it alone; upgrade the operator, or delete the object';
    this.#options.log.warn({ namespace, name }, message);
    this.#events.record([migrationSubject({ namespace, name, uid })], {
      severity: 'Warning',
      reason: 'Unreadable',
      message,
    });
  }

  async #carryOut(
    effect: Exclude<Effect, { type: 'createMigration' }>,
    snapshot: Snapshot,
    key: string,
  ): Promise<void> {
    const { api, coordinator } = this.#options;
    const { migration, vmi } = snapshot;
    const { namespace, name, uid } = migration;
    switch (effect.type) {
      case 'addFinalizer':
        return this.#setFinalizers(key, migration, (finalizers) => [...finalizers, FINALIZER]);
      case 'removeFinalizer':
        return this.#setFinalizers(key, migration, withoutOurs);
      case 'deleteMigration':
        return api.delete(resources.virtualMachineInstanceMigrations, namespace, effect.name, effect.uid);
      case 'coordinate':
        return coordinator.coordinate(effect.order);
      case 'giveUp':
        return coordinator.giveUp(effect.migrationUid, effect.reason, effect.detail);
      case 'recorded':
        this.#armed.delete(effect.migrationUid);
        return coordinator.recorded(effect.migrationUid);
      case 'deleteSelf':
        return api.delete(resources.nasAwareMigrations, namespace, name, uid);
      case 'event': {
        const subjects: EventSubject[] = [migrationSubject(migration)];
        if (vmi !== undefined) {
          subjects.push({
            apiVersion: apiVersionOf(resources.virtualMachineInstances),
            kind: resources.virtualMachineInstances.kind,
            namespace,
            name: vmi.metadata.name,
            uid: vmi.metadata.uid,
          });
        }
        return this.#events.record(subjects, effect);
      }
    }
  }

  /**
   * A merge patch replaces the list, so it carries the resource version of the list it was made from: that of the cache, or of our own
   * write when that is newer. Somebody else's change in between is a conflict, and the reconcile is run again.
   */
  async #setFinalizers(
    key: string,
    migration: Pick<Migration, 'namespace' | 'name' | 'uid'>,
    change: (finalizers: string[]) => string[],
  ): Promise<void> {
    const { namespace, name } = migration;
    const cached = this.#options.caches.migrations.get(key)?.metadata;
    if (cached === undefined || cached.uid !== migration.uid) return;
    const written = this.#written.get(key);
    const newest = isOlder(cached.resourceVersion, written?.resourceVersion) ? written : cached;
    const before = newest?.finalizers ?? [];
    const after = [...new Set(change(before))];
    if (after.length === before.length) return;
    try {
      const patched = await this.#options.api.mergePatch<MigrationObject>(
        resources.nasAwareMigrations,
        namespace,
        name,
        {
          metadata: {
            uid: migration.uid,
            finalizers: after,
            resourceVersion: newest?.resourceVersion,
          },
        },
      );
      this.#remember(key, patched);
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  #remember(key: string, { metadata }: MigrationObject): void {
    this.#written.set(key, {
      resourceVersion: metadata?.resourceVersion ?? '',
      finalizers: metadata?.finalizers ?? [],
    });
  }

  #observeArming({ coordination, vmim }: Snapshot): void {
    const uid = vmim?.metadata.uid;
    if (uid === undefined || coordination?.armingSeconds === undefined || this.#armed.has(uid)) return;
    this.#armed.add(uid);
    this.#options.onArmed?.(coordination.armingSeconds);
  }
}

/** Of the newest success; after a day the guest's memory is another. */
function lastQemuBytes(attempts: readonly Attempt[], nowMs: number): number | undefined {
  const successes = attempts
    .filter(({ outcome, endMs }) => outcome === 'accelerated' && nowMs - endMs < ATTEMPT_MEMORY_MS)
    .sort((a, b) => b.endMs - a.endMs);
  return successes[0]?.qemuBytes;
}

/** Resource versions of one kind can be compared as numbers; anything else counts as new enough. */
function isOlder(cached: string | undefined, written: string | undefined): boolean {
  if (cached === undefined || written === undefined || written === '') return false;
  return /^\d+$/.test(cached) && /^\d+$/.test(written) && BigInt(cached) < BigInt(written);
}

function migrationSubject({
  namespace,
  name,
  uid,
}: Pick<Migration, 'namespace' | 'name' | 'uid'>): EventSubject {
  const { nasAwareMigrations } = resources;
  return {
    apiVersion: apiVersionOf(nasAwareMigrations),
    kind: nasAwareMigrations.kind,
    namespace,
    name,
    uid,
  };
}

/** Keys in order, so that two equal values have equal text. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, entry]) => entry !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, entry]) => [name, sorted(entry)]),
  );
}

function withoutOurs(finalizers: string[]): string[] {
  return finalizers.filter((one) => one !== FINALIZER);
}
