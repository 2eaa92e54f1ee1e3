// What a kubeconfig says of the way to the API server: whether and for which name its certificate is verified, a proxy, plain HTTP.
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { type Cluster, KubeConfig } from '@kubernetes/client-node';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createAuthority } from '../certificates/x509.ts';
import { ApiClient, ApiUnreachableError } from './api-client.ts';
import { resources } from './resources.ts';
import { CERTIFIED_NAME, json, TestApiServer } from './test-api-server.ts';

let server: TestApiServer;
const open: { close(): unknown }[] = [];

beforeEach(async () => {
  server = await TestApiServer.start();
  server.answers = [json(200, { kind: 'Pod' })];
});

afterEach(async () => {
  for (const one of open.splice(0)) one.close();
  await server.stop();
});

function get(cluster: Partial<Cluster>, user: object = { token: 't' }): Promise<unknown> {
  const config = new KubeConfig();
  config.loadFromOptions({
    clusters: [
      {
        name: 'c',
        server: `https://127.0.0.1:${server.port}`,
        caData: Buffer.from(server.caPem).toString('base64'),
        skipTLSVerify: false,
        ...cluster,
      },
    ],
    users: [{ name: 'u', ...user }],
    contexts: [{ name: 'x', cluster: 'c', user: 'u' }],
    currentContext: 'x',
  });
  const api = new ApiClient(config, { userAgent: 'test' });
  open.push(api);
  return api.get(resources.pods, 'shop', 'x');
}

async function listening(own: Server): Promise<number> {
  await new Promise<void>((resolve) => own.listen(0, '127.0.0.1', resolve));
  open.push({ close: () => own.close() }, { close: () => own.closeAllConnections() });
  return (own.address() as AddressInfo).port;
}

describe('a kubeconfig', () => {
  it('is obeyed about the CA', async () => {
    expect(await get({})).toEqual({ kind: 'Pod' });
    const other = createAuthority('other', new Date(Date.now() - 60_000), new Date(Date.now() + 60_000));
    const caData = Buffer.from(other.certificatePem).toString('base64');
    await expect(get({ caData })).rejects.toBeInstanceOf(ApiUnreachableError);
  });

  it('can ask for no verification', async () => {
    const unknown = { caData: '' };
    await expect(get(unknown)).rejects.toBeInstanceOf(ApiUnreachableError);
    expect(await get({ ...unknown, skipTLSVerify: true })).toEqual({ kind: 'Pod' });
  });

  it('can name whom the certificate must be for', async () => {
    const elsewhere = { server: `https://localhost:${server.port}` };
    await expect(get(elsewhere)).rejects.toThrow(/localhost/);
    expect(await get({ ...elsewhere, tlsServerName: CERTIFIED_NAME })).toEqual({ kind: 'Pod' });
    await expect(get({ tlsServerName: 'other.example' })).rejects.toThrow(/other\.example/);
  });

  it('can name a proxy, which then carries every request', async () => {
    const asked: (string | undefined)[] = [];
    const proxy = createServer();
    proxy.on('connect', (request: IncomingMessage, client: Socket, head: Buffer) => {
      asked.push(request.url);
      const there = connect(server.port, '127.0.0.1', () => {
        client.write('HTTP/1.1 200 OK\r\n\r\n');
        there.write(head);
        client.pipe(there).pipe(client);
      });
      there.on('error', () => client.destroy());
      client.on('error', () => there.destroy());
    });
    const proxyUrl = `http://127.0.0.1:${await listening(proxy)}`;
    expect(await get({ proxyUrl })).toEqual({ kind: 'Pod' });
    expect(asked).toEqual([`127.0.0.1:${server.port}`]);
  });

  it('can name a server without TLS, when it also says that nothing is verified', async () => {
    const headers: IncomingMessage['headers'][] = [];
    const plain = createServer((request, response) => {
      headers.push(request.headers);
      response.end('{"kind":"Pod"}');
    });
    const cluster = { server: `http://127.0.0.1:${await listening(plain)}`, caData: '' };
    expect(await get({ ...cluster, skipTLSVerify: true }, { username: 'a', password: 'b' })).toEqual({
      kind: 'Pod',
    });
    expect(headers[0]?.authorization).toBe(`Basic ${Buffer.from('a:b').toString('base64')}`);
    await expect(get(cluster)).rejects.toThrow(/HTTP protocol is not allowed/);
  });
});
