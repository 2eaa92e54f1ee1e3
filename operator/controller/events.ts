// Events on our object and on the VMI, so that `kubectl describe` of either tells the story. An event that cannot be written is
// logged, never retried: the conditions say the same.
import { randomBytes } from 'node:crypto';
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

export class EventRecorder {
  readonly #api: ApiClient;
  readonly #onProblem: (problem: string) => void;

  constructor(api: ApiClient, onProblem: (problem: string) => void) {
    this.#api = api;
    this.#onProblem = onProblem;
  }

  async record(subjects: readonly EventSubject[], { severity, reason, message }: EventText): Promise<void> {
    const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
    await Promise.all(
      subjects.map(async (subject) => {
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
        try {
          await this.#api.create(resources.events, event);
        } catch (error) {
          this.#onProblem(error instanceof Error ? error.message : String(error));
        }
      }),
    );
  }
}
