// Why a migration was or was not accelerated, and what the next one of a VM would be: from the record, and by the operator's own
// rules. Every reason comes with what to change. Pure.
import type { V1Pod } from '@kubernetes/client-node';
import { type Reason, reasons, reasonText } from '../../control/reasons.ts';
import { type Attempt, breakerFor } from '../../operator/controller/breaker.ts';
import { isFinished } from '../../operator/controller/decide.ts';
import { configurationProblem, notAccelerated, refusal } from '../../operator/controller/eligibility.ts';
import type { Policy } from '../../operator/controller/policies.ts';
import { usableVolumes } from '../../operator/controller/volumes.ts';
import { hasSidecar, isOver } from '../../operator/kubevirt/launcher-pod.ts';
import type { Vmi, Vmim } from '../../operator/kubevirt/objects.ts';
import type { Resolved } from '../cluster/kubevirt-settings.ts';
import type { Migration } from '../cluster/migration.ts';
import { savingOf } from '../cluster/saving.ts';
import { mayBeUsable } from '../cluster/vms.ts';
import { bytes, duration, percent } from '../output/sizes.ts';
import { pagesLine } from '../watch/view.ts';

/** Words for constants that are not in control/reasons.ts: why a migration was not started, and what it came to. */
const outcomes: Record<string, { meaning: string; nextStep: string }> = {
  Framed: { meaning: 'both sidecars were armed, and pages came from the NAS', nextStep: 'nothing to do' },
  Observing: {
    meaning: 'acceleration is Observe: every byte was passed on, and what would have been saved was recorded',
    nextStep:
      'set acceleration to Preferred, in the NasMigrationPolicy or with kubectl nasmig migrate --acceleration Preferred',
  },
  Preparing: { meaning: 'it is being prepared', nextStep: 'wait; kubectl nasmig watch follows it' },
  Arming: {
    meaning: 'the sidecars are being brought together',
    nextStep: 'wait; kubectl nasmig watch follows it',
  },
  VirtualMachineInstanceNotFound: {
    meaning: 'there was no such VirtualMachineInstance',
    nextStep: 'check the name and the namespace, and start the VM',
  },
  VirtualMachineInstanceNotRunning: {
    meaning: 'the VM did not run',
    nextStep: 'start the VM, then migrate it again',
  },
  NotLiveMigratable: {
    meaning: 'KubeVirt says that the VM cannot be live-migrated',
    nextStep:
      "read the VMI's LiveMigratable condition; access mode, host devices and CPU model are the usual causes",
  },
  MigrationInFlight: {
    meaning: 'another migration of the VM was under way',
    nextStep: 'wait for it to end, then migrate again',
  },
  MigrationNotFound: {
    meaning: 'the KubeVirt migration it names did not exist',
    nextStep: 'check spec.migrationName, or leave it out',
  },
  MigrationOfOtherVirtualMachineInstance: {
    meaning: 'the KubeVirt migration it names moves another VM',
    nextStep: 'check spec.vmiName and spec.migrationName',
  },
  MigrationDeleted: {
    meaning: 'somebody deleted the KubeVirt migration',
    nextStep: 'migrate again if the VM should still move',
  },
  MigrationFailed: {
    meaning: 'the KubeVirt migration failed; the VM runs on its source',
    nextStep: 'read its message, and the events of the VirtualMachineInstanceMigration',
  },
};

export function wordsFor(constant: string): { meaning: string; nextStep: string } | undefined {
  return (reasons as readonly string[]).includes(constant)
    ? reasonText(constant as Reason)
    : outcomes[constant];
}

export interface Explanation {
  namespace: string;
  vmi: string;
  /** The migration that is explained; absent when the VM never had one. */
  migration?: Told;
  /** Older ones of the same VM. */
  olderMigrations?: number;
  /** What the next migration of the VM would be; absent when the VM is not there. */
  next?: Forecast;
}

export interface Told {
  name: string;
  phase: string;
  /** Yes, no, or not decided yet. */
  accelerated: 'Yes' | 'No' | 'Undecided';
  reason: string;
  /** What was the case, with its detail. */
  why: string;
  /** What to change. */
  change: string;
  /** What it came to, one fact a line. */
  facts: string[];
}

