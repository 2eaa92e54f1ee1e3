// The lab's networks: a network namespace each for source node, target node and NAS; one veth pair as migration
// network between the nodes, and one from each node to the NAS as storage network. Every direction has its own token
// bucket, so that any rate can be set at any time. Nothing is created in the host's own network.
//
//   source mig0 10.77.1.1 ══ 10.77.1.2 mig0 target     source nas0 10.77.2.1 ══ source0 NAS
//   NAS: 10.77.9.1 from both nodes                     target nas0 10.77.3.1 ══ target0 NAS

import { readdir } from 'node:fs/promises';
import { runCommand } from './run-command.ts';

export type NodeName = 'source' | 'target';
export type PlaceName = NodeName | 'nas';

export const PLACES: readonly PlaceName[] = ['source', 'target', 'nas'];

/** Name of the interface on the migration network, in both nodes. */
export const MIGRATION_INTERFACE = 'mig0';
/** Name of the interface to the NAS, in both nodes. */
export const STORAGE_INTERFACE = 'nas0';

export const MIGRATION_ADDRESS: Record<NodeName, string> = { source: '10.77.1.1', target: '10.77.1.2' };
/** The NAS has one address for everybody, as one PersistentVolume has one server. */
export const NAS_ADDRESS = '10.77.9.1';

const STORAGE_LINK: Record<NodeName, { node: string; nas: string; nasInterface: string }> = {
  source: { node: '10.77.2.1', nas: '10.77.2.2', nasInterface: 'source0' },
  target: { node: '10.77.3.1', nas: '10.77.3.2', nasInterface: 'target0' },
};

/** Ethernet's. Fixed, because headers are part of what is counted: 1448 bytes of payload in 1514 on the wire. */
const MTU_BYTES = 1500;

/** Mbit/s (10^6 bits, Ethernet headers included) from each side; 0 is unlimited. */
export interface LinkRate {
  /** Migration: source to target. Storage: node to NAS (writes). */
  outMbit: number;
  /** Migration: target to source. Storage: NAS to node (reads). */
  inMbit: number;
}

/** The parameters of a token bucket for a rate. */
export interface TokenBucket {
  bitsPerSecond: number;
  burstBytes: number;
  queueBytes: number;
}

/** A queue of 20 ms, as a switch port might have: TCP needs some to fill the rate, and all of it is latency. */
const QUEUE_MS = 20;
/** Below this many bytes of queue TCP cannot keep a slow link busy: 64 full frames. */
const MIN_QUEUE_BYTES = 64 * 1514;
/** 1 ms worth of bytes a burst: what a bucket may catch up after its timer came late on a busy machine. */
const BURST_MS = 1;
/** A bucket smaller than a few frames cannot reach its rate. */
const MIN_BURST_BYTES = 16 * 1024;

/** Token bucket for `mbit`; null for unlimited (0). Throws RangeError for what is not a rate. */
export function tokenBucket(mbit: number): TokenBucket | null {
  if (!Number.isFinite(mbit) || mbit < 0)
    throw new RangeError(`a link rate of ${mbit} Mbit/s: want 0 (unlimited) or more`);
  if (mbit === 0) return null;
  const bytesPerMs = (mbit * 1e6) / 8 / 1000;
  return {
    bitsPerSecond: Math.round(mbit * 1e6),
    burstBytes: Math.max(MIN_BURST_BYTES, Math.round(bytesPerMs * BURST_MS)),
    queueBytes: Math.max(MIN_QUEUE_BYTES, Math.round(bytesPerMs * QUEUE_MS)),
  };
}

export interface NetworkRates {
  migration: LinkRate;
  storage: Record<NodeName, LinkRate>;
}

const NAMESPACE_PREFIX = 'nasmig-';
/** `ip netns` keeps its namespaces here. */
const NETNS_DIRECTORY = '/run/netns';
const COMMAND_TIMEOUT_MS = 20_000;

/** Name of the network namespace of a place of a run. */
export function namespaceName(runId: string, place: PlaceName): string {
  return `${NAMESPACE_PREFIX}${runId}-${place}`;
}

export class LabNetwork {
  readonly runId: string;

  private constructor(runId: string) {
    this.runId = runId;
  }

  /** Makes namespaces and links of a run, unlimited; leftovers of the same run are removed first. */
  static async create(runId: string): Promise<LabNetwork> {
    await removeRunNetwork(runId);
    const network = new LabNetwork(runId);
    for (const place of PLACES) {
      const namespace = network.namespace(place);
      await run('ip', 'netns', 'add', namespace);
      // IPv6 would send neighbour discovery and multicast reports of its own, and all bytes are counted.
      await run(
        'ip',
        'netns',
        'exec',
        namespace,
        'sh',
        '-c',
        'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up',
      );
    }
    await network.connect(
      'source',
      MIGRATION_INTERFACE,
      MIGRATION_ADDRESS.source,
      'target',
      MIGRATION_INTERFACE,
      MIGRATION_ADDRESS.target,
    );
    for (const node of ['source', 'target'] as const) {
      const link = STORAGE_LINK[node];
      await network.connect(node, STORAGE_INTERFACE, link.node, 'nas', link.nasInterface, link.nas);
      await run('ip', '-n', network.namespace(node), 'route', 'add', NAS_ADDRESS, 'via', link.nas);
    }
    await run('ip', '-n', network.namespace('nas'), 'addr', 'add', `${NAS_ADDRESS}/32`, 'dev', 'lo');
    return network;
  }

