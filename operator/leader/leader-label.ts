// The label by which the hub's Service finds the leader: on the leader's own pod while it leads, on no other. A pod that died
// as leader, or a container restarted in it, may still carry it; the next leader takes it away before it takes the label
// itself, and looks again now and then. Nothing depends on it but reachability: sidecars dial until somebody answers.
import type { V1Pod } from '@kubernetes/client-node';
import { type ApiClient, isNotFound } from '../kubernetes/api-client.ts';
import { pause } from '../kubernetes/informer.ts';
import { resources } from '../kubernetes/resources.ts';

export const LEADER_LABEL = 'nasmigration.io/leader';
export const LEADER_LABEL_VALUE = 'true';

/** How often the leader looks whether the label is where it belongs. */
const CHECK_MS = 60_000;
/** After a failure; the API server may be away for a moment. */
const RETRY_MS = 2000;
/** Taking the label off must not hold up the end of a term. */
const RELEASE_MS = 3000;

export interface LeaderLabelOptions {
  api: ApiClient;
  namespace: string;
  podName: string;
  onProblem: (problem: string) => void;
  checkMs?: number;
}

export class LeaderLabel {
  readonly #options: LeaderLabelOptions;

  constructor(options: LeaderLabelOptions) {
    this.#options = options;
  }

  /** Keeps the label on this pod alone until the signal is aborted, then takes it off. Never throws. */
  async hold(signal: AbortSignal): Promise<void> {
    const { checkMs = CHECK_MS, onProblem } = this.#options;
    while (!signal.aborted) {
      const settled = await this.settle(signal).then(
        () => true,
        (error: unknown) => {
          onProblem(`the leader's label could not be set: ${messageOf(error)}`);
          return false;
        },
      );
      await pause(settled ? checkMs : RETRY_MS, signal);
    }
    await this.release();
  }

  /** Once: off every other pod, on this one. */
  async settle(signal?: AbortSignal): Promise<void> {
    const { api, namespace, podName } = this.#options;
    const labelled = await api.list<V1Pod>(resources.pods, namespace, {
      labelSelector: `${LEADER_LABEL}=${LEADER_LABEL_VALUE}`,
    });
    const names = labelled.items.map(({ metadata }) => metadata?.name ?? '');
    for (const name of names) {
      if (name !== podName && name !== '') await this.#set(name, null);
    }
    if (!names.includes(podName) && signal?.aborted !== true) await this.#set(podName, LEADER_LABEL_VALUE);
  }

  /** Takes the label off this pod; also at a process's start, where an earlier container of the pod may have left it. */
  async release(): Promise<void> {
    const { podName, onProblem } = this.#options;
    const late = new Promise<void>((resolve) => setTimeout(resolve, RELEASE_MS).unref());
    const removed = this.#set(podName, null).catch((error: unknown) =>
      onProblem(`the leader's label could not be taken off: ${messageOf(error)}; the next leader does it`),
    );
    await Promise.race([removed, late]);
  }

  /** A pod that is not there (any longer) needs no label: outside of a cluster there is none. */
  async #set(name: string, value: string | null): Promise<void> {
    const { api, namespace } = this.#options;
    try {
      await api.mergePatch<V1Pod>(resources.pods, namespace, name, {
        metadata: { labels: { [LEADER_LABEL]: value } },
      });
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
