// A real API server to ship to: with KubeVirt's kinds, the Prometheus operator's and cert-manager's, without kubelets. Helm and kubectl act on it
// as an administrator.
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  KubeConfig,
  type KubernetesObject,
  type V1CustomResourceDefinition,
  type V1Deployment,
} from '@kubernetes/client-node';
import { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { ApiClient, isNotFound } from '../../operator/kubernetes/api-client.ts';
import { type Resource, resources } from '../../operator/kubernetes/resources.ts';
import { kubevirtDefinitions } from '../control-plane/kubevirt-crds.ts';
import { Helm, NAMESPACE, RELEASE } from './helm.ts';
import { neighbourDefinitions } from './monitoring-crds.ts';

const KUBECTL_TIMEOUT_MS = 60_000;
const WAIT_MS = 30_000;

/** What this account asks the API server for is written to the audit log. */
export const OPERATOR_USER = `system:serviceaccount:${NAMESPACE}:${RELEASE}`;

const auditPolicy = {
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  omitStages: ['RequestReceived'],
  rules: [{ level: 'Metadata', users: [OPERATOR_USER] }, { level: 'None' }],
};

export class ShipCluster {
  readonly plane: ControlPlane;
  readonly api: ApiClient;
  readonly helm: Helm;
  readonly auditLog: string;
  readonly dir: string;

  private constructor(parts: {
    plane: ControlPlane;
    api: ApiClient;
    helm: Helm;
    dir: string;
    auditLog: string;
  }) {
    this.plane = parts.plane;
    this.api = parts.api;
    this.helm = parts.helm;
    this.dir = parts.dir;
    this.auditLog = parts.auditLog;
  }

  static async start(): Promise<ShipCluster> {
    const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-ship-'));
    const auditLog = path.join(dir, 'audit.log');
    const auditPolicyFile = path.join(dir, 'audit-policy.json');
    await writeFile(auditPolicyFile, JSON.stringify(auditPolicy));
    const plane = await ControlPlane.start({
      dir: path.join(dir, 'control-plane'),
      apiServerArguments: [`--audit-policy-file=${auditPolicyFile}`, `--audit-log-path=${auditLog}`],
    });
    const config = new KubeConfig();
    config.loadFromFile(plane.kubeconfig);
    const api = new ApiClient(config, { userAgent: 'test' });
    const helm = await Helm.start(plane.kubeconfig);
    const cluster = new ShipCluster({ plane, api, helm, dir, auditLog });
    const definitions = [...kubevirtDefinitions(), ...neighbourDefinitions];
    for (const definition of definitions) {
      await api.apply(resources.customResourceDefinitions, definition, 'test');
      await cluster.established(definition.metadata?.name ?? '');
    }
    return cluster;
  }

  async stop(): Promise<void> {
    this.api.close();
    await this.helm.close();
    await this.plane.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  async established(name: string): Promise<void> {
    await this.eventually(async () => {
      const found = await this.get<V1CustomResourceDefinition>(
        resources.customResourceDefinitions,
        undefined,
        name,
      );
      const isEstablished = found?.status?.conditions?.some(
        ({ type, status }) => type === 'Established' && status === 'True',
      );
      if (isEstablished !== true) throw new Error(`CustomResourceDefinition ${name} is not established`);
    });
  }

  /** Undefined when it is not there. */
  async get<T extends KubernetesObject>(
    resource: Resource,
    namespace: string | undefined,
    name: string,
  ): Promise<T | undefined> {
    try {
      return await this.api.get<T>(resource, namespace, name);
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** The operator's. */
  async deployment(): Promise<V1Deployment> {
    return JSON.parse(
      await this.kubectl(['-n', NAMESPACE, 'get', 'deployment', RELEASE, '-o', 'json']),
    ) as V1Deployment;
  }

  /** A pod as the Deployment's ReplicaSet would make it; nobody runs it, a process of that name stands for it. */
  async podOfDeployment(name: string): Promise<void> {
    const template = (await this.deployment()).spec?.template;
    await this.kubectl(
      ['create', '-f', '-'],
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, namespace: NAMESPACE, labels: template?.metadata?.labels },
        spec: template?.spec,
      }),
    );
  }

  /** kubectl's standard output; an error carries what it said. */
  kubectl(words: readonly string[], input?: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const child = execFile(
        this.plane.kubectl,
        ['--kubeconfig', this.plane.kubeconfig, ...words],
        { timeout: KUBECTL_TIMEOUT_MS, maxBuffer: 16 * 1024 * 1024, env: { HOME: this.dir } },
        (error, stdout, stderr) => {
          if (error === null) resolve(stdout);
          else reject(new Error(`kubectl ${words.join(' ')}: ${stderr || error.message}`));
        },
      );
      child.stdin?.on('error', () => {});
      child.stdin?.end(input);
    });
  }

  /** Until `check` does not throw; bounded. */
  async eventually<T>(check: () => Promise<T> | T, timeoutMs = WAIT_MS): Promise<T> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      try {
        return await check();
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }
}
