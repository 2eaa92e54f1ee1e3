// A TCP proxy whose connections can be cut, or left open without a byte going through: the network between a client and an API
// server. TLS passes through it unread.
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

export class BreakableProxy {
  readonly #server: Server;
  readonly #target: { host: string; port: number };
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #isOpen = true;

  private constructor(target: { host: string; port: number }) {
    this.#target = target;
    this.#server = createServer((socket) => this.#onConnection(socket));
  }

  static async start(url: string): Promise<BreakableProxy> {
    const { hostname, port } = new URL(url);
    const proxy = new BreakableProxy({ host: hostname, port: Number(port) });
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get url(): string {
    return `https://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Ends every connection, and takes none until `mend`. */
  cut(): void {
    this.#isOpen = false;
    for (const [left, right] of this.#pairs) {
      left.destroy();
      right.destroy();
    }
  }

  mend(): void {
    this.#isOpen = true;
  }

  /** Nothing goes through the connections of now any more, and neither side is told. New ones work. */
  silence(): void {
    for (const [left, right] of this.#pairs) {
      left.unpipe();
      right.unpipe();
      left.pause();
      right.pause();
    }
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #onConnection(left: Socket): void {
    if (!this.#isOpen) {
      left.destroy();
      return;
    }
    const right = connect(this.#target.port, this.#target.host);
    const pair = [left, right] as const;
    this.#pairs.add(pair);
    for (const [from, to] of [pair, [right, left] as const]) {
      from.on('error', () => to.destroy());
      from.on('close', () => {
        to.destroy();
        this.#pairs.delete(pair);
      });
      from.pipe(to);
    }
  }
}
