// The whole sidecar in the KubeVirt path: ARM, HOLDING, GO and framed connections through libvirt and the proxies, and a
// plain migration, with its reason told, when a part of it is missing. Needs root, and what the lab needs.

import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { compileSidecar } from '../../sidecar/compile.ts';
import { ensureGuestDisk, ensureGuestKernel } from '../lab/guest-image.ts';
import { GuestObserver } from '../lab/guest-observer.ts';
import { runCommand } from '../lab/run-command.ts';
import { startAgentSidecar } from './agent-sidecar.ts';
import type { Container } from './container.ts';
import { type CoordinatedPod, LabCoordinator } from './coordinator.ts';
import { GUEST_DOMAIN, guestDomain, layBootDirectory } from './guest-domain.ts';
import { LauncherLab } from './launcher-lab.ts';
import type { LauncherPod } from './launcher-pod.ts';
import { LiveMigration, type MigrationFlags } from './live-migration.ts';

const GUEST = { memoryMiB: 384, readMiB: 160, randomMiB: 16, textMiB: 0, churnMiB: 0 };
const VOLUME = 'rootdisk';
/** Slow enough that a page from the NAS is worth more than one from the link. */
const LINK_MBIT = 200;
/** Sampling begins at once and is not slowed down. */
const EAGER_INDEX = { NASMIG_INDEX_DELAY_MS: '0', NASMIG_INDEX_BYTES_PER_SECOND: String(2 ** 30) };
const SAMPLED_TIMEOUT_MS = 120_000;
/**
 * What the injected container may use, and what it keeps after a migration: the 65 MiB of a fresh one, the index of this disk
 * (5 MiB), program text that was not needed before (10 MiB, shared with all on the node), and holes in malloc's heap.
 */
const MOST_MIB = 256;
const REST_MIB = 100;

interface Home {
  readonly pod: LauncherPod;
  readonly admitted: CoordinatedPod;
  readonly sidecar: Container | undefined;
}

let lab: LauncherLab;
let coordinator: LabCoordinator;
let observer: GuestObserver;
let volume: Awaited<ReturnType<LauncherLab['addVolume']>>;
let bootDirectory: string;
let image: string;
/** Where the guest is. */
let home: Home;
/** Where it was before this test's migration. */
let left: Home | undefined;
const migrations: LiveMigration[] = [];

beforeAll(async () => {
  const [kernel, disk] = await Promise.all([ensureGuestKernel(), ensureGuestDisk()]);
  lab = await LauncherLab.start({ linkMbit: LINK_MBIT });
  image = join(lab.lab.run.path, 'image');
  await compileSidecar(image);
  coordinator = await LabCoordinator.start(join(lab.lab.run.path, 'hub'));
  await lab.exposeHub(coordinator.socket);
  volume = await lab.addVolume(VOLUME, disk.path);
  bootDirectory = await layBootDirectory(join(lab.lab.run.path, 'boot'), kernel);
  observer = new GuestObserver();
  home = await newHome('source', EAGER_INDEX);
  await home.pod.defineDomain(guestDomain(GUEST));
  await home.pod.startDomain(GUEST_DOMAIN);
  await observer.waitFor('become ready', (beacon) => beacon.ready, 180_000);
  await home.sidecar?.process.waitForOutput(/"index sampled"/, SAMPLED_TIMEOUT_MS);
}, 600_000);

afterEach(async () => {
  for (const migration of migrations.splice(0)) await migration.finish();
  const gone = left;
  left = undefined;
  if (gone === undefined) return;
  // The old pod ends, as after a migration in KubeVirt: one that lingers blocks the VM's next migration.
  if (gone.sidecar !== undefined) expect((await gone.sidecar.stop()).elapsedMs).toBeLessThan(1000);
  await gone.pod.stop();
});

