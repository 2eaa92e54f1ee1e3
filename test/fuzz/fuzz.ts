// `make fuzz`: fuzzes every parser, or the one named, for a million inputs or for some minutes, whichever comes first, and writes
// build/fuzz.json with what came of it and how much of each parser was reached, after each of them; what is there of other
// parsers stays when one is named, and with `--missing`, which fuzzes those alone that have no entry. Inputs that found something go
// to build/fuzz/.
//
//   node test/fuzz/fuzz.ts [--parser NAME | --missing] [--minutes 10] [--inputs 1000000] [--seed N]
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { CATALOGUE } from './catalogue.ts';
import { type FuzzSession, runFuzzSession } from './fuzz-session.ts';
import type { BranchPoint } from './instrument.ts';

const HANG_MS = 30_000;
const PROGRESS_MS = 10_000;

const Options = z.object({
  parser: z.enum(Object.keys(CATALOGUE) as [string, ...string[]]).optional(),
  missing: z.boolean().default(false),
  minutes: z.coerce.number().positive().max(1440).default(10),
  inputs: z.coerce.number().int().positive().default(1_000_000),
  seed: z.coerce.number().int().min(0).max(0xffff_ffff).default(1),
});

function readOptions(): z.infer<typeof Options> {
  const string = { type: 'string' } as const;
  try {
    const { values } = parseArgs({
      options: {
        parser: string,
        missing: { type: 'boolean' },
        minutes: string,
        inputs: string,
        seed: string,
      },
    });
    return Options.parse(values);
  } catch (error) {
    console.error(error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message);
    console.error(
      `usage: make fuzz [PARSER=${Object.keys(CATALOGUE).join('|')}] [MINUTES=10] [INPUTS=1000000] [SEED=1]`,
    );
    process.exit(2);
  }
}

/** `file:1,5-7`: short enough to be read. */
function placesOf(points: readonly BranchPoint[]): string[] {
  const byFile = new Map<string, Set<number>>();
  for (const { file, line } of points) byFile.set(file, (byFile.get(file) ?? new Set()).add(line));
  return [...byFile].map(([file, lines]) => `${file}:${[...lines].sort((a, b) => a - b).join(',')}`);
}

/** One parser's entry in build/fuzz.json; `seed` is that of its run. */
type Entry = Record<string, unknown> & {
  readonly name: string;
  readonly inputs: number;
  readonly crashes: number;
  readonly hangs: number;
};

const RECORD = 'build/fuzz.json';

/** What earlier runs found. */
function earlierEntries(): Entry[] {
  if (!existsSync(RECORD)) return [];
  return (JSON.parse(readFileSync(RECORD, 'utf8')) as { parsers: Entry[] }).parsers;
}

function writeRecord(entries: readonly Entry[]): { inputs: number; crashes: number; hangs: number } {
  const sum = (key: 'inputs' | 'crashes' | 'hangs'): number =>
    entries.reduce((all, entry) => all + entry[key], 0);
  const record = { inputs: sum('inputs'), crashes: sum('crashes'), hangs: sum('hangs') };
  writeFileSync(RECORD, `${JSON.stringify({ ...record, parsers: entries }, null, 2)}\n`);
  return record;
}

const options = readOptions();
const earlier = options.parser === undefined && !options.missing ? [] : earlierEntries();
const isFuzzed = (parser: string): boolean =>
  earlier.some(({ name, inputs }) => name === parser && inputs > 0);
const names =
  options.parser === undefined ? Object.keys(CATALOGUE).filter((name) => !isFuzzed(name)) : [options.parser];
mkdirSync('build/fuzz', { recursive: true });
const entries: Entry[] = earlier.filter(({ name }) => !names.includes(name));
let failed = false;
for (const [position, name] of names.entries()) {
  let shownMs = 0;
  const session: FuzzSession = await runFuzzSession({
    target: name,
    seed: options.seed,
    budget: { inputs: options.inputs, milliseconds: options.minutes * 60_000, stopAtFirstFinding: false },
    hangMs: HANG_MS,
    progress: ({ inputs, milliseconds, branchesHit, branches, kept, crashes }) => {
      if (milliseconds - shownMs < PROGRESS_MS) return;
      shownMs = milliseconds;
      console.log(
        `  ${name}: ${inputs} inputs in ${(milliseconds / 1000).toFixed(0)} s, ${branchesHit} of ${branches} branches, ${kept} kept, ${crashes} crashes`,
      );
    },
  });
  const { inputs, milliseconds, branchesHit, branches, kept, crashes, hangs, answers, findings } = session;
  console.log(
    `${position + 1}/${names.length} ${name}: ${inputs} inputs in ${(milliseconds / 1000).toFixed(1)} s, ` +
      `${branchesHit} of ${branches} branches (${((100 * branchesHit) / Math.max(1, branches)).toFixed(1)} %), ${crashes} crashes, ${hangs} hangs`,
  );
  for (const [i, finding] of findings.entries()) {
    const file = `build/fuzz/${name}-${i}.bin`;
    writeFileSync(file, finding.input);
    console.log(`  FOUND ${finding.kind} at input ${finding.number}, saved as ${file}: ${finding.message}`);
  }
  failed ||= crashes + hangs > 0;
  entries.push({
    name,
    seed: options.seed,
    inputs,
    seconds: Math.round(milliseconds / 100) / 10,
    crashes,
    hangs,
    coverage: {
      branches,
      hit: branchesHit,
      share: Math.round((1000 * branchesHit) / Math.max(1, branches)) / 1000,
    },
    kept,
    answers,
    notReached: placesOf(session.untakenPoints),
  });
  writeRecord(entries);
}
const { inputs, crashes, hangs } = writeRecord(entries);
console.log(`${inputs} inputs, ${crashes} crashes, ${hangs} hangs; ${RECORD}`);
process.exit(failed ? 1 : 0);
