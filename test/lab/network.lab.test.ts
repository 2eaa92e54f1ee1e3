// The migration network with real TCP through the proxies: what is set is what is measured, at the interfaces.

import { randomFillSync } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compareStreams, identicalStreams } from './identical-streams.ts';
import { trafficBetween } from './interface-counters.ts';
import { Lab, symmetricRates } from './lab.ts';
import type { MigrationPath } from './migration-path.ts';
import { ListeningEnd, SocketEnd } from './socket-ends.ts';

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.start();
});
afterAll(() => lab.close());

let pathCount = 0;

/** Opens a path, and connects its two ends. */
async function connected(): Promise<{ path: MigrationPath; near: SocketEnd; far: SocketEnd; close(): void }> {
  const path = await lab.openMigrationPath({ name: `path-${pathCount++}`, sidecars: false });
  const listening = await ListeningEnd.listen(path.targetSocket);
  const near = await SocketEnd.connect(path.sourceSocket);
  const far = await listening.connection(0);
  return {
    path,
    near,
    far,
    close: () => {
      near.socket.destroy();
      listening.close();
    },
  };
}

interface Measurement {
  /** Mbit/s with headers, at the interface. */
  wire: number;
  /** Mbit/s of the sender's bytes. */
  payload: number;
  /** Of all CPUs together, 0 to 1. */
  idleCpu: number;
}

async function cpuTicks(): Promise<{ idle: number; all: number }> {
  const [, ...ticks] = (await readFile('/proc/stat', 'utf8')).split('\n', 1)[0]?.split(/\s+/) ?? [];
  const numbers = ticks.map(Number);
  return { idle: numbers[3] ?? 0, all: numbers.reduce((sum, count) => sum + count, 0) };
}

/** Sends for `seconds` at about `mbit` and returns measured Mbit/s on the wire and of payload, in the sending direction. */
async function measure(mbit: number, direction: 'out' | 'in', seconds: number): Promise<Measurement> {
  const { path, near, far, close } = await connected();
  const [from, to] = direction === 'out' ? [near, far] : [far, near];
  to.countOnly();
  // Connection and handshakes are not what is measured.
  await from.write(Buffer.from('QEVM'));
  await to.receives(4);
  const cpuBefore = await cpuTicks();
  const before = await lab.traffic();
  const started = performance.now();
  const chunk = randomFillSync(Buffer.alloc(64 * 1024));
  const total = (mbit * 1e6 * seconds) / 8;
  let sent = 4;
  for (; sent < total; sent += chunk.length) await from.write(chunk);
  await to.receives(sent);
  const elapsed = (performance.now() - started) / 1000;
  const { migration } = trafficBetween(before, await lab.traffic());
  const cpuAfter = await cpuTicks();
  close();
  await path.finish();
  const wireBytes = direction === 'out' ? migration.sourceToTarget : migration.targetToSource;
  return {
    wire: (wireBytes * 8) / elapsed / 1e6,
    payload: (sent * 8) / elapsed / 1e6,
    idleCpu: (cpuAfter.idle - cpuBefore.idle) / (cpuAfter.all - cpuBefore.all),
  };
}

/** On a machine that others use, seconds pass in which TLS alone does not get the CPU for 1 Gbit/s. */
const ATTEMPTS = 5;

test.each([
  { mbit: 20, direction: 'out' },
  { mbit: 100, direction: 'in' },
  { mbit: 200, direction: 'out' },
  { mbit: 1000, direction: 'out' },
  { mbit: 1000, direction: 'in' },
] as const)(
  '$mbit Mbit/s $direction: measured on the wire within 5 %, and never more',
  async ({ mbit, direction }) => {
    await lab.network.setMigrationRate({ outMbit: mbit, inMbit: mbit });
    let best: Measurement = { wire: 0, payload: 0, idleCpu: 0 };
    for (let attempt = 0; attempt < ATTEMPTS && best.wire < 0.95 * mbit; attempt++) {
      const measured = await measure(mbit, direction, 2);
      console.log(
        `${mbit} Mbit/s ${direction}: ${measured.wire.toFixed(1)} on the wire, ${measured.payload.toFixed(1)} of payload`,
      );
      expect(measured.wire).toBeLessThan(1.05 * mbit);
      if (measured.wire > best.wire) best = measured;
    }
    const busy = `${(best.idleCpu * 100).toFixed(0)} % of the CPU was idle; with next to none, measure again on a quiet machine`;
    expect(best.wire, busy).toBeGreaterThan(0.95 * mbit);
    // 1448 of 1514 bytes of a frame are payload, less TLS records and acknowledgements that go the same way.
    expect(best.payload / best.wire).toBeGreaterThan(0.94);
    expect(best.payload / best.wire).toBeLessThan(0.96);
  },
);

