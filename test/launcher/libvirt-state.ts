// Saved guests for the libvirt path. They cannot be shared with those that QEMU alone runs (warm-state.ts), because
// libvirt's machine has other devices in other slots. Each profile is booted once for each QEMU and libvirt; memory,
// disk, kernel and initramfs are kept together in `.cache/guests/`, and every run works on a copy of the disk.

import { cp, mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CACHE_DIR, ensureBuilt, recipeDigest } from '../lab/build-cache.ts';
import { ensureGuestDisk, ensureGuestKernel, type GuestKernel } from '../lab/guest-image.ts';
import { GuestObserver } from '../lab/guest-observer.ts';
import { GUEST_PROFILES, type GuestProfileName, profileKernelArguments } from '../lab/guest-profiles.ts';
import { QEMU_OWNER } from '../lab/node.ts';
import { guestMemoryKib, oddMemoryRecipe } from '../lab/odd-memory.ts';
import { ensureRoot, type RootSuite } from '../lab/roots.ts';
import { runCommand } from '../lab/run-command.ts';
import { type DomainChoices, GUEST_DOMAIN, guestDomain, layBootDirectory, MACHINES } from './guest-domain.ts';
import { LauncherLab } from './launcher-lab.ts';
import { type LauncherPod, POD_PATHS } from './launcher-pod.ts';

/** Raise it when domain-xml.ts changes the machine, or what is saved changes otherwise. */
const RECIPE_VERSION = 1;
/** Boot and warming take half a minute, ageing a disk two; four times that on a busy machine. */
const READY_TIMEOUT_MS = 8 * 60_000;
/** A second of quiet after `ready`, so that what boot began has ended. */
const SETTLE_BEACONS = 100;
const SAVE_TIMEOUT_MS = 120_000;
const STATE_NAME = 'state';
const DISK_NAME = 'disk.img';

/** What a saved guest may have beyond the lab's usual one. */
export interface StateChoices {
  readonly domain?: DomainChoices;
  readonly kernel?: GuestKernel;
}

export interface LibvirtState {
  /** To be the boot directory of the pods: kernel, initramfs, saved state. */
  readonly directory: string;
  /** The disk that belongs to the state. Copy it, never write to it. */
  readonly diskTemplate: string;
  readonly profile: GuestProfileName;
  readonly suite: RootSuite;
  readonly domain: DomainChoices;
}

/** Returns the saved guest of a profile, making it when it is missing (a minute or two the first time). */
export async function ensureLibvirtState(
  profileName: GuestProfileName,
  suite: RootSuite = 'trixie',
  choices: StateChoices = {},
): Promise<LibvirtState> {
  const profile = GUEST_PROFILES[profileName];
  const root = await ensureRoot(suite);
  const kernel = choices.kernel ?? (await ensureGuestKernel());
  const memoryKib = guestMemoryKib(suite, profile.memoryMiB);
  const domain: DomainChoices = { machine: MACHINES[suite], memoryKib, ...choices.domain };
  const disk = await ensureGuestDisk();
  const recipe = [
    ...[RECIPE_VERSION, MACHINES[suite], basename(root), kernel.digest, disk.digest],
    ...[profile.memoryMiB, profileKernelArguments(profile)],
    ...(choices.domain === undefined ? [] : [choices.domain]),
    ...oddMemoryRecipe(suite),
  ];
  const directory = await ensureBuilt(
    join(CACHE_DIR, 'guests', `libvirt-${suite}-${recipeDigest(recipe)}`),
    async (path) => {
      await mkdir(path, { recursive: true });
      await layBootDirectory(path, kernel);
      await runCommand(['cp', '--sparse=always', disk.path, join(path, DISK_NAME)]);
      await bootAndSave(path, { profile: profileName, suite, domain });
    },
  );
  return { directory, diskTemplate: join(directory, DISK_NAME), profile: profileName, suite, domain };
}

/** Starts a saved guest in a pod whose boot directory is the state's. The guest runs when this resolves. */
export async function restoreGuest(pod: LauncherPod, state: LibvirtState): Promise<void> {
  await pod.defineDomain(guestDomain(GUEST_PROFILES[state.profile], state.domain));
  await pod.virsh(['restore', join(POD_PATHS.boot, STATE_NAME), '--running'], { timeoutMs: SAVE_TIMEOUT_MS });
}

async function bootAndSave(
  path: string,
  { profile, suite, domain }: Pick<LibvirtState, 'profile' | 'suite' | 'domain'>,
): Promise<void> {
  const lab = await LauncherLab.start();
  const observer = new GuestObserver();
  try {
    const disk = join(path, DISK_NAME);
    await runCommand(['chown', `${QEMU_OWNER.uid}:${QEMU_OWNER.gid}`, disk]);
    const pod = await lab.startPod('source', {
      suite,
      disks: [{ name: 'rootdisk', file: disk }],
      bootDirectory: path,
    });
    await pod.attachObserver(observer);
    await pod.defineDomain(guestDomain(GUEST_PROFILES[profile], domain));
    await pod.startDomain(GUEST_DOMAIN);
    const ready = await observer.waitFor('become ready', (beacon) => beacon.ready, READY_TIMEOUT_MS);
    const settled = ready.counter + SETTLE_BEACONS;
    await observer.waitFor('settle', (beacon) => beacon.counter > settled, READY_TIMEOUT_MS);
    observer.requireSound();
    const saved = join(POD_PATHS.observer, STATE_NAME);
    await pod.virsh(['save', GUEST_DOMAIN, saved], { timeoutMs: SAVE_TIMEOUT_MS });
    await cp(join(pod.observerDirectory, STATE_NAME), join(path, STATE_NAME));
    // Only libvirt, as 107, reads it.
    await runCommand(['chown', `${QEMU_OWNER.uid}:${QEMU_OWNER.gid}`, join(path, STATE_NAME)]);
  } finally {
    await observer.close();
    await lab.close();
  }
}
