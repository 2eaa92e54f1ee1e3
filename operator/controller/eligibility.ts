// Whether a VM can be migrated at all, and whether a migration can be accelerated: the list of architecture.md as one
// function each, first reason wins, every reason a documented constant with a detail. Pure.
import { describeReason, type Reason } from '../../control/reasons.ts';
import type { MigrationConfiguration, Vmi, Vmim } from '../kubevirt/objects.ts';
import { isFinal } from '../kubevirt/objects.ts';
import { parseQuantity } from '../kubevirt/quantities.ts';

/** Why a migration is not started at all; constants like {@link Reason}, documented in docs/reasons.md. */
export type RefusalReason =
  | 'VirtualMachineInstanceNotFound'
  | 'VirtualMachineInstanceNotRunning'
  | 'NotLiveMigratable'
  | 'MigrationInFlight'
  | 'MigrationNotFound'
  | 'MigrationOfOtherVirtualMachineInstance';

export interface Refusal {
  reason: RefusalReason;
  message: string;
}

/** Why KubeVirt would not migrate this VM. `others`: migrations of the same VM besides our own. */
export function refusal(vmiName: string, vmi: Vmi | undefined, others: readonly Vmim[]): Refusal | undefined {
  if (vmi === undefined || vmi.metadata.deletionTimestamp !== undefined) {
    return {
      reason: 'VirtualMachineInstanceNotFound',
      message: `there is no VirtualMachineInstance ${vmiName} in this namespace; check spec.vmiName`,
    };
  }
  if (vmi.status.phase !== 'Running') {
    return {
      reason: 'VirtualMachineInstanceNotRunning',
      message: `the VirtualMachineInstance is ${vmi.status.phase ?? 'not started'}; start the VM, then make another NasAwareMigration`,
    };
  }
  const migratable = vmi.status.conditions.find(({ type }) => type === 'LiveMigratable');
  if (migratable?.status === 'False') {
    return {
      reason: 'NotLiveMigratable',
      message: `KubeVirt says ${migratable.reason ?? 'no'}: ${migratable.message ?? 'the VM cannot be live-migrated'}`,
    };
  }
  const inFlight = others.find((other) => !isFinal(other));
  if (inFlight !== undefined) {
    return {
      reason: 'MigrationInFlight',
      message: `${inFlight.metadata.name} is ${inFlight.status.phase ?? 'Pending'}; wait for it to end, then make another NasAwareMigration`,
    };
  }
  return undefined;
}

export interface NotAccelerated {
  reason: Reason;
  message: string;
}

function because(reason: Reason, detail?: string): NotAccelerated {
  return { reason, message: describeReason(reason, detail) };
}

export interface AccelerationFacts {
  acceleration: 'Preferred' | 'Required' | 'Observe' | 'Disabled';
  vmi: Vmi;
  migration: Vmim | undefined;
  suspendedBy: string | undefined;
  breaker: { reason: 'BreakerOpen' | 'ClusterBreakerOpen'; detail: string } | undefined;
  usableVolumes: readonly string[];
  refusedVolumes: readonly { name: string; why: string }[];
}

/** What is known before and whatever the configuration is. Observe is subject to it too: it needs the same parts. */
export function notAccelerated(facts: AccelerationFacts): NotAccelerated | undefined {
  const { acceleration, vmi, migration } = facts;
  if (acceleration === 'Disabled') return because('AccelerationDisabled');
  if (facts.suspendedBy !== undefined) return because('Suspended', `policy ${facts.suspendedBy}`);
  if (facts.breaker !== undefined && acceleration !== 'Observe')
    return because(facts.breaker.reason, facts.breaker.detail);
  if (migration?.spec.sendTo !== undefined || migration?.spec.receive !== undefined)
    return because('DecentralizedMigration');
  if (vmi.status.migratedVolumes.length > 0) return because('VolumesBeingMigrated');
  // KubeVirt reports the user that QEMU runs as; 107 is its non-root user.
  if (vmi.status.runtimeUser === 0) return because('RootVmi');
  if (facts.usableVolumes.length === 0) {
    const detail = facts.refusedVolumes
      .slice(0, 8)
      .map(({ name, why }) => `${name}: ${why}`)
      .join('; ');
    return because('NoSharedRawVolume', detail);
  }
  return undefined;
}

/** Below this share of what the plan needs, a cap of QEMU's own bandwidth takes the gain away. */
const NEEDED_BYTES_PER_SECOND = 1_000_000_000;

/** What the resolved configuration of the migration says against it; undefined when nothing, or not yet known. */
export function configurationProblem(
  configuration: MigrationConfiguration | undefined,
): NotAccelerated | undefined {
  if (configuration === undefined) return undefined;
  // allowWorkloadDisruption without post-copy pauses the VM at the end: that is no switch to another protocol.
  if (configuration.allowPostCopy === true) return because('PostCopyAllowed');
  const compression = configuration.experimental?.compression;
  if (compression !== undefined && compression !== 'none' && compression !== '')
    return because('CompressionOn', compression);
  const cap = parseQuantity(configuration.bandwidthPerMigration);
  if (cap !== undefined && cap > 0 && cap < NEEDED_BYTES_PER_SECOND) {
    return because('CappedByBandwidthPerMigration', String(configuration.bandwidthPerMigration));
  }
  return undefined;
}
