// Stand-in for virt-handler's part of a migration, on both nodes: TLS listeners on the target before the source
// begins, unix sockets in the source pod made as root and then given to qemu, and their removal at the end. The
// bytes go through the Go program migration-proxy, one process a listener. Order and owners: kubevirt.md, 3.

import { join } from 'node:path';
import type { LabNode } from '../lab/node.ts';
import { QEMU_OWNER } from '../lab/node.ts';
import type { NodeProcess } from '../lab/node-process.ts';
import type { LauncherPod } from './launcher-pod.ts';

const LISTENING_TIMEOUT_MS = 10_000;
const LISTENING = /^\{"listening":"(?:unix|tcp):(.*)"\}$/m;

/** What a virt-handler needs of its node. */
export interface VirtHandlerOptions {
  readonly node: LabNode;
  /** Binary of migration-proxy. */
  readonly proxyProgram: string;
  /** Directory made by `migration-proxy --make-certs`: the same CA on both nodes. */
  readonly certificates: string;
}

/** Where the target listens: status.targetNodeAddress and targetDirectMigrationNodePorts of the VMI. */
export interface TargetAddress {
  readonly host: string;
  readonly rpcPort: number;
  readonly streamPort: number;
}

/** The two connections of a migration that go through virt-handler; the NBD one is not needed with shared disks. */
const KINDS = ['rpc', 'stream'] as const;
type Kind = (typeof KINDS)[number];

/** Proxies of one migration on one node. */
export class MigrationProxies {
  readonly #processes = new Map<Kind, NodeProcess>();

  /** The proxy's process, for faults. */
  process(kind: Kind): NodeProcess {
    const process = this.#processes.get(kind);
    if (process === undefined) throw new Error(`there is no ${kind} proxy`);
    return process;
  }

  set(kind: Kind, process: NodeProcess): void {
    this.#processes.set(kind, process);
  }

  /** Ends the listeners and removes their sockets by name, whoever is at the name now. */
  async stop(): Promise<void> {
    for (const process of this.#processes.values()) await process.stop();
    this.#processes.clear();
  }
}

export class VirtHandler {
  readonly node: LabNode;
  readonly #options: VirtHandlerOptions;
  #started = 0;

  constructor(options: VirtHandlerOptions) {
    this.node = options.node;
    this.#options = options;
  }

  /**
   * handleTargetMigrationProxy: TLS listeners on random ports. The unix sockets behind them are dialed for every
   * accepted connection and need not exist yet. The pod's socket directory must have been made by then.
   */
  async prepareTarget(
    pod: LauncherPod,
    migrationUid: string,
    host: string,
  ): Promise<{ proxies: MigrationProxies; address: TargetAddress }> {
    const proxies = new MigrationProxies();
    const ports: Record<Kind, number> = { rpc: 0, stream: 0 };
    for (const kind of KINDS) {
      const dialed =
        kind === 'rpc'
          ? pod.libvirtSocketFromNode
          : join(pod.socketDirectoryFromNode, socketName(migrationUid, kind));
      const listening = await this.#start(proxies, kind, `in-${kind}-${pod.name}`, [
        ...['--listen', `tcp:${host}:0`, '--dial', `unix:${dialed}`],
      ]);
      ports[kind] = Number(listening.slice(listening.lastIndexOf(':') + 1));
    }
    return { proxies, address: { host, rpcPort: ports.rpc, streamPort: ports.stream } };
  }

  /**
   * handleSourceMigrationProxy and StartSourceListener: the sockets appear in the pod, root's at first. Calling it
   * again for the same migration (the target's address has changed) stops the old ones and makes them anew.
   */
  async prepareSource(
    pod: LauncherPod,
    migrationUid: string,
    target: TargetAddress,
    earlier?: MigrationProxies,
  ): Promise<MigrationProxies> {
    await earlier?.stop();
    const proxies = new MigrationProxies();
    for (const kind of KINDS) {
      const socket = join(pod.socketDirectoryFromNode, socketName(migrationUid, kind));
      const port = kind === 'rpc' ? target.rpcPort : target.streamPort;
      await this.#start(proxies, kind, `out-${kind}-${pod.name}`, [
        ...['--listen', `unix:${socket}`, '--owner', `${QEMU_OWNER.uid}:${QEMU_OWNER.gid}`],
        ...['--dial', `tcp:${target.host}:${port}`],
      ]);
    }
    return proxies;
  }

  async #start(
    proxies: MigrationProxies,
    kind: Kind,
    name: string,
    args: readonly string[],
  ): Promise<string> {
    this.#started += 1;
    const process = await this.node.spawn({
      // A name of its own is a log of its own: a later migration must not read this one's line.
      name: `${name}-${this.#started}`,
      argv: [this.#options.proxyProgram, ...args, '--certs', this.#options.certificates],
    });
    proxies.set(kind, process);
    const [, listening = ''] = await process.waitForOutput(LISTENING, LISTENING_TIMEOUT_MS);
    return listening;
  }
}

/** Names that virt-handler and libvirt agree on. */
export function socketName(migrationUid: string, kind: Kind): string {
  return kind === 'rpc' ? `${migrationUid}-source.sock` : `${migrationUid}-49152-source.sock`;
}
