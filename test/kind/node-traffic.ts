// Rates and byte counters of a kind cluster's networks, by HTB classes on the nodes' one interface: what a worker sends to the other
// worker's virt-handler is the migration network, what passes between a worker and the NAS's port is the storage network. Pure: tc(8)
// commands out, tc's text in.

/** As fast as it goes, for a class that only counts. */
const UNLIMITED_MBIT = 100_000;
const NFS_PORT = 2049;
/** Minor numbers of the classes; everything else goes through the first. */
const CLASS = { rest: 1, migration: 2, nas: 3, firstWorker: 16 } as const;

export interface WorkerPlan {
  readonly interface: string;
  /** Address of the other worker's virt-handler. */
  readonly peerHandler: string;
  readonly linkMbit: number;
}

export interface NasPlan {
  readonly interface: string;
  /** Addresses of the workers, whose kernels are the NAS's clients. */
  readonly workers: readonly string[];
  readonly nasMbit: number;
}

type Command = readonly string[];

/** For a worker: class 1:2 is what it sends to the other's virt-handler, 1:3 what it sends to the NAS. */
export function workerCommands(plan: WorkerPlan): Command[] {
  const dev = plan.interface;
  return [
    ...root(dev),
    shape(dev, CLASS.migration, plan.linkMbit),
    filter(dev, CLASS.migration, ['match', 'ip', 'dst', `${plan.peerHandler}/32`]),
    shape(dev, CLASS.nas, 0),
    filter(dev, CLASS.nas, ['match', 'ip', 'protocol', '6', '0xff', ...port('dport')]),
  ];
}

/** For the NAS's node: one class for each worker, what it reads. */
export function nasCommands(plan: NasPlan): Command[] {
  const dev = plan.interface;
  return [
    ...root(dev),
    ...plan.workers.flatMap((address, index) => [
      shape(dev, CLASS.firstWorker + index, plan.nasMbit),
      filter(dev, CLASS.firstWorker + index, ['match', 'ip', 'dst', `${address}/32`, ...port('sport')]),
    ]),
  ];
}

/** Takes all of it away; a qdisc of kind's own must go before ours is made, and ours before another is. Fails when there is none. */
export function removeCommand(dev: string): Command {
  return ['tc', 'qdisc', 'del', 'dev', dev, 'root'];
}

/** Counters, as text: not every tc that knows `-j` writes classes as JSON. */
export function countersCommand(dev: string): Command {
  return ['tc', '-s', 'class', 'show', 'dev', dev];
}

function root(dev: string): Command[] {
  return [
    ['tc', 'qdisc', 'add', 'dev', dev, 'root', 'handle', '1:', 'htb', 'default', hex(CLASS.rest)],
    shape(dev, CLASS.rest, 0),
  ];
}

function shape(dev: string, minor: number, mbit: number): Command {
  const rate = `${mbit === 0 ? UNLIMITED_MBIT : mbit}mbit`;
  // A burst of 10 ms at the rate, at least some frames with offloads.
  const burst = Math.max(256 * 1024, Math.round(((mbit === 0 ? UNLIMITED_MBIT : mbit) * 1e6 * 0.01) / 8));
  return [
    ...['tc', 'class', 'add', 'dev', dev, 'parent', '1:', 'classid', `1:${hex(minor)}`],
    ...['htb', 'rate', rate, 'burst', String(burst), 'cburst', String(burst)],
  ];
}

function filter(dev: string, minor: number, match: readonly string[]): Command {
  return [
    ...['tc', 'filter', 'add', 'dev', dev, 'parent', '1:', 'protocol', 'ip', 'prio', String(minor), 'u32'],
    ...match,
    ...['flowid', `1:${hex(minor)}`],
  ];
}

function port(side: 'sport' | 'dport'): string[] {
  return ['match', 'ip', side, String(NFS_PORT), '0xffff'];
}

/** tc reads and writes minor numbers in hexadecimal. */
function hex(minor: number): string {
  return minor.toString(16);
}

/** tc's answer lacks what was asked for. */
export class TrafficCountersError extends Error {
  readonly code = 'NASMIG_KIND_TRAFFIC_COUNTERS';
  constructor(problem: string) {
    super(`${problem}; the classes of test/kind/node-traffic.ts may have been removed from the node`);
    this.name = 'TrafficCountersError';
  }
}

/** Bytes sent in each class, by its minor number. */
export function sentBytes(text: string): Map<number, number> {
  const sent = new Map<number, number>();
  for (const [, minor = '', bytes = ''] of text.matchAll(
    /^class htb 1:([0-9a-f]+) .*\n\s+Sent (\d+) bytes/gm,
  ))
    sent.set(Number.parseInt(minor, 16), Number(bytes));
  return sent;
}

/** Throws {@link TrafficCountersError}: no class is not zero bytes. */
function bytesOf(text: string, minor: number): number {
  const bytes = sentBytes(text).get(minor);
  if (bytes === undefined) throw new TrafficCountersError(`there is no class 1:${hex(minor)}`);
  return bytes;
}

/** What a worker sent to the other on behalf of migrations, and to the NAS. */
export function workerBytes(text: string): { migration: number; toNas: number } {
  return { migration: bytesOf(text, CLASS.migration), toNas: bytesOf(text, CLASS.nas) };
}

/** What the NAS sent to the workers, in the order of the plan. */
export function nasBytes(text: string, workers: number): number[] {
  return Array.from({ length: workers }, (_, index) => bytesOf(text, CLASS.firstWorker + index));
}
