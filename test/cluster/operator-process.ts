// The operator as in its container: a process of its own with an environment, a service account with exactly its rights, and
// an output that is kept. It can be killed and started again in the same place.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';

const PROGRAM = resolve(import.meta.dirname, '../../operator/main.ts');
const READY_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 25_000;
const POLL_MS = 50;
const LOG_TAIL_BYTES = 4096;

/** The operator ended, or did not come to lead. */
export class OperatorProcessError extends Error {
  readonly code = 'NASMIG_LAB_OPERATOR';
  constructor(problem: string, logPath: string, tail: string) {
    super(`the operator ${problem}; the end of ${logPath}:\n${tail || '(empty)'}`);
    this.name = 'OperatorProcessError';
  }
}

export class OperatorProcess {
  readonly logPath: string;
  readonly #environment: Readonly<Record<string, string>>;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();

  constructor(environment: Readonly<Record<string, string>>, logPath: string) {
    this.#environment = environment;
    this.logPath = logPath;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Starts it; resolves when it leads. Throws {@link OperatorProcessError}. */
  async start(): Promise<void> {
    const before = await this.#log();
    const log = openSync(this.logPath, 'a');
    const child = spawn(process.execPath, [PROGRAM], {
      env: { ...this.#environment },
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    this.#child = child;
    // A test process that ends without stop() must not leave it behind.
    const killWithParent = (): void => void child.kill('SIGKILL');
    process.once('exit', killWithParent);
    this.#exited = new Promise((resolve) => {
      child.once('close', () => {
        process.off('exit', killWithParent);
        resolve();
      });
    });
    const deadline = performance.now() + READY_TIMEOUT_MS;
    while (!(await this.#log()).slice(before.length).includes('"leading"')) {
      if (child.exitCode !== null) throw await this.#error(`ended with code ${child.exitCode}`);
      if (performance.now() > deadline) throw await this.#error(`does not lead after ${READY_TIMEOUT_MS} ms`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** SIGTERM, and SIGKILL when that does not end it. */
  async stop(): Promise<void> {
    await this.kill('SIGTERM');
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  #log(): Promise<string> {
    return readFile(this.logPath, 'utf8').catch(() => '');
  }

  async #error(problem: string): Promise<OperatorProcessError> {
    return new OperatorProcessError(problem, this.logPath, (await this.#log()).slice(-LOG_TAIL_BYTES));
  }
}
