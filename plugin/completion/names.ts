// Names for completion, from the cluster and the kubeconfig, asked with little patience.
import type { KubernetesObject } from '@kubernetes/client-node';
import { isFinished } from '../../operator/controller/decide.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { ClusterClient } from '../cluster/cluster-client.ts';
import { accessFrom, kubeconfigOf } from '../cluster/kubeconfig.ts';
import { listMigrations, newestFirst } from '../cluster/migrations.ts';
import { policies, vmiNames } from '../cluster/vms.ts';
import type { Flags } from '../command-line.ts';
import { RELEASE } from '../version/release.ts';
import type { Candidate, Names } from './answer.ts';

/** A person waits for it between two keys. */
const PATIENCE_MS = 3000;
export const shells = ['bash', 'zsh', 'fish', 'kubectl'] as const;

export async function namesOf(
  which: Names,
  flags: Flags,
  environment: NodeJS.ProcessEnv,
): Promise<Candidate[]> {
  if (which === 'shells') return shells.map((text) => ({ text }));
  try {
    const plain = (names: readonly string[]) => names.map((text) => ({ text }));
    if (which === 'contexts' || which === 'clusters' || which === 'users') {
      const config = kubeconfigOf(flags, environment);
      const entries = {
        contexts: config.getContexts(),
        clusters: config.getClusters(),
        users: config.getUsers(),
      };
      return plain(entries[which].map(({ name }) => name));
    }
    const access = accessFrom(flags, environment);
    const { namespace } = access;
    const api = new ClusterClient({ ...access, requestTimeoutMs: PATIENCE_MS }, `kubectl-nasmig/${RELEASE}`);
    switch (which) {
      case 'vmis':
        return plain(await vmiNames(api, namespace));
      case 'policies':
        return (await policies(api)).objects.map(({ metadata }) => ({ text: metadata?.name ?? '' }));
      case 'namespaces': {
        const all = await api.listAll<KubernetesObject>(resources.namespaces);
        return all.map(({ metadata }) => ({ text: metadata?.name ?? '' }));
      }
      case 'migrations':
      case 'unfinished': {
        const { migrations } = await listMigrations(api, namespace, undefined);
        return newestFirst(migrations)
          .filter(({ status }) => which === 'migrations' || !isFinished(status))
          .map(({ name, spec, status }) => ({
            text: name,
            description: `${spec.vmiName}, ${status.phase ?? 'Pending'}`,
          }));
      }
    }
  } catch {
    // A line is being written: errors are told when it is run.
    return [];
  }
}
