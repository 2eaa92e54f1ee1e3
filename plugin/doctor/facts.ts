// What `doctor` looks at, read once: each part either known, or the reason why it is not (no right, no such kind, no answer).
import type {
  KubernetesObject,
  V1EndpointSlice,
  V1Lease,
  V1MutatingWebhookConfiguration,
  V1NetworkPolicy,
  V1Pod,
} from '@kubernetes/client-node';
import type { PolicyObject } from '../../operator/controller/policies.ts';
import { pathOf, type Resource, resources } from '../../operator/kubernetes/resources.ts';
import type { Vmi } from '../../operator/kubevirt/objects.ts';
import type { ClusterClient } from '../cluster/cluster-client.ts';
import {
  type Installation,
  installationOf,
  OPERATOR_NAME,
  operatorSelector,
} from '../cluster/installation.ts';
import {
  type KubeVirt,
  type MigrationPolicy,
  readKubeVirt,
  readMigrationPolicy,
} from '../cluster/kubevirt-settings.ts';
import type { MigrationObject } from '../cluster/migration.ts';
import { find } from '../cluster/migrations.ts';
import { type Claims, claimsOf, launcherPods, namespaceLabels, policies, vmisIn } from '../cluster/vms.ts';
import { explainError, isUnknownKind, UnreachableError } from '../errors.ts';

export type Known<T> =
  | { known: true; value: T }
  /** `missing`: the API server has no such kind. */
  | { known: false; missing: boolean; why: string };

export interface Facts {
  kubernetesVersion: Known<{ major: string; minor: string; gitVersion: string }>;
  kubeVirts: Known<KubeVirt[]>;
  migrationPolicies: Known<MigrationPolicy[]>;
  policies: Known<PolicyObject[]>;
  migrations: Known<MigrationObject[]>;
  installation: Known<Installation | undefined>;
  operatorPods: Known<V1Pod[]>;
  lease: Known<V1Lease | undefined>;
  hubEndpoints: Known<V1EndpointSlice[]>;
  webhook: Known<V1MutatingWebhookConfiguration | undefined>;
  vmis: Known<Vmi[]>;
  launcherPods: Known<V1Pod[]>;
  /** The only namespace of these VMs and pods; undefined: those of all. */
  namespace: string | undefined;
  claims: Known<Claims>;
  namespaceLabels: ReadonlyMap<string, Record<string, string>>;
  networkPolicies: Known<V1NetworkPolicy[]>;
  /** Sidecars that are connected, as the operator's metrics say. */
  connectedSidecars: Known<number>;
  nowMs: number;
}

const networkPolicies: Resource = {
  group: 'networking.k8s.io',
  version: 'v1',
  plural: 'networkpolicies',
  kind: 'NetworkPolicy',
  namespaced: true,
};
const METRICS_PORT = 8080;
/** For the operator's metrics through the API server, which a NetworkPolicy may keep from it. */
const PROXY_TIMEOUT_MS = 5000;

export interface Where {
  /** Only VMs of this namespace; undefined: all. */
  namespace: string | undefined;
  operatorNamespace: string | undefined;
}

/** Throws {@link UnreachableError} when the API server does not answer at all. */
export async function gatherFacts(api: ClusterClient, where: Where, nowMs: number): Promise<Facts> {
  // First alone: an API server that does not answer is one error, not fifteen.
  const kubernetesVersion = await known(
    api.call<{ major: string; minor: string; gitVersion: string }>('GET', '/version'),
  );
  const installation = await known(installationOf(api, where.operatorNamespace));
  const operatorNamespace =
    (installation.known ? installation.value?.namespace : undefined) ??
    where.operatorNamespace ??
    OPERATOR_NAME;
  const vmis = await known(vmisIn(api, where.namespace));
  const [
    kubeVirts,
    migrationPolicies,
    ownPolicies,
    migrations,
    operatorPods,
    lease,
    hubEndpoints,
    webhook,
    pods,
    claims,
    labels,
    netPolicies,
  ] = await Promise.all([
    known(
      api
        .listAll<KubernetesObject>(resources.kubeVirts)
        .then((objects) => objects.flatMap((object) => readKubeVirt(object) ?? [])),
    ),
    known(
      api
        .listAll<KubernetesObject>(resources.migrationPolicies)
        .then((objects) => objects.flatMap((object) => readMigrationPolicy(object) ?? [])),
    ),
    known(policies(api).then(({ objects }) => objects)),
    known(api.listAll<MigrationObject>(resources.nasAwareMigrations)),
    known(api.listAll<V1Pod>(resources.pods, operatorNamespace, { labelSelector: operatorSelector })),
    known(find(api.get<V1Lease>(resources.leases, operatorNamespace, OPERATOR_NAME))),
    known(
      api.listAll<V1EndpointSlice>(resources.endpointSlices, operatorNamespace, {
        labelSelector: `kubernetes.io/service-name=${OPERATOR_NAME}-hub`,
      }),
    ),
    known(
      find(api.get<V1MutatingWebhookConfiguration>(resources.mutatingWebhooks, undefined, OPERATOR_NAME)),
    ),
    known(launcherPods(api, where.namespace)),
    known(claimsOf(api, vmis.known ? vmis.value : [])),
    namespaceLabels(api),
    known(api.listAll<V1NetworkPolicy>(networkPolicies)),
  ]);
  return {
    kubernetesVersion,
    kubeVirts,
    migrationPolicies,
    policies: ownPolicies,
    migrations,
    installation,
    operatorPods,
    lease,
    hubEndpoints,
    webhook,
    vmis,
    launcherPods: pods,
    namespace: where.namespace,
    claims,
    namespaceLabels: labels,
    networkPolicies: netPolicies,
    connectedSidecars: await known(connectedSidecars(api, operatorPods)),
    nowMs,
  };
}

async function known<T>(reading: Promise<T>): Promise<Known<T>> {
  try {
    return { known: true, value: await reading };
  } catch (error) {
    if (error instanceof UnreachableError) throw error;
    return {
      known: false,
      missing: isUnknownKind(error),
      why: explainError(error).message.split('\n')[0] ?? '',
    };
  }
}

/** Through the API server's proxy to the leader's pod: nothing else outside the cluster knows it. */
async function connectedSidecars(api: ClusterClient, pods: Known<V1Pod[]>): Promise<number> {
  if (!pods.known) throw new Error(pods.why);
  const leader = pods.value.find(({ metadata }) => metadata?.labels?.['nasmigration.io/leader'] === 'true');
  if (leader === undefined) throw new Error('no operator pod leads');
  const { namespace = '', name = '' } = leader.metadata ?? {};
  const path = `${pathOf(resources.pods, namespace)}/${name}:${METRICS_PORT}/proxy/metrics`;
  try {
    return sidecarsIn(await api.text(path, {}, PROXY_TIMEOUT_MS));
  } catch (error) {
    // The API server has answered before: it is the pod that does not, and no reason to end here.
    if (!(error instanceof UnreachableError)) throw error;
    throw new Error(`the API server had no answer from pod ${name}: ${error.why}`);
  }
}

/** The value of `nasmig_hub_connections`. */
export function sidecarsIn(metrics: string): number {
  const match = /^nasmig_hub_connections (\d+)/m.exec(metrics);
  if (match === null) throw new Error('the operator has no metric nasmig_hub_connections');
  return Number(match[1]);
}
