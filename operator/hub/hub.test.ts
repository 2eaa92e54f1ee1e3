// The hub and the sidecar's real client over real TLS; only the API server is played.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { WebSocket } from 'ws';
import { ControlClient } from '../../control/client.ts';
import { encodeSidecarMessage } from '../../control/codec.ts';
import { exampleArm, exampleHello, exampleResult } from '../../control/example-messages.ts';
import { HUB_PATH, MAX_MESSAGE_BYTES, SUBPROTOCOL } from '../../control/limits.ts';
import type { HubMessage } from '../../control/messages.ts';
import { createAuthority, issueCertificate } from '../certificates/x509.ts';
import type { Authenticator } from './authenticator.ts';
import { Hub, type HubListener, type HubOptions, helloMismatch, type Session } from './hub.ts';

const notBefore = new Date(Date.now() - 60_000);
const notAfter = new Date(Date.now() + 3_600_000);
const authority = createAuthority('test', notBefore, notAfter);
const certificate = issueCertificate(authority, {
  commonName: 'hub',
  hosts: ['127.0.0.1'],
  usages: ['server'],
  notBefore,
  notAfter,
});
const { pod } = exampleHello;
const identity = { namespace: pod.namespace, podName: pod.name, podUid: pod.uid };
const authenticator: Authenticator = {
  authenticate: (token) => Promise.resolve(token === 'good' ? { identity } : { refused: 'unknown token' }),
};

let hub: Hub;
let dir: string;
let listener: { [K in keyof HubListener]: ReturnType<typeof vi.fn<HubListener[K]>> };
let refused: string[];
const clients: ControlClient[] = [];

beforeEach(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'nasmig-hub-'));
  await writeFile(path.join(dir, 'ca.crt'), authority.certificatePem);
  await writeFile(path.join(dir, 'token'), 'good\n');
  listener = { onSession: vi.fn(), onMessage: vi.fn(), onSessionEnded: vi.fn() };
  refused = [];
  hub = await start({ maxConnections: 3 });
});

function start(options: Partial<HubOptions>): Promise<Hub> {
  return Hub.start({
    host: '127.0.0.1',
    port: 0,
    certificate,
    authenticator,
    listener,
    release: '0.1.0',
    epoch: 7,
    recorded: () => [],
    onRefused: (reason) => refused.push(reason),
    helloTimeoutMs: 1000,
    ...options,
  });
}

async function restart(options: Partial<HubOptions>): Promise<void> {
  await hub.stop();
  hub = await start(options);
}

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
  await hub.stop();
  await rm(dir, { recursive: true, force: true });
});

function client(hello = exampleHello) {
  const received: HubMessage[] = [];
  const problems: string[] = [];
  const made = new ControlClient({
    url: `wss://127.0.0.1:${hub.port}`,
    caFile: path.join(dir, 'ca.crt'),
    tokenFile: path.join(dir, 'token'),
    hello: () => hello,
    onMessage: (message) => received.push(message),
    onConnected: (connected, detail) => {
      if (!connected) problems.push(detail);
    },
    minBackoffMs: 5,
    maxBackoffMs: 20,
  });
  clients.push(made);
  made.start();
  return { client: made, received, problems };
}

function raw(token = 'good', target = HUB_PATH) {
  const socket = new WebSocket(`wss://127.0.0.1:${hub.port}${target}`, SUBPROTOCOL, {
    ca: authority.certificatePem,
    headers: { authorization: `Bearer ${token}` },
  });
  socket.on('error', () => {});
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  });
  return { socket, closed, open: new Promise<void>((resolve) => socket.on('open', () => resolve())) };
}

