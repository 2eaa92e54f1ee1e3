// A "node" of the lab (source, target, or the NAS): a network namespace and one mount namespace that all its processes
// share, so that a FUSE mount made by one of them is there for the others and for nobody else on the machine.
// Programs run in it straight from the host, or from a Debian root: an overlay over the read-only template, with
// /proc, /dev, /sys and the run's directory (at the same path) in it.

import { mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CgroupLayout } from './cgroup.ts';
import { ProcessCgroup } from './cgroup.ts';
import { type InterfaceCounters, readInterfaceCounters } from './interface-counters.ts';
import type { LabNetwork, PlaceName } from './network.ts';
import { NodeProcess } from './node-process.ts';
import { runCommand } from './run-command.ts';
import type { RunDirectory } from './run-directory.ts';

const HOLDER_READY_TIMEOUT_MS = 10_000;
const COMMAND_TIMEOUT_MS = 30_000;

/** KubeVirt's qemu user. */
export const QEMU_OWNER = { uid: 107, gid: 107 } as const;

export interface SpawnOptions {
  /** Unique in the node; names log file and cgroup. Spawning the same name again counts on in both. */
  name: string;
  argv: readonly string[];
  /** A root made by ensureRoot() to chroot into; without it the program comes from the host. */
  root?: string;
  /** Without it root. With it no capabilities and no new privileges, as KubeVirt's containers have it. */
  user?: { uid: number; gid: number };
  /** The whole environment but for PATH. Default: none. */
  env?: Record<string, string>;
  memoryLimitBytes?: number;
}

export interface LabNodeParts {
  place: PlaceName;
  run: RunDirectory;
  network: LabNetwork;
  cgroups: CgroupLayout;
}

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export class LabNode {
  readonly place: PlaceName;
  /** Directory of the node, the same inside and outside its roots: sockets, mount points. */
  readonly path: string;
  private readonly parts: LabNodeParts;
  private readonly holder: NodeProcess;
  private readonly processes = new Map<string, NodeProcess>();
  private readonly mountedRoots = new Map<string, Promise<string>>();

  private constructor(parts: LabNodeParts, path: string, holder: NodeProcess) {
    this.parts = parts;
    this.place = parts.place;
    this.path = path;
    this.holder = holder;
  }

  /** Starts the process that holds the node's mount namespace. The network must be there. */
  static async start(parts: LabNodeParts): Promise<LabNode> {
    const path = join(parts.run.path, parts.place);
    await mkdir(path, { recursive: true });
    // The run's directory becomes a shared mount of its own: a mount made below it, from whichever root of this
    // node, shows in all of them, and never on the host.
    const script = 'mount --bind "$1" "$1"; mount --make-shared "$1"; echo holding; exec sleep infinity';
    const holder = await NodeProcess.start({
      name: `${parts.place}-holder`,
      argv: [
        ...['nsenter', `--net=/run/netns/${parts.network.namespace(parts.place)}`, '--'],
        ...['unshare', '--mount', '--propagation', 'private', '--'],
        ...['sh', '-ec', script, 'sh', parts.run.path],
      ],
      env: { PATH },
      logPath: join(parts.run.path, 'logs', `${parts.place}-holder.log`),
      cgroup: await ProcessCgroup.create(parts.cgroups, parts.run.id, `${parts.place}-holder`),
    });
    await holder.waitForOutput(/^holding$/m, HOLDER_READY_TIMEOUT_MS);
    return new LabNode(parts, path, holder);
  }

  /** Path of `name` in the node's directory. */
  file(name: string): string {
    return join(this.path, name);
  }

  /** A process that is in the node's namespaces as long as the node lives. */
  get holderPid(): number {
    return this.holder.pid;
  }

  /** Starts a program in the node. Resolves when it has been forked; use the process's waitFor… for its readiness. */
  async spawn(options: SpawnOptions): Promise<NodeProcess> {
    if (this.processes.get(options.name)?.running) {
      throw new Error(`${this.place} already runs a process named ${options.name}`);
    }
    const fullName = `${this.place}-${options.name}`;
    const cgroup = await ProcessCgroup.create(this.parts.cgroups, this.parts.run.id, fullName);
    if (options.memoryLimitBytes !== undefined) await cgroup.limitMemory(options.memoryLimitBytes);
    const process = await NodeProcess.start({
      name: fullName,
      argv: await this.commandLine(options),
      env: { PATH, ...options.env },
      logPath: join(this.parts.run.path, 'logs', `${fullName}.log`),
      cgroup,
    });
    this.processes.set(options.name, process);
    return process;
  }

  /** Runs a program in the node to its end and returns its output. Throws CommandFailedError. */
  async run(argv: readonly string[], options: { root?: string; timeoutMs?: number } = {}): Promise<string> {
    const line = await this.commandLine({
      argv,
      ...(options.root === undefined ? {} : { root: options.root }),
    });
    return runCommand(line, { env: { PATH }, timeoutMs: options.timeoutMs ?? COMMAND_TIMEOUT_MS });
  }

  /** Where the node sees the Debian root `template` (as made by ensureRoot): mounted on first use. */
  mountRoot(template: string): Promise<string> {
    let mounted = this.mountedRoots.get(template);
    if (!mounted) {
      mounted = this.makeRoot(template);
      this.mountedRoots.set(template, mounted);
    }
    return mounted;
  }

  /** Mounts a directory of the host at the same path into the node's view of the root `template`. */
  async bindIntoRoot(template: string, directory: string): Promise<void> {
    const root = await this.mountRoot(template);
    await this.run([
      'sh',
      '-ec',
      'mkdir -p "$2"; mount --bind "$1" "$2"',
      'sh',
      directory,
      join(root, directory),
    ]);
  }

  interfaceCounters(): Promise<Map<string, InterfaceCounters>> {
    return readInterfaceCounters(this.holderPid);
  }

  /** Ends all processes of the node, the youngest first, and with its holder its namespaces. */
  async stop(): Promise<void> {
    for (const process of [...this.processes.values()].reverse()) {
      if (process.running) await process.stop();
    }
    await this.holder.kill();
  }

  private async commandLine(options: Pick<SpawnOptions, 'argv' | 'root' | 'user'>): Promise<string[]> {
    const namespaces = `/proc/${this.holderPid}/ns`;
    const line = ['nsenter', `--mount=${namespaces}/mnt`, `--net=${namespaces}/net`, '--'];
    if (options.root !== undefined) line.push('chroot', await this.mountRoot(options.root));
    if (options.user) {
      const { uid, gid } = options.user;
      line.push('setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups');
      line.push('--inh-caps=-all', '--bounding-set=-all', '--no-new-privs');
    }
    return [...line, ...options.argv];
  }

  private async makeRoot(template: string): Promise<string> {
    const layers = join(this.parts.run.bulkPath, 'roots', `${this.place}-${basename(template)}`);
    const root = join(layers, 'root');
    for (const name of ['upper', 'work', 'root']) await mkdir(join(layers, name), { recursive: true });
    const script = [
      'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"',
      'for name in proc dev sys; do mount --rbind "/$name" "$2/root/$name"; done',
      // With what is mounted below it already: volumes.
      'mkdir -p "$2/root$3"; mount --rbind "$3" "$2/root$3"',
    ].join('\n');
    await this.run(['sh', '-ec', script, 'sh', template, layers, this.parts.run.path]);
    return root;
  }
}
