// A guest that has booted and warmed its page cache takes half a minute to make; a saved one starts in seconds. So each
// profile is booted once for each QEMU, and its state is kept in `.cache/guests/` together with the disk as it was at
// that moment: memory and disk belong together, so every run works on a copy of that disk, never on the image itself.

import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CACHE_DIR, ensureBuilt, recipeDigest } from './build-cache.ts';
import { ensureGuestDisk, ensureGuestKernel, type GuestKernel } from './guest-image.ts';
import { GuestObserver } from './guest-observer.ts';
import {
  GUEST_PROFILES,
  type GuestProfile,
  type GuestProfileName,
  profileKernelArguments,
} from './guest-profiles.ts';
import { LocalNode } from './local-node.ts';
import { countPagesOnDisk, type MemoryStatistics } from './memory-statistics.ts';
import { guestMemoryKib, oddMemoryRecipe } from './odd-memory.ts';
import { Qemu, type QemuStartOptions } from './qemu.ts';
import type { QemuStart } from './qemu-arguments.ts';
import { ensureRoot, type RootSuite } from './roots.ts';
import { runCommand } from './run-command.ts';

/** Raise it when what is saved changes without a change of kernel, disk, profile or QEMU. */
const RECIPE_VERSION = 1;
const MACHINE = 'q35';
/** Boot takes 4 s under emulation, warming 15 s, ageing a disk a minute; four times that on a busy machine. */
const READY_TIMEOUT_MS = 5 * 60_000;
/** A moment of quiet after `ready`, so that what boot began has ended. */
const SETTLE_BEACONS = 100;

/** Everything under it must be visible, at the same path, to a QEMU that starts one of these guests. */
export const GUESTS_DIRECTORY = join(CACHE_DIR, 'guests');

/** A saved guest, and what is needed to start it or to receive it. */
export interface WarmState {
  profile: GuestProfile;
  suite: RootSuite;
  /** Debian root that has the QEMU which saved it. */
  root: string;
  kernel: GuestKernel;
  /** The saved migration stream. */
  statePath: string;
  /** The disk that belongs to it: copy it (`copyDisk`), never write to it. */
  diskTemplatePath: string;
  diskBytes: number;
  memory: MemoryStatistics;
  qemuVersion: string;
}

/** From its saved state, or by a migration. */
export type GuestStart = { readonly kind: 'state' } | Extract<QemuStart, { kind: 'incoming' }>;

/** The part of QEMU's options that is a run's own. Paths are as seen from inside the root. */
export interface GuestPlace {
  diskPath: string;
  /** Default true, see QemuGuestOptions. */
  diskDirect?: boolean;
  networkSocketPath: string | null;
  qmpSocketPath: string;
  serialLogPath: string;
  /** Name of the process in its node. Default `qemu`. */
  name?: string;
  user?: { uid: number; gid: number };
}

/**
 * Returns the saved state of `profile` for the QEMU of `suite`, making it, and everything it is made of, when missing
 * (one to three minutes the first time). `say` is told what takes time.
 */
export async function ensureWarmState(
  profileName: GuestProfileName,
  suite: RootSuite = 'trixie',
  say: (message: string) => void = () => undefined,
): Promise<WarmState> {
  const profile = GUEST_PROFILES[profileName];
  const root = await ensureRoot(suite);
  const kernel = await ensureGuestKernel();
  const disk = await ensureGuestDisk();
  const recipe = [
    RECIPE_VERSION,
    MACHINE,
    basename(root),
    kernel.digest,
    disk.digest,
    profile.memoryMiB,
    profileKernelArguments(profile),
    ...oddMemoryRecipe(suite),
  ];
  const directory = await ensureBuilt(
    join(GUESTS_DIRECTORY, `state-${suite}-${recipeDigest(recipe)}`),
    async (path) => {
      say(`booting a '${profileName}' guest under QEMU of ${suite} to save its warm state`);
      await mkdir(path, { recursive: true });
      await saveWarmState(path, { profile, suite, root, kernel, diskPath: disk.path });
    },
  );
  const saved = JSON.parse(await readFile(join(directory, 'saved.json'), 'utf8')) as SavedFacts;
  const diskTemplatePath = join(directory, 'disk.img');
  return {
    profile,
    suite,
    root,
    kernel,
    statePath: join(directory, 'state'),
    diskTemplatePath,
    diskBytes: (await stat(diskTemplatePath)).size,
    ...saved,
  };
}

/** Copies the disk of a warm state (about a second), holes kept, to where a run will work on it. */
export async function copyDisk(state: WarmState, path: string): Promise<void> {
  await runCommand(['cp', '--sparse=always', state.diskTemplatePath, path]);
}

/** QEMU's options for this guest. */
export function guestOptions(state: WarmState, place: GuestPlace, start: GuestStart): QemuStartOptions {
  const from: QemuStart =
    start.kind === 'state' ? { kind: 'state', path: state.statePath, savedBy: state.qemuVersion } : start;
  return { ...place, ...machineOptions(state), start: from };
}

interface SavedFacts {
  memory: MemoryStatistics;
  qemuVersion: string;
}

interface Machine {
  readonly profile: GuestProfile;
  readonly suite: RootSuite;
  readonly root: string;
  readonly kernel: GuestKernel;
}

function machineOptions(of: Machine) {
  return {
    root: of.root,
    kernelPath: of.kernel.kernelPath,
    initrdPath: of.kernel.initrdPath,
    kernelArguments: profileKernelArguments(of.profile),
    memoryKib: guestMemoryKib(of.suite, of.profile.memoryMiB),
    machine: MACHINE,
  };
}

async function saveWarmState(directory: string, of: Machine & { diskPath: string }): Promise<void> {
  const node = await LocalNode.start([GUESTS_DIRECTORY]);
  const observer = new GuestObserver();
  const diskPath = join(directory, 'disk.img');
  const dumpPath = join(directory, 'memory');
  try {
    await runCommand(['cp', '--sparse=always', of.diskPath, diskPath]);
    await observer.listen(node.file('network'), 'booting');
    const qemu = await Qemu.start(node, {
      ...machineOptions(of),
      diskPath,
      networkSocketPath: node.file('network'),
      qmpSocketPath: node.file('qmp'),
      serialLogPath: node.file('serial'),
      start: { kind: 'boot' },
    });
    const ready = await observer.waitFor('become ready', (beacon) => beacon.ready, READY_TIMEOUT_MS);
    await observer.waitFor(
      'settle',
      (beacon) => beacon.counter > ready.counter + SETTLE_BEACONS,
      READY_TIMEOUT_MS,
    );
    observer.requireSound();
    await qemu.pause();
    await qemu.dumpMemory(dumpPath, guestMemoryKib(of.suite, of.profile.memoryMiB));
    await qemu.saveState(join(directory, 'state'));
    await qemu.quit();
    const facts: SavedFacts = {
      memory: await countPagesOnDisk(dumpPath, diskPath),
      qemuVersion: qemu.version,
    };
    await writeFile(join(directory, 'saved.json'), JSON.stringify(facts));
  } finally {
    await observer.close();
    await node.close();
    await rm(dumpPath, { force: true });
  }
}
