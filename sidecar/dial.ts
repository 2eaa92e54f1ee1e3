// Connects to a unix socket whose listener may be a moment late: QEMU binds its socket before it listens, and a proxy may
// be re-created. The wait is short and bounded; what is refused longer than that is an error.

import { connect, type Socket } from 'node:net';

const RETRY_MS = 10;

export class DialError extends Error {
  readonly code = 'NASMIG_DIAL';
  constructor(path: string, waitedMs: number, cause: Error) {
    super(`no connection to ${path} within ${waitedMs} ms (${cause.message}); is its listener running?`);
    this.name = 'DialError';
  }
}

/** One try; half-open is allowed: the end of one direction does not end the other. */
export function connectUnix(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    socket.once('connect', () => {
      socket.removeListener('error', reject);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

/** Resolves with a connected socket that allows half-open; rejects with DialError after `waitMs`. */
export async function dialUnix(path: string, waitMs: number): Promise<Socket> {
  const until = performance.now() + waitMs;
  for (;;) {
    try {
      return await connectUnix(path);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      const mayCome = code === 'ECONNREFUSED' || code === 'ENOENT' || code === 'EAGAIN';
      if (!mayCome || performance.now() >= until) throw new DialError(path, waitMs, error as Error);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
