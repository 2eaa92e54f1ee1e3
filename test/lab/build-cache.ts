// Things that are slow to make (Debian roots, guest images, warm states) are made once and kept under `.cache/`.
// Guarantees: an entry is either absent or complete (built beside its place, then renamed); two processes never build
// the same entry at once; a changed recipe is a different entry, because the recipe's digest is part of the name.
// The lock is an abstract unix socket: the kernel releases it when its holder dies, so there is nothing stale to clean.

import { createHash } from 'node:crypto';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Where everything built or downloaded is kept; git ignores it. */
export const CACHE_DIR = resolve(import.meta.dirname, '../../.cache');

/** How long to wait for another process that builds the same entry. The slowest entry, a Debian root over a slow mirror, takes minutes. */
const BUILD_LOCK_TIMEOUT_MS = 20 * 60_000;
const BUILD_LOCK_POLL_MS = 250;

/** Another process has held the build of the same cache entry for longer than anything takes to build. */
export class BuildLockTimeoutError extends Error {
  readonly code = 'NASMIG_LAB_BUILD_LOCK_TIMEOUT';
  constructor(path: string, timeoutMs: number) {
    super(
      `another process has been building ${path} for more than ${Math.round(timeoutMs / 1000)} s; ` +
        'look for a hung `make` or test run, end it, and try again',
    );
    this.name = 'BuildLockTimeoutError';
  }
}

/** First 12 hex digits of the SHA-256 of a recipe: equal recipes share an entry, a changed one gets its own. */
export function recipeDigest(recipe: unknown): string {
  return createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 12);
}

/** True when `path` exists, whatever it is. */
export async function pathExists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/**
 * Returns `path` once it exists and is complete. When it is missing, `build` is called with a path beside it to make a
 * file or directory at, which then takes the name `path` in one rename. A failed build leaves nothing behind.
 */
export async function ensureBuilt(
  path: string,
  build: (temporaryPath: string) => Promise<void>,
): Promise<string> {
  if (await pathExists(path)) return path;
  const release = await lockBuild(path);
  try {
    if (await pathExists(path)) return path;
    await mkdir(dirname(path), { recursive: true });
    const temporaryPath = join(dirname(path), `.building-${process.pid}-${recipeDigest(path)}`);
    await rm(temporaryPath, { recursive: true, force: true });
    try {
      await build(temporaryPath);
      await rename(temporaryPath, path);
    } finally {
      await rm(temporaryPath, { recursive: true, force: true });
    }
    return path;
  } finally {
    release();
  }
}

async function lockBuild(path: string): Promise<() => void> {
  const name = `\0nasmig-build-${recipeDigest(path)}`;
  const deadline = Date.now() + BUILD_LOCK_TIMEOUT_MS;
  for (;;) {
    const server = await listenOnce(name);
    if (server) return () => server.close();
    if (Date.now() > deadline) throw new BuildLockTimeoutError(path, BUILD_LOCK_TIMEOUT_MS);
    await sleep(BUILD_LOCK_POLL_MS);
  }
}

/** Binds the abstract socket `name`, or resolves to null when another process holds it. */
function listenOnce(name: string): Promise<Server | null> {
  return new Promise((resolveListen, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolveListen(null);
      else reject(error);
    });
    server.listen(name, () => {
      server.unref();
      resolveListen(server);
    });
  });
}