describe('hub', () => {
  it('welcomes a sidecar, and carries messages both ways', async () => {
    const { client: sidecar, received } = client();
    await vi.waitFor(() => expect(listener.onSession).toHaveBeenCalledOnce());
    const session = hub.sessionOf(identity.podUid) as Session;
    expect(session.identity).toEqual(identity);
    expect(listener.onSession).toHaveBeenCalledWith(session);
    session.send(exampleArm);
    await vi.waitFor(() => expect(received.map(({ type }) => type)).toEqual(['welcome', 'arm']));
    expect(sidecar.highestEpoch).toBe(7);
    sidecar.send({ type: 'armed', migrationUid: exampleArm.migrationUid, epoch: 7, role: 'source' });
    await vi.waitFor(() => expect(listener.onMessage).toHaveBeenCalledOnce());
    expect(listener.onMessage.mock.calls[0]?.[1]).toMatchObject({ type: 'armed' });
  });

  it('gets a result again until it is recorded, also over a new connection', async () => {
    const { client: sidecar } = client();
    await vi.waitFor(() => expect(sidecar.connected).toBe(true));
    sidecar.send(exampleResult);
    await vi.waitFor(() => expect(listener.onMessage).toHaveBeenCalledTimes(1));
    hub.sessionOf(identity.podUid)?.close('test');
    await vi.waitFor(() => expect(listener.onMessage).toHaveBeenCalledTimes(2));
    expect(sidecar.resultsRecorded).toBe(false);
    hub.sessionOf(identity.podUid)?.send({ type: 'recorded', migrationUid: exampleResult.migrationUid });
    await vi.waitFor(() => expect(sidecar.resultsRecorded).toBe(true));
  });

  it('refuses a token that is not good, and a path that is not ours', async () => {
    await raw('bad').closed;
    await raw('good', '/metrics').closed;
    expect(refused).toEqual(['token', 'path']);
    expect(listener.onSession).not.toHaveBeenCalled();
  });

  it('refuses a sidecar that speaks for another pod', async () => {
    const { socket, open, closed } = raw();
    await open;
    socket.send(encodeSidecarMessage({ ...exampleHello, pod: { ...pod, name: 'virt-launcher-other' } }));
    expect(await closed).toMatchObject({ code: 1008, reason: expect.stringContaining('another pod') });
    expect(listener.onSession).not.toHaveBeenCalled();
  });

  it.each([
    ['what is not JSON', '{{'],
    ['what breaks its schema', JSON.stringify({ type: 'armed', migrationUid: 'x' })],
    ['a second hello', JSON.stringify(exampleHello)],
  ])('closes a connection that sends %s', async (_what, text) => {
    const { socket, open, closed } = raw();
    await open;
    socket.send(JSON.stringify(exampleHello));
    socket.send(text);
    expect(await closed).toMatchObject({ code: 1008 });
  });

  it('closes a connection that sends too long a message', async () => {
    const { socket, open, closed } = raw();
    await open;
    socket.send(Buffer.alloc(MAX_MESSAGE_BYTES + 1, 0x20).toString());
    expect(await closed).toMatchObject({ code: 1009 });
  });

  it('closes a connection that sends too many messages', async () => {
    const { socket, open, closed } = raw();
    await open;
    socket.send(JSON.stringify(exampleHello));
    const stats = { type: 'stats', index: exampleHello.index, residentBytes: 1, cpuMilliseconds: 1 } as const;
    for (let sent = 0; sent < 150; sent += 1) socket.send(encodeSidecarMessage(stats));
    expect(await closed).toMatchObject({ code: 1008, reason: 'too many messages' });
  });

  it('keeps the later of two sessions of one pod', async () => {
    const first = raw();
    await first.open;
    first.socket.send(JSON.stringify(exampleHello));
    await vi.waitFor(() => expect(listener.onSession).toHaveBeenCalledTimes(1));
    const second = raw();
    await second.open;
    second.socket.send(JSON.stringify(exampleHello));
    expect(await first.closed).toMatchObject({ code: 4001 });
    expect(listener.onSessionEnded).toHaveBeenCalledOnce();
    expect(hub.sessionCount).toBe(1);
    second.socket.close();
    await second.closed;
  });

  it('closes a connection that never says hello, and one that says something else first', async () => {
    const silent = raw();
    await silent.open;
    expect(await silent.closed).toMatchObject({ code: 1008, reason: 'no hello' });
    const early = raw();
    await early.open;
    early.socket.send(encodeSidecarMessage(exampleResult));
    expect(await early.closed).toMatchObject({ code: 1008, reason: 'message before hello' });
    expect(refused).toEqual(['timeout', 'hello']);
    expect(listener.onMessage).not.toHaveBeenCalled();
  });

  it('takes no more connections than it is allowed', async () => {
    const three = [raw(), raw(), raw()];
    await Promise.all(three.map(({ open }) => open));
    await raw().closed;
    expect(refused).toEqual(['full']);
    for (const { socket } of three) socket.terminate();
  });
});

