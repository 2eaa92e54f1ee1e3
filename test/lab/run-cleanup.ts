// Removes everything a run of the lab has made: processes (by cgroup, whoever started them), network namespaces,
// directories. Idempotent, needs nothing but the run's id, and is the only way runs end: the lab calls it when it
// closes, the run's guardian when the lab's process has died, and the next lab for runs that have lost both.
//
// As a program: `node run-cleanup.ts <run id>` removes that run, `node run-cleanup.ts` all whose owner is dead.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { CACHE_DIR } from './build-cache.ts';
import { detectCgroups, listRunCgroups, removeRunCgroups } from './cgroup.ts';
import { listRunNetworks, removeRunNetwork } from './network.ts';
import {
  listRuns,
  ownerIsAlive,
  type RunDirectory,
  readRunRecord,
  removeRunDirectories,
} from './run-directory.ts';

/** Removes a run. Mounts need no care: they live in the mount namespaces of its processes and go with them. */
export async function removeRun(id: string): Promise<void> {
  if (!/^[0-9a-f]{8}$/.test(id)) throw new RangeError(`"${id}" is not the id of a run (8 hex digits)`);
  const record = await readRunRecord(id);
  await removeRunCgroups(await detectCgroups(), id);
  await removeRunNetwork(id);
  await removeRunDirectories(id, record?.bulkPath ?? join(CACHE_DIR, 'lab-runs', id));
}

/** Removes the runs whose owner is dead; returns their ids. Runs of living owners are not touched. */
export async function sweepStaleRuns(): Promise<string[]> {
  // Names first, registry second: a run is in the registry before it makes its first group or namespace.
  const named = [...(await listRunCgroups(await detectCgroups())), ...(await listRunNetworks())];
  const registered = await listRuns();
  const alive = new Set<string>();
  const stale = new Set<string>();
  for (const record of registered) ((await ownerIsAlive(record)) ? alive : stale).add(record.id);
  for (const id of named) if (!alive.has(id)) stale.add(id);
  for (const id of stale) await removeRun(id);
  return [...stale];
}

/** Removes its run when this process dies without having called `dismiss`, even by SIGKILL. */
export interface Guardian {
  dismiss(): void;
}

/**
 * Starts the guardian of a run: a shell that waits for a line on a pipe which only this process holds. End of file
 * without a line means that this process is gone.
 */
export function startGuardian(run: RunDirectory): Guardian {
  const script = 'read line || exec "$@"';
  const guardian = spawn('sh', ['-c', script, 'sh', process.execPath, import.meta.filename, run.id], {
    stdio: ['pipe', 'ignore', 'inherit'],
    detached: true,
  });
  guardian.unref();
  const { stdin } = guardian;
  // The guardian must not keep this process from ending when everything else is done.
  if ('unref' in stdin && typeof stdin.unref === 'function') stdin.unref();
  // A guardian that was killed by somebody: the next lab's sweep does its work.
  stdin.on('error', () => undefined);
  return { dismiss: () => void stdin.end('dismissed\n') };
}

if (import.meta.main) {
  const id = process.argv[2];
  if (id === undefined) {
    for (const removed of await sweepStaleRuns()) console.log(`removed stale run ${removed}`);
  } else {
    await removeRun(id);
  }
}
