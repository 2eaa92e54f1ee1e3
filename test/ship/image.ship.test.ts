// What the Dockerfile makes, assembled here and run by a real OCI runtime: both programs as users that are not root, with a
// read-only root and no capabilities, the operator with the chart's environment and account, the sidecar exactly as the operator's
// webhook injected it, connected to that operator.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chown, lstat, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { KubernetesObject, V1ConfigMap, V1Container, V1Pod } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { imageConfiguration } from '../../hack/ship/dockerfile.ts';
import { NODE_IN_IMAGE } from '../../hack/ship/image-rootfs.ts';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { boundToken } from '../control-plane/fake-sidecar.ts';
import { KubevirtActor } from '../control-plane/kubevirt-actor.ts';
import { copyBuildContext } from './build-context.ts';
import { ShipCluster } from './cluster.ts';
import { NAMESPACE, objectOf } from './helm.ts';
import { OciContainer } from './oci-container.ts';
import {
  accountToken,
  type OperatorPorts,
  operatorContainer,
  operatorPorts,
  probe,
  sample,
} from './operator-process.ts';
import { record } from './report.ts';

const QEMU = 107;
const NONROOT = 65532;
/** Of what is not Node itself. */
const MAX_BYTES = 200 * 1024 * 1024;
const STOP_MS = 1000;
const ASSEMBLE_TIMEOUT_MS = 60_000;
const ACCOUNT_DIRECTORY = '/var/run/secrets/kubernetes.io/serviceaccount';

const run = promisify(execFile);

const context = path.join(repositoryRoot, 'build', 'image-context');
const rootfs = path.join(repositoryRoot, 'build', 'image-rootfs');
const { entrypoint, cmd, env } = imageConfiguration();
const entryPoint = entrypoint[0] ?? '';

beforeAll(async () => {
  await copyBuildContext(context);
  await assembleRootfs(rootfs);
}, 120_000);

/** The Dockerfile's command, in what `docker build` is given. */
async function assembleRootfs(destination: string): Promise<void> {
  await run(process.execPath, ['hack/ship/image-rootfs.ts', destination], {
    cwd: context,
    timeout: ASSEMBLE_TIMEOUT_MS,
  });
}

async function files(directory = rootfs): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.join(entry.parentPath, entry.name));
}

async function digestOf(directory: string): Promise<string> {
  const hash = createHash('sha256');
  for (const file of (await files(directory)).sort()) {
    const { mode, mtimeMs } = await lstat(file);
    hash.update(`${path.relative(directory, file)} ${mode} ${mtimeMs}\n`).update(await readFile(file));
  }
  return hash.digest('hex');
}

describe('file system', () => {
  it('is Node, its libraries, two programs and papers', async () => {
    const names = (await files()).map((file) => path.relative(rootfs, file));
    const top = [...new Set(names.map((name) => name.split('/').slice(0, 2).join('/')))].sort();
    expect(top.filter((name) => !name.startsWith('lib'))).toEqual([
      'app/LICENSE',
      'app/THIRD-PARTY-LICENSES',
      'app/operator',
      'app/sbom.cdx.json',
      'app/sidecar',
      'etc/group',
      'etc/nsswitch.conf',
      'etc/passwd',
      'usr/bin',
    ]);
    expect(names.filter((name) => /\.ts$|\.test\.|node_modules/.test(name))).toEqual([]);
    expect(entryPoint).toBe(`/${NODE_IN_IMAGE}`);
    expect(names).toContain(path.join('app', cmd.at(-1) ?? ''));
  });

  it('is small, and nobody but root may write it', async () => {
    let bytes = 0;
    for (const file of await files()) {
      const { size, mode } = await lstat(file);
      if (path.relative(rootfs, file) !== NODE_IN_IMAGE) bytes += size;
      expect(mode & 0o7022, file).toBe(0);
      expect(mode & 0o444, file).toBe(0o444);
    }
    expect(bytes).toBeLessThan(MAX_BYTES);
    await record('image', { sizeMB: Number((bytes / 1e6).toFixed(1)) });
  });

  it('comes out the same twice', async () => {
    const again = await mkdtemp(path.join(tmpdir(), 'nasmig-rootfs-'));
    try {
      await assembleRootfs(again);
      expect(await digestOf(again)).toBe(await digestOf(rootfs));
    } finally {
      await rm(again, { recursive: true, force: true });
    }
  });

  it('names what is in it, with licences', async () => {
    const sbom = JSON.parse(await readFile(path.join(rootfs, 'app', 'sbom.cdx.json'), 'utf8')) as {
      components: { name: string; licenses?: unknown }[];
    };
    const names = sbom.components.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(['node', 'pino', 'ws', 'zod', '@kubernetes/client-node']));
    expect(names).not.toContain('vitest');
    const texts = await readFile(path.join(rootfs, 'app', 'THIRD-PARTY-LICENSES'), 'utf8');
    for (const name of names) expect(texts).toContain(`== ${name} `);
  });
});

