// What the sidecars told, as progress and result in the object's status. Progress never runs backwards and is written at most
// every ten seconds; the result says in plain words why a migration was not accelerated when it was not. Pure.

import type { PageCounts, Result } from '../../control/messages.ts';
import { describeReason, type Reason } from '../../control/reasons.ts';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import type { DocumentedReason } from './conditions.ts';
import { effectiveAcceleration, type Snapshot } from './snapshot.ts';

type ProgressStatus = NonNullable<NasAwareMigrationStatus['progress']>;
type ResultStatus = NonNullable<NasAwareMigrationStatus['result']>;

/** One status write per migration in this time is what the API server is asked to bear. */
export const PROGRESS_WRITE_INTERVAL_MS = 10_000;
/** The first pass over the memory counts up to here; what follows is told by what remains. */
const FIRST_PASS_PERCENT = 90;
/** The CRD's limit: a status that is longer is refused, for ever. KubeVirt's words have no limit of their own. */
const MAX_RESULT_MESSAGE_LENGTH = 4096;

/** The progress to write, or what is there already when it is too early for another. */
export function progressOf({ migration, coordination, nowMs }: Snapshot): ProgressStatus | undefined {
  const before = migration.status.progress;
  const told = coordination?.progress;
  if (told === undefined) return before;
  const sinceMs = before === undefined ? Number.POSITIVE_INFINITY : nowMs - Date.parse(before.updateTime);
  // Written in the future: by a leader whose clock was ahead.
  if (sinceMs >= 0 && sinceMs < PROGRESS_WRITE_INTERVAL_MS) return before;
  const done = told.ramBytes === 0 ? 0 : Math.max(0, 1 - told.remainingBytes / told.ramBytes);
  const percent =
    told.iteration <= 1
      ? done * FIRST_PASS_PERCENT
      : FIRST_PASS_PERCENT + done * (told.stage === 'bulk' ? 5 : 9);
  const progress: ProgressStatus = {
    percent: Math.max(before?.percent ?? 0, Math.min(99, Math.floor(percent))),
    iteration: Math.max(before?.iteration ?? 0, told.iteration),
    remainingBytes: told.remainingBytes,
    bytesPerSecond: told.qemuBytesPerSecond,
    linkBytes: Math.max(before?.linkBytes ?? 0, told.linkBytes),
    nasBytes: Math.max(before?.nasBytes ?? 0, told.nasBytes),
    pages: mostOf(told.pages, before?.pages),
    updateTime: new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z'),
  };
  if (told.qemuBytesPerSecond > 0)
    progress.secondsLeft = Math.ceil(told.remainingBytes / told.qemuBytesPerSecond);
  return progress;
}

/** A sidecar that starts counting anew must not let the numbers run backwards. */
function mostOf(told: PageCounts, before: PageCounts | undefined): PageCounts {
  if (before === undefined) return told;
  return {
    reference: Math.max(told.reference, before.reference),
    literalRaw: Math.max(told.literalRaw, before.literalRaw),
    literalCompressed: Math.max(told.literalCompressed, before.literalCompressed),
    zero: Math.max(told.zero, before.zero),
  };
}

/** What happened, once it is over. `outcome` is the migration's, from KubeVirt or from our refusal. */
export function resultOf(
  snapshot: Snapshot,
  phase: 'Succeeded' | 'Failed' | 'Cancelled',
  outcome: { reason: DocumentedReason; message: string },
): ResultStatus {
  const { coordination, migration } = snapshot;
  const source = coordination?.results.source;
  const target = coordination?.results.target;
  const wasFramed =
    migration.status.conditions?.some(({ type, status }) => type === 'Accelerated' && status === 'True') ===
    true;
  const go = coordination?.go === true || wasFramed;
  const told = endOf(source, target);
  const observed = told?.outcome === 'observed';
  // Observe changes no byte: without a sidecar's word, GO says nothing of acceleration then.
  const armed = go && (told !== undefined || wasFramed || !isObserving(snapshot));
  const accelerated =
    !observed && (told === undefined ? armed && phase === 'Succeeded' : told.outcome === 'accelerated');
  const attempt = observed
    ? 'Observed'
    : accelerated && phase === 'Succeeded'
      ? 'Accelerated'
      : armed && phase === 'Failed'
        ? 'FailedWhileArmed'
        : 'Plain';
  const result: ResultStatus = { accelerated: accelerated && phase === 'Succeeded', attempt };
  if (!result.accelerated) Object.assign(result, whyNot(snapshot, phase, outcome, told, observed));
  if (told !== undefined) Object.assign(result, countersOf(told));
  if (target !== undefined) {
    result.nasBytes = Math.max(result.nasBytes ?? 0, target.nasBytes);
    if (target.indexNasBytes !== undefined) result.indexNasBytes = target.indexNasBytes;
    result.targetCpuMs = target.cpuMilliseconds;
  }
  if (result.message !== undefined) result.message = result.message.slice(0, MAX_RESULT_MESSAGE_LENGTH);
  return result;
}

