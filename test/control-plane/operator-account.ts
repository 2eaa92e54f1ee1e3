// A service account with exactly the rights of operator/permissions.ts, and a KubeConfig that speaks as it.
import { KubeConfig } from '@kubernetes/client-node';
import type { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { type ApiClient, contentTypes, isAlreadyExists } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { clusterRules, namespaceRules } from '../../operator/permissions.ts';

const NAME = 'nas-aware-migration';
const RBAC = 'rbac.authorization.k8s.io';

export async function operatorAccount(
  plane: ControlPlane,
  api: ApiClient,
  namespace: string,
): Promise<{ config: KubeConfig; kubeconfig: string }> {
  await api
    .create(resources.serviceAccounts, {
      apiVersion: 'v1',
      kind: 'ServiceAccount',
      metadata: { namespace, name: NAME },
    })
    .catch((error: unknown) => {
      if (!isAlreadyExists(error)) throw error;
    });
  const subjects = [{ kind: 'ServiceAccount', namespace, name: NAME }];
  const put = (path: string, body: object) =>
    api.call('PATCH', path, {
      query: { fieldManager: 'test', force: 'true' },
      contentType: contentTypes.apply,
      body,
    });
  const cluster = `/apis/${RBAC}/v1`;
  const own = `${cluster}/namespaces/${namespace}`;
  const meta = { apiVersion: `${RBAC}/v1`, metadata: { name: NAME } };
  await put(`${cluster}/clusterroles/${NAME}`, { ...meta, kind: 'ClusterRole', rules: clusterRules });
  await put(`${cluster}/clusterrolebindings/${NAME}`, {
    ...meta,
    kind: 'ClusterRoleBinding',
    subjects,
    roleRef: { apiGroup: RBAC, kind: 'ClusterRole', name: NAME },
  });
  await put(`${own}/roles/${NAME}`, { ...meta, kind: 'Role', rules: namespaceRules });
  await put(`${own}/rolebindings/${NAME}`, {
    ...meta,
    kind: 'RoleBinding',
    subjects,
    roleRef: { apiGroup: RBAC, kind: 'Role', name: NAME },
  });
  const token = await api.call<{ status: { token: string } }>(
    'POST',
    pathOf(resources.serviceAccounts, namespace, NAME, 'token'),
    {
      body: {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenRequest',
        spec: { expirationSeconds: 36_000 },
      },
    },
  );
  const kubeconfig = plane.kubeconfigFor(NAME, token.status.token);
  const config = new KubeConfig();
  config.loadFromString(kubeconfig);
  return { config, kubeconfig };
}
