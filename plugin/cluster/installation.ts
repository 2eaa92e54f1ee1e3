// Where nas-aware-migration's operator runs, and with which settings: found by its labels, in whatever namespace it is.
import type { V1Container, V1Deployment } from '@kubernetes/client-node';
import { defaultSharedFileSystemDrivers } from '../../operator/controller/volumes.ts';
import type { Resource } from '../../operator/kubernetes/resources.ts';
import { isForbidden } from '../errors.ts';
import type { ClusterClient } from './cluster-client.ts';
import { find } from './migrations.ts';

/** The Deployment, and the operator's Lease and MutatingWebhookConfiguration: all have the same name (operator/operator.ts). */
export const OPERATOR_NAME = 'nas-aware-migration';
/** The chart's labels of the operator's pods. */
export const operatorLabels = {
  'app.kubernetes.io/name': OPERATOR_NAME,
  'app.kubernetes.io/component': 'operator',
} as const;
export const operatorSelector = Object.entries(operatorLabels)
  .map(([key, value]) => `${key}=${value}`)
  .join(',');

export const deployments: Resource = {
  group: 'apps',
  version: 'v1',
  plural: 'deployments',
  kind: 'Deployment',
  namespaced: true,
};

export interface Installation {
  namespace: string;
  deployment: V1Deployment;
  /** The settings of its environment that are plain values. */
  environment: Readonly<Record<string, string>>;
}

/** Undefined when there is none that may be seen. `namespace`: where it is, when that is known. */
export async function installationOf(
  api: ClusterClient,
  namespace: string | undefined,
): Promise<Installation | undefined> {
  const deployment = await findDeployment(api, namespace);
  if (deployment === undefined) return undefined;
  const container: V1Container | undefined = deployment.spec?.template.spec?.containers[0];
  return {
    namespace: deployment.metadata?.namespace ?? '',
    deployment,
    environment: Object.fromEntries(
      (container?.env ?? []).flatMap(({ name, value }) => (value === undefined ? [] : [[name, value]])),
    ),
  };
}

async function findDeployment(
  api: ClusterClient,
  namespace: string | undefined,
): Promise<V1Deployment | undefined> {
  if (namespace !== undefined) return find(api.get<V1Deployment>(deployments, namespace, OPERATOR_NAME));
  try {
    const [first] = await api.listAll<V1Deployment>(deployments, undefined, {
      labelSelector: operatorSelector,
    });
    if (first !== undefined) return first;
    // The Deployment of older charts has only the name label.
    const [older] = await api.listAll<V1Deployment>(deployments, undefined, {
      labelSelector: `app.kubernetes.io/name=${OPERATOR_NAME}`,
    });
    return older;
  } catch (error) {
    // Who may not list all namespaces may see the one that the documentation installs into.
    if (!isForbidden(error)) throw error;
    return find(api.get<V1Deployment>(deployments, OPERATOR_NAME, OPERATOR_NAME));
  }
}

/** The drivers whose volumes count as shared: the operator's own list, unless it was given another. */
export function sharedDriversOf(installation: Installation | undefined): ReadonlySet<string> {
  const set = installation?.environment['NASMIG_SHARED_DRIVERS'];
  const list = (set ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  return new Set(list.length === 0 ? defaultSharedFileSystemDrivers : list);
}
