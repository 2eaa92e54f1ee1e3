// Every documented reason is given by some line of operator or sidecar: a reason that nobody gives is a promise that nobody keeps. Where the
// operator decides, operator/controller/reasons-decided.test.ts has a case for each; here is looked for a line, which must give the
// reason and not only compare with it or name it in a type.
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { outcomeReasons } from './outcome-reasons.ts';
import { reasons } from './reasons.ts';

const root = path.resolve(import.meta.dirname, '..');
/** Where reasons are listed rather than given, and what tests are made of. */
const OTHERS = [
  'control/outcome-reasons.ts',
  'control/example-messages.ts',
  'operator/controller/example-snapshots.ts',
];

const COMMENTS = /\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gm;
/** `['A', 'B'].includes(reason)` asks, too. */
const ASKED_LISTS = /\[[^[\]]*\](\s+as const)?\)?\s*\.includes\(/g;
/** `| 'A'`, `=== 'A'`, `case 'A'`; `'A' |`, `'A' ===`. */
const ASKED_OR_TYPED = /(?:[^|]\||[=!]==|\bcase)\s*'\w+'|'\w+'\s*(?:\|(?!\|)|[=!]==)/g;

/** What of a source gives its reasons. */
function giving(text: string): string {
  const bare = text.replace(COMMENTS, '').replace(ASKED_LISTS, '');
  // Twice: what a match took away may be the other side of the next one.
  return bare.replace(ASKED_OR_TYPED, ' | ').replace(ASKED_OR_TYPED, ' | ');
}

const sources = globSync('{operator,sidecar,control}/**/*.ts', { cwd: root })
  .filter((file) => !file.endsWith('.test.ts') && !OTHERS.includes(file))
  .map((file) => {
    const text = readFileSync(path.join(root, file), 'utf8');
    // In the list itself only what comes after the texts.
    return giving(file === 'control/reasons.ts' ? text.slice(text.indexOf('} as const satisfies')) : text);
  })
  .join('\n');

describe('documented reasons', () => {
  it.each([...reasons, ...outcomeReasons])('%s is given by something', (reason) => {
    expect(sources).toContain(`'${reason}'`);
  });
});

describe('a line that names a reason', () => {
  it.each([
    ["reason: 'Busy'", true],
    ["because('Busy', detail)", true],
    ["isGone ? 'Busy' : undefined", true],
    ["reason ?? 'Busy'", true],
    ["reason || 'Busy'", true],
    ["type R = 'NoGo' | 'Busy' | 'Other'", false],
    ["type R =\n  | 'NoGo'\n  | 'Busy'", false],
    ["if (reason === 'Busy')", false],
    ["if ('Busy' !== reason)", false],
    ["case 'Busy':", false],
    ["['NoGo', 'Busy'].includes(reason)", false],
    ["// 'Busy'", false],
  ])('%s: gives it: %s', (line, gives) => {
    expect(giving(line).includes("'Busy'")).toBe(gives);
  });
});
