// A place to run QEMU in without a network: for making warm states, and for tests of the guest alone. Programs run in a
// Debian root as in a LabNode (an overlay over the read-only template), each with a mount namespace of its own.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type CgroupLayout, detectCgroups, ProcessCgroup } from './cgroup.ts';
import { NodeProcess } from './node-process.ts';
import { type Guardian, removeRun, startGuardian } from './run-cleanup.ts';
import { RunDirectory } from './run-directory.ts';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** $1 template, $2 layers; then directories to be seen at the same path, then `--` and the program. */
const ENTER_ROOT = [
  'template="$1"; layers="$2"; shift 2',
  'mkdir -p "$layers/upper" "$layers/work" "$layers/root"',
  'mount -t overlay overlay -o "lowerdir=$template,upperdir=$layers/upper,workdir=$layers/work" "$layers/root"',
  'for name in proc dev sys; do mount --rbind "/$name" "$layers/root/$name"; done',
  'while [ "$1" != -- ]; do mkdir -p "$layers/root$1"; mount --bind "$1" "$layers/root$1"; shift; done; shift',
  'exec chroot "$layers/root" "$@"',
].join('\n');

export class LocalNode {
  readonly run: RunDirectory;
  readonly #cgroups: CgroupLayout;
  readonly #guardian: Guardian;
  readonly #directories: readonly string[];

  private constructor(run: RunDirectory, cgroups: CgroupLayout, directories: readonly string[]) {
    this.run = run;
    this.#cgroups = cgroups;
    this.#directories = directories;
    this.#guardian = startGuardian(run);
  }

  /** Makes a run of its own. Programs see `directories` of the host, and the run's, at the same paths. */
  static async start(directories: readonly string[] = []): Promise<LocalNode> {
    const cgroups = await detectCgroups();
    return new LocalNode(await RunDirectory.create(), cgroups, directories);
  }

  /** A path in the run's directory, short enough for a unix socket. */
  file(name: string): string {
    return join(this.run.path, name);
  }

  async spawn(options: { name: string; argv: readonly string[]; root: string }): Promise<NodeProcess> {
    const layers = join(this.run.bulkPath, 'roots', options.name);
    await mkdir(layers, { recursive: true });
    return NodeProcess.start({
      name: options.name,
      argv: [
        ...['unshare', '--mount', '--propagation', 'private', '--'],
        ...['sh', '-ec', ENTER_ROOT, 'sh', options.root, layers, this.run.path, ...this.#directories, '--'],
        ...options.argv,
      ],
      env: { PATH },
      logPath: join(this.run.path, 'logs', `${options.name}.log`),
      cgroup: await ProcessCgroup.create(this.#cgroups, this.run.id, options.name),
    });
  }

  /** Ends every process and removes the run's directories. */
  async close(): Promise<void> {
    await removeRun(this.run.id);
    this.#guardian.dismiss();
  }
}