/** From the record of one migration. */
export function tell(migration: Migration): Told {
  const { status } = migration;
  const condition = status.conditions?.find(({ type }) => type === 'Accelerated');
  const complete = status.conditions?.find(({ type }) => type === 'Complete');
  const accelerated =
    condition === undefined || condition.status === 'Unknown'
      ? 'Undecided'
      : condition.status === 'True'
        ? 'Yes'
        : 'No';
  const failed = status.phase === 'Failed' || status.phase === 'Cancelled';
  const reason = (failed ? complete?.reason : condition?.reason) ?? status.result?.reason ?? 'Pending';
  const words = wordsFor(reason);
  const message =
    (failed ? complete?.message : condition?.message) ??
    'the operator has not taken it up yet; kubectl nasmig doctor says whether it runs';
  // The operator's messages are "meaning (detail); next step": the next step has a line of its own here.
  const why = words === undefined ? message : message.replace(`; ${words.nextStep}`, '');
  return {
    name: migration.name,
    phase: status.phase ?? 'Pending',
    accelerated,
    reason,
    why: sentence(why),
    change: sentence(
      words?.nextStep ??
        (status.phase === undefined ? 'wait, or look with kubectl nasmig doctor' : 'see the message'),
    ),
    facts: factsOf(migration),
  };
}

/** What the numbers say, worst first. */
function factsOf({ status, adopted, spec }: Migration): string[] {
  const facts: string[] = [];
  const { result } = status;
  if (adopted) facts.push(`started by somebody else, as ${spec.migrationName ?? 'a KubeVirt migration'}`);
  if (status.policyName !== undefined)
    facts.push(`policy ${status.policyName}, acceleration ${status.acceleration ?? 'Preferred'}`);
  else if (status.acceleration !== undefined) facts.push(`no policy, acceleration ${status.acceleration}`);
  if (status.index !== undefined)
    facts.push(
      status.index.blocks === 0
        ? 'the index was empty when it began'
        : `index of ${bytes(status.index.blocks * 4096)} of blocks${status.index.ready ? '' : ', still being built'} when it began`,
    );
  if (result === undefined) return facts;
  if (result.attempt === 'FailedWhileArmed')
    facts.push(
      'it failed while it was accelerated: the next migrations of this VM are plain, for an hour or longer',
    );
  const saving = savingOf(result);
  const pages = saving?.pages ?? result.pages;
  if (pages !== undefined) {
    facts.push(pagesLine(pages));
    const { reference, literalRaw, literalCompressed } = pages;
    const share = percent(reference, reference + literalRaw + literalCompressed);
    if (result.accelerated && share < 50)
      facts.push(
        `only ${share} % of the pages that are not zero were found on the NAS: the guest's memory is mostly not page cache, or the index was small (see spec.index in docs/api.md)`,
      );
  }
  if (saving !== undefined)
    facts.push(
      `${saving.real ? 'saved' : 'would have saved'} ${bytes(saving.savedBytes)} (${saving.savedPercent} %)`,
    );
  if (result.resends !== undefined && result.resends > 0)
    facts.push(
      `${result.resends} batches were sent again in part, because the disk had changed since it was indexed`,
    );
  if (result.durationMs !== undefined)
    facts.push(
      `took ${duration(result.durationMs)}${result.downtimeMs === undefined ? '' : `, VM stopped ${duration(result.downtimeMs)}`}`,
    );
  return facts;
}

export interface Forecast {
  /** Unknown: what is not in the API (the index, the connection of sidecars) or may not be read decides. */
  verdict: 'Accelerated' | 'Observed' | 'Plain' | 'Refused' | 'Unknown';
  reason?: string;
  why: string;
  change: string;
  policy?: string;
  volumes: { usable: string[]; refused: { name: string; why: string }[] };
}

export interface ForecastFacts {
  vmi: Vmi;
  /** Undefined: policies may not be read. */
  policy: Policy | undefined;
  policiesKnown: boolean;
  others: readonly Vmim[];
  attempts: readonly Attempt[];
  /** virt-launcher pods of the VM; undefined when pods may not be read. */
  pods: readonly V1Pod[] | undefined;
  configuration: Resolved | undefined;
  driverOf: (claim: string) => string | undefined;
  /** `namespace/claim` of which nothing may be read. */
  unreadableClaims: ReadonlySet<string>;
  sharedDrivers: ReadonlySet<string>;
  nowMs: number;
}

