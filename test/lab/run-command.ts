// Runs one program to its end, with a deadline and with its last words in the error when it fails.
// For builders and set-up steps; long-lived processes (QEMU, servers) are spawned by their own modules.

import { spawn } from 'node:child_process';

/** Enough of a failed program's output to see why; the rest is dropped, however much it prints. */
const KEPT_OUTPUT_BYTES = 64 * 1024;

/** A program that the lab needs exited with an error, was killed, or did not end in time. */
export class CommandFailedError extends Error {
  readonly code = 'NASMIG_LAB_COMMAND_FAILED';
  readonly argv: readonly string[];
  readonly output: string;
  constructor(argv: readonly string[], how: string, output: string) {
    super(
      `\`${argv.join(' ')}\` ${how}; its last output:\n${output.trimEnd().split('\n').slice(-25).join('\n')}`,
    );
    this.name = 'CommandFailedError';
    this.argv = argv;
    this.output = output;
  }
}

export interface RunCommandOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Default ten minutes: downloads are the slowest thing that is run this way. */
  timeoutMs?: number;
}

/** Runs `argv` to its end and returns its standard output (at most 64 KiB of it, the last). Throws CommandFailedError. */
export function runCommand(argv: readonly string[], options: RunCommandOptions = {}): Promise<string> {
  const [program, ...args] = argv;
  if (program === undefined) throw new TypeError('runCommand needs a program');
  const timeoutMs = options.timeoutMs ?? 10 * 60_000;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let combined = '';
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
      // What it started may live on, and hold the other ends of its pipes.
      child.stdout.destroy();
      child.stderr.destroy();
    }, timeoutMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout = (stdout + text).slice(-KEPT_OUTPUT_BYTES);
      combined = (combined + text).slice(-KEPT_OUTPUT_BYTES);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      combined = (combined + text).slice(-KEPT_OUTPUT_BYTES);
    });
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(new CommandFailedError(argv, `could not be started (${error.message})`, combined));
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      if (code === 0) resolve(stdout);
      else if (timedOut) reject(new CommandFailedError(argv, `did not end within ${timeoutMs} ms`, combined));
      else
        reject(
          new CommandFailedError(argv, signal ? `was ended by ${signal}` : `exited with ${code}`, combined),
        );
    });
  });
}
