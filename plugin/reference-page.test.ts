import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { exitCodes } from './exit-codes.ts';
import { pageFile, withTables } from './reference-page.ts';
import { flagsOf, overview, PROGRAM, usage } from './usage.ts';
import { verbs } from './verbs.ts';

describe('the page of the plugin', () => {
  it('has the tables that verbs, flags and exit codes make (node plugin/reference-page.ts writes them)', () => {
    const page = readFileSync(pageFile, 'utf8');
    expect(page).toBe(withTables(page));
    expect(() => withTables('')).toThrow(/has no marks/);
  });
});

describe('usage texts', () => {
  it.each(verbs.map((verb) => [verb.name, verb] as const))(
    'of %s begin with kubectl nasmig, and explain every flag',
    (name, verb) => {
      const text = usage(verb);
      expect(text).toContain(`Usage: ${PROGRAM} ${name}`);
      for (const example of verb.examples) expect(example).toMatch(/kubectl[ -]nasmig/);
      for (const flag of flagsOf(verb)) {
        expect(text).toContain(`--${flag.name}`);
        expect(flag.meaning).not.toBe('');
      }
      expect(overview(verbs)).toContain(`  ${name} `);
    },
  );

  it.each(verbs.map((verb) => [verb.name, verb] as const))(
    'of %s have no flag twice, neither long nor short',
    (_name, verb) => {
      const flags = flagsOf(verb);
      const names = flags.map(({ name }) => name);
      const letters = flags.flatMap(({ short }) => short ?? []);
      expect(new Set(names).size).toBe(names.length);
      expect(new Set(letters).size).toBe(letters.length);
    },
  );

  it('exit codes differ', () => {
    const codes = Object.values(exitCodes).map(({ code }) => code);
    expect(new Set(codes).size).toBe(codes.length);
  });
});
