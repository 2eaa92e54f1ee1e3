// What could come next on a command line: verbs, flags, values of flags, names of objects. Answers in the words of Cobra's
// completion protocol, which kubectl speaks with its plugins: a candidate a line, with a description after a tab, and the
// directive in the last line. Names come from the caller. Pure but for them.
import { type Flag, Flags, parseLine } from '../command-line.ts';
import { flagsOf } from '../usage.ts';
import type { Completes, Verb } from '../verb.ts';

/** Cobra's ShellCompDirective: 4 forbids file names, 0 lets the shell offer them. */
const NO_FILES = 4;
const FILES = 0;

export type Names = Completes | 'namespaces' | 'contexts' | 'clusters' | 'users';

export interface Candidate {
  text: string;
  description?: string;
}

/** Asked for names; what cannot be read has none. `flags`: what the line says so far. */
export type NamesOf = (which: Names, flags: Flags) => Promise<Candidate[]>;

const NAMED_BY_FLAG: Record<string, Names> = {
  namespace: 'namespaces',
  'operator-namespace': 'namespaces',
  context: 'contexts',
  cluster: 'clusters',
  user: 'users',
  vmi: 'vmis',
};
const FILE_FLAGS = ['kubeconfig', 'certificate-authority', 'client-certificate', 'client-key', 'file'];

/** `words`: everything after `kubectl nasmig`; the last is what is being written, perhaps empty. */
export async function answer(
  words: readonly string[],
  verbs: readonly Verb[],
  namesOf: NamesOf,
): Promise<string> {
  const current = words.at(-1) ?? '';
  const before = words.slice(0, -1);
  const [verbName, ...rest] = before;
  if (verbName === undefined)
    return written(
      verbs.map(({ name, summary }) => ({ text: name, description: summary })),
      current,
      NO_FILES,
    );
  const verb = verbs.find(({ name }) => name === verbName);
  if (verb === undefined) return written([], current, NO_FILES);
  const flags = flagsOf(verb);
  const { given, count, awaiting } = soFar(rest, flags);
  if (awaiting !== undefined) return valuesOf(awaiting, given, current, namesOf);
  if (current.startsWith('-')) {
    const equals = /^--([^=]+)=(.*)$/.exec(current);
    const flag = flags.find(({ name }) => name === equals?.[1]);
    if (flag !== undefined && equals !== null) {
      const values = await candidatesOf(flag, given, namesOf);
      return written(
        values.map(({ text, ...other }) => ({ ...other, text: `--${flag.name}=${text}` })),
        current,
        FILE_FLAGS.includes(flag.name) ? FILES : NO_FILES,
      );
    }
    return written(
      flags.map(({ name, meaning }) => ({ text: `--${name}`, description: meaning })),
      current,
      NO_FILES,
    );
  }
  if (count >= verb.maxWords) return written([], current, NO_FILES);
  const candidates: Candidate[] = [];
  for (const which of verb.completes ?? [])
    for (const candidate of await namesOf(which, given))
      if (!candidates.some(({ text }) => text === candidate.text) && !rest.includes(candidate.text))
        candidates.push(candidate);
  return written(candidates, current, NO_FILES);
}

/** What the finished words say: flags, the number of plain words, and a flag that still waits for its value. */
function soFar(
  words: readonly string[],
  known: readonly Flag[],
): { given: Flags; count: number; awaiting: Flag | undefined } {
  const last = words.at(-1) ?? '';
  const awaiting = known.find(
    ({ name, short, value }) =>
      value !== undefined && (last === `--${name}` || (short !== undefined && last === `-${short}`)),
  );
  try {
    const line = parseLine(awaiting === undefined ? words : words.slice(0, -1), known);
    return { given: line.flags, count: line.words.length, awaiting };
  } catch {
    // Half a line need not make sense yet.
    return { given: new Flags(), count: 0, awaiting };
  }
}

async function valuesOf(flag: Flag, given: Flags, current: string, namesOf: NamesOf): Promise<string> {
  return written(
    await candidatesOf(flag, given, namesOf),
    current,
    FILE_FLAGS.includes(flag.name) ? FILES : NO_FILES,
  );
}

async function candidatesOf(flag: Flag, given: Flags, namesOf: NamesOf): Promise<Candidate[]> {
  if (flag.choices !== undefined) return flag.choices.map((text) => ({ text }));
  const which = NAMED_BY_FLAG[flag.name];
  return which === undefined ? [] : namesOf(which, given);
}

function written(candidates: readonly Candidate[], current: string, directive: number): string {
  const lines = candidates
    .filter(({ text }) => text.startsWith(current))
    .map(({ text, description }) => (description === undefined ? text : `${text}\t${description}`));
  return `${[...lines, `:${directive}`].join('\n')}\n`;
}
