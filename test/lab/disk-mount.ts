// A file of the NAS as a file of a node. The kernel has no NFS client here, so qemu-storage-daemon is it: QEMU's nfs
// driver (libnfs, user space) at one end and a FUSE export of one regular file at the other. Nothing on the way
// caches: a read with O_DIRECT is answered by the NAS every time, and what a write has acknowledged is there.

import { open, writeFile } from 'node:fs/promises';
import { nfsLocation } from './nas.ts';
import type { LabNode } from './node.ts';
import { QEMU_OWNER } from './node.ts';
import type { NodeProcess } from './node-process.ts';

const READY_TIMEOUT_MS = 20_000;

export interface DiskMountOptions {
  /** File of the NAS, relative to its export. */
  file: string;
  /** A Debian root with qemu-storage-daemon and QEMU's nfs driver. */
  root: string;
  /** Default: writable. */
  readOnly?: boolean;
}

/** A mounted file; as long as its process runs, all processes of the node see it. */
export class DiskMount {
  /** The file on the node. */
  readonly path: string;
  readonly process: NodeProcess;

  private constructor(path: string, process: NodeProcess) {
    this.path = path;
    this.process = process;
  }

  /** Mounts `file` at `<node directory>/<file>`. Throws when the NAS does not have it. */
  static async mount(node: LabNode, options: DiskMountOptions): Promise<DiskMount> {
    const path = node.file(options.file);
    // FUSE mounts a file on a file.
    await writeFile(path, '');
    const location = nfsLocation(options.file);
    const writable = options.readOnly ? 'off' : 'on';
    const process = await node.spawn({
      name: `disk-${options.file}`,
      root: options.root,
      argv: [
        'qemu-storage-daemon',
        '--blockdev',
        [
          'driver=nfs,node-name=nas',
          `server.type=inet,server.host=${location.host},path=${location.path}`,
          `user=${QEMU_OWNER.uid},group=${QEMU_OWNER.gid}`,
          `read-only=${options.readOnly ? 'on' : 'off'}`,
        ].join(','),
        '--export',
        `type=fuse,id=disk,node-name=nas,mountpoint=${path},writable=${writable},allow-other=on`,
      ],
    });
    await process.waitUntil(`${path} mounted`, READY_TIMEOUT_MS, () => isFuseMount(node, path));
    // The export begins as root's alone; with allow-other its owner and mode can be set, and the kernel checks them.
    await node.run(['chown', `${QEMU_OWNER.uid}:${QEMU_OWNER.gid}`, path]);
    return new DiskMount(path, process);
  }

  /** Path by which a process outside the node's mount namespace can open the file, e.g. for reading it in a test. */
  static pathFromHost(node: LabNode, mount: DiskMount): string {
    return `/proc/${node.holderPid}/root${mount.path}`;
  }

  async unmount(): Promise<void> {
    await this.process.stop();
  }
}

async function isFuseMount(node: LabNode, path: string): Promise<boolean> {
  const file = await open(`/proc/${node.holderPid}/mounts`, 'r');
  try {
    const mounts = await file.readFile('utf8');
    return mounts.split('\n').some((line) => {
      const [, mountPoint, type = ''] = line.split(' ');
      return mountPoint === path && type.startsWith('fuse');
    });
  } finally {
    await file.close();
  }
}
