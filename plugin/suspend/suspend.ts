// `kubectl nasmig suspend` and `resume`: acceleration off and on, by policy. Migrations go on, plainly; sidecars stay.
import type { KubernetesObject } from '@kubernetes/client-node';
import type { PolicyObject } from '../../operator/controller/policies.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { policies } from '../cluster/vms.ts';
import { nearest } from '../command-line.ts';
import { PluginError } from '../errors.ts';
import type { Exit } from '../exit-codes.ts';
import { nameOf, objectsAs } from '../output/objects.ts';
import type { Verb, VerbContext } from '../verb.ts';

/** What both verbs take. */
const takes = {
  words: '[POLICY...]',
  minWords: 0,
  maxWords: 50,
  flags: [{ name: 'all', meaning: 'every NasMigrationPolicy of the cluster' }],
  outputs: ['json', 'yaml', 'name'],
  without: ['all-namespaces', 'selector', 'no-headers'],
  completes: ['policies'],
} as const satisfies Partial<Verb>;

export const suspend: Verb = {
  name: 'suspend',
  summary: 'stop accelerating: migrations under these policies are plain',
  description:
    'Sets spec.suspend of NasMigrationPolicies: nothing of their VMs is accelerated any more, migrations are plain. What is under way and accelerated goes on.',
  ...takes,
  examples: ['kubectl nasmig suspend default', 'kubectl nasmig suspend --all'],
  run: (context) => set(context, true),
};

export const resume: Verb = {
  name: 'resume',
  summary: 'accelerate again',
  description: 'Takes back what `suspend` did.',
  ...takes,
  examples: ['kubectl nasmig resume default', 'kubectl nasmig resume --all'],
  run: (context) => set(context, false),
};

async function set({ api, flags, words, output, terminal }: VerbContext, suspended: boolean): Promise<Exit> {
  const { objects } = await policies(api);
  const chosen = choose(objects, words, flags.is('all'));
  const after: KubernetesObject[] = [];
  for (const object of chosen) {
    const isSuspended = (object.spec as { suspend?: unknown } | undefined)?.suspend === true;
    const changed =
      isSuspended === suspended
        ? object
        : await api.mergePatch<PolicyObject>(
            resources.nasMigrationPolicies,
            undefined,
            object.metadata?.name ?? '',
            {
              spec: { suspend: suspended },
            },
          );
    after.push({
      ...changed,
      ...(object.apiVersion === undefined ? {} : { apiVersion: object.apiVersion }),
      kind: 'NasMigrationPolicy',
    });
    if (output !== undefined) continue;
    const verb = suspended ? 'suspended' : 'resumed';
    terminal.write(
      `${nameOf(after.at(-1) ?? object)} ${isSuspended === suspended ? `is ${verb} already` : verb}\n`,
    );
  }
  if (output !== undefined) terminal.write(objectsAs(after, output, after.length !== 1));
  return 'ok';
}

/** Throws {@link PluginError}. Pure. */
export function choose(
  objects: readonly PolicyObject[],
  words: readonly string[],
  all: boolean,
): PolicyObject[] {
  const names = objects.map(({ metadata }) => metadata?.name ?? '').sort();
  if (all && words.length > 0) throw new PluginError('usage', '--all and names exclude each other');
  if (names.length === 0)
    throw new PluginError(
      'notFound',
      'there is no NasMigrationPolicy in this cluster, so nothing is injected or accelerated',
      'docs/install.md shows a first one.',
    );
  if (all) return [...objects];
  if (words.length === 0)
    throw new PluginError('usage', 'which policy?', `Name some of ${names.join(', ')}, or give --all.`);
  return words.map((word) => {
    const name = word.replace(/^(nasmigrationpolic(y|ies)(\.nasmigration\.io)?|namp)\//, '');
    const found = objects.find(({ metadata }) => metadata?.name === name);
    if (found !== undefined) return found;
    const meant = nearest(name, names);
    throw new PluginError(
      'notFound',
      `there is no NasMigrationPolicy ${name}`,
      meant === undefined ? `There are: ${names.join(', ')}.` : `Did you mean ${meant}?`,
    );
  });
}
