// The sidecar's process without a pod: directories stand for the pod's volumes, sockets of this test for QEMU and
// virt-handler. Quick enough for unit tests; everything that needs namespaces or a VM is in the lab.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SIDECAR_ENVIRONMENT, SIDECAR_NODE_FLAGS } from './agent-sidecar.ts';
import { type CoordinatedPod, HUB_SERVER_NAME, type LabCoordinator } from './coordinator.ts';
import { SOCKET_DIRECTORY } from './launcher-pod.ts';
import { socketName } from './virt-handler.ts';

const WAIT_MS = 15_000;
const POLL_MS = 5;

/** Something did not happen in a played pod. */
export class ProcessPodError extends Error {
  readonly code = 'NASMIG_TEST_PROCESS_POD';
  constructor(what: string, output: string) {
    super(`${what}; the end of the sidecar's log:\n${output.slice(-3000)}`);
    this.name = 'ProcessPodError';
  }
}

export class ProcessPod {
  readonly admitted: CoordinatedPod;
  readonly directory: string;
  readonly #logPath: string;
  readonly #servers: Server[] = [];
  #child: ChildProcess;

  private constructor(admitted: CoordinatedPod, directory: string, child: ChildProcess, logPath: string) {
    this.admitted = admitted;
    this.directory = directory;
    this.#child = child;
    this.#logPath = logPath;
  }

  /** Starts the program `main` in a new directory below `parent`; its volumes are laid out by `layVolumes` first. */
  static async start(options: {
    readonly name: string;
    readonly parent: string;
    readonly main: string;
    readonly coordinator: LabCoordinator;
    readonly layVolumes?: (directory: string) => void;
    readonly env?: Readonly<Record<string, string>>;
  }): Promise<ProcessPod> {
    const directory = join(options.parent, options.name);
    const volumes = join(directory, 'volumes');
    await mkdir(volumes, { recursive: true });
    mkdirSync(join(directory, 'run'));
    options.layVolumes?.(volumes);
    const admitted = await options.coordinator.admit(options.name);
    const logPath = join(directory, 'log');
    const log = openSync(logPath, 'a');
    const child = spawn(process.execPath, [...SIDECAR_NODE_FLAGS, options.main], {
      stdio: ['ignore', log, log],
      env: {
        ...SIDECAR_ENVIRONMENT,
        NASMIG_HUB_URL: `wss://127.0.0.1:${options.coordinator.port}`,
        NASMIG_HUB_SERVER_NAME: HUB_SERVER_NAME,
        NASMIG_TOKEN_FILE: join(admitted.credentials, 'token'),
        NASMIG_CA_FILE: join(admitted.credentials, 'ca.crt'),
        NASMIG_POD_NAMESPACE: admitted.identity.namespace,
        NASMIG_POD_NAME: admitted.identity.podName,
        NASMIG_POD_UID: admitted.identity.podUid,
        NASMIG_VMI_NAME: 'vm',
        NASMIG_VMI_UID: '5f2f0a9c-1a6b-4e1f-8a52-0c5f1d3c8e22',
        NASMIG_RUN_DIR: join(directory, 'run'),
        NASMIG_VOLUMES_DIR: volumes,
        NASMIG_LOG_LEVEL: 'debug',
        ...options.env,
      },
    });
    closeSync(log);
    return new ProcessPod(admitted, directory, child, logPath);
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  get log(): string {
    return readFileSync(this.#logPath, 'utf8');
  }

  /** Path of a migration socket in this pod's directory. */
  socket(migrationUid: string, kind: 'rpc' | 'stream'): string {
    return join(this.directory, 'run', SOCKET_DIRECTORY, socketName(migrationUid, kind));
  }

  /** Listens at a migration socket, as virt-handler or QEMU do. */
  async listen(
    migrationUid: string,
    kind: 'rpc' | 'stream',
    onSocket: (socket: Socket) => void,
  ): Promise<void> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, onSocket);
    this.#servers.push(server);
    await new Promise<void>((done, failed) => {
      server.once('error', failed);
      server.listen(this.socket(migrationUid, kind), done);
    });
  }

  async waitForLog(pattern: RegExp, timeoutMs = WAIT_MS): Promise<void> {
    const deadlineMs = Date.now() + timeoutMs;
    while (!pattern.test(this.log)) {
      if (Date.now() > deadlineMs)
        throw new ProcessPodError(`no ${pattern} within ${timeoutMs} ms`, this.log);
      if (this.#ended) throw new ProcessPodError('the sidecar ended', this.log);
      await sleep(POLL_MS);
    }
  }

  /** Resident bytes as the kernel counts them. */
  residentBytes(): number {
    const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${this.pid}/status`, 'utf8'))?.[1];
    return Number(kibibytes) * 1024;
  }

  get #ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** SIGTERM, or another; SIGKILL after five seconds. */
  async terminate(signal: NodeJS.Signals = 'SIGTERM'): Promise<{ elapsedMs: number; code: number | null }> {
    for (const server of this.#servers.splice(0)) server.close();
    if (this.#ended) return { elapsedMs: 0, code: this.#child.exitCode };
    const startedMs = performance.now();
    const ended = new Promise<number | null>((done) => this.#child.once('exit', (code) => done(code)));
    this.#child.kill(signal);
    const killer = setTimeout(() => this.#child.kill('SIGKILL'), 5000);
    const code = await ended;
    clearTimeout(killer);
    return { elapsedMs: performance.now() - startedMs, code };
  }
}
