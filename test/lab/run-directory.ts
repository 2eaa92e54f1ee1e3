// One run of the lab: its id, its directories, and the record that says which process owns it.
// `/run/nasmig/<id>` holds sockets, mount points and logs (short, because a unix socket's path has at most 107 bytes);
// `.cache/lab-runs/<id>` holds what is big: the NAS's export and the writable layers of the Debian roots.
// The registry is one fixed place a machine, because names of network namespaces and cgroups are machine-wide too.

import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CACHE_DIR } from './build-cache.ts';

/** Directory of the run directories of this machine. */
export const RUNS_DIRECTORY = '/run/nasmig';

/** What other processes must know of a run to tell whether it is still wanted, and to remove it. */
export interface RunRecord {
  id: string;
  ownerPid: number;
  /** Start time of the owner in clock ticks since boot: a pid that was given out again is not the owner. */
  ownerStartTicks: number;
  bulkPath: string;
  createdMs: number;
}

/** A directory of a run is not removed, because a mount of it is visible outside the run's namespaces. */
export class MountedBelowError extends Error {
  readonly code = 'NASMIG_LAB_MOUNTED_BELOW';
  constructor(mountPoint: string) {
    super(
      `${mountPoint} is a mount point on the host, where a run's mounts must never show; unmount it, then remove the run again`,
    );
    this.name = 'MountedBelowError';
  }
}

export class RunDirectory {
  readonly record: RunRecord;
  /** `/run/nasmig/<id>` */
  readonly path: string;

  private constructor(record: RunRecord) {
    this.record = record;
    this.path = runPath(record.id);
  }

  get id(): string {
    return this.record.id;
  }

  /** Place for big files of this run, on the disk that holds the cache. */
  get bulkPath(): string {
    return this.record.bulkPath;
  }

  /** Makes the directories of a new run, owned by this process. The run is in the registry when this resolves. */
  static async create(): Promise<RunDirectory> {
    const id = randomBytes(4).toString('hex');
    const ownerStartTicks = await processStartTicks(process.pid);
    if (ownerStartTicks === null) throw new Error('cannot read the start time of this process from /proc');
    const record: RunRecord = {
      id,
      ownerPid: process.pid,
      ownerStartTicks,
      bulkPath: join(CACHE_DIR, 'lab-runs', id),
      createdMs: Date.now(),
    };
    // Made under a hidden name and renamed, so that a sweep never sees a run without its record.
    const hidden = join(RUNS_DIRECTORY, `.creating-${id}`);
    await mkdir(join(hidden, 'logs'), { recursive: true });
    await writeFile(join(hidden, 'run.json'), JSON.stringify(record));
    await mkdir(record.bulkPath, { recursive: true });
    await rename(hidden, runPath(id));
    return new RunDirectory(record);
  }
}

export function runPath(id: string): string {
  return join(RUNS_DIRECTORY, id);
}

/** The runs in the registry, whether their owners live or not. */
export async function listRuns(): Promise<RunRecord[]> {
  const names = await readdir(RUNS_DIRECTORY).catch(() => [] as string[]);
  const runs: RunRecord[] = [];
  for (const name of names) {
    if (name.startsWith('.')) continue;
    const record = await readRunRecord(name);
    if (record) runs.push(record);
  }
  return runs;
}

/** The record of run `id`, or null when there is no such run (any more). */
export async function readRunRecord(id: string): Promise<RunRecord | null> {
  const text = await readFile(join(runPath(id), 'run.json'), 'utf8').catch(() => null);
  if (text === null) return null;
  try {
    const record = JSON.parse(text) as RunRecord;
    return record.id === id && typeof record.ownerPid === 'number' ? record : null;
  } catch {
    return null;
  }
}

/** True while the process that made the run lives. */
export async function ownerIsAlive(record: RunRecord): Promise<boolean> {
  return (await processStartTicks(record.ownerPid)) === record.ownerStartTicks;
}

/** Removes both directories of a run. Throws MountedBelowError when something is mounted below them here. */
export async function removeRunDirectories(id: string, bulkPath: string): Promise<void> {
  const path = runPath(id);
  // A root of the lab has the machine's /dev in it: removing through a mount that leaked would destroy it.
  const mounts = await readFile('/proc/self/mounts', 'utf8');
  for (const line of mounts.split('\n')) {
    const mountPoint = line.split(' ')[1] ?? '';
    if ([path, bulkPath].some((top) => mountPoint === top || mountPoint.startsWith(`${top}/`))) {
      throw new MountedBelowError(mountPoint);
    }
  }
  await rm(bulkPath, { recursive: true, force: true });
  await rm(path, { recursive: true, force: true });
}

/** Field 22 of /proc/<pid>/stat (proc(5)), or null when there is no such process. */
export async function processStartTicks(pid: number): Promise<number | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
  if (stat === null) return null;
  // The name in field 2 may hold spaces and brackets: count from behind its last bracket, where field 3 begins.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = Number(fields[22 - 3]);
  return Number.isSafeInteger(ticks) ? ticks : null;
}
