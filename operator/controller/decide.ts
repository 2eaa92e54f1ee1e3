// What to do about one NasAwareMigration, as a pure function: snapshot in, wanted status and effects out. Called again after
// every change and after every restart, it must come to the same end from any state: nothing is remembered but in the
// objects. Order of effects is order of execution; the status is written first, so that what was decided is known before
// it happens. The phases are those of the CRD.
import { DEFAULT_DOWNTIME_LIMIT_MS } from '../../control/limits.ts';
import { describeReason, type Reason } from '../../control/reasons.ts';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import type { CoordinationOrder } from '../hub/coordinator.ts';
import { isFinal, isPodNetworkBridged, type Vmim } from '../kubevirt/objects.ts';
import { parseDurationMs, parseQuantity } from '../kubevirt/quantities.ts';
import { boundedStatus } from './bounded-status.ts';
import { ATTEMPT_MEMORY_MS } from './breaker.ts';
import { type ConditionChange, type DocumentedReason, withConditions } from './conditions.ts';
import {
  configurationProblem,
  gainProblem,
  linkProblem,
  type NotAccelerated,
  notAccelerated,
  refusal,
} from './eligibility.ts';
import { progressOf, resultOf } from './record.ts';
import { effectiveAcceleration, type Migration, type Snapshot } from './snapshot.ts';

export type Effect =
  | { type: 'addFinalizer' }
  | { type: 'removeFinalizer' }
  | { type: 'createMigration'; name: string }
  /** Deletes the VirtualMachineInstanceMigration, which cancels it. */
  | { type: 'deleteMigration'; name: string; uid: string }
  | { type: 'coordinate'; order: CoordinationOrder }
  | { type: 'giveUp'; migrationUid: string; reason: Reason; detail: string }
  /** The result is in the status that was just written: sidecars may forget it. */
  | { type: 'recorded'; migrationUid: string }
  | { type: 'deleteSelf' }
  | { type: 'event'; severity: 'Normal' | 'Warning'; reason: DocumentedReason; message: string };

export interface Decision {
  /** Undefined: leave the status as it is. */
  status: NasAwareMigrationStatus | undefined;
  effects: Effect[];
  requeueAfterMs?: number;
}

/** After KubeVirt's migration ended, sidecars get this long to tell their results … */
const RESULT_WAIT_MS = 5000;
/** … and this long when they are not connected, as after a change of leader: their longest back-off is 15 s. */
const RECONNECT_WAIT_MS = 20_000;
/** With Required and no prepareTimeout, a sidecar that is still connecting is waited for this long. */
const DEFAULT_REQUIRED_WAIT_MS = 15_000;
/** A cache that has not seen yet what made this object: an adopted migration is looked for this long. */
const ADOPTION_GRACE_MS = 10_000;
const CANCEL_RECHECK_MS = 5000;
/** One that waits for a permit is told when one comes free; this is only for what nobody told. */
const PERMIT_RECHECK_MS = 10_000;
/** A success that outlives its time goes when the failures that it clears are gone. */
const CLEARING_RECHECK_MS = 600_000;
/** Names of KubeVirt's migrations end up in labels and annotations; 63 is the limit of a label. */
const MAX_MIGRATION_NAME_LENGTH = 63;

/** A snapshot before it is known whether the NAS may be read. */
type Facts = Omit<Snapshot, 'permit'>;

export function decide(snapshot: Snapshot): Decision {
  const decision = decideAny(snapshot);
  if (decision.status !== undefined) decision.status = boundedStatus(decision.status);
  return decision;
}

function decideAny(snapshot: Snapshot): Decision {
  const { migration } = snapshot;
  if (migration.deleting) return decideDeletion(snapshot);
  // What another release wrote may say that all of it is done.
  if (!migration.isStatusReadable) return { status: undefined, effects: [] };
  if (isFinished(migration.status)) return decideFinished(snapshot);
  const decision =
    snapshot.vmim === undefined ? decideStart(snapshot) : decideRunning(snapshot, snapshot.vmim);
  // What was refused at the first look has nothing that would have to be undone.
  if (!migration.hasFinalizer && !isFinished(decision.status ?? {})) {
    decision.effects.unshift({ type: 'addFinalizer' });
  }
  return decision;
}

/**
 * Whether this migration reads the NAS, or would do so next: it has to hold a permit of each of its servers then, and gives it
 * back when this becomes false. Observe reads nothing for pages.
 */