/** By the operator's own functions, in the operator's order. */
export function forecast(facts: ForecastFacts): Forecast {
  const { vmi, policy, policiesKnown, others, attempts, pods, configuration } = facts;
  const volumes = usableVolumes(vmi, undefined, facts.driverOf, facts.sharedDrivers);
  const base = { volumes, ...(policy === undefined ? {} : { policy: policy.name }) };
  const refused = refusal(vmi.metadata.name, vmi, others);
  if (refused !== undefined)
    return {
      ...base,
      verdict: 'Refused',
      reason: refused.reason,
      why: sentence(refused.message),
      change: sentence(wordsFor(refused.reason)?.nextStep ?? 'see the message'),
    };
  const acceleration = policy?.spec.defaults?.acceleration ?? 'Preferred';
  const ruled =
    notAccelerated({
      acceleration,
      vmi,
      migration: undefined,
      suspendedBy: policy?.spec.suspend === true ? policy.name : undefined,
      breaker: breakerFor(
        { namespace: vmi.metadata.namespace, vmiName: vmi.metadata.name },
        attempts,
        facts.nowMs,
      ),
      usableVolumes: volumes.usable,
      refusedVolumes: volumes.refused,
    }) ?? configurationProblem(configuration?.configuration);
  const volumesUnknown =
    volumes.usable.length === 0 && mayBeUsable(vmi, volumes.refused, facts.unreadableClaims);
  const problem = ruled?.reason === 'NoSharedRawVolume' && volumesUnknown ? undefined : ruled;
  const source = pods?.find((pod) => !isOver(pod));
  const withoutSidecar = pods !== undefined && source !== undefined && !hasSidecar(source);
  if (problem !== undefined || withoutSidecar || (policiesKnown && policy === undefined)) {
    const reason = problem?.reason ?? 'NoSidecar';
    const words = wordsFor(reason);
    const why =
      problem?.message.replace(`; ${words?.nextStep}`, '') ??
      (policy === undefined
        ? 'no NasMigrationPolicy selects the VM, so that its pods get no sidecar'
        : `pod ${source?.metadata?.name} has no sidecar: it started before the policy or the install`);
    const change =
      reason === 'NoSidecar' && policy !== undefined
        ? policy.spec.injection === 'Disabled'
          ? `set spec.injection of policy ${policy.name} to Enabled, then migrate or restart the VM once`
          : 'migrate or restart the VM once: the new pod gets a sidecar'
        : (words?.nextStep ?? 'see the message');
    const where =
      configuration !== undefined && /^(PostCopyAllowed|CompressionOn|CappedBy)/.test(reason)
        ? ` (it is set in ${configuration.from})`
        : '';
    return { ...base, verdict: 'Plain', reason, why: sentence(why), change: sentence(`${change}${where}`) };
  }
  const unknown = [
    ...(policiesKnown ? [] : ['NasMigrationPolicies']),
    ...(pods === undefined ? ['pods'] : []),
    ...(configuration === undefined ? ["KubeVirt's configuration"] : []),
    ...(volumesUnknown ? ['PersistentVolumes'] : []),
  ];
  if (unknown.length > 0)
    return {
      ...base,
      verdict: 'Unknown',
      why: sentence(`nothing that may be read speaks against it; you may not read ${unknown.join(', ')}`),
      change: sentence('ask somebody who may, or migrate with --acceleration Observe and read the record'),
    };
  return acceleration === 'Observe'
    ? {
        ...base,
        verdict: 'Observed',
        reason: 'Observing',
        why: sentence(
          'its policy says Observe: every byte is passed on, and what would be saved is recorded',
        ),
        change: sentence(
          `set spec.defaults.acceleration of policy ${policy?.name ?? ''} to Preferred to accelerate`,
        ),
      }
    : {
        ...base,
        verdict: 'Accelerated',
        why: sentence(
          "nothing in the cluster's objects speaks against it; what only the sidecars know (their connection, the index) is seen when it starts",
        ),
        change: sentence('nothing to do'),
      };
}

/** The migration that a person means: the one under way, else the newest. `found` is newest first. */
export function theOneToExplain(found: readonly Migration[]): Migration | undefined {
  return found.find(({ status }) => !isFinished(status)) ?? found[0];
}

function sentence(text: string): string {
  const trimmed = text.trim();
  const first = trimmed.charAt(0).toUpperCase();
  return `${first}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? '' : '.'}`;
}
