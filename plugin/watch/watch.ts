// `kubectl nasmig watch`: follows migrations until they are over, or until Ctrl-C. On a terminal a live view, else one line for
// each change. Named ones decide the exit code.
import { stdin, stdout } from 'node:process';
import type { ReadStream, WriteStream } from 'node:tty';
import { isFinished } from '../../operator/controller/decide.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { type Migration, type MigrationObject, readMigration } from '../cluster/migration.ts';
import { listMigrations, migrationsOf, newestFirst, referenceOf, unfinished } from '../cluster/migrations.ts';
import { PluginError } from '../errors.ts';
import type { Exit } from '../exit-codes.ts';
import { withoutManagedFields } from '../output/objects.ts';
import type { Verb, VerbContext } from '../verb.ts';
import { LiveScreen } from './live-screen.ts';
import { RateMeter } from './rates.ts';
import { block, changeLine, screen } from './view.ts';

/** Time goes on also when nothing changes. */
const TICK_MS = 1000;
/** A burst of changes is one picture. */
const SETTLE_MS = 50;
/** A migration that was over when the view began is shown for this long after its end. */
const RECENT_MS = 10 * 60_000;

export const watch: Verb = {
  name: 'watch',
  summary: 'follow migrations live: phase, bar, rates, pages, saved bytes, time left',
  description:
    'Follows the named migrations, or those of the named VMIs, until they are over; without names all that are under way, until q or Ctrl-C. ' +
    'Where standard output is no terminal, it writes one line for each change.',
  words: '[VMI|MIGRATION...]',
  minWords: 0,
  maxWords: 50,
  flags: [
    { name: 'timeout', value: 'TIME', meaning: 'give up after this time, for example 30m' },
    { name: 'lines', meaning: 'one line for each change, also on a terminal' },
  ],
  outputs: ['json'],
  examples: [
    'kubectl nasmig watch db',
    'kubectl nasmig watch -A',
    'kubectl nasmig watch move-db --lines --timeout 10m',
  ],
  completes: ['unfinished', 'vmis'],
  run: (context) => follow(context, context.words),
};

/** Also what `migrate --watch` does. `words` empty: all under way. */
export async function follow(context: VerbContext, words: readonly string[]): Promise<Exit> {
  const { api, namespace, flags } = context;
  const selector = flags.text('selector');
  const { migrations } = await listMigrations(api, namespace, selector);
  return new Follower(context, selector, chosen(words, migrations, context)).run();
}

/** Those that decide the end, by UID; undefined: everything, without end. */
function chosen(
  words: readonly string[],
  migrations: readonly Migration[],
  { namespace }: Pick<VerbContext, 'namespace'>,
): Map<string, Migration> | undefined {
  if (words.length === 0) return undefined;
  const named = new Map<string, Migration>();
  for (const word of words) {
    const found = migrationsOf(referenceOf(word), migrations);
    const open = unfinished(found);
    // The one under way, else the last.
    const [one] = open.length > 0 ? newestFirst(open) : found;
    if (one === undefined)
      throw new PluginError(
        'notFound',
        `there is no migration ${word}, nor one of a VMI of that name${namespace === undefined ? '' : `, in namespace ${namespace}`}`,
        'kubectl nasmig list shows what there is; kubectl nasmig migrate VMI starts one.',
      );
    named.set(one.uid, one);
  }
  return named;
}

class Follower {
  readonly #context: VerbContext;
  readonly #informer: Informer<MigrationObject>;
  readonly #chosen: ReadonlyMap<string, Migration> | undefined;
  readonly #shown = new Map<string, Migration>();
  readonly #rates = new RateMeter();
  readonly #startMs: number;
  readonly #lastLines = new Map<string, string>();
  #problem: string | undefined;

