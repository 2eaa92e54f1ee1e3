// libuv's pool, where reads of the NAS wait for it. Its size is of the environment, and fixed before the program runs.

/** What may wait for the NAS at once (a migration's batches, growth and sampling of the index), and some for files, tokens and names. */
export const READ_THREADS = 64;

/** libuv's own default. */
const DEFAULT_THREADS = 4;

/** @returns threads of this process's pool, by its environment. */
export function readThreads(environment: Readonly<Record<string, string | undefined>>): number {
  const threads = Number(environment['UV_THREADPOOL_SIZE']);
  return Number.isInteger(threads) && threads > 0 ? threads : DEFAULT_THREADS;
}
