// A real kube-apiserver with etcd, and the parts of kube-controller-manager that deletes and owner references need, on
// free loopback ports: RBAC, service-account tokens with audiences and bound pods, admission webhooks. No kubelet, no
// scheduler: whoever uses it plays those through the API. start() waits, bounded, until all answers; stop() ends what it
// started and nothing else. Can be restarted in place with its data and ports.
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import path from 'node:path';
import {
  createAuthority,
  issueCertificate,
  type KeyAndCertificate,
} from '../../operator/certificates/x509.ts';
import { freePorts } from './free-ports.ts';
import { locatePrograms, type Program } from './release.ts';

export interface ControlPlaneOptions {
  /** Everything is kept here: data, certificates, logs, kubeconfigs. Made if absent; its `etcd` folder is emptied. */
  dir: string;
  /** Further arguments of kube-apiserver, such as `--max-requests-inflight=5` in a throttling test. */
  apiServerArguments?: readonly string[];
  /** Default true: garbage collection, namespace deletion, service accounts and TTL as in a cluster. */
  controllerManager?: boolean;
  /** How long start() waits for each part. */
  readyTimeoutMs?: number;
}

/** A part of the control plane ended or did not become ready. */
export class ControlPlaneStartError extends Error {
  readonly code = 'NASMIG_TEST_CONTROL_PLANE_START';

  constructor(program: string, problem: string, logFile: string, tail: string) {
    super(`${program} ${problem}; its log is ${logFile} and ends with:\n${tail}`);
    this.name = 'ControlPlaneStartError';
  }
}

const HOST = '127.0.0.1';
const SERVICE_RANGE = '10.96.0.0/16';
/** First address of SERVICE_RANGE: the `kubernetes` Service. */
const KUBERNETES_SERVICE_IP = '10.96.0.1';
const ISSUER = 'https://kubernetes.default.svc.cluster.local';
const STOP_TIMEOUT_MS = 15_000;
/** What a cluster has and API objects rely on; the rest needs kubelets or clouds. */
const CONTROLLERS = [
  'garbage-collector-controller',
  'namespace-controller',
  'serviceaccount-controller',
  'root-ca-certificate-publisher-controller',
  'resourcequota-controller',
  'clusterrole-aggregation-controller',
  'disruption-controller',
  // They take their finalizers off claims and volumes that no pod uses any longer.
  'persistentvolumeclaim-protection-controller',
  'persistentvolume-protection-controller',
].join(',');

interface RunningProgram {
  child: ChildProcess;
  program: Program;
  logFile: string;
  exited: Promise<void>;
}

export class ControlPlane {
  readonly dir: string;
  /** `https://127.0.0.1:<port>` of kube-apiserver. */
  readonly url: string;
  /** kubeconfig of an administrator (system:masters). */
  readonly kubeconfig: string;
  /** PEM bundle that kube-apiserver's certificate chains to. */
  readonly caPem: string;
  /** Path of kubectl of the same release. */
  readonly kubectl: string;
  readonly #programs: Record<Program, string>;
  readonly #authority: KeyAndCertificate;
  readonly #adminToken: string;
  readonly #ports: Ports;
  readonly #options: ControlPlaneOptions;
  readonly #running = new Map<Program, RunningProgram>();

  private constructor(setUp: SetUp) {
    this.dir = setUp.options.dir;
    this.url = `https://${HOST}:${setUp.ports.api}`;
    this.kubeconfig = path.join(this.dir, 'admin.kubeconfig');
    this.caPem = setUp.authority.certificatePem;
    this.kubectl = setUp.programs.kubectl;
    this.#programs = setUp.programs;
    this.#authority = setUp.authority;
    this.#adminToken = setUp.adminToken;
    this.#ports = setUp.ports;
    this.#options = setUp.options;
  }

