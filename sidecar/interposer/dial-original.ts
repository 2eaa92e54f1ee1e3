// Connects to the socket whose place was taken. QEMU binds before it listens, and its backlog is short, so a
// connection that comes too early (ECONNREFUSED) or too thick (EAGAIN: Node connects without blocking) is tried
// again, within a bound.

import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectUnix } from '../dial.ts';
import { OriginalUnreachableError } from './errors.ts';
import { errorCode } from './socket-directory.ts';

/** Between QEMU's bind and listen lie microseconds; a second is far more than a loaded node needs. */
const DEFAULT_TIMEOUT_MS = 1000;
const RETRY_MS = 2;

export interface DialOptions {
  /** Bound for all tries together. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** Dials `path`. Throws {@link OriginalUnreachableError}, or the reason of the signal. */
export async function dialOriginal(path: string, options: DialOptions = {}): Promise<Socket> {
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const startedMs = performance.now();
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      return await connectUnix(path);
    } catch (error) {
      const waitedMs = performance.now() - startedMs;
      const code = errorCode(error);
      const mayPass = code === 'ECONNREFUSED' || code === 'EAGAIN';
      if (!mayPass || waitedMs >= timeoutMs) {
        throw new OriginalUnreachableError(path, code ?? String(error), waitedMs, error);
      }
    }
    await sleep(RETRY_MS);
  }
}