/** The policy may have changed since it was decided. */
function isObserving(snapshot: Snapshot): boolean {
  return (
    effectiveAcceleration(snapshot) === 'Observe' ||
    snapshot.migration.status.conditions?.some(
      ({ type, reason }) => type === 'Accelerated' && reason === 'Observing',
    ) === true
  );
}

/**
 * Whose word counts. A source that ended with its pod while no leader was there is spoken for by the target; so is one that saw the
 * link close before the last acknowledgement: the target has given every byte to QEMU when it says so.
 */
function endOf(source: Result | undefined, target: Result | undefined): Result | undefined {
  if (source === undefined || target === undefined) return source ?? target;
  if (source.outcome !== 'failed' || target.outcome !== 'accelerated') return source;
  const { reason: _reason, detail: _detail, ...numbers } = source;
  return { ...numbers, outcome: target.outcome, plainLinkBytes: target.plainLinkBytes };
}

function whyNot(
  snapshot: Snapshot,
  phase: 'Succeeded' | 'Failed' | 'Cancelled',
  outcome: { reason: DocumentedReason; message: string },
  sidecar: Result | undefined,
  observed: boolean,
): { reason: string; message: string } {
  const { coordination, migration } = snapshot;
  if (phase !== 'Succeeded' && coordination?.reason === undefined) return outcome;
  if (observed) return { reason: 'Observing', message: 'acceleration is Observe: every byte was passed on' };
  const told: Reason | undefined = sidecar?.reason ?? coordination?.reason;
  if (told !== undefined)
    return { reason: told, message: describeReason(told, sidecar?.detail ?? coordination?.detail) };
  const decided = migration.status.conditions?.find(
    ({ type, status }) => type === 'Accelerated' && status === 'False',
  );
  if (decided !== undefined) return { reason: decided.reason, message: decided.message };
  if (effectiveAcceleration(snapshot) === 'Disabled') {
    return { reason: 'AccelerationDisabled', message: describeReason('AccelerationDisabled') };
  }
  // Nobody decided anything while it ran: no leader was there, or it was over too soon.
  const { sourcePod, targetPod } = snapshot;
  if (sourcePod?.hasSidecar === false)
    return { reason: 'NoSidecar', message: describeReason('NoSidecar', `source pod ${sourcePod.name}`) };
  if (targetPod?.hasSidecar === false)
    return { reason: 'NoSidecar', message: describeReason('NoSidecar', `target pod ${targetPod.name}`) };
  return {
    reason: 'HubUnreachable',
    message: describeReason('HubUnreachable', 'the migration ended before both sidecars were armed'),
  };
}

function countersOf(told: Result): Partial<ResultStatus> {
  const counters: Partial<ResultStatus> = {
    qemuBytes: told.qemuBytes,
    linkBytes: told.linkBytes,
    nasBytes: told.nasBytes,
    pages: told.pages,
    resends: told.resends,
    iterations: told.iterations,
    durationMs: told.durationMs,
    ...(told.role === 'source' ? { sourceCpuMs: told.cpuMilliseconds } : {}),
  };
  const { estimate } = told;
  if (estimate !== undefined) {
    const plain = told.plainLinkBytes ?? told.qemuBytes;
    const savedBytes = Math.max(0, plain - estimate.linkBytes);
    counters.estimate = { ...estimate, savedBytes, savedPercent: percentOf(savedBytes, plain) };
  }
  if (told.isPlainFaster === true) counters.isPlainFaster = true;
  if (told.downtimeMs !== undefined) counters.downtimeMs = told.downtimeMs;
  if (told.plainLinkBytes !== undefined) {
    counters.savedBytes = Math.max(0, told.plainLinkBytes - told.linkBytes);
    counters.savedPercent = percentOf(counters.savedBytes, told.plainLinkBytes);
  }
  return counters;
}

function percentOf(part: number, whole: number): number {
  return whole === 0 ? 0 : Math.floor((part / whole) * 100);
}
