// The HTTPS endpoint that the API server calls for pods. Bounded in body size and time; an answer that cannot be made is a plain
// "allowed", because failing would keep VMs from starting.

import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { checked } from '../../control/checked.ts';
import type { KeyAndCertificate } from '../certificates/x509.ts';
import { type AdmissionContext, type AdmissionDecision, admissionReviewSchema, admit } from './admission.ts';

export const INJECTION_PATH = '/inject';
/** An AdmissionReview carries one pod; etcd's limit for an object is 1.5 MiB. */
const MAX_BODY_BYTES = 3 * 1024 * 1024;

export interface WebhookServerOptions {
  host: string;
  port: number;
  certificate: KeyAndCertificate;
  context: AdmissionContext;
  onDecision: (decision: AdmissionDecision | 'Malformed', seconds: number) => void;
}

export class WebhookServer {
  readonly #options: WebhookServerOptions;
  readonly #server: Server;

  private constructor(options: WebhookServerOptions) {
    this.#options = options;
    this.#server = createServer({
      key: options.certificate.keyPem,
      cert: options.certificate.certificatePem,
      minVersion: 'TLSv1.2',
    });
    this.#server.headersTimeout = 5000;
    this.#server.requestTimeout = 10_000;
    this.#server.on('tlsClientError', () => {});
    this.#server.on('request', (request, response) => void this.#onRequest(request, response));
  }

  static async start(options: WebhookServerOptions): Promise<WebhookServer> {
    const server = new WebhookServer(options);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', reject);
      server.#server.listen(options.port, options.host, resolve);
    });
    return server;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  useCertificate(certificate: KeyAndCertificate): void {
    this.#server.setSecureContext({
      key: certificate.keyPem,
      cert: certificate.certificatePem,
      minVersion: 'TLSv1.2',
    });
  }

  async stop(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    setTimeout(() => this.#server.closeAllConnections(), 1000).unref();
    await closed;
  }

  async #onRequest(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const startedAt = performance.now();
    const path = (request.url ?? '').split('?')[0];
    if (path !== INJECTION_PATH || request.method !== 'POST') {
      response.writeHead(404).end();
      return;
    }
    const body = await readBody(request);
    const review = body === undefined ? undefined : checked(admissionReviewSchema, parseJson(body));
    const seconds = () => (performance.now() - startedAt) / 1000;
    if (review?.success !== true) {
      this.#options.onDecision('Malformed', seconds());
      response.writeHead(400).end();
      return;
    }
    const { answer, decision } = admit(review.data, this.#options.context);
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
    this.#options.onDecision(decision, seconds());
  }
}

async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of request) {
      bytes += (chunk as Buffer).length;
      if (bytes > MAX_BODY_BYTES) return undefined;
      chunks.push(chunk as Buffer);
    }
  } catch {
    return undefined;
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
