// `kubectl nasmig explain`: the words of explanation.ts about one migration or VM.
import type { KubernetesObject } from '@kubernetes/client-node';
import { attemptOf } from '../../operator/controller/attempts.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { readVmi } from '../../operator/kubevirt/objects.ts';
import { installationOf, sharedDriversOf } from '../cluster/installation.ts';
import { readKubeVirt, readMigrationPolicy, resolvedConfiguration } from '../cluster/kubevirt-settings.ts';
import { find, listMigrations, migrationsOf, newestFirst, referenceOf } from '../cluster/migrations.ts';
import {
  claimsOf,
  kubevirtMigrations,
  labelsOfNamespace,
  launcherPods,
  namespaceLabels,
  orWhenForbidden,
  podsOfVmi,
  policies,
  policyFor,
  vmiNamed,
} from '../cluster/vms.ts';
import { PluginError } from '../errors.ts';
import { written } from '../output/objects.ts';
import type { Verb, VerbContext } from '../verb.ts';
import { type Explanation, type Forecast, forecast, tell, theOneToExplain } from './explanation.ts';

export const explain: Verb = {
  name: 'explain',
  summary: 'why a migration was or was not accelerated, and what to change',
  description:
    'Explains a migration, or the last one of a VM (the one under way, if there is one), and says what the next migration of that VM would be, by the rules of the operator.',
  words: 'VMI|MIGRATION',
  minWords: 1,
  maxWords: 1,
  flags: [],
  outputs: ['json', 'yaml'],
  without: ['all-namespaces', 'selector', 'no-headers'],
  examples: ['kubectl nasmig explain db', 'kubectl nasmig explain nam/move-db -o yaml'],
  completes: ['migrations', 'vmis'],
  async run(context) {
    const { output, terminal } = context;
    const explanation = await gather(context);
    terminal.write(
      output === 'json' || output === 'yaml'
        ? written(explanation, output)
        : `${lines(explanation, context).join('\n')}\n`,
    );
    return 'ok';
  },
};

async function gather({ api, defaultNamespace: namespace, words, now }: VerbContext): Promise<Explanation> {
  const reference = referenceOf(words[0] ?? '');
  const { objects, migrations } = await listMigrations(api, namespace, undefined);
  const found = migrationsOf(reference, migrations);
  const migration = theOneToExplain(found);
  if (migration === undefined && reference.kind === 'migration')
    throw new PluginError(
      'notFound',
      `there is no NasAwareMigration ${reference.name} in namespace ${namespace}`,
      'kubectl nasmig list shows what there is.',
    );
  const vmiName = migration?.spec.vmiName ?? reference.name;
  const vmi =
    migration === undefined
      ? await vmiNamed(api, namespace, vmiName)
      : readVmi(
          await orWhenForbidden(
            find(api.get<KubernetesObject>(resources.virtualMachineInstances, namespace, vmiName)),
            undefined,
          ),
        );
  const ofVm = newestFirst(migrations.filter(({ spec }) => spec.vmiName === vmiName));
  const explanation: Explanation = { namespace, vmi: vmiName };
  if (migration !== undefined) {
    explanation.migration = tell(migration);
    explanation.olderMigrations = ofVm.filter(
      ({ creationMs, uid }) => creationMs <= migration.creationMs && uid !== migration.uid,
    ).length;
  }
  if (vmi === undefined) return explanation;
  const [known, labels, pods, others, claims, kubeVirts, migrationPolicies, everywhere, installation] =
    await Promise.all([
      orWhenForbidden(policies(api), undefined),
      namespaceLabels(api),
      orWhenForbidden(launcherPods(api, namespace), undefined),
      kubevirtMigrations(api, namespace),
      claimsOf(api, [vmi]),
      orWhenForbidden(api.listAll<KubernetesObject>(resources.kubeVirts), undefined),
      orWhenForbidden(api.listAll<KubernetesObject>(resources.migrationPolicies), undefined),
      // The breaker of the cluster counts the failures of all namespaces.
      orWhenForbidden(listMigrations(api, undefined, undefined), { objects, migrations }),
      orWhenForbidden(installationOf(api, undefined), undefined),
    ]);
  const configuration =
    kubeVirts === undefined || migrationPolicies === undefined
      ? undefined
      : resolvedConfiguration(
          kubeVirts.flatMap((object) => readKubeVirt(object) ?? [])[0],
          migrationPolicies.flatMap((object) => readMigrationPolicy(object) ?? []),
          vmi,
          labelsOfNamespace(labels, namespace),
        );
  explanation.next = forecast({
    vmi,
    policy: known === undefined ? undefined : policyFor(vmi, known.readable, labels),
    policiesKnown: known !== undefined,
    others: others.filter(({ spec }) => spec.vmiName === vmiName),
    attempts: everywhere.objects.flatMap((object) => attemptOf(object) ?? []),
    pods: pods === undefined ? undefined : podsOfVmi(pods, vmi),
    configuration,
    unreadableClaims: claims.unreadable,
    driverOf: (claim) => claims.drivers.get(`${namespace}/${claim}`),
    sharedDrivers: sharedDriversOf(installation),
    nowMs: now(),
  });
  return explanation;
}

/** For the terminal. Pure. */
export function lines(
  { namespace, vmi, migration, olderMigrations, next }: Explanation,
  { terminal: { palette } }: Pick<VerbContext, 'terminal'>,
): string[] {
  const out: string[] = [];
  if (migration === undefined)
    out.push(`${palette.strong(`${namespace}/${vmi}`)}   no migration is recorded`);
  else {
    const mode =
      migration.accelerated === 'Yes'
        ? palette.good('accelerated')
        : migration.accelerated === 'No'
          ? palette.warning('not accelerated')
          : 'not decided yet';
    out.push(
      `${palette.strong(`${namespace}/${migration.name}`)}   VM ${vmi}   ${migration.phase}   ${mode}`,
      `  Reason   ${migration.reason}`,
      `  Why      ${migration.why}`,
      `  Change   ${migration.change}`,
      ...migration.facts.map((fact, at) => `  ${at === 0 ? 'Facts ' : '      '}   ${fact}`),
    );
    if ((olderMigrations ?? 0) > 0)
      out.push(`  (${olderMigrations} older: kubectl nasmig list -n ${namespace} --vmi ${vmi})`);
  }
  if (next === undefined)
    out.push('', `The VM ${vmi} is not running, so nothing can be said of a next migration.`);
  else out.push('', ...forecastLines(next, vmi));
  return out;
}

function forecastLines(next: Forecast, vmi: string): string[] {
  const verdict = {
    Accelerated: 'would be accelerated',
    Observed: 'would be observed only',
    Plain: 'would be plain',
    Refused: 'would be refused',
    Unknown: 'may be accelerated',
  }[next.verdict];
  return [
    `The next migration of ${vmi} ${verdict}${next.policy === undefined ? '' : ` (policy ${next.policy})`}.`,
    ...(next.reason === undefined ? [] : [`  Reason   ${next.reason}`]),
    `  Why      ${next.why}`,
    `  Change   ${next.change}`,
    ...(next.volumes.usable.length === 0 ? [] : [`  Volumes  ${next.volumes.usable.join(', ')}`]),
    ...next.volumes.refused.map(({ name, why }) => `  Not used ${name}: ${why}`),
  ];
}