  constructor(
    context: VerbContext,
    selector: string | undefined,
    chosen: ReadonlyMap<string, Migration> | undefined,
  ) {
    this.#context = context;
    this.#chosen = chosen;
    this.#startMs = context.now();
    this.#informer = new Informer<MigrationObject>(context.api, resources.nasAwareMigrations, {
      ...(context.namespace === undefined ? {} : { namespace: context.namespace }),
      ...(selector === undefined ? {} : { labelSelector: selector }),
      onProblem: (problem) => {
        this.#problem = problem;
      },
    });
  }

  async run(): Promise<Exit> {
    const { interrupted, terminal, flags, output } = this.#context;
    const isLive = terminal.isTerminal && !flags.is('lines') && output === undefined;
    let end: (exit: Exit | 'quit') => void = () => {};
    const ended = new Promise<Exit | 'quit'>((resolve) => {
      end = resolve;
    });
    if (interrupted.aborted) return 'interrupted';
    interrupted.addEventListener('abort', () => end('interrupted'), { once: true });
    const live = isLive
      ? new LiveScreen({
          input: stdin as ReadStream,
          output: stdout as WriteStream,
          onInterrupt: () => end('interrupted'),
          onQuit: () => end('quit'),
          onRedraw: () => this.#draw(live),
        })
      : undefined;
    const timeoutMs = flags.durationMs('timeout');
    const deadline = timeoutMs === undefined ? undefined : setTimeout(() => end('timedOut'), timeoutMs);
    let settling: NodeJS.Timeout | undefined;
    const soon = () => {
      settling ??= setTimeout(() => {
        settling = undefined;
        this.#draw(live);
        const over = this.#outcome();
        if (over !== undefined) end(over);
      }, SETTLE_MS);
    };
    const ticking = setInterval(() => this.#draw(live), TICK_MS);
    this.#informer.onChange(({ current, previous }) => {
      this.#problem = undefined;
      this.#take(current, previous);
      soon();
    });
    live?.open();
    let exit: Exit | 'quit';
    try {
      this.#informer.start();
      void this.#informer.synced.then(() => {
        // Deleted between the look-up of its name and the watch: nobody will tell of it.
        for (const [uid, migration] of this.#chosen ?? [])
          if (!this.#shown.has(uid)) this.#shown.set(uid, gone(migration));
        soon();
      });
      this.#draw(live);
      exit = await ended;
    } finally {
      clearInterval(ticking);
      clearTimeout(settling);
      clearTimeout(deadline);
      live?.close();
      await this.#informer.stop();
    }
    if (live !== undefined) this.#writeLast();
    if (exit === 'timedOut')
      throw new PluginError(
        'timedOut',
        `not over after ${flags.text('timeout')}; it goes on without being watched`,
      );
    return exit === 'quit' ? 'ok' : exit;
  }

  #take(current: MigrationObject | undefined, previous: MigrationObject | undefined): void {
    const migration = readMigration(current ?? previous ?? {});
    if (migration === undefined || !this.#isWanted(migration)) return;
    if (current === undefined) {
      // Cancelled: the record goes with it. The named one ends as such; of others nothing is left to show.
      this.#rates.forget(migration.uid);
      const wasOver = isFinished(migration.status);
      if (this.#chosen === undefined || wasOver) this.#shown.delete(migration.uid);
      else this.#shown.set(migration.uid, gone(migration));
      this.#tell(wasOver ? undefined : gone(migration), undefined);
      if (wasOver && this.#chosen !== undefined) this.#shown.set(migration.uid, migration);
      return;
    }
    this.#shown.set(migration.uid, migration);
    this.#tell(migration, current);
  }

  #isWanted(migration: Migration): boolean {
    if (this.#chosen !== undefined) return this.#chosen.has(migration.uid);
    if (this.#shown.has(migration.uid) || !isFinished(migration.status)) return true;
    const endMs = Date.parse(migration.status.completionTime ?? '');
    return endMs > this.#startMs - RECENT_MS;
  }

  /** Where there is no screen: a line, or an object. */
  #tell(migration: Migration | undefined, object: MigrationObject | undefined): void {
    const { terminal, flags, output, namespace } = this.#context;
    if (migration === undefined) return;
    if (output === 'json') {
      if (object !== undefined) terminal.write(`${JSON.stringify(withoutManagedFields(object))}\n`);
      return;
    }
    if (terminal.isTerminal && !flags.is('lines')) return;
    const line = changeLine(migration, namespace === undefined);
    if (this.#lastLines.get(migration.uid) === line) return;
    this.#lastLines.set(migration.uid, line);
    terminal.write(`${line}\n`);
  }

  /** Set when every named migration is over. */
  #outcome(): Exit | undefined {
    if (this.#chosen === undefined) return undefined;
    const named = [...this.#chosen.keys()].map((uid) => this.#shown.get(uid));
    if (!named.every((migration) => migration !== undefined && isFinished(migration.status)))
      return undefined;
    return named.every((migration) => migration?.status.phase === 'Succeeded') ? 'ok' : 'migrationFailed';
  }

  #blocks(columns: number) {
    const { terminal, namespace, now } = this.#context;
    return newestFirst([...this.#shown.values()]).map((migration) => ({
      finished: isFinished(migration.status),
      lines: block(migration, this.#rates.take(migration), {
        columns,
        palette: terminal.palette,
        signs: terminal.signs,
        withNamespace: namespace === undefined,
        nowMs: now(),
      }),
    }));
  }

  #draw(live: LiveScreen | undefined): void {
    if (live === undefined) return;
    const { terminal, namespace } = this.#context;
    const { palette } = terminal;
    const blocks = this.#blocks(live.columns);
    const open = blocks.filter(({ finished }) => !finished).length;
    const where = namespace === undefined ? 'all namespaces' : `namespace ${namespace}`;
    const clock = new Date(this.#context.now()).toISOString().slice(11, 19);
    const head = palette.strong(`kubectl nasmig watch   ${where}   ${open} under way   ${clock} UTC`);
    const foot =
      this.#problem === undefined
        ? palette.faint(
            `${blocks.length === 0 ? 'Nothing under way. ' : ''}q or Ctrl-C ends this view; migrations go on.`,
          )
        : palette.warning(`The API server does not answer, trying again: ${this.#problem}`);
    live.draw(screen(blocks, head, foot, live.rows, live.columns));
  }

  /** What the live view showed last stays on the terminal. */
  #writeLast(): void {
    const { terminal } = this.#context;
    for (const { lines } of this.#blocks(Number.POSITIVE_INFINITY)) terminal.write(`${lines.join('\n')}\n`);
  }
}

/** A migration whose object was deleted before it was over: that is how they are cancelled. */
function gone(migration: Migration): Migration {
  return {
    ...migration,
    status: {
      ...migration.status,
      phase: 'Cancelled',
      conditions: [
        {
          type: 'Complete',
          status: 'True',
          reason: 'Cancelled',
          message: 'the NasAwareMigration was deleted; the VM runs on its source unless it had moved already',
          lastTransitionTime: new Date(0).toISOString(),
        },
      ],
    },
  };
}
