// An HTTPS server that plays an API server in trouble, answer by answer, for tests of the client and of informers.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type RequestOptions, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { createAuthority, issueCertificate } from '../certificates/x509.ts';
import type { ApiAccess } from './api-access.ts';

export type Answer = (request: IncomingMessage, response: ServerResponse, body: string) => void;

const HOUR_MS = 3_600_000;
/** What its certificate is for, besides its address. */
export const CERTIFIED_NAME = 'api.example';
const authority = createAuthority('test', new Date(Date.now() - HOUR_MS), new Date(Date.now() + HOUR_MS));
const serving = issueCertificate(authority, {
  commonName: 'test',
  hosts: ['127.0.0.1', CERTIFIED_NAME],
  usages: ['server'],
  notBefore: new Date(Date.now() - HOUR_MS),
  notAfter: new Date(Date.now() + HOUR_MS),
});

export class TestApiServer {
  /** Method and path with query of every request, in order. */
  readonly requests: string[] = [];
  /** What is answered, in order; the last one again and again. */
  answers: Answer[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor() {
    this.#server = createServer({ key: serving.keyPem, cert: serving.certificatePem });
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    this.#server.on('request', (request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      request.on('end', () => {
        this.requests.push(`${request.method} ${request.url}`);
        const answer = this.answers.length > 1 ? this.answers.shift() : this.answers[0];
        answer?.(request, response, body);
      });
    });
  }

  static async start(): Promise<TestApiServer> {
    const server = new TestApiServer();
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** What its certificate chains to. */
  readonly caPem = authority.certificatePem;

  get access(): ApiAccess {
    const { port, caPem } = this;
    return {
      getCurrentCluster: () => ({ server: `https://127.0.0.1:${port}` }),
      applyToHTTPSOptions: async (options: RequestOptions) => {
        options.ca = caPem;
      },
    };
  }

  /** As a network that breaks: every connection at once. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** A JSON answer. */
export function json(status: number, value: unknown, headers: Record<string, string> = {}): Answer {
  return (_request, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value));
  };
}

/** A `Status` as the API server refuses with. */
export function refusal(status: number, reason: string, headers: Record<string, string> = {}): Answer {
  return json(status, { kind: 'Status', status: 'Failure', reason, message: `${reason} it is` }, headers);
}

/** A watch that tells these events; it stays open when `ends` is false. */
export function watch(events: readonly object[], ends = true): Answer {
  return (_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    for (const event of events) response.write(`${JSON.stringify(event)}\n`);
    if (ends) response.end();
    else response.flushHeaders();
  };
}
