// Where the API server is and who asks it: in a pod, what kubelet mounts and the environment says; elsewhere a kubeconfig. The
// library that reads kubeconfigs takes 80 MiB of memory, so it is loaded only where there is one.
import { readFile } from 'node:fs/promises';
import type { RequestOptions } from 'node:https';
import path from 'node:path';

/** What ApiClient needs; a KubeConfig of `@kubernetes/client-node` has it. */
export interface ApiAccess {
  getCurrentCluster(): { server: string; proxyUrl?: string | undefined } | null;
  /**
   * Adds CA, which name to expect and whether to verify at all, and credentials; called again from time to time, because they
   * rotate. Behind a proxy, the agent that goes through it, too.
   */
  applyToHTTPSOptions(options: RequestOptions): Promise<void>;
}

const SERVICE_ACCOUNT_DIRECTORY = '/var/run/secrets/kubernetes.io/serviceaccount';

/** The pod's own service account. */
export class PodAccess implements ApiAccess {
  readonly #server: string;
  readonly #directory: string;

  constructor(host: string, port: string, directory: string) {
    this.#server = `https://${host.includes(':') ? `[${host}]` : host}:${port}`;
    this.#directory = directory;
  }

  getCurrentCluster(): { server: string } {
    return { server: this.#server };
  }

  async applyToHTTPSOptions(options: RequestOptions): Promise<void> {
    const [token, ca] = await Promise.all([
      readFile(path.join(this.#directory, 'token'), 'utf8'),
      readFile(path.join(this.#directory, 'ca.crt'), 'utf8'),
    ]);
    options.ca = ca;
    options.headers = { ...options.headers, authorization: `Bearer ${token.trim()}` };
  }
}

/** KUBECONFIG when it is set, else the pod's account, else what kubectl would use. */
export async function apiAccessFrom(environment: NodeJS.ProcessEnv): Promise<ApiAccess> {
  const { KUBECONFIG, KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT } = environment;
  if ((KUBECONFIG ?? '') === '' && (KUBERNETES_SERVICE_HOST ?? '') !== '') {
    return new PodAccess(
      KUBERNETES_SERVICE_HOST ?? '',
      KUBERNETES_SERVICE_PORT ?? '443',
      environment['NASMIG_SERVICE_ACCOUNT_DIR'] ?? SERVICE_ACCOUNT_DIRECTORY,
    );
  }
  const { KubeConfig } = await import('@kubernetes/client-node');
  const config = new KubeConfig();
  config.loadFromDefault();
  return config;
}
