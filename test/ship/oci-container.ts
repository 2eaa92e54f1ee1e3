// One container by a real OCI runtime (crun) from an assembled root file system, confined as the pod's containers are
// (test/oci/runtime-bundle.ts). The network is the machine's, because what it talks to listens on loopback.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { bundleConfiguration, CRUN } from '../oci/runtime-bundle.ts';

const run = promisify(execFile);

const [UNSHARE, ...WRAPPER] = CRUN;
const RUNTIME_TIMEOUT_MS = 20_000;
const STOP_MS = 25_000;

export interface ContainerOptions {
  rootfs: string;
  /** User and group. */
  user: number;
  /** After the entry point. */
  args: readonly string[];
  entryPoint: string;
  environment: Readonly<Record<string, string>>;
  /** Directories of the machine. */
  mounts?: readonly { source: string; destination: string; writable?: boolean }[];
}

/** The runtime is not installed. */
export class RuntimeMissingError extends Error {
  readonly code = 'NASMIG_TEST_OCI_RUNTIME_MISSING';

  constructor(cause: string) {
    super(`crun could not be run (${cause}); install it: apt-get install crun`);
    this.name = 'RuntimeMissingError';
  }
}

export class OciContainer {
  readonly id: string;
  readonly #child: ChildProcess;
  readonly #bundle: string;
  readonly #exited: Promise<number | null>;
  readonly #lines: string[] = [];

  private constructor(id: string, child: ChildProcess, bundle: string) {
    this.id = id;
    this.#child = child;
    this.#bundle = bundle;
    this.#exited = new Promise((resolve) => child.once('close', (code) => resolve(code)));
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => this.#lines.push(...text.trim().split('\n')));
  }

  static async start(options: ContainerOptions): Promise<OciContainer> {
    await run(UNSHARE, [...WRAPPER, '--version'], { timeout: RUNTIME_TIMEOUT_MS }).catch((error: Error) => {
      throw new RuntimeMissingError(error.message);
    });
    const bundle = await mkdtemp(path.join(tmpdir(), 'nasmig-oci-'));
    await writeFile(
      path.join(bundle, 'config.json'),
      JSON.stringify(bundleConfiguration({ ...options, argv: [options.entryPoint, ...options.args] })),
    );
    const id = `nasmig-${randomBytes(6).toString('hex')}`;
    const child = spawn(UNSHARE, [...WRAPPER, 'run', '--bundle', bundle, id], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    return new OciContainer(id, child, bundle);
  }

  get log(): string {
    return this.#lines.join('\n');
  }

  /** Undefined while it runs. */
  get exitCode(): number | undefined {
    return this.#child.exitCode ?? undefined;
  }

  /** `/proc/<pid>/status` of its first process, as seen from the machine. */
  async processId(): Promise<number> {
    const { stdout } = await run(UNSHARE, [...WRAPPER, 'state', this.id], { timeout: RUNTIME_TIMEOUT_MS });
    return (JSON.parse(stdout) as { pid: number }).pid;
  }

  /** Waits for its end. */
  async ended(): Promise<number | null> {
    const code = await this.#exited;
    await rm(this.#bundle, { recursive: true, force: true });
    return code;
  }

  /** SIGTERM, as kubelet sends; SIGKILL when it does not end. Its exit code and how long it took. */
  async stop(): Promise<{ code: number | null; elapsedMs: number }> {
    const startedAt = performance.now();
    const kill = (signal: string) =>
      run(UNSHARE, [...WRAPPER, 'kill', this.id, signal], { timeout: RUNTIME_TIMEOUT_MS }).catch(() => {});
    if (this.#child.exitCode === null) await kill('TERM');
    const timer = setTimeout(() => void kill('KILL'), STOP_MS);
    const code = await this.ended();
    clearTimeout(timer);
    return { code, elapsedMs: performance.now() - startedAt };
  }
}