export function wantsPermit(snapshot: Facts): boolean {
  const { migration, vmi, vmim, others, coordination } = snapshot;
  if (migration.deleting || !migration.isStatusReadable || isFinished(migration.status) || vmi === undefined)
    return false;
  if (effectiveAcceleration(snapshot) === 'Observe') return false;
  if (vmim === undefined) {
    if (migration.status.migration?.uid !== undefined || migration.spec.migrationName !== undefined)
      return false;
    return (
      refusal(migration.spec.vmiName, vmi, others) === undefined &&
      startProblem(snapshot) === undefined &&
      preparationLeftMs(snapshot) <= 0
    );
  }
  if (isFinal(vmim) || vmim.spec.vmiName !== migration.spec.vmiName) return false;
  if (coordination?.go === true) return true;
  const decided = acceleratedOf(migration.status);
  // Framed under an earlier leader: its sidecars are still to tell this one.
  if (decided?.status === 'True') return true;
  // Once it was told that it goes without, it does: a permit that comes later would come too late for its sockets.
  if (decided?.status === 'False' && decided.reason === 'NoNasPermit') return false;
  // Before the hand-off KubeVirt may let it wait for long: only one that was made with a permit keeps it.
  if (configurationOf(snapshot) === undefined && !snapshot.holdsPermit) return false;
  return runningProblem(snapshot) === undefined;
}

/** Whether an object's status says that it holds permits: what a new leader counts before it decides anything. */
export function heldPermit(status: NasAwareMigrationStatus): boolean {
  if (isFinished(status) || status.migration === undefined || status.acceleration === 'Observe') return false;
  const decided = acceleratedOf(status);
  return decided?.status === 'True' || (decided?.status === 'Unknown' && decided.reason === 'Arming');
}

function acceleratedOf(status: NasAwareMigrationStatus) {
  return status.conditions?.find(({ type }) => type === 'Accelerated');
}

export function isFinished(status: NasAwareMigrationStatus): boolean {
  return status.phase === 'Succeeded' || status.phase === 'Failed' || status.phase === 'Cancelled';
}

/** The KubeVirt migration's name: always the same for one object, so that it is never made twice. */
export function migrationNameFor(migration: { name: string; uid: string }): string {
  const suffix = `-${migration.uid.slice(0, 8)}`;
  return (
    migration.name.slice(0, MAX_MIGRATION_NAME_LENGTH - suffix.length).replace(/[^a-z0-9]+$/, '') + suffix
  );
}

/**
 * The API server, KubeVirt's admission or a quota refused the migration: the end, written and told. `refusal` says why, and what to do.
 */
export function decideRefused(snapshot: Snapshot, refusal: string): Decision {
  const refused = { reason: 'MigrationRefused', message: refusal } as const;
  const { status, effects } = finish(snapshot, 'Failed', refused);
  const warning: Effect = { type: 'event', severity: 'Warning', ...refused };
  return {
    status: status && boundedStatus(status),
    effects: [warning, ...effects.filter(({ type }) => type !== 'event')],
  };
}

/** Ours to cancel: made for this object. One that spec.migrationName names is somebody else's, and only recorded. */
function isOurs({ spec, uid }: Migration, vmim: Vmim): boolean {
  return spec.migrationName === undefined || vmim.metadata.ownerReferences.some((owner) => owner.uid === uid);
}

function decideDeletion(snapshot: Snapshot): Decision {
  const { migration, vmim } = snapshot;
  if (!migration.hasFinalizer) return { status: undefined, effects: forget(snapshot) };
  // A record of somebody else's migration is only a record: deleting it stops the acceleration, not a node drain.
  const cancels = vmim !== undefined && !isFinal(vmim) && isOurs(migration, vmim);
  if (!cancels) {
    const effects: Effect[] =
      vmim === undefined ? [] : [stop(vmim, 'Cancelled', 'the NasAwareMigration was deleted')];
    return { status: undefined, effects: [...effects, ...forget(snapshot), { type: 'removeFinalizer' }] };
  }
  const effects: Effect[] = [stop(vmim, 'Cancelled', 'the NasAwareMigration was deleted')];
  if (vmim.metadata.deletionTimestamp === undefined) {
    effects.push(
      { type: 'deleteMigration', name: vmim.metadata.name, uid: vmim.metadata.uid },
      {
        type: 'event',
        severity: 'Normal',
        reason: 'Cancelling',
        message: `cancelling ${vmim.metadata.name}`,
      },
    );
  }
  return { status: undefined, effects, requeueAfterMs: CANCEL_RECHECK_MS };
}

