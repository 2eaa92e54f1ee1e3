// Debian root file systems that the lab's heavy programs (QEMU, libvirt, nfs-ganesha) come from, so that a host needs
// only mmdebstrap, and so that QEMU's version is the lab's choice: bookworm has 7.2, trixie 10.0, sid 11.1.
// A root is a read-only template: it is built once, and run by chroot or as an overlay's lower directory.
// `.cache/roots/<suite>` is a symbolic link to the root of the current recipe; older ones stay until removed by hand,
// because a run that still uses one must not lose its programs.

import { access, constants, readlink, rename, rm, symlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CACHE_DIR, ensureBuilt, recipeDigest } from './build-cache.ts';
import { runCommand } from './run-command.ts';

export type RootSuite = 'bookworm' | 'trixie' | 'sid';

export const ROOT_SUITES: readonly RootSuite[] = ['bookworm', 'trixie', 'sid'];

/** Raise it when the way a root is made changes without a change of the lists below. */
const RECIPE_VERSION = 1;

/** KubeVirt runs QEMU, libvirt and virt-launcher as 107:107; libvirt crashes when the id has no passwd and group entry. */
export const QEMU_UID = 107;
const QEMU_PASSWD = `qemu:x:${QEMU_UID}:${QEMU_UID}:qemu:/var/lib/qemu:/usr/sbin/nologin`;
const QEMU_GROUP = `qemu:x:${QEMU_UID}:`;

const PACKAGES: readonly string[] = [
  'qemu-system-x86',
  'qemu-system-common',
  'qemu-utils', // qemu-img, qemu-storage-daemon
  'qemu-block-extra', // the nfs block driver
  'libvirt-daemon-system',
  'libvirt-clients',
  'nfs-ganesha',
  'nfs-ganesha-vfs',
  'rpcbind', // nfs-ganesha registers NFSv3 there, and libnfs asks it for the port
  'iproute2',
  'procps',
];

/** sid's release file may be older than its validity when the mirror is a snapshot. */
const SUITE_APT_OPTIONS: Record<RootSuite, readonly string[]> = {
  bookworm: [],
  trixie: [],
  sid: ['Acquire::Check-Valid-Until "false"'],
};

/** Installs mmdebstrap on this (Debian) host when it is missing. */
export async function ensureMmdebstrap(): Promise<void> {
  if (await isOnPath('mmdebstrap')) return;
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  await runCommand(['apt-get', 'update', '-q'], { env });
  await runCommand(
    ['apt-get', 'install', '-y', '-q', '--no-install-recommends', 'mmdebstrap', 'debian-archive-keyring'],
    { env },
  );
}

/**
 * Returns the absolute path of the Debian root of `suite`, building it when it is missing or its recipe has changed
 * (20-60 s and 400-600 MB). Must run as root. Safe to call from several processes at once.
 */
export async function ensureRoot(suite: RootSuite, cacheDir: string = CACHE_DIR): Promise<string> {
  const rootsDir = join(cacheDir, 'roots');
  const aptOptions = ['APT::Install-Recommends "false"', ...SUITE_APT_OPTIONS[suite]];
  const digest = recipeDigest([RECIPE_VERSION, suite, PACKAGES, aptOptions, QEMU_PASSWD, QEMU_GROUP]);
  const root = await ensureBuilt(join(rootsDir, `${suite}-${digest}`), async (temporaryPath) => {
    await ensureMmdebstrap();
    await buildRoot(suite, PACKAGES, aptOptions, temporaryPath);
  });
  await pointLinkAt(join(rootsDir, suite), root);
  return root;
}

async function buildRoot(
  suite: RootSuite,
  packages: readonly string[],
  aptOptions: readonly string[],
  target: string,
): Promise<void> {
  await runCommand([
    'mmdebstrap',
    '--mode=root',
    '--variant=minbase',
    // An explicit format: mmdebstrap otherwise guesses it from the target's name.
    '--format=directory',
    ...aptOptions.map((option) => `--aptopt=${option}`),
    `--include=${packages.join(',')}`,
    // Before any package that creates users of its own, so that 107 is still free.
    `--essential-hook=echo '${QEMU_PASSWD}' >> "$1/etc/passwd"; echo '${QEMU_GROUP}' >> "$1/etc/group"`,
    '--customize-hook=mkdir -p "$1/var/lib/qemu" && chown 107:107 "$1/var/lib/qemu"',
    suite,
    target,
  ]);
}

/** Makes `link` a symbolic link to its sibling `target`, in one step for anybody who looks at it meanwhile. */
async function pointLinkAt(link: string, target: string): Promise<void> {
  const name = basename(target);
  if ((await readlink(link).catch(() => null)) === name) return;
  const temporary = `${link}.link-${process.pid}`;
  await rm(temporary, { force: true });
  await symlink(name, temporary);
  await rename(temporary, link);
}

async function isOnPath(program: string): Promise<boolean> {
  for (const directory of (process.env['PATH'] ?? '').split(':')) {
    if (directory === '') continue;
    const found = await access(join(directory, program), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return true;
  }
  return false;
}
