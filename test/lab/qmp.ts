// A client for QMP, the JSON protocol on which QEMU takes commands and tells events (one JSON object a line, see QEMU's
// docs/interop/qmp-spec). Guarantees: every command ends, with QEMU's answer, QEMU's error, a time-out, or the
// connection's end; answers are matched by id, so commands may overlap; an event is never lost to who waits for it
// from before it was caused.

import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** QEMU's longest answer here (query-migrate, query-cpus) is some kilobytes; this bounds what is buffered without a newline. */
const MAX_LINE_CHARS = 16 * 1024 * 1024;
/** Events kept for `waitForEvent` to look back at. A migration causes some tens. */
const MAX_KEPT_EVENTS = 10_000;
const DEFAULT_COMMAND_TIMEOUT_MS = 30_000;
const CONNECT_POLL_MS = 20;

/** An event as QEMU sent it; `timestampMs` is QEMU's own wall clock, in ms since 1970 with fractions. */
export interface QmpEvent {
  name: string;
  data: Record<string, unknown>;
  timestampMs: number;
}

/** QEMU refused a command. `qemuClass` is its error class (`GenericError`, `CommandNotFound`, ...). */
export class QmpCommandError extends Error {
  readonly code = 'NASMIG_QMP_COMMAND';
  readonly command: string;
  readonly qemuClass: string;
  readonly description: string;
  constructor(command: string, qemuClass: string, description: string) {
    super(`QEMU refused ${command}: ${description} (${qemuClass})`);
    this.name = 'QmpCommandError';
    this.command = command;
    this.qemuClass = qemuClass;
    this.description = description;
  }
}

/** QEMU did not answer, or did not send an awaited event, in time. */
export class QmpTimeoutError extends Error {
  readonly code = 'NASMIG_QMP_TIMEOUT';
  constructor(what: string, timeoutMs: number) {
    super(`QEMU: no ${what} within ${timeoutMs} ms; see its log and serial console in the run's directory`);
    this.name = 'QmpTimeoutError';
  }
}

/** The QMP connection ended (QEMU exited or was killed), or never came to be. */
export class QmpClosedError extends Error {
  readonly code = 'NASMIG_QMP_CLOSED';
  constructor(why: string) {
    super(`QMP connection closed: ${why}; see QEMU's log in the run's directory`);
    this.name = 'QmpClosedError';
  }
}

/** The peer on the socket does not speak QMP. */
export class QmpProtocolError extends Error {
  readonly code = 'NASMIG_QMP_PROTOCOL';
  constructor(why: string) {
    super(`not QMP: ${why}; check that the socket is QEMU's -qmp one`);
    this.name = 'QmpProtocolError';
  }
}

interface PendingCommand {
  command: string;
  resolve(result: unknown): void;
  reject(error: Error): void;
  timer: NodeJS.Timeout;
}

interface EventWaiter {
  matches(event: QmpEvent): boolean;
  resolve(event: QmpEvent): void;
  reject(error: Error): void;
  timer: NodeJS.Timeout;
}

export class QmpClient {
  /** QEMU's version, `10.0.13`, from its greeting. */
  readonly version: string;
  /** Every event so far, oldest first. */
  readonly events: QmpEvent[] = [];
  readonly #socket: Socket;
  readonly #pending = new Map<number, PendingCommand>();
  readonly #waiters = new Set<EventWaiter>();
  #nextId = 1;
  #closed: QmpClosedError | QmpProtocolError | null = null;

  private constructor(socket: Socket, version: string) {
    this.#socket = socket;
    this.version = version;
  }

  /** Connects to QEMU's socket as soon as it listens, reads the greeting and leaves negotiation mode. */
  static async connect(path: string, timeoutMs = 10_000, signal?: AbortSignal): Promise<QmpClient> {
    const deadline = Date.now() + timeoutMs;
    const socket = await connectWhenListening(path, deadline, signal);
    const greeting = await readGreeting(socket, Math.max(1, deadline - Date.now()));
    const client = new QmpClient(socket, greeting.version);
    client.#listen(greeting.rest);
    await client.execute('qmp_capabilities');
    return client;
  }

  get closed(): boolean {
    return this.#closed !== null;
  }

