// How busy the machine's CPUs were between two moments, whoever used them: by the first line of /proc/stat (proc(5)).

import { readFileSync } from 'node:fs';

export interface CpuTimes {
  /** In the system's ticks, summed over all CPUs: nothing to do, waiting for disks included. */
  readonly idle: number;
  readonly all: number;
}

/** Of /proc/stat. Throws when it has no such line. */
export function parseCpuTimes(stat: string): CpuTimes {
  const fields = /^cpu +(\d[\d ]*)$/m.exec(stat)?.[1]?.split(' ').map(Number);
  if (fields === undefined) throw new Error('no line "cpu" in /proc/stat');
  // What guests used is in the first two fields already.
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = fields;
  return { idle: idle + iowait, all: user + nice + system + idle + iowait + irq + softirq + steal };
}

/** From 0 to 1; 0 when no time has passed that the system counts. */
export function busyShare(from: CpuTimes, to: CpuTimes): number {
  const passed = to.all - from.all;
  return passed > 0 ? 1 - (to.idle - from.idle) / passed : 0;
}

export function cpuTimes(): CpuTimes {
  return parseCpuTimes(readFileSync('/proc/stat', 'utf8'));
}
