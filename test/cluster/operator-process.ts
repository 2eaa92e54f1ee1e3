// One replica of the operator as in its pod: a process of its own with an environment, a service account with exactly its rights,
// and an output that is kept. It can be killed and started again in the same place.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';

const PROGRAM = resolve(import.meta.dirname, '../../operator/main.ts');
const READY_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 25_000;
const REQUEST_TIMEOUT_MS = 5000;
const POLL_MS = 50;
const LOG_TAIL_BYTES = 4096;

/** The operator ended, or did not get as far as was waited for. */
export class OperatorProcessError extends Error {
  readonly code = 'NASMIG_LAB_OPERATOR';
  constructor(problem: string, logPath: string, tail: string) {
    super(`the operator ${problem}; the end of ${logPath}:\n${tail || '(empty)'}`);
    this.name = 'OperatorProcessError';
  }
}

/** The command line that runs the operator with this environment; the process itself is given it, too. */
export type OperatorCommand = (environment: Readonly<Record<string, string>>) => Promise<readonly string[]>;

const thisRepository: OperatorCommand = async () => [process.execPath, PROGRAM];

export interface OperatorProcessOptions {
  /** How it is run; from this repository unless said otherwise. */
  readonly command?: OperatorCommand;
  readonly environment: Readonly<Record<string, string>>;
  readonly logPath: string;
  /** Where it serves /metrics and /readyz. */
  readonly metricsPort: number;
}

export class OperatorProcess {
  readonly logPath: string;
  readonly #options: OperatorProcessOptions;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #logBefore = 0;

  constructor(options: OperatorProcessOptions) {
    this.#options = options;
    this.logPath = options.logPath;
  }

  get metricsPort(): number {
    return this.#options.metricsPort;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Starts it, with more in its environment; resolves when it is ready: its webhook answers, and it may come to lead. */
  async start(environment: Readonly<Record<string, string>> = {}): Promise<void> {
    if (this.running) throw new Error('this replica runs already');
    this.#logBefore = (await this.log()).length;
    const whole = { ...this.#options.environment, ...environment };
    const [program = '', ...args] = await (this.#options.command ?? thisRepository)(whole);
    const log = openSync(this.logPath, 'a');
    const child = spawn(program, args, {
      env: whole,
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
    await this.#waitUntil('is not ready', () => this.#isReady());
  }

  /** Waits until it leads, or has led, since its last start. Throws {@link OperatorProcessError}. */
  async waitForLeading(): Promise<void> {
    await this.#waitUntil('does not lead', async () =>
      (await this.log()).slice(this.#logBefore).includes('"leading"'),
    );
  }

  /** Prometheus's text. */
  async metrics(): Promise<string> {
    const response = await fetch(`http://127.0.0.1:${this.#options.metricsPort}/metrics`, {
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    });
    return response.text();
  }

  /** Ends it by a signal; SIGKILL when that is not enough. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  log(): Promise<string> {
    return readFile(this.logPath, 'utf8').catch(() => '');
  }

  async #isReady(): Promise<boolean> {
    try {
      const response = await fetch(`http://127.0.0.1:${this.#options.metricsPort}/readyz`, {
        signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      });
      await response.body?.cancel();
      return response.ok;
    } catch {
      return false;
    }
  }

  async #waitUntil(problem: string, isSo: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + READY_TIMEOUT_MS;
    while (!(await isSo())) {
      const child = this.#child;
      if (child === undefined || child.exitCode !== null)
        throw await this.#error(`ended with code ${child?.exitCode}`);
      if (performance.now() > deadline) throw await this.#error(`${problem} after ${READY_TIMEOUT_MS} ms`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async #error(problem: string): Promise<OperatorProcessError> {
    return new OperatorProcessError(problem, this.logPath, (await this.log()).slice(-LOG_TAIL_BYTES));
  }
}
