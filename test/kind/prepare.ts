// Lays out what `hack/kind/kind.sh up` needs and only this repository can make: the build directory of the guest's boot image
// (kernel, initramfs, Dockerfile), the guest's disk, and frame-relay, which carries the guest's frames out of a pod.
//   node test/kind/prepare.ts DIRECTORY
import { copyFile, mkdir, rm, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { buildGoProgram } from '../lab/go-programs.ts';
import { ensureGuestDisk, ensureGuestKernel } from '../lab/guest-image.ts';

const BOOT_DOCKERFILE = resolve(import.meta.dirname, '../../hack/kind/guest-boot/Dockerfile');

/** Names in the state directory that kind.sh and the driver agree on. */
export const STATE_FILES = { boot: 'guest-boot', disk: 'disk.img', frameRelay: 'frame-relay' } as const;

/** Makes everything that is missing. Needs root, mmdebstrap and Go the first time. */
export async function prepare(directory: string): Promise<void> {
  const boot = join(directory, STATE_FILES.boot);
  await mkdir(boot, { recursive: true });
  const kernel = await ensureGuestKernel();
  await copyFile(kernel.kernelPath, join(boot, 'vmlinuz'));
  await copyFile(kernel.initrdPath, join(boot, 'initrd'));
  await copyFile(BOOT_DOCKERFILE, join(boot, 'Dockerfile'));
  const disk = await ensureGuestDisk();
  await linkTo(disk.path, join(directory, STATE_FILES.disk));
  await linkTo(await buildGoProgram('frame-relay'), join(directory, STATE_FILES.frameRelay));
}

async function linkTo(target: string, path: string): Promise<void> {
  await rm(path, { force: true });
  await symlink(resolve(target), path);
}

if (import.meta.main) {
  const [directory, ...more] = process.argv.slice(2);
  if (directory === undefined || more.length > 0) {
    console.error('usage: node test/kind/prepare.ts DIRECTORY');
    process.exit(2);
  }
  await prepare(directory);
}
