// Keeps the CA ConfigMap in every namespace that has a VM under a policy that injects: soon after the VM is seen, again when the
// CA changes, and from time to time, for somebody may have changed or deleted it. Pods mount it as optional, so it may also
// come after them.
import type { Logger } from 'pino';
import type { Caches } from '../controller/caches.ts';
import { readPolicy, selectPolicy } from '../controller/policies.ts';
import type { ApiClient } from '../kubernetes/api-client.ts';
import { isNotFound } from '../kubernetes/api-client.ts';
import { WorkQueue } from '../kubernetes/work-queue.ts';
import { publishAuthority } from './registration.ts';

export class AuthorityPublisher {
  readonly #options: {
    api: ApiClient;
    caches: Caches;
    log: Logger;
    configMap: string;
    bundlePem: () => string;
  };
  readonly #queue: WorkQueue;
  readonly #published = new Map<string, string>();
  readonly #subscriptions: (() => void)[];

  constructor(options: {
    api: ApiClient;
    caches: Caches;
    log: Logger;
    configMap: string;
    bundlePem: () => string;
  }) {
    this.#options = options;
    this.#queue = new WorkQueue({
      work: (namespace) => this.#publish(namespace),
      workers: 2,
      minBackoffMs: 100,
      maxBackoffMs: 30_000,
      onFailure: (namespace, error) =>
        options.log.warn({ namespace, err: error }, 'the CA could not be published'),
    });
    const { vmis, policies } = options.caches;
    this.#subscriptions = [
      vmis.onChange(({ current }) => {
        const namespace = current?.metadata?.namespace;
        if (namespace !== undefined && this.#published.get(namespace) !== options.bundlePem())
          this.#queue.add(namespace);
      }),
      policies.onChange(() => this.publishAll()),
    ];
  }

  /** Every namespace with a VM that has not got the current CA. */
  publishAll(): void {
    for (const vmi of this.#options.caches.vmis.values()) {
      const namespace = vmi.metadata?.namespace ?? '';
      if (this.#published.get(namespace) !== this.#options.bundlePem()) this.#queue.add(namespace);
    }
  }

  /** Every namespace with a VM, whatever was published there before. */
  verifyAll(): void {
    this.#published.clear();
    this.publishAll();
  }

  async stop(): Promise<void> {
    for (const unsubscribe of this.#subscriptions) unsubscribe();
    await this.#queue.stop();
  }

  async #publish(namespace: string): Promise<undefined> {
    const { api, configMap, bundlePem } = this.#options;
    const bundle = bundlePem();
    if (this.#published.get(namespace) === bundle || !this.#isWanted(namespace)) return;
    try {
      await publishAuthority(api, namespace, configMap, bundle);
      this.#published.set(namespace, bundle);
    } catch (error) {
      // The namespace is gone, or going.
      if (!isNotFound(error)) throw error;
    }
  }

  #isWanted(namespace: string): boolean {
    const { vmis, policies, namespaces } = this.#options.caches;
    const labels = namespaces.get(namespace)?.metadata?.labels ?? {};
    const read = [...policies.values()].flatMap((policy) => readPolicy(policy) ?? []);
    for (const vmi of vmis.values()) {
      if (vmi.metadata?.namespace !== namespace) continue;
      if (selectPolicy(read, vmi.metadata.labels ?? {}, labels)?.policy.spec.injection === 'Enabled')
        return true;
    }
    return false;
  }
}