test('directions are shaped apart, and a rate can be changed while bytes pass', async () => {
  await lab.network.setMigrationRate({ outMbit: 20, inMbit: 200 });
  expect((await measure(20, 'out', 1)).wire).toBeLessThan(21.5);
  expect((await measure(200, 'in', 1)).wire).toBeGreaterThan(100);

  const { path, near, far, close } = await connected();
  await lab.network.setMigrationRate({ outMbit: 8, inMbit: 8 });
  const chunk = Buffer.alloc(1 << 20);
  const writer = (async () => {
    for (let i = 0; i < 24; i++) await near.write(chunk);
  })();
  await new Promise((resolve) => setTimeout(resolve, 500));
  const slow = far.receivedBytes;
  expect(slow).toBeLessThan(2_000_000);
  await lab.network.setMigrationRate({ outMbit: 0, inMbit: 0 });
  await writer;
  await far.receives(24 << 20);
  close();
  await path.finish();
});

test('a link that is down stalls connections and does not break them', async () => {
  await lab.network.setRates(symmetricRates(0, 0));
  const { path, near, far, close } = await connected();
  await near.write(Buffer.from('QEVM'));
  await far.receives(4);
  await lab.network.setMigrationLinkUp(false);
  await near.write(Buffer.alloc(1000));
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(far.receivedBytes).toBe(4);
  await lab.network.setMigrationLinkUp(true);
  await far.receives(1004);
  expect(near.error ?? far.error).toBeNull();
  close();
  await path.finish();
});

test('nine connections through recorders and TLS: streams are identical, and the interface saw them', async () => {
  const path = await lab.openMigrationPath({ name: 'nine', sidecars: false });
  const listening = await ListeningEnd.listen(path.targetSocket);
  const before = await lab.traffic();
  let total = 0;
  const nears: SocketEnd[] = [];
  for (let i = 0; i < 9; i++) {
    const near = await SocketEnd.connect(path.sourceSocket);
    const bytes = randomFillSync(Buffer.alloc(1_000_000 + i));
    bytes.writeUInt32BE(i === 0 ? 0x5145564d : 0x11223344, 0);
    bytes[24] = i;
    await near.write(bytes);
    await (await listening.connection(i)).receives(bytes.length);
    total += bytes.length;
    nears.push(near);
  }
  // The target QEMU's answer, and the end of a migration: it closes.
  await (await listening.connection(0)).write(Buffer.from('return path'));
  await nears[0]?.receives(11);
  const { migration } = trafficBetween(before, await lab.traffic());
  for (let i = 0; i < 9; i++) (await listening.connection(i)).socket.end();
  for (const near of nears) await near.ends();
  listening.close();
  const reports = await path.finish();
  const comparison = compareStreams(reports.source, reports.target);
  expect(comparison.differences).toEqual([]);
  expect(identicalStreams(comparison, true)).toBe(true);
  expect(comparison.returnIdentical).toBe(true);
  expect(comparison.streamBytes).toBe(total);
  expect(comparison.connections.map((connection) => connection.channel)).toContain('multifd 8');
  expect(migration.sourceToTarget).toBeGreaterThan(total * 1.04);
  expect(migration.sourceToTarget).toBeLessThan(total * 1.08);
});

test('the way back, and a path with room for sidecars', async () => {
  const path = await lab.openMigrationPath({ name: 'back', sidecars: true, from: 'target' });
  expect(path.sourceSocket.startsWith(lab.target.path)).toBe(true);
  const sockets = path.sidecars;
  if (!sockets) throw new Error('a path with sidecars says where they belong');
  const listening = await ListeningEnd.listen(path.targetSocket);
  const targetSidecar = await ListeningEnd.listen(sockets.target.listen);
  const sourceSidecar = await ListeningEnd.listen(sockets.source.listen);
  const before = await lab.traffic();
  const near = await SocketEnd.connect(path.sourceSocket);
  await near.write(Buffer.from('QEVM to be changed on the way'));
  // The sidecars, played by hand: an altering one is found out.
  const accepted = await sourceSidecar.connection(0);
  await accepted.receives(29);
  const outward = await SocketEnd.connect(sockets.source.dial);
  await outward.write(Buffer.from('QEVM as changed'));
  const inward = await targetSidecar.connection(0);
  await inward.receives(15);
  const final = await SocketEnd.connect(sockets.target.dial);
  await final.write(inward.received());
  await (await listening.connection(0)).receives(15);
  const { migration } = trafficBetween(before, await lab.traffic());
  expect(migration.targetToSource).toBeGreaterThan(migration.sourceToTarget / 10);
  for (const end of [near, outward, final]) end.socket.destroy();
  for (const end of [listening, targetSidecar, sourceSidecar]) end.close();
  const reports = await path.finish();
  const comparison = compareStreams(reports.source, reports.target);
  expect(identicalStreams(comparison, true)).toBe(false);
  expect(comparison.differences).toEqual(['main: 29 bytes written, 15 received']);
});