function decideFinished(snapshot: Snapshot): Decision {
  const { migration, policy, nowMs } = snapshot;
  const effects = forget(snapshot);
  if (migration.hasFinalizer) effects.push({ type: 'removeFinalizer' });
  const ttlMs = parseDurationMs(migration.spec.ttlAfterFinished ?? policy?.spec.defaults?.ttlAfterFinished);
  if (ttlMs === undefined) return { status: undefined, effects };
  const keepMs =
    migration.status.result?.attempt === 'FailedWhileArmed' ? Math.max(ttlMs, ATTEMPT_MEMORY_MS) : ttlMs;
  const leftMs = Date.parse(migration.status.completionTime ?? '') + keepMs - nowMs;
  const isOver = Number.isNaN(leftMs) || leftMs <= 0;
  if (isOver && snapshot.clearsFailures)
    return { status: undefined, effects, requeueAfterMs: CLEARING_RECHECK_MS };
  if (isOver) return { status: undefined, effects: [...effects, { type: 'deleteSelf' }] };
  return { status: undefined, effects, requeueAfterMs: leftMs };
}

/** No KubeVirt migration yet, or not any longer. */
function decideStart(snapshot: Snapshot): Decision {
  const { migration, vmi, others, nowMs } = snapshot;
  if (migration.status.migration !== undefined && isGone(snapshot)) {
    const state = vmi?.status.migrationState;
    // It had ended before it was deleted, and the VM remembers how.
    if (state?.completed === true && state.migrationUid === migration.status.migration.uid)
      return state.failed === true ? failed(snapshot, state.failureReason) : succeeded(snapshot);
    return finish(snapshot, 'Cancelled', {
      reason: 'MigrationDeleted',
      message: `${migration.status.migration.name} was deleted; make another NasAwareMigration to migrate the VM`,
    });
  }
  if (migration.spec.migrationName !== undefined) {
    const leftMs = waitingSinceMs(snapshot) + ADOPTION_GRACE_MS - nowMs;
    if (leftMs > 0) {
      const message = `looking for ${migration.spec.migrationName}`;
      const status = statusWith(snapshot, 'Pending', [
        { type: 'Complete', status: 'False', reason: 'Preparing', message },
      ]);
      return { status, effects: [], requeueAfterMs: Math.min(leftMs, 1000) };
    }
    return finish(snapshot, 'Failed', {
      reason: 'MigrationNotFound',
      message: `there is no VirtualMachineInstanceMigration ${migration.spec.migrationName} in this namespace; check spec.migrationName`,
    });
  }
  const refused = refusal(migration.spec.vmiName, vmi, others);
  if (refused !== undefined || vmi === undefined) {
    return finish(
      snapshot,
      'Failed',
      refused ?? { reason: 'VirtualMachineInstanceNotFound', message: 'no such VMI' },
    );
  }
  const acceleration = effectiveAcceleration(snapshot);
  let problem = startProblem(snapshot);
  const waitMs = problem === undefined || isPassing(problem) ? preparationLeftMs(snapshot) : 0;
  if (waitMs > 0) {
    const message = problem?.message ?? 'the index is being built';
    const status = statusWith(snapshot, 'Preparing', [
      { type: 'Accelerated', status: 'Unknown', reason: 'Preparing', message },
      { type: 'Complete', status: 'False', reason: 'Preparing', message },
    ]);
    return { status, effects: [], requeueAfterMs: Math.min(waitMs, 2000) };
  }
  if (problem === undefined && snapshot.permit?.granted === false) {
    const lacking = because('NoNasPermit', snapshot.permit.detail);
    const leftMs = permitWaitLeftMs(snapshot);
    if (leftMs > 0) return waitForPermit(snapshot, lacking, leftMs);
    problem = lacking;
  }
  if (problem !== undefined && acceleration === 'Required') {
    return finish(snapshot, 'Failed', {
      reason: problem.reason,
      message: `not started, because it is Required: ${problem.message}`,
    });
  }
  const name = migrationNameFor(migration);
  const status = statusWith(snapshot, 'Preparing', [
    accelerationCondition(snapshot, problem),
    { type: 'Complete', status: 'False', reason: 'MigrationCreated', message: `${name} moves the VM` },
  ]);
  status.migration = { name };
  return {
    status,
    effects: [
      { type: 'createMigration', name },
      { type: 'event', severity: 'Normal', reason: 'MigrationCreated', message: `${name} moves the VM` },
      ...(problem === undefined || acceleration === 'Disabled'
        ? []
        : [
            {
              type: 'event' as const,
              severity: 'Warning' as const,
              reason: problem.reason,
              message: `plain migration: ${problem.message}`,
            },
          ]),
    ],
  };
}

