// Builds what a guest boots from, out of Debian packages: a stock kernel, an initramfs with guest-init and the modules
// it loads, and a raw disk image with an installed system's files (about 1.1 GB of them, on a fresh ext4).

import { execFile } from 'node:child_process';
import { copyFile, mkdir, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CACHE_DIR, ensureBuilt, recipeDigest } from './build-cache.ts';
import { buildGoProgram, type GoProgram } from './go-programs.ts';
import { buildInitramfs, type InitramfsEntry } from './initramfs.ts';
import { ensureMmdebstrap } from './roots.ts';
import { runCommand } from './run-command.ts';

const SUITE = 'trixie';
/** Few drivers and virtio: it boots in seconds under software emulation. */
const KERNEL_PACKAGE = 'linux-image-cloud-amd64';
/** In the order in which they are loaded; ext4, virtio and its PCI transport are built in. */
const MODULES = ['virtio_blk', 'failover', 'net_failover', 'virtio_net'];
/** An uncompressed module is below 1 MiB. */
const MAX_MODULE_BYTES = 16 * 1024 * 1024;

/** Real programs and libraries, few small files; what they do does not matter. */
const DISK_PACKAGES = [
  'perl',
  'python3',
  'g++',
  'clang-19',
  'gdb',
  'git',
  'vim',
  'groff',
  'libicu-dev',
  'python3-numpy',
  'locales',
  'gnupg',
  'openssh-server',
  'systemd-sysv',
  'dbus',
];
const DISK_MIB = 2048;

export interface GuestKernel {
  kernelPath: string;
  initrdPath: string;
  /** Changes when kernel, modules or guest-init do. */
  digest: string;
}

export interface GuestDisk {
  path: string;
  digest: string;
}

/** What only some guests need. */
export interface GuestExtras {
  /** Loaded after the usual modules. */
  readonly modules?: readonly string[];
  /** The guest has a second disk, and reads all of it into its page cache. */
  readonly dataDisk?: boolean;
}

/** Builds kernel and initramfs when they are missing. Needs Go. */
export async function ensureGuestKernel(
  cacheDir: string = CACHE_DIR,
  extras: GuestExtras = {},
): Promise<GuestKernel> {
  const guests = join(cacheDir, 'guests');
  const modules = [...MODULES, ...(extras.modules ?? [])];
  const kernelDigest = recipeDigest([1, SUITE, KERNEL_PACKAGE, modules]);
  const kernel = await ensureBuilt(join(guests, `kernel-${kernelDigest}`), (directory) =>
    buildKernelDirectory(directory, modules),
  );
  const programs = await guestPrograms(extras);
  const contents = programs.map(({ content }) => content?.toString('base64'));
  const digest = recipeDigest([2, kernelDigest, ...contents]);
  const initrdPath = await ensureBuilt(join(guests, `initramfs-${digest}.cpio`), async (path) => {
    const entries: InitramfsEntry[] = [...programs, { path: 'modules', mode: 0o755, content: null }];
    for (const name of await readdir(join(kernel, 'modules'))) {
      const content = await readFile(join(kernel, 'modules', name));
      entries.push({ path: `modules/${name}`, mode: 0o644, content });
    }
    await writeFile(path, buildInitramfs(entries));
  });
  return { kernelPath: join(kernel, 'vmlinuz'), initrdPath, digest };
}

async function guestPrograms(extras: GuestExtras): Promise<InitramfsEntry[]> {
  const program = async (path: string, name: GoProgram): Promise<InitramfsEntry> => ({
    path,
    mode: 0o755,
    content: await readFile(await buildGoProgram(name)),
  });
  if (extras.dataDisk !== true) return [await program('init', 'guest-init')];
  return [await program('init', 'guest-data-disk'), await program('guest-init', 'guest-init')];
}

/** Builds the disk image when it is missing (about two minutes and 1.1 GB). It is a template: never write to it. */
export async function ensureGuestDisk(cacheDir: string = CACHE_DIR): Promise<GuestDisk> {
  const digest = recipeDigest([1, SUITE, DISK_PACKAGES, DISK_MIB]);
  const path = await ensureBuilt(join(cacheDir, 'guests', `disk-${digest}.img`), async (image) => {
    await ensureMmdebstrap();
    const tree = `${image}.tree`;
    try {
      await runCommand([
        ...['mmdebstrap', '--mode=root', '--variant=minbase', '--format=directory'],
        ...['--aptopt=APT::Install-Recommends "false"', `--include=${DISK_PACKAGES.join(',')}`],
        ...[SUITE, tree],
      ]);
      await makeDiskImage(tree, image);
    } finally {
      await rm(tree, { recursive: true, force: true });
    }
  });
  return { path, digest };
}

/** Makes a raw image of an ext4 with the files of `tree`. 4 KiB blocks, so that a page of a file is a block of the disk. */
async function makeDiskImage(tree: string, image: string): Promise<void> {
  await writeFile(image, '');
  await truncate(image, DISK_MIB * 1024 * 1024);
  await runCommand([
    ...['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-m', '0'],
    // Everything is written now: a guest that initialises tables in the background would not be idle.
    ...['-E', 'lazy_itable_init=0,lazy_journal_init=0', '-J', 'size=32'],
    ...['-d', tree, image],
  ]);
}

/** Lays `vmlinuz` and `modules/NN-name.ko`, decompressed, into `directory`. */
async function buildKernelDirectory(directory: string, modules: readonly string[]): Promise<void> {
  await ensureMmdebstrap();
  const tree = `${directory}.tree`;
  try {
    // Unpacked, not installed: no maintainer script runs, and the host's own kernel is not concerned.
    await runCommand([
      ...['mmdebstrap', '--mode=root', '--variant=extract', '--format=directory'],
      ...[`--include=${KERNEL_PACKAGE}`, SUITE, tree],
    ]);
    await mkdir(join(directory, 'modules'), { recursive: true });
    const image = (await readdir(join(tree, 'boot'))).find((name) => name.startsWith('vmlinuz-'));
    if (image === undefined)
      throw new Error(`${KERNEL_PACKAGE} has no boot/vmlinuz-*; Debian may have moved it`);
    await copyFile(join(tree, 'boot', image), join(directory, 'vmlinuz'));
    const modulesTree = join(tree, 'usr/lib/modules');
    const files = await readdir(modulesTree, { recursive: true });
    for (const [index, name] of modules.entries()) {
      const file = files.find((candidate) => candidate.endsWith(`/${name}.ko.xz`));
      if (file === undefined)
        throw new Error(`${KERNEL_PACKAGE} has no module ${name}; it may be built in by now`);
      const content = await decompressXz(join(modulesTree, file));
      await writeFile(join(directory, 'modules', `${String(index).padStart(2, '0')}-${name}.ko`), content);
    }
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

async function decompressXz(path: string): Promise<Buffer> {
  const { stdout } = await promisify(execFile)('xz', ['-dc', path], {
    encoding: 'buffer',
    maxBuffer: MAX_MODULE_BYTES,
  });
  return stdout;
}