  /** Starts etcd, kube-apiserver and kube-controller-manager, and returns when all are ready. */
  static async start(options: ControlPlaneOptions): Promise<ControlPlane> {
    const programs = await locatePrograms();
    const dir = path.resolve(options.dir);
    await rm(path.join(dir, 'etcd'), { recursive: true, force: true });
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const notBefore = new Date(Date.now() - 3_600_000);
    const notAfter = new Date(Date.now() + 30 * 86_400_000);
    const authority = createAuthority('control-plane', notBefore, notAfter);
    const serving = issueCertificate(authority, {
      commonName: 'kube-apiserver',
      hosts: [HOST, 'localhost', 'kubernetes.default.svc', KUBERNETES_SERVICE_IP],
      usages: ['server'],
      notBefore,
      notAfter,
    });
    const serviceAccount = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const adminToken = randomBytes(24).toString('hex');
    await Promise.all([
      writeSecret(dir, 'ca.crt', authority.certificatePem),
      writeSecret(dir, 'server.crt', serving.certificatePem),
      writeSecret(dir, 'server.key', serving.keyPem),
      writeSecret(
        dir,
        'sa.key',
        serviceAccount.privateKey.export({ type: 'sec1', format: 'pem' }).toString(),
      ),
      writeSecret(dir, 'sa.pub', serviceAccount.publicKey.export({ type: 'spki', format: 'pem' }).toString()),
      writeSecret(dir, 'tokens.csv', `${adminToken},admin,admin,"system:masters"\n`),
    ]);
    const [api = 0, etcd = 0, etcdPeer = 0] = await freePorts(3);
    const ports = { api, etcd, etcdPeer };
    const plane = new ControlPlane({ options: { ...options, dir }, programs, authority, adminToken, ports });
    await writeSecret(dir, 'admin.kubeconfig', plane.kubeconfigFor('admin', adminToken));
    try {
      await plane.#startAll();
    } catch (error) {
      await plane.stop();
      throw error;
    }
    return plane;
  }

  /** A kubeconfig for a bearer token, for example one of a service account. */
  kubeconfigFor(user: string, token: string): string {
    return JSON.stringify(
      {
        apiVersion: 'v1',
        kind: 'Config',
        clusters: [
          {
            name: 'control-plane',
            cluster: {
              server: this.url,
              'certificate-authority-data': Buffer.from(this.caPem).toString('base64'),
            },
          },
        ],
        users: [{ name: user, user: { token } }],
        contexts: [{ name: user, context: { cluster: 'control-plane', user, namespace: 'default' } }],
        'current-context': user,
      },
      undefined,
      2,
    );
  }

  /** Stops and starts kube-apiserver on the same port with the same data, as an upgrade or a crash does. */
  async restartApiServer(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.#stopProgram('kube-apiserver', signal);
    this.#startApiServer();
    await this.#apiServerReady();
  }

  /** Stops kube-apiserver alone; `restartApiServer` brings it back. */
  async stopApiServer(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.#stopProgram('kube-apiserver', signal);
  }

  /** Where etcd answers, for what no API server offers: compaction on demand. */
  get etcdUrl(): string {
    return `http://${HOST}:${this.#ports.etcd}`;
  }

  async stop(): Promise<void> {
    await this.#stopProgram('kube-controller-manager');
    await this.#stopProgram('kube-apiserver');
    await this.#stopProgram('etcd');
  }

  /** Stops and starts etcd on the same port with the same data; returns when the API server answers again. */
  async restartEtcd(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.#stopProgram('etcd', signal);
    this.#startEtcd();
    await this.#apiServerReady();
  }