/**
 * Whether the migration that the status names was made and is no more. Its UID is written when it is made; an operator that died in between
 * left the name alone, and then it is KubeVirt's word that counts: the VM has been in a migration since that is there no more.
 */
function isGone({ migration, vmi, others }: Snapshot): boolean {
  if (migration.status.migration?.uid !== undefined) return true;
  const state = vmi?.status.migrationState;
  if (state?.migrationUid === undefined || migration.firstSeenMs === undefined) return false;
  return (
    Date.parse(state.startTimestamp ?? '') > migration.firstSeenMs &&
    !others.some(({ metadata }) => metadata.uid === state.migrationUid)
  );
}

/** What speaks against acceleration before the migration is made, as far as it is known; permits come after it. */
function startProblem(snapshot: Facts): NotAccelerated | undefined {
  return (
    notAccelerated(factsOf(snapshot)) ??
    sourceProblem(snapshot) ??
    linkProblem(snapshot.sourcePod?.link, undefined) ??
    gainOf(snapshot)
  );
}

/** Observe is for finding out; it needs no gain. */
function gainOf(snapshot: Facts): NotAccelerated | undefined {
  if (effectiveAcceleration(snapshot) === 'Observe') return undefined;
  const problem = gainProblem(snapshot.sourcePod?.index, snapshot.lastQemuBytes);
  if (problem !== undefined || !snapshot.isPlainFaster) return problem;
  // Who asks for Required wants the link spared, whatever time it takes; and a limit is the sidecars' to keep.
  const { migration, policy } = snapshot;
  const isLimited = migration.spec.limits?.linkBandwidth ?? policy?.spec.defaults?.limits?.linkBandwidth;
  if (effectiveAcceleration(snapshot) === 'Required' || isLimited !== undefined) return undefined;
  return because(
    'GainTooSmall',
    "the VM's last migration showed that the link brings its pages sooner as they are",
  );
}

/** The same while it runs and before GO. */
function runningProblem(snapshot: Facts): NotAccelerated | undefined {
  if (snapshot.vmi === undefined) return undefined;
  return (
    notAccelerated(factsOf(snapshot)) ??
    configurationProblem(configurationOf(snapshot)) ??
    sourceProblem(snapshot, true) ??
    targetProblem(snapshot) ??
    linkProblem(snapshot.sourcePod?.link, snapshot.targetPod?.link) ??
    gainOf(snapshot) ??
    coordinationProblem(snapshot)
  );
}

/** Known from KubeVirt's hand-off on. */
function configurationOf({ vmi, vmim }: Facts) {
  const state = vmi?.status.migrationState;
  return vmim !== undefined && state?.migrationUid === vmim.metadata.uid
    ? state.migrationConfiguration
    : undefined;
}

/** Without prepareTimeout it waits as long as others hold the permits: they end. */
function permitWaitLeftMs(snapshot: Snapshot): number {
  const { migration, policy, nowMs } = snapshot;
  const asked = parseDurationMs(migration.spec.prepareTimeout ?? policy?.spec.defaults?.prepareTimeout);
  return asked === undefined ? Number.POSITIVE_INFINITY : waitingSinceMs(snapshot) + asked - nowMs;
}

function waitForPermit(snapshot: Snapshot, { reason, message }: NotAccelerated, leftMs: number): Decision {
  const waited = acceleratedOf(snapshot.migration.status)?.reason === reason;
  const status = statusWith(snapshot, 'Preparing', [
    { type: 'Accelerated', status: 'Unknown', reason, message },
    { type: 'Complete', status: 'False', reason, message },
  ]);
  return {
    status,
    effects: waited ? [] : [{ type: 'event', severity: 'Normal', reason, message: `waiting: ${message}` }],
    requeueAfterMs: Math.min(leftMs, PERMIT_RECHECK_MS),
  };
}

