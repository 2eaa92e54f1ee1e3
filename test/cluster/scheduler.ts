// Stand-in for kube-scheduler: binds a pod to the first node that its node selector and its required anti-affinity allow. A
// pod that fits nowhere stays Pending with the condition that KubeVirt and people look at.

import type { V1Node, V1Pod } from '@kubernetes/client-node';
import { type ApiClient, isConflict, isNotFound } from '../../operator/kubernetes/api-client.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { keyOf, pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { WorkQueue } from '../../operator/kubernetes/work-queue.ts';

const RETRY_MS = 500;

export class Scheduler {
  readonly #api: ApiClient;
  readonly #unbound: Informer<V1Pod>;
  readonly #queue: WorkQueue;

  constructor(api: ApiClient, onProblem: (problem: string) => void) {
    this.#api = api;
    this.#unbound = new Informer<V1Pod>(api, resources.pods, { fieldSelector: 'spec.nodeName=', onProblem });
    this.#queue = new WorkQueue({
      work: (key) => this.#schedule(key),
      // One at a time: two pods that exclude each other must not be placed together.
      workers: 1,
      minBackoffMs: 100,
      maxBackoffMs: 2000,
      onFailure: (key, error) => onProblem(`scheduling ${key}: ${String(error)}`),
    });
    this.#unbound.onChange(({ current }) => {
      if (current !== undefined) this.#queue.add(keyOf(current));
    });
  }

  async start(): Promise<void> {
    this.#unbound.start();
    await this.#unbound.synced;
  }

  async stop(): Promise<void> {
    await this.#unbound.stop();
    await this.#queue.stop();
  }

  async #schedule(key: string): Promise<number | undefined> {
    const pod = this.#unbound.get(key);
    if (pod === undefined || pod.metadata?.deletionTimestamp !== undefined) return undefined;
    const { namespace, name = '' } = pod.metadata ?? {};
    const [nodes, pods] = await Promise.all([
      this.#api.list<V1Node>(resources.nodes),
      this.#api.list<V1Pod>(resources.pods, namespace),
    ]);
    const node = nodes.items.find((candidate) => fits(pod, candidate, pods.items));
    try {
      if (node === undefined) {
        await this.#markUnschedulable(pod);
        return RETRY_MS;
      }
      await this.#api.call('POST', pathOf(resources.pods, namespace, name, 'binding'), {
        body: {
          apiVersion: 'v1',
          kind: 'Binding',
          metadata: { namespace, name },
          target: { apiVersion: 'v1', kind: 'Node', name: node.metadata?.name },
        },
      });
    } catch (error) {
      // Bound or gone in the meantime.
      if (!isConflict(error) && !isNotFound(error)) throw error;
    }
    return undefined;
  }

  async #markUnschedulable(pod: V1Pod): Promise<void> {
    const { namespace, name = '' } = pod.metadata ?? {};
    if (pod.status?.conditions?.some(({ reason }) => reason === 'Unschedulable') === true) return;
    const condition = {
      ...{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable' },
      message: 'no node fits its selector, its anti-affinity and the nodes that take pods',
      lastTransitionTime: new Date().toISOString().replace(/\.\d+Z$/, 'Z'),
    };
    await this.#api.mergePatch(
      resources.pods,
      namespace,
      name,
      { status: { conditions: [condition] } },
      'status',
    );
  }
}

/** Whether the pod may run on the node, by node selector, cordon and required anti-affinity by host. */
export function fits(pod: V1Pod, node: V1Node, others: readonly V1Pod[]): boolean {
  if (node.spec?.unschedulable === true) return false;
  const nodeLabels = node.metadata?.labels ?? {};
  const selector = Object.entries(pod.spec?.nodeSelector ?? {});
  if (!selector.every(([name, value]) => nodeLabels[name] === value)) return false;
  const terms = pod.spec?.affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
  return !others.some(
    (other) =>
      other.spec?.nodeName === node.metadata?.name &&
      other.metadata?.uid !== pod.metadata?.uid &&
      other.status?.phase !== 'Succeeded' &&
      other.status?.phase !== 'Failed' &&
      terms.some(({ labelSelector }) =>
        Object.entries(labelSelector?.matchLabels ?? {}).every(
          ([name, value]) => other.metadata?.labels?.[name] === value,
        ),
      ),
  );
}
