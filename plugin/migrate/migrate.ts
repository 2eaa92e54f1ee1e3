// `kubectl nasmig migrate VMI`: makes a NasAwareMigration, after having looked whether KubeVirt would take it.
import type { KubernetesObject } from '@kubernetes/client-node';
import type { NasAwareMigrationSpec } from '../../crds/nas-aware-migration.ts';
import { refusal } from '../../operator/controller/eligibility.ts';
import { apiVersionOf, pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { parseQuantity } from '../../operator/kubevirt/quantities.ts';
import { listMigrations, migrationsOf, referenceOf, unfinished } from '../cluster/migrations.ts';
import { kubevirtMigrations, vmiNamed } from '../cluster/vms.ts';
import type { Flags } from '../command-line.ts';
import { PluginError } from '../errors.ts';
import type { Exit } from '../exit-codes.ts';
import { nameOf, objectsAs } from '../output/objects.ts';
import type { Verb, VerbContext } from '../verb.ts';
import { follow } from '../watch/watch.ts';

type MigrationManifest = KubernetesObject & { spec: NasAwareMigrationSpec };

export const migrate: Verb = {
  name: 'migrate',
  summary: 'live-migrate a VM, its page cache from the NAS where that is possible',
  description:
    'Starts the live migration of a running VM: makes a NasAwareMigration, which the operator carries out. Without flags the policy of the VM decides.',
  words: 'VMI',
  minWords: 1,
  maxWords: 1,
  flags: [
    { name: 'watch', short: 'w', meaning: 'follow it, as `watch` does, and end as it ends' },
    { name: 'wait', meaning: 'wait for its end without a live view' },
    { name: 'timeout', value: 'TIME', meaning: 'of --watch and --wait, for example 30m' },
    {
      name: 'acceleration',
      value: 'MODE',
      choices: ['Preferred', 'Required', 'Observe', 'Disabled'],
      meaning: 'how much may be done; Required does not start what cannot be accelerated',
    },
    { name: 'to-node', value: 'NODE', meaning: 'the node to move to, by its kubernetes.io/hostname' },
    {
      name: 'node-selector',
      value: 'KEY=VALUE',
      repeated: true,
      meaning: 'labels that the target node must have; may be repeated',
    },
    { name: 'volumes', value: 'NAME,...', repeated: true, meaning: 'read pages from these volumes only' },
    {
      name: 'link-bandwidth',
      value: 'QUANTITY',
      meaning: 'most bytes per second on the migration link, for example 400M',
    },
    { name: 'nas-read-bandwidth', value: 'QUANTITY', meaning: 'most bytes per second read from the NAS' },
    {
      name: 'prepare-timeout',
      value: 'TIME',
      meaning: 'how long to wait for sidecar and index before it starts',
    },
    { name: 'ttl', value: 'TIME', meaning: 'how long to keep the record after its end' },
    { name: 'name', value: 'NAME', meaning: 'of the NasAwareMigration; else the VM and some letters' },
    {
      name: 'dry-run',
      value: 'HOW',
      choices: ['none', 'client', 'server'],
      meaning: 'client: write the object and make nothing; server: let the API server check it',
    },
  ],
  outputs: ['json', 'yaml', 'name'],
  without: ['all-namespaces', 'selector', 'no-headers'],
  examples: [
    'kubectl nasmig migrate db --watch',
    'kubectl nasmig migrate db --acceleration Observe',
    'kubectl nasmig migrate db --to-node node-3 --link-bandwidth 400M',
    'kubectl nasmig migrate db --dry-run=client -o yaml',
  ],
  completes: ['vmis'],
  run,
};

async function run(context: VerbContext): Promise<Exit> {
  const { api, defaultNamespace: namespace, flags, words, output, terminal } = context;
  const reference = referenceOf(words[0] ?? '');
  if (reference.kind === 'migration')
    throw new PluginError('usage', `${words[0]} is not a VMI`, 'Name the VirtualMachineInstance to migrate.');
  const manifest = manifestFor(namespace, reference.name, flags);
  const dryRun = flags.text('dry-run') ?? 'none';
  if (dryRun === 'client') {
    terminal.write(
      output === undefined ? `${nameOf(manifest)} created (dry run)\n` : objectsAs([manifest], output, false),
    );
    return 'ok';
  }
  await check(context, reference.name);
  const made = await api.call<MigrationManifest>('POST', pathOf(resources.nasAwareMigrations, namespace), {
    body: manifest,
    ...(dryRun === 'server' ? { query: { dryRun: 'All' } } : {}),
  });
  const name = made.metadata?.name ?? '';
  const follows = flags.is('watch') || flags.is('wait');
  if (output !== undefined) terminal.write(objectsAs([made], output, false));
  else terminal.write(`${nameOf(made)} created${dryRun === 'server' ? ' (server dry run)' : ''}\n`);
  if (dryRun === 'server') return 'ok';
  if (!follows) {
    const where = flags.has('namespace') ? ` -n ${namespace}` : '';
    if (output === undefined) terminal.note(`Follow it with: kubectl nasmig watch ${name}${where}\n`);
    return 'ok';
  }
  const quiet = flags.is('wait') && !flags.is('watch');
  return follow(
    {
      ...context,
      api,
      namespace,
      output: undefined,
      terminal: quiet ? { ...terminal, isTerminal: false } : terminal,
    },
    [`nam/${name}`],
  );
}

/** What would be refused is refused here, with words that say what to do. Throws {@link PluginError}. */
async function check({ api, defaultNamespace: namespace }: VerbContext, vmiName: string): Promise<void> {
  const vmi = await vmiNamed(api, namespace, vmiName);
  const { migrations } = await listMigrations(api, namespace, undefined);
  const [open] = unfinished(migrationsOf({ kind: 'vmi', name: vmiName }, migrations));
  if (open !== undefined)
    throw new PluginError(
      'conflict',
      `${vmiName} is being migrated already: ${open.name} is ${open.status.phase ?? 'Pending'}`,
      `Follow it with kubectl nasmig watch ${open.name}, or end it with kubectl nasmig cancel ${open.name}.`,
    );
  const others = (await kubevirtMigrations(api, namespace)).filter(({ spec }) => spec.vmiName === vmiName);
  const refused = refusal(vmiName, vmi, others);
  if (refused !== undefined)
    throw new PluginError(
      refused.reason === 'MigrationInFlight' ? 'conflict' : 'failed',
      `${vmiName} cannot be migrated now (${refused.reason}): ${refused.message}`,
    );
}

/** The object that flags ask for. Throws {@link PluginError} with exit `usage`. Pure. */
export function manifestFor(namespace: string, vmiName: string, flags: Flags): MigrationManifest {
  const nodeSelector: Record<string, string> = {};
  const toNode = flags.text('to-node');
  if (toNode !== undefined) nodeSelector['kubernetes.io/hostname'] = toNode;
  for (const pair of flags.all('node-selector')) {
    const [, key, value] = /^([^=]+)=(.*)$/.exec(pair) ?? [];
    if (key === undefined || value === undefined)
      throw new PluginError('usage', `--node-selector ${pair} is not KEY=VALUE`);
    nodeSelector[key] = value;
  }
  const quantityOf = (flag: string): string | undefined => {
    const text = flags.text(flag);
    if (text !== undefined && !((parseQuantity(text) ?? 0) > 0))
      throw new PluginError(
        'usage',
        `--${flag} ${text} is not a quantity above zero`,
        'Write for example 400M or 1Gi.',
      );
    return text;
  };
  const durationOf = (flag: string): string | undefined => {
    const ms = flags.durationMs(flag);
    return ms === undefined ? undefined : `${ms}ms`.replace(/000ms$/, 's');
  };
  const linkBandwidth = quantityOf('link-bandwidth');
  const nasReadBandwidth = quantityOf('nas-read-bandwidth');
  const prepareTimeout = durationOf('prepare-timeout');
  const ttlAfterFinished = durationOf('ttl');
  const volumes = [...new Set(flags.all('volumes'))];
  const acceleration = flags.text('acceleration') as NasAwareMigrationSpec['acceleration'];
  const name = flags.text('name');
  const resource = resources.nasAwareMigrations;
  return {
    apiVersion: apiVersionOf(resource),
    kind: resource.kind,
    metadata: {
      namespace,
      ...(name === undefined ? { generateName: `${vmiName.slice(0, 50)}-` } : { name }),
    },
    spec: {
      vmiName,
      ...(acceleration === undefined ? {} : { acceleration }),
      ...(Object.keys(nodeSelector).length === 0 ? {} : { target: { nodeSelector } }),
      ...(volumes.length === 0 ? {} : { volumes }),
      ...(linkBandwidth === undefined && nasReadBandwidth === undefined
        ? {}
        : {
            limits: {
              ...(linkBandwidth === undefined ? {} : { linkBandwidth }),
              ...(nasReadBandwidth === undefined ? {} : { nasReadBandwidth }),
            },
          }),
      ...(prepareTimeout === undefined ? {} : { prepareTimeout }),
      ...(ttlAfterFinished === undefined ? {} : { ttlAfterFinished }),
    },
  };
}
