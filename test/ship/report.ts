// What a run of the ship suites proved, as numbers: each suite records what it saw after having asserted it, and the end of the run
// writes build/ship.json, in a form that others read. What did not run, or failed, is not in it; more than the form asks for stays
// in build/ship/.
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { repositoryRoot } from '../../hack/ship/tools.ts';

const buildDirectory = path.join(repositoryRoot, 'build');
const factsDirectory = path.join(buildDirectory, 'ship');
/** The plugin's and the documents' suites leave a copy of their section here. */
const partsDirectory = path.join(buildDirectory, 'ship-parts');
const PARTS: Readonly<Record<string, string>> = { plugin: 'plugin.json', docsCommands: 'docs.json' };
const reportFile = path.join(buildDirectory, 'ship.json');

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

async function read(section: string): Promise<Facts> {
  const facts = await readFacts(path.join(factsDirectory, `${section}.json`));
  const part = PARTS[section];
  if (part === undefined || Object.keys(facts).length > 0) return facts;
  return readFacts(path.join(partsDirectory, part));
}

/** Commands of the documents are run by several suites. */
async function readWithRunbooks(section: string): Promise<Facts> {
  const facts = await read(section);
  if (section !== 'docsCommands') return facts;
  const runbooks = await read('runbooks');
  const sum = (name: string) => Number(facts[name] ?? 0) + Number(runbooks[name] ?? 0);
  const hasAny = [facts, runbooks].some((one) => Object.keys(one).length > 0);
  return hasAny ? { run: sum('run'), failed: sum('failed') } : {};
}

/**
 * vitest's global set-up: a run starts without the facts of the one before, and ends with the report. With NASMIG_SHIP_ADD=1 it adds
 * to them, for a person who runs the suites in parts.
 */
export async function setup(): Promise<() => Promise<void>> {
  if (process.env['NASMIG_SHIP_ADD'] !== '1') {
    await rm(factsDirectory, { recursive: true, force: true });
    await rm(partsDirectory, { recursive: true, force: true });
  }
  await rm(reportFile, { force: true });
  return async () => {
    const report: Record<string, Facts> = {};
    for (const [section, fields] of Object.entries(FORM)) {
      const facts = await readWithRunbooks(section);
      const entries = fields.flatMap((field) => {
        const fact = facts[field];
        return fact === undefined ? [] : [[field, fact] as const];
      });
      if (entries.length > 0) report[section] = Object.fromEntries(entries);
    }
    await mkdir(buildDirectory, { recursive: true });
    await writeFile(reportFile, `${JSON.stringify(report, undefined, 2)}\n`);
  };
}
