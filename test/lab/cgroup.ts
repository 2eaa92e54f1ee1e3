// One cgroup per process of a run: its CPU seconds and memory are counted by the kernel, its memory can be limited,
// and everything it ever started can be found and ended. Works with cgroup v1 (cpuacct and memory hierarchies) and v2.
// All groups of a run lie below `nasmig/<run id>`, so that a run can be ended whoever started it.

import { constants, mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const LAB_GROUP = 'nasmig';

/** How long processes may take to vanish after SIGKILL. Seconds only when they hang in the kernel, e.g. on a dead FUSE server. */
const KILL_TIMEOUT_MS = 10_000;
const KILL_POLL_MS = 10;

export type CgroupLayout =
  | { version: 1; cpuacct: string; memory: string }
  | { version: 2; unified: string; hasMemory: boolean };

/** No cgroup hierarchy that the lab can use is mounted. */
export class CgroupsUnavailableError extends Error {
  readonly code = 'NASMIG_LAB_CGROUPS_UNAVAILABLE';
  constructor(detail: string) {
    super(
      `the lab measures and ends its processes by cgroup, but ${detail}; ` +
        'mount cgroup2, or the v1 hierarchies cpuacct and memory, writable for root',
    );
    this.name = 'CgroupsUnavailableError';
  }
}

/** Processes did not end although they were killed. */
export class ProcessesSurviveError extends Error {
  readonly code = 'NASMIG_LAB_PROCESSES_SURVIVE';
  constructor(group: string, pids: readonly number[]) {
    super(
      `processes ${pids.join(', ')} of ${group} survive SIGKILL for ${KILL_TIMEOUT_MS} ms; see /proc/<pid>/stack`,
    );
    this.name = 'ProcessesSurviveError';
  }
}

/** Picks the hierarchies from the text of /proc/mounts; null when there are none to use. */
export function parseCgroupMounts(
  mounts: string,
): { version: 1; cpuacct: string; memory: string } | { version: 2; unified: string } | null {
  let cpuacct: string | undefined;
  let memory: string | undefined;
  let unified: string | undefined;
  for (const line of mounts.split('\n')) {
    const [, path, type, options = ''] = line.split(' ');
    if (path === undefined) continue;
    if (type === 'cgroup2') unified ??= path;
    if (type !== 'cgroup') continue;
    const controllers = options.split(',');
    if (controllers.includes('cpuacct')) cpuacct ??= path;
    if (controllers.includes('memory')) memory ??= path;
  }
  // Where both are mounted (hybrid), the controllers are v1's.
  if (cpuacct !== undefined && memory !== undefined) return { version: 1, cpuacct, memory };
  if (unified !== undefined) return { version: 2, unified };
  return null;
}

/** Finds the hierarchies of this machine, in the `mounts` of `proc`. Throws CgroupsUnavailableError. */
export async function detectCgroups(proc = '/proc'): Promise<CgroupLayout> {
  const found = parseCgroupMounts(await readFile(join(proc, 'mounts'), 'utf8'));
  if (!found) throw new CgroupsUnavailableError(`${proc}/mounts has none`);
  if (found.version === 1) return found;
  const controllers = await readFile(join(found.unified, 'cgroup.controllers'), 'utf8');
  return { ...found, hasMemory: controllers.split(/\s+/).includes('memory') };
}

/** The cgroup of one process of a run. Its figures stay readable after the process has ended, until it is removed. */
export class ProcessCgroup {
  private readonly layout: CgroupLayout;
  private readonly name: string;

  private constructor(layout: CgroupLayout, name: string) {
    this.layout = layout;
    this.name = name;
  }

  /** Makes the group `nasmig/<runId>/<name>`; one that is there already is used again, with what it has counted so far. */
  static async create(layout: CgroupLayout, runId: string, name: string): Promise<ProcessCgroup> {
    const group = new ProcessCgroup(layout, join(LAB_GROUP, runId, name));
    if (layout.version === 2) await enableControllers(layout, runId);
    for (const directory of group.directories()) await mkdir(directory, { recursive: true });
    return group;
  }

  /** The group above those of all processes of a run; none is in it itself. */
  static ofRun(layout: CgroupLayout, runId: string): ProcessCgroup {
    return new ProcessCgroup(layout, join(LAB_GROUP, runId));
  }

  /** A process joins by writing its pid into each of these. */
  procsFiles(): string[] {
    return this.directories().map((directory) => join(directory, 'cgroup.procs'));
  }

  /** CPU time of everything that ever ran in the group and those below it, user and system, in seconds. */
  async cpuSeconds(): Promise<number> {
    if (this.layout.version === 1) {
      return Number(await readFile(join(this.layout.cpuacct, this.name, 'cpuacct.usage'), 'utf8')) / 1e9;
    }
    const stat = await readFile(join(this.layout.unified, this.name, 'cpu.stat'), 'utf8');
    return Number(/^usage_usec (\d+)$/m.exec(stat)?.[1] ?? Number.NaN) / 1e6;
  }

  /** Highest memory charged to the group, page cache included, in bytes. */
  async peakMemoryBytes(): Promise<number> {
    const file =
      this.layout.version === 1
        ? join(this.layout.memory, this.name, 'memory.max_usage_in_bytes')
        : join(this.layout.unified, this.name, 'memory.peak');
    return Number(await readFile(file, 'utf8'));
  }

  /** Limits the group's memory; the kernel ends a process of a group that needs more. */
  async limitMemory(bytes: number): Promise<void> {
    const { limit } = MEMORY_FILES[this.layout.version];
    await writeFile(join(memoryRoot(this.layout), this.name, limit), String(bytes));
  }

  /** Pids in the group now. */
  pids(): Promise<number[]> {
    return readPids(this.directories()[0] ?? '');
  }

  private directories(): string[] {
    return roots(this.layout).map((root) => join(root, this.name));
  }
}

/** The memory of the cgroup that a process is in, whoever made the group; from outside, while the process runs. */
export class ProcessMemory {
  readonly #directory: string;
  readonly #files: MemoryFiles;

  private constructor(directory: string, files: MemoryFiles) {
    this.#directory = directory;
    this.#files = files;
  }

  /** `proc` is where the machine's hierarchies and the process are looked up. Throws CgroupsUnavailableError. */
  static async of(pid: number, proc = '/proc'): Promise<ProcessMemory> {
    const layout = await detectCgroups(proc);
    const path = memoryGroupOf(layout.version, await readFile(join(proc, String(pid), 'cgroup'), 'utf8'));
    if (path === undefined) throw new CgroupsUnavailableError(`process ${pid} is in no memory cgroup`);
    return new ProcessMemory(join(memoryRoot(layout), path), MEMORY_FILES[layout.version]);
  }

  /** Memory charged to the group now, page cache included, in bytes. */
  async usedBytes(): Promise<number> {
    return Number(await readFile(join(this.#directory, this.#files.used), 'utf8'));
  }

  /**
   * Limits the group's memory, to less than it has too. Then the kernel takes back what it can; if that is not enough, v1 refuses
   * (EBUSY), v2 ends a process of the group at once.
   */
  async limit(bytes: number): Promise<void> {
    await this.#limitSwap('0');
    await writeFile(join(this.#directory, this.#files.limit), String(bytes));
  }

  /** As much as the groups above allow. */
  async unlimit(): Promise<void> {
    await writeFile(join(this.#directory, this.#files.limit), this.#files.unlimited);
    await this.#limitSwap(this.#files.unlimited);
  }

  /** What is over the limit could go to swap instead. A kernel that does not count swap by group has no such file. */
  async #limitSwap(bytes: string): Promise<void> {
    const { swapLimit } = this.#files;
    if (swapLimit === undefined) return;
    try {
      // Not to be made: that cgroupfs answers with EACCES, whether the file is missing or forbidden.
      await writeFile(join(this.#directory, swapLimit), bytes, {
        flag: constants.O_WRONLY | constants.O_TRUNC,
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
}

/** Names of the files, and what `limit` takes for no limit. */
interface MemoryFiles {
  readonly used: string;
  readonly limit: string;
  /** v1 limits memory and swap only together, and no lower than memory alone; it is left as it is. */
  readonly swapLimit: string | undefined;
  readonly unlimited: string;
}

const MEMORY_FILES: Readonly<Record<CgroupLayout['version'], MemoryFiles>> = {
  1: {
    used: 'memory.usage_in_bytes',
    limit: 'memory.limit_in_bytes',
    swapLimit: undefined,
    unlimited: '-1',
  },
  2: {
    used: 'memory.current',
    limit: 'memory.max',
    swapLimit: 'memory.swap.max',
    unlimited: 'max',
  },
};

/** Where the memory controller is. Throws CgroupsUnavailableError. */
function memoryRoot(layout: CgroupLayout): string {
  if (layout.version === 1) return layout.memory;
  if (layout.hasMemory) return layout.unified;
  throw new CgroupsUnavailableError('the memory controller is not delegated to this cgroup root');
}

/** A process's memory cgroup below the hierarchy's root, from the text of /proc/<pid>/cgroup (cgroups(7)). */
function memoryGroupOf(version: CgroupLayout['version'], text: string): string | undefined {
  const line = version === 1 ? /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m : /^0::(.*)$/m;
  return line.exec(text)?.[1];
}

/** Ends every process of a run with SIGKILL and removes the run's groups. Succeeds when there are none. */
export async function removeRunCgroups(layout: CgroupLayout, runId: string): Promise<void> {
  for (const root of roots(layout)) {
    const top = join(root, LAB_GROUP, runId);
    await killTree(top);
    await removeTree(top);
  }
}

/** Ids of the runs that have cgroups. */
export async function listRunCgroups(layout: CgroupLayout): Promise<string[]> {
  const ids = new Set<string>();
  for (const root of roots(layout)) {
    for (const directory of await childDirectories(join(root, LAB_GROUP))) ids.add(directory);
  }
  return [...ids];
}

function roots(layout: CgroupLayout): string[] {
  return layout.version === 1 ? [layout.cpuacct, layout.memory] : [layout.unified];
}

async function enableControllers(
  layout: { unified: string; hasMemory: boolean },
  runId: string,
): Promise<void> {
  if (!layout.hasMemory) return;
  for (const part of ['', LAB_GROUP, join(LAB_GROUP, runId)]) {
    const directory = join(layout.unified, part);
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'cgroup.subtree_control'), '+cpu +memory');
  }
}

async function killTree(top: string): Promise<void> {
  const deadline = Date.now() + KILL_TIMEOUT_MS;
  for (;;) {
    const pids = await pidsBelow(top);
    if (pids.length === 0) return;
    for (const pid of pids) {
      // A stopped process (SIGSTOP) dies of SIGKILL too.
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // Gone in the meantime.
      }
    }
    if (Date.now() > deadline) throw new ProcessesSurviveError(top, pids);
    await sleep(KILL_POLL_MS);
  }
}

async function pidsBelow(top: string): Promise<number[]> {
  const pids = await readPids(top);
  for (const child of await childDirectories(top)) pids.push(...(await pidsBelow(join(top, child))));
  return pids;
}

async function removeTree(top: string): Promise<void> {
  for (const child of await childDirectories(top)) await removeTree(join(top, child));
  const deadline = Date.now() + KILL_TIMEOUT_MS;
  for (;;) {
    try {
      await rmdir(top);
      return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT') return;
      // The kernel lets go of a group a moment after its last process was reaped.
      if (code !== 'EBUSY' || Date.now() > deadline) throw error;
      await sleep(KILL_POLL_MS);
    }
  }
}

async function childDirectories(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}

async function readPids(directory: string): Promise<number[]> {
  const text = await readFile(join(directory, 'cgroup.procs'), 'utf8').catch(() => '');
  return text.split('\n').filter(Boolean).map(Number);
}
