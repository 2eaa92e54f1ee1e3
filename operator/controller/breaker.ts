// After an armed attempt failed, the VM's next attempt is plain: for an hour, doubling with each failure in a row, cleared by a
// success. Three such failures in the cluster within an hour: nothing is armed. Told from the finished NasAwareMigrations
// themselves, so that it survives restarts; such objects are kept long enough for it. Pure.
export interface Attempt {
  namespace: string;
  vmiName: string;
  /** When it was over. */
  endMs: number;
  /** Armed and gone wrong, or armed and gone well. Plain ones are no attempts. */
  outcome: 'failed' | 'accelerated';
  /** What the source QEMU wrote, when it was told. */
  qemuBytes?: number;
  /** What it told of a plain migration in its place. */
  isPlainFaster?: boolean;
}

const HOUR_MS = 3_600_000;
/** The doubling ends here: a VM gets its next chance at the latest after a day. */
const MAX_OPEN_MS = 24 * HOUR_MS;
const CLUSTER_FAILURES = 3;

/** How long a failed attempt must be kept as an object, for the breaker to see it. */
export const ATTEMPT_MEMORY_MS = MAX_OPEN_MS;

export type BreakerState = { reason: 'BreakerOpen' | 'ClusterBreakerOpen'; detail: string } | undefined;

/** Set while nothing is armed in the cluster. */
export interface ClusterBreaker {
  failures: number;
  /** When it closes, if nothing else fails. */
  untilMs: number;
  detail: string;
}

/** `failures`: the failed attempts of the cluster; older ones than an hour do not count. */
export function clusterBreaker(failures: readonly Attempt[], nowMs: number): ClusterBreaker | undefined {
  const ends = failures
    .filter(({ outcome, endMs }) => outcome === 'failed' && nowMs - endMs < HOUR_MS)
    .map(({ endMs }) => endMs)
    .sort((a, b) => b - a);
  // With the third newest an hour old, only two are left.
  const third = ends[CLUSTER_FAILURES - 1];
  if (third === undefined) return undefined;
  const untilMs = third + HOUR_MS;
  return {
    failures: ends.length,
    untilMs,
    detail: `${ends.length} failed attempts in the last hour, until ${new Date(untilMs).toISOString()}`,
  };
}

/** `attempts` of the whole cluster, in any order. */
export function breakerFor(
  vm: { namespace: string; vmiName: string },
  attempts: readonly Attempt[],
  nowMs: number,
): BreakerState {
  const cluster = clusterBreaker(attempts, nowMs);
  if (cluster !== undefined) return { reason: 'ClusterBreakerOpen', detail: cluster.detail };
  return vmBreaker(
    attempts.filter(({ namespace, vmiName }) => namespace === vm.namespace && vmiName === vm.vmiName),
    nowMs,
  );
}

/** `attempts`: all of one VM. */
export function vmBreaker(attempts: readonly Attempt[], nowMs: number): BreakerState {
  const own = [...attempts].sort((a, b) => b.endMs - a.endMs);
  const lastSuccess = own.findIndex(({ outcome }) => outcome === 'accelerated');
  const failures = lastSuccess === -1 ? own : own.slice(0, lastSuccess);
  const [last] = failures;
  if (last === undefined) return undefined;
  const openMs = Math.min(MAX_OPEN_MS, HOUR_MS * 2 ** Math.min(failures.length - 1, 10));
  const until = last.endMs + openMs;
  if (nowMs >= until) return undefined;
  return {
    reason: 'BreakerOpen',
    detail: `until ${new Date(until).toISOString()}, failures in a row: ${failures.length}`,
  };
}