  /** Runs a command and returns what is in `return`. Throws QmpCommandError, QmpTimeoutError, QmpClosedError. */
  execute<Result = unknown>(
    command: string,
    args?: Record<string, unknown>,
    timeoutMs = DEFAULT_COMMAND_TIMEOUT_MS,
  ): Promise<Result> {
    if (this.#closed) return Promise.reject(this.#closed);
    const id = this.#nextId++;
    return new Promise<Result>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new QmpTimeoutError(`answer to ${command}`, timeoutMs));
      }, timeoutMs);
      this.#pending.set(id, {
        command,
        resolve: (result) => resolve(result as Result),
        reject,
        timer,
      });
      const message =
        args === undefined ? { execute: command, id } : { execute: command, arguments: args, id };
      this.#socket.write(`${JSON.stringify(message)}\n`);
    });
  }

  /**
   * The first event for which `matches` holds, of those not older than `since` (an index into `events`; take
   * `events.length` before causing the event) or yet to come.
   */
  waitForEvent(matches: (event: QmpEvent) => boolean, timeoutMs: number, since = 0): Promise<QmpEvent> {
    const found = this.events.slice(since).find(matches);
    if (found) return Promise.resolve(found);
    if (this.#closed) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      const waiter: EventWaiter = {
        matches,
        resolve,
        reject,
        timer: setTimeout(() => {
          this.#waiters.delete(waiter);
          reject(new QmpTimeoutError('awaited event', timeoutMs));
        }, timeoutMs),
      };
      this.#waiters.add(waiter);
    });
  }

  close(): void {
    this.#socket.destroy();
    this.#end(new QmpClosedError('closed by us'));
  }

  #listen(rest: string): void {
    let buffered = '';
    const take = (text: string): void => {
      buffered += text;
      let start = 0;
      for (let end = buffered.indexOf('\n', start); end >= 0; end = buffered.indexOf('\n', start)) {
        this.#message(buffered.slice(start, end));
        start = end + 1;
      }
      buffered = buffered.slice(start);
      if (buffered.length > MAX_LINE_CHARS) this.#fail(`a line of more than ${MAX_LINE_CHARS} characters`);
    };
    this.#socket.on('data', take);
    this.#socket.on('error', (error) => this.#end(new QmpClosedError(error.message)));
    this.#socket.on('close', () => this.#end(new QmpClosedError('QEMU ended it')));
    take(rest);
  }

  #message(line: string): void {
    if (line.trim() === '') return;
    const message = parseObject(line);
    if (message === null) {
      this.#fail(`a line that is no JSON object: ${line.slice(0, 80)}`);
      return;
    }
    if (typeof message['event'] === 'string') {
      this.#event(message['event'], message);
      return;
    }
    const id = message['id'];
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined;
    if (!pending) return; // the answer to a command that has timed out
    this.#pending.delete(id as number);
    clearTimeout(pending.timer);
    const error = message['error'];
    if (isObject(error)) {
      pending.reject(new QmpCommandError(pending.command, String(error['class']), String(error['desc'])));
    } else pending.resolve(message['return']);
  }

  #event(name: string, message: Record<string, unknown>): void {
    const timestamp = isObject(message['timestamp']) ? message['timestamp'] : {};
    const event: QmpEvent = {
      name,
      data: isObject(message['data']) ? message['data'] : {},
      timestampMs: Number(timestamp['seconds']) * 1000 + Number(timestamp['microseconds']) / 1000,
    };
    if (this.events.length < MAX_KEPT_EVENTS) this.events.push(event);
    for (const waiter of this.#waiters) {
      if (!waiter.matches(event)) continue;
      this.#waiters.delete(waiter);
      clearTimeout(waiter.timer);
      waiter.resolve(event);
    }
  }

  #fail(why: string): void {
    this.#socket.destroy();
    this.#end(new QmpProtocolError(why));
  }

  #end(error: QmpClosedError | QmpProtocolError): void {
    if (this.#closed) return;
    this.#closed = error;
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(error);
    }
    this.#pending.clear();
    for (const waiter of this.#waiters) {
      clearTimeout(waiter.timer);
      waiter.reject(error);
    }
    this.#waiters.clear();
  }
}

async function connectWhenListening(path: string, deadline: number, signal?: AbortSignal): Promise<Socket> {
  for (;;) {
    if (signal?.aborted) throw new QmpClosedError(`${path}: QEMU has exited`);
    try {
      return await connectOnce(path);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      const notYet = code === 'ENOENT' || code === 'ECONNREFUSED';
      if (!notYet || Date.now() > deadline) throw new QmpClosedError(`${path}: ${(error as Error).message}`);
      await sleep(CONNECT_POLL_MS);
    }
  }
}

function connectOnce(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    socket.setEncoding('utf8');
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

/** Reads the first line; `rest` is what came after it. */
function readGreeting(socket: Socket, timeoutMs: number): Promise<{ version: string; rest: string }> {
  return new Promise((resolve, reject) => {
    let text = '';
    const finish = (error: Error | null, version = '', rest = ''): void => {
      clearTimeout(timer);
      socket.off('data', onData);
      socket.off('error', onError);
      socket.off('close', onClose);
      if (error) {
        socket.destroy();
        reject(error);
      } else resolve({ version, rest });
    };
    const onData = (chunk: string): void => {
      text += chunk;
      const end = text.indexOf('\n');
      if (end < 0) {
        if (text.length > MAX_LINE_CHARS) finish(new QmpProtocolError('a greeting without end'));
        return;
      }
      const version = versionOf(text.slice(0, end));
      if (version === null) finish(new QmpProtocolError(`greeting ${text.slice(0, 80)}`));
      else finish(null, version, text.slice(end + 1));
    };
    const onError = (error: Error): void => finish(new QmpClosedError(error.message));
    const onClose = (): void => finish(new QmpClosedError('before the greeting'));
    const timer = setTimeout(() => finish(new QmpTimeoutError('greeting', timeoutMs)), timeoutMs);
    socket.on('data', onData);
    socket.on('error', onError);
    socket.on('close', onClose);
  });
}

function versionOf(greeting: string): string | null {
  const qmp = parseObject(greeting)?.['QMP'];
  const version = isObject(qmp) && isObject(qmp['version']) ? qmp['version']['qemu'] : null;
  if (!isObject(version)) return null;
  return `${version['major']}.${version['minor']}.${version['micro']}`;
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