/** One that others started is not ours to hold back: without a permit at the hand-off it goes plainly, and stays so. */
function permitProblem(snapshot: Snapshot): NotAccelerated | undefined {
  const decided = acceleratedOf(snapshot.migration.status);
  if (decided?.status === 'False' && decided.reason === 'NoNasPermit')
    return { reason: 'NoNasPermit', message: decided.message };
  const { permit } = snapshot;
  if (permit?.granted !== false || configurationOf(snapshot) === undefined) return undefined;
  return because('NoNasPermit', permit.detail);
}

function decideRunning(snapshot: Snapshot, vmim: Vmim): Decision {
  const { migration, vmi, coordination } = snapshot;
  if (vmim.spec.vmiName !== migration.spec.vmiName) {
    return finish(snapshot, 'Failed', {
      reason: 'MigrationOfOtherVirtualMachineInstance',
      message: `${vmim.metadata.name} moves ${vmim.spec.vmiName ?? 'nothing'}, not ${migration.spec.vmiName}; check spec.vmiName`,
    });
  }
  if (isFinal(vmim)) return decideEnd(snapshot, vmim);
  const configuration = configurationOf(snapshot);
  const go = coordination?.go === true;
  // What an earlier leader gave its GO to is not taken back by one that has not heard of it yet.
  const decided = go || acceleratedOf(migration.status)?.status === 'True';
  const problem =
    decided || vmi === undefined ? undefined : (runningProblem(snapshot) ?? permitProblem(snapshot));
  const effects: Effect[] = [];
  if (problem !== undefined) {
    if (coordination !== undefined && coordination.reason === undefined)
      effects.push(stop(vmim, problem.reason, problem.message));
  } else if (!go || coordination !== undefined) {
    const order =
      configuration === undefined ? undefined : orderOf(snapshot, vmim, configuration.maxDowntimeMs);
    if (order !== undefined) effects.push({ type: 'coordinate', order });
  }
  const moving = vmim.status.phase === 'Running';
  const acceleration = effectiveAcceleration(snapshot);
  if (
    problem !== undefined &&
    acceleration === 'Required' &&
    !moving &&
    isOurs(migration, vmim) &&
    vmim.metadata.deletionTimestamp === undefined
  ) {
    effects.push(
      { type: 'deleteMigration', name: vmim.metadata.name, uid: vmim.metadata.uid },
      {
        type: 'event',
        severity: 'Warning',
        reason: problem.reason,
        message: `cancelling, because acceleration is Required: ${problem.message}`,
      },
    );
  }
  const accelerated = accelerationCondition(snapshot, problem);
  const status = statusWith(snapshot, moving ? 'Migrating' : 'Preparing', [
    accelerated,
    {
      type: 'Complete',
      status: 'False',
      reason: moving ? 'Migrating' : 'Preparing',
      message: `${vmim.metadata.name} is ${vmim.status.phase ?? 'Pending'}`,
    },
  ]);
  const before = migration.status.conditions?.find(({ type }) => type === 'Accelerated');
  if (accelerated.status === 'True' && before?.status !== 'True') {
    effects.push({ type: 'event', severity: 'Normal', reason: 'Accelerated', message: accelerated.message });
  } else if (accelerated.status === 'False' && before?.status !== 'False' && acceleration !== 'Disabled') {
    effects.push({
      type: 'event',
      severity: 'Warning',
      reason: accelerated.reason,
      message: `plain migration: ${accelerated.message}`,
    });
  }
  return { status, effects };
}

