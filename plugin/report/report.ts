// `kubectl nasmig report`: what somebody needs to help, in one archive: our objects, KubeVirt's, the operator's, logs, and what
// `doctor` says. Secrets are never read; what may be one in what is read is left out (redact.ts). What could not be read is told
// in it.
import { writeFile } from 'node:fs/promises';
import type { KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { pathOf, type Resource, resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar, SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { deployments, installationOf, OPERATOR_NAME, operatorSelector } from '../cluster/installation.ts';
import { launcherPods } from '../cluster/vms.ts';
import { diagnose } from '../doctor/checks.ts';
import { lines as doctorLines } from '../doctor/doctor.ts';
import { gatherFacts } from '../doctor/facts.ts';
import { explainError, PluginError, UnreachableError } from '../errors.ts';
import type { Exit } from '../exit-codes.ts';
import { paletteFor } from '../output/colours.ts';
import { bytes } from '../output/sizes.ts';
import type { Verb, VerbContext } from '../verb.ts';
import { type ArchiveFile, archive } from './archive.ts';
import { redacted, redactedText } from './redact.ts';

const TAIL_LINES = '5000';
/** Logs of more pods are no more help, and hours of reading. */
const MAX_LOGS = 40;

const networkPolicies: Resource = {
  group: 'networking.k8s.io',
  version: 'v1',
  plural: 'networkpolicies',
  kind: 'NetworkPolicy',
  namespaced: true,
};
const replicaSets: Resource = {
  group: 'apps',
  version: 'v1',
  plural: 'replicasets',
  kind: 'ReplicaSet',
  namespaced: true,
};

export const report: Verb = {
  name: 'report',
  summary: 'write a support bundle: objects, logs, doctor; secrets left out',
  description:
    'Writes a .tar.gz with what somebody needs to help: NasAwareMigrations and policies, VMIs, KubeVirt migrations and settings, the operator, its log and those of sidecars, events, and what `doctor` says. ' +
    'Secrets are not read; passwords, tokens, keys and cloud-init data in what is read are left out. Names of VMs, nodes, namespaces and NAS servers stay: look through it before you give it away.',
  words: '',
  minWords: 0,
  maxWords: 0,
  flags: [
    {
      name: 'file',
      short: 'f',
      value: 'FILE',
      meaning: 'the archive to write, default nasmig-report-TIME.tar.gz here; - is standard output',
    },
    { name: 'no-logs', meaning: 'without logs' },
    {
      name: 'operator-namespace',
      value: 'NAMESPACE',
      meaning: 'where the operator is; else it is looked for by its labels',
    },
  ],
  outputs: [],
  without: ['selector', 'no-headers'],
  examples: [
    'kubectl nasmig report',
    'kubectl nasmig report -n shop -f shop.tar.gz',
    'kubectl nasmig report -f - | tar tz',
  ],
  run,
};

async function run(context: VerbContext): Promise<Exit> {
  const { flags, terminal, now, interrupted } = context;
  const nowMs = now();
  const stamp = new Date(nowMs)
    .toISOString()
    .replace(/[-:]/g, '')
    .replace(/\.\d+Z$/, 'Z');
  const folder = `nasmig-report-${stamp}`;
  const target = flags.text('file') ?? `${folder}.tar.gz`;
  const { files, problems } = await collect(context, nowMs);
  if (interrupted.aborted) return 'interrupted';
  const packed = archive(folder, files, nowMs);
  if (target === '-') {
    await new Promise<void>((resolve, reject) =>
      process.stdout.write(packed, (error) => (error == null ? resolve() : reject(error))),
    );
    return 'ok';
  }
  try {
    // Never over a file that is there; for its owner alone.
    await writeFile(target, packed, { flag: 'wx', mode: 0o600 });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new PluginError(
      code === 'EEXIST' ? 'usage' : 'failed',
      code === 'EEXIST' ? `${target} exists already` : `${target} cannot be written: ${message}`,
      'Name another file with -f.',
    );
  }
  terminal.write(`${target}   ${files.length} files, ${bytes(packed.length)}\n`);
  if (problems.length > 0)
    terminal.note(`${problems.length} parts could not be read; the archive says which (problems.txt).\n`);
  terminal.note(
    'Look through it before you give it away: names of VMs, nodes, namespaces and NAS servers are in it.\n',
  );
  return 'ok';
}

interface Collected {
  files: ArchiveFile[];
  problems: string[];
}

async function collect(
  { api, flags, namespace: where, now }: VerbContext,
  nowMs: number,
): Promise<Collected> {
  // As `doctor`: everything, unless a namespace is named.
  const namespace = flags.has('namespace') ? where : undefined;
  const files: ArchiveFile[] = [];
  const problems: string[] = [];
  const put = (path: string, value: unknown) =>
    files.push({ path, text: `${JSON.stringify(redacted(value), undefined, 2)}\n` });
  const part = async <T>(path: string, reading: () => Promise<T>): Promise<T | undefined> => {
    try {
      const value = await reading();
      if (value !== undefined) put(path, value);
      return value;
    } catch (error) {
      // Nobody answers: that is the end, not a part that is missing.
      if (error instanceof UnreachableError && files.length === 0) throw error;
      problems.push(`${path}: ${explainError(error).message.split('\n')[0]}`);
      return undefined;
    }
  };
  await part('kubernetes-version.json', () => api.call('GET', '/version'));
  const installation = await part('operator/installation.json', () =>
    installationOf(api, flags.text('operator-namespace')),
  );
  const operatorNamespace = installation?.namespace ?? flags.text('operator-namespace') ?? OPERATOR_NAME;
  const everywhere = (resource: Resource) => () => api.listAll<KubernetesObject>(resource, namespace);
  const cluster = (resource: Resource) => () => api.listAll<KubernetesObject>(resource);
  const ofOperator =
    (resource: Resource, query: Record<string, string> = {}) =>
    () =>
      api.listAll<KubernetesObject>(resource, operatorNamespace, query);
  await part('nasawaremigrations.json', everywhere(resources.nasAwareMigrations));
  await part('nasmigrationpolicies.json', cluster(resources.nasMigrationPolicies));
  await part('kubevirt/kubevirts.json', cluster(resources.kubeVirts));
  await part('kubevirt/migrationpolicies.json', cluster(resources.migrationPolicies));
  await part('kubevirt/virtualmachineinstances.json', everywhere(resources.virtualMachineInstances));
  await part(
    'kubevirt/virtualmachineinstancemigrations.json',
    everywhere(resources.virtualMachineInstanceMigrations),
  );
  const launchers = await part('kubevirt/virt-launcher-pods.json', () => launcherPods(api, namespace));
  await part('storage/persistentvolumeclaims.json', everywhere(resources.persistentVolumeClaims));
  await part('storage/persistentvolumes.json', cluster(resources.persistentVolumes));
  await part('networkpolicies.json', cluster(networkPolicies));
  await part('nodes.json', cluster(resources.nodes));
  const pods = await part('operator/pods.json', () =>
    api.listAll<V1Pod>(resources.pods, operatorNamespace, { labelSelector: operatorSelector }),
  );
  await part('operator/deployments.json', ofOperator(deployments));
  await part('operator/replicasets.json', ofOperator(replicaSets));
  await part('operator/services.json', ofOperator(resources.services));
  await part('operator/endpointslices.json', ofOperator(resources.endpointSlices));
  await part('operator/leases.json', ofOperator(resources.leases));
  await part('operator/events.json', ofOperator(resources.events));
  await part('events.json', everywhere(resources.events));
  await part('mutatingwebhookconfigurations.json', cluster(resources.mutatingWebhooks));
  await part('customresourcedefinitions.json', async () =>
    (await api.listAll<KubernetesObject>(resources.customResourceDefinitions)).filter(({ metadata }) =>
      /(nasmigration|kubevirt)\.io$/.test(metadata?.name ?? ''),
    ),
  );
  if (!flags.is('no-logs')) {
    const wanted = [
      ...(pods ?? []).map((pod) => ({ pod, container: 'operator' })),
      ...(launchers ?? []).filter(hasSidecar).map((pod) => ({ pod, container: SIDECAR_CONTAINER })),
    ];
    for (const { pod, container } of wanted.slice(0, MAX_LOGS)) {
      const { namespace: where = '', name = '' } = pod.metadata ?? {};
      const path = `logs/${where}/${name}/${container}.log`;
      try {
        const text = await api.text(pathOf(resources.pods, where, name, 'log'), {
          container,
          tailLines: TAIL_LINES,
          timestamps: 'true',
        });
        files.push({ path, text: redactedText(text) });
      } catch (error) {
        problems.push(`${path}: ${explainError(error).message.split('\n')[0]}`);
      }
    }
    if (wanted.length > MAX_LOGS)
      problems.push(
        `logs of ${wanted.length - MAX_LOGS} more pods: only ${MAX_LOGS} are taken; name a namespace with -n`,
      );
  }
  try {
    const findings = diagnose(
      await gatherFacts(api, { namespace, operatorNamespace: flags.text('operator-namespace') }, now()),
    );
    put('doctor.json', findings);
    const plain = { terminal: { palette: paletteFor(false, {}) } } as unknown as VerbContext;
    files.push({ path: 'doctor.txt', text: `${redactedText(doctorLines(findings, plain).join('\n'))}\n` });
  } catch (error) {
    problems.push(`doctor: ${explainError(error).message.split('\n')[0]}`);
  }
  files.unshift({ path: 'README.txt', text: readme(nowMs, namespace, problems.length) });
  if (problems.length > 0)
    files.push({ path: 'problems.txt', text: `${redactedText(problems.join('\n'))}\n` });
  return { files, problems };
}

function readme(nowMs: number, namespace: string | undefined, problems: number): string {
  return [
    'Support bundle of nas-aware-migration, made by kubectl nasmig report.',
    `Made ${new Date(nowMs).toISOString()}; ${namespace === undefined ? 'all namespaces' : `namespace ${namespace}`}.`,
    '',
    'Begin with doctor.txt, then nasawaremigrations.json (status.conditions, status.result), then logs/.',
    'Secrets were not read. Values that may be secret in what was read are "(left out)": tokens, passwords, keys, cloud-init data.',
    ...(problems === 0 ? [] : [`${problems} parts could not be read: problems.txt.`]),
    '',
  ].join('\n');
}