describe('what has not shown a good token', () => {
  function tcp() {
    const socket = connect(hub.port, '127.0.0.1');
    socket.on('error', () => {});
    return { socket, closed: new Promise((resolve) => socket.on('close', resolve)) };
  }

  it('holds no more slots than there are for it', async () => {
    await restart({ maxConnections: 1, maxUnfinished: 1 });
    const two = [tcp(), tcp()];
    await Promise.all(two.map(({ socket }) => new Promise((resolve) => socket.on('connect', resolve))));
    await tcp().closed;
    expect(refused).toEqual(['full']);
    for (const { socket } of two) socket.destroy();
  });

  it('has not more connections of one address under way than are allowed, and those that are through do not count', async () => {
    await restart({ addressBounds: { unfinished: 2 } });
    const sidecar = raw();
    await sidecar.open;
    const two = [tcp(), tcp()];
    await Promise.all(two.map(({ socket }) => new Promise((resolve) => socket.on('connect', resolve))));
    await tcp().closed;
    expect(refused).toEqual(['address']);
    for (const { socket } of two) socket.destroy();
    await vi.waitFor(opens);
    expect(sidecar.socket.readyState).toBe(WebSocket.OPEN);
    sidecar.socket.terminate();
  });

  it.each([
    ['with tokens that are not good', () => raw('bad').closed],
    [
      'without a TLS handshake',
      () => new Promise((resolve) => tcp().socket.on('close', resolve).end('GET / HTTP/1.1')),
    ],
  ])(
    'is closed before its handshake after too many failures %s, and may try again later',
    async (_what, fail) => {
      await restart({ addressBounds: { failureBurst: 3, failuresPerSecond: 1 } });
      for (let failed = 0; failed < 3; failed += 1) await fail();
      // The hub may see the end of the last one a moment later.
      await vi.waitFor(async () => {
        await raw('bad').closed;
        expect(refused.at(-1)).toBe('address');
      });
      await vi.waitFor(opens, { timeout: 5000 });
    },
  );

  /** Asks for an upgrade, and never ends its half of the connection. */
  async function halfOpen(token: string) {
    const socket = connectTls({
      socket: connect({ host: '127.0.0.1', port: hub.port, allowHalfOpen: true }),
      ca: authority.certificatePem,
      checkServerIdentity: () => undefined,
    });
    socket.on('error', () => {});
    await new Promise((resolve) => socket.on('secureConnect', resolve));
    const answered = new Promise<string>((resolve) => socket.once('data', (data) => resolve(String(data))));
    const lines = [
      `GET ${HUB_PATH} HTTP/1.1`,
      'Host: hub',
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
      `Authorization: Bearer ${token}`,
    ];
    socket.write(`${lines.join('\r\n')}\r\n\r\n`);
    return { socket, answer: (await answered).split('\r\n')[0] };
  }

  async function opens(): Promise<void> {
    const one = raw();
    await Promise.race([one.open, one.closed.then(() => Promise.reject(new Error('closed')))]);
    one.socket.terminate();
  }

  it.each([
    ['a token that is not good', 'bad', '401 Unauthorized'],
    ['no API server to ask', 'away', '503 Service Unavailable'],
  ])(
    'keeps no slot when it does not end its connection after a refusal: %s',
    async (_what, token, status) => {
      const sometimes: Authenticator = {
        authenticate: (asked) =>
          asked === 'away' ? Promise.reject(new Error('away')) : authenticator.authenticate(asked),
      };
      await restart({
        authenticator: sometimes,
        maxConnections: 1,
        maxUnfinished: 1,
        addressBounds: { unfinished: 2 },
      });
      const two = [await halfOpen(token), await halfOpen(token)];
      expect(two.map(({ answer }) => answer)).toEqual([`HTTP/1.1 ${status}`, `HTTP/1.1 ${status}`]);
      await vi.waitFor(opens);
      expect(two.map(({ socket }) => socket.destroyed)).toEqual([false, false]);
      for (const { socket } of two) socket.destroy();
    },
  );

  it('is not charged for a hub that is full or an API server that is away, nor for leaving before its answer', async () => {
    let isAway = true;
    let asked = 0;
    const unsteady: Authenticator = {
      authenticate: async (token) => {
        asked += 1;
        if (token === 'slow') await new Promise((resolve) => setTimeout(resolve, 50));
        if (isAway) throw new Error('away');
        return { identity };
      },
    };
    await restart({
      authenticator: unsteady,
      maxConnections: 1,
      addressBounds: { failureBurst: 1, failureDebt: 0, failuresPerSecond: 0.001 },
    });
    for (let attempt = 0; attempt < 5; attempt += 1) await raw().closed;
    const leaving = raw('slow');
    await vi.waitFor(() => expect(asked).toBe(6));
    leaving.socket.terminate();
    await leaving.closed;
    isAway = false;
    const sidecar = raw();
    await sidecar.open;
    for (let attempt = 0; attempt < 5; attempt += 1) await raw().closed;
    expect(new Set(refused)).toEqual(new Set(['unavailable', 'full']));
    sidecar.socket.terminate();
    await vi.waitFor(opens);
  });

  it('takes not all of the slots in which tokens are looked at', async () => {
    let waiting = 0;
    let answer: (refusal: { refused: string }) => void = () => {};
    const answered = new Promise<{ refused: string }>((resolve) => {
      answer = resolve;
    });
    const slow: Authenticator = {
      authenticate: () => {
        waiting += 1;
        return answered;
      },
    };
    await restart({ authenticator: slow, addressBounds: { authenticating: 2 } });
    const two = [raw('junk'), raw('junk')];
    await vi.waitFor(() => expect(waiting).toBe(2));
    await raw('junk').closed;
    expect([refused, waiting]).toEqual([['full'], 2]);
    answer({ refused: 'junk' });
    await Promise.all(two.map(({ closed }) => closed));
  });
});

