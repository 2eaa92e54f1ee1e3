// A container on a lab node, made of the kernel's own parts: an overlay over a Debian root, its own mounts, process
// ids and (or not) network, a user without capabilities. What is not bound into it is not there, so that a process
// in it shares with others exactly what the container's description says.

import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LabNode } from '../lab/node.ts';
import type { NodeProcess } from '../lab/node-process.ts';
import { runCommand } from '../lab/run-command.ts';
import { bundleConfiguration } from '../oci/runtime-bundle.ts';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const INIT_TIMEOUT_MS = 10_000;
const COMMAND_TIMEOUT_MS = 60_000;
/** Containers get SIGTERM and so long before they are killed; the kubelet's default of 30 s helps nobody here. */
const STOP_TIMEOUT_MS = 5_000;

/**
 * Arguments: template, directory for the scratch mount, host name, uid; then `ro|rw <from> <to>` for every bind,
 * `dev <path> -` for every device, `--`, and the program. Runs in the new namespaces and becomes the program, which so
 * is process 1. Names are looked up in /etc/hosts alone: libvirt asks for its own host's, and a resolver that waits for
 * an answer from nowhere would be ten seconds of downtime.
 */
const CONTAINER_SCRIPT = `
template=$1 base=$2 name=$3 uid=$4; shift 4
hostname "$name"
mount -t tmpfs -o mode=755 scratch "$base"
mkdir "$base/upper" "$base/work" "$base/root"
root=$base/root
mount -t overlay overlay -o "lowerdir=$template,upperdir=$base/upper,workdir=$base/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=755 run "$root/run"
echo "127.0.0.1 localhost $name" > "$root/etc/hosts"
echo 'hosts: files' > "$root/etc/nsswitch.conf"
echo 'passwd: files' >> "$root/etc/nsswitch.conf"
echo 'group: files' >> "$root/etc/nsswitch.conf"
rm -f "$root/etc/resolv.conf"
while [ "$1" != -- ]; do
  mode=$1 from=$2 to=$root$3; shift 3
  if [ "$mode" = dev ]; then
    mknod "$root$from" c $(stat -c '0x%t 0x%T' "$from")
    chown "$uid" "$root$from"
    continue
  fi
  if [ -d "$from" ]; then mkdir -p "$to"; else mkdir -p "\${to%/*}"; : > "$to"; fi
  mount --bind "$from" "$to"
  [ "$mode" = rw ] || mount -o remount,bind,ro "$to"
done
shift
ip link set lo up
exec chroot "$root" "$@"
`;

/**
 * The same for the file system of an image, by a real OCI runtime, which gets a bundle instead of binds. Arguments: image, directory
 * for the scratch mount, bundle, the container's id. The image itself is not written to: places to mount at are made in an overlay.
 */
const OCI_SCRIPT = `
image=$1 base=$2 bundle=$3 id=$4
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -t tmpfs -o mode=755 scratch "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=$image,upperdir=$base/upper,workdir=$base/work" "$base/root"
ip link set lo up
exec crun --cgroup-manager=disabled run --bundle "$bundle" "$id"
`;

/** Something of the node that the container sees. */
export interface Bind {
  /** Directory or file on the node. */
  readonly from: string;
  /** Absolute path in the container; what it hides there stays hidden. */
  readonly to: string;
  readonly readOnly: boolean;
}

export interface ContainerOptions {
  readonly node: LabNode;
  /** Unique on the node: names log and cgroup. */
  readonly name: string;
  /** A root made by ensureRoot(). */
  readonly template: string;
  /** An empty directory on the node to mount the container's root at. */
  readonly mountPoint: string;
  readonly binds: readonly Bind[];
  /** Character devices beyond the usual ones, given to the container's user. */
  readonly devices?: readonly string[];
  /** A network namespace of its own, or that of the container whose process 1 is given (containers of one pod). */
  readonly network: 'own' | { readonly sharedWithPid: number };
  readonly user: { readonly uid: number; readonly gid: number };
  /** The whole environment but for PATH. */
  readonly env: Readonly<Record<string, string>>;
  readonly argv: readonly string[];
  readonly memoryLimitBytes?: number;
  /**
   * The file system of an image, run by a real OCI runtime (crun): read-only, without capabilities, with nothing of `template`.
   * Without it, the container is made here.
   */
  readonly imageRootfs?: string;
}

/** A container did not get as far as to have a process 1. */
export class ContainerStartError extends Error {
  readonly code = 'NASMIG_LAB_CONTAINER_START';
  constructor(name: string, logTail: string) {
    super(`container ${name} did not start; the end of its log:\n${logTail || '(empty)'}`);
    this.name = 'ContainerStartError';
  }
}

export class Container {
  readonly name: string;
  /** As the node's processes see it; process 1 in the container. */
  readonly initPid: number;
  /** Its life, and its output. Signals go to all that it started and that did not leave its session. */
  readonly process: NodeProcess;
  readonly #options: ContainerOptions;

  private constructor(options: ContainerOptions, process: NodeProcess, initPid: number) {
    this.name = options.name;
    this.process = process;
    this.initPid = initPid;
    this.#options = options;
  }

