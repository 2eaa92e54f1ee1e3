// Copies bytes between two sockets, both ways, as they come: the way of every connection that is not accelerated.
// A half-close of one side becomes a half-close of the other, and a moment later both are closed: neither QEMU nor virt-handler's proxy
// goes on with half a connection, and the leg that a proxy has dialed is never closed by it. An error of either side closes both.

import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** How long a socket that was ended may still be read, so that what was written last is not lost by a reset. */
const LINGER_MS = 1000;
const DRAIN_LOOK_MS = 10;

/**
 * Relays until both directions have ended or either side broke.
 * @param forward called with the number of bytes that went from `left` to `right`.
 * @returns the error that ended it, or undefined after an orderly end.
 */
export function relayRaw(
  left: Socket,
  right: Socket,
  forward?: (bytes: number) => void,
): Promise<Error | undefined> {
  return new Promise((resolve) => {
    let error: Error | undefined;
    let open = 2;
    let linger: NodeJS.Timeout | undefined;
    const closed = (): void => {
      open -= 1;
      if (open > 0) return;
      clearTimeout(linger);
      resolve(error);
    };
    const closeSoon = (): void => {
      if (open === 0) return;
      linger ??= setTimeout(() => {
        left.destroy();
        right.destroy();
      }, LINGER_MS).unref();
    };
    for (const [from, to] of [
      [left, right],
      [right, left],
    ] as const) {
      from.on('data', (bytes: Buffer) => {
        if (from === left) forward?.(bytes.length);
        if (!to.write(bytes)) from.pause();
      });
      to.on('drain', () => from.resume());
      from.on('end', () => to.end(closeSoon));
      from.on('error', (cause) => {
        error ??= cause;
      });
      from.on('close', (hadError: boolean) => {
        // A socket that broke, or that closed although the other may still write to it, has no reader any more.
        if (hadError || !from.readableEnded) to.destroy();
        closed();
      });
      from.resume();
      // Gone before the relay began: its 'close' does not come again.
      if (from.destroyed) {
        to.destroy();
        closed();
      }
    }
  });
}

/**
 * Ends a socket whose last written bytes matter (an ABORT, an END_ACK). Closing with bytes unread would reset the
 * connection and throw those away, so what still comes is read and dropped, for a bounded time.
 */
export function endLingering(socket: Socket): void {
  if (socket.destroyed) return;
  socket.end();
  socket.removeAllListeners('data');
  socket.on('data', () => {});
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), LINGER_MS).unref();
  socket.once('end', () => socket.destroySoon());
  socket.once('close', () => clearTimeout(timer));
}

const draining = new Set<Socket>();

/** Reads and drops what comes, so that the peer is not held up, until it closes, however long that takes. */
export function drainUntilClosed(socket: Socket): void {
  draining.add(socket);
  socket.once('end', () => socket.destroy());
  socket.on('error', () => {});
  socket.once('close', () => draining.delete(socket));
  socket.resume();
}

/** Before the process ends, which closes what it still drains: resolves when that is nothing any more, or the time is over. */
export async function allDrained(withinMs: number): Promise<void> {
  const untilMs = performance.now() + withinMs;
  while (draining.size > 0 && performance.now() < untilMs) await sleep(DRAIN_LOOK_MS);
}