/** KubeVirt's migration is over. */
function decideEnd(snapshot: Snapshot, vmim: Vmim): Decision {
  const { coordination, nowMs, migration, vmi } = snapshot;
  // After a change of leader the results come with the sidecars' reconnects, and need a place to go. Before there is a target
  // nothing is armed, and nobody has a result to tell.
  const wasArmed =
    ['True', 'Unknown'].includes(acceleratedOf(migration.status)?.status ?? 'False') &&
    (migration.status.target !== undefined || snapshot.targetPod !== undefined);
  const order = coordination === undefined && wasArmed ? collectingOrder(snapshot, vmim) : undefined;
  const isMissing = coordination?.results.source === undefined || coordination.results.target === undefined;
  const expected =
    isMissing && (coordination?.go === true || coordination?.over === true || order !== undefined);
  // Told by connections that are to come, or came a moment ago.
  const isLate =
    order !== undefined ||
    coordination?.over === true ||
    coordination?.isResultComing === true ||
    snapshot.targetPod?.connected === false;
  const waitMs = isLate ? RECONNECT_WAIT_MS : RESULT_WAIT_MS;
  const leftMs = collectingSince(snapshot) + waitMs - nowMs;
  if (expected && leftMs > 0) {
    const status = statusWith(snapshot, migration.status.phase ?? 'Migrating', [
      {
        type: 'Complete',
        status: 'Unknown',
        reason: 'CollectingResults',
        message: `${vmim.metadata.name} is ${vmim.status.phase}`,
      },
    ]);
    const effects: Effect[] = order === undefined ? [] : [{ type: 'coordinate', order }];
    return { status, effects, requeueAfterMs: Math.min(leftMs, 1000) };
  }
  if (vmim.status.phase === 'Succeeded') return succeeded(snapshot);
  // KubeVirt writes it into both, and either may be seen first.
  const state =
    vmi?.status.migrationState?.migrationUid === vmim.metadata.uid ? vmi.status.migrationState : undefined;
  const why = state?.failureReason ?? vmim.status.migrationState?.failureReason;
  if (
    vmim.metadata.deletionTimestamp !== undefined ||
    vmim.status.conditions.some(({ type, status }) => type === 'migrationAbortRequested' && status === 'True')
  ) {
    return finish(snapshot, 'Cancelled', {
      reason: 'Cancelled',
      message: `${vmim.metadata.name} was cancelled; the VM runs on its source`,
    });
  }
  return failed(snapshot, why);
}

function succeeded(snapshot: Snapshot): Decision {
  const { targetPod, vmi } = snapshot;
  return finish(snapshot, 'Succeeded', {
    reason: 'Migrated',
    message: `the VM runs on ${targetPod?.node ?? vmi?.status.migrationState?.targetNode ?? 'its target'}`,
  });
}

function failed(snapshot: Snapshot, why: string | undefined): Decision {
  const name = snapshot.vmim?.metadata.name ?? snapshot.migration.status.migration?.name ?? 'the migration';
  return finish(snapshot, 'Failed', {
    reason: 'MigrationFailed',
    message: `${name} failed: ${why ?? 'see its events'}; the VM runs on its source`,
  });
}

/** By our own clock, whatever the nodes' say: the condition turns Unknown when the end is first seen. */
function collectingSince({ migration, nowMs }: Snapshot): number {
  const complete = migration.status.conditions?.find(({ type }) => type === 'Complete');
  return complete?.status === 'Unknown' ? Math.min(nowMs, Date.parse(complete.lastTransitionTime)) : nowMs;
}

function finish(
  snapshot: Snapshot,
  phase: 'Succeeded' | 'Failed' | 'Cancelled',
  outcome: { reason: DocumentedReason; message: string },
): Decision {
  const { nowMs } = snapshot;
  const result = resultOf(snapshot, phase, outcome);
  const accelerated = result.accelerated;
  // What is repeated from an earlier status was one of ours.
  const reason = (result.reason as DocumentedReason | undefined) ?? outcome.reason;
  const status = statusWith(snapshot, phase, [
    {
      type: 'Accelerated',
      status: accelerated ? 'True' : 'False',
      reason: accelerated ? 'Framed' : reason,
      message: accelerated ? 'pages came from the NAS' : (result.message ?? outcome.message),
    },
    { type: 'Complete', status: 'True', reason: outcome.reason, message: outcome.message },
  ]);
  status.result = result;
  status.completionTime = instant(nowMs);
  if (phase === 'Succeeded' && status.progress !== undefined)
    status.progress = { ...status.progress, percent: 100 };
  const effects: Effect[] = [
    {
      type: 'event',
      severity: phase === 'Failed' ? 'Warning' : 'Normal',
      reason: phase,
      message: outcome.message,
    },
    ...forget(snapshot),
  ];
  // The finalizer goes when this end is seen in the cache: see decideFinished.
  return { status, effects };
}

