// The runs of a bench, one JSON object a line, each appended when it has ended: an interrupted bench goes on where it was, and what
// is in build/bench.json can be followed back to single runs.

import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { z } from 'zod';
import type { Measurement } from '../test/lab/measured-migration.ts';

const figure = z.number().nullable();

const Run = z.object({
  /** The case's id. */
  case: z.string(),
  /** When it ended, ISO 8601. */
  at: z.string(),
  linkBytes: z.number(),
  /** Read by both nodes during the migration, the guest's own reads included. */
  nasBytes: z.number(),
  /** Of these, read by the source. */
  sourceNasBytes: z.number(),
  /** Read by both nodes before, while the index was made. */
  indexNasBytes: z.number(),
  /** Read by the target for the index to grow, and used for no page. */
  growthNasBytes: z.number().default(0),
  totalMs: z.number(),
  downtimeMs: figure,
  guestGapMs: figure,
  /** Of both sidecars; 0 without. */
  cpuSeconds: z.number(),
  streamBytes: z.number(),
  converged: z.boolean(),
  referencePages: figure,
  literalPages: figure,
  resentPages: figure,
  /** Known to be on the NAS, and sent because it was the slower pipe. */
  declinedPages: figure.default(null),
  /** Why references stopped during the migration, or null. */
  referencesOff: z.string().nullable().default(null),
  /** What the source sidecar told: a plain migration is expected to be faster. */
  isPlainFaster: z.boolean().default(false),
  /** What the guest wrote to its disk between index and migration. */
  writtenSinceIndex: z.number(),
  /** Of everything that runs in the lab: both QEMUs, NAS, proxies, recorders, sidecars. */
  labCpuSeconds: z.number(),
  /** Share of this machine's CPU time that was not idle. */
  busyShare: z.number(),
  /** Everybody's on this machine, at the end of the run: above 2 or 3 times the CPUs, others were at work. */
  loadAverage: z.number(),
});
export type BenchRun = z.infer<typeof Run>;

/** A line of the file is not a run. */
export class BenchRunsError extends Error {
  readonly code = 'NASMIG_BENCH_RUNS';
  constructor(path: string, line: number, reason: string) {
    super(
      `${path}:${line} is not a run of this bench (${reason}); remove the line, or begin anew without RESUME=1`,
    );
    this.name = 'BenchRunsError';
  }
}

export function runOf(caseId: string, measured: Measurement, at: Date, loadAverage: number): BenchRun {
  const { sidecars, sidecarCpuSeconds, storage, outcome } = measured;
  return {
    case: caseId,
    at: at.toISOString(),
    linkBytes: measured.linkBytes,
    nasBytes: storage.sourceRead + storage.targetRead,
    sourceNasBytes: storage.sourceRead,
    indexNasBytes: measured.indexNasBytes,
    growthNasBytes: sidecars?.target.growth?.unusedBytes ?? 0,
    totalMs: Math.round(outcome.wallMs),
    downtimeMs: outcome.downtimeMs,
    guestGapMs: measured.guestGapMs === null ? null : Math.round(measured.guestGapMs),
    cpuSeconds: sidecarCpuSeconds === null ? 0 : sidecarCpuSeconds.source + sidecarCpuSeconds.target,
    streamBytes: measured.streamBytes,
    converged: measured.converged,
    referencePages: sidecars?.source.referencePages ?? null,
    literalPages: sidecars?.source.literalPages ?? null,
    resentPages: sidecars?.source.resentPages ?? null,
    declinedPages: sidecars?.source.declinedPages ?? null,
    referencesOff: measured.referencesOff,
    isPlainFaster: sidecars?.source.isPlainFaster === true,
    writtenSinceIndex: measured.writtenSinceIndex,
    labCpuSeconds: measured.labCpuSeconds,
    busyShare: measured.busyShare,
    loadAverage: Math.round(loadAverage * 100) / 100,
  };
}

/** Reads the runs of a bench that was interrupted; none when there is no file. Throws BenchRunsError. */
export function readRuns(path: string): BenchRun[] {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  const runs: BenchRun[] = [];
  for (const [index, line] of lines.entries()) {
    if (line === '') continue;
    try {
      runs.push(Run.parse(JSON.parse(line)));
    } catch (error) {
      // A bench that was killed while it wrote its last line.
      if (index === lines.length - 1) continue;
      throw new BenchRunsError(path, index + 1, (error as Error).message);
    }
  }
  return runs;
}

export function appendRun(path: string, run: BenchRun): void {
  appendFileSync(path, `${JSON.stringify(run)}\n`);
}
