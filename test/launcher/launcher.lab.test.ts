// The KubeVirt path without acceleration: libvirt's peer-to-peer migration between launcher pods, and the interposer
// in its way with a byte relay behind it. One small guest goes through all of it, from pod to pod, and says at the
// end of every test that nothing was lost. Needs root, and what the lab needs.

import { mkdir, readdir, stat, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ensureGuestKernel } from '../lab/guest-image.ts';
import { GuestObserver } from '../lab/guest-observer.ts';
import { runCommand } from '../lab/run-command.ts';
import { type LabCase, recordCase } from '../report/lab-report.ts';
import type { Container } from './container.ts';
import { GUEST_DOMAIN, guestDomain, layBootDirectory } from './guest-domain.ts';
import { HUB_PORT, LauncherLab } from './launcher-lab.ts';
import { type LauncherPod, podDiskPath, SOCKET_DIRECTORY } from './launcher-pod.ts';
import type { MigrationFlags, MigrationResult } from './live-migration.ts';
import { RecordedMigration } from './recorded-migration.ts';
import { RelayControl, type Relayed } from './relay-news.ts';
import { socketName } from './virt-handler.ts';

const RELAY_SIDECAR = join(import.meta.dirname, 'relay-sidecar.ts');
const GUEST = { memoryMiB: 256, readMiB: 0, randomMiB: 28, textMiB: 8, churnMiB: 0 };
/** Slow enough that 28 MiB of random pages take several seconds: time to break something. */
const SLOW_MIB = 4;

let lab: LauncherLab;
let observer: GuestObserver;
let volume: Awaited<ReturnType<LauncherLab['addVolume']>>;
let bootDirectory: string;
/** Where the guest is. */
let home: LauncherPod;

interface Sidecar {
  readonly container: Container;
  readonly control: RelayControl;
}
let sidecars: Sidecar[] = [];
let migrations: RecordedMigration[] = [];
/** Link bytes of the plain migrations with that many channels, to which the others are compared. */
const plainLinkBytes = new Map<number, number>();
let qemuVersion = '';
let sidecarsStarted = 0;

beforeAll(async () => {
  const kernel = await ensureGuestKernel();
  lab = await LauncherLab.start();
  const image = join(lab.lab.run.bulkPath, 'empty.img');
  await writeFile(image, '');
  await truncate(image, 64 * 1024 * 1024);
  volume = await lab.addVolume('rootdisk', image);
  bootDirectory = await layBootDirectory(join(lab.lab.run.path, 'boot'), kernel);
  observer = new GuestObserver();
  home = await newPod('source');
  await home.defineDomain(guestDomain(GUEST));
  await home.startDomain(GUEST_DOMAIN);
  await observer.waitFor('become ready', (beacon) => beacon.ready, 120_000);
  qemuVersion = await home.qemuVersion();
}, 300_000);

afterEach(async () => {
  for (const { container, control } of sidecars) {
    control.close();
    await container.stop();
  }
  sidecars = [];
  // Nothing is left to finish unless the test failed half-way; the next one must not suffer from that.
  for (const migration of migrations) await migration.finish();
  migrations = [];
});

afterAll(async () => {
  await observer?.close();
  await lab?.close();
});

async function newPod(place: 'source' | 'target'): Promise<LauncherPod> {
  const pod = await lab.startPod(place, { disks: [volume[place]], bootDirectory });
  await pod.attachObserver(observer);
  return pod;
}

/** A fresh pod on the other node. */
function nextPod(): Promise<LauncherPod> {
  return newPod(lab.placeOf(home) === 'source' ? 'target' : 'source');
}

async function addSidecar(pod: LauncherPod): Promise<Sidecar> {
  sidecarsStarted += 1;
  const directory = pod.node.file(`control-${sidecarsStarted}`);
  await mkdir(directory);
  await runCommand(['chown', '107:107', directory]);
  const container = await pod.startSidecar({
    nodeArguments: [RELAY_SIDECAR, `/var/run/kubevirt/${SOCKET_DIRECTORY}`, '/run/control/socket'],
    extraBinds: [{ from: directory, to: '/run/control', readOnly: false }],
  });
  const sidecar = { container, control: await RelayControl.connect(join(directory, 'socket')) };
  sidecars.push(sidecar);
  return sidecar;
}

