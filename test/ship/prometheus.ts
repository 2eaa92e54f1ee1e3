// A real Prometheus (Debian's) in a process of its own: scrapes what it is told every second, evaluates the rules it is given, and
// answers queries. And promtool, for what needs no server. Both are unpacked by `hack/setup.sh ship`.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { access, constants, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { dump } from 'js-yaml';
import { freePort } from '../../hack/control-plane/free-ports.ts';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { type RuleFile, ruleFileYaml } from '../../observability/rules/rule-file.ts';

const binDirectory = path.join(repositoryRoot, '.cache', 'prometheus', 'usr', 'bin');
const HOST = '127.0.0.1';
const READY_TIMEOUT_MS = 30_000;
const QUERY_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 15_000;
const PROMTOOL_TIMEOUT_MS = 60_000;
const POLL_MS = 100;

/** Prometheus is not there, did not start, or refused a query. */
export class PrometheusError extends Error {
  readonly code = 'NASMIG_TEST_PROMETHEUS';

  constructor(problem: string) {
    super(problem);
    this.name = 'PrometheusError';
  }
}

async function programPath(name: 'prometheus' | 'promtool'): Promise<string> {
  const file = path.join(binDirectory, name);
  await access(file, constants.X_OK).catch(() => {
    throw new PrometheusError(`${name} is not there; run hack/setup.sh ship`);
  });
  return file;
}

/** promtool's output; it throws with what promtool said when that ends with an error. */
export async function promtool(words: readonly string[]): Promise<string> {
  const file = await programPath('promtool');
  return new Promise((resolve, reject) => {
    execFile(file, [...words], { timeout: PROMTOOL_TIMEOUT_MS }, (error, stdout, stderr) => {
      if (error === null) resolve(`${stdout}${stderr}`);
      else reject(new PrometheusError(`promtool ${words.join(' ')}: ${stdout}${stderr}${error.message}`));
    });
  });
}

export interface Target {
  readonly job: string;
  readonly ports: readonly number[];
  /** Files and a scheme for a target that wants them, as the API server does. */
  readonly more?: object;
}

export interface Series {
  readonly labels: Readonly<Record<string, string>>;
  /** [seconds since 1970, value] */
  readonly values: readonly (readonly [number, number])[];
}

export interface FiringAlert {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

interface Answer {
  status: string;
  error?: string;
  data?: {
    result: { metric: Record<string, string>; value?: [number, string]; values?: [number, string][] }[];
  };
}

export class Prometheus {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  readonly #dir: string;
  readonly #port: number;
  #log = '';

  private constructor(child: ChildProcess, dir: string, port: number) {
    this.#child = child;
    this.#dir = dir;
    this.#port = port;
    const killWithParent = () => void child.kill('SIGKILL');
    process.once('exit', killWithParent);
    this.#exited = new Promise((resolve) =>
      child.once('close', () => {
        process.off('exit', killWithParent);
        resolve();
      }),
    );
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#log = `${this.#log}${text}`.slice(-8192);
      });
  }

  /** Resolves when it answers. Scrapes each second. */
  static async start(options: { rules: RuleFile; targets: readonly Target[] }): Promise<Prometheus> {
    const program = await programPath('prometheus');
    const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-prometheus-'));
    const port = await freePort();
    await writeFile(path.join(dir, 'rules.yaml'), ruleFileYaml(options.rules));
    const configuration = {
      global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
      rule_files: ['rules.yaml'],
      scrape_configs: options.targets.map(({ job, ports, more }) => ({
        job_name: job,
        static_configs: [{ targets: ports.map((one) => `${HOST}:${one}`) }],
        honor_labels: true,
        ...more,
      })),
    };
    const file = path.join(dir, 'prometheus.yaml');
    await writeFile(file, dump(configuration));
    const child = spawn(
      program,
      [
        `--config.file=${file}`,
        `--storage.tsdb.path=${path.join(dir, 'data')}`,
        `--web.listen-address=${HOST}:${port}`,
        '--log.level=warn',
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const prometheus = new Prometheus(child, dir, port);
    const deadline = performance.now() + READY_TIMEOUT_MS;
    while (!(await prometheus.#isReady())) {
      if (child.exitCode !== null || performance.now() > deadline) {
        await prometheus.stop();
        throw new PrometheusError(`prometheus did not get ready: ${prometheus.#log}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    return prometheus;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode === null) this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await this.#exited;
    clearTimeout(timer);
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** The value of each series now. */
  async query(expr: string, atMs?: number): Promise<Series[]> {
    const time: Record<string, string> = atMs === undefined ? {} : { time: String(atMs / 1000) };
    const { result } = await this.#ask('query', { query: expr, ...time });
    return result.map(({ metric, value = [0, 'NaN'] }) => ({
      labels: metric,
      values: [[value[0], Number(value[1])]],
    }));
  }

  async queryRange(expr: string, fromMs: number, toMs: number, stepMs: number): Promise<Series[]> {
    const { result } = await this.#ask('query_range', {
      query: expr,
      start: String(fromMs / 1000),
      end: String(toMs / 1000),
      step: String(stepMs / 1000),
    });
    return result.map(({ metric, values = [] }) => ({
      labels: metric,
      values: values.map(([time, value]) => [time, Number(value)]),
    }));
  }

  /** Alerts that fire now, pending ones left out. */
  async firing(): Promise<FiringAlert[]> {
    const answer = await fetch(`http://${HOST}:${this.#port}/api/v1/alerts`, {
      signal: AbortSignal.timeout(QUERY_TIMEOUT_MS),
    });
    const { data } = (await answer.json()) as { data: { alerts: (FiringAlert & { state: string })[] } };
    return data.alerts.filter(({ state }) => state === 'firing');
  }

  async #ask(what: string, parameters: Record<string, string>): Promise<NonNullable<Answer['data']>> {
    const answer = await fetch(`http://${HOST}:${this.#port}/api/v1/${what}`, {
      method: 'POST',
      body: new URLSearchParams(parameters),
      signal: AbortSignal.timeout(QUERY_TIMEOUT_MS),
    });
    const { status, error, data } = (await answer.json()) as Answer;
    if (status !== 'success' || data === undefined)
      throw new PrometheusError(`${what} ${parameters['query']}: ${error}`);
    return data;
  }

  async #isReady(): Promise<boolean> {
    try {
      const { ok } = await fetch(`http://${HOST}:${this.#port}/-/ready`, {
        signal: AbortSignal.timeout(1000),
      });
      return ok;
    } catch {
      return false;
    }
  }
}
