// A server that answers as a test says, and the plugin's client of it.
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { ClusterClient } from '../cluster/cluster-client.ts';
import { accessFrom } from '../cluster/kubeconfig.ts';
import { Flags } from '../command-line.ts';

export type Answer = (url: URL, request: IncomingMessage) => { status?: number; body: unknown } | undefined;

let server: Server | undefined;

/** A client of a server that answers as `answer` says: a value as JSON, a text as it is, undefined never. One at a time; close it. */
export async function clientOf(answer: Answer, given: Record<string, string[]> = {}): Promise<ClusterClient> {
  closeServer();
  const own = createServer((request, response) => {
    const told = answer(new URL(request.url ?? '', 'http://server'), request);
    if (told === undefined) return;
    response.statusCode = told.status ?? 200;
    response.end(typeof told.body === 'string' ? told.body : JSON.stringify(told.body));
  });
  server = own;
  await new Promise<void>((resolve) => own.listen(0, '127.0.0.1', resolve));
  const address = `http://127.0.0.1:${(own.address() as AddressInfo).port}`;
  const flags = new Flags(new Map(Object.entries({ server: [address], ...given })));
  return new ClusterClient(accessFrom(flags, { HOME: '/nowhere' }), 'kubectl-nasmig/test');
}

export function closeServer(): void {
  server?.closeAllConnections();
  server?.close();
  server = undefined;
}
