// What build/bench.json holds: for each case the medians of its runs. Pure.

import type { BenchCase, Variant } from './bench-plan.ts';
import type { BenchRun } from './bench-runs.ts';

export interface BenchRecord {
  readonly method: BenchCase['method'];
  readonly guest: BenchCase['guest'];
  readonly channels: number;
  /** Mbit/s, 0: unlimited. */
  readonly linkMbit: number;
  readonly nasMbit: number;
  /** Of all that did not converge, what was seen until it was cancelled. */
  readonly linkBytes: number;
  /** Read from the NAS during the migration by both nodes, headers included, less what the plain runs of the group read. */
  readonly nasBytes: number;
  /** Read for the index: before the migration, and during it by the source, and by the target for no page. */
  readonly indexNasBytes: number;
  /** Null when it did not converge. */
  readonly totalMs: number | null;
  readonly downtimeMs: number | null;
  readonly guestGapMs: number | null;
  /** Of both sidecars; 0 without. */
  readonly cpuSeconds: number;
  /** Of everything that runs in the lab: both QEMUs, NAS, proxies, recorders, sidecars. */
  readonly labCpuSeconds: number;
  /** Share of the machine's CPU time that was not idle, 0 to 1. */
  readonly busyShare: number;
  readonly streamBytes: number;
  /** False when half of the runs or more were cancelled after the time limit. */
  readonly converged: boolean;
  /** Only where the case is not just its method. */
  readonly variant?: Variant;
}

/** The middle value, the lower of two; null of none. */
export function median(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null).sort((left, right) => left - right);
  return known[Math.floor((known.length - 1) / 2)] ?? null;
}

const groupOf = (id: string): string => id.split('/', 1)[0] ?? '';

/** One record for each case that has runs, in the order of `cases`. */
export function recordsOf(cases: readonly BenchCase[], runs: readonly BenchRun[]): BenchRecord[] {
  const records: BenchRecord[] = [];
  for (const one of cases) {
    const own = runs.filter((run) => run.case === one.id);
    if (own.length === 0) continue;
    const plain = runs.filter((run) => run.case === `${groupOf(one.id)}/plain`);
    records.push(recordOf(one, own, plain));
  }
  return records;
}

function recordOf(one: BenchCase, runs: readonly BenchRun[], plain: readonly BenchRun[]): BenchRecord {
  const finished = runs.filter((run) => run.converged);
  const converged = finished.length * 2 > runs.length;
  // Figures of the runs that the verdict stands on.
  const counted = converged ? finished : runs.filter((run) => !run.converged);
  const over = (pick: (run: BenchRun) => number | null, of: readonly BenchRun[] = counted): number | null =>
    median(of.map(pick));
  const beyondPlain = (pick: (run: BenchRun) => number): number =>
    one.method === 'nas' ? Math.max(0, (over(pick) ?? 0) - (over(pick, plain) ?? 0)) : (over(pick) ?? 0);
  const { method, guest, channels, linkMbit, nasMbit, variant } = one;
  return {
    ...{ method, guest, channels, linkMbit, nasMbit },
    linkBytes: over((run) => run.linkBytes) ?? 0,
    nasBytes: beyondPlain((run) => run.nasBytes),
    indexNasBytes:
      method === 'nas'
        ? (over((run) => run.indexNasBytes) ?? 0) +
          (over((run) => run.growthNasBytes) ?? 0) +
          beyondPlain((run) => run.sourceNasBytes)
        : 0,
    totalMs: converged ? over((run) => run.totalMs) : null,
    downtimeMs: converged ? over((run) => run.downtimeMs) : null,
    guestGapMs: converged ? over((run) => run.guestGapMs) : null,
    cpuSeconds: over((run) => run.cpuSeconds) ?? 0,
    labCpuSeconds: over((run) => run.labCpuSeconds) ?? 0,
    busyShare: over((run) => run.busyShare) ?? 0,
    streamBytes: over((run) => run.streamBytes) ?? 0,
    converged,
    ...(variant === undefined ? {} : { variant }),
  };
}
