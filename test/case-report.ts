// A vitest reporter: build/e2e.json with one entry for each case of the end-to-end suites, `{cases: [{name, ok, seconds, detail}]}`.
// The detail is what the case told (task.meta.detail), or why it failed. A file that could not be loaded is a failed case.

import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { Reporter, TestCase, TestModule } from 'vitest/node';

const REPORT_FILE = resolve(import.meta.dirname, '../build/e2e.json');
/** What a person reads; the whole is in the run's output. */
const MAX_DETAIL_LENGTH = 2000;

export interface CaseReport {
  readonly name: string;
  readonly ok: boolean;
  readonly seconds: number;
  readonly detail: string;
}

export default class CaseReporter implements Reporter {
  readonly #file: string;

  /** vitest gives the options of its configuration, or an empty object. */
  constructor({ file = REPORT_FILE }: { readonly file?: string } = {}) {
    this.#file = file;
  }

  /** The report of an earlier run is no report of this one. */
  onTestRunStart(): void {
    rmSync(this.#file, { force: true });
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const cases = modules.flatMap((module) => casesOf(module));
    mkdirSync(dirname(this.#file), { recursive: true });
    writeFileSync(this.#file, `${JSON.stringify({ cases }, undefined, 2)}\n`);
  }
}

function casesOf(module: TestModule): CaseReport[] {
  const cases = [...module.children.allTests()].map(caseOf);
  const problems = module.errors().map(({ message }) => message);
  if (problems.length === 0) return cases;
  const detail = problems.join('; ').slice(0, MAX_DETAIL_LENGTH);
  return [...cases, { name: module.relativeModuleId, ok: false, seconds: 0, detail }];
}

function caseOf(test: TestCase): CaseReport {
  const { state, errors = [] } = test.result();
  const told = test.meta().detail ?? '';
  const failed = state === 'passed' ? '' : errors.map(({ message }) => message).join('; ') || state;
  return {
    name: test.fullName,
    ok: state === 'passed',
    seconds: Math.round((test.diagnostic()?.duration ?? 0) / 10) / 100,
    detail: [failed, told]
      .filter((text) => text !== '')
      .join('; ')
      .slice(0, MAX_DETAIL_LENGTH),
  };
}