afterAll(async () => {
  await observer?.close();
  await coordinator?.stop();
  const keepLogsIn = process.env['NASMIG_LAB_LOGS'];
  await lab?.close(keepLogsIn === undefined ? {} : { keepLogsIn });
});

/** A pod with a sidecar that is connected, or without one. */
async function newHome(
  place: 'source' | 'target',
  env: Readonly<Record<string, string>> | 'no sidecar' = {},
): Promise<Home> {
  const pod = await lab.startPod(place, { disks: [volume[place]], bootDirectory });
  await pod.attachObserver(observer);
  const admitted = await coordinator.admit(pod.name);
  if (env === 'no sidecar') return { pod, admitted, sidecar: undefined };
  const sidecar = await startAgentSidecar(pod, admitted, { image, env });
  await coordinator.waitForConnection(admitted);
  return { pod, admitted, sidecar };
}

function nextHome(env: Readonly<Record<string, string>> | 'no sidecar' = {}): Promise<Home> {
  return newHome(lab.placeOf(home.pod) === 'source' ? 'target' : 'source', env);
}

function migrationTo(target: Home, flags: MigrationFlags = {}): LiveMigration {
  const sides = { source: lab.side(home.pod), target: lab.side(target.pod) };
  const migration = new LiveMigration({ ...sides, domain: GUEST_DOMAIN, flags });
  migrations.push(migration);
  return migration;
}

/** Both sides are told, and the sockets are laid out. */
async function prepare(migration: LiveMigration, target: Home): Promise<void> {
  coordinator.coordinate({
    migrationUid: migration.migrationUid,
    source: home.admitted,
    target: target.admitted,
    volumes: [VOLUME],
  });
  await migration.prepareTarget();
  await migration.prepareSource();
}

/**
 * From the call to libvirt to the cleaning up. The guest has moved, goes on and finds nothing wrong; `target` is its home
 * from now on, and where it was is left to end after the test.
 */
async function migrate(migration: LiveMigration, target: Home): Promise<void> {
  const result = await migration.perform();
  await migration.finish();
  expect(result).toMatchObject({ succeeded: true, error: '' });
  expect(await home.pod.domainState(GUEST_DOMAIN)).toBe('shut off');
  expect(await target.pod.domainState(GUEST_DOMAIN)).toBe('running');
  left = home;
  home = target;
  observer.mark();
  await observer.waitForNext(10_000);
  await observer.command({ kind: 'verifyAll' });
  expect(observer.report()).toMatchObject({ selfCheck: 'ok', repeatedCounters: 0, failure: '' });
}

/** Resident and most resident bytes of a sidecar. */
async function memoryOf(of: Home | undefined): Promise<{ nowMib: number; mostMib: number }> {
  const status = await readFile(`/proc/${of?.sidecar?.initPid}/status`, 'utf8');
  const mib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024;
  return { nowMib: mib('VmRSS'), mostMib: mib('VmHWM') };
}

const logOf = async (of: Home | undefined): Promise<string> =>
  of?.sidecar === undefined ? '' : readFile(of.sidecar.process.logPath, 'utf8');

/** How long a source held QEMU's first connection before it gave up waiting for GO, by its log. */
function holdMs(log: string): number {
  const at = (pattern: RegExp) => Number(pattern.exec(log)?.[1]);
  const heldAtMs = at(/"time":(\d+),"type":"holding"/);
  return at(/"time":(\d+),"type":"raw".*"reason":"NoGo".*"not accelerated"/) - heldAtMs;
}

