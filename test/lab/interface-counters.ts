// Bytes that passed a node's network interfaces, as the kernel counted them: Ethernet headers included, whatever the
// programs under test say. Read from /proc/<pid>/net/dev of any process in the namespace, which needs no namespace
// switch and takes well under a millisecond, so that it can be sampled during a migration.

import { readFile } from 'node:fs/promises';
import { MIGRATION_INTERFACE, STORAGE_INTERFACE } from './network.ts';

export interface InterfaceCounters {
  rxBytes: number;
  rxPackets: number;
  txBytes: number;
  txPackets: number;
}

/** Bytes by network and direction since the run began. All are wire bytes with headers, ACKs and NFS calls included. */
export interface Traffic {
  /** Wall clock, ms. */
  atMs: number;
  migration: { sourceToTarget: number; targetToSource: number };
  storage: Record<'source' | 'target', { read: number; written: number }>;
}

/** Parses the text of /proc/net/dev: two header lines, then `name: ` and 8 receive and 8 transmit columns. */
export function parseNetDev(text: string): Map<string, InterfaceCounters> {
  const counters = new Map<string, InterfaceCounters>();
  for (const line of text.split('\n')) {
    const match = /^\s*([^\s:]+):\s*(.+)$/.exec(line);
    if (match?.[1] === undefined || match[2] === undefined) continue;
    const columns = match[2].trim().split(/\s+/).map(Number);
    const [rxBytes, rxPackets] = columns;
    const [txBytes, txPackets] = columns.slice(8);
    if (rxBytes === undefined || rxPackets === undefined || txBytes === undefined || txPackets === undefined)
      continue;
    counters.set(match[1], { rxBytes, rxPackets, txBytes, txPackets });
  }
  return counters;
}

/** Counters of all interfaces of the network namespace that process `pid` is in. */
export async function readInterfaceCounters(pid: number): Promise<Map<string, InterfaceCounters>> {
  return parseNetDev(await readFile(`/proc/${pid}/net/dev`, 'utf8'));
}

/** Traffic of the run, from the counters of its two nodes (`pid`: any process in the node's network namespace). */
export async function readTraffic(sourcePid: number, targetPid: number): Promise<Traffic> {
  const [source, target] = await Promise.all([
    readInterfaceCounters(sourcePid),
    readInterfaceCounters(targetPid),
  ]);
  return {
    atMs: Date.now(),
    migration: {
      sourceToTarget: counter(source, MIGRATION_INTERFACE).txBytes,
      targetToSource: counter(target, MIGRATION_INTERFACE).txBytes,
    },
    storage: {
      source: {
        read: counter(source, STORAGE_INTERFACE).rxBytes,
        written: counter(source, STORAGE_INTERFACE).txBytes,
      },
      target: {
        read: counter(target, STORAGE_INTERFACE).rxBytes,
        written: counter(target, STORAGE_INTERFACE).txBytes,
      },
    },
  };
}

/** What passed between two readings; `atMs` becomes the time between them. */
export function trafficBetween(before: Traffic, after: Traffic): Traffic {
  const storage = (node: 'source' | 'target') => ({
    read: after.storage[node].read - before.storage[node].read,
    written: after.storage[node].written - before.storage[node].written,
  });
  return {
    atMs: after.atMs - before.atMs,
    migration: {
      sourceToTarget: after.migration.sourceToTarget - before.migration.sourceToTarget,
      targetToSource: after.migration.targetToSource - before.migration.targetToSource,
    },
    storage: { source: storage('source'), target: storage('target') },
  };
}

function counter(counters: Map<string, InterfaceCounters>, name: string): InterfaceCounters {
  const found = counters.get(name);
  if (!found) throw new Error(`the node has no interface ${name}; its network was not made, or was removed`);
  return found;
}
