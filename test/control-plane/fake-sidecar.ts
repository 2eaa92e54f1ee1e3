// A sidecar for tests of the operator: the real client, the real arming state machine, a real token of its pod; only sockets and
// streams are played. It "takes" a socket at once and streams when told to.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { V1Pod } from '@kubernetes/client-node';
import { ControlClient } from '../../control/client.ts';
import { exampleHello, exampleResult } from '../../control/example-messages.ts';
import { TOKEN_AUDIENCE } from '../../control/limits.ts';
import type { Hello, HubMessage, Result, SidecarVolume } from '../../control/messages.ts';
import type { Reason } from '../../control/reasons.ts';
import {
  type ArmingEvent,
  type ArmingState,
  idle,
  nextTickMs,
  stepArming,
} from '../../control/sidecar-arming.ts';
import type { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { controllingVmi } from '../../operator/kubevirt/launcher-pod.ts';

export interface FakeSidecarOptions {
  api: ApiClient;
  pod: V1Pod;
  hubUrl: string;
  caPem: string;
  volumes?: SidecarVolume[];
  /** What else HELLO says otherwise. */
  hello?: Partial<Pick<Hello, 'link' | 'index' | 'accepts'>>;
  /** Instead of taking the socket: what it says. */
  declines?: Reason;
  /** Of its token, when it is not ours. */
  audience?: string;
  /** The pod that HELLO names, when it is not its own. */
  claims?: V1Pod;
}

export class FakeSidecar {
  readonly received: HubMessage[] = [];
  /** Why connections were lost or refused. */
  readonly problems: string[] = [];
  readonly client: ControlClient;
  readonly #options: FakeSidecarOptions;
  readonly #dir: string;
  #state: ArmingState = idle;
  #timer: NodeJS.Timeout | undefined;
  framed = false;
  rawReason: Reason | undefined;

  private constructor(options: FakeSidecarOptions, dir: string) {
    this.#options = options;
    this.#dir = dir;
    const vmi = controllingVmi(options.pod);
    const { namespace = '', name = '', uid = '' } = (options.claims ?? options.pod).metadata ?? {};
    this.client = new ControlClient({
      url: options.hubUrl,
      caFile: path.join(dir, 'ca.crt'),
      tokenFile: path.join(dir, 'token'),
      hello: () => ({
        ...exampleHello,
        ...options.hello,
        pod: { namespace, name, uid },
        vmi: { name: vmi?.name ?? 'unknown', uid: vmi?.uid ?? uid },
        volumes: options.volumes ?? exampleHello.volumes,
        migrations:
          'order' in this.#state
            ? [
                {
                  migrationUid: this.#state.order.migrationUid,
                  epoch: this.#state.order.epoch,
                  role: this.#state.order.role,
                  phase: this.#state.phase,
                },
              ]
            : [],
      }),
      onMessage: (message) => this.#onMessage(message),
      onConnected: (connected, detail) => {
        if (!connected) this.problems.push(detail);
      },
      minBackoffMs: 20,
      maxBackoffMs: 200,
    });
  }

  /** Connects with a token that is bound to the pod, as kubelet projects it. */
  static async start(options: FakeSidecarOptions): Promise<FakeSidecar> {
    const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-sidecar-'));
    await writeFile(path.join(dir, 'token'), await boundToken(options.api, options.pod, options.audience));
    await writeFile(path.join(dir, 'ca.crt'), options.caPem);
    const sidecar = new FakeSidecar(options, dir);
    sidecar.client.start();
    return sidecar;
  }

  get state(): ArmingState {
    return this.#state;
  }

  /** QEMU's (source) or the proxy's (target) first connection comes. */
  connect(): void {
    this.#step({ type: 'connection', nowMs: performance.now() });
  }

  /** The stream ended: tells the result of the migration it is in. */
  finish(change: Partial<Result> = {}): void {
    if (!('order' in this.#state)) return;
    const { migrationUid, epoch, role } = this.#state.order;
    const outcome = this.framed ? 'accelerated' : 'raw';
    this.client.send({
      ...exampleResult,
      migrationUid,
      epoch,
      role,
      outcome,
      ...(this.rawReason === undefined ? {} : { reason: this.rawReason }),
      ...change,
    });
    this.#step({ type: 'ended' });
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    await this.client.close();
    await rm(this.#dir, { recursive: true, force: true });
  }

  #onMessage(message: HubMessage): void {
    this.received.push(message);
    switch (message.type) {
      case 'arm': {
        const { type: _type, ...order } = message;
        this.#step({ type: 'arm', order });
        return;
      }
      case 'go':
      case 'disarm':
        this.#step(message);
        return;
      case 'welcome':
      case 'configure':
      case 'recorded':
        return;
    }
  }

  #step(event: ArmingEvent): void {
    const { state, effects } = stepArming(this.#state, event, this.client.highestEpoch);
    this.#state = state;
    for (const effect of effects) {
      switch (effect.type) {
        case 'send':
          this.client.send(effect.message);
          break;
        case 'takeSocket': {
          const { declines } = this.#options;
          setImmediate(() =>
            this.#step(
              declines === undefined ? { type: 'socketTaken' } : { type: 'declined', reason: declines },
            ),
          );
          break;
        }
        case 'startFramed':
          this.framed = true;
          break;
        case 'startRaw':
          this.rawReason = effect.reason;
          break;
        case 'restoreSocket':
          break;
      }
    }
    clearTimeout(this.#timer);
    const at = nextTickMs(this.#state);
    if (at !== undefined) {
      this.#timer = setTimeout(
        () => this.#step({ type: 'tick', nowMs: performance.now() }),
        Math.max(0, at - performance.now()),
      );
    }
  }
}

/** TokenRequest for the pod's service account, bound to the pod, for our audience. */
export async function boundToken(api: ApiClient, pod: V1Pod, audience = TOKEN_AUDIENCE): Promise<string> {
  const { namespace = '', name = '', uid = '' } = pod.metadata ?? {};
  const account = pod.spec?.serviceAccountName ?? 'default';
  const answer = await api.call<{ status: { token: string } }>(
    'POST',
    pathOf(resources.serviceAccounts, namespace, account, 'token'),
    {
      body: {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenRequest',
        spec: {
          audiences: [audience],
          expirationSeconds: 600,
          boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name, uid },
        },
      },
    },
  );
  return answer.status.token;
}