  async #startAll(): Promise<void> {
    this.#startEtcd();
    this.#startApiServer();
    await this.#apiServerReady();
    if (this.#options.controllerManager !== false) {
      this.#spawn('kube-controller-manager', [
        `--kubeconfig=${this.kubeconfig}`,
        `--controllers=${CONTROLLERS}`,
        `--service-account-private-key-file=${path.join(this.dir, 'sa.key')}`,
        `--root-ca-file=${path.join(this.dir, 'ca.crt')}`,
        '--leader-elect=false',
        '--secure-port=0',
        '--use-service-account-credentials=false',
        '--kube-api-qps=100',
        '--kube-api-burst=200',
      ]);
      await this.#waitFor('kube-controller-manager', async () => {
        const account = await this.#get('/api/v1/namespaces/default/serviceaccounts/default');
        return account === 200;
      });
    }
  }

  #startEtcd(): void {
    const client = `http://${HOST}:${this.#ports.etcd}`;
    const peer = `http://${HOST}:${this.#ports.etcdPeer}`;
    this.#spawn('etcd', [
      '--name=test',
      `--data-dir=${path.join(this.dir, 'etcd')}`,
      `--listen-client-urls=${client}`,
      `--advertise-client-urls=${client}`,
      `--listen-peer-urls=${peer}`,
      `--initial-advertise-peer-urls=${peer}`,
      `--initial-cluster=test=${peer}`,
      // The data is thrown away with the directory: no reason to wait for the disk.
      '--unsafe-no-fsync',
      '--log-level=warn',
    ]);
  }

  #startApiServer(): void {
    const file = (name: string) => path.join(this.dir, name);
    this.#spawn('kube-apiserver', [
      `--etcd-servers=http://${HOST}:${this.#ports.etcd}`,
      `--bind-address=${HOST}`,
      `--advertise-address=${HOST}`,
      `--secure-port=${this.#ports.api}`,
      `--tls-cert-file=${file('server.crt')}`,
      `--tls-private-key-file=${file('server.key')}`,
      `--client-ca-file=${file('ca.crt')}`,
      `--token-auth-file=${file('tokens.csv')}`,
      `--service-account-issuer=${ISSUER}`,
      `--service-account-key-file=${file('sa.pub')}`,
      `--service-account-signing-key-file=${file('sa.key')}`,
      `--service-cluster-ip-range=${SERVICE_RANGE}`,
      '--authorization-mode=RBAC',
      '--endpoint-reconciler-type=none',
      '--allow-privileged=true',
      '--profiling=false',
      ...(this.#options.apiServerArguments ?? []),
    ]);
  }

  async #apiServerReady(): Promise<void> {
    await this.#waitFor('kube-apiserver', async () => (await this.#get('/readyz')) === 200);
    // RBAC's and the default namespace's bootstrap comes right after readyz.
    await this.#waitFor(
      'kube-apiserver',
      async () => (await this.#get('/api/v1/namespaces/default')) === 200,
    );
  }

  #get(target: string): Promise<number> {
    return new Promise((resolve) => {
      const call = request(
        new URL(target, this.url),
        {
          ca: this.#authority.certificatePem,
          headers: { authorization: `Bearer ${this.#adminToken}` },
          timeout: 2000,
          agent: false,
        },
        (response) => {
          response.resume();
          resolve(response.statusCode ?? 0);
        },
      );
      call.on('timeout', () => call.destroy());
      call.on('error', () => resolve(0));
      call.end();
    });
  }

  #spawn(program: Program, programArguments: string[]): void {
    const logFile = path.join(this.dir, `${program}.log`);
    const log = createWriteStream(logFile, { flags: 'a' });
    const child = spawn(this.#programs[program], programArguments, {
      cwd: this.dir,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stdout?.pipe(log, { end: false });
    child.stderr?.pipe(log, { end: false });
    // A test process that ends without stop() must not leave servers behind.
    const killWithParent = () => child.kill('SIGKILL');
    process.once('exit', killWithParent);
    const exited = new Promise<void>((resolve) => {
      child.on('error', () => resolve());
      child.on('close', () => {
        process.off('exit', killWithParent);
        log.end();
        resolve();
      });
    });
    this.#running.set(program, { child, program, logFile, exited });
  }

  async #stopProgram(program: Program, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const running = this.#running.get(program);
    if (running === undefined) return;
    this.#running.delete(program);
    running.child.kill(signal);
    const timer = setTimeout(() => running.child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await running.exited;
    clearTimeout(timer);
  }

  async #waitFor(program: Program, isReady: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + (this.#options.readyTimeoutMs ?? 120_000);
    for (;;) {
      if (await isReady()) return;
      const ended = [...this.#running.values()].find(
        (one) => one.child.exitCode !== null || one.child.pid === undefined,
      );
      if (ended !== undefined) throw await startError(ended, `ended with code ${ended.child.exitCode}`);
      if (performance.now() > deadline) {
        const running = this.#running.get(program);
        if (running !== undefined) throw await startError(running, 'did not become ready in time');
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

interface Ports {
  api: number;
  etcd: number;
  etcdPeer: number;
}

interface SetUp {
  options: ControlPlaneOptions;
  programs: Record<Program, string>;
  authority: KeyAndCertificate;
  adminToken: string;
  ports: Ports;
}

async function startError(running: RunningProgram, problem: string): Promise<ControlPlaneStartError> {
  const log = await readFile(running.logFile, 'utf8').catch(() => '');
  return new ControlPlaneStartError(running.program, problem, running.logFile, log.slice(-2000));
}

async function writeSecret(dir: string, name: string, content: string): Promise<void> {
  await writeFile(path.join(dir, name), content, { mode: 0o600 });
}