function migrationTo(target: LauncherPod, flags: MigrationFlags = {}): RecordedMigration {
  const migration = new RecordedMigration(lab, { source: home, target, domain: GUEST_DOMAIN, flags });
  migrations.push(migration);
  return migration;
}

const socketsOf = (pod: LauncherPod) => readdir(join(pod.publicDirectory, SOCKET_DIRECTORY));
const streamInode = async (pod: LauncherPod, migrationUid: string) =>
  (await stat(join(pod.publicDirectory, SOCKET_DIRECTORY, socketName(migrationUid, 'stream')))).ino;

const originalInode = async (pod: LauncherPod, migrationUid: string) =>
  (await stat(join(pod.publicDirectory, SOCKET_DIRECTORY, `${socketName(migrationUid, 'stream')}.orig`))).ino;

/** What a test's migration is called in the lab's report. */
interface Entry {
  readonly name: string;
  readonly migration: RecordedMigration;
  readonly channels: number;
  /** Why nothing is accelerated here: there is a relay, or nobody, in the path. */
  readonly reason: string;
}

/** The guest has gone to `target`, goes on there with the same bytes, and finds nothing wrong; the old pod ends. */
async function expectMoved(result: MigrationResult, target: LauncherPod, entry: Entry): Promise<void> {
  expect(result).toMatchObject({ succeeded: true, error: '' });
  expect(await home.domainState(GUEST_DOMAIN)).toBe('shut off');
  expect(await target.domainState(GUEST_DOMAIN)).toBe('running');
  await expectHealthy();
  expect(await socketsOf(home)).toEqual([]);
  expect(await socketsOf(target)).toEqual([]);
  expect((await record(entry, 'plain')).identicalStreams).toBe(true);
  await home.stop();
  home = target;
}

/** The guest runs where it was, and finds nothing wrong; the pod that was to be its next ends. */
async function expectStayed(result: MigrationResult, target: LauncherPod, entry: Entry): Promise<void> {
  expect(result.succeeded).toBe(false);
  expect(await home.domainState(GUEST_DOMAIN)).toBe('running');
  expect(await target.domainState(GUEST_DOMAIN)).toBe('absent');
  await expectHealthy();
  await record(entry, 'failed-safe');
  await target.stop();
}

/** Writes what the recorders saw into the lab's report. */
async function record(entry: Entry, outcome: 'plain' | 'failed-safe'): Promise<LabCase> {
  const { comparison, linkBytes } = await entry.migration.finish();
  return recordCase({
    name: `libvirt/${entry.name}`,
    qemu: `${qemuVersion}->${qemuVersion}`,
    ...{ expected: outcome, outcome, reason: entry.reason },
    identicalStreams: outcome === 'plain' ? comparison.identical : null,
    guestSelfCheck: observer.report().selfCheck,
    linkBytes,
    plainLinkBytes: plainLinkBytes.get(entry.channels) ?? linkBytes,
  });
}

async function expectHealthy(): Promise<void> {
  observer.mark();
  await observer.waitForNext(10_000);
  await observer.command({ kind: 'verifyAll' });
  expect(observer.report()).toMatchObject({ selfCheck: 'ok', repeatedCounters: 0, failure: '' });
}

const sorted = (directions: readonly Relayed[]) =>
  directions.map(({ bytes, sha256 }) => `${bytes} ${sha256}`).sort();

