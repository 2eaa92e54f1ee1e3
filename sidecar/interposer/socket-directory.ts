// The directory of migration sockets as the interposer sees it: a few synchronous calls, so that the steps of a
// swap follow each other within microseconds, and a watch. It is an emptyDir on the node's own disk, so none of
// them can hang. No other directory is ever looked at.

import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  type Stats,
  unlinkSync,
  watch,
} from 'node:fs';
import { join } from 'node:path';
import { DirectoryNotOursError, DirectoryUnusableError } from './errors.ts';
import type { Entry } from './swap-decision.ts';

/** Small file-system interface; names are relative to the directory. */
export interface SocketDirectory {
  /** Absolute path, for binding and dialing. */
  path(name: string): string;
  /** undefined when there is no such name. Other failures throw. */
  stat(name: string): Entry | undefined;
  list(): string[];
  /** Hard link. EPERM when the socket is not ours yet (fs.protected_hardlinks), ENOENT when it is gone, EEXIST. */
  link(existing: string, name: string): void;
  /** Atomic: a name always leads to a socket, the old or the new one. */
  rename(from: string, to: string): void;
  /** Removes a name; a name that is gone already is no error. */
  unlink(name: string): void;
  /** Calls `changed` after something happened in the directory; events can be lost. Returns what ends the watch. */
  watch(changed: (name: string | undefined) => void, failed: (error: Error) => void): () => void;
}

/** Owner alone may write, everybody may pass: what virt-launcher would have made itself. */
const DIRECTORY_MODE = 0o755;

/**
 * Creates the directory when it is missing, so that it belongs to us (107) and not to virt-handler (root).
 * Throws {@link DirectoryNotOursError} when it belongs to somebody else, {@link DirectoryUnusableError} otherwise.
 */
export function prepareSocketDirectory(directory: string, ownUid: number): void {
  try {
    mkdirSync(directory, { mode: DIRECTORY_MODE });
    // The umask may have taken bits away.
    chmodSync(directory, DIRECTORY_MODE);
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') {
      throw new DirectoryUnusableError(directory, errorCode(error) ?? 'cannot be created', error);
    }
  }
  const stats = lstatSync(directory);
  if (!stats.isDirectory()) throw new DirectoryUnusableError(directory, 'it is not a directory');
  if (stats.uid !== ownUid) throw new DirectoryNotOursError(directory, stats.uid, ownUid);
}

/** The real directory. */
export function openSocketDirectory(directory: string): SocketDirectory {
  const path = (name: string) => join(directory, name);
  return {
    path,
    stat(name) {
      const stats = lstatSync(path(name), { throwIfNoEntry: false });
      return stats === undefined ? undefined : entryOf(stats);
    },
    list: () => readdirSync(directory),
    link: (existing, name) => linkSync(path(existing), path(name)),
    rename: (from, to) => renameSync(path(from), path(to)),
    unlink(name) {
      try {
        unlinkSync(path(name));
      } catch (error) {
        if (errorCode(error) !== 'ENOENT') throw error;
      }
    },
    watch(changed, failed) {
      const watcher = watch(directory, { persistent: false }, (_event, name) => changed(name ?? undefined));
      watcher.on('error', failed);
      return () => watcher.close();
    },
  };
}

function entryOf(stats: Stats): Entry {
  return { inode: `${stats.dev}:${stats.ino}`, ownerUid: stats.uid, isSocket: stats.isSocket() };
}

/** The code of a system error, or undefined. */
export function errorCode(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}