  /** Starts it; resolves when its program is process 1. Throws {@link ContainerStartError}. */
  static async start(options: ContainerOptions): Promise<Container> {
    const { node, network } = options;
    const line: string[] = [];
    if (network !== 'own') line.push('nsenter', `--net=/proc/${network.sharedWithPid}/ns/net`);
    line.push(
      ...(options.imageRootfs === undefined ? ownLine(options) : await ociLine(options.imageRootfs, options)),
    );
    const process = await node.spawn({
      name: options.name,
      argv: line,
      ...(options.memoryLimitBytes === undefined ? {} : { memoryLimitBytes: options.memoryLimitBytes }),
    });
    const container = await waitForInit(options, process);
    if (container === undefined) {
      const logTail = await process.logTail();
      await process.kill();
      throw new ContainerStartError(options.name, logTail);
    }
    return new Container(options, process, container);
  }

  /** The container's root as the node sees it: how virt-handler reaches sockets in a pod. */
  get rootFromNode(): string {
    return `/proc/${this.initPid}/root`;
  }

  /** Runs a program in it, as its user and in its environment, to the end. Throws CommandFailedError. */
  run(argv: readonly string[], options: { timeoutMs?: number } = {}): Promise<string> {
    return runCommand(this.#enter(argv), { timeoutMs: options.timeoutMs ?? COMMAND_TIMEOUT_MS });
  }

  /** SIGTERM to process 1, SIGKILL to everything after `timeoutMs`. Returns how long it took. */
  async stop(timeoutMs: number = STOP_TIMEOUT_MS): Promise<{ elapsedMs: number }> {
    const startedMs = performance.now();
    this.signal('SIGTERM');
    if ((await this.process.endsWithin(timeoutMs)) === null) await this.kill();
    return { elapsedMs: performance.now() - startedMs };
  }

  /** SIGKILL to everything in it, as a crash or the OOM killer would do. Resolves when process 1 is gone. */
  async kill(): Promise<void> {
    // A runtime that is killed first would leave its container behind.
    if (this.#options.imageRootfs !== undefined) {
      this.signal('SIGKILL');
      await this.process.endsWithin(INIT_TIMEOUT_MS);
    }
    await this.process.kill();
    const deadlineMs = Date.now() + INIT_TIMEOUT_MS;
    while ((await commandOf(this.initPid)) !== undefined && Date.now() < deadlineMs) await sleep(2);
  }

  /** A signal to process 1 alone. Nothing happens when it has ended. */
  signal(signal: NodeJS.Signals): void {
    if (!this.process.running) return;
    try {
      process.kill(this.initPid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  #enter(argv: readonly string[]): string[] {
    return [
      ...[
        'nsenter',
        `--target=${this.initPid}`,
        '--mount',
        '--uts',
        '--net',
        '--pid',
        '--root',
        '--wdns=/',
        '--',
      ],
      ...asUser(this.#options.user, this.#options.env),
      ...argv,
    ];
  }
}

/** The container made of the kernel's parts. */
function ownLine(options: ContainerOptions): string[] {
  const line = ['unshare', '--mount', '--propagation', 'private', '--uts', '--pid', '--fork', '--kill-child'];
  if (options.network === 'own') line.push('--net');
  line.push('sh', '-ec', CONTAINER_SCRIPT, 'sh', options.template, options.mountPoint);
  line.push(options.name, String(options.user.uid));
  for (const bind of options.binds) line.push(bind.readOnly ? 'ro' : 'rw', bind.from, bind.to);
  for (const device of options.devices ?? []) line.push('dev', device, '-');
  line.push('--', ...asUser(options.user, options.env), ...options.argv);
  return line;
}

/** The container by an OCI runtime, from a bundle that is written here. */
async function ociLine(imageRootfs: string, options: ContainerOptions): Promise<string[]> {
  const { name, mountPoint, user, argv, env, binds, network } = options;
  if (network === 'own') throw new Error(`container ${name}: an image runs in the network of its pod`);
  const bundle = `${mountPoint}-bundle`;
  await mkdir(bundle, { recursive: true });
  const configuration = bundleConfiguration({
    ...{ rootfs: `${mountPoint}/root`, user: user.uid, argv, environment: env },
    mounts: binds.map(({ from, to, readOnly }) => ({ source: from, destination: to, writable: !readOnly })),
  });
  await writeFile(`${bundle}/config.json`, JSON.stringify(configuration));
  const id = `nasmig-${randomBytes(6).toString('hex')}`;
  const unshare = ['unshare', '--mount', '--propagation', 'private'];
  return [...unshare, 'sh', '-ec', OCI_SCRIPT, 'sh', imageRootfs, mountPoint, bundle, id];
}

function asUser(user: ContainerOptions['user'], env: ContainerOptions['env']): string[] {
  return [
    ...['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'],
    ...['--inh-caps=-all', '--bounding-set=-all', '--no-new-privs', '--'],
    ...['env', '-i', `PATH=${PATH}`, ...Object.entries(env).map(([name, value]) => `${name}=${value}`)],
  ];
}

/** Host pid of the container's process 1 once it has become the container's program, or undefined when it failed. */
async function waitForInit(options: ContainerOptions, process: NodeProcess): Promise<number | undefined> {
  const deadlineMs = Date.now() + INIT_TIMEOUT_MS;
  while (process.running && Date.now() < deadlineMs) {
    const children = await readFile(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8').catch(
      () => '',
    );
    const pid = Number(children.split(' ')[0]);
    if (pid > 0) {
      // The script's name is sh; after chroot, setpriv and env it is that of the program.
      if ((await commandOf(pid)) === options.argv[0]) return pid;
    }
    await sleep(5);
  }
  return undefined;
}

/** First word of a process's command line; undefined when it is gone or a zombie. */
async function commandOf(pid: number): Promise<string | undefined> {
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return line === '' ? undefined : line.split('\0')[0];
}
