// The recorder program alone, between two ends played by this test: it must not be noticed, and must not be wrong.

import { type ChildProcess, spawn } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { buildGoProgram } from './go-programs.ts';
import { forwardBytesSince, type RecorderReport, readReport, recorderDigest } from './recorders.ts';
import { ListeningEnd, SocketEnd, until } from './socket-ends.ts';

let directory: string;
let recorder: ChildProcess;
let listening: ListeningEnd | null;
const file = (name: string) => join(directory, name);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nasmig-recorder-'));
  listening = null;
  recorder = spawn(
    await buildGoProgram('recorder'),
    [
      ...['--listen', file('in.sock'), '--dial', file('out.sock')],
      ...['--report', file('report.json'), '--key', KEY.toString('hex')],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  if (recorder.stdout) await once(recorder.stdout, 'data');
});

afterEach(async () => {
  listening?.close();
  if (recorder.exitCode === null && recorder.signalCode === null) {
    recorder.kill('SIGKILL');
    await once(recorder, 'exit');
  }
  await rm(directory, { recursive: true, force: true });
});

async function listen(): Promise<ListeningEnd> {
  listening = await ListeningEnd.listen(file('out.sock'));
  return listening;
}

async function finish(): Promise<RecorderReport> {
  recorder.kill('SIGTERM');
  const [code] = await once(recorder, 'exit');
  expect(code).toBe(0);
  return readReport(file('report.json'));
}

const KEY = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const digest = (bytes: Uint8Array) => recorderDigest(bytes, KEY);
const mainMagic = Buffer.from('QEVM\0\0\0\x03');

function multifdInit(channel: number): Buffer {
  const packet = Buffer.alloc(64);
  packet.writeUInt32BE(0x11223344, 0);
  packet.writeUInt32BE(1, 4);
  packet[24] = channel;
  return packet;
}

test('relays both directions, hashes them, and passes half-closes in both', async () => {
  const target = await listen();
  const near = await SocketEnd.connect(file('in.sock'));
  const sent = Buffer.concat([mainMagic, randomFillSync(Buffer.alloc(5_000_001))]);
  await near.write(sent);
  near.socket.end();
  const far = await target.connection(0);
  await far.ends();
  expect(far.received().equals(sent)).toBe(true);

  // The other direction is still open, in both senses.
  expect(near.ended).toBe(false);
  const back = randomFillSync(Buffer.alloc(300_000));
  await far.write(back);
  await near.receives(back.length);
  far.socket.end();
  await near.closes();
  expect(near.received().equals(back)).toBe(true);

  const report = await finish();
  expect(report.connections).toHaveLength(1);
  expect(report.connections[0]).toMatchObject({
    ordinal: 0,
    kind: 'main',
    id: null,
    errors: [],
    forward: { bytes: sent.length, hashedBytes: sent.length, digest: digest(sent), ended: true },
    return: { bytes: back.length, hashedBytes: back.length, digest: digest(back), ended: true },
  });
});

test('the end of the far side alone reaches the near side, which may go on writing', async () => {
  const target = await listen();
  const near = await SocketEnd.connect(file('in.sock'));
  const far = await target.connection(0);
  far.socket.end('done');
  await near.ends();
  expect(near.received().toString()).toBe('done');
  await near.write(Buffer.from('still here'));
  await far.receives(10);
  expect(far.received().toString()).toBe('still here');
});

test('connections are dialed in the order in which they were accepted, and told apart by their first bytes', async () => {
  const near: SocketEnd[] = [];
  for (let i = 0; i < 9; i++) near.push(await SocketEnd.connect(file('in.sock')));
  // Nobody listens yet: the recorder keeps trying, in order.
  await sleep(50);
  const target = await listen();
  // Written in the opposite order, so that order of writing cannot stand in for order of connecting.
  for (let i = 8; i >= 0; i--)
    await near[i]?.write(i === 0 ? mainMagic : i === 8 ? Buffer.from('no mark') : multifdInit(i + 10));
  for (let i = 0; i < 9; i++) {
    const far = await target.connection(i);
    await far.receives(7);
    expect(far.received()[24]).toBe(i === 0 || i === 8 ? undefined : i + 10);
  }
  const { connections } = await finish();
  expect(connections.map(({ kind, id }) => (id === null ? kind : `${kind} ${id}`))).toEqual([
    'main',
    ...[11, 12, 13, 14, 15, 16, 17].map((id) => `multifd ${id}`),
    'other',
  ]);
});

