// Plays the two QEMUs in tests of what lies between them: a listening end that hands out accepted connections in order,
// and connections that keep what they received and can close each direction by itself.

import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const WAIT_MS = 10_000;
const POLL_MS = 2;

/** One end of a connection. Half-open: the peer's end of file does not close our direction. */
export class SocketEnd {
  readonly socket: Socket;
  receivedBytes = 0;
  /** The peer has closed its direction. */
  ended = false;
  /** Both directions are closed, or the connection was reset. */
  closed = false;
  error: NodeJS.ErrnoException | null = null;
  private chunks: Buffer[] | null = [];

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.chunks?.push(chunk);
      this.receivedBytes += chunk.length;
    });
    socket.on('end', () => {
      this.ended = true;
    });
    socket.on('close', () => {
      this.closed = true;
    });
    socket.on('error', (error) => {
      this.error = error;
    });
  }

  static async connect(path: string): Promise<SocketEnd> {
    const socket = connect({ path, allowHalfOpen: true });
    await once(socket, 'connect');
    return new SocketEnd(socket);
  }

  /** Everything received so far. */
  received(): Buffer {
    if (this.chunks === null) throw new Error('this end only counts what it receives');
    return Buffer.concat(this.chunks);
  }

  /** From now on bytes are counted, not kept. */
  countOnly(): void {
    this.chunks = null;
  }

  /** Writes with backpressure. */
  async write(bytes: Uint8Array): Promise<void> {
    if (!this.socket.write(bytes)) await once(this.socket, 'drain');
  }

  /** Waits until `bytes` in all have been received. */
  async receives(bytes: number): Promise<void> {
    await until(`${bytes} bytes received, ${this.receivedBytes} so far`, () => this.receivedBytes >= bytes);
  }

  /** Waits for the peer's end of file. */
  async ends(): Promise<void> {
    await until('end of file', () => this.ended || this.closed);
  }

  async closes(): Promise<void> {
    await until('close', () => this.closed);
  }
}

export class ListeningEnd {
  readonly accepted: SocketEnd[] = [];
  private readonly server: Server;

  private constructor() {
    this.server = createServer({ allowHalfOpen: true }, (socket) =>
      this.accepted.push(new SocketEnd(socket)),
    );
  }

  static async listen(path: string): Promise<ListeningEnd> {
    const end = new ListeningEnd();
    end.server.listen(path);
    await once(end.server, 'listening');
    return end;
  }

  /** The connection accepted as number `ordinal`, once there is one. */
  async connection(ordinal: number): Promise<SocketEnd> {
    await until(`connection ${ordinal}`, () => this.accepted.length > ordinal);
    const end = this.accepted[ordinal];
    if (!end) throw new Error(`no connection ${ordinal}`);
    return end;
  }

  close(): void {
    for (const end of this.accepted) end.socket.destroy();
    this.server.close();
  }
}

/** Polls until `condition` holds; throws after 10 s. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`did not happen within ${WAIT_MS} ms: ${what}`);
    await sleep(POLL_MS);
  }
}
