// Every documented reason is given by some line of operator or sidecar: a reason that nobody gives is a promise that nobody keeps.
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { outcomeReasons } from './outcome-reasons.ts';
import { reasons } from './reasons.ts';

const root = path.resolve(import.meta.dirname, '..');
/** Where reasons are listed rather than given. */
const LISTS = ['control/outcome-reasons.ts'];

const sources = globSync('{operator,sidecar,control}/**/*.ts', { cwd: root })
  .filter((file) => !file.endsWith('.test.ts') && !LISTS.includes(file))
  .map((file) => {
    const text = readFileSync(path.join(root, file), 'utf8');
    // In the list itself only what comes after the texts.
    return file === 'control/reasons.ts' ? text.slice(text.indexOf('} as const satisfies')) : text;
  })
  .join('\n');

describe('documented reasons', () => {
  it.each([...reasons, ...outcomeReasons])('%s is given by something', (reason) => {
    expect(sources).toContain(`'${reason}'`);
  });
});
