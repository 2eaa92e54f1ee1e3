// What a run of the ship suites proved, as numbers: each suite records what it saw after having asserted it, and the end of a run of
// all of them writes build/ship.json, in a form that others read. What did not run, or failed, is not in it; more than the form asks
// for stays in build/ship/. A run of a part writes build/ship-partial.json and leaves the report of the whole alone.
import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { TestProject } from 'vitest/node';
import { repositoryRoot } from '../../hack/ship/tools.ts';

const buildDirectory = path.join(repositoryRoot, 'build');
/** Facts of the run that is under way. */
export const factsDirectory = path.join(buildDirectory, 'ship-run');

type Facts = Readonly<Record<string, boolean | number>>;

/** The sections of build/ship.json and their fields. */
const FORM = {
  helm: ['lint', 'unitTests', 'installed', 'upgraded', 'uninstalledClean', 'objects'],
  image: ['sizeMB', 'runsReadOnlyAs107'],
  prometheus: ['panels', 'panelsWithData', 'alerts', 'alertsFired'],
  plugin: ['verbs', 'cases'],
  docsCommands: ['run', 'failed'],
} as const;

/** Adds facts to a section of the report. Call it after the assertions that make them facts. */
export async function record(section: string, facts: Facts): Promise<void> {
  const file = path.join(factsDirectory, `${section}.json`);
  await mkdir(factsDirectory, { recursive: true });
  await writeFile(file, JSON.stringify({ ...(await readFacts(file)), ...facts }));
}

async function readFacts(file: string): Promise<Facts> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Facts;
  } catch {
    return {};
  }
}

/** Commands of the documents are run by several suites. */
async function readWithRunbooks(directory: string, section: string): Promise<Facts> {
  const read = (name: string) => readFacts(path.join(directory, `${name}.json`));
  const facts = await read(section);
  if (section !== 'docsCommands') return facts;
  const runbooks = await read('runbooks');
  const sum = (name: string) => Number(facts[name] ?? 0) + Number(runbooks[name] ?? 0);
  const hasAny = [facts, runbooks].some((one) => Object.keys(one).length > 0);
  return hasAny ? { run: sum('run'), failed: sum('failed') } : {};
}

/** Begins a run in `build`: without facts, or with those of the last whole run, to add to them. */
export async function beginRun(build: string, isAdding: boolean): Promise<void> {
  const directory = path.join(build, 'ship-run');
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  // Nothing to add to is an empty beginning.
  if (isAdding) await cp(path.join(build, 'ship'), directory, { recursive: true }).catch(() => {});
}

/** Writes the report of the run; one that is whole takes the place of the one before. */
export async function endRun(build: string, isWhole: boolean): Promise<void> {
  const directory = path.join(build, 'ship-run');
  const report: Record<string, Facts> = {};
  for (const [section, fields] of Object.entries(FORM)) {
    const facts = await readWithRunbooks(directory, section);
    const entries = fields.flatMap((field) => {
      const fact = facts[field];
      return fact === undefined ? [] : [[field, fact] as const];
    });
    if (entries.length > 0) report[section] = Object.fromEntries(entries);
  }
  const file = path.join(build, isWhole ? 'ship.json' : 'ship-partial.json');
  await writeFile(file, `${JSON.stringify(report, undefined, 2)}\n`);
  if (!isWhole) return;
  await rm(path.join(build, 'ship'), { recursive: true, force: true });
  await rename(directory, path.join(build, 'ship'));
}

/**
 * vitest's global set-up. With NASMIG_SHIP_ADD=1 a run adds to the last whole one, for a person who runs the suites in parts.
 */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const isAdding = process.env['NASMIG_SHIP_ADD'] === '1';
  await beginRun(buildDirectory, isAdding);
  return async () => endRun(buildDirectory, isAdding || (await ranWhole(project)));
}

/** Whether no file and no test was left out by the command line. */
async function ranWhole(project: TestProject): Promise<boolean> {
  const ran = new Set(project.vitest.state.getTestModules().map(({ moduleId }) => moduleId));
  const { testFiles } = await project.globTestFiles();
  return project.vitest.config.testNamePattern === undefined && testFiles.every((file) => ran.has(file));
}
