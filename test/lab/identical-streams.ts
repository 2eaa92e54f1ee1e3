// The proof: what the source QEMU wrote and what the target QEMU received, connection by connection, by the reports of
// two recorders that know nothing of what lies between them.

import type { RecordedConnection, RecordedDirection, RecorderReport } from './recorders.ts';

export interface StreamComparison {
  /** Every connection's forward bytes are equal, and there are some. */
  identical: boolean;
  /** The return path as well. virt-handler's proxy may cut its last bytes, so it is told apart. */
  returnIdentical: boolean;
  /** Forward bytes on all connections, as the source recorder counted them. */
  streamBytes: number;
  connections: { channel: string; bytes: number; identical: boolean }[];
  /** One line for each thing that is not equal. */
  differences: string[];
}

/** Compares what left the source QEMU with what reached the target QEMU. */
export function compareStreams(source: RecorderReport, target: RecorderReport): StreamComparison {
  const atSource = byChannel(source);
  const atTarget = byChannel(target);
  const differences: string[] = [];
  const connections: StreamComparison['connections'] = [];
  let streamBytes = 0;
  let returnIdentical = true;
  for (const [channel, left] of atSource) {
    const right = atTarget.get(channel);
    streamBytes += left.forward.bytes;
    if (!right) {
      differences.push(
        `${channel}: ${left.forward.bytes} bytes left the source, and no such connection reached the target`,
      );
      connections.push({ channel, bytes: left.forward.bytes, identical: false });
      continue;
    }
    const difference = directionDifference(left.forward, right.forward);
    if (difference) differences.push(`${channel}: ${difference}`);
    connections.push({ channel, bytes: left.forward.bytes, identical: difference === null });
    if (directionDifference(right.return, left.return)) returnIdentical = false;
  }
  for (const [channel, right] of atTarget) {
    if (!atSource.has(channel))
      differences.push(
        `${channel}: ${right.forward.bytes} bytes reached the target, and none left the source`,
      );
  }
  const main = atSource.get('main');
  if (!main || main.forward.bytes === 0) differences.push('main: nothing was migrated');
  return { identical: differences.length === 0, returnIdentical, streamBytes, connections, differences };
}

/** The figure of demo.json and lab.json: null when the migration failed, and never true for zero bytes. */
export function identicalStreams(comparison: StreamComparison, succeeded: boolean): boolean | null {
  return succeeded ? comparison.identical : null;
}

/** What differs between written and received bytes of one direction, or null. */
function directionDifference(written: RecordedDirection, received: RecordedDirection): string | null {
  for (const side of [written, received]) {
    if (side.hashedBytes !== side.bytes)
      return `only ${side.hashedBytes} of ${side.bytes} bytes were hashed when the report was written`;
  }
  if (written.bytes !== received.bytes) return `${written.bytes} bytes written, ${received.bytes} received`;
  if (written.digest !== received.digest)
    return `${written.bytes} bytes, digest ${written.digest} written, ${received.digest} received`;
  return null;
}

/** Connections by what they are; those that cannot be told apart by their first bytes by their order. */
function byChannel(report: RecorderReport): Map<string, RecordedConnection> {
  const channels = new Map<string, RecordedConnection>();
  for (const connection of report.connections) {
    const base = connection.id === null ? connection.kind : `${connection.kind} ${connection.id}`;
    let channel = base;
    for (let copy = 2; channels.has(channel); copy++) channel = `${base} (${copy})`;
    channels.set(channel, connection);
  }
  return channels;
}