describe('one pod', () => {
  it('has a few connections, of which the oldest give way, but not its session', async () => {
    await restart({});
    const sidecar = raw();
    await sidecar.open;
    sidecar.socket.send(JSON.stringify(exampleHello));
    await vi.waitFor(() => expect(listener.onSession).toHaveBeenCalledOnce());
    const more = [];
    for (let opened = 0; opened < 4; opened += 1) {
      const one = raw();
      await one.open;
      more.push(one);
    }
    await Promise.all(more.slice(0, 2).map(({ closed }) => closed));
    expect(refused).toEqual(['replaced', 'replaced']);
    expect([sidecar, ...more.slice(2)].map(({ socket }) => socket.readyState)).toEqual([1, 1, 1]);
    expect(listener.onSessionEnded).not.toHaveBeenCalled();
    for (const { socket } of [sidecar, ...more]) socket.terminate();
  });
});

describe('hello', () => {
  it('must name the pod, the UID and the namespace of the token', () => {
    expect(helloMismatch(exampleHello, identity)).toBeUndefined();
    expect(helloMismatch(exampleHello, { ...identity, podUid: 'x' })).toContain('UID');
    expect(helloMismatch(exampleHello, { ...identity, podName: 'x' })).toContain('pod');
    expect(helloMismatch(exampleHello, { ...identity, namespace: 'x' })).toContain('namespace');
  });
});
