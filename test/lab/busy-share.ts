// How busy the machine's CPUs were between two moments, whoever used them.

import { cpus } from 'node:os';

export class BusyShare {
  readonly #begin = cpuTimes();

  /** From 0 to 1, of all CPUs since this was made. 0 when no time has passed that the system counts. */
  end(): number {
    const { idle, all } = cpuTimes();
    const passed = all - this.#begin.all;
    return passed > 0 ? 1 - (idle - this.#begin.idle) / passed : 0;
  }
}

function cpuTimes(): { idle: number; all: number } {
  let [idle, all] = [0, 0];
  for (const { times } of cpus()) {
    idle += times.idle;
    all += times.user + times.nice + times.sys + times.irq + times.idle;
  }
  return { idle, all };
}
