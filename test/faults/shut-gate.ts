// Stands between the target's recorder and the destination QEMU and passes every byte on, but keeps the return path's SHUT back
// until it is told to: so that a fault can be injected between the moment at which the destination is done and the one at which
// the source hears of it. Return path messages: qemu-stream.md (u16 type, u16 length, big-endian, then the body).

import { chownSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { QEMU_OWNER } from '../lab/node.ts';

/** MIG_RP_MSG_SHUT. */
const SHUT = 1;
const HEADER_BYTES = 4;
/** QEMU may listen a moment later than it is dialed. */
const DIAL_RETRY_MS = 20;
const DIAL_WITHIN_MS = 10_000;

/** Cuts a return path into messages; tells where SHUT begins. Fed in any cut. Pure. */
export class ShutFinder {
  /** Bytes of the present message's body that have not come yet. */
  #bodyLeft = 0;
  #header: number[] = [];

  /** Offset in `bytes` at which the header of SHUT begins (negative when it began in an earlier piece), or undefined. */
  find(bytes: Uint8Array): number | undefined {
    for (let offset = 0; offset < bytes.length; offset++) {
      if (this.#bodyLeft > 0) {
        this.#bodyLeft -= 1;
        continue;
      }
      this.#header.push(bytes[offset] as number);
      if (this.#header.length < HEADER_BYTES) continue;
      const [high = 0, low = 0, lengthHigh = 0, lengthLow = 0] = this.#header;
      this.#header = [];
      if ((high << 8) + low === SHUT) return offset + 1 - HEADER_BYTES;
      this.#bodyLeft = (lengthHigh << 8) + lengthLow;
    }
    return undefined;
  }
}

export class ShutGate {
  /** Resolves when the destination QEMU has said SHUT, which is then held. */
  readonly shutHeld: Promise<void>;
  #tellHeld = (): void => undefined;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #released = false;
  #waiting: (() => void)[] = [];

  private constructor(server: Server) {
    this.#server = server;
    this.shutHeld = new Promise((resolve) => {
      this.#tellHeld = resolve;
    });
  }

  /** Listens at `listen` and passes connections on to `dial`. */
  static async start(listen: string, dial: string): Promise<ShutGate> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    const gate = new ShutGate(server);
    server.on('connection', (socket) => void gate.#serve(socket, dial));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(listen, resolve);
    });
    chownSync(listen, QEMU_OWNER.uid, QEMU_OWNER.gid);
    return gate;
  }

  /** Lets SHUT through. */
  release(): void {
    this.#released = true;
    for (const pass of this.#waiting.splice(0)) pass();
  }

  async close(): Promise<void> {
    this.release();
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async #serve(fromSource: Socket, dial: string): Promise<void> {
    this.#sockets.add(fromSource);
    fromSource.on('error', () => undefined);
    const qemu = await dialWithin(dial, DIAL_WITHIN_MS).catch(() => undefined);
    if (qemu === undefined) {
      fromSource.destroy();
      return;
    }
    this.#sockets.add(qemu);
    for (const socket of [fromSource, qemu]) socket.on('close', () => this.#sockets.delete(socket));
    fromSource.on('error', () => qemu.destroy());
    // A QEMU that is done closes at once, and with bytes unread resets the connection: what it said still goes to the source.
    let isHeld = false;
    let isOver = false;
    const over = (): void => {
      isOver = true;
      if (!isHeld) fromSource.end();
    };
    qemu.on('error', over);
    qemu.on('end', over);
    fromSource.pipe(qemu);
    const finder = new ShutFinder();
    qemu.on('data', (bytes: Buffer) => {
      const shutAt = this.#released ? undefined : finder.find(bytes);
      if (shutAt === undefined) {
        fromSource.write(bytes);
        return;
      }
      // A header cut in two has lost its first bytes to the source already: QEMU writes it in one piece.
      const cut = Math.max(0, shutAt);
      fromSource.write(bytes.subarray(0, cut));
      qemu.pause();
      isHeld = true;
      this.#waiting.push(() => {
        isHeld = false;
        fromSource.write(bytes.subarray(cut));
        if (isOver) fromSource.end();
        else qemu.resume();
      });
      this.#tellHeld();
    });
    fromSource.resume();
  }
}

async function dialWithin(path: string, withinMs: number): Promise<Socket> {
  const deadlineMs = Date.now() + withinMs;
  for (;;) {
    try {
      return await new Promise<Socket>((resolve, reject) => {
        const socket = connect({ path, allowHalfOpen: true });
        socket.once('error', reject);
        socket.once('connect', () => {
          socket.off('error', reject);
          resolve(socket);
        });
      });
    } catch (error) {
      if (Date.now() > deadlineMs) throw error;
      await sleep(DIAL_RETRY_MS);
    }
  }
}
