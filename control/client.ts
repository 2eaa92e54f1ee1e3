// A sidecar's connection to the hub: WebSocket over TLS with a bearer token, HELLO first, reconnecting for ever with
// back-off and jitter. It never throws into the data plane: without a hub the sidecar simply stays plain. Token and CA are
// read anew for every connection, because kubelet rotates both. Orders of an older leader are the caller's to refuse
// (stepArming), the highest epoch is kept here. See docs/control-protocol.md.
import { readFile } from 'node:fs/promises';
import { WebSocket } from 'ws';
import { decodeHubMessage, encodeSidecarMessage } from './codec.ts';
import { HEARTBEAT_INTERVAL_MS, HUB_PATH, MAX_MESSAGE_BYTES, SUBPROTOCOL } from './limits.ts';
import type { Hello, HubMessage, Result, SidecarMessage } from './messages.ts';

export interface ControlClientOptions {
  /** `wss://host:port` of the hub; its path is HUB_PATH. */
  url: string;
  /** Bundle of PEM certificates that the hub's certificate must chain to. Absent file: the connection is retried later. */
  caFile: string;
  tokenFile: string;
  /** Name in the hub's certificate, when the URL's host is not it (lab, tests). */
  serverName?: string;
  /** Called for each connection, so that HELLO tells the state of now. */
  hello: () => Hello;
  onMessage: (message: HubMessage) => void;
  /** Called when the hub has answered HELLO (true) and when that connection is lost (false), with the cause in words. */
  onConnected?: (connected: boolean, detail: string) => void;
  /** First wait after a lost connection; doubles to `maxBackoffMs`. */
  minBackoffMs?: number;
  maxBackoffMs?: number;
}

/** A connection attempt, up to `welcome`, may take this long. */
const CONNECT_TIMEOUT_MS = 10_000;
/** What may wait in the socket before progress and stats are dropped: four messages of the largest size. */
const MAX_BUFFERED_BYTES = 4 * MAX_MESSAGE_BYTES;
/** Results that the hub has not yet recorded; a sidecar has one migration at a time, so this is never reached. */
const MAX_UNRECORDED = 4;

export class ControlClient {
  readonly #options: ControlClientOptions;
  readonly #unrecorded = new Map<string, Result>();
  #socket: WebSocket | undefined;
  #welcomed = false;
  #highestEpoch = 0;
  #attempt = 0;
  #retry: NodeJS.Timeout | undefined;
  #heartbeat: NodeJS.Timeout | undefined;
  #unansweredPings = 0;
  #closed = false;

  constructor(options: ControlClientOptions) {
    this.#options = options;
  }

  /** The highest epoch any message carried: orders below it come from a deposed leader. */
  get highestEpoch(): number {
    return this.#highestEpoch;
  }

  get connected(): boolean {
    return this.#welcomed;
  }

  start(): void {
    void this.#connect();
  }

