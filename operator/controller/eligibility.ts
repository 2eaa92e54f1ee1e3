// Whether a VM can be migrated at all, and whether a migration can be accelerated: the list of architecture.md as one
// function each, first reason wins, every reason a documented constant with a detail. Pure.
import type { IndexStatus } from '../../control/messages.ts';
import { describeReason, type Reason } from '../../control/reasons.ts';
import { MAX_LINK_VERSION, MIN_LINK_VERSION } from '../../sidecar/link/frame-types.ts';
import type { MigrationConfiguration, Vmi, Vmim } from '../kubevirt/objects.ts';
import { isFinal } from '../kubevirt/objects.ts';
import { parseQuantity } from '../kubevirt/quantities.ts';
import type { LinkRange } from './snapshot.ts';

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

/** A cap of QEMU's own rate below this takes the gain away: references have it write several times what a link carries (docs/tuning.md). */
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

/** What a virt-launcher pod made now gets: the sidecar of this release. */
const OWN_LINK: LinkRange = { min: MIN_LINK_VERSION, max: MAX_LINK_VERSION };

/**
 * Whether the two sidecars have a version of the link in common. Before there is a target, it is the sidecar of this release that
 * the source will have to speak with. What is not known yet speaks against nothing.
 */
export function linkProblem(
  source: LinkRange | undefined,
  target: LinkRange | undefined,
  own: LinkRange = OWN_LINK,
): NotAccelerated | undefined {
  if (source === undefined) return undefined;
  const other = target ?? own;
  if (Math.max(source.min, other.min) <= Math.min(source.max, other.max)) return undefined;
  const range = ({ min, max }: LinkRange) => (min === max ? String(min) : `${min} to ${max}`);
  const who = target === undefined ? 'this release' : "the target's";
  return because('ProtocolTooOld', `the source's sidecar speaks ${range(source)}, ${who} ${range(other)}`);
}

/** A sampled index has one block in 10 of the disk, and grows around hits to the others at most (docs/adr/0004). */
const SAMPLED_ONE_IN = 10;
const BLOCK_BYTES = 4096;
/** Below this share of what QEMU will send, time is not saved: hashing and waiting for the NAS cost some themselves. */
const MIN_GAIN_SHARE = 0.2;

/**
 * Whether so little can come from the NAS that it is not worth the while, told from an upper bound: an index that is ready but
 * empty, or one that, if every block it can grow to were in the guest's memory, would cover less than a fifth of what QEMU wrote
 * the last time. The guest's memory size says nothing of it: pages of zeros cost QEMU next to nothing.
 */
export function gainProblem(
  index: IndexStatus | undefined,
  lastQemuBytes: number | undefined,
): NotAccelerated | undefined {
  if (index === undefined || !index.ready) return undefined;
  if (index.blocks === 0) return because('GainTooSmall', 'the index is empty');
  if (lastQemuBytes === undefined || lastQemuBytes === 0) return undefined;
  const share = (index.blocks * (index.blockStandsFor ?? SAMPLED_ONE_IN) * BLOCK_BYTES) / lastQemuBytes;
  if (share >= MIN_GAIN_SHARE) return undefined;
  return because(
    'GainTooSmall',
    `the index covers at most ${Math.floor(share * 100)} % of what QEMU wrote in the last migration`,
  );
}
