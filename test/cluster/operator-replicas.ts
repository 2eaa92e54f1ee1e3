// The operator's Deployment and Services as far as they matter to it: replicas with a Pod object each, the hub's Service that
// selects the one with the leader's label, and the webhook's Service in front of all that run.

import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { V1Pod } from '@kubernetes/client-node';
import { freePorts } from '../../hack/control-plane/free-ports.ts';
import { type ApiClient, isAlreadyExists } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { LEADER_LABEL, LEADER_LABEL_VALUE } from '../../operator/leader/leader-label.ts';
import { type OperatorCommand, OperatorProcess } from './operator-process.ts';
import { joinSockets } from './socket-relay.ts';

const HOST = '127.0.0.1';
/** Only the API server's object is needed: no kubelet has this node's name, so nobody touches the pod. */
const NO_NODE = 'control-plane';
/** Two are enough to hand over. */
const REPLICAS = 2;

export interface OperatorReplicasOptions {
  readonly api: ApiClient;
  readonly namespace: string;
  /** Logs are written here. */
  readonly dir: string;
  readonly environment: Readonly<Record<string, string>>;
  /** How a replica is run; from this repository unless said otherwise. */
  readonly command?: OperatorCommand;
}

interface Replica {
  readonly podName: string;
  readonly hubPort: number;
  readonly webhookPort: number;
  readonly process: OperatorProcess;
}

export class OperatorReplicas {
  readonly #options: OperatorReplicasOptions;
  readonly #replicas: readonly Replica[];
  readonly #webhook: Server;
  readonly #open = new Set<Socket>();
  #leaderPort: number | undefined;

  private constructor(options: OperatorReplicasOptions, replicas: readonly Replica[], webhook: Server) {
    this.#options = options;
    this.#replicas = replicas;
    this.#webhook = webhook;
    webhook.on('connection', (socket: Socket) => this.#toWebhook(socket));
  }

  /** Makes pods and Services; no replica runs yet. */
  static async make(options: OperatorReplicasOptions): Promise<OperatorReplicas> {
    const ports = await freePorts(1 + REPLICAS * 3);
    const [servicePort = 0] = ports;
    const webhook = createServer({ allowHalfOpen: true });
    await new Promise<void>((resolve, reject) => {
      webhook.once('error', reject);
      webhook.listen(servicePort, HOST, resolve);
    });
    const replicas: Replica[] = [];
    for (let number = 0; number < REPLICAS; number += 1) {
      const podName = `nas-aware-migration-${number}`;
      const [hubPort = 0, webhookPort = 0, metricsPort = 0] = ports.slice(1 + number * 3);
      await makePod(options, podName);
      const process = new OperatorProcess({
        environment: {
          ...options.environment,
          NASMIG_NAMESPACE: options.namespace,
          NASMIG_POD_NAME: podName,
          NASMIG_LISTEN_HOST: HOST,
          NASMIG_HUB_PORT: String(hubPort),
          NASMIG_WEBHOOK_PORT: String(webhookPort),
          NASMIG_WEBHOOK_URL: `https://${HOST}:${servicePort}`,
          NASMIG_METRICS_PORT: String(metricsPort),
        },
        logPath: join(options.dir, number === 0 ? 'operator.log' : `operator-${number}.log`),
        metricsPort,
        ...(options.command === undefined ? {} : { command: options.command }),
      });
      replicas.push({ podName, hubPort, webhookPort, process });
    }
    return new OperatorReplicas(options, replicas, webhook);
  }

  get logPaths(): readonly string[] {
    return this.#replicas.map(({ process }) => process.logPath);
  }

  /** Of every replica, also of those that do not run. */
  get metricsPorts(): readonly number[] {
    return this.#replicas.map(({ process }) => process.metricsPort);
  }

  get runningCount(): number {
    return this.#replicas.filter(({ process }) => process.running).length;
  }

  /** Starts so many replicas that `count` run. With one, it leads when this resolves; of more, one does. */
  async start(count: number, environment: Readonly<Record<string, string>> = {}): Promise<void> {
    for (const { process } of this.#replicas) {
      if (this.runningCount < count && !process.running) await process.start(environment);
    }
    await Promise.any(
      this.#replicas.filter(({ process }) => process.running).map(({ process }) => process.waitForLeading()),
    );
  }

  /** Stops every replica, or the one that leads. */
  async stop(which: 'all' | 'leader', signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const leader = which === 'leader' ? await this.leader() : undefined;
    if (which === 'leader' && leader === undefined) throw new Error('no replica has the leader’s label');
    const victims = this.#replicas.filter(({ podName }) => which === 'all' || podName === leader);
    await Promise.all(victims.map(({ process }) => process.stop(signal)));
  }

  async close(): Promise<void> {
    await this.stop('all');
    for (const socket of this.#open) socket.destroy();
    await new Promise<void>((resolve) => this.#webhook.close(() => resolve()));
  }

  /** The name of the pod that the hub's Service selects. */
  async leader(): Promise<string | undefined> {
    const { items } = await this.#options.api.list<V1Pod>(resources.pods, this.#options.namespace, {
      labelSelector: `${LEADER_LABEL}=${LEADER_LABEL_VALUE}`,
    });
    return items[0]?.metadata?.name;
  }

  /** Where the hub's Service leads. As endpoints do, it stays what it was while the API server is away. */
  async leaderPort(): Promise<number | undefined> {
    const leader = await this.leader().catch(() => null);
    if (leader !== null) this.#leaderPort = this.#replicas.find(({ podName }) => podName === leader)?.hubPort;
    return this.#leaderPort;
  }

  async log(): Promise<string> {
    const logs = await Promise.all(this.#replicas.map(({ process }) => process.log()));
    return logs.join('');
  }

  /** Of all replicas that run. */
  async metrics(): Promise<string> {
    const running = this.#replicas.filter(({ process }) => process.running);
    return (await Promise.all(running.map(({ process }) => process.metrics()))).join('');
  }

  #toWebhook(socket: Socket): void {
    const replica = this.#replicas.find(({ process }) => process.running);
    if (replica === undefined) socket.destroy();
    else
      joinSockets(
        socket,
        connect({ host: HOST, port: replica.webhookPort, allowHalfOpen: true }),
        this.#open,
      );
  }
}

async function makePod({ api, namespace }: OperatorReplicasOptions, name: string): Promise<void> {
  await api
    .create<V1Pod>(resources.pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace, name },
      spec: { nodeName: NO_NODE, containers: [{ name: 'operator', image: 'lab.example/operator:current' }] },
    })
    .catch((error: unknown) => {
      if (!isAlreadyExists(error)) throw error;
    });
}
