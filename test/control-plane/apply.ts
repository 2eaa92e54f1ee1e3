// Puts CustomResourceDefinitions on an API server and waits until they can be used.
import type { V1CustomResourceDefinition } from '@kubernetes/client-node';
import { customResourceDefinitions } from '../../crds/definitions.ts';
import type { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { kubevirtDefinitions } from './kubevirt-crds.ts';

const ESTABLISHED_TIMEOUT_MS = 30_000;

/** Our two CRDs and KubeVirt's, established. */
export async function installDefinitions(api: ApiClient): Promise<void> {
  const definitions = [...customResourceDefinitions().values(), ...kubevirtDefinitions()];
  await Promise.all(
    definitions.map((definition) => api.apply(resources.customResourceDefinitions, definition, 'test')),
  );
  await Promise.all(definitions.map((definition) => established(api, definition.metadata?.name ?? '')));
}

async function established(api: ApiClient, name: string): Promise<void> {
  const deadline = performance.now() + ESTABLISHED_TIMEOUT_MS;
  for (;;) {
    const found = await api.get<V1CustomResourceDefinition>(
      resources.customResourceDefinitions,
      undefined,
      name,
    );
    if (found.status?.conditions?.some(({ type, status }) => type === 'Established' && status === 'True'))
      return;
    if (performance.now() > deadline)
      throw new Error(`CustomResourceDefinition ${name} was not established in 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