describe('libvirt between launcher pods', () => {
  it.each([8, 0])('moves the VM with %i multifd channels', async (channels) => {
    const target = await nextPod();
    const migration = migrationTo(target, { channels });
    await migration.prepareTarget();
    await migration.prepareSource();
    const result = await migration.perform();
    plainLinkBytes.set(channels, (await migration.finish()).linkBytes);
    await expectMoved(result, target, {
      name: `plain-${channels}`,
      migration,
      channels: channels,
      reason: 'no sidecar',
    });
  });

  it('lets a sidecar reach the hub through its node', async () => {
    const socket = join(lab.lab.run.path, 'hub.sock');
    const hub = createServer((connection) => connection.end('hello from the hub'));
    await new Promise<void>((resolve) => hub.listen(socket, () => resolve()));
    await lab.exposeHub(socket);
    const script = `require('node:net').connect(${HUB_PORT}, '${home.gateway}').on('data', (d) => console.log(d + ' said'))`;
    const container = await home.startSidecar({ nodeArguments: ['-e', script] });
    const [, said] = await container.process.waitForOutput(/^(.*) said$/m, 10_000);
    expect(said).toBe('hello from the hub');
    await container.stop();
    hub.close();
  });

  it('gives a sidecar what the injected container has, and no more', async () => {
    const script = `
      const fs = require('node:fs');
      const tryOpen = (path, flags) => { try { fs.closeSync(fs.openSync(path, flags)); return 'open'; } catch (e) { return e.code; } };
      const disk = '${podDiskPath('rootdisk')}';
      console.log(JSON.stringify({
        pid: process.pid, uid: process.getuid(), gid: process.getgid(),
        capabilities: [...new Set(fs.readFileSync('/proc/self/status', 'utf8').match(/^Cap...:.*$/gm).map((l) => l.slice(8)))],
        processes: fs.readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name)).length,
        run: fs.readdirSync('/run'), private: fs.readdirSync('/run/kubevirt-private'),
        read: tryOpen(disk, 'r'), write: tryOpen(disk, 'r+'),
      }) + ' said');
      process.on('SIGTERM', () => process.exit(0));
      setInterval(() => {}, 1000);`;
    const container = await home.startSidecar({ nodeArguments: ['-e', script] });
    const [, said = ''] = await container.process.waitForOutput(/^(.*) said$/m, 10_000);
    expect(JSON.parse(said)).toEqual({
      pid: 1,
      uid: 107,
      gid: 107,
      capabilities: ['0000000000000000'],
      processes: 1,
      run: ['kubevirt', 'kubevirt-private'],
      private: ['vmi-disks'],
      read: 'open',
      write: 'EROFS',
    });
    expect((await container.stop()).elapsedMs).toBeLessThan(1000);
  });
});

describe('the interposer in a migration', () => {
  it('touches nothing that is not announced', async () => {
    const target = await nextPod();
    await addSidecar(home);
    await addSidecar(target);
    const migration = migrationTo(target);
    await migration.prepareTarget();
    await migration.prepareSource();
    const before = await streamInode(home, migration.migrationUid);
    await sleep(200);
    expect(await streamInode(home, migration.migrationUid)).toBe(before);
    expect((await socketsOf(home)).sort()).toEqual(
      [socketName(migration.migrationUid, 'stream'), socketName(migration.migrationUid, 'rpc')].sort(),
    );
    const result = await migration.perform();
    await migration.finish();
    expect(sidecars.flatMap(({ control }) => control.news)).toEqual([]);
    await expectMoved(result, target, {
      name: 'unannounced',
      migration,
      channels: 8,
      reason: 'not announced',
    });
  });

  it.each([8, 0])('passes every byte on through both sides, with %i channels', async (channels) => {
    const target = await nextPod();
    const [source, destination] = [await addSidecar(home), await addSidecar(target)];
    const migration = migrationTo(target, { channels });
    const { migrationUid } = migration;
    await source.control.arm(migrationUid, 'source');
    await destination.control.arm(migrationUid, 'target');
    await migration.prepareTarget();
    await migration.prepareSource();
    await source.control.waitForTaken();
    const result = await migration.perform();
    await migration.finish();
    await source.control.end(migrationUid);
    await destination.control.end(migrationUid);
    const [sent, received] = [
      source.control.relayed(migrationUid),
      destination.control.relayed(migrationUid),
    ];
    expect(sent).toHaveLength(channels + 1);
    expect(sorted(received.map(({ forward }) => forward))).toEqual(
      sorted(sent.map(({ forward }) => forward)),
    );
    expect(sorted(received.map(({ back }) => back))).toEqual(sorted(sent.map(({ back }) => back)));
    expect(sent.reduce((sum, { forward }) => sum + forward.bytes, 0)).toBeGreaterThan(
      GUEST.randomMiB * 1024 * 1024,
    );
    await expectMoved(result, target, {
      name: `relay-${channels}`,
      migration,
      channels: channels,
      reason: 'relayed byte for byte',
    });
  });

  it.each(['source', 'target'] as const)('works on the %s alone', async (role) => {
    const target = await nextPod();
    const { control } = await addSidecar(role === 'source' ? home : target);
    const migration = migrationTo(target);
    await control.arm(migration.migrationUid, role);
    await migration.prepareTarget();
    await migration.prepareSource();
    const result = await migration.perform();
    await migration.finish();
    await control.end(migration.migrationUid);
    expect(control.relayed(migration.migrationUid)).toHaveLength(9);
    await expectMoved(result, target, {
      name: `relay-${role}-alone`,
      migration,
      channels: 8,
      reason: 'relayed byte for byte',
    });
  });

  it('is out of the way once it is decided against', async () => {
    const target = await nextPod();
    const source = await addSidecar(home);
    const migration = migrationTo(target);
    await source.control.arm(migration.migrationUid, 'source');
    await migration.prepareTarget();
    await migration.prepareSource();
    await source.control.waitForTaken();
    expect(await source.control.restore(migration.migrationUid)).toBe('restored');
    const result = await migration.perform();
    await migration.finish();
    expect(source.control.relayed(migration.migrationUid)).toEqual([]);
    await expectMoved(result, target, {
      name: 'decided-against',
      migration,
      channels: 8,
      reason: 'decided against before the first connection',
    });
  });

  it('takes the place again when virt-handler makes its sockets anew', async () => {
    const target = await nextPod();
    const source = await addSidecar(home);
    const migration = migrationTo(target);
    await source.control.arm(migration.migrationUid, 'source');
    await migration.prepareTarget();
    await migration.prepareSource();
    await source.control.waitForTaken();
    await migration.prepareSource();
    await expect.poll(() => takes(source.control)).toBe(2);
    const result = await migration.perform();
    await migration.finish();
    await source.control.end(migration.migrationUid);
    expect(source.control.relayed(migration.migrationUid)).toHaveLength(9);
    await expectMoved(result, target, {
      name: 'sockets-made-anew',
      migration,
      channels: 8,
      reason: 'relayed byte for byte',
    });
  });
});