  /**
   * Sends if there is a welcomed connection. A `result` is kept until the hub has recorded it and sent again on every
   * new connection; anything else that cannot be sent now is dropped, because HELLO tells the state anyway.
   * Returns whether it was handed to the socket.
   */
  send(message: SidecarMessage): boolean {
    if (message.type === 'result') {
      this.#unrecorded.set(message.migrationUid, message);
      const oldest = this.#unrecorded.keys().next();
      if (this.#unrecorded.size > MAX_UNRECORDED && !oldest.done) this.#unrecorded.delete(oldest.value);
    }
    const socket = this.#socket;
    if (socket === undefined || !this.#welcomed || socket.readyState !== WebSocket.OPEN) return false;
    const droppable = message.type === 'progress' || message.type === 'stats';
    if (droppable && socket.bufferedAmount > MAX_BUFFERED_BYTES) return false;
    socket.send(encodeSidecarMessage(message));
    return true;
  }

  /** True when every result handed to send() is recorded by the hub. */
  get resultsRecorded(): boolean {
    return this.#unrecorded.size === 0;
  }

  /** Closes the connection and stops reconnecting. Waits at most `waitMs` for results to be recorded. */
  async close(waitMs = 0): Promise<void> {
    const deadline = performance.now() + waitMs;
    while (!this.resultsRecorded && this.#welcomed && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    this.#closed = true;
    clearTimeout(this.#retry);
    clearInterval(this.#heartbeat);
    this.#socket?.close(1000);
    // A hub that does not answer the close must not keep the process.
    const socket = this.#socket;
    if (socket !== undefined) setTimeout(() => socket.terminate(), 200).unref();
  }

  async #connect(): Promise<void> {
    if (this.#closed) return;
    let ca: string;
    let token: string;
    try {
      [ca, token] = await Promise.all([
        readFile(this.#options.caFile, 'utf8'),
        readFile(this.#options.tokenFile, 'utf8'),
      ]);
    } catch (error) {
      this.#lost(error instanceof Error ? error.message : String(error));
      return;
    }
    if (this.#closed) return;
    const { serverName } = this.#options;
    let socket: WebSocket;
    try {
      socket = new WebSocket(new URL(HUB_PATH, this.#options.url), SUBPROTOCOL, {
        ca,
        headers: { authorization: `Bearer ${token.trim()}` },
        maxPayload: MAX_MESSAGE_BYTES,
        perMessageDeflate: false,
        handshakeTimeout: CONNECT_TIMEOUT_MS,
        followRedirects: false,
        ...(serverName === undefined ? {} : { servername: serverName }),
      });
    } catch (error) {
      this.#lost(error instanceof Error ? error.message : String(error));
      return;
    }
    this.#socket = socket;
    const welcomeTimer = setTimeout(() => socket.terminate(), CONNECT_TIMEOUT_MS);
    let problem = '';
    socket.on('open', () => {
      try {
        socket.send(encodeSidecarMessage(this.#options.hello()));
      } catch (error) {
        // A HELLO that breaks its own bounds is a fault of ours: told and tried again, never the end of the process.
        problem = error instanceof Error ? error.message : String(error);
        socket.terminate();
      }
    });
    socket.on('message', (data, isBinary) => {
      let message: HubMessage;
      try {
        if (isBinary) throw new TypeError('binary message');
        message = decodeHubMessage(data as Buffer);
        if (message.type !== 'welcome' && !this.#welcomed) throw new TypeError('message before welcome');
      } catch (error) {
        problem = error instanceof Error ? error.message : String(error);
        socket.close(1008, 'malformed message');
        return;
      }
      if ('epoch' in message) this.#highestEpoch = Math.max(this.#highestEpoch, message.epoch);
      if (message.type === 'welcome') {
        clearTimeout(welcomeTimer);
        this.#onWelcome(socket, message.recorded);
      } else if (message.type === 'recorded') {
        this.#unrecorded.delete(message.migrationUid);
      }
      this.#options.onMessage(message);
    });
    socket.on('pong', () => {
      this.#unansweredPings = 0;
    });
    socket.on('unexpected-response', (_request, response) => {
      problem = `the hub answered ${response.statusCode}`;
      response.resume();
      socket.terminate();
    });
    socket.on('error', (error) => {
      if (problem === '') problem = error.message;
    });
    socket.on('close', (code, reason) => {
      clearTimeout(welcomeTimer);
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      this.#lost(
        problem !== '' ? problem : `closed by the hub (${code}${reason.length > 0 ? `, ${reason}` : ''})`,
      );
    });
  }

  #onWelcome(socket: WebSocket, recorded: readonly string[]): void {
    this.#welcomed = true;
    this.#attempt = 0;
    this.#unansweredPings = 0;
    this.#heartbeat = setInterval(() => {
      if (this.#unansweredPings >= 3) {
        socket.terminate();
        return;
      }
      this.#unansweredPings += 1;
      socket.ping();
    }, HEARTBEAT_INTERVAL_MS);
    this.#heartbeat.unref();
    this.#options.onConnected?.(true, 'welcomed by the hub');
    for (const uid of recorded) this.#unrecorded.delete(uid);
    for (const result of this.#unrecorded.values()) this.send(result);
  }

  #lost(detail: string): void {
    clearInterval(this.#heartbeat);
    const wasWelcomed = this.#welcomed;
    this.#welcomed = false;
    if (this.#closed) return;
    // Told for every failed attempt too: the caller logs the first and counts the rest.
    if (wasWelcomed || this.#attempt === 0) this.#options.onConnected?.(false, detail);
    const min = this.#options.minBackoffMs ?? 200;
    const max = this.#options.maxBackoffMs ?? 15_000;
    const ceiling = Math.min(max, min * 2 ** Math.min(this.#attempt, 16));
    this.#attempt += 1;
    // Half fixed, half random: a restarted hub is not met by a thousand sidecars at once.
    const waitMs = ceiling / 2 + Math.random() * (ceiling / 2);
    this.#retry = setTimeout(() => void this.#connect(), waitMs);
  }
}
