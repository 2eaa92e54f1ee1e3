// What each NasMigrationPolicy really applies to, which others win over it, and what keeps it from its work: written into its status by the leader, some
// seconds after anything that matters changed, and only when it differs.

import type { Logger } from 'pino';
import { checked } from '../../control/checked.ts';
import type { Condition } from '../../crds/fields.ts';
import {
  type NasMigrationPolicyStatus,
  nasMigrationPolicyStatusSchema,
} from '../../crds/nas-migration-policy.ts';
import { type ApiClient, isNotFound } from '../kubernetes/api-client.ts';
import { resources } from '../kubernetes/resources.ts';
import { WorkQueue } from '../kubernetes/work-queue.ts';
import { attemptOf, recentFailures } from './attempts.ts';
import { type ClusterBreaker, clusterBreaker } from './breaker.ts';
import type { Caches } from './caches.ts';
import { type ConditionChange, type DocumentedReason, withConditions } from './conditions.ts';
import { type Policy, readPolicy, selectPolicy } from './policies.ts';

const FIELD_MANAGER = 'nas-aware-migration-policies';
/** VMs come and go in bursts; their number in a policy's status may be this old. */
const SETTLE_MS = 2000;
/** The breaker closes and stops end by themselves; nothing is written when nothing changed. */
const RECHECK_MS = 30_000;
const MAX_OVERRIDDEN = 64;
const THE_ONE_KEY = 'policies';

export interface PolicyFacts {
  selected: number;
  /** Policies that win over this one for some VM. */
  overriddenBy: Set<string>;
}

/** What is the case for the whole cluster. */
export interface ClusterFacts {
  /** Set while nothing is armed. */
  breaker: ClusterBreaker | undefined;
  /** Why no pods get sidecars, in the whole cluster. */
  injectionProblem: { reason: DocumentedReason; message: string } | undefined;
  /** Namespaces where a pod with a sidecar was refused. */
  stopped: readonly { namespace: string; why: string }[];
}

const DISABLED = { reason: 'Disabled', message: 'spec.injection is Disabled' } as const;
const MAX_STOPPED_NAMED = 5;

/** Counts for every policy, over all running VMs. */
export function policyFacts(
  policies: readonly Policy[],
  vmis: Iterable<{
    labels: Readonly<Record<string, string>>;
    namespaceLabels: Readonly<Record<string, string>>;
  }>,
): Map<string, PolicyFacts> {
  const facts = new Map<string, PolicyFacts>(
    policies.map(({ name }) => [name, { selected: 0, overriddenBy: new Set() }]),
  );
  for (const { labels, namespaceLabels } of vmis) {
    const selection = selectPolicy(policies, labels, namespaceLabels);
    if (selection === undefined) continue;
    const winner = facts.get(selection.policy.name);
    if (winner !== undefined) winner.selected += 1;
    for (const name of selection.overridden) facts.get(name)?.overriddenBy.add(selection.policy.name);
  }
  return facts;
}

/** The status of a policy; conditions keep their times when nothing changed. */
export function policyStatus(
  before: NasMigrationPolicyStatus,
  generation: number,
  facts: PolicyFacts | undefined,
  nowMs: number,
  cluster: ClusterFacts = { breaker: undefined, injectionProblem: undefined, stopped: [] },
): NasMigrationPolicyStatus {
  const isReadable = facts !== undefined;
  const overridden = [...(facts?.overriddenBy ?? [])].sort().slice(0, MAX_OVERRIDDEN);
  const conditions: Condition[] = withConditions(
    before.conditions ?? [],
    [
      isReadable
        ? { type: 'Ready', status: 'True', reason: 'Applied', message: 'the policy is in force' }
        : {
            type: 'Ready',
            status: 'False',
            reason: 'Unreadable',
            message: 'this release cannot read the policy; it is ignored',
          },
      overridden.length === 0
        ? {
            type: 'Overridden',
            status: 'False',
            reason: 'NoConflict',
            message: 'no other policy wins over this one',
          }
        : {
            type: 'Overridden',
            status: 'True',
            reason: 'MoreSpecificPolicy',
            message: `for some VMs: ${overridden.slice(0, 10).join(', ')}; the policy with more matching labels wins, then the one with more labels of the VM, then the first by name`,
          },
      degraded(cluster),
      injecting(cluster),
    ],
    generation,
    nowMs,
  );
  return {
    observedGeneration: generation,
    conditions,
    selectedVirtualMachineInstances: facts?.selected ?? 0,
    ...(overridden.length === 0 ? {} : { overridden }),
  };
}

function degraded({ breaker }: ClusterFacts): ConditionChange {
  return breaker === undefined
    ? { type: 'Degraded', status: 'False', reason: 'BreakerClosed', message: 'migrations are accelerated' }
    : {
        type: 'Degraded',
        status: 'True',
        reason: 'ClusterBreakerOpen',
        message: `nothing is accelerated in the cluster: ${breaker.detail}; read the status of the NasAwareMigrations whose result.attempt is FailedWhileArmed, and report it`,
      };
}

