// One run of the plugin: the line taken apart, the verb found and run, whatever happens told in words and one exit code. The
// process around it (streams, signals) comes in.
import { ClusterClient } from './cluster/cluster-client.ts';
import { type Access, accessFrom } from './cluster/kubeconfig.ts';
import { nearest, parseLine } from './command-line.ts';
import { answer } from './completion/answer.ts';
import { namesOf } from './completion/names.ts';
import { explainError, PluginError } from './errors.ts';
import { type Exit, exitCode } from './exit-codes.ts';
import type { OutputFormat } from './global-flags.ts';
import { paletteFor, signsFor } from './output/colours.ts';
import { flagsOf, overview, PROGRAM, usage, usageLine } from './usage.ts';
import type { Terminal, Verb, VerbContext } from './verb.ts';
import { verbs } from './verbs.ts';
import { RELEASE } from './version/release.ts';

export interface World {
  environment: NodeJS.ProcessEnv;
  write(text: string): void;
  note(text: string): void;
  isTerminal: boolean;
  now(): number;
  interrupted: AbortSignal;
}

/** What a verb gets, after Ctrl-C, to tidy up. */
const TIDY_MS = 1000;

/** `line`: what stands after `kubectl nasmig`. Returns the exit code; never throws. */
export async function run(line: readonly string[], world: World): Promise<number> {
  try {
    return exitCode(await dispatch(line, world));
  } catch (error) {
    if (world.interrupted.aborted) return exitCode('interrupted');
    const { message, exit } = explainError(error);
    world.note(`error: ${message}\n`);
    return exitCode(exit);
  }
}

async function dispatch(line: readonly string[], world: World): Promise<Exit> {
  const [name, ...rest] = line;
  if (name === '__complete') {
    world.write(await answer(rest, verbs, (which, flags) => namesOf(which, flags, world.environment)));
    return 'ok';
  }
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    const about = name === 'help' && rest[0] !== undefined ? verbNamed(rest[0]) : undefined;
    world.write(about === undefined ? overview(verbs) : usage(about));
    return 'ok';
  }
  if (name.startsWith('-'))
    throw new PluginError(
      'usage',
      `the verb comes first, then its flags: ${PROGRAM} VERB ${name} …`,
      `${PROGRAM} --help lists the verbs.`,
    );
  const verb = verbNamed(name);
  const { flags, words } = parseLine(rest, flagsOf(verb));
  if (flags.is('help')) {
    world.write(usage(verb));
    return 'ok';
  }
  if (words.length < verb.minWords || words.length > verb.maxWords) throw wrongWords(verb, words);
  let access: Access | undefined;
  let api: ClusterClient | undefined;
  const reach = () => {
    access ??= accessFrom(flags, world.environment);
    return access;
  };
  const terminal: Terminal = {
    write: world.write,
    note: world.note,
    isTerminal: world.isTerminal,
    palette: paletteFor(world.isTerminal, world.environment),
    signs: signsFor(world.environment),
  };
  const { namespace, defaultNamespace } = needsCluster(verb)
    ? reach()
    : { namespace: undefined, defaultNamespace: 'default' };
  const context: VerbContext = {
    get api() {
      api ??= new ClusterClient(reach(), `kubectl-nasmig/${RELEASE}`);
      return api;
    },
    namespace,
    defaultNamespace,
    flags,
    words,
    output: flags.text('output') as OutputFormat | undefined,
    terminal,
    environment: world.environment,
    now: world.now,
    interrupted: world.interrupted,
  };
  return Promise.race([verb.run(context), interruption(world.interrupted)]);
}

/** A verb that has nothing to tidy up is not waited for. */
function interruption(signal: AbortSignal): Promise<Exit> {
  return new Promise((resolve) => {
    const soon = () => setTimeout(() => resolve('interrupted'), TIDY_MS).unref();
    if (signal.aborted) soon();
    else signal.addEventListener('abort', soon, { once: true });
  });
}

function needsCluster({ name }: Verb): boolean {
  return name !== 'completion' && name !== 'version';
}

function verbNamed(name: string): Verb {
  const found = verbs.find((verb) => verb.name === name);
  if (found !== undefined) return found;
  const meant = nearest(
    name,
    verbs.map((verb) => verb.name),
  );
  throw new PluginError(
    'usage',
    `there is no verb ${name}`,
    meant === undefined ? `${PROGRAM} --help lists them.` : `Did you mean ${PROGRAM} ${meant}?`,
  );
}

function wrongWords(verb: Verb, words: readonly string[]): PluginError {
  const problem =
    words.length < verb.minWords
      ? `${verb.name} needs ${verb.words}`
      : verb.maxWords === 0
        ? `${verb.name} takes no names: ${words.join(' ')}`
        : `${verb.name} takes ${verb.maxWords === 1 ? 'one name' : `at most ${verb.maxWords} names`}, not ${words.length}`;
  return new PluginError('usage', problem, `Usage: ${usageLine(verb)}`);
}
