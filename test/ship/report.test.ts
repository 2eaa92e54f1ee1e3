import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { beginRun, endRun } from './report.ts';

let build: string;
beforeEach(async () => {
  build = await mkdtemp(path.join(tmpdir(), 'nasmig-report-'));
});
afterEach(() => rm(build, { recursive: true, force: true }));

async function runOf(facts: Record<string, object>, { adding = false, whole = false }): Promise<void> {
  await beginRun(build, adding);
  await mkdir(path.join(build, 'ship-run'), { recursive: true });
  for (const [section, values] of Object.entries(facts))
    await writeFile(path.join(build, 'ship-run', `${section}.json`), JSON.stringify(values));
  await endRun(build, adding || whole);
}

const written = async (name: string): Promise<unknown> =>
  JSON.parse(await readFile(path.join(build, name), 'utf8'));

describe('the report', () => {
  const all = { helm: { lint: true, other: 1 }, docsCommands: { run: 2, failed: 0 }, runbooks: { run: 3 } };
  const whole = { helm: { lint: true }, docsCommands: { run: 5, failed: 0 } };

  it('of a part leaves that of the whole alone', async () => {
    await runOf(all, { whole: true });
    expect(await written('ship.json')).toEqual(whole);
    await runOf({ image: { sizeMB: 4 } }, {});
    expect(await written('ship.json')).toEqual(whole);
    expect(await written('ship-partial.json')).toEqual({ image: { sizeMB: 4 } });
    expect(await written('ship/helm.json')).toEqual(all.helm);
  });

  it('of a part that is to be added has both, also after another part', async () => {
    await runOf(all, { whole: true });
    await runOf({ helm: { lint: false } }, {});
    await runOf({ image: { sizeMB: 4 } }, { adding: true });
    expect(await written('ship.json')).toEqual({ ...whole, image: { sizeMB: 4 } });
  });

  it('of a whole run has nothing of the one before', async () => {
    await runOf(all, { whole: true });
    await runOf({ image: { sizeMB: 4 } }, { whole: true });
    expect(await written('ship.json')).toEqual({ image: { sizeMB: 4 } });
    await runOf({ plugin: { verbs: 1 } }, { adding: true });
    expect(await written('ship.json')).toEqual({ image: { sizeMB: 4 }, plugin: { verbs: 1 } });
  });
});
