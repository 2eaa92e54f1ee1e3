// What the operator's metrics say of its own speed, and of a migration that runs.

import type { PageCounts } from '../../control/messages.ts';

export interface ArmingTimes {
  readonly count: number;
  readonly meanMs: number;
  /** How many took less than 100 ms, as far as the histogram's buckets tell. */
  readonly below100Ms: number;
}

const NAME = 'nasmig_arming_seconds';

/** From the target's socket being taken to GO, over all migrations of the process. Undefined when none was armed. */
export function armingTimes(metrics: string): ArmingTimes | undefined {
  const lines = metrics.split('\n');
  const value = (series: string): number => figureOf(lines.find((line) => line.startsWith(series)));
  const count = value(`${NAME}_count`);
  if (count === 0) return undefined;
  return {
    count,
    meanMs: Math.round((value(`${NAME}_sum`) / count) * 10_000) / 10,
    below100Ms: value(`${NAME}_bucket{le="0.1"}`),
  };
}

/** How a migration stands, as its source sidecar said last. */
export interface RunningFigures {
  readonly pages: PageCounts;
  readonly ramBytes: number;
  readonly remainingBytes: number;
  /** Written by the source QEMU. */
  readonly qemuBytes: number;
}

/** Of the NasAwareMigration of that name; undefined while no sidecar has said anything of it. */
export function runningFigures(
  metrics: string,
  { namespace, migration }: { readonly namespace: string; readonly migration: string },
): RunningFigures | undefined {
  const labels = `namespace="${namespace}",name="${migration}",`;
  const lines = metrics
    .split('\n')
    .filter((line) => line.startsWith('nasmig_migration_') && line.includes(labels));
  if (lines.length === 0) return undefined;
  const value = (name: string, kind = ''): number =>
    figureOf(lines.find((line) => line.startsWith(`nasmig_migration_${name}{`) && line.includes(kind)));
  const pages = (kind: keyof PageCounts): number => value('pages', `kind="${kind}"`);
  return {
    pages: {
      zero: pages('zero'),
      reference: pages('reference'),
      literalRaw: pages('literalRaw'),
      literalCompressed: pages('literalCompressed'),
    },
    ramBytes: value('ram_bytes'),
    remainingBytes: value('remaining_bytes'),
    qemuBytes: value('qemu_bytes'),
  };
}

/** What a line of the page says; 0 where there is no such line. */
function figureOf(line: string | undefined): number {
  return line === undefined ? 0 : Number(line.slice(line.lastIndexOf(' ') + 1));
}