function statusWith(
  snapshot: Snapshot,
  phase: NonNullable<NasAwareMigrationStatus['phase']>,
  changes: ConditionChange[],
): NasAwareMigrationStatus {
  const { migration, vmi, vmim, policy, sourcePod, targetPod, nowMs } = snapshot;
  const before = migration.status;
  const place = (pod: Snapshot['sourcePod'], node: string | undefined) => ({
    ...(pod === undefined ? {} : { pod: pod.name, podUID: pod.uid }),
    ...(node === undefined ? {} : { node }),
  });
  const state =
    vmim !== undefined && vmi?.status.migrationState?.migrationUid === vmim.metadata.uid
      ? vmi.status.migrationState
      : undefined;
  const status: NasAwareMigrationStatus = {
    ...before,
    observedGeneration: migration.generation,
    phase,
    acceleration: effectiveAcceleration(snapshot),
    conditions: withConditions(before.conditions ?? [], changes, migration.generation, nowMs),
  };
  if (policy !== undefined) status.policyName = policy.name;
  if (vmi !== undefined) status.vmiUID = vmi.metadata.uid;
  if (vmim !== undefined) {
    status.migration = {
      name: vmim.metadata.name,
      uid: vmim.metadata.uid,
      phase: vmim.status.phase ?? 'Pending',
    };
    status.startTime ??= instant(Date.parse(vmim.metadata.creationTimestamp ?? '') || nowMs);
  }
  // What was seen while it ran stays when KubeVirt overwrites it or the pods are gone.
  if (sourcePod !== undefined || state?.sourceNode !== undefined) {
    status.source = { ...before.source, ...place(sourcePod, sourcePod?.node ?? state?.sourceNode) };
  }
  if (targetPod !== undefined || state?.targetNode !== undefined) {
    status.target = { ...before.target, ...place(targetPod, targetPod?.node ?? state?.targetNode) };
  }
  // As it was when pages began to move; after that it changes because of the migration itself.
  const hasBegun = status.progress !== undefined || snapshot.coordination?.go === true;
  if (sourcePod?.index !== undefined && (status.index === undefined || !hasBegun)) {
    const { blocks, bytes, ageSeconds, ready } = sourcePod.index;
    status.index = { blocks, bytes, ageSeconds, ready };
  }
  const progress = progressOf(snapshot);
  if (progress !== undefined) status.progress = progress;
  return status;
}

function accelerationCondition(snapshot: Snapshot, problem: NotAccelerated | undefined): ConditionChange {
  const type = 'Accelerated';
  if (problem !== undefined) return { type, status: 'False', ...problem };
  if (effectiveAcceleration(snapshot) === 'Observe') {
    return {
      type,
      status: 'False',
      reason: 'Observing',
      message: 'every byte is passed on; what would have been saved is recorded',
    };
  }
  if (snapshot.coordination?.go === true)
    return {
      type,
      status: 'True',
      reason: 'Framed',
      message: 'both sidecars are armed and pages come from the NAS',
    };
  // Without a permit from its beginning it takes one at the hand-off, and says Arming from then on; see heldPermit.
  if (
    snapshot.vmim !== undefined &&
    configurationOf(snapshot) === undefined &&
    snapshot.permit?.granted !== true
  )
    return { type, status: 'Unknown', reason: 'Preparing', message: 'KubeVirt prepares the migration' };
  return { type, status: 'Unknown', reason: 'Arming', message: 'the sidecars are being brought together' };
}

function factsOf(snapshot: Facts) {
  const { vmi, vmim, policy, breaker, volumes } = snapshot;
  if (vmi === undefined) throw new TypeError('facts of a VMI that is not there: the caller checks first');
  return {
    acceleration: effectiveAcceleration(snapshot),
    vmi,
    migration: vmim,
    suspendedBy: policy?.spec.suspend === true ? policy.name : undefined,
    breaker,
    usableVolumes: volumes.usable,
    refusedVolumes: volumes.refused,
  };
}

/** What speaks against the source's sidecar. While the migration runs, one that is not connected may still come. */
function sourceProblem({ sourcePod, vmi }: Facts, running = false): NotAccelerated | undefined {
  if (sourcePod === undefined)
    return running ? undefined : because('NoSidecar', 'no virt-launcher pod was found for the VM');
  if (!sourcePod.hasSidecar) return because('NoSidecar', `source pod ${sourcePod.name}`);
  if (sourcePod.connected) return undefined;
  if (vmi !== undefined && isPodNetworkBridged(vmi)) return because('PodNetworkBridged', undefined);
  return running ? undefined : because('HubUnreachable', `source pod ${sourcePod.name}`);
}

function targetProblem({ targetPod }: Facts): NotAccelerated | undefined {
  return targetPod !== undefined && !targetPod.hasSidecar
    ? because('NoSidecar', `target pod ${targetPod.name}`)
    : undefined;
}

function coordinationProblem({ coordination }: Facts): NotAccelerated | undefined {
  return coordination?.reason === undefined ? undefined : because(coordination.reason, coordination.detail);
}

function because(reason: Reason, detail: string | undefined): NotAccelerated {
  return { reason, message: describeReason(reason, detail) };
}

