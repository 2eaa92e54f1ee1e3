// A pod shaped like virt-launcher's: libvirt's session daemon and QEMU as 107:107 without capabilities, in mount,
// pid and network namespaces of their own, with a private /var/run/kubevirt. The sidecar is a container beside it
// that shares the network, the `public` directory and the disks (read-only), as the injected one does.
// Volumes and owners: kubevirt.md, 1, 2 and 6; libvirt's settings: the last paragraph of architecture.md.

import { chmod, chown, mkdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { GuestObserver } from '../lab/guest-observer.ts';
import { type LabNode, QEMU_OWNER } from '../lab/node.ts';
import { CommandFailedError } from '../lab/run-command.ts';
import { type Bind, Container } from './container.ts';
import { type DomainOptions, domainXml } from './domain-xml.ts';
import { connectPodNetwork, podAddresses } from './pod-network.ts';

/** Paths in the pod. /var/run is a link to /run in the Debian roots. */
export const POD_PATHS = {
  public: '/run/kubevirt',
  /** libvirt's own run-time directory; KubeVirt's is the same, its socket is virtqemud's. */
  libvirtSocket: '/run/libvirt/libvirt-sock',
  disks: '/run/kubevirt-private/vmi-disks',
  boot: '/run/kubevirt-private/boot',
  /** For the lab: QMP and beacon sockets, console, saved states. */
  observer: '/run/kubevirt-private/observer',
  home: '/run/home',
} as const;

/** Where QEMU in the pod connects to for an observer that was attached: see {@link LauncherPod.attachObserver}. */
export const POD_BEACON_SOCKET = join(POD_PATHS.observer, 'beacon.sock');

/** What a test decides of a domain; the rest is the pod's. */
export type PodDomain = Omit<DomainOptions, 'disks' | 'consoleLog' | 'qmpSocket'>;

/** Directory of migration sockets, relative to the public volume. */
export const SOCKET_DIRECTORY = 'migrationproxy';

/** Where the hugetlbfs is. libvirt's session daemon does not look for one by itself. */
const HUGE_PAGES_PATH = '/dev/hugepages';
const LIBVIRT_CONNECTION = 'qemu:///session';
const LIBVIRT_READY_TIMEOUT_MS = 20_000;
const VIRSH_TIMEOUT_MS = 30_000;
/** Of a `public` volume with a limit; a pod needs a dozen. */
const MOST_PUBLIC_FILES = 64;

const QEMU_CONF = `stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
# libvirt knows NFS to be shared, but not the FUSE file through which a lab node sees it.
shared_filesystems = [ "${POD_PATHS.disks}" ]
`;

/** As QEMU's own text, so that a failed test shows what libvirt did. */
const LIBVIRTD_CONF = `log_filters = "1:qemu.qemu_migration 1:qemu.qemu_process 3:*"
log_outputs = "1:file:${POD_PATHS.observer}/libvirtd.log"
`;

/**
 * virt-launcher-monitor in three lines. Process 1 must reap what loses its parent, because QEMU does: libvirt waits
 * for a killed QEMU to vanish, and a zombie never does. libvirt is started again when it ends, as virt-launcher does.
 */
const INIT_SCRIPT = `
trap 'exit 0' TERM
(while :; do libvirtd; sleep 0.2; done) &
while :; do wait; sleep 0.1; done
`;

export interface PodDisk {
  /** Volume name, as in the VMI. */
  readonly name: string;
  /** The raw image as the node sees it. */
  readonly file: string;
}

export interface LauncherPodOptions {
  readonly node: LabNode;
  /** Unique on the node. */
  readonly name: string;
  /** Unique on the node, 1 to 254: decides on the pod's address. */
  readonly number: number;
  /** A root made by ensureRoot(): decides on the versions of QEMU and libvirt. */
  readonly template: string;
  /** The same for sidecars, whose image is not virt-launcher's. */
  readonly sidecarTemplate: string;
  readonly disks: readonly PodDisk[];
  /** Directory of the node with kernel and initrd. */
  readonly bootDirectory?: string;
  /** Makes the `public` volume a file system of its own, of this size, so that it can be filled. */
  readonly publicLimitBytes?: number;
  /** Gives the pod a hugetlbfs, as an emptyDir of medium HugePages. The machine must have reserved such pages. */
  readonly hugePages?: boolean;
}

export interface SidecarOptions {
  /** Arguments of the node program: flags, a script, and its arguments. A script in the repository is at its path. */
  readonly nodeArguments: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly memoryLimitBytes?: number;
  /** More than the injected container shares: for tests' own scripts and results. */
  readonly extraBinds?: readonly Bind[];
}

/** States as `virsh domstate` names them, and `absent`. */
export type DomainState = 'running' | 'paused' | 'shut off' | 'in shutdown' | 'crashed' | 'idle' | 'absent';

export class LauncherPod {
  readonly name: string;
  readonly node: LabNode;
  readonly compute: Container;
  /** The pod's public volume as the node sees it. */
  readonly publicDirectory: string;
  /** QEMU's sockets for the observer, console and logs, as the node sees them. */
  readonly observerDirectory: string;
  readonly #options: LauncherPodOptions;
  readonly #directory: string;
  #sidecars: Container[] = [];

  private constructor(options: LauncherPodOptions, directory: string, compute: Container) {
    this.name = options.name;
    this.node = options.node;
    this.compute = compute;
    this.publicDirectory = join(directory, 'public');
    this.observerDirectory = join(directory, 'observer');
    this.#options = options;
    this.#directory = directory;
  }

  /** Starts the pod; resolves when libvirt answers. Without a sidecar: see {@link startSidecar}. */
  static async start(options: LauncherPodOptions): Promise<LauncherPod> {
    // Short names: the path of a socket below has at most 107 bytes.
    const directory = options.node.file(`p/${options.name}`);
    await makeDirectory(join(directory, 'root'), 0o755, 0);
    // An emptyDir with fsGroup 107, as the kubelet makes it.
    await makeDirectory(join(directory, 'public'), 0o2777, 0, QEMU_OWNER.gid);
    if (options.publicLimitBytes !== undefined) {
      const limits = `size=${options.publicLimitBytes},nr_inodes=${MOST_PUBLIC_FILES},mode=2777,gid=${QEMU_OWNER.gid}`;
      await options.node.run(['mount', '-t', 'tmpfs', '-o', limits, 'public', join(directory, 'public')]);
    }
    if (options.hugePages) {
      await makeDirectory(join(directory, 'hugepages'), 0o755, QEMU_OWNER.uid);
      const owner = `uid=${QEMU_OWNER.uid},gid=${QEMU_OWNER.gid},pagesize=2M`;
      await options.node.run(['mount', '-t', 'hugetlbfs', '-o', owner, 'huge', join(directory, 'hugepages')]);
    }
    for (const name of ['libvirt', 'observer', 'home', 'home/.config', 'home/.config/libvirt']) {
      await makeDirectory(join(directory, name), 0o755, QEMU_OWNER.uid);
    }
    const hugePagesLine = options.hugePages ? `hugetlbfs_mount = [ "${HUGE_PAGES_PATH}" ]\n` : '';
    await writeFile(join(directory, 'home/.config/libvirt/qemu.conf'), QEMU_CONF + hugePagesLine);
    await writeFile(join(directory, 'home/.config/libvirt/libvirtd.conf'), LIBVIRTD_CONF);

    const binds: Bind[] = [
      { from: join(directory, 'public'), to: POD_PATHS.public, readOnly: false },
      { from: join(directory, 'libvirt'), to: dirname(POD_PATHS.libvirtSocket), readOnly: false },
      { from: join(directory, 'observer'), to: POD_PATHS.observer, readOnly: false },
      { from: join(directory, 'home'), to: POD_PATHS.home, readOnly: false },
      ...options.disks.map((disk) => ({ from: disk.file, to: podDiskPath(disk.name), readOnly: false })),
    ];
    if (options.hugePages) {
      binds.push({ from: join(directory, 'hugepages'), to: HUGE_PAGES_PATH, readOnly: false });
    }
    if (options.bootDirectory !== undefined) {
      binds.push({ from: options.bootDirectory, to: POD_PATHS.boot, readOnly: true });
    }
    const compute = await Container.start({
      node: options.node,
      name: options.name,
      template: options.template,
      mountPoint: join(directory, 'root'),
      binds,
      // Post-copy needs it. (virt-handler allows it by a sysctl, which would be the whole machine's.)
      devices: ['/dev/userfaultfd'],
      network: 'own',
      user: QEMU_OWNER,
      env: {
        HOME: POD_PATHS.home,
        XDG_CONFIG_HOME: `${POD_PATHS.home}/.config`,
        XDG_CACHE_HOME: `${POD_PATHS.home}/.cache`,
        XDG_DATA_HOME: `${POD_PATHS.home}/.data`,
        XDG_RUNTIME_DIR: '/run',
      },
      argv: ['bash', '-c', INIT_SCRIPT],
    });
    await connectPodNetwork(options.node, compute.initPid, options.number);
    const pod = new LauncherPod(options, directory, compute);
    await compute.process.waitUntil('libvirt answers', LIBVIRT_READY_TIMEOUT_MS, async () =>
      pod.virsh(['list']).then(
        () => true,
        () => false,
      ),
    );
    return pod;
  }

  /** The pod's public volume as a process of the host sees it, also when it is a file system of its own. */
  get publicDirectoryFromHost(): string {
    return join(`/proc/${this.node.holderPid}/root`, this.publicDirectory);
  }

  /** Address of the node as the pod reaches it. */
  get gateway(): string {
    return podAddresses(this.#options.number).node;
  }

  /** Directory of the migration sockets as virt-handler reaches it; short enough for a socket's path. */
  get socketDirectoryFromNode(): string {
    return join(this.compute.rootFromNode, POD_PATHS.public, SOCKET_DIRECTORY);
  }

  /** libvirt's socket as virt-handler reaches it. */
  get libvirtSocketFromNode(): string {
    return join(this.compute.rootFromNode, POD_PATHS.libvirtSocket);
  }

  /**
   * What virt-launcher does on a target before virt-handler listens: the directory, given to qemu. The sidecar has
   * usually made it already; then nothing is left to do.
   */
  async makeSocketDirectory(): Promise<void> {
    await this.compute.run(['mkdir', '-p', '-m', '0755', join(POD_PATHS.public, SOCKET_DIRECTORY)]);
  }

  /** Runs virsh in the pod. Throws CommandFailedError. */
  virsh(args: readonly string[], options: { timeoutMs?: number } = {}): Promise<string> {
    const timeoutMs = options.timeoutMs ?? VIRSH_TIMEOUT_MS;
    return this.compute.run(['virsh', '--quiet', '--connect', LIBVIRT_CONNECTION, ...args], { timeoutMs });
  }

  /** Lets an observer hear the beacons of the pod's guest. To be done before the domain is started or comes in. */
  async attachObserver(observer: GuestObserver): Promise<void> {
    const path = join(this.observerDirectory, 'beacon.sock');
    await observer.listen(path, this.name);
    // The observer is root, and QEMU must write to the socket to connect to it.
    await chown(path, QEMU_OWNER.uid, QEMU_OWNER.gid);
  }

  /** Defines a domain as virt-launcher does: persistent. The disks are the pod's. */
  async defineDomain(domain: PodDomain): Promise<void> {
    const xml = domainXml({
      ...domain,
      disks: this.#options.disks.map(({ name }) => ({ name, file: podDiskPath(name) })),
      consoleLog: join(POD_PATHS.observer, 'console.log'),
      qmpSocket: join(POD_PATHS.observer, 'qmp.sock'),
    });
    await writeFile(join(this.observerDirectory, 'domain.xml'), xml);
    await this.virsh(['define', join(POD_PATHS.observer, 'domain.xml')]);
  }

  /** Starts a defined domain: from the beginning. */
  async startDomain(name: string): Promise<void> {
    await this.virsh(['start', name]);
  }

  /** Of the QEMU in this pod's image: `10.0.13`. */
  async qemuVersion(): Promise<string> {
    const said = await this.compute.run(['qemu-system-x86_64', '--version']);
    return /version (\d+\.\d+\.\d+)/.exec(said)?.[1] ?? 'unknown';
  }

  /** State as libvirt tells it. */
  async domainState(name: string): Promise<DomainState> {
    try {
      return (await this.virsh(['domstate', name])).trim() as DomainState;
    } catch (error) {
      if (error instanceof CommandFailedError && error.output.includes('failed to get domain'))
        return 'absent';
      throw error;
    }
  }

  /** Starts a sidecar beside the pod's compute container: process 1 of its own, 107:107, no capabilities. */
  async startSidecar(options: SidecarOptions): Promise<Container> {
    const number = this.#sidecars.length + 1;
    const mountPoint = join(this.#directory, `sidecar-${number}`);
    await makeDirectory(mountPoint, 0o755, 0);
    const repository = resolve(import.meta.dirname, '../..');
    const sidecar = await Container.start({
      node: this.node,
      name: `${this.name}-sidecar-${number}`,
      template: this.#options.sidecarTemplate,
      mountPoint,
      binds: [
        // The image: the program and what it needs, at the places where they are on this machine.
        { from: repository, to: repository, readOnly: true },
        { from: process.execPath, to: '/usr/local/bin/node', readOnly: true },
        { from: this.publicDirectory, to: POD_PATHS.public, readOnly: false },
        ...this.#options.disks.map((disk) => ({
          from: disk.file,
          to: podDiskPath(disk.name),
          readOnly: true,
        })),
        ...(options.extraBinds ?? []),
      ],
      network: { sharedWithPid: this.compute.initPid },
      user: QEMU_OWNER,
      env: options.env ?? {},
      argv: ['/usr/local/bin/node', ...options.nodeArguments],
      ...(options.memoryLimitBytes === undefined ? {} : { memoryLimitBytes: options.memoryLimitBytes }),
    });
    this.#sidecars.push(sidecar);
    return sidecar;
  }

  /** Ends compute, then its sidecars, as the kubelet does. */
  async stop(): Promise<void> {
    await this.compute.stop();
    for (const sidecar of this.#sidecars) await sidecar.stop();
    this.#sidecars = [];
  }
}

/** Where QEMU and the sidecar see the image of a volume. */
export function podDiskPath(volume: string): string {
  return `${POD_PATHS.disks}/${volume}/disk.img`;
}

async function makeDirectory(path: string, mode: number, uid: number, gid: number = uid): Promise<void> {
  await mkdir(path, { recursive: true });
  await chown(path, uid, gid);
  // After the change of owner, which clears the set-group-id bit; and whatever the umask is.
  await chmod(path, mode);
}
