// The tables of docs/kubectl-plugin.md, made from the verbs, flags and exit codes themselves. Run as a program it writes them between
// their marks: node plugin/reference-page.ts
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Flag, spelling } from './command-line.ts';
import { exitCodes } from './exit-codes.ts';
import { globalFlags } from './global-flags.ts';
import { verbs } from './verbs.ts';

export const pageFile = path.resolve(import.meta.dirname, '../docs/kubectl-plugin.md');

const row = (...cells: string[]) => `| ${cells.join(' | ')} |`;
const code = (text: string) => `\`${text.replaceAll('|', '\\|')}\``;
const flagRow = (flag: Flag) => row(code(spelling(flag).trim()), flag.meaning);

const tables: Readonly<Record<string, () => string[]>> = {
  verbs: () => [
    row('verb', 'what', '`-o`'),
    row('---', '---', '---'),
    ...verbs.map(({ name, words, summary, outputs }) =>
      row(code(words === '' ? name : `${name} ${words}`), summary, outputs.join(', ')),
    ),
  ],
  'verb-flags': () =>
    verbs
      .filter(({ flags }) => flags.length > 0)
      .flatMap(({ name, flags }) => [
        `### ${name}`,
        '',
        row('flag', 'what'),
        row('---', '---'),
        ...flags.map(flagRow),
        '',
      ])
      .slice(0, -1),
  'global-flags': () => [row('flag', 'what'), row('---', '---'), ...globalFlags.map(flagRow)],
  'exit-codes': () => [
    row('code', 'when'),
    row('---', '---'),
    ...Object.values(exitCodes).map((exit) => row(String(exit.code), exit.meaning)),
  ],
};

/** The page with its tables made anew. Throws when a mark is missing. */
export function withTables(page: string): string {
  let text = page;
  for (const [name, lines] of Object.entries(tables)) {
    const begin = `<!-- ${name}: made by plugin/reference-page.ts -->`;
    const end = `<!-- end of ${name} -->`;
    const from = text.indexOf(begin);
    const to = text.indexOf(end);
    if (from === -1 || to < from)
      throw new Error(`${pageFile} has no marks for ${name}: ${begin} and ${end}`);
    text = `${text.slice(0, from)}${begin}\n\n${lines().join('\n')}\n\n${text.slice(to)}`;
  }
  return text;
}

if (import.meta.main) await writeFile(pageFile, withTables(await readFile(pageFile, 'utf8')));