describe('what the interposer does not understand', () => {
  it('passes post-copy on: the main connection, and the one that has no magic', async () => {
    const target = await nextPod();
    const [source, destination] = [await addSidecar(home), await addSidecar(target)];
    const migration = migrationTo(target, { channels: 0, postCopy: true, bandwidthMib: SLOW_MIB });
    const { migrationUid } = migration;
    await source.control.arm(migrationUid, 'source');
    await destination.control.arm(migrationUid, 'target');
    await migration.prepareTarget();
    await migration.prepareSource();
    const performing = migration.perform();
    await inMidStream(destination.control, 1);
    await migration.switchToPostCopy();
    const result = await performing;
    await migration.finish();
    await source.control.end(migrationUid);
    await destination.control.end(migrationUid);
    expect(source.control.relayed(migrationUid)).toHaveLength(2);
    await expectMoved(result, target, { name: 'post-copy', migration, channels: 0, reason: 'post-copy' });
  });

  it('passes multifd zstd on', async () => {
    const target = await nextPod();
    const [source, destination] = [await addSidecar(home), await addSidecar(target)];
    const migration = migrationTo(target, { zstd: true });
    const { migrationUid } = migration;
    await source.control.arm(migrationUid, 'source');
    await destination.control.arm(migrationUid, 'target');
    await migration.prepareTarget();
    await migration.prepareSource();
    const result = await migration.perform();
    await migration.finish();
    await source.control.end(migrationUid);
    await destination.control.end(migrationUid);
    expect(source.control.relayed(migrationUid)).toHaveLength(9);
    await expectMoved(result, target, {
      name: 'multifd-zstd',
      migration,
      channels: 8,
      reason: 'multifd zstd',
    });
  });
});