describe('the sidecar in a libvirt migration', () => {
  it.each([8, 0])('accelerates with %i multifd channels', async (channels) => {
    const target = await nextHome();
    const migration = migrationTo(target, { channels });
    await prepare(migration, target);
    await migrate(migration, target);
    const source = await coordinator.waitForResult(migration.migrationUid, 'source');
    const destination = await coordinator.waitForResult(migration.migrationUid, 'target');
    expect(source).toMatchObject({ outcome: 'accelerated' });
    expect(destination).toMatchObject({ outcome: 'accelerated', qemuBytes: source.qemuBytes });
    expect(source.pages.reference).toBeGreaterThan(10_000);
    expect(destination.nasBytes).toBeGreaterThanOrEqual(source.pages.reference * 4096);
    expect(source.linkBytes).toBeLessThan(source.qemuBytes / 2);
    coordinator.record(migration.migrationUid);
    expect((await memoryOf(left)).mostMib).toBeLessThan(MOST_MIB);
    expect((await memoryOf(home)).mostMib).toBeLessThan(MOST_MIB);
    // The VM runs on beside this sidecar for months: what the migration took goes back.
    await expect.poll(async () => (await memoryOf(home)).nowMib, { timeout: 10_000 }).toBeLessThan(REST_MIB);
  });

  it('goes plain after 2 s when only its source was armed', async () => {
    const target = await nextHome('no sidecar');
    const migration = migrationTo(target);
    await prepare(migration, target);
    await migrate(migration, target);
    const result = await coordinator.waitForResult(migration.migrationUid, 'source');
    expect(result).toMatchObject({ outcome: 'raw', reason: 'NoGo' });
    expect(holdMs(await logOf(left))).toSatisfy((ms: number) => ms >= 1990 && ms < 2300);
  });

  it('goes plain at once when only its target was armed', async () => {
    const target = await nextHome();
    const migration = migrationTo(target);
    await prepare(migration, target);
    await migrate(migration, target);
    const result = await coordinator.waitForResult(migration.migrationUid, 'target');
    expect(result).toMatchObject({ outcome: 'raw', reason: 'PeerRaw' });
  });

  it('goes plain after 2 s when the coordinator has vanished, and says why in the log', async () => {
    const target = await nextHome();
    const migration = migrationTo(target);
    await prepare(migration, target);
    await home.sidecar?.process.waitForOutput(/"standing":"taken"/, 5000);
    await coordinator.stop();
    await migrate(migration, target);
    const log = await logOf(left);
    expect(holdMs(log)).toSatisfy((ms: number) => ms >= 1990 && ms < 2300);
    expect(log).toMatch(/"outcome":"raw","reason":"NoGo".*"migration over"/);
    expect(await logOf(target)).toMatch(/"outcome":"raw","reason":"PeerRaw".*"migration over"/);
  });

  it('has told everything within a second although the NAS hangs, and ends when the kernel lets go', async () => {
    const pod = await lab.startPod('source', { disks: [volume.source], bootDirectory });
    const sampling = await startAgentSidecar(pod, await coordinator.admit(pod.name), {
      image,
      env: { NASMIG_INDEX_DELAY_MS: '0', NASMIG_INDEX_BYTES_PER_SECOND: String(4 * 2 ** 20) },
    });
    lab.lab.nas.pause();
    try {
      await sleep(500);
      sampling.signal('SIGTERM');
      await sampling.process.waitForOutput(/"stopping"/, 500);
      // Threads that wait for a kernel's NFS client can be ended. For FUSE, the lab's substitute, they cannot.
      await sleep(1000);
    } finally {
      lab.lab.nas.resume();
    }
    expect(await sampling.process.endsWithin(1000)).toMatchObject({ code: 0 });
  });

  it('ends within a second as process 1 with a read that hangs and can be ended', async () => {
    const pod = await lab.startPod('source', { disks: [volume.source], bootDirectory });
    const directory = pod.node.file('hanging');
    await mkdir(directory);
    await runCommand(['mkfifo', '-m', '0666', join(directory, 'token')]);
    const container = await startAgentSidecar(pod, await coordinator.admit(pod.name), {
      image,
      env: { NASMIG_TOKEN_FILE: '/run/hanging/token' },
      extraBinds: [{ from: directory, to: '/run/hanging', readOnly: true }],
    });
    expect((await container.stop()).elapsedMs).toBeLessThan(1000);
  });
});