function injecting({ injectionProblem, stopped }: ClusterFacts): ConditionChange {
  const type = 'Injecting';
  if (injectionProblem !== undefined) return { type, status: 'False', ...injectionProblem };
  if (stopped.length === 0)
    return { type, status: 'True', reason: 'Registered', message: 'new virt-launcher pods get sidecars' };
  const named = stopped
    .slice(0, MAX_STOPPED_NAMED)
    .map(({ namespace, why }) => `${namespace} (${why.slice(0, 200)})`)
    .join(', ');
  const more = stopped.length > MAX_STOPPED_NAMED ? ` and ${stopped.length - MAX_STOPPED_NAMED} more` : '';
  return {
    type,
    status: 'False',
    reason: 'StoppedInNamespaces',
    message: `pods with sidecars were refused, so that new ones come without in ${named}${more}; raise the quota or the limit range, add nodes, or let it pull the image`,
  };
}

export class PolicyStatusWriter {
  readonly #api: ApiClient;
  readonly #caches: Caches;
  readonly #queue: WorkQueue;
  readonly #subscriptions: (() => void)[];

  readonly #injection: () => Omit<ClusterFacts, 'breaker'>;

  constructor(options: {
    api: ApiClient;
    caches: Caches;
    log: Logger;
    injection: () => Omit<ClusterFacts, 'breaker'>;
  }) {
    this.#injection = options.injection;
    this.#api = options.api;
    this.#caches = options.caches;
    this.#queue = new WorkQueue({
      work: () => this.#write(),
      workers: 1,
      minBackoffMs: 1000,
      maxBackoffMs: 60_000,
      onFailure: (_key, error) =>
        options.log.warn({ err: error }, 'the status of policies could not be written, it is tried again'),
    });
    const soon = () => this.#queue.addAfter(THE_ONE_KEY, SETTLE_MS);
    const { policies, vmis, namespaces, migrations } = options.caches;
    this.#subscriptions = [
      policies.onChange(soon),
      vmis.onChange(soon),
      namespaces.onChange(soon),
      migrations.onChange(({ current, previous }) => {
        if (attemptOf(current ?? {})?.outcome !== attemptOf(previous ?? {})?.outcome) soon();
      }),
    ];
    soon();
  }

  async stop(): Promise<void> {
    for (const unsubscribe of this.#subscriptions) unsubscribe();
    await this.#queue.stop();
  }

  async #write(): Promise<number> {
    const { policies, vmis, namespaces, migrations } = this.#caches;
    const readable = [...policies.values()].flatMap((object) => readPolicy(object) ?? []);
    const facts = policyFacts(
      readable,
      [...vmis.values()].map(({ metadata }) => ({
        labels: metadata?.labels ?? {},
        namespaceLabels: namespaces.get(metadata?.namespace ?? '')?.metadata?.labels ?? {},
      })),
    );
    const nowMs = Date.now();
    const breaker = clusterBreaker(recentFailures(migrations, nowMs), nowMs);
    const injection = this.#injection();
    const withoutInjection = new Set(
      readable.filter(({ spec }) => spec.injection !== 'Enabled').map(({ name }) => name),
    );
    for (const object of policies.values()) {
      const { name = '', uid, generation = 0 } = object.metadata ?? {};
      const parsed = checked(nasMigrationPolicyStatusSchema, object.status ?? {});
      const before = parsed.success ? parsed.data : {};
      const status = policyStatus(before, generation, facts.get(name), nowMs, {
        breaker,
        ...injection,
        ...(withoutInjection.has(name) ? { injectionProblem: DISABLED } : {}),
      });
      if (isSame(before, status)) continue;
      try {
        const wanted = { metadata: { name, ...(uid === undefined ? {} : { uid }) }, status };
        await this.#api.apply(resources.nasMigrationPolicies, wanted, FIELD_MANAGER, 'status');
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
    }
    return breaker === undefined ? RECHECK_MS : Math.min(RECHECK_MS, Math.max(1000, breaker.untilMs - nowMs));
  }
}

function isSame(a: NasMigrationPolicyStatus, b: NasMigrationPolicyStatus): boolean {
  const essence = ({
    observedGeneration,
    conditions,
    selectedVirtualMachineInstances,
    overridden,
  }: NasMigrationPolicyStatus) =>
    JSON.stringify([
      observedGeneration,
      selectedVirtualMachineInstances,
      overridden ?? [],
      [...(conditions ?? [])]
        .sort((x, y) => (x.type < y.type ? -1 : 1))
        .map(({ type, status, reason, message }) => [type, status, reason, message]),
    ]);
  return essence(a) === essence(b);
}
