import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { TestModule } from 'vitest/node';
import CaseReporter from './case-report.ts';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nasmig-case-report-'));
});

afterEach(() => rm(dir, { recursive: true, force: true }));

const test = (fullName: string, state: string, messages: string[], duration: number, detail?: string) => ({
  fullName,
  result: () => ({ state, errors: messages.map((message) => ({ message })) }),
  diagnostic: () => ({ duration }),
  meta: () => (detail === undefined ? {} : { detail }),
});

const moduleOf = (tests: object[], problems: string[] = []) =>
  ({
    relativeModuleId: 'test/broken.e2e.test.ts',
    children: { allTests: () => tests },
    errors: () => problems.map((message) => ({ message })),
  }) as unknown as TestModule;

it('writes every case, what it told, and why it failed', async () => {
  const file = join(dir, 'build', 'e2e.json');
  const reporter = new CaseReporter({ file });
  reporter.onTestRunEnd([
    moduleOf([
      test('moves', 'passed', [], 5123, 'saved 90 %'),
      test('fails', 'failed', ['expected 1 to be 2'], 40, 'seen so far'),
      test('left out', 'skipped', [], 0),
    ]),
    moduleOf([], ['cannot be loaded']),
  ]);
  expect(JSON.parse(await readFile(file, 'utf8'))).toEqual({
    cases: [
      { name: 'moves', ok: true, seconds: 5.12, detail: 'saved 90 %' },
      { name: 'fails', ok: false, seconds: 0.04, detail: 'expected 1 to be 2; seen so far' },
      { name: 'left out', ok: false, seconds: 0, detail: 'skipped' },
      { name: 'test/broken.e2e.test.ts', ok: false, seconds: 0, detail: 'cannot be loaded' },
    ],
  });
});

it('removes the report of the run before when one begins', async () => {
  const file = join(dir, 'e2e.json');
  await writeFile(file, '{"cases":[]}');
  new CaseReporter({ file }).onTestRunStart();
  await expect(readFile(file)).rejects.toMatchObject({ code: 'ENOENT' });
});
