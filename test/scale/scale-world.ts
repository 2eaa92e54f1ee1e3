// A real API server that writes down every request of the operator's account, and the operator as its own process with exactly
// its own rights. What it uses is read from outside: /proc, its metrics page, and the API server's audit log.
import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { freePorts } from '../../hack/control-plane/free-ports.ts';
import { compileProgram } from '../../hack/ship/compile.ts';
import { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { installDefinitions } from '../control-plane/apply.ts';
import { KUBEVIRT_USER, KubevirtActor } from '../control-plane/kubevirt-actor.ts';
import { operatorAccount } from '../control-plane/operator-account.ts';
import { type Asked, askedFor } from '../ship/audit-log.ts';
import { type ProcessUsage, usageOf } from './process-usage.ts';
import { parseScrape, type Scrape, total } from './prometheus-text.ts';

const NAMESPACE = 'nas-aware-migration';
const OPERATOR_USER = `system:serviceaccount:${NAMESPACE}:nas-aware-migration`;
const HOST = '127.0.0.1';
/** What the operator logged. */
const OPERATOR_LOG = 'build/scale-operator.log';
const READY_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 25_000;

export class ScaleWorld {
  readonly plane: ControlPlane;
  readonly api: ApiClient;
  readonly kubevirt: KubevirtActor;
  readonly hubUrl: string;
  readonly #dir: string;
  readonly #auditLog: string;
  readonly #environment: Record<string, string>;
  readonly #metricsPort: number;
  #operator: ChildProcess | undefined;

  private constructor(parts: {
    plane: ControlPlane;
    api: ApiClient;
    kubevirt: KubevirtActor;
    dir: string;
    auditLog: string;
    environment: Record<string, string>;
    ports: { hub: number; metrics: number };
  }) {
    this.plane = parts.plane;
    this.api = parts.api;
    this.kubevirt = parts.kubevirt;
    this.hubUrl = `wss://${HOST}:${parts.ports.hub}`;
    this.#dir = parts.dir;
    this.#auditLog = parts.auditLog;
    this.#environment = parts.environment;
    this.#metricsPort = parts.ports.metrics;
  }

  static async start(settings: Record<string, string>): Promise<ScaleWorld> {
    const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-scale-'));
    const auditLog = path.join(dir, 'audit.log');
    const policyFile = path.join(dir, 'audit-policy.json');
    await writeFile(policyFile, JSON.stringify(auditPolicy()));
    const plane = await ControlPlane.start({
      dir: path.join(dir, 'control-plane'),
      apiServerArguments: [`--audit-policy-file=${policyFile}`, `--audit-log-path=${auditLog}`],
    });
    const config = new KubeConfig();
    config.loadFromFile(plane.kubeconfig);
    const api = new ApiClient(config, { userAgent: 'scale' });
    await installDefinitions(api);
    const kubevirt = await KubevirtActor.start(plane, api);
    await kubevirt.namespace(NAMESPACE);
    const account = await operatorAccount(plane, api, NAMESPACE);
    await writeFile(path.join(dir, 'token'), tokenOf(account.config), { mode: 0o600 });
    await writeFile(path.join(dir, 'ca.crt'), plane.caPem);
    const [hub = 0, metrics = 0, webhook = 0] = await freePorts(3);
    const ports = { hub, metrics, webhook };
    const environment = {
      NASMIG_NAMESPACE: NAMESPACE,
      NASMIG_SIDECAR_IMAGE: 'example.org/sidecar:scale',
      NASMIG_LISTEN_HOST: HOST,
      NASMIG_HUB_PORT: String(ports.hub),
      NASMIG_HUB_URL: `wss://${HOST}:${ports.hub}`,
      NASMIG_WEBHOOK_PORT: String(ports.webhook),
      NASMIG_WEBHOOK_URL: `https://${HOST}:${ports.webhook}`,
      NASMIG_METRICS_PORT: String(ports.metrics),
      NASMIG_KUBEVIRT_USER: KUBEVIRT_USER,
      NASMIG_LOG_LEVEL: 'info',
      // As in a pod.
      KUBERNETES_SERVICE_HOST: HOST,
      KUBERNETES_SERVICE_PORT: new URL(plane.url).port,
      NASMIG_SERVICE_ACCOUNT_DIR: dir,
      ...settings,
    };
    return new ScaleWorld({ plane, api, kubevirt, dir, auditLog, environment, ports });
  }

  /** The operator's process, from the bundle that is in the image, as its container starts it; returns when it leads. */
  async startOperator(nodeArguments: readonly string[] = []): Promise<void> {
    const main = await compileProgram('operator', path.join(this.#dir, 'operator'));
    const child = spawn(process.execPath, [...nodeArguments, main], {
      env: { PATH: process.env['PATH'], ...this.#environment },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    mkdirSync(path.dirname(OPERATOR_LOG), { recursive: true });
    child.stdout?.pipe(createWriteStream(OPERATOR_LOG));
    this.#operator = child;
    const killWithParent = () => child.kill('SIGKILL');
    process.once('exit', killWithParent);
    child.once('exit', () => process.off('exit', killWithParent));
    await until(
      'the operator leads',
      READY_TIMEOUT_MS,
      async () => total(await this.scrape(), 'nasmig_leader') === 1,
    );
  }

  /** SIGTERM; whether it ended by itself in time. */
  async stopOperator(): Promise<boolean> {
    const child = this.#operator;
    if (child === undefined || child.exitCode !== null) return child === undefined;
    const ended = new Promise<boolean>((resolve) => child.once('exit', (code) => resolve(code === 0)));
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    const well = await ended;
    clearTimeout(timer);
    return well;
  }

  async stop(): Promise<void> {
    await this.stopOperator();
    this.kubevirt.close();
    this.api.close();
    await this.plane.stop();
    await rm(this.#dir, { recursive: true, force: true });
  }

  usage(): Promise<ProcessUsage> {
    const pid = this.#operator?.pid;
    if (pid === undefined) throw new TypeError('the operator was not started');
    return usageOf(pid);
  }

  /** The operator's metrics page; empty while nobody answers. */
  async scrape(): Promise<Scrape> {
    try {
      const answer = await fetch(`http://${HOST}:${this.#metricsPort}/metrics`, {
        signal: AbortSignal.timeout(10_000),
      });
      return parseScrape(await answer.text());
    } catch {
      return parseScrape('');
    }
  }

  /** What the operator's account asked the API server for so far, from the API server's own log. */
  async asked(): Promise<Asked[]> {
    // An empty log is not there yet.
    const text = await readFile(this.#auditLog, 'utf8').catch(() => '');
    return text === '' ? [] : askedFor(this.#auditLog);
  }
}

function tokenOf(config: KubeConfig): string {
  const token = config.getCurrentUser()?.token;
  if (token === undefined) throw new TypeError('the operator account has no token');
  return token;
}

/** One line for each request of the operator: a watch when it begins, anything else when it is answered. */
function auditPolicy(): object {
  const common = { level: 'Metadata', users: [OPERATOR_USER] };
  const rules = [
    { ...common, verbs: ['watch'], omitStages: ['RequestReceived', 'ResponseComplete'] },
    { ...common, omitStages: ['RequestReceived', 'ResponseStarted'] },
    { level: 'None' },
  ];
  return { apiVersion: 'audit.k8s.io/v1', kind: 'Policy', rules };
}

/** Bounded; the error says what was waited for. */
export async function until(
  what: string,
  timeoutMs: number,
  isSo: () => Promise<boolean> | boolean,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`${what}: not so after ${timeoutMs / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
