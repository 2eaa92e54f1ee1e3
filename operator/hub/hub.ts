// The TLS endpoint that sidecars dial: authenticates before the upgrade, bounds connections, message size and rate, checks
// HELLO against the token's pod, and hands checked messages on. It knows pods, not migrations: who may be armed for what is
// decided by its listener. A malformed message closes that connection with a reason. See docs/control-protocol.md.
import type { IncomingMessage } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import { decodeSidecarMessage, encodeHubMessage } from '../../control/codec.ts';
import {
  HEARTBEAT_INTERVAL_MS,
  HELLO_TIMEOUT_MS,
  HUB_PATH,
  MAX_MESSAGE_BYTES,
  SUBPROTOCOL,
} from '../../control/limits.ts';
import type { Hello, HubMessage, SidecarMessage } from '../../control/messages.ts';
import type { KeyAndCertificate } from '../certificates/x509.ts';
import { type AddressBounds, AddressLimits } from './address-limits.ts';
import type { Authenticator, PodIdentity } from './authenticator.ts';
import { RateLimit } from './rate-limit.ts';

/** A sidecar that is who it says, with its latest HELLO. */
export interface Session {
  readonly identity: PodIdentity;
  readonly hello: Hello;
  /** False when the connection is gone or too slow; the sidecar says HELLO again and is told again. */
  send(message: HubMessage): boolean;
  close(reason: string): void;
}

export interface HubListener {
  /** HELLO was checked and `welcome` sent. A pod has at most one session: a later one replaces the earlier. */
  onSession(session: Session): void;
  onMessage(session: Session, message: Exclude<SidecarMessage, Hello>): void;
  onSessionEnded(session: Session): void;
}

export interface HubOptions {
  host: string;
  /** 0: any free port. */
  port: number;
  certificate: KeyAndCertificate;
  authenticator: Authenticator;
  listener: HubListener;
  release: string;
  /** The leader's epoch, told in `welcome`. */
  epoch: number;
  /** UIDs of those of the sidecar's migrations whose results are already stored. */
  recorded: (hello: Hello) => string[];
  onRefused?: (reason: HubRefusal, detail: string) => void;
  maxConnections?: number;
  /** Connections beyond those, that are not through yet. */
  maxUnfinished?: number;
  /** Other than {@link ADDRESS_BOUNDS} in tests. */
  addressBounds?: Partial<AddressBounds>;
  /** Shorter in tests. */
  helloTimeoutMs?: number;
}

/** Why a connection was refused or closed; the label of a metric. */
export type HubRefusal =
  | 'path'
  | 'full'
  | 'address'
  | 'token'
  | 'unavailable'
  | 'hello'
  | 'message'
  | 'rate'
  | 'timeout'
  | 'replaced';

const DEFAULT_MAX_CONNECTIONS = 10_000;
/** Token reviews and TLS handshakes under way at a time: a thousand sidecars reconnecting must not flood the API server. */
const MAX_AUTHENTICATING = 64;
/** In the TLS handshake, or without a request yet: each is closed after ten seconds. */
const DEFAULT_MAX_UNFINISHED = 4096;
/** A thousand sidecars may come back at once from one address, one that has none may not take every slot. */
export const ADDRESS_BOUNDS: AddressBounds = {
  unfinished: 1024,
  authenticating: (MAX_AUTHENTICATING * 3) / 4,
  failuresPerSecond: 5,
  failureBurst: 100,
  failureDebt: 100,
};
/** A peer that does not take its refusal in this time is cut off. */
const REFUSAL_MS = 1000;
/** The one in use, one that died without a word, and one that comes in its place. */
const MAX_CONNECTIONS_OF_POD = 3;
/** Messages of one sidecar: one progress a second, stats and state; ten times that is a fault. */
const MESSAGES_PER_SECOND = 20;
const MESSAGE_BURST = 100;
/** Waiting bytes of one connection beyond which its reader is considered dead. */
const MAX_BUFFERED_BYTES = 1024 * 1024;
/** WebSocket close codes (RFC 6455, 7.4.1; 4000 and up are ours). */
const CLOSE_POLICY = 1008;
const CLOSE_GOING_AWAY = 1001;
const CLOSE_REPLACED = 4001;

