// Events on our object and on the VMI, so that `kubectl describe` of either tells the story. An event that cannot be written is
// logged, never retried: the conditions say the same.
import { randomBytes } from 'node:crypto';
import type { KubernetesObject } from '@kubernetes/client-node';
import type { ApiClient } from '../kubernetes/api-client.ts';
import { resources } from '../kubernetes/resources.ts';

export interface EventSubject {
  apiVersion: string;
  kind: string;
  namespace: string;
  name: string;
  uid: string;
}

export interface EventText {
  severity: 'Normal' | 'Warning';
  reason: string;
  message: string;
}

const COMPONENT = 'nas-aware-migration';
/** The API server refuses longer messages. */
const MAX_EVENT_MESSAGE_LENGTH = 1024;

/** Events of a thousand migrations at once; what is beyond is not written, and said. */
const MAX_WAITING = 4000;
/** Writers at a time: events tell people, and wait for what moves VMs. */
const WRITERS = 2;
/** What is left over after it, when the operator stops, is not written. */
const STOP_TIMEOUT_MS = 2000;

/** Takes an event at once and writes it later: no reconcile waits for it. */
export class EventRecorder {
  readonly #api: ApiClient;
  readonly #onProblem: (problem: string) => void;
  readonly #waiting: KubernetesObject[] = [];
  readonly #writers = new Set<Promise<void>>();

  constructor(api: ApiClient, onProblem: (problem: string) => void) {
    this.#api = api;
    this.#onProblem = onProblem;
  }

  record(subjects: readonly EventSubject[], text: EventText): void {
    for (const subject of subjects) {
      if (this.#waiting.length >= MAX_WAITING) {
        this.#onProblem(`${MAX_WAITING} events wait already: ${text.reason} of ${subject.name} is left out`);
        return;
      }
      this.#waiting.push(eventOf(subject, text));
    }
    while (this.#writers.size < WRITERS && this.#writers.size < this.#waiting.length) {
      const writer = this.#write();
      this.#writers.add(writer);
      void writer.finally(() => this.#writers.delete(writer));
    }
  }

  /** Writes what waits; bounded. */
  async stop(): Promise<void> {
    const timer = setTimeout(() => {
      this.#waiting.length = 0;
    }, STOP_TIMEOUT_MS);
    await Promise.all(this.#writers);
    clearTimeout(timer);
  }

  async #write(): Promise<void> {
    for (let event = this.#waiting.shift(); event !== undefined; event = this.#waiting.shift()) {
      try {
        await this.#api.create(resources.events, event);
      } catch (error) {
        this.#onProblem(error instanceof Error ? error.message : String(error));
      }
    }
  }
}

function eventOf(subject: EventSubject, { severity, reason, message }: EventText): KubernetesObject {
  const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
  const event = {
    apiVersion: 'v1',
    kind: 'Event',
    metadata: {
      namespace: subject.namespace,
      name: `${subject.name.slice(0, 200)}.${randomBytes(8).toString('hex')}`,
    },
    involvedObject: subject,
    type: severity,
    reason: reason.slice(0, 128),
    message: message.slice(0, MAX_EVENT_MESSAGE_LENGTH),
    source: { component: COMPONENT },
    firstTimestamp: now,
    lastTimestamp: now,
    count: 1,
  };
  return event;
}