/** Whether waiting may help. */
function isPassing({ reason }: NotAccelerated): boolean {
  return reason === 'HubUnreachable';
}

/** Never in the future: where an earlier leader's clock was ahead, withConditions lets the time begin anew. */
function waitingSinceMs({ migration, nowMs }: Facts): number {
  return Math.min(nowMs, migration.firstSeenMs ?? nowMs);
}

/** How much longer to wait before the migration is made: for the sidecar to connect, and for its index. */
function preparationLeftMs(snapshot: Facts): number {
  const { migration, policy, sourcePod, nowMs } = snapshot;
  const isReady = sourcePod?.connected === true && sourcePod.index?.ready !== false;
  if (isReady) return 0;
  const asked = parseDurationMs(migration.spec.prepareTimeout ?? policy?.spec.defaults?.prepareTimeout);
  const isOnlyIndex = sourcePod?.connected === true;
  const sinceMs = waitingSinceMs(snapshot);
  if (asked !== undefined || isOnlyIndex) return sinceMs + (asked ?? 0) - nowMs;
  const required = effectiveAcceleration(snapshot) === 'Required' ? DEFAULT_REQUIRED_WAIT_MS : 0;
  const reconnectUntilMs = sourcePod?.hasSidecar === true ? snapshot.reconnectUntilMs : 0;
  return Math.max(sinceMs + required, reconnectUntilMs) - nowMs;
}

function orderOf(
  snapshot: Snapshot,
  vmim: Vmim,
  maxDowntimeMs: number | undefined,
): CoordinationOrder | undefined {
  const { sourcePod, targetPod, migration, policy, volumes } = snapshot;
  if (sourcePod === undefined || !sourcePod.belongsToVmi || volumes.usable.length === 0) return undefined;
  const link = lowest(migration.spec.limits?.linkBandwidth, policy?.spec.defaults?.limits?.linkBandwidth);
  const nas = lowest(
    migration.spec.limits?.nasReadBandwidth,
    policy?.spec.defaults?.limits?.nasReadBandwidth,
  );
  return {
    migrationUid: vmim.metadata.uid,
    mode: effectiveAcceleration(snapshot) === 'Observe' ? 'observe' : 'accelerate',
    downtimeLimitMs: firstPassDowntimeLimitMs(maxDowntimeMs),
    volumes: volumes.usable,
    limits: {
      ...(link === undefined ? {} : { linkBytesPerSecond: link }),
      ...(nas === undefined ? {} : { nasReadBytesPerSecond: nas }),
    },
    sourcePodUid: sourcePod.uid,
    targetPodUid: targetPod?.belongsToVmi === true ? targetPod.uid : undefined,
  };
}

/** What QEMU may stop the VM at while the sidecar has to know it; see DEFAULT_DOWNTIME_LIMIT_MS. */
function firstPassDowntimeLimitMs(maxDowntimeMs = DEFAULT_DOWNTIME_LIMIT_MS): number {
  return Math.max(1, Math.min(DEFAULT_DOWNTIME_LIMIT_MS, Math.round(maxDowntimeMs)));
}

/** Nobody is armed by it, so that it needs no more than to know whose results count. */
function collectingOrder(
  { sourcePod, targetPod, migration }: Snapshot,
  vmim: Vmim,
): CoordinationOrder | undefined {
  const sourcePodUid = sourcePod?.uid ?? migration.status.source?.podUID;
  if (sourcePodUid === undefined) return undefined;
  return {
    migrationUid: vmim.metadata.uid,
    mode: 'accelerate',
    downtimeLimitMs: DEFAULT_DOWNTIME_LIMIT_MS,
    volumes: [],
    limits: {},
    sourcePodUid,
    targetPodUid: targetPod?.uid ?? migration.status.target?.podUID,
    over: true,
  };
}

function lowest(...quantities: (string | undefined)[]): number | undefined {
  const values = quantities.flatMap((quantity) => parseQuantity(quantity) ?? []);
  return values.length === 0 ? undefined : Math.max(1, Math.floor(Math.min(...values)));
}

function stop(vmim: Vmim, reason: Reason, detail: string): Effect {
  return { type: 'giveUp', migrationUid: vmim.metadata.uid, reason, detail };
}

function forget({ migration, vmim }: Snapshot): Effect[] {
  const migrationUid = vmim?.metadata.uid ?? migration.status.migration?.uid;
  return migrationUid === undefined ? [] : [{ type: 'recorded', migrationUid }];
}

function instant(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}
