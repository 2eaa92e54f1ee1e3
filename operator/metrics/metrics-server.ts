// Plain HTTP for the cluster's own eyes: /metrics, /healthz (the process answers), /readyz (caches are filled, and it is not ending).
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';

export class MetricsServer {
  readonly #server: Server;

  private constructor(registry: Registry, isReady: () => boolean) {
    this.#server = createServer((request, response) => {
      switch (request.url) {
        case '/metrics':
          void registry.metrics().then((text) => {
            response.writeHead(200, { 'content-type': registry.contentType }).end(text);
          });
          return;
        case '/healthz':
          response.writeHead(200).end('ok');
          return;
        case '/readyz':
          response
            .writeHead(isReady() ? 200 : 503)
            .end(isReady() ? 'ok' : 'caches are not filled, or it was told to end');
          return;
        default:
          response.writeHead(404).end();
      }
    });
    this.#server.requestTimeout = 10_000;
  }

  static async start(
    host: string,
    port: number,
    registry: Registry,
    isReady: () => boolean,
  ): Promise<MetricsServer> {
    const server = new MetricsServer(registry, isReady);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', reject);
      server.#server.listen(port, host, resolve);
    });
    return server;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}
