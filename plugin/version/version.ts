// `kubectl nasmig version`: the plugin's release, the operator's and KubeVirt's.
import type { KubernetesObject } from '@kubernetes/client-node';
import { resources } from '../../operator/kubernetes/resources.ts';
import { installationOf } from '../cluster/installation.ts';
import { readKubeVirt } from '../cluster/kubevirt-settings.ts';
import { explainError, UnreachableError } from '../errors.ts';
import { written } from '../output/objects.ts';
import type { Verb } from '../verb.ts';
import { RELEASE } from './release.ts';

export const version: Verb = {
  name: 'version',
  summary: 'the releases of this plugin, of the operator and of KubeVirt',
  description: 'Says which release this plugin is, and which are in the cluster.',
  words: '',
  minWords: 0,
  maxWords: 0,
  flags: [{ name: 'client', meaning: 'only this plugin; asks no cluster' }],
  outputs: ['json', 'yaml'],
  without: ['all-namespaces', 'selector', 'no-headers'],
  examples: ['kubectl nasmig version', 'kubectl nasmig version --client'],
  async run(context) {
    const { flags, output, terminal } = context;
    const releases: Record<string, string> = { plugin: RELEASE };
    if (!flags.is('client')) {
      const ask = async (what: string, reading: () => Promise<string | undefined>) => {
        try {
          releases[what] = (await reading()) ?? 'not installed';
        } catch (error) {
          if (error instanceof UnreachableError) throw error;
          const { exit, message } = explainError(error);
          releases[what] = exit === 'notInstalled' ? 'not installed' : `unknown (${message.split('\n')[0]})`;
        }
      };
      await ask(
        'operator',
        async () => (await installationOf(context.api, undefined))?.environment['NASMIG_RELEASE'],
      );
      await ask('kubevirt', async () => {
        const [one] = await context.api.listAll<KubernetesObject>(resources.kubeVirts);
        return one === undefined
          ? undefined
          : (readKubeVirt(one)?.status.observedKubeVirtVersion ?? 'unknown');
      });
    }
    if (output === 'json' || output === 'yaml') terminal.write(written(releases, output));
    else
      terminal.write(
        Object.entries(releases)
          .map(([what, release]) => `${what}: ${release}\n`)
          .join(''),
      );
    return 'ok';
  },
};
