// The images that pods of the lab name, and what each is here: a command with an environment. A pod that names another image
// does not start, as where an image cannot be pulled. The sidecar's image is this repository, run by the Node that runs us.

import { resolve } from 'node:path';
import { imageConfiguration } from '../../hack/ship/dockerfile.ts';
import type { Bind } from '../launcher/container.ts';

/** What kubelet knows of an image: its entry point, environment and files. */
export interface Image {
  readonly entrypoint: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Files of this machine that are the image's, at the same or another path. */
  readonly files: readonly Bind[];
  /** The image's own file system, run by a real OCI runtime; without it, a Debian root with the files. */
  readonly rootfs?: string;
}

/** virt-launcher's: libvirt and QEMU of a Debian root. It is run by test/launcher, not by its entry point. */
export const LAUNCHER_IMAGE = 'lab.example/kubevirt/virt-launcher:trixie';
/** The release under test, as its image has it. */
export const SIDECAR_IMAGE = 'lab.example/nas-aware-migration/sidecar:current';
/**
 * The same, but sampling begins soon and is not slowed down, so that a test need not wait for it. Not at once: a target is armed
 * within a second or two, and must not sample before.
 */
export const EAGER_SIDECAR_IMAGE = 'lab.example/nas-aware-migration/sidecar:eager';

/** The eager one as a release before this one was: it speaks an older protocol with the hub. */
export const PREVIOUS_PROTOCOL_SIDECAR_IMAGE = 'lab.example/nas-aware-migration/sidecar:previous-protocol';

const REPOSITORY = resolve(import.meta.dirname, '../..');
const NODE = '/usr/local/bin/node';

const SIDECAR_PROGRAM = resolve(REPOSITORY, 'sidecar/main.ts');

const SHIPPED = imageConfiguration();

const SIDECAR: Image = {
  entrypoint: [NODE, ...SHIPPED.nodeOptions, SIDECAR_PROGRAM],
  env: SHIPPED.env,
  files: [
    { from: REPOSITORY, to: REPOSITORY, readOnly: true },
    { from: process.execPath, to: NODE, readOnly: true },
  ],
};

const EAGER_SIDECAR: Image = {
  ...SIDECAR,
  env: { ...SIDECAR.env, NASMIG_INDEX_DELAY_MS: '4000', NASMIG_INDEX_BYTES_PER_SECOND: String(2 ** 30) },
};

const PREVIOUS_PROTOCOL_SIDECAR: Image = {
  ...EAGER_SIDECAR,
  entrypoint: [
    ...[NODE, ...SHIPPED.nodeOptions, '--import'],
    ...[resolve(REPOSITORY, 'test/cluster/previous-protocol.ts'), SIDECAR_PROGRAM],
  ],
};

/** The image as the Dockerfile makes it, once hack/ship/image-rootfs.ts has assembled it there; its sidecar is eager, too. */
export const ASSEMBLED_IMAGE = 'lab.example/nas-aware-migration:assembled';
export const ASSEMBLED_IMAGE_ROOTFS = resolve(REPOSITORY, 'build/lab-image-rootfs');

const ASSEMBLED: Image = {
  entrypoint: [...SHIPPED.entrypoint, ...SHIPPED.cmd],
  env: {
    ...SHIPPED.env,
    NASMIG_INDEX_DELAY_MS: '4000',
    NASMIG_INDEX_BYTES_PER_SECOND: String(2 ** 30),
  },
  files: [],
  rootfs: ASSEMBLED_IMAGE_ROOTFS,
};

/** The lab's registry. */
export const IMAGES: ReadonlyMap<string, Image> = new Map<string, Image>([
  [SIDECAR_IMAGE, SIDECAR],
  [EAGER_SIDECAR_IMAGE, EAGER_SIDECAR],
  [ASSEMBLED_IMAGE, ASSEMBLED],
  [PREVIOUS_PROTOCOL_SIDECAR_IMAGE, PREVIOUS_PROTOCOL_SIDECAR],
]);
