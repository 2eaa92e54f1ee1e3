// The operator's process as its Deployment in the cluster describes it: the same environment and the token of the same
// ServiceAccount. What differs is only what a machine without a pod network needs: loopback addresses and free ports.
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { freePorts } from '../../hack/control-plane/free-ports.ts';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';
import type { ShipCluster } from './cluster.ts';
import { NAMESPACE } from './helm.ts';

const HOST = '127.0.0.1';
const STOP_MS = 25_000;
/** Shorter than in a cluster: a test waits for it. */
const LEASE_SECONDS = '4';

export interface OperatorPorts {
  hub: number;
  webhook: number;
  metrics: number;
}

export async function operatorPorts(): Promise<OperatorPorts> {
  const [hub = 0, webhook = 0, metrics = 0] = await freePorts(3);
  return { hub, webhook, metrics };
}

/** Environment and arguments of the installed Deployment's container, for a process on this machine. */
export async function operatorContainer(
  cluster: ShipCluster,
  podName: string,
  ports: OperatorPorts,
): Promise<{ account: string; environment: Record<string, string>; args: string[] }> {
  const pod = (await cluster.deployment()).spec?.template.spec;
  const [container] = pod?.containers ?? [];
  const fields: Record<string, string> = { 'metadata.namespace': NAMESPACE, 'metadata.name': podName };
  const environment = Object.fromEntries(
    (container?.env ?? []).map(({ name, value, valueFrom }) => [
      name,
      value ?? fields[valueFrom?.fieldRef?.fieldPath ?? ''] ?? '',
    ]),
  );
  return {
    account: pod?.serviceAccountName ?? '',
    args: container?.args ?? [],
    environment: {
      ...environment,
      NASMIG_LISTEN_HOST: HOST,
      NASMIG_HUB_PORT: String(ports.hub),
      NASMIG_HUB_URL: `wss://${HOST}:${ports.hub}`,
      NASMIG_WEBHOOK_PORT: String(ports.webhook),
      NASMIG_WEBHOOK_URL: `https://${HOST}:${ports.webhook}`,
      NASMIG_METRICS_PORT: String(ports.metrics),
      NASMIG_LEASE_SECONDS: LEASE_SECONDS,
    },
  };
}

/** A token of a ServiceAccount of our namespace, as kubelet would ask for. */
export async function accountToken(cluster: ShipCluster, account: string): Promise<string> {
  const answer = await cluster.api.call<{ status: { token: string } }>(
    'POST',
    pathOf(resources.serviceAccounts, NAMESPACE, account, 'token'),
    {
      body: {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenRequest',
        spec: { expirationSeconds: 3600 },
      },
    },
  );
  return answer.status.token;
}

export class OperatorProcess {
  readonly ports: OperatorPorts;
  readonly #child: ChildProcess;
  readonly #exited: Promise<number | null>;
  readonly #lines: string[] = [];

  private constructor(child: ChildProcess, ports: OperatorPorts) {
    this.#child = child;
    this.ports = ports;
    const killWithParent = () => child.kill('SIGKILL');
    process.once('exit', killWithParent);
    this.#exited = new Promise((resolve) =>
      child.once('close', (code) => {
        process.off('exit', killWithParent);
        resolve(code);
      }),
    );
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => this.#lines.push(...text.trim().split('\n')));
  }

  static async start(cluster: ShipCluster, podName: string, ports: OperatorPorts): Promise<OperatorProcess> {
    const { account, environment, args } = await operatorContainer(cluster, podName, ports);
    const kubeconfig = path.join(cluster.dir, `${podName}.kubeconfig`);
    await writeFile(kubeconfig, cluster.plane.kubeconfigFor(account, await accountToken(cluster, account)), {
      mode: 0o600,
    });
    const script = args.map((arg) => arg.replace(/\.js$/, '.ts'));
    return new OperatorProcess(
      spawn(process.execPath, script, {
        cwd: repositoryRoot,
        env: { PATH: process.env['PATH'], ...environment, KUBECONFIG: kubeconfig },
        stdio: ['ignore', 'pipe', 'pipe'],
      }),
      ports,
    );
  }

  get log(): string {
    return this.#lines.join('\n');
  }

  /** `/readyz`, `/healthz`, `/metrics`: status and text; 0 when nobody answers. */
  async probe(target: string): Promise<{ status: number; text: string }> {
    return probe(this.ports.metrics, target);
  }

  /** SIGTERM; its exit code. */
  async stop(): Promise<number | null> {
    if (this.#child.exitCode === null) this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS);
    const code = await this.#exited;
    clearTimeout(timer);
    return code;
  }
}

export async function probe(port: number, target: string): Promise<{ status: number; text: string }> {
  try {
    const answer = await fetch(`http://${HOST}:${port}${target}`, { signal: AbortSignal.timeout(5000) });
    return { status: answer.status, text: await answer.text() };
  } catch {
    return { status: 0, text: '' };
  }
}

/** The value of a metric's first sample that has all of these labels; 0 when there is none. */
export function sample(text: string, name: string, ...labels: string[]): number {
  const line = text
    .split('\n')
    .find((one) => one.startsWith(name) && labels.every((label) => one.includes(label)));
  return Number(line?.split(' ').at(-1) ?? 0);
}
