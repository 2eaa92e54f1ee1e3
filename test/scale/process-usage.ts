// What a process uses, as the kernel says: from outside, so that nothing it tells of itself counts.
import { readdir, readFile } from 'node:fs/promises';

export interface ProcessUsage {
  /** The most that was ever resident (VmHWM). */
  maxRssMiB: number;
  rssMiB: number;
  /** Open files and sockets. */
  descriptors: number;
  /** User and system time so far. */
  cpuSeconds: number;
}

/** Of proc(5), field 14 and 15 of `stat`: clock ticks are hundredths of a second on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

export async function usageOf(pid: number): Promise<ProcessUsage> {
  const [status, stat, descriptors] = await Promise.all([
    readFile(`/proc/${pid}/status`, 'utf8'),
    readFile(`/proc/${pid}/stat`, 'utf8'),
    readdir(`/proc/${pid}/fd`),
  ]);
  const mebibytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024;
  // The second field is the program's name in parentheses and may contain spaces.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return {
    maxRssMiB: mebibytes('VmHWM'),
    rssMiB: mebibytes('VmRSS'),
    descriptors: descriptors.length,
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
  };
}
