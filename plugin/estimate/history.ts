// What past migrations of a VM say about the next: those that Observe measured, and those that were accelerated. Medians, because
// one migration under load says little. Pure.

import { isFinished } from '../../operator/controller/decide.ts';
import type { Migration } from '../cluster/migration.ts';
import { savingOf } from '../cluster/saving.ts';

export interface Spread {
  median: number;
  min: number;
  max: number;
}

export interface Estimate {
  namespace: string;
  vmi: string;
  /** Finished migrations with numbers: measured by Observe, and accelerated. */
  observed: number;
  accelerated: number;
  /** Finished migrations that say nothing: plain ones. */
  plain: number;
  /** Attempts that failed while they were accelerated. */
  failedWhileArmed: number;
  /** The newest first reasons of plain ones, with how often. */
  plainReasons: { reason: string; count: number }[];
  savedPercent?: Spread;
  savedBytes?: Spread;
  linkBytes?: Spread;
  nasBytes?: Spread;
  /** Of accelerated ones only: an observed migration is as long as a plain one. */
  acceleratedDurationMs?: Spread;
  observedDurationMs?: Spread;
  acceleratedDowntimeMs?: Spread;
  /** When the newest of those with numbers was over. */
  newest?: string;
}

export function spreadOf(values: readonly number[]): Spread | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const [min] = sorted;
  const max = sorted.at(-1);
  if (min === undefined || max === undefined) return undefined;
  const middle = sorted.length / 2;
  const median =
    sorted.length % 2 === 1
      ? (sorted[Math.floor(middle)] ?? 0)
      : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
  return { median, min, max };
}

/** One estimate for each VM that has a finished migration, or is named in `vmis`; sorted by namespace and name. */
export function estimates(
  migrations: readonly Migration[],
  vmis: readonly { namespace: string; name: string }[] = [],
): Estimate[] {
  const byVm = new Map<string, Migration[]>(vmis.map(({ namespace, name }) => [`${namespace}/${name}`, []]));
  for (const migration of migrations) {
    if (!isFinished(migration.status)) continue;
    const key = `${migration.namespace}/${migration.spec.vmiName}`;
    const own = byVm.get(key);
    if (own === undefined) byVm.set(key, [migration]);
    else own.push(migration);
  }
  return [...byVm]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, own]) => {
      const [namespace = '', vmi = ''] = key.split('/');
      return estimateOf(namespace, vmi, own);
    });
}

function estimateOf(namespace: string, vmi: string, finished: readonly Migration[]): Estimate {
  const results = [...finished]
    .sort((a, b) => endOf(b) - endOf(a))
    .map((migration) => ({ migration, result: migration.status.result }));
  const of = (attempt: string) => results.filter(({ result }) => result?.attempt === attempt);
  const observed = of('Observed').filter(({ result }) => savingOf(result) !== undefined);
  const accelerated = of('Accelerated').filter(({ result }) => savingOf(result) !== undefined);
  const measured = [...observed, ...accelerated];
  const plain = results.filter(({ result }) => result?.attempt === 'Plain' || result === undefined);
  const counts = new Map<string, number>();
  for (const { result } of plain) {
    const reason = result?.reason ?? 'Unknown';
    counts.set(reason, (counts.get(reason) ?? 0) + 1);
  }
  const spread = (
    which: typeof results,
    value: (result: NonNullable<Migration['status']['result']>) => number | undefined,
  ) => spreadOf(which.flatMap(({ result }) => (result === undefined ? [] : (value(result) ?? []))));
  const newest = measured
    .map(({ migration }) => migration.status.completionTime)
    .filter((time) => time !== undefined)
    .sort()
    .at(-1);
  const estimate: Estimate = {
    namespace,
    vmi,
    observed: observed.length,
    accelerated: accelerated.length,
    plain: plain.length,
    failedWhileArmed: of('FailedWhileArmed').length,
    plainReasons: [...counts].map(([reason, count]) => ({ reason, count })),
  };
  const spreads = {
    savedPercent: spread(measured, (result) => savingOf(result)?.savedPercent),
    savedBytes: spread(measured, (result) => savingOf(result)?.savedBytes),
    linkBytes: spread(measured, (result) => savingOf(result)?.linkBytes),
    nasBytes: spread(measured, (result) => savingOf(result)?.nasBytes),
    acceleratedDurationMs: spread(accelerated, ({ durationMs }) => durationMs),
    observedDurationMs: spread(observed, ({ durationMs }) => durationMs),
    acceleratedDowntimeMs: spread(accelerated, ({ downtimeMs }) => downtimeMs),
  };
  for (const [name, value] of Object.entries(spreads))
    if (value !== undefined) Object.assign(estimate, { [name]: value });
  if (newest !== undefined) estimate.newest = newest;
  return estimate;
}

function endOf({ status }: Migration): number {
  return Date.parse(status.completionTime ?? '') || 0;
}