  namespace(place: PlaceName): string {
    return namespaceName(this.runId, place);
  }

  async setRates(rates: NetworkRates): Promise<void> {
    await this.setMigrationRate(rates.migration);
    await this.setStorageRate('source', rates.storage.source);
    await this.setStorageRate('target', rates.storage.target);
  }

  async setMigrationRate(rate: LinkRate): Promise<void> {
    await this.shape('source', MIGRATION_INTERFACE, rate.outMbit);
    await this.shape('target', MIGRATION_INTERFACE, rate.inMbit);
  }

  async setStorageRate(node: NodeName, rate: LinkRate): Promise<void> {
    await this.shape(node, STORAGE_INTERFACE, rate.outMbit);
    await this.shape('nas', STORAGE_LINK[node].nasInterface, rate.inMbit);
  }

  /** Down: packets vanish and connections stay, as when a cable is pulled. Up again: they go on after TCP's next retry. */
  async setMigrationLinkUp(up: boolean): Promise<void> {
    await run('ip', '-n', this.namespace('source'), 'link', 'set', MIGRATION_INTERFACE, up ? 'up' : 'down');
  }

  /** As setMigrationLinkUp, for the storage link of one node. */
  async setStorageLinkUp(node: NodeName, up: boolean): Promise<void> {
    // At the NAS's end, because the node's end would take the route to the NAS with it.
    await run(
      'ip',
      '-n',
      this.namespace('nas'),
      'link',
      'set',
      STORAGE_LINK[node].nasInterface,
      up ? 'up' : 'down',
    );
  }

  private async connect(
    leftPlace: PlaceName,
    leftInterface: string,
    leftAddress: string,
    rightPlace: PlaceName,
    rightInterface: string,
    rightAddress: string,
  ): Promise<void> {
    const left = this.namespace(leftPlace);
    const right = this.namespace(rightPlace);
    await run(
      'ip',
      'link',
      'add',
      leftInterface,
      'netns',
      left,
      'type',
      'veth',
      'peer',
      'name',
      rightInterface,
      'netns',
      right,
    );
    for (const [namespace, device, address] of [
      [left, leftInterface, leftAddress],
      [right, rightInterface, rightAddress],
    ] as const) {
      await run('ip', '-n', namespace, 'link', 'set', device, 'mtu', String(MTU_BYTES));
      // Without this a veth passes 64 KiB "frames": headers would not be counted, and buckets would be emptied in lumps.
      await run(
        'ip',
        'netns',
        'exec',
        namespace,
        'ethtool',
        '-K',
        device,
        'tx',
        'off',
        'tso',
        'off',
        'gso',
        'off',
        'gro',
        'off',
      );
      await run('ip', '-n', namespace, 'addr', 'add', `${address}/24`, 'dev', device);
      await run('ip', '-n', namespace, 'link', 'set', device, 'up');
    }
  }

  private async shape(place: PlaceName, device: string, mbit: number): Promise<void> {
    const bucket = tokenBucket(mbit);
    const target = ['tc', '-n', this.namespace(place), 'qdisc', 'replace', 'dev', device, 'root'];
    if (bucket === null) {
      await run(...target, 'pfifo', 'limit', '1000');
      return;
    }
    await run(
      ...target,
      ...[
        'tbf',
        'rate',
        `${bucket.bitsPerSecond}bit`,
        'burst',
        String(bucket.burstBytes),
        'limit',
        String(bucket.queueBytes),
      ],
    );
  }
}

/** Removes the namespaces of a run, and with them its links. Succeeds when there are none. */
export async function removeRunNetwork(runId: string): Promise<void> {
  for (const place of PLACES) {
    const name = namespaceName(runId, place);
    const present = async () => (await readdir(NETNS_DIRECTORY).catch(() => [] as string[])).includes(name);
    if (!(await present())) continue;
    await run('ip', 'netns', 'delete', name).catch(async (error) => {
      // Somebody else may be removing the same run.
      if (await present()) throw error;
    });
  }
}

/** Ids of the runs that have network namespaces. */
export async function listRunNetworks(): Promise<string[]> {
  const present = await readdir(NETNS_DIRECTORY).catch(() => [] as string[]);
  const ids = new Set<string>();
  for (const name of present) {
    const match = new RegExp(`^${NAMESPACE_PREFIX}([0-9a-f]+)-(?:${PLACES.join('|')})$`).exec(name);
    if (match?.[1] !== undefined) ids.add(match[1]);
  }
  return [...ids];
}

async function run(...argv: string[]): Promise<void> {
  await runCommand(argv, { timeoutMs: COMMAND_TIMEOUT_MS });
}