test('a mark that arrives byte by byte is recognised', async () => {
  const target = await listen();
  const near = await SocketEnd.connect(file('in.sock'));
  near.socket.setNoDelay(true);
  for (const byte of multifdInit(5)) {
    await near.write(Uint8Array.of(byte));
    await sleep(1);
  }
  await (await target.connection(0)).receives(64);
  expect((await finish()).connections[0]).toMatchObject({ kind: 'multifd', id: 5 });
});

test('when the far side is gone, the near side can write no more', async () => {
  const target = await listen();
  const near = await SocketEnd.connect(file('in.sock'));
  (await target.connection(0)).socket.destroy();
  await near.ends();
  await until('an error on writing', async () => {
    near.socket.write('x');
    return near.error !== null;
  });
  expect(near.error?.code).toBe('EPIPE');
});

test('when the near side is gone, the far side sees its end, and the report is written without a signal', async () => {
  const target = await listen();
  const near = await SocketEnd.connect(file('in.sock'));
  await near.write(mainMagic);
  const far = await target.connection(0);
  await far.receives(8);
  near.socket.destroy();
  await far.ends();
  far.socket.end();
  await until('a report of a closed connection', async () => {
    const report = await readReport(file('report.json'));
    return report.open === 0 && report.connections[0]?.closedMs !== null && report.connections.length === 1;
  });
});

test('what passes is held back by a far side that does not read, and memory stays bounded', async () => {
  const target = await listen();
  const near = await SocketEnd.connect(file('in.sock'));
  const far = await target.connection(0);
  far.socket.pause();
  const chunk = Buffer.alloc(1 << 20);
  let accepted = 0;
  const writer = (async () => {
    for (let i = 0; i < 256; i++) {
      await near.write(chunk);
      accepted += chunk.length;
    }
  })();
  await sleep(300);
  expect(accepted).toBeLessThan(8 << 20);
  const status = await readFile(`/proc/${recorder.pid}/status`, 'utf8');
  expect(Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1])).toBeLessThan(64 * 1024);
  far.socket.resume();
  await writer;
  await far.receives(256 << 20);
});

test('the report of SIGTERM has connections that are still open, and a timeline that adds up', async () => {
  const target = await listen();
  const near = await SocketEnd.connect(file('in.sock'));
  const far = await target.connection(0);
  await near.write(Buffer.concat([mainMagic, Buffer.alloc(999_992)]));
  await far.receives(1_000_000);
  await sleep(60);
  const betweenMs = Date.now();
  await sleep(60);
  await near.write(Buffer.alloc(500));
  await far.receives(1_000_500);
  const report = await finish();
  expect(report.open).toBe(1);
  expect(report.connections[0]?.forward).toMatchObject({
    bytes: 1_000_500,
    hashedBytes: 1_000_500,
    ended: false,
  });
  expect(forwardBytesSince(report, 0)).toBe(1_000_500);
  expect(forwardBytesSince(report, betweenMs)).toBe(500);
});

test('nobody ever listens at the next hop: the connection is closed after the time for retries, and the report says why', async () => {
  const near = await SocketEnd.connect(file('in.sock'));
  await once(near.socket, 'end');
  const report = await finish();
  expect(report.connections[0]?.errors[0]).toMatch(/^dial: .*no such file/);
  expect(report.connections[0]?.forward.bytes).toBe(0);
});

test.each([
  [['--listen', 'x.sock'], 'usage: recorder --listen PATH'],
  [
    ['--listen', 'x.sock', '--dial', 'y.sock', '--report', 'r.json', '--key', '0011'],
    '--key "0011": want 32',
  ],
])('a missing or wrong option is told: %j', async (options, expected) => {
  const child = spawn(await buildGoProgram('recorder'), options, {
    cwd: directory,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let message = '';
  child.stderr.on('data', (chunk: Buffer) => {
    message += chunk.toString();
  });
  const [code] = await once(child, 'close');
  expect(code).toBe(1);
  expect(message).toContain(expected);
});
