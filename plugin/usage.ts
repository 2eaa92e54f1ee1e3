// The usage texts. They begin with "kubectl nasmig", as kubectl's own do. Pure.
import { type Flag, spelling } from './command-line.ts';
import { globalFlags } from './global-flags.ts';
import type { Verb } from './verb.ts';

export const PROGRAM = 'kubectl nasmig';

/** The flags of a verb: its own, then those of every verb. */
export function flagsOf(verb: Verb): Flag[] {
  const without = new Set(verb.without ?? []);
  const general = globalFlags.flatMap((flag) => {
    if (without.has(flag.name) || (flag.name === 'output' && verb.outputs.length === 0)) return [];
    return flag.name === 'output' ? [{ ...flag, choices: verb.outputs }] : [flag];
  });
  return [...verb.flags, ...general];
}

export function overview(verbs: readonly Verb[]): string {
  const longest = Math.max(...verbs.map(({ name }) => name.length));
  return [
    'Live migration of KubeVirt VMs whose page cache comes from the NAS.',
    '',
    `Usage: ${PROGRAM} VERB [flags]`,
    '',
    'Verbs:',
    ...verbs.map(({ name, summary }) => `  ${name.padEnd(longest)}   ${summary}`),
    '',
    `${PROGRAM} VERB --help tells of one verb; the flags of kubectl (-n, -A, --context …) are those of every verb.`,
    '',
  ].join('\n');
}

export function usageLine(verb: Verb): string {
  return `${PROGRAM} ${verb.name}${verb.words === '' ? '' : ` ${verb.words}`} [flags]`;
}

export function usage(verb: Verb): string {
  const own = new Set(verb.flags.map(({ name }) => name));
  const flags = flagsOf(verb);
  const longest = Math.max(...flags.map((flag) => spelling(flag).length));
  const lines = (which: Flag[]) =>
    which.map((flag) => `  ${spelling(flag).padEnd(longest)}   ${flag.meaning}`);
  return [
    verb.description,
    '',
    `Usage: ${usageLine(verb)}`,
    '',
    ...(verb.examples.length === 0
      ? []
      : ['Examples:', ...verb.examples.map((example) => `  ${example}`), '']),
    ...(verb.flags.length === 0 ? [] : ['Flags:', ...lines([...verb.flags]), '']),
    'Flags of every verb:',
    ...lines(flags.filter(({ name }) => !own.has(name))),
    '',
  ].join('\n');
}
