// The Service of the operator's hub, as pods reach it: their node's gateway address and the Service's port, then a unix socket
// of the run, then the port on loopback of the replica that the Service selects. Cluster DNS is the pod's /etc/hosts. Nothing outside of the
// run's namespaces and of loopback gets here.

import { connect, createServer, type Server, type Socket } from 'node:net';
import { resolve } from 'node:path';
import type { LabNode } from '../lab/node.ts';
import { joinSockets } from './socket-relay.ts';

const GATEWAY = resolve(import.meta.dirname, 'hub-gateway.ts');
const READY_TIMEOUT_MS = 10_000;

export interface HubServiceOptions {
  readonly socketPath: string;
  readonly nodes: readonly LabNode[];
  readonly port: number;
  /** Asked for every connection, so that it may change with the leader. Undefined: the Service has no endpoint. */
  readonly leaderPort: () => Promise<number | undefined>;
}

export class HubService {
  readonly #server: Server;
  readonly #open = new Set<Socket>();

  private constructor({ leaderPort }: HubServiceOptions) {
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (pod) => {
      pod.on('error', () => pod.destroy());
      void leaderPort().then((port) => {
        if (port === undefined) pod.destroy();
        else joinSockets(pod, connect({ host: '127.0.0.1', port, allowHalfOpen: true }), this.#open);
      });
    });
  }

  static async start(options: HubServiceOptions): Promise<HubService> {
    const service = new HubService(options);
    await new Promise<void>((resolve, reject) => {
      service.#server.once('error', reject);
      service.#server.listen(options.socketPath, resolve);
    });
    for (const node of options.nodes) {
      const argv = [process.execPath, GATEWAY, String(options.port), options.socketPath];
      const gateway = await node.spawn({ name: 'hub-gateway', argv });
      await gateway.waitForOutput(/^listening$/m, READY_TIMEOUT_MS);
    }
    return service;
  }

  /** Breaks every connection, as when the operator's node is lost. Later ones are let in again. */
  breakConnections(): void {
    for (const socket of this.#open) socket.destroy();
  }

  async stop(): Promise<void> {
    this.breakConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
