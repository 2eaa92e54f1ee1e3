// Real Helm, as a person runs it: renders the chart, and installs, upgrades, rolls back and uninstalls it with a kubeconfig.
// Every call has a deadline; what Helm says is in the error.
import { type ExecFileException, execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import { loadAll } from 'js-yaml';
import { chartDirectory, manifestNamespace } from '../../hack/ship/generate.ts';
import { ensureTool } from '../../hack/ship/tools.ts';

const TIMEOUT_MS = 120_000;

export const RELEASE = 'nas-aware-migration';
export const NAMESPACE = manifestNamespace;

export type Values = Readonly<Record<string, unknown>>;

/** An object as it is rendered: its fields are looked at by the tests that know them. */
export type Rendered = KubernetesObject & { [field: string]: unknown };

/** Helm ended with an error. */
export class HelmError extends Error {
  readonly code = 'NASMIG_TEST_HELM';
  readonly output: string;

  constructor(verb: string, output: string) {
    super(`helm ${verb}: ${output}`);
    this.name = 'HelmError';
    this.output = output;
  }
}

export class Helm {
  readonly #program: string;
  readonly #home: string;
  readonly #kubeconfig: string | undefined;

  private constructor(program: string, home: string, kubeconfig: string | undefined) {
    this.#program = program;
    this.#home = home;
    this.#kubeconfig = kubeconfig;
  }

  /** `kubeconfig`: a file; without it nothing but rendering works. Close it. */
  static async start(kubeconfig?: string): Promise<Helm> {
    return new Helm(await ensureTool('helm'), await mkdtemp(path.join(tmpdir(), 'nasmig-helm-')), kubeconfig);
  }

  async close(): Promise<void> {
    await rm(this.#home, { recursive: true, force: true });
  }

  /** The objects that the chart makes with these values. */
  async template(values: Values = {}, ...more: string[]): Promise<Rendered[]> {
    const text = await this.run(
      ['template', RELEASE, chartDirectory, ...this.#where(), '-f', '-', ...more],
      values,
    );
    return objectsOf(text);
  }

  lint(values: Values = {}): Promise<string> {
    return this.run(['lint', chartDirectory, '--strict', '-f', '-'], values);
  }

  install(values: Values = {}, chart = chartDirectory): Promise<string> {
    return this.run(['install', RELEASE, chart, ...this.#where(), '--create-namespace', '-f', '-'], values);
  }

  upgrade(values: Values = {}, chart = chartDirectory): Promise<string> {
    return this.run(['upgrade', RELEASE, chart, ...this.#where(), '-f', '-'], values);
  }

  rollback(revision: number): Promise<string> {
    return this.run(['rollback', RELEASE, String(revision), ...this.#where()]);
  }

  uninstall(): Promise<string> {
    return this.run(['uninstall', RELEASE, ...this.#where(), '--wait', '--timeout', '60s']);
  }

  /** The manifest of the current revision. */
  manifest(): Promise<string> {
    return this.run(['get', 'manifest', RELEASE, ...this.#where()]);
  }

  /** `values` go to its standard input, as JSON, which is YAML. */
  run(words: readonly string[], values: Values = {}): Promise<string> {
    return new Promise((resolve, reject) => {
      const child = execFile(
        this.#program,
        [...words],
        {
          timeout: TIMEOUT_MS,
          maxBuffer: 16 * 1024 * 1024,
          env: {
            PATH: process.env['PATH'],
            HOME: this.#home,
            ...(this.#kubeconfig === undefined ? {} : { KUBECONFIG: this.#kubeconfig }),
          },
        },
        (error: ExecFileException | null, stdout, stderr) => {
          if (error === null) resolve(stdout);
          else reject(new HelmError(words[0] ?? '', `${stderr}${stdout}` || error.message));
        },
      );
      child.stdin?.on('error', () => {});
      child.stdin?.end(JSON.stringify(values));
    });
  }

  #where(): string[] {
    return ['--namespace', NAMESPACE];
  }
}

/** The objects of a YAML text, as they stand there: client-node's own reader would drop fields that it does not know. */
export function objectsOf(text: string): Rendered[] {
  return (loadAll(text) as (Rendered | null)[]).filter((object) => object !== null && object !== undefined);
}

/** The one object of a kind with this name. */
export function objectOf(objects: readonly Rendered[], kind: string, name = 'nas-aware-migration'): Rendered {
  const found = objects.filter((object) => object.kind === kind && object.metadata?.name === name);
  const [object] = found;
  if (object === undefined || found.length !== 1) {
    const there = objects.map((one) => `${one.kind}/${one.metadata?.name}`).join(', ');
    throw new Error(`${found.length} of ${kind}/${name} among ${there}`);
  }
  return object;
}
