// The stand-in for virt-handler's proxies, alone: what it does not do is what the sidecars must live with.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { link, mkdtemp, readFile, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { pathExists } from './build-cache.ts';
import { buildGoProgram } from './go-programs.ts';
import { ListeningEnd, SocketEnd } from './socket-ends.ts';

let directory: string;
let program: string;
let processes: ChildProcess[];
let listening: ListeningEnd | null;
const file = (name: string) => join(directory, name);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nasmig-proxy-'));
  program = await buildGoProgram('migration-proxy');
  processes = [];
  listening = null;
});

afterEach(async () => {
  listening?.close();
  for (const process of processes) await end(process, 'SIGKILL');
  await rm(directory, { recursive: true, force: true });
});

async function end(process: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (process.exitCode !== null || process.signalCode !== null) return;
  process.kill(signal);
  await once(process, 'exit');
}

/** Starts a proxy; resolves to what it says it listens on. */
async function start(...options: string[]): Promise<string> {
  const process = spawn(program, options, { stdio: ['ignore', 'pipe', 'ignore'] });
  processes.push(process);
  const [line] = (await once(process.stdout, 'data')) as [Buffer];
  return (JSON.parse(line.toString()) as { listening: string }).listening;
}

/** Both proxies, as between two nodes; resolves to the target's TCP port. */
async function startPair(security: string[]): Promise<number> {
  const address = await start(
    '--listen',
    'tcp:127.0.0.1:0',
    '--dial',
    `unix:${file('target.sock')}`,
    ...security,
  );
  await start(
    '--listen',
    `unix:${file('run/source.sock')}`,
    '--dial',
    address,
    '--owner',
    '107:107',
    ...security,
  );
  return Number(address.split(':').at(-1));
}

function makeCertificates(name: string): string {
  execFileSync(program, ['--make-certs', file(name)]);
  return file(name);
}

describe.each(['TLS', 'plain'])('%s', (kind) => {
  const security = () => (kind === 'TLS' ? ['--certs', makeCertificates('certificates')] : ['--no-tls']);

  test('pumps both directions at once; the target may speak first', async () => {
    await startPair(security());
    listening = await ListeningEnd.listen(file('target.sock'));
    const near = await SocketEnd.connect(file('run/source.sock'));
    const far = await listening.connection(0);
    await far.write(Buffer.from('first'));
    await near.receives(5);
    const sent = randomFillSync(Buffer.alloc(3_000_000));
    await near.write(sent);
    await far.receives(sent.length);
    expect(far.received().equals(sent)).toBe(true);
  });

  test('the end of the near side closes the near side, and never reaches the far side', async () => {
    await startPair(security());
    listening = await ListeningEnd.listen(file('target.sock'));
    const near = await SocketEnd.connect(file('run/source.sock'));
    await near.write(Buffer.from('all of it'));
    const far = await listening.connection(0);
    await far.receives(9);
    near.socket.end();
    // A half-close is answered by closing the whole accepted leg: no reply can come any more.
    await near.closes();
    await sleep(300);
    expect(far.ended).toBe(false);
    expect(far.closed).toBe(false);
  });

  test('the end of the far side closes the near side', async () => {
    await startPair(security());
    listening = await ListeningEnd.listen(file('target.sock'));
    const near = await SocketEnd.connect(file('run/source.sock'));
    const far = await listening.connection(0);
    far.socket.end('last words');
    await near.ends();
    expect(near.received().toString()).toBe('last words');
  });

  test('nobody listens at the far end: one dial, and the near side is closed', async () => {
    await startPair(security());
    const near = await SocketEnd.connect(file('run/source.sock'));
    await near.ends();
    expect(near.receivedBytes).toBe(0);
  });
});

test('the source socket belongs to 107 and is removed at the end', async () => {
  await startPair(['--no-tls']);
  const status = await stat(file('run/source.sock'));
  expect([status.uid, status.gid]).toEqual([107, 107]);
  for (const process of processes) await end(process, 'SIGTERM');
  expect(processes.map((process) => process.exitCode)).toEqual([0, 0]);
  expect(await pathExists(file('run/source.sock'))).toBe(false);
});

test('it removes what has taken its socket’s place, and leaves what was renamed away', async () => {
  await startPair(['--no-tls']);
  const ours = await ListeningEnd.listen(file('run/temporary.sock'));
  await link(file('run/source.sock'), file('run/source.sock.orig'));
  await rename(file('run/temporary.sock'), file('run/source.sock'));
  for (const process of processes) await end(process, 'SIGTERM');
  expect(await pathExists(file('run/source.sock'))).toBe(false);
  expect(await pathExists(file('run/source.sock.orig'))).toBe(true);
  ours.close();
});

test('a client without a certificate of this CA gets nowhere', async () => {
  const port = await startPair(['--certs', makeCertificates('certificates')]);
  listening = await ListeningEnd.listen(file('target.sock'));
  const outcome = (options: object) =>
    new Promise<string>((resolve) => {
      const socket = connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options });
      socket.on('secureConnect', () => socket.write('hello'));
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
      socket.on('close', () => resolve('closed'));
    });
  expect(await outcome({})).toMatch(/CERTIFICATE_REQUIRED|ECONNRESET|closed/);
  const foreign = makeCertificates('foreign');
  const certificate = {
    cert: await readFile(join(foreign, 'node.crt')),
    key: await readFile(join(foreign, 'node.key')),
  };
  expect(await outcome(certificate)).toMatch(/UNKNOWN_CA|BAD_CERTIFICATE|ECONNRESET|closed/);
  await sleep(100);
  for (const far of listening.accepted) expect(far.receivedBytes).toBe(0);
});

test('options that contradict each other or are missing are told', () => {
  const run = (...options: string[]) => {
    try {
      execFileSync(program, options, { stdio: ['ignore', 'ignore', 'pipe'], timeout: 5_000 });
      return 'ran';
    } catch (error) {
      return String((error as { stderr?: Buffer }).stderr);
    }
  };
  expect(run('--listen', 'unix:/x', '--dial', 'tcp:y')).toContain('give either --certs DIR or --no-tls');
  expect(run('--no-tls', '--listen', 'udp:1', '--dial', 'tcp:y')).toContain(
    '--listen "udp:1": want unix:PATH or tcp:HOST:PORT',
  );
});
