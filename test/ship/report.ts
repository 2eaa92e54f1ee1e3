// What a run of the ship suites proved, as numbers: each suite records what it saw after having asserted it, and the end of the run
// writes all of it to build/ship.json. What did not run, or failed, is not in it.
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { repositoryRoot } from '../../hack/ship/tools.ts';

const buildDirectory = path.join(repositoryRoot, 'build');
const factsDirectory = path.join(buildDirectory, 'ship');
const reportFile = path.join(buildDirectory, 'ship.json');

type Facts = Readonly<Record<string, boolean | number>>;

/** Adds facts to a section of the report. Call it after the assertions that make them facts. */
export async function record(section: string, facts: Facts): Promise<void> {
  const file = path.join(factsDirectory, `${section}.json`);
  await mkdir(factsDirectory, { recursive: true });
  await writeFile(file, JSON.stringify({ ...(await read(file)), ...facts }));
}

async function read(file: string): Promise<Facts> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Facts;
  } catch {
    return {};
  }
}

/** vitest's global set-up: a run starts without the facts of the one before, and ends with the report. */
export async function setup(): Promise<() => Promise<void>> {
  await rm(factsDirectory, { recursive: true, force: true });
  await rm(reportFile, { force: true });
  return async () => {
    const names = (await readdir(factsDirectory).catch(() => [])).sort();
    const sections = await Promise.all(
      names.map(async (name) => [path.basename(name, '.json'), await read(path.join(factsDirectory, name))]),
    );
    await writeFile(reportFile, `${JSON.stringify(Object.fromEntries(sections), undefined, 2)}\n`);
  };
}