describe.each([
  ['the operator', 'operator/main.js', 'NASMIG_SETTINGS'],
  ['the sidecar', 'sidecar/main.js', 'NASMIG_AGENT_CONFIG'],
])('%s without settings', (_what, program, code) => {
  it.each([QEMU, NONROOT])('says as %i what is missing, and ends', async (user) => {
    const container = await OciContainer.start({
      rootfs,
      user,
      entryPoint: entryPoint,
      args: [program],
      environment: {},
    });
    expect(await container.ended()).toBeGreaterThan(0);
    expect(container.log).toContain(code);
  });
});

describe('both programs together', () => {
  let cluster: ShipCluster;
  let kubevirt: KubevirtActor;
  let dir: string;
  let ports: OperatorPorts;
  let operator: OciContainer | undefined;
  let sidecar: OciContainer | undefined;

  beforeAll(async () => {
    cluster = await ShipCluster.start();
    kubevirt = await KubevirtActor.start(cluster.plane, cluster.api);
    dir = await mkdtemp(path.join(tmpdir(), 'nasmig-image-'));
    ports = await operatorPorts();
    await cluster.helm.install({ defaultPolicy: { enabled: true } });
  });

  afterAll(async () => {
    await sidecar?.stop();
    await operator?.stop();
    kubevirt?.close();
    await cluster?.stop();
    await rm(dir, { recursive: true, force: true });
  });

  /** A directory for a mount. */
  async function directory(
    name: string,
    contents: Record<string, string | Buffer>,
    owner?: number,
  ): Promise<string> {
    const made = path.join(dir, name);
    await mkdir(made, { recursive: true });
    for (const [file, content] of Object.entries(contents)) {
      await writeFile(path.join(made, file), content);
      if (owner !== undefined) await chown(path.join(made, file), owner, owner);
    }
    if (owner !== undefined) await chown(made, owner, owner);
    return made;
  }

  const metric = async (name: string) => sample((await probe(ports.metrics, '/metrics')).text, name);

  /** What kernel and runtime made of it. */
  async function statusOf(container: OciContainer): Promise<Record<string, string>> {
    const text = await readFile(`/proc/${await container.processId()}/status`, 'utf8');
    return Object.fromEntries(text.split('\n').map((line) => line.split(/:\s+/, 2) as [string, string]));
  }

  const confined = (user: number) => ({
    Uid: `${user}\t${user}\t${user}\t${user}`,
    CapEff: '0000000000000000',
    CapBnd: '0000000000000000',
    NoNewPrivs: '1',
  });

  it('the operator starts with what kubelet would give it, and leads', async () => {
    const { account, environment, args } = await operatorContainer(cluster, 'operator-a', ports);
    const api = new URL(cluster.plane.url);
    operator = await OciContainer.start({
      rootfs,
      user: NONROOT,
      entryPoint: entryPoint,
      args,
      environment: {
        ...environment,
        KUBERNETES_SERVICE_HOST: api.hostname,
        KUBERNETES_SERVICE_PORT: api.port,
      },
      mounts: [
        {
          source: await directory('account', {
            token: await accountToken(cluster, account),
            'ca.crt': cluster.plane.caPem,
            namespace: NAMESPACE,
          }),
          destination: ACCOUNT_DIRECTORY,
        },
      ],
    });
    const container = operator;
    await cluster.eventually(async () => {
      expect((await probe(ports.metrics, '/readyz')).status, container.log).toBe(200);
      expect(await metric('nasmig_leader')).toBe(1);
    });
    expect(await statusOf(container)).toMatchObject(confined(NONROOT));
  });

  it('the chart’s own test passes with it, and fails without it', async () => {
    const pod = objectOf(
      await cluster.helm.template(),
      'Pod',
      'nas-aware-migration-test',
    ) as unknown as V1Pod;
    const [container] = pod.spec?.containers ?? [];
    const tested = async (port: number, host: string) => {
      const test = await OciContainer.start({
        rootfs,
        user: NONROOT,
        entryPoint: entryPoint,
        args: container?.args ?? [],
        environment: { HOST: host, PORT: String(port) },
      });
      return { code: await test.ended(), log: test.log };
    };
    expect(container?.env?.map(({ name }) => name)).toEqual(['HOST', 'PORT']);
    expect(await tested(ports.metrics, '127.0.0.1')).toEqual({ code: 0, log: '127.0.0.1: 200 ok' });
    expect((await tested(1, '127.0.0.1')).code).toBe(1);
    // Of another family; a pod that is not ready answers 503.
    const answers = createServer((_request, response) => response.writeHead(503).end('not yet'));
    await new Promise<void>((resolve) => answers.listen(0, '::1', resolve));
    try {
      const { port } = answers.address() as AddressInfo;
      expect(await tested(port, '::1')).toEqual({ code: 1, log: '::1: 503 not yet' });
    } finally {
      answers.close();
    }
  });

  it('the sidecar starts as the webhook injected it, and connects', async () => {
    await kubevirt.namespace('shop');
    const vm = await kubevirt.vm('shop', 'db', 'node-1');
    const injected = vm.pod.spec?.initContainers?.find(({ restartPolicy }) => restartPolicy === 'Always');
    if (injected === undefined) throw new Error('no sidecar was injected');
    expect(injected.args ?? injected.command).toBeUndefined();
    expect(injected.securityContext).toMatchObject({ runAsUser: QEMU, readOnlyRootFilesystem: true });
    const ca = await cluster.eventually(async () => {
      const map = await cluster.get<V1ConfigMap>(resources.configMaps, 'shop', 'nas-aware-migration-ca');
      return map?.data?.['ca.crt'] ?? expect.fail('the CA is not published');
    });
    sidecar = await OciContainer.start({
      rootfs,
      user: injected.securityContext?.runAsUser ?? 0,
      entryPoint: entryPoint,
      args: [...cmd],
      environment: { ...env, ...environmentOf(injected, vm.pod) },
      mounts: await mountsOf(injected, { token: await boundToken(cluster.api, vm.pod), 'ca.crt': ca }),
    });
    const container = sidecar;
    await cluster.eventually(async () =>
      expect(await metric('nasmig_hub_connections'), container.log).toBe(1),
    );
    expect(await statusOf(container)).toMatchObject(confined(QEMU));
    await record('image', { runsReadOnlyAs107: true });
  });

  it('they take little memory while nothing happens', async () => {
    const residentKib = async (container: OciContainer | undefined) =>
      container === undefined ? 0 : Number.parseInt((await statusOf(container))['VmRSS'] ?? '', 10);
    const used = { operator: await residentKib(operator), sidecar: await residentKib(sidecar) };
    // The chart asks for 128 MiB for the operator; a sidecar is promised to idle below 80 MiB.
    expect(used.operator).toBeLessThan(160 * 1024);
    expect(used.sidecar).toBeLessThan(80 * 1024);
    await record('image', { idleOperatorKiB: used.operator, idleSidecarKiB: used.sidecar });
  });

  it('the sidecar ends within a second, the operator gives its lease back', async () => {
    const ended = await sidecar?.stop();
    expect(ended?.code, sidecar?.log).toBe(0);
    expect(ended?.elapsedMs).toBeLessThan(STOP_MS);
    expect((await operator?.stop())?.code, operator?.log).toBe(0);
    const lease = await cluster.get<KubernetesObject & { spec?: { holderIdentity?: string } }>(
      resources.leases,
      NAMESPACE,
      'nas-aware-migration',
    );
    expect(lease?.spec?.holderIdentity ?? '').toBe('');
  });

  function environmentOf(container: V1Container, pod: V1Pod): Record<string, string> {
    const { namespace = '', name = '', uid = '' } = pod.metadata ?? {};
    const fields: Record<string, string> = {
      'metadata.namespace': namespace,
      'metadata.name': name,
      'metadata.uid': uid,
    };
    return Object.fromEntries(
      (container.env ?? []).map((one) => [
        one.name,
        one.value ?? fields[one.valueFrom?.fieldRef?.fieldPath ?? ''] ?? '',
      ]),
    );
  }

  /** Each volume of the container as a directory, with what kubelet would put there. */
  async function mountsOf(container: V1Container, credentials: Record<string, string>) {
    return Promise.all(
      (container.volumeMounts ?? []).map(async ({ name, mountPath, readOnly }) => {
        const contents = name.includes('credentials')
          ? credentials
          : readOnly === true
            ? { 'disk.img': Buffer.alloc(1024 * 1024, 7) }
            : {};
        return {
          source: await directory(name, contents, QEMU),
          destination: mountPath,
          writable: readOnly !== true,
        };
      }),
    );
  }
});
