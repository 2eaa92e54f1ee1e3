// An API client that speaks as KubeVirt's controller: the user whose pods our webhook looks at. The account itself is made by
// KubevirtActor.start().

import { KubeConfig } from '@kubernetes/client-node';
import type { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { KUBEVIRT_USER } from '../control-plane/kubevirt-actor.ts';

const TOKEN_SECONDS = 36_000;

export async function kubevirtController(plane: ControlPlane, admin: ApiClient): Promise<ApiClient> {
  const [, , namespace = '', name = ''] = KUBEVIRT_USER.split(':');
  const answer = await admin.call<{ status: { token: string } }>(
    'POST',
    pathOf(resources.serviceAccounts, namespace, name, 'token'),
    {
      body: {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenRequest',
        spec: { expirationSeconds: TOKEN_SECONDS },
      },
    },
  );
  const config = new KubeConfig();
  config.loadFromString(plane.kubeconfigFor(name, answer.status.token));
  return new ApiClient(config, { userAgent: 'virt-controller' });
}
