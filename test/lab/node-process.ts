// A process of the lab: started into its cgroup, its output in a file, ended within a bound. It is the leader of its
// own session, so that a signal reaches what it started too, and Ctrl-C in the terminal does not reach it at all: the
// run's cleaning up decides when it ends.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProcessCgroup } from './cgroup.ts';

/** A well-behaved process ends well within this after SIGTERM; then it is killed. */
const DEFAULT_STOP_TIMEOUT_MS = 5_000;
/** Time for the kernel to take a killed process down; longer only if it hangs in the kernel. */
const KILL_TIMEOUT_MS = 10_000;
const LOG_POLL_MS = 10;
const LOG_TAIL_BYTES = 4_096;

export interface ExitStatus {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** A process of the lab ended although it was still needed. */
export class ProcessEndedError extends Error {
  readonly code = 'NASMIG_LAB_PROCESS_ENDED';
  constructor(name: string, status: ExitStatus, logPath: string, tail: string) {
    super(
      `${name} ended (${status.signal ?? `exit code ${status.code}`}) before it was ready; end of ${logPath}:\n${tail || '(empty)'}`,
    );
    this.name = 'ProcessEndedError';
  }
}

/** A process of the lab did not do in time what was waited for. */
export class ProcessNotReadyError extends Error {
  readonly code = 'NASMIG_LAB_PROCESS_NOT_READY';
  constructor(name: string, what: string, timeoutMs: number, logPath: string, tail: string) {
    super(`${name}: ${what} did not happen within ${timeoutMs} ms; end of ${logPath}:\n${tail || '(empty)'}`);
    this.name = 'ProcessNotReadyError';
  }
}

/** A process did not end, not even of SIGKILL. */
export class ProcessHangsError extends Error {
  readonly code = 'NASMIG_LAB_PROCESS_HANGS';
  constructor(name: string, pid: number) {
    super(`${name} (pid ${pid}) survives SIGKILL for ${KILL_TIMEOUT_MS} ms; see /proc/${pid}/stack`);
    this.name = 'ProcessHangsError';
  }
}

export interface ProcessStart {
  name: string;
  argv: readonly string[];
  env: NodeJS.ProcessEnv;
  /** Standard output and error, in order, are appended to this file. */
  logPath: string;
  cgroup: ProcessCgroup;
}

/**
 * Joins the cgroups whose `cgroup.procs` files come before `--`, then becomes the program after it: the program
 * never runs outside its cgroup, and keeps the pid.
 */
const JOIN_CGROUPS = 'while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@"';

export class NodeProcess {
  readonly name: string;
  readonly logPath: string;
  readonly cgroup: ProcessCgroup;
  /** Resolves when the process has ended; never rejects. */
  readonly ended: Promise<ExitStatus>;
  private readonly child: ChildProcess;
  private status: ExitStatus | null = null;

  private constructor(start: ProcessStart, child: ChildProcess) {
    this.name = start.name;
    this.logPath = start.logPath;
    this.cgroup = start.cgroup;
    this.child = child;
    this.ended = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        this.status = { code, signal };
        resolve(this.status);
      });
    });
  }

  /** Starts the process; resolves when it has been forked. Throws the system's error when it cannot be. */
  static async start(start: ProcessStart): Promise<NodeProcess> {
    const log = openSync(start.logPath, 'a');
    try {
      const child = spawn(
        'sh',
        ['-ec', JOIN_CGROUPS, 'sh', ...start.cgroup.procsFiles(), '--', ...start.argv],
        {
          env: start.env,
          stdio: ['ignore', log, log],
          detached: true,
        },
      );
      const process = new NodeProcess(start, child);
      await new Promise<void>((resolve, reject) => {
        child.once('spawn', resolve);
        child.once('error', reject);
      });
      return process;
    } finally {
      closeSync(log);
    }
  }

  /** The program's own pid: everything before it in its command line execs. */
  get pid(): number {
    if (this.child.pid === undefined) throw new Error(`${this.name} was never started`);
    return this.child.pid;
  }

  get running(): boolean {
    return this.status === null;
  }

  /** Sends a signal to the process and what it started in its session's group. Does nothing when it has ended. */
  signal(signal: NodeJS.Signals): void {
    if (!this.running) return;
    try {
      process.kill(-this.pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  /** SIGTERM, then SIGKILL after `timeoutMs`. Throws ProcessHangsError when even that does not end it. */
  async stop(timeoutMs: number = DEFAULT_STOP_TIMEOUT_MS): Promise<ExitStatus> {
    this.signal('SIGTERM');
    // A stopped process sees SIGTERM only when it goes on.
    this.signal('SIGCONT');
    return (await this.endsWithin(timeoutMs)) ?? this.kill();
  }

  /** SIGKILL. Throws ProcessHangsError when that does not end it. */
  async kill(): Promise<ExitStatus> {
    this.signal('SIGKILL');
    const status = await this.endsWithin(KILL_TIMEOUT_MS);
    if (!status) throw new ProcessHangsError(this.name, this.pid);
    return status;
  }

  /** Its exit status, or null when it still runs after `timeoutMs`. */
  async endsWithin(timeoutMs: number): Promise<ExitStatus | null> {
    const timer = new AbortController();
    const timeout = sleep(timeoutMs, null, { signal: timer.signal }).catch(() => null);
    try {
      return await Promise.race([this.ended, timeout]);
    } finally {
      timer.abort();
    }
  }

  /** Waits until its output has a line that matches. Throws ProcessEndedError or ProcessNotReadyError. */
  async waitForOutput(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    let match: RegExpExecArray | null = null;
    await this.waitUntil(`output that matches ${pattern}`, timeoutMs, async () => {
      match = pattern.exec(await readFile(this.logPath, 'utf8'));
      return match !== null;
    });
    if (!match) throw new Error('unreachable: waitUntil returned without a match');
    return match;
  }

  /** Polls `condition` until it is true. Throws ProcessEndedError when the process ends first, ProcessNotReadyError after `timeoutMs`. */
  async waitUntil(what: string, timeoutMs: number, condition: () => Promise<boolean>): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const ended = this.status;
      if (await condition()) return;
      if (ended) throw new ProcessEndedError(this.name, ended, this.logPath, await this.logTail());
      if (Date.now() > deadline) {
        throw new ProcessNotReadyError(this.name, what, timeoutMs, this.logPath, await this.logTail());
      }
      await sleep(LOG_POLL_MS);
    }
  }

  /** The last 4 KiB of its output. */
  async logTail(): Promise<string> {
    return (await readFile(this.logPath, 'utf8').catch(() => '')).slice(-LOG_TAIL_BYTES).trimEnd();
  }
}