export class Hub {
  readonly #options: HubOptions;
  readonly #server: Server;
  readonly #sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
    clientTracking: true,
    handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
  });
  readonly #sessions = new Map<string, HubSession>();
  /** Connections of each pod, the oldest first. */
  readonly #connections = new Map<string, Set<WebSocket>>();
  readonly #addresses: AddressLimits;
  #authenticating = 0;
  #heartbeat: NodeJS.Timeout | undefined;

  private constructor(options: HubOptions) {
    this.#options = options;
    this.#addresses = new AddressLimits({ ...ADDRESS_BOUNDS, ...options.addressBounds });
    this.#server = createServer({
      key: options.certificate.keyPem,
      cert: options.certificate.certificatePem,
      minVersion: 'TLSv1.3',
      handshakeTimeout: 10_000,
    });
    this.#server.headersTimeout = 10_000;
    this.#server.requestTimeout = 10_000;
    this.#server.maxConnections = this.#maxConnections + (options.maxUnfinished ?? DEFAULT_MAX_UNFINISHED);
    this.#server.on('drop', () => options.onRefused?.('full', 'before its handshake'));
    this.#server.on('connection', (socket) => this.#onSocket(socket));
    this.#server.on('request', (_request, response) => {
      response.writeHead(404, { connection: 'close' }).end();
    });
    this.#server.on('tlsClientError', () => {});
    this.#server.on('upgrade', (request, socket, head) => void this.#onUpgrade(request, socket, head));
  }

  /** Listens, and returns the hub. */
  static async start(options: HubOptions): Promise<Hub> {
    const hub = new Hub(options);
    await new Promise<void>((resolve, reject) => {
      hub.#server.once('error', reject);
      hub.#server.listen(options.port, options.host, resolve);
    });
    hub.#heartbeat = setInterval(() => hub.#beat(), HEARTBEAT_INTERVAL_MS);
    hub.#heartbeat.unref();
    return hub;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** The session of a pod, if its sidecar is connected. */
  sessionOf(podUid: string): Session | undefined {
    return this.#sessions.get(podUid);
  }

  sessions(): Iterable<Session> {
    return this.#sessions.values();
  }

  /** A new serving certificate for connections from now on. */
  useCertificate(certificate: KeyAndCertificate): void {
    this.#server.setSecureContext({
      key: certificate.keyPem,
      cert: certificate.certificatePem,
      minVersion: 'TLSv1.3',
    });
  }

  /** Closes every connection; sidecars dial again. */
  async stop(): Promise<void> {
    clearInterval(this.#heartbeat);
    for (const socket of this.#sockets.clients) socket.close(CLOSE_GOING_AWAY, 'operator stops');
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    setTimeout(() => {
      for (const socket of this.#sockets.clients) socket.terminate();
      this.#server.closeAllConnections();
    }, 500).unref();
    await closed;
  }

  get #maxConnections(): number {
    return this.#options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
  }

  /** Before its TLS handshake. */
  #onSocket(socket: Socket): void {
    const { remoteAddress: address = '', remotePort: port = 0 } = socket;
    if (!this.#addresses.opened(address, port, performance.now())) {
      this.#options.onRefused?.('address', `too many connections of ${address} came to nothing`);
      socket.destroy();
      return;
    }
    socket.on('close', () => this.#addresses.closed(address, port, performance.now()));
  }

  async #onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on('error', () => socket.destroy());
    const { remoteAddress: address = '', remotePort: port = 0 } = request.socket;
    const refuse = (status: string, reason: HubRefusal, detail: string) => {
      this.#options.onRefused?.(reason, detail);
      // A peer that never ends its half of the connection must not keep its slot.
      const timer = setTimeout(() => socket.destroy(), REFUSAL_MS).unref();
      socket.once('close', () => clearTimeout(timer));
      socket.once('finish', () => socket.destroy());
      socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
    };
    if (request.url !== HUB_PATH) return refuse('404 Not Found', 'path', 'wrong path');
    if (
      this.#sockets.clients.size >= this.#maxConnections ||
      this.#authenticating >= MAX_AUTHENTICATING ||
      !this.#addresses.authenticates(address)
    ) {
      this.#addresses.excuse(address, port);
      return refuse('503 Service Unavailable', 'full', `${this.#sockets.clients.size} connections`);
    }
    const token = /^Bearer (\S+)$/.exec(request.headers.authorization ?? '')?.[1] ?? '';
    this.#authenticating += 1;
    // One that does not wait for an API server that is away has not failed.
    this.#addresses.excuse(address, port);
    try {
      const answer = await this.#options.authenticator.authenticate(token);
      if ('refused' in answer) {
        this.#addresses.failed(address, performance.now());
        return refuse('401 Unauthorized', 'token', answer.refused);
      }
      if (socket.destroyed) return;
      this.#sockets.handleUpgrade(request, socket, head, (webSocket) => {
        this.#addresses.through(address, port);
        this.#onConnection(webSocket, answer.identity);
      });
    } catch (error) {
      refuse(
        '503 Service Unavailable',
        'unavailable',
        error instanceof Error ? error.message : String(error),
      );
    } finally {
      this.#authenticating -= 1;
      this.#addresses.authenticated(address);
    }
  }

  /** A pod has a few slots of the hub, whatever its token lets it ask for: the oldest connection that is not its session goes. */
  #takeSlot(socket: WebSocket, { podUid, namespace, podName }: PodIdentity): void {
    const own = this.#connections.get(podUid) ?? new Set();
    this.#connections.set(podUid, own.add(socket));
    socket.on('close', () => {
      own.delete(socket);
      if (own.size === 0) this.#connections.delete(podUid);
    });
    if (own.size <= MAX_CONNECTIONS_OF_POD) return;
    const inUse = this.#sessions.get(podUid)?.socket;
    const oldest = [...own].find((one) => one !== inUse);
    // Until it is closed it would count again.
    if (oldest !== undefined) own.delete(oldest);
    this.#options.onRefused?.('replaced', `a connection of pod ${namespace}/${podName} by a later one`);
    oldest?.terminate();
  }

  #onConnection(socket: WebSocket, identity: PodIdentity): void {
    this.#takeSlot(socket, identity);
    const rate = new RateLimit(MESSAGES_PER_SECOND, MESSAGE_BURST, performance.now());
    let session: HubSession | undefined;
    const close = (reason: HubRefusal, detail: string) => {
      this.#options.onRefused?.(reason, detail);
      // The reason in a close frame is at most 123 bytes.
      socket.close(CLOSE_POLICY, detail.slice(0, 120).replace(/[^\x20-\x7e]/g, '?'));
    };
    const helloTimer = setTimeout(
      () => close('timeout', 'no hello'),
      this.#options.helloTimeoutMs ?? HELLO_TIMEOUT_MS,
    );
    socket.on('error', () => socket.terminate());
    socket.on('pong', () => {
      if (session !== undefined) session.unansweredPings = 0;
    });
    socket.on('message', (data, isBinary) => {
      if (socket.readyState !== socket.OPEN) return;
      if (!rate.allows(performance.now())) return close('rate', 'too many messages');
      let message: SidecarMessage;
      try {
        if (isBinary) throw new TypeError('binary message');
        message = decodeSidecarMessage(data as Buffer);
      } catch (error) {
        return close('message', error instanceof Error ? error.message : String(error));
      }
      if (message.type !== 'hello') {
        if (session === undefined) return close('hello', 'message before hello');
        this.#options.listener.onMessage(session, message);
        return;
      }
      if (session !== undefined) return close('hello', 'second hello');
      const mismatch = helloMismatch(message, identity);
      if (mismatch !== undefined) return close('hello', mismatch);
      clearTimeout(helloTimer);
      session = new HubSession(socket, identity, message);
      this.#welcome(session);
    });
    socket.on('close', () => {
      clearTimeout(helloTimer);
      if (session === undefined) return;
      if (this.#sessions.get(identity.podUid) === session) this.#sessions.delete(identity.podUid);
      if (!session.replaced) this.#options.listener.onSessionEnded(session);
    });
  }

  #welcome(session: HubSession): void {
    const { podUid } = session.identity;
    const earlier = this.#sessions.get(podUid);
    if (earlier !== undefined) {
      // Told as ended before the new one is told, so that a listener never sees two sessions of one pod.
      earlier.replaced = true;
      this.#options.onRefused?.('replaced', `pod ${session.identity.namespace}/${session.identity.podName}`);
      this.#options.listener.onSessionEnded(earlier);
      earlier.socket.close(CLOSE_REPLACED, 'a later connection of the same pod');
    }
    this.#sessions.set(podUid, session);
    const { release, epoch, recorded } = this.#options;
    session.send({ type: 'welcome', release, epoch, recorded: recorded(session.hello) });
    this.#options.listener.onSession(session);
  }

  #beat(): void {
    this.#addresses.forget(performance.now());
    for (const session of this.#sessions.values()) {
      if (session.unansweredPings >= 3) {
        session.socket.terminate();
        continue;
      }
      session.unansweredPings += 1;
      session.socket.ping();
    }
  }
}

/** What HELLO claims that the token does not bear out. */
export function helloMismatch(hello: Hello, identity: PodIdentity): string | undefined {
  const { pod } = hello;
  if (pod.uid !== identity.podUid) return 'hello names another pod UID than the token';
  if (pod.name !== identity.podName) return 'hello names another pod than the token';
  if (pod.namespace !== identity.namespace) return 'hello names another namespace than the token';
  return undefined;
}

class HubSession implements Session {
  readonly identity: PodIdentity;
  readonly hello: Hello;
  readonly socket: WebSocket;
  unansweredPings = 0;
  replaced = false;

  constructor(socket: WebSocket, identity: PodIdentity, hello: Hello) {
    this.socket = socket;
    this.identity = identity;
    this.hello = hello;
  }

  send(message: HubMessage): boolean {
    if (this.socket.readyState !== this.socket.OPEN) return false;
    if (this.socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      this.socket.terminate();
      return false;
    }
    this.socket.send(encodeHubMessage(message));
    return true;
  }

  close(reason: string): void {
    this.socket.close(CLOSE_POLICY, reason.slice(0, 120));
  }
}
