// The armed attempts that the breaker looks at, found by index among the finished NasAwareMigrations: those of one VM, and the
// failures of the cluster in the last hour. No reconcile goes through all objects.
import type { Attempt } from './breaker.ts';
import type { MigrationObject } from './snapshot.ts';

const HOUR_MS = 3_600_000;
/** What one migration showed of the link between two nodes is believed for so long. */
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
    | { completionTime?: unknown; result?: { attempt?: unknown; qemuBytes?: unknown } }
    | undefined;
  const attempt = status?.result?.attempt;
  if (attempt !== 'FailedWhileArmed' && attempt !== 'Accelerated') return undefined;
  const { qemuBytes } = status?.result ?? {};
  return {
    namespace: object.metadata?.namespace ?? '',
    vmiName: String((object.spec as { vmiName?: unknown } | undefined)?.vmiName ?? ''),
    endMs: Date.parse(String(status?.completionTime ?? '')) || 0,
    outcome: attempt === 'Accelerated' ? 'accelerated' : 'failed',
    ...(typeof qemuBytes === 'number' ? { qemuBytes } : {}),
  };
}

/** The values an object is found under: its VM; for a failure the hour in which it was, for a success the nodes. */
export function attemptIndexValues(object: MigrationObject): string[] {
  const attempt = attemptOf(object);
  if (attempt === undefined) return [];
  const ofVm = vmValue(attempt.namespace, attempt.vmiName);
  if (attempt.outcome === 'failed') return [ofVm, hourValue(attempt.endMs)];
  const { source, target } = nodesOf(object);
  return source === undefined || target === undefined ? [ofVm] : [ofVm, nodesValue(source, target)];
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
    attempts.some(({ outcome, endMs }) => outcome === 'failed' && endMs <= successEndMs) &&
    !attempts.some(({ outcome, endMs }) => outcome === 'accelerated' && endMs > successEndMs)
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
 * The name of the migration, if that is so, after which plain ones are expected to be faster from this node to that: the newest accelerated
 * one between them in the last day, when its result says so.
 */
export function plainIsFasterAfter(
  migrations: AttemptIndex,
  source: string | undefined,
  target: string | undefined,
  nowMs: number,
): string | undefined {
  if (source === undefined || target === undefined) return undefined;
  const [newest] = migrations
    .find(byAttempt, nodesValue(source, target))
    .flatMap((object) => {
      const attempt = attemptOf(object);
      return attempt === undefined ? [] : [{ object, endMs: attempt.endMs }];
    })
    .filter(({ endMs }) => nowMs - endMs < LINK_MEMORY_MS)
    .sort((a, b) => b.endMs - a.endMs);
  const result = (newest?.object.status as { result?: { isPlainFaster?: unknown } } | undefined)?.result;
  return result?.isPlainFaster === true
    ? `${newest?.object.metadata?.namespace}/${newest?.object.metadata?.name}`
    : undefined;
}

interface Nodes {
  readonly source?: string | undefined;
  readonly target?: string | undefined;
}

function nodesOf(object: MigrationObject): Nodes {
  const status = object.status as Record<'source' | 'target', { node?: string } | undefined> | undefined;
  return { source: status?.source?.node, target: status?.target?.node };
}

function nodesValue(source: string, target: string): string {
  return `nodes ${source} ${target}`;
}

function vmValue(namespace: string, vmiName: string): string {
  return `vm ${namespace}/${vmiName}`;
}

function hourValue(ms: number): string {
  return `failed ${Math.floor(ms / HOUR_MS)}`;
}
