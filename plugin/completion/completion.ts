// `kubectl nasmig completion SHELL`: the script for that shell.
import { PluginError } from '../errors.ts';
import type { Verb } from '../verb.ts';
import { shells } from './names.ts';
import { KUBECTL_COMPLETER, scripts } from './scripts.ts';

export const completion: Verb = {
  name: 'completion',
  summary: 'a completion script for bash, zsh, fish or kubectl',
  description:
    `Writes a completion script. "kubectl" is for \`kubectl nasmig\`: save it as ${KUBECTL_COMPLETER} in a folder of your PATH, executable, and kubectl's own completion uses it. ` +
    'bash, zsh and fish are for the command kubectl-nasmig.',
  words: shells.join('|'),
  minWords: 1,
  maxWords: 1,
  flags: [],
  outputs: [],
  without: ['all-namespaces', 'selector', 'no-headers'],
  examples: [
    `kubectl nasmig completion kubectl > ~/.local/bin/${KUBECTL_COMPLETER} && chmod +x ~/.local/bin/${KUBECTL_COMPLETER}`,
    'source <(kubectl-nasmig completion bash)',
  ],
  completes: ['shells'],
  async run({ words, terminal }) {
    const shell = shells.find((one) => one === words[0]);
    if (shell === undefined)
      throw new PluginError(
        'usage',
        `there is no completion for ${words[0]}`,
        `Write one of ${shells.join(', ')}.`,
      );
    terminal.write(scripts[shell]);
    return 'ok';
  },
};
