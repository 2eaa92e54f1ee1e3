// The sidecar as a process, compiled as in the image, with a real hub: a whole framed migration between two of them over
// real sockets, the ways to a plain one, what it takes while idle, and how it ends.

import { execFileSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { compileProgram } from '../../hack/ship/compile.ts';
import { PAGE_BYTES } from '../../sidecar/stream/page-sink.ts';
import { generateMigration } from '../../sidecar/stream/test-streams.ts';
import { LabCoordinator } from './coordinator.ts';
import { ProcessPod } from './process-pod.ts';

const IDLE_BYTES = 80 * 1024 * 1024;
const VOLUME = 'rootdisk';
const BLOCKS = 1024;
const disk = randomBytes(BLOCKS * PAGE_BYTES);
/** Files of one directory and the network, no child processes, no workers, no add-ons. */
const PERMISSIONS = (directory: string): string =>
  `--permission --allow-net --allow-fs-read=${directory}/ --allow-fs-write=${directory}/`;

let parent: string;
let main: string;
let coordinator: LabCoordinator;
let pods: ProcessPod[] = [];

beforeAll(async () => {
  // Short: a socket's path has at most 107 bytes.
  parent = mkdtempSync(join(tmpdir(), 'nm-'));
  main = await compileProgram('sidecar', join(parent, 'image'));
});

afterAll(() => rmSync(parent, { recursive: true, force: true }));

afterEach(async () => {
  await Promise.all(pods.map((pod) => pod.terminate()));
  pods = [];
  await coordinator.stop();
});

async function startHub(): Promise<void> {
  coordinator = await LabCoordinator.start(mkdtempSync(join(parent, 'h-')));
}

async function startPod(
  env: Readonly<Record<string, string>> = {},
  layVolumes = layDisk,
): Promise<ProcessPod> {
  const name = `p${randomBytes(3).toString('hex')}`;
  const pod = await ProcessPod.start({ name, parent, main, coordinator, layVolumes, env });
  pods.push(pod);
  return pod;
}

function layDisk(directory: string): void {
  mkdirSync(join(directory, VOLUME));
  writeFileSync(join(directory, VOLUME, 'disk.img'), disk);
}

function layMissingDisk(directory: string): void {
  layDisk(directory);
  mkdirSync(join(directory, 'cloudinit'));
}

interface PlayedMigration {
  readonly migrationUid: string;
  readonly source: ProcessPod;
  readonly target: ProcessPod;
  /** What the destination QEMU got, by connection. */
  readonly received: Buffer[][];
}

/** Sockets of virt-handler and of the destination QEMU, in place before anything connects. */
async function playMigration(source: ProcessPod, target: ProcessPod): Promise<PlayedMigration> {
  const migrationUid = randomUUID();
  const received: Buffer[][] = [];
  await Promise.all([source, target].map((pod) => coordinator.waitForConnection(pod.admitted)));
  await target.listen(migrationUid, 'stream', (socket) => {
    const chunks: Buffer[] = [];
    received.push(chunks);
    socket.on('data', (bytes: Buffer) => chunks.push(bytes));
    socket.on('error', () => socket.destroy());
    socket.on('end', () => socket.end());
    socket.resume();
  });
  await source.listen(migrationUid, 'rpc', (socket) => socket.destroy());
  await source.listen(migrationUid, 'stream', (socket) => {
    const onward = connect({ path: target.socket(migrationUid, 'stream'), allowHalfOpen: true });
    for (const [from, to] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      from.on('error', () => to.destroy());
      from.on('close', () => to.destroySoon());
      from.pipe(to);
    }
  });
  return { migrationUid, source, target, received };
}

function coordinate({ migrationUid, source, target }: PlayedMigration): void {
  coordinator.coordinate({
    migrationUid,
    source: source.admitted,
    target: target.admitted,
    volumes: [VOLUME],
  });
}

/** A guest with half of the disk in its memory, told by `has`, and zeros, as QEMU 10.0 sends it on one connection. */
function guestStream(has = (block: number) => block % 2 === 1, pageCount = BLOCKS): Uint8Array {
  return generateMigration({
    qemu: '10.0',
    channels: 0,
    seed: 3,
    rounds: 2,
    ramBlocks: [{ name: 'pc.ram', pageCount }],
    content: (_block, page, _round, out) => {
      if (page >= BLOCKS || !has(page)) return false;
      out.set(disk.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
      return true;
    },
  }).main;
}

/** Sends a stream as the source QEMU does; resolves when the connection is closed. */
async function send({ migrationUid, source }: PlayedMigration, stream: Uint8Array): Promise<void> {
  const socket: Socket = connect({ path: source.socket(migrationUid, 'stream'), allowHalfOpen: true });
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.on('error', () => socket.destroy());
  socket.resume();
  socket.end(stream);
  await closed;
}

const isTaken = (pod: ProcessPod): Promise<void> => pod.waitForLog(/"standing":"taken"/);

describe('the sidecar process', () => {
  it('frames a migration after GO, tells both results, and forgets them when they are recorded', async () => {
    await startHub();
    const eager = {
      NASMIG_INDEX_DELAY_MS: '0',
      NASMIG_INDEX_ONE_IN: '1',
      NASMIG_INDEX_BYTES_PER_SECOND: '1000000000',
    };
    const [source, target] = [await startPod(eager), await startPod()];
    await source.waitForLog(/"index sampled"/);
    const migration = await playMigration(source, target);
    coordinate(migration);
    await Promise.all([isTaken(source), isTaken(target)]);
    const stream = guestStream();
    await send(migration, stream);
    const sent = await coordinator.waitForResult(migration.migrationUid, 'source');
    const rebuilt = await coordinator.waitForResult(migration.migrationUid, 'target');
    expect(Buffer.compare(Buffer.concat(migration.received[0] ?? []), stream)).toBe(0);
    expect(sent).toMatchObject({ outcome: 'accelerated', qemuBytes: stream.length, resends: 0 });
    expect(sent.pages.reference).toBeGreaterThan(400);
    expect(sent.linkBytes).toBeLessThan(stream.length / 2);
    expect(rebuilt).toMatchObject({ outcome: 'accelerated', qemuBytes: stream.length });
    expect(rebuilt.volumes).toEqual([expect.objectContaining({ name: VOLUME, nasBytes: rebuilt.nasBytes })]);
    expect(coordinator.view(migration.migrationUid)?.armingSeconds).toBeLessThan(2);
    coordinator.record(migration.migrationUid);
    await Promise.all([source.waitForLog(/"result recorded"/), target.waitForLog(/"result recorded"/)]);
    expect(source.log).not.toContain('sessionKey');
    expect(coordinator.problems).toEqual([]);
  });

  it('has a sampled index grow, and reads nothing for the one that the target inherited, when that is the source', async () => {
    await startHub();
    // So much memory that a migration begins with time to grow the index.
    const stream = guestStream((block) => block % 128 < 64, 65_536);
    const first = await startPod({ NASMIG_INDEX_DELAY_MS: '0', NASMIG_INDEX_BYTES_PER_SECOND: '1000000000' });
    await first.waitForLog(/"index sampled"/);
    const hop = async (source: ProcessPod, target: ProcessPod) => {
      const migration = await playMigration(source, target);
      coordinate(migration);
      await Promise.all([isTaken(source), isTaken(target)]);
      await send(migration, stream);
      const { migrationUid } = migration;
      await coordinator.waitForResult(migrationUid, 'source');
      const rebuilt = await coordinator.waitForResult(migrationUid, 'target');
      expect(Buffer.compare(Buffer.concat(migration.received[0] ?? []), stream)).toBe(0);
      coordinator.record(migrationUid);
      await Promise.all([source.waitForLog(/"result recorded"/), target.waitForLog(/"result recorded"/)]);
      const counted = (): number | undefined => coordinator.indexOf(target.admitted)?.nasReadBytes;
      await expect.poll(counted).toBe(rebuilt.indexNasBytes);
      return { ...rebuilt, pageBytes: rebuilt.pages.reference * PAGE_BYTES };
    };
    const second = await startPod();
    const there = await hop(first, second);
    expect(there.pageBytes).toBeGreaterThan(100 * PAGE_BYTES);
    // Of each extent of 128 blocks the guest has half.
    expect(there.indexNasBytes).toBeGreaterThan(100 * PAGE_BYTES);
    expect(there.indexNasBytes).toBeLessThan(there.nasBytes);
    const onward = await hop(second, await startPod());
    expect(onward.pageBytes).toBeGreaterThan(there.pageBytes / 2);
    expect(onward.indexNasBytes).toBe(0);
  });

  it('relays raw, byte for byte, when no GO came within 2 s', async () => {
    await startHub();
    const [source, target] = [await startPod(), await startPod()];
    const migration = await playMigration(source, target);
    const { migrationUid } = migration;
    // The target's pod has no sidecar that could be armed: nobody is connected under this identity.
    const absent = await coordinator.admit('absent');
    coordinator.coordinate({ migrationUid, source: source.admitted, target: absent, volumes: [VOLUME] });
    await isTaken(source);
    const stream = guestStream();
    const startedMs = performance.now();
    await send(migration, stream);
    expect(performance.now() - startedMs).toBeGreaterThanOrEqual(1990);
    expect(performance.now() - startedMs).toBeLessThan(2500);
    expect(Buffer.compare(Buffer.concat(migration.received[0] ?? []), stream)).toBe(0);
    const result = await coordinator.waitForResult(migrationUid, 'source');
    expect(result).toMatchObject({ outcome: 'raw', reason: 'PeerNotConnected', qemuBytes: stream.length });
    expect(source.log).toMatch(/"reason":"NoGo".*"not accelerated"/);
  });

  it('frames when GO comes a second late, and sends nothing before', async () => {
    await startHub();
    const [source, target] = [await startPod(), await startPod()];
    const migration = await playMigration(source, target);
    const held = coordinator.holdGo(migration.migrationUid);
    coordinate(migration);
    await Promise.all([isTaken(source), isTaken(target)]);
    const stream = guestStream();
    const sending = send(migration, stream);
    await held.holding;
    await sleep(1000);
    expect(migration.received.flat()).toEqual([]);
    held.release();
    await sending;
    expect(Buffer.compare(Buffer.concat(migration.received[0] ?? []), stream)).toBe(0);
    for (const role of ['source', 'target'] as const) {
      expect(await coordinator.waitForResult(migration.migrationUid, role)).toMatchObject({
        outcome: 'accelerated',
        qemuBytes: stream.length,
      });
    }
  });

  it('stays raw when GO comes after 2 s, also with connections that come after it', async () => {
    await startHub();
    const [source, target] = [await startPod(), await startPod()];
    const migration = await playMigration(source, target);
    const { migrationUid } = migration;
    coordinator.holdGo(migrationUid);
    coordinate(migration);
    await Promise.all([isTaken(source), isTaken(target)]);
    const streams = generateMigration({
      ...{ qemu: '10.0', channels: 1, seed: 5, rounds: 2 },
      ramBlocks: [{ name: 'pc.ram', pageCount: BLOCKS }],
    });
    const channel = streams.multifd[0] as Uint8Array;
    const main = connect({ path: source.socket(migrationUid, 'stream'), allowHalfOpen: true });
    main.on('error', () => main.destroy());
    main.resume();
    main.write(streams.main);
    await source.waitForLog(/"type":"raw".*"reason":"NoGo"/);
    coordinator.sayGo(migrationUid, source.admitted);
    await source.waitForLog(/"type":"go"/);
    await expect.poll(() => migration.received.length, { timeout: 10_000 }).toBe(1);
    await send(migration, channel);
    main.end();
    const result = await coordinator.waitForResult(migrationUid, 'source');
    expect(result).toMatchObject({ outcome: 'raw', reason: 'NoGo' });
    expect(result.qemuBytes).toBe(streams.main.length + channel.length);
    const received = (): Buffer[] => migration.received.map((chunks) => Buffer.concat(chunks));
    const lengths = (): number[] => received().map(({ length }) => length);
    await expect.poll(lengths, { timeout: 10_000 }).toEqual([streams.main.length, channel.length]);
    expect(Buffer.compare(received()[0] as Buffer, streams.main)).toBe(0);
    expect(Buffer.compare(received()[1] as Buffer, channel)).toBe(0);
  });

  it('goes raw when the hub vanishes before GO, and tells the next hub why', async () => {
    await startHub();
    const [source, target] = [await startPod(), await startPod()];
    const migration = await playMigration(source, target);
    coordinate(migration);
    await Promise.all([isTaken(source), isTaken(target)]);
    await coordinator.stop();
    const stream = guestStream();
    await send(migration, stream);
    expect(Buffer.compare(Buffer.concat(migration.received[0] ?? []), stream)).toBe(0);
    await Promise.all([source.waitForLog(/"migration over"/), target.waitForLog(/"migration over"/)]);
    coordinator = await LabCoordinator.start(mkdtempSync(join(parent, 'h-')), { after: coordinator });
    const { migrationUid } = migration;
    coordinator.coordinate({
      ...{ migrationUid, source: source.admitted, target: target.admitted, volumes: [VOLUME], over: true },
    });
    expect(await coordinator.waitForResult(migrationUid, 'source')).toMatchObject({
      outcome: 'raw',
      reason: 'NoGo',
    });
    expect(await coordinator.waitForResult(migrationUid, 'target')).toMatchObject({
      ...{ outcome: 'raw', reason: 'PeerRaw', qemuBytes: stream.length },
    });
  });

  it('gives the socket back when it is decided against, and tells that nothing came', async () => {
    await startHub();
    const [source, target] = [await startPod(), await startPod({}, () => {})];
    const migration = await playMigration(source, target);
    coordinate(migration);
    // The target has no volume, so it declines, and the source is told.
    const unused = await coordinator.waitForResult(migration.migrationUid, 'source');
    expect(unused).toMatchObject({ outcome: 'unused', reason: 'PeerRaw' });
    expect(coordinator.view(migration.migrationUid)).toMatchObject({
      go: false,
      reason: 'VolumeNotReadable',
    });
    const stream = guestStream();
    const startedMs = performance.now();
    await send(migration, stream);
    expect(performance.now() - startedMs).toBeLessThan(1000);
    expect(Buffer.compare(Buffer.concat(migration.received[0] ?? []), stream)).toBe(0);
  });

  it('tells the hub which volumes it cannot read, and stays within 80 MiB while idle', async () => {
    await startHub();
    const pod = await startPod({}, layMissingDisk);
    await coordinator.waitForConnection(pod.admitted);
    expect(coordinator.helloOf(pod.admitted)).toMatchObject({
      volumes: [
        { name: 'cloudinit', readable: false, sizeBytes: 0 },
        { name: VOLUME, readable: true, sizeBytes: disk.length },
      ],
      index: { blocks: 0, ready: false },
    });
    await sleep(1000);
    const residentBytes = pod.residentBytes();
    expect(residentBytes).toBeLessThan(IDLE_BYTES);
    const { elapsedMs, code } = await pod.terminate();
    expect(elapsedMs).toBeLessThan(1000);
    expect(code).toBe(0);
  });

  it('tells its result and ends within a second when it is stopped in mid-stream', async () => {
    await startHub();
    const [source, target] = [await startPod(), await startPod()];
    const migration = await playMigration(source, target);
    coordinate(migration);
    await Promise.all([isTaken(source), isTaken(target)]);
    const socket = connect({ path: source.socket(migration.migrationUid, 'stream'), allowHalfOpen: true });
    socket.on('error', () => socket.destroy());
    const stream = guestStream();
    socket.write(stream.subarray(0, stream.length / 2));
    await expect.poll(() => migration.received[0]?.length ?? 0, { timeout: 10_000 }).toBeGreaterThan(0);
    const { elapsedMs } = await source.terminate();
    expect(elapsedMs).toBeLessThan(1000);
    expect(coordinator.view(migration.migrationUid)?.results.source).toMatchObject({
      outcome: 'failed',
      reason: 'SidecarStopping',
    });
    const failed = await coordinator.waitForResult(migration.migrationUid, 'target');
    expect(failed.outcome).toBe('failed');
    socket.destroy();
  });

  it.each([
    { what: 'it is stopped', signal: 'SIGTERM', code: 0, hub: true },
    { what: 'it is stopped and its hub is away', signal: 'SIGTERM', code: 0, hub: false },
    { what: 'a mistake of ours is noticed', signal: 'SIGUSR2', code: 1, hub: true },
  ] as const)(
    'when $what it takes main from QEMU, and lets it close its channel itself',
    async ({ signal, code, hub }) => {
      await startHub();
      const mistake = "process.on('SIGUSR2',()=>{throw new Error('a mistake')})";
      const [source, target] = [
        await startPod({ NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(mistake)}` }),
        await startPod(),
      ];
      const migration = await playMigration(source, target);
      coordinate(migration);
      await Promise.all([isTaken(source), isTaken(target)]);
      const streams = generateMigration({
        ...{ qemu: '10.0', channels: 1, seed: 4, rounds: 2 },
        ramBlocks: [{ name: 'pc.ram', pageCount: BLOCKS }],
      });
      const [main, channel] = [streams.main, streams.multifd[0] as Uint8Array].map((stream) => {
        const socket = connect({
          path: source.socket(migration.migrationUid, 'stream'),
          allowHalfOpen: true,
        });
        socket.on('error', () => socket.destroy());
        socket.resume();
        socket.write(stream.subarray(0, stream.length / 2));
        return socket;
      }) as [Socket, Socket];
      await expect.poll(() => migration.received.filter((chunks) => chunks.length > 0).length).toBe(2);
      if (!hub) await coordinator.stop();
      const mainEnds = new Promise<void>((resolve) => main.once('end', resolve).once('close', resolve));
      const ending = source.terminate(signal);
      await mainEnds;
      await sleep(100);
      await new Promise<void>((resolve, reject) => {
        channel.write(Buffer.alloc(1 << 20), (error) => (error ? reject(error) : resolve()));
      });
      channel.destroy();
      main.destroy();
      const ended = await ending;
      expect(ended.code).toBe(code);
      expect(ended.elapsedMs).toBeLessThan(1000);
      if (hub) expect(coordinator.view(migration.migrationUid)?.results.source?.outcome).toBe('failed');
    },
  );

  it.each([
    ['without restrictions', '', { idle: 0, hung: 0 }],
    // What execve needs is not allowed, so that a hung thread is ended by an abort, which has no exit code.
    ['under --permission', 'restricted', { idle: 0, hung: null }],
  ])('ends within a second, also while a thread of the pool hangs, %s', async (_how, restricted, codes) => {
    await startHub();
    const fifo = join(parent, `fifo${restricted}`);
    execFileSync('mkfifo', [fifo]);
    const env: Record<string, string> = restricted === '' ? {} : { NODE_OPTIONS: PERMISSIONS(parent) };
    const idle = await startPod(env);
    await coordinator.waitForConnection(idle.admitted);
    // Opening a FIFO waits for its writer, in libuv's pool, as a read from a NAS that is away does.
    const hung = await startPod({ ...env, NASMIG_TOKEN_FILE: fifo }, layMissingDisk);
    await hung.waitForLog(/"sidecar is up"/);
    const [ended, aborted] = [await idle.terminate(), await hung.terminate()];
    expect(ended.elapsedMs).toBeLessThan(1000);
    expect(ended.code).toBe(codes.idle);
    expect(aborted.elapsedMs).toBeLessThan(1000);
    expect(aborted.code).toBe(codes.hung);
  });

  it('says what is wrong with its environment, and ends', async () => {
    await startHub();
    const pod = await startPod({ NASMIG_HUB_URL: 'http://hub' });
    await expect.poll(() => pod.log, { timeout: 10_000 }).toMatch(/NASMIG_AGENT_CONFIG.*NASMIG_HUB_URL/);
  });
});
