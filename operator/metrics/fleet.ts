// What connected sidecars said last of themselves, summed by node for the metrics. Sums, not one series per pod; a cluster
// with more nodes than are kept apart has the rest under one name. What only grows (CPU, reads) is counted by its
// differences, so that it goes on growing when a sidecar goes. Pure but for what it remembers.
import type { IndexStatus, Stats } from '../../control/messages.ts';

/** Nodes that have series of their own. */
export const MAX_NODES = 500;
/** The label of all other nodes, and of pods whose node is not known. */
export const OTHER_NODES = 'other';

export interface NodeSums {
  sidecars: number;
  /** Those whose index is not being built. */
  ready: number;
  blocks: number;
  indexBytes: number;
  residentBytes: number;
  /** The oldest index of the node: since it last took in a block. */
  maxAgeSeconds: number;
}

interface Known {
  index: IndexStatus;
  residentBytes: number;
  cpuMilliseconds: number;
  nasReadBytes: number;
  built: boolean;
}

export interface FleetCounters {
  onCpu: (seconds: number) => void;
  onNasRead: (bytes: number) => void;
  /** An index was built; once for each build of a sidecar. */
  onBuilt: (seconds: number) => void;
}

export class Fleet {
  readonly #counters: FleetCounters;
  readonly #byPod = new Map<string, Known>();

  constructor(counters: FleetCounters) {
    this.#counters = counters;
  }

  /** A sidecar connected: what it says to have used before is not ours to count, another leader did. */
  connected(podUid: string, index: IndexStatus): void {
    this.#byPod.set(podUid, {
      index,
      residentBytes: 0,
      cpuMilliseconds: Number.POSITIVE_INFINITY,
      nasReadBytes: index.nasReadBytes ?? 0,
      built: index.buildSeconds !== undefined,
    });
  }

  told(podUid: string, { index, residentBytes, cpuMilliseconds }: Stats): void {
    const before = this.#byPod.get(podUid);
    if (before === undefined) return;
    const nasReadBytes = index.nasReadBytes ?? before.nasReadBytes;
    // A restarted sidecar starts from zero.
    if (nasReadBytes > before.nasReadBytes) this.#counters.onNasRead(nasReadBytes - before.nasReadBytes);
    if (cpuMilliseconds > before.cpuMilliseconds)
      this.#counters.onCpu((cpuMilliseconds - before.cpuMilliseconds) / 1000);
    if (index.buildSeconds !== undefined && !before.built) this.#counters.onBuilt(index.buildSeconds);
    const built = index.buildSeconds !== undefined;
    this.#byPod.set(podUid, { index, residentBytes, cpuMilliseconds, nasReadBytes, built });
  }

  ended(podUid: string): void {
    this.#byPod.delete(podUid);
  }

  clear(): void {
    this.#byPod.clear();
  }

  /** By node, in the order in which the nodes' names are sorted, so that the same ones are kept apart each time. */
  byNode(nodeOf: (podUid: string) => string | undefined): Map<string, NodeSums> {
    const all = [...this.#byPod].map(([podUid, known]) => ({ node: nodeOf(podUid) ?? OTHER_NODES, known }));
    const kept = new Set([...new Set(all.map(({ node }) => node))].sort().slice(0, MAX_NODES));
    const sums = new Map<string, NodeSums>();
    for (const { node, known } of all) {
      const name = kept.has(node) ? node : OTHER_NODES;
      let sum = sums.get(name);
      if (sum === undefined) {
        sum = { sidecars: 0, ready: 0, blocks: 0, indexBytes: 0, residentBytes: 0, maxAgeSeconds: 0 };
        sums.set(name, sum);
      }
      sum.sidecars += 1;
      sum.ready += known.index.ready ? 1 : 0;
      sum.blocks += known.index.blocks;
      sum.indexBytes += known.index.bytes;
      sum.residentBytes += known.residentBytes;
      sum.maxAgeSeconds = Math.max(sum.maxAgeSeconds, known.index.ageSeconds);
    }
    return sums;
  }
}
