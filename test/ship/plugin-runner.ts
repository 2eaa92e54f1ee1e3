// The kubectl plugin as a person has it: the built program in a folder of the PATH, called by real kubectl, with a kubeconfig and
// nothing else of this machine's environment. Every call has a deadline.
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buildPlugin } from '../../plugin/build.ts';
import { factsDirectory, record } from './report.ts';

const TIMEOUT_MS = 60_000;

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  environment?: Record<string, string>;
  /** Sent after this time, as Ctrl-C is. */
  interruptAfterMs?: number;
  /** Told of the first thing it writes. */
  onOutput?: () => void;
  cwd?: string;
  timeoutMs?: number;
}

export class PluginRunner {
  readonly bin: string;
  readonly home: string;
  readonly kubeconfig: string;
  #runs = 0;

  private constructor(bin: string, home: string, kubeconfig: string) {
    this.bin = bin;
    this.home = home;
    this.kubeconfig = kubeconfig;
  }

  /** Builds the plugin as it is shipped. */
  static async start(kubectl: string, kubeconfig: string): Promise<PluginRunner> {
    const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-plugin-'));
    const bin = path.join(dir, 'bin');
    const home = path.join(dir, 'home');
    await mkdir(home, { recursive: true });
    await buildPlugin(bin);
    await symlink(kubectl, path.join(bin, 'kubectl'));
    return new PluginRunner(bin, home, kubeconfig);
  }

  async close(): Promise<void> {
    await rm(path.dirname(this.bin), { recursive: true, force: true });
  }

  /** Calls of the plugin so far. */
  get runs(): number {
    return this.#runs;
  }

  get environment(): Record<string, string> {
    return {
      PATH: `${this.bin}:/usr/bin:/bin`,
      HOME: this.home,
      KUBECONFIG: this.kubeconfig,
      LANG: 'C.UTF-8',
    };
  }

  /** `kubectl nasmig …`. */
  nasmig(words: readonly string[], options: RunOptions = {}): Promise<Outcome> {
    this.#runs += 1;
    return this.exec(path.join(this.bin, 'kubectl'), ['nasmig', ...words], options);
  }

  exec(program: string, words: readonly string[], options: RunOptions = {}): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      const child = execFile(
        program,
        [...words],
        {
          timeout: options.timeoutMs ?? TIMEOUT_MS,
          maxBuffer: 64 * 1024 * 1024,
          env: { ...this.environment, ...options.environment },
          cwd: options.cwd ?? this.home,
        },
        (error, stdout, stderr) => {
          const code = child.exitCode;
          if (code === null)
            reject(
              new Error(
                `${program} ${words.join(' ')}: ${error?.message ?? 'no exit code'}\n${stdout}${stderr}`,
              ),
            );
          else resolve({ code, stdout, stderr });
        },
      );
      child.stdin?.end();
      if (options.onOutput !== undefined) child.stdout?.once('data', options.onOutput);
      if (options.interruptAfterMs !== undefined)
        setTimeout(() => child.kill('SIGINT'), options.interruptAfterMs);
    });
  }
}

const suitesDirectory = path.join(factsDirectory, 'plugin');

/** What a suite proved: how many verbs there are, and how many of its cases passed. Suites of one run add up. */
export async function recordPlugin(suite: string, verbs: number, cases: number): Promise<void> {
  await mkdir(suitesDirectory, { recursive: true });
  await writeFile(path.join(suitesDirectory, `${suite}.json`), JSON.stringify({ verbs, cases }));
  const suites = await Promise.all(
    ['cluster', 'terminal'].map(async (name) => {
      try {
        return JSON.parse(await readFile(path.join(suitesDirectory, `${name}.json`), 'utf8')) as {
          verbs: number;
          cases: number;
        };
      } catch {
        // That suite did not run.
        return { verbs: 0, cases: 0 };
      }
    }),
  );
  await record('plugin', {
    verbs: Math.max(...suites.map((one) => one.verbs)),
    cases: suites.reduce((sum, one) => sum + one.cases, 0),
  });
}
