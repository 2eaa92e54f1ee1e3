// What `make test-lab` leaves: every case writes its own file while it runs, the fault runs theirs, and at the end all of it,
// with the fuzzers' counts, becomes build/lab.json. A case that did not get as far as to be recorded is not in it, and then
// there are too few.

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';

export const LAB_REPORT = 'build/lab.json';
const PARTS = 'build/lab';
const CASES = join(PARTS, 'cases');
const FAULTS = join(PARTS, 'faults.json');
const FUZZ = 'build/fuzz.json';

/** What the issue asks for at least. */
export const LEAST_CASES = 40;
export const LEAST_FAULT_RUNS = 60;
export const LEAST_FRAMED_SHARE = 0.6;

const CaseSchema = z.object({
  /** `parallel-8/warm/10.0` */
  name: z.string(),
  /** Source and target: `10.0.13->10.0.13` */
  qemu: z.string(),
  expected: z.enum(['accelerated', 'plain', 'failed-safe']),
  outcome: z.string(),
  /** The constant of control/reasons.ts, or words; empty for accelerated. */
  reason: z.string(),
  /** By the recorders beside both QEMUs; null when the migration failed, and there is nothing to compare. */
  identicalStreams: z.boolean().nullable(),
  guestSelfCheck: z.enum(['ok', 'failed', 'none']),
  /** Both directions on the migration network, and those of a plain migration of the same guest. */
  linkBytes: z.number(),
  plainLinkBytes: z.number(),
  ok: z.boolean(),
});

const FaultsSchema = z.object({
  runs: z.number(),
  vmLost: z.number(),
  vmTwice: z.number(),
  wrongMemory: z.number(),
  stuck: z.number(),
  unexpected: z.number(),
  framedInFlight: z.number(),
  seed: z.number(),
});

const FuzzSchema = z.object({ inputs: z.number(), crashes: z.number(), hangs: z.number() });
const FuzzedSchema = z.object({ parsers: z.array(z.object({ name: z.string(), inputs: z.number() })) });

export type LabCase = z.infer<typeof CaseSchema>;
export type FaultSummary = z.infer<typeof FaultsSchema>;

export interface LabReport {
  readonly cases: readonly LabCase[];
  readonly faults: FaultSummary;
  readonly fuzz: z.infer<typeof FuzzSchema>;
}

/** Forgets what earlier runs recorded. */
export function clearLabReport(): void {
  rmSync(PARTS, { recursive: true, force: true });
  rmSync(LAB_REPORT, { force: true });
}

/** Records a case; `ok` is worked out here: as expected, the same bytes, the guest well. */
export function recordCase(found: Omit<LabCase, 'ok'>): LabCase {
  const ok =
    found.outcome === found.expected &&
    found.guestSelfCheck === 'ok' &&
    (found.expected === 'failed-safe' ? found.identicalStreams !== false : found.identicalStreams === true);
  const recorded = CaseSchema.parse({ ...found, ok });
  mkdirSync(CASES, { recursive: true });
  writeFileSync(join(CASES, `${found.name.replace(/[^A-Za-z0-9.-]+/g, '_')}.json`), json(recorded));
  return recorded;
}

/** A case's outcome by what a sidecar told of it. What is neither accelerated nor plain stays as it was told, and is as nobody expects. */
export function outcomeTold(told: string | undefined): string {
  return told === 'raw' || told === 'observed' ? 'plain' : (told ?? 'told nothing');
}

/** Records the fault runs: the counts for the report, and every run for whoever wants to know more. */
export function recordFaults(summary: FaultSummary, runs: readonly unknown[]): void {
  mkdirSync(PARTS, { recursive: true });
  writeFileSync(FAULTS, json({ ...summary, each: runs }));
}

/** Records figures of the lab that are told and not judged, in a file of their own. */
export function recordFigures(name: string, figures: Readonly<Record<string, unknown>>): void {
  mkdirSync(PARTS, { recursive: true });
  writeFileSync(join(PARTS, `figures-${name}.json`), json(figures));
}

/** Puts it together. Numbers of parts that did not run are zero. */
export function readLabReport(): LabReport {
  const cases = names(CASES).map((name) => CaseSchema.parse(read(join(CASES, name))));
  const none: FaultSummary = {
    ...{ runs: 0, vmLost: 0, vmTwice: 0, wrongMemory: 0, stuck: 0 },
    ...{ unexpected: 0, framedInFlight: 0, seed: 0 },
  };
  const faults = FaultsSchema.safeParse(read(FAULTS));
  const fuzz = FuzzSchema.safeParse(read(FUZZ));
  return {
    cases,
    faults: faults.success ? faults.data : none,
    fuzz: fuzz.success ? fuzz.data : { inputs: 0, crashes: 0, hangs: 0 },
  };
}

/** What `make fuzz` left. */
export const readFuzzRecord = (): unknown => read(FUZZ);

/** Which of these parsers have no input in what `make fuzz` left. Pure. */
export function unfuzzed(parsers: readonly string[], record: unknown): string[] {
  const { data } = FuzzedSchema.safeParse(record);
  return parsers.filter((parser) => !data?.parsers.some(({ name, inputs }) => name === parser && inputs > 0));
}

/** Why the report does not show what the issue asks for; empty when it does. `notFuzzed`: see {@link unfuzzed}. Pure. */
export function shortcomings(report: LabReport, notFuzzed: readonly string[]): string[] {
  const { cases, faults, fuzz } = report;
  const found: string[] = [];
  if (cases.length < LEAST_CASES) found.push(`${cases.length} cases, at least ${LEAST_CASES} wanted`);
  for (const { name, expected, outcome, reason } of cases.filter(({ ok }) => !ok)) {
    found.push(
      `case ${name}: ${outcome} (${reason}), expected ${expected} with the same bytes and a sound guest`,
    );
  }
  if (faults.runs < LEAST_FAULT_RUNS) {
    found.push(`${faults.runs} fault runs, at least ${LEAST_FAULT_RUNS} wanted`);
  }
  if (faults.framedInFlight < faults.runs * LEAST_FRAMED_SHARE) {
    found.push(`${faults.framedInFlight} of ${faults.runs} faults hit framed batches, at least 60 % wanted`);
  }
  for (const name of ['vmLost', 'vmTwice', 'wrongMemory', 'stuck', 'unexpected'] as const) {
    if (faults[name] > 0) found.push(`faults: ${name} ${faults[name]}`);
  }
  if (notFuzzed.length > 0) found.push(`not fuzzed: ${notFuzzed.join(', ')}; run make fuzz`);
  if (fuzz.crashes > 0 || fuzz.hangs > 0) found.push(`fuzzing: ${fuzz.crashes} crashes, ${fuzz.hangs} hangs`);
  return found;
}

function names(directory: string): string[] {
  try {
    return readdirSync(directory).sort();
  } catch {
    return [];
  }
}

function read(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
