// The MutatingWebhookConfiguration and the CA ConfigMap of each namespace, kept as they should be: written by server-side apply,
// with the current CA bundle. Failure policy Ignore and a short time-out: VMs start also when we are away.
import type { V1ConfigMap, V1MutatingWebhookConfiguration } from '@kubernetes/client-node';
import { type ApiClient, isNotFound } from '../kubernetes/api-client.ts';
import { apiVersionOf, resources } from '../kubernetes/resources.ts';
import { launcherLabels } from '../kubevirt/objects.ts';
import { INJECTION_PATH } from './webhook-server.ts';

const FIELD_MANAGER = 'nas-aware-migration-injection';
const WEBHOOK_TIMEOUT_SECONDS = 3;

/** Where the API server reaches the webhook: a Service in a cluster, a URL in tests. */
export type WebhookAddress = { service: { namespace: string; name: string; port: number } } | { url: string };

export interface RegistrationOptions {
  name: string;
  address: WebhookAddress;
  bundlePem: string;
  /** The operator's own namespace is never injected into. */
  ownNamespace: string;
}

export function webhookConfiguration(options: RegistrationOptions): V1MutatingWebhookConfiguration {
  const { address, bundlePem } = options;
  const clientConfig =
    'service' in address
      ? { service: { ...address.service, path: INJECTION_PATH } }
      : { url: new URL(INJECTION_PATH, address.url).href };
  return {
    apiVersion: apiVersionOf(resources.mutatingWebhooks),
    kind: resources.mutatingWebhooks.kind,
    metadata: { name: options.name },
    webhooks: [
      {
        name: 'sidecar.nasmigration.io',
        clientConfig: { ...clientConfig, caBundle: Buffer.from(bundlePem).toString('base64') },
        rules: [
          {
            apiGroups: [''],
            apiVersions: ['v1'],
            operations: ['CREATE'],
            resources: ['pods'],
            scope: 'Namespaced',
          },
        ],
        objectSelector: { matchLabels: { [launcherLabels.app]: launcherLabels.launcher } },
        namespaceSelector: {
          matchExpressions: [
            {
              key: 'kubernetes.io/metadata.name',
              operator: 'NotIn',
              values: [options.ownNamespace, 'kube-system'],
            },
          ],
        },
        failurePolicy: 'Ignore',
        matchPolicy: 'Equivalent',
        reinvocationPolicy: 'IfNeeded',
        sideEffects: 'None',
        timeoutSeconds: WEBHOOK_TIMEOUT_SECONDS,
        admissionReviewVersions: ['v1'],
      },
    ],
  };
}

export async function register(api: ApiClient, options: RegistrationOptions): Promise<void> {
  await api.apply(resources.mutatingWebhooks, webhookConfiguration(options), FIELD_MANAGER);
}

/** Nobody is asked any more: what an operator with injection left would name a port on which nobody listens. */
export async function unregister(api: ApiClient, name: string): Promise<void> {
  try {
    await api.mergePatch(resources.mutatingWebhooks, undefined, name, { webhooks: [] });
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
}

/** The ConfigMap that injected pods mount. */
export async function publishAuthority(
  api: ApiClient,
  namespace: string,
  name: string,
  bundlePem: string,
): Promise<void> {
  const configMap: V1ConfigMap = {
    metadata: { namespace, name, labels: { 'app.kubernetes.io/managed-by': 'nas-aware-migration' } },
    data: { 'ca.crt': bundlePem },
  };
  await api.apply(resources.configMaps, configMap, FIELD_MANAGER);
}
