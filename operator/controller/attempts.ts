// The armed attempts that the breaker looks at, found by index among the finished NasAwareMigrations: those of one VM, and the
// failures of the cluster in the last hour. No reconcile goes through all objects.
import { ATTEMPT_MEMORY_MS, type Attempt } from './breaker.ts';
import type { MigrationObject } from './snapshot.ts';

const HOUR_MS = 3_600_000;
/** What a migration showed of the link is believed for so long. */
const LINK_MEMORY_MS = 24 * HOUR_MS;

/** What is read of the cache. */
export interface AttemptIndex {
  find(index: string, value: string): MigrationObject[];
}

/** Name of the index of the cache of NasAwareMigrations. */
export const byAttempt = 'attempt';

/** An attempt, when the object is the record of one. */
export function attemptOf(object: MigrationObject): Attempt | undefined {
  const status = object.status as
    | {
        completionTime?: unknown;
        result?: { attempt?: unknown; qemuBytes?: unknown; isPlainFaster?: unknown };
      }
    | undefined;
  const attempt = status?.result?.attempt;
  if (attempt !== 'FailedWhileArmed' && attempt !== 'Accelerated') return undefined;
  const { qemuBytes, isPlainFaster } = status?.result ?? {};
  return {
    namespace: object.metadata?.namespace ?? '',
    vmiName: String((object.spec as { vmiName?: unknown } | undefined)?.vmiName ?? ''),
    endMs: Date.parse(String(status?.completionTime ?? '')) || 0,
    outcome: attempt === 'Accelerated' ? 'accelerated' : 'failed',
    ...(typeof qemuBytes === 'number' ? { qemuBytes } : {}),
    ...(isPlainFaster === true ? { isPlainFaster } : {}),
  };
}

/** The values an object is found under: its VM, and for a failure the hour in which it was. */
export function attemptIndexValues(object: MigrationObject): string[] {
  const attempt = attemptOf(object);
  if (attempt === undefined) return [];
  const ofVm = vmValue(attempt.namespace, attempt.vmiName);
  return attempt.outcome === 'failed' ? [ofVm, hourValue(attempt.endMs)] : [ofVm];
}

/** All armed attempts of a VM, in any order. */
export function attemptsOfVm(migrations: AttemptIndex, namespace: string, vmiName: string): Attempt[] {
  return migrations.find(byAttempt, vmValue(namespace, vmiName)).flatMap((object) => attemptOf(object) ?? []);
}

/**
 * Whether the success that ended then has to stay, with `attempts` as they are: it is the newest, and without it failures from before would
 * count again.
 */
export function clearsFailures(attempts: readonly Attempt[], successEndMs: number): boolean {
  return (
    attempts.some(
      ({ outcome, endMs }) =>
        outcome === 'failed' && endMs <= successEndMs && successEndMs - endMs < ATTEMPT_MEMORY_MS,
    ) && !attempts.some(({ outcome, endMs }) => outcome === 'accelerated' && endMs > successEndMs)
  );
}

/** Failed attempts of the whole cluster in the last hour. */
export function recentFailures(migrations: AttemptIndex, nowMs: number): Attempt[] {
  // The next hour, too: who wrote the end may have a clock that is ahead of ours.
  return [nowMs - HOUR_MS, nowMs, nowMs + HOUR_MS]
    .flatMap((ms) => migrations.find(byAttempt, hourValue(ms)))
    .flatMap((object) => attemptOf(object) ?? [])
    .filter(({ endMs }) => nowMs - endMs < HOUR_MS);
}

/**
 * Whether plain migrations of a VM are expected to be faster: its newest accelerated one in the last day says so. What other VMs' sidecars
 * say is not asked, for none may decide for another VM.
 */
export function isPlainFaster(attemptsOfTheVm: readonly Attempt[], nowMs: number): boolean {
  const [newest] = attemptsOfTheVm
    .filter(({ outcome, endMs }) => outcome === 'accelerated' && nowMs - endMs < LINK_MEMORY_MS)
    .sort((a, b) => b.endMs - a.endMs);
  return newest?.isPlainFaster === true;
}

function vmValue(namespace: string, vmiName: string): string {
  return `vm ${namespace}/${vmiName}`;
}

function hourValue(ms: number): string {
  return `failed ${Math.floor(ms / HOUR_MS)}`;
}