describe('what goes wrong', () => {
  it('leaves the VM where it is when the migration is cancelled, and a second one succeeds', async () => {
    const target = await nextPod();
    const [source, destination] = [await addSidecar(home), await addSidecar(target)];
    const migration = migrationTo(target, { bandwidthMib: SLOW_MIB });
    await source.control.arm(migration.migrationUid, 'source');
    await destination.control.arm(migration.migrationUid, 'target');
    await migration.prepareTarget();
    await migration.prepareSource();
    const performing = migration.perform();
    await inMidStream(destination.control);
    await migration.cancel();
    const result = await performing;
    await migration.finish();
    await source.control.end(migration.migrationUid);
    await destination.control.end(migration.migrationUid);
    expect(result.error).toContain('canceled by client');
    expect(await socketsOf(home)).toEqual([]);
    await expectStayed(result, target, { name: 'cancelled', migration, channels: 8, reason: 'cancelled' });

    const next = await nextPod();
    const again = migrationTo(next);
    await source.control.arm(again.migrationUid, 'source');
    await again.prepareTarget();
    await again.prepareSource();
    const secondResult = await again.perform();
    await again.finish();
    await source.control.end(again.migrationUid);
    expect(source.control.relayed(again.migrationUid)).toHaveLength(9);
    await expectMoved(secondResult, next, {
      name: 'after-cancel',
      migration: again,
      channels: 8,
      reason: 'relayed byte for byte',
    });
  });

  it('stays plain after a sidecar was killed with the place taken, once another one has started', async () => {
    const target = await nextPod();
    const killed = await addSidecar(home);
    const migration = migrationTo(target);
    await killed.control.arm(migration.migrationUid, 'source');
    await migration.prepareTarget();
    await migration.prepareSource();
    await killed.control.waitForTaken();
    const before = await originalInode(home, migration.migrationUid);
    await killed.container.kill();
    expect(await streamInode(home, migration.migrationUid)).not.toBe(before);
    const successor = await addSidecar(home);
    await expect.poll(() => streamInode(home, migration.migrationUid)).toBe(before);
    const result = await migration.perform();
    await migration.finish();
    expect(successor.control.relayed(migration.migrationUid)).toEqual([]);
    await expectMoved(result, target, {
      name: 'restarted-sidecar',
      migration,
      channels: 8,
      reason: 'the successor gave the socket back',
    });
  });

  it.each(['source', 'target'] as const)(
    'fails the migration, and not the VM, when the %s sidecar is killed',
    async (role) => {
      const target = await nextPod();
      const [source, destination] = [await addSidecar(home), await addSidecar(target)];
      const migration = migrationTo(target, { bandwidthMib: SLOW_MIB });
      await source.control.arm(migration.migrationUid, 'source');
      await destination.control.arm(migration.migrationUid, 'target');
      await migration.prepareTarget();
      await migration.prepareSource();
      const performing = migration.perform({ timeoutMs: 30_000 });
      await inMidStream(destination.control);
      await (role === 'source' ? source : destination).container.kill();
      const result = await performing;
      await migration.finish();
      await expectStayed(result, target, {
        name: `relay-${role}-killed`,
        migration,
        channels: 8,
        reason: `the ${role} sidecar was killed`,
      });
      await (role === 'source' ? addSidecar(home) : source.control.end(migration.migrationUid));
      expect(await socketsOf(home)).toEqual([]);
    },
  );

  it('ends its sidecar within a second in the middle of a stream', async () => {
    const target = await nextPod();
    const source = await addSidecar(home);
    const migration = migrationTo(target, { bandwidthMib: SLOW_MIB });
    await source.control.arm(migration.migrationUid, 'source');
    await migration.prepareTarget();
    await migration.prepareSource();
    const performing = migration.perform({ timeoutMs: 30_000 });
    await inMidStream(source.control);
    expect((await source.container.stop()).elapsedMs).toBeLessThan(1000);
    const result = await performing;
    await migration.finish();
    expect(await socketsOf(home)).toEqual([]);
    await expectStayed(result, target, {
      name: 'stopped-in-mid-stream',
      migration,
      channels: 8,
      reason: 'the source sidecar was stopped',
    });
  });
});

/** Resolves when the connections are there and some of the guest's memory is under way. */
async function inMidStream(control: RelayControl, connections = 9): Promise<void> {
  await expect
    .poll(() => control.news.filter(({ kind }) => kind === 'connected').length, { timeout: 20_000 })
    .toBe(connections);
  await sleep(500);
}

const takes = (control: RelayControl) =>
  control.news.filter((news) => news.kind === 'acted' && news.action === 'take').length;
