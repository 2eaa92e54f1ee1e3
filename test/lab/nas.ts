// The NAS: rpcbind and nfs-ganesha (VFS back end) from a Debian root, in a place of its own, exporting one directory of
// the run over NFSv3 and v4. It can be stopped, frozen and restarted, which is what a NAS does on a bad day.
// NFSv3 is what the nodes use: QEMU's nfs block driver has no way to ask libnfs for another version.

import { chown, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NAS_ADDRESS } from './network.ts';
import { type LabNode, QEMU_OWNER } from './node.ts';
import type { NodeProcess } from './node-process.ts';
import { runCommand } from './run-command.ts';

/** Path that clients mount. */
export const EXPORT_PATH = '/export';

const RPCBIND_READY_TIMEOUT_MS = 10_000;
/** ganesha is ready in a second or two; on a busy machine in several. */
const GANESHA_READY_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 5_000;

export class Nas {
  readonly node: LabNode;
  /** Directory on the host whose files are exported. */
  readonly exportDirectory: string;
  private readonly root: string;
  private rpcbind: NodeProcess | null = null;
  private ganesha: NodeProcess | null = null;

  private constructor(node: LabNode, root: string, exportDirectory: string) {
    this.node = node;
    this.root = root;
    this.exportDirectory = exportDirectory;
  }

  /** Starts the servers; `root` is a Debian root with nfs-ganesha, `bulkPath` a directory on a real file system. */
  static async start(node: LabNode, root: string, bulkPath: string): Promise<Nas> {
    const exportDirectory = join(bulkPath, 'export');
    await mkdir(exportDirectory, { recursive: true });
    await chown(exportDirectory, QEMU_OWNER.uid, QEMU_OWNER.gid);
    const nas = new Nas(node, root, exportDirectory);
    await node.bindIntoRoot(root, exportDirectory);
    await writeFile(node.file('ganesha.conf'), ganeshaConfiguration(exportDirectory));
    await nas.startServers();
    return nas;
  }

  /** Path on the host of an exported file. */
  file(name: string): string {
    return join(this.exportDirectory, name);
  }

  /** Puts a file into the export, for 107 to read and write: bytes, or a copy (sparse) of a file of the host. */
  async addFile(name: string, content: Uint8Array | string): Promise<void> {
    const path = this.file(name);
    if (typeof content === 'string')
      await runCommand(['cp', '--sparse=always', '--reflink=auto', content, path]);
    else await writeFile(path, content);
    await chown(path, QEMU_OWNER.uid, QEMU_OWNER.gid);
  }

  /** CPU and memory of the NFS server are counted here. */
  get process(): NodeProcess {
    if (!this.ganesha) throw new Error('the NAS is stopped');
    return this.ganesha;
  }

  /** Freezes the server: connections stay open, calls get no answer. */
  pause(): void {
    this.process.signal('SIGSTOP');
  }

  /** Ends pause(): answers what has queued up. */
  resume(): void {
    this.process.signal('SIGCONT');
  }

  /** Ends the servers: connections are refused. `gracefully` false is a crash. */
  async stop(gracefully = true): Promise<void> {
    for (const process of [this.ganesha, this.rpcbind]) {
      if (!process) continue;
      if (gracefully) await process.stop(STOP_TIMEOUT_MS);
      else await process.kill();
    }
    this.ganesha = null;
    this.rpcbind = null;
  }

  /** Starts the servers again after stop(). File handles of before stay valid: they name inodes. */
  async restart(): Promise<void> {
    await this.stop();
    await this.startServers();
  }

  private async startServers(): Promise<void> {
    // -f: in the foreground.
    this.rpcbind = await this.node.spawn({ name: 'rpcbind', argv: ['rpcbind', '-f'], root: this.root });
    await this.rpcbind.waitUntil('listening on port 111', RPCBIND_READY_TIMEOUT_MS, () => this.listens(111));
    this.ganesha = await this.node.spawn({
      name: 'ganesha',
      // -F: in the foreground; the configuration's path must be absolute.
      argv: [
        ...['ganesha.nfsd', '-F', '-N', 'NIV_EVENT', '-L', '/dev/stderr'],
        ...['-f', this.node.file('ganesha.conf'), '-p', this.node.file('ganesha.pid')],
      ],
      root: this.root,
    });
    await this.ganesha.waitUntil('listening on port 2049', GANESHA_READY_TIMEOUT_MS, () =>
      this.listens(2049),
    );
    await this.ganesha.waitForOutput(/NFS SERVER INITIALIZED/, GANESHA_READY_TIMEOUT_MS);
  }

  private async listens(port: number): Promise<boolean> {
    const sockets = await this.node.run(['ss', '-H', '-l', '-t', '-n', `sport = :${port}`]);
    return sockets.trim() !== '';
  }
}

/** Parts of ganesha.conf(8) that matter here; the rest are its defaults. */
function ganeshaConfiguration(exportDirectory: string): string {
  return `
NFS_CORE_PARAM {
  Protocols = 3, 4;
  # NFSv3 clients mount the pseudo path too, so that no path of the host shows.
  mount_path_pseudo = true;
  # Lock and quota services would need more of rpcbind, and nothing here locks over NFSv3.
  Enable_NLM = false;
  Enable_RQUOTA = false;
  # A container may lack the capability (CAP_SYS_RESOURCE) for what is a precaution against memory deadlocks.
  allow_set_io_flusher_fail = true;
}
NFSv4 {
  # A restarted server answers at once.
  Graceless = true;
}
EXPORT_DEFAULTS {
  Access_Type = RW;
  Squash = None;
  SecType = sys;
  Protocols = 3, 4;
  Transports = TCP;
}
EXPORT {
  Export_Id = 1;
  Path = "${exportDirectory}";
  Pseudo = "${EXPORT_PATH}";
  FSAL { Name = VFS; }
}
`;
}

/** Host and path of an exported file, as a client names it. */
export function nfsLocation(file: string): { host: string; path: string } {
  return { host: NAS_ADDRESS, path: `${EXPORT_PATH}/${file}` };
}
