// `kubectl nasmig cancel`: ends migrations that are under way. One that somebody else started (a drain, virtctl) is only recorded by
// us: deleting our record would end its acceleration and not the migration, so it is cancelled only when that is asked for.

import type { KubernetesObject } from '@kubernetes/client-node';
import { resources } from '../../operator/kubernetes/resources.ts';
import type { Migration } from '../cluster/migration.ts';
import {
  find,
  listMigrations,
  migrationsOf,
  newestFirst,
  referenceOf,
  unfinished,
} from '../cluster/migrations.ts';
import { PluginError } from '../errors.ts';
import type { Exit } from '../exit-codes.ts';
import type { Verb, VerbContext } from '../verb.ts';

const DEFAULT_TIMEOUT_MS = 60_000;
const POLL_MS = 250;

export const cancel: Verb = {
  name: 'cancel',
  summary: 'end a migration that is under way; the VM stays where it is',
  description:
    'Ends the migration: the VM goes on running on its source. A migration that has passed its point of no return ends by itself. ' +
    'The record of a cancelled migration goes with it.',
  words: 'VMI|MIGRATION',
  minWords: 1,
  maxWords: 1,
  flags: [
    { name: 'foreign', meaning: 'also a migration that somebody else started, such as a node drain' },
    { name: 'no-wait', meaning: 'do not wait until it has ended' },
    { name: 'timeout', value: 'TIME', meaning: 'how long to wait, default 60s' },
  ],
  outputs: ['name'],
  without: ['all-namespaces', 'selector', 'no-headers'],
  examples: ['kubectl nasmig cancel move-db', 'kubectl nasmig cancel vmi/db --no-wait'],
  completes: ['unfinished', 'vmis'],
  run,
};

async function run(context: VerbContext): Promise<Exit> {
  const { api, defaultNamespace: namespace, words, flags, output, terminal } = context;
  const word = words[0] ?? '';
  const { migrations } = await listMigrations(api, namespace, undefined);
  const chosen = theOne(word, migrations, namespace);
  if (chosen.adopted || chosen.spec.migrationName !== undefined) {
    if (!flags.is('foreign')) throw foreign(chosen);
    const { name: vmim, uid } = await foreignMigration(context, chosen);
    await api.delete(resources.virtualMachineInstanceMigrations, namespace, vmim, uid);
    terminal.write(
      output === 'name'
        ? `virtualmachineinstancemigration.kubevirt.io/${vmim}\n`
        : `virtualmachineinstancemigration.kubevirt.io/${vmim} is being cancelled\n`,
    );
  } else {
    await api.delete(resources.nasAwareMigrations, namespace, chosen.name, chosen.uid);
    terminal.write(
      output === 'name'
        ? `nasawaremigration.nasmigration.io/${chosen.name}\n`
        : `nasawaremigration.nasmigration.io/${chosen.name} is being cancelled\n`,
    );
  }
  return flags.is('no-wait') ? 'ok' : ended(context, chosen);
}

/** The one under way that is meant. Throws {@link PluginError}. Pure. */
export function theOne(word: string, migrations: readonly Migration[], namespace: string): Migration {
  const found = migrationsOf(referenceOf(word), migrations);
  const open = newestFirst(unfinished(found));
  const [one, second] = open;
  if (one !== undefined && second === undefined) return one;
  if (one !== undefined)
    throw new PluginError(
      'conflict',
      `several migrations of ${word} are under way: ${open.map(({ name }) => name).join(', ')}`,
      `Name one: kubectl nasmig cancel nam/${one.name}.`,
    );
  const [last] = found;
  if (last === undefined)
    throw new PluginError(
      'notFound',
      `there is no migration ${word}, nor one of a VMI of that name, in namespace ${namespace}`,
      'kubectl nasmig list shows what there is.',
    );
  throw new PluginError('conflict', `nothing to cancel: ${last.name} is ${last.status.phase} already`);
}

/** KubeVirt's object that the record is about. Throws {@link PluginError}: without a name there is nothing that could be deleted. */
async function foreignMigration(
  { api }: VerbContext,
  { namespace, name, spec }: Migration,
): Promise<{ name: string; uid: string }> {
  const { migrationName = '', vmiName } = spec;
  if (migrationName === '')
    throw new PluginError(
      'conflict',
      `${name} does not say which migration it is the record of`,
      `Cancel that one: kubectl -n ${namespace} get virtualmachineinstancemigrations, then virtctl migrate-cancel ${vmiName}.`,
    );
  const vmim = await find(
    api.get<KubernetesObject & { spec?: { vmiName?: string } }>(
      resources.virtualMachineInstanceMigrations,
      namespace,
      migrationName,
    ),
  );
  const { uid } = vmim?.metadata ?? {};
  if (uid === undefined || vmim?.spec?.vmiName !== vmiName)
    throw new PluginError(
      'notFound',
      `there is no migration ${migrationName} of ${vmiName} any more, which ${name} is the record of`,
    );
  return { name: migrationName, uid };
}

function foreign({ name, spec }: Migration): PluginError {
  return new PluginError(
    'conflict',
    `${name} is the record of ${spec.migrationName ?? 'a migration'}, which somebody else started; a node drain would start another`,
    'Uncordon the node or end the drain first; --foreign cancels this migration all the same.',
  );
}

async function ended(context: VerbContext, { namespace, name, uid }: Migration): Promise<Exit> {
  const { api, flags, terminal, interrupted, now } = context;
  const timeoutMs = flags.durationMs('timeout') ?? DEFAULT_TIMEOUT_MS;
  const deadline = now() + timeoutMs;
  while (!interrupted.aborted) {
    const object = await find(api.get(resources.nasAwareMigrations, namespace, name));
    const phase = (object as { status?: { phase?: string } } | undefined)?.status?.phase;
    if (object === undefined || object.metadata?.uid !== uid || phase === 'Cancelled') {
      terminal.note(`${name} is cancelled.\n`);
      return 'ok';
    }
    if (phase === 'Succeeded' || phase === 'Failed') {
      terminal.note(`${name} was over before it could be cancelled: ${phase}.\n`);
      return phase === 'Succeeded' ? 'conflict' : 'ok';
    }
    if (now() >= deadline)
      throw new PluginError(
        'timedOut',
        `${name} is not cancelled after ${Math.round(timeoutMs / 1000)} s: KubeVirt ends some phases first, and the operator has to run`,
        'It is cancelled as soon as that is possible; kubectl nasmig doctor says whether the operator runs.',
      );
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return 'interrupted';
}
