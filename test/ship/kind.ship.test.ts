// hack/kind as far as a machine without a container engine can prove it: its scripts by shellcheck, its cluster by kind's own reader, its
// objects on a real API server, kind.sh's own run with the real kubectl and helm and stand-ins for the engine, the guest's frames through
// a real network namespace, and the networks' rates and counters by the kernel. Needs root.
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { KubernetesObject, V1Deployment } from '@kubernetes/client-node';
import { load } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensureTool, repositoryRoot } from '../../hack/ship/tools.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import {
  countersCommand,
  nasBytes,
  nasCommands,
  removeCommand,
  workerBytes,
  workerCommands,
} from '../kind/node-traffic.ts';
import { buildGoProgram } from '../lab/go-programs.ts';
import { encodeCommand, FrameSplitter } from '../lab/guest-beacon.ts';
import { ensureRoot } from '../lab/roots.ts';
import { ShipCluster } from './cluster.ts';

const run = promisify(execFile);
const UP_TIMEOUT_MS = 300_000;

let scratch: string;

beforeAll(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'nasmig-kind-'));
});

afterAll(async () => {
  await rm(scratch, { recursive: true, force: true });
});

describe('the scripts', () => {
  it('have nothing that shellcheck knows to be wrong', async () => {
    const { stdout } = await run('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.sh'], {
      cwd: repositoryRoot,
    });
    const scripts = stdout.split('\n').filter(Boolean);
    expect(scripts).toContain('hack/kind/kind.sh');
    expect(scripts).toContain('hack/setup.sh');
    const { stdout: said } = await run(
      'shellcheck',
      ['--external-sources', '--source-path=SCRIPTDIR', ...scripts],
      { cwd: repositoryRoot },
    );
    expect(said).toBe('');
  });
});

describe("kind's own reader", () => {
  /** What kind says of a configuration with an engine that refuses everything: what is wrong with the file comes first. */
  async function createWith(config: string): Promise<string> {
    const bin = path.join(scratch, 'refusing');
    await mkdir(bin, { recursive: true });
    await writeFile(path.join(bin, 'docker'), '#!/bin/sh\necho engine refuses >&2\nexit 1\n', {
      mode: 0o755,
    });
    const kind = await ensureTool('kind');
    const { status, stderr } = spawnSync(
      kind,
      [
        'create',
        'cluster',
        '--name',
        'proof',
        '--config',
        config,
        '--kubeconfig',
        path.join(scratch, 'none'),
      ],
      { encoding: 'utf8', env: { PATH: `${bin}:/usr/bin:/bin`, HOME: scratch } },
    );
    expect(status).not.toBe(0);
    return stderr;
  }

  it('takes the cluster, and gets as far as the engine', async () => {
    const said = await createWith(path.join(repositoryRoot, 'hack/kind/cluster.yaml'));
    expect(said).toContain('engine refuses');
    expect(said).not.toMatch(/config/);
  });

  it('would refuse a field that it does not know', async () => {
    const file = path.join(scratch, 'wrong.yaml');
    const text = await readFile(path.join(repositoryRoot, 'hack/kind/cluster.yaml'), 'utf8');
    await writeFile(file, text.replace('- role: worker', '- rolle: worker'));
    expect(await createWith(file)).toContain('unable to decode config');
  });

  it('is the release whose node image is pinned', async () => {
    const pins = await readFile(path.join(repositoryRoot, 'hack/kind/versions.env'), 'utf8');
    const version = /^KIND_VERSION=(\S+)$/m.exec(pins)?.[1];
    const { stdout } = await run(await ensureTool('kind'), ['version', '-q']);
    expect(`v${stdout.trim()}`).toBe(version);
    // The image that this release of kind would take by itself: others may not start with it.
    const { stdout: binary } = await run('grep', [
      '-aoE',
      'kindest/node:v[0-9.]+@sha256:[0-9a-f]{64}',
      await ensureTool('kind'),
    ]);
    expect(binary.split('\n')).toContain(/^KIND_NODE_IMAGE=(\S+)$/m.exec(pins)?.[1]);
  });
});

describe('kind.sh up on a real API server', () => {
  let cluster: ShipCluster;
  let output: string;

  /** The real kubectl and helm, but for what takes nodes or the internet; and an engine and a kind that do nothing. */
  async function standIns(): Promise<string> {
    const bin = path.join(scratch, 'bin');
    await mkdir(bin, { recursive: true });
    const script = async (name: string, body: string) => {
      await writeFile(path.join(bin, name), `#!/bin/bash\nset -euo pipefail\n${body}\n`);
      await chmod(path.join(bin, name), 0o755);
    };
    for (const name of ['docker', 'kind', 'node']) await script(name, 'exit 0');
    await script(
      'kubectl',
      `case "$*" in
  *kubevirt-operator.yaml*|*"rollout status"*|*" wait "*|wait*|*" exec "*) exit 0 ;;
esac
exec ${cluster.plane.kubectl} --kubeconfig ${cluster.plane.kubeconfig} "$@"`,
    );
    await script(
      'helm',
      `case "$*" in *csi-driver-nfs*) exit 0 ;; esac
words=()
for word in "$@"; do [ "$word" = --wait ] || words+=("$word"); done
KUBECONFIG=${cluster.plane.kubeconfig} exec ${await ensureTool('helm')} "\${words[@]}"`,
    );
    return bin;
  }

  beforeAll(async () => {
    cluster = await ShipCluster.start();
    // The namespace comes with KubeVirt's operator, which is not installed.
    await cluster.api.create(resources.namespaces, {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: 'kubevirt' },
    });
    // The parts of the tree that kind.sh reads, elsewhere: it keeps its state below itself.
    const tree = path.join(scratch, 'tree');
    await mkdir(tree);
    for (const part of ['hack', 'charts', 'examples'])
      await symlink(path.join(repositoryRoot, part), path.join(tree, part));
    const bin = await standIns();
    const { stdout } = await run('bash', [path.join(tree, 'hack/kind/kind.sh'), '--no-check', 'up'], {
      timeout: UP_TIMEOUT_MS,
      maxBuffer: 16 * 1024 * 1024,
      env: { PATH: `${bin}:/usr/bin:/bin`, HOME: scratch },
    });
    output = stdout;
  }, UP_TIMEOUT_MS);

  afterAll(async () => {
    await cluster?.stop();
  });

  it('makes every object, and the API server takes each', async () => {
    expect(output).toContain('kind: ready.');
    const there = await cluster.kubectl([
      ...['get', '--all-namespaces', '--output', 'name'],
      'deployments,services,storageclasses,kubevirts,virtualmachineinstances,persistentvolumeclaims,nasmigrationpolicies',
    ]);
    for (const name of [
      'deployment.apps/nas',
      'service/nas',
      'storageclass.storage.k8s.io/nas',
      'kubevirt.kubevirt.io/kubevirt',
      'deployment.apps/nas-aware-migration',
      'nasmigrationpolicy.nasmigration.io/accelerated',
      'persistentvolumeclaim/db-rootdisk',
      'virtualmachineinstance.kubevirt.io/db',
    ])
      expect(there.split('\n')).toContain(name);
  });

  it('makes VM and claim what the operator can accelerate', async () => {
    const claim = await cluster.get<
      KubernetesObject & { spec: { accessModes: string[]; volumeMode: string } }
    >(resources.persistentVolumeClaims, 'shop', 'db-rootdisk');
    expect(claim?.spec).toMatchObject({ accessModes: ['ReadWriteMany'], volumeMode: 'Filesystem' });
    const vmi = await cluster.get(resources.virtualMachineInstances, 'shop', 'db');
    expect(vmi?.metadata?.labels).toEqual({ 'nasmigration.io/accelerate': 'true' });
  });

  it('runs the operator from the image that is loaded into the nodes', async () => {
    const deployment = JSON.parse(
      await cluster.kubectl([
        ...[
          '--namespace',
          'nas-aware-migration',
          'get',
          'deployment',
          'nas-aware-migration',
          '--output',
          'json',
        ],
      ]),
    ) as V1Deployment;
    expect(deployment.spec?.template.spec?.containers[0]?.image).toBe('nas-aware-migration:kind');
  });
});

describe('networks of the nodes', () => {
  const names = ['a', 'b'].map((side) => `nmk${process.pid}${side}`);
  const [left = '', right = ''] = names;
  const inside = (name: string, argv: readonly string[]) => run('ip', ['netns', 'exec', name, ...argv]);

  beforeAll(async () => {
    for (const name of names) await run('ip', ['netns', 'add', name]);
    await run('ip', [
      '-n',
      left,
      'link',
      'add',
      'eth0',
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      right,
    ]);
    for (const [index, name] of names.entries()) {
      await run('ip', ['-n', name, 'address', 'add', `10.99.0.${index + 1}/24`, 'dev', 'eth0']);
      await run('ip', ['-n', name, 'link', 'set', 'eth0', 'up']);
      await run('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    }
  });

  afterAll(async () => {
    for (const name of names) await run('ip', ['netns', 'delete', name]).catch(() => undefined);
  });

  /** Sends a TCP payload of `bytes` from one side to a port of the other. */
  async function send(bytes: number, port: number): Promise<void> {
    const server = spawn('ip', [
      ...['netns', 'exec', right, process.execPath, '-e'],
      `const s=require('net').createServer(c=>c.resume().on('end',()=>{c.end();s.close()}));s.listen(${port},()=>console.log('up'))`,
    ]);
    await once(server.stdout, 'data');
    const ended = once(server, 'exit');
    await inside(left, [
      process.execPath,
      '-e',
      `require('net').connect(${port},'10.99.0.2').end(Buffer.alloc(${bytes}))`,
    ]);
    await ended;
  }

  it('are counted by what they are for', async () => {
    for (const command of workerCommands({ interface: 'eth0', peerHandler: '10.99.0.77', linkMbit: 0 }))
      await inside(left, command);
    await send(1_000_000, 2049);
    const { stdout } = await inside(left, countersCommand('eth0'));
    const { migration, toNas } = workerBytes(stdout);
    expect(toNas).toBeGreaterThan(1_000_000);
    expect(toNas).toBeLessThan(1_200_000);
    expect(migration).toBe(0);
  });

  it('are shaped where a rate is asked for', async () => {
    await inside(left, removeCommand('eth0'));
    for (const command of workerCommands({ interface: 'eth0', peerHandler: '10.99.0.2', linkMbit: 40 }))
      await inside(left, command);
    await send(500_000, 5000);
    const { stdout } = await inside(left, countersCommand('eth0'));
    expect(workerBytes(stdout).migration).toBeGreaterThan(500_000);
    const { stdout: text } = await inside(left, ['tc', 'class', 'show', 'dev', 'eth0']);
    expect(text).toMatch(/class htb 1:2 .*rate 40Mbit/);
  });

  it('tell what each worker reads from the NAS', async () => {
    for (const command of nasCommands({ interface: 'eth0', workers: ['10.99.0.1', '10.99.0.9'], nasMbit: 0 }))
      await inside(right, command);
    await send(300_000, 2049);
    const { stdout } = await inside(right, countersCommand('eth0'));
    const [first = 0, second] = nasBytes(stdout, 2);
    // Acknowledgements of what it received.
    expect(first).toBeGreaterThan(0);
    expect(second).toBe(0);
  });

  it("carry the guest's frames in both directions", async () => {
    const relay = await buildGoProgram('frame-relay');
    const start = (name: string) => spawn('ip', ['netns', 'exec', name, relay, 'eth']);
    const relays = [start(left), start(right)] as const;
    try {
      await Promise.all(relays.map(({ stderr }) => once(stderr, 'data')));
      for (const [from, to] of [relays, [...relays].reverse()] as const) {
        const frame = encodeCommand(7, { kind: 'verifyAll' });
        const heard = new Promise<Buffer>((resolve) => {
          const splitter = new FrameSplitter((bytes) => resolve(Buffer.from(bytes)));
          to.stdout.on('data', (chunk: Buffer) => splitter.push(chunk));
        });
        from.stdin.write(frame);
        expect((await heard).equals(frame.subarray(4))).toBe(true);
      }
    } finally {
      for (const relay of relays) relay.stdin.end();
    }
    await Promise.all(relays.map(async (one) => one.exitCode ?? (await once(one, 'exit'))));
    expect(relays.map(({ exitCode }) => exitCode)).toEqual([0, 0]);
  });
});

describe('the NAS', () => {
  const name = `nmk${process.pid}n`;
  /** What a container has by default, and the two that nas.yaml adds. */
  const capabilities = [
    ...[
      'chown',
      'dac_override',
      'fowner',
      'fsetid',
      'kill',
      'setgid',
      'setuid',
      'setpcap',
      'net_bind_service',
    ],
    ...['sys_chroot', 'mknod', 'audit_write', 'setfcap', 'dac_read_search', 'sys_resource'],
  ];
  /** Debian's nfs-ganesha from the lab's root, laid over with what the Dockerfile puts into it, exporting a directory of this machine. */
  const script = `set -e
mount -t tmpfs none "$1"; mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay none -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"; mkdir -p export etc/ganesha run var/run/ganesha
cp "$3" etc/ganesha/nas.conf; mount --bind "$4" export; mount -t proc none proc; mount --bind /dev dev
exec setpriv --bounding-set -all,${capabilities.map((one) => `+${one}`).join(',')} chroot . "\${@:5}"`;

  /** An NFS call that does nothing, as ONC RPC over TCP has it (RFC 5531): its reply's status, 0 for accepted. */
  function nullCall(): string {
    const call = Buffer.alloc(4 + 40);
    // Last fragment, its length; then xid, call, RPC version 2, program 100003 (NFS), version 4, procedure 0, no credentials.
    call.writeUInt32BE(0x80000000 + 40, 0);
    for (const [index, word] of [1, 0, 2, 100_003, 4, 0, 0, 0, 0, 0].entries())
      call.writeUInt32BE(word, 4 + index * 4);
    return `const c=require('net').connect(2049,'127.0.0.1',()=>c.write(Buffer.from('${call.toString('hex')}','hex')));
c.on('data',(d)=>{console.log(d.readUInt32BE(8),d.readUInt32BE(12),d.readUInt32BE(24));c.destroy()})`;
  }

  it('answers NFSv4 with its configuration and the capabilities that its manifest gives it', async () => {
    const manifest = await readFile(path.join(repositoryRoot, 'hack/kind/nas.yaml'), 'utf8');
    expect(manifest).toContain('add: [DAC_READ_SEARCH, SYS_RESOURCE]');
    const dockerfile = await readFile(path.join(repositoryRoot, 'hack/kind/nas/Dockerfile'), 'utf8');
    const entrypoint = JSON.parse(/^ENTRYPOINT (\[.*\])$/m.exec(dockerfile)?.[1] ?? '[]') as string[];
    const root = await ensureRoot('trixie');
    const place = path.join(scratch, 'nas');
    const exported = await mkdtemp(path.join(repositoryRoot, '.cache', 'nas-'));
    await mkdir(place);
    await run('ip', ['netns', 'add', name]);
    await run('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    const server = spawn('ip', [
      ...[
        'netns',
        'exec',
        name,
        'unshare',
        '--mount',
        '--pid',
        '--fork',
        '--kill-child',
        'bash',
        '-c',
        script,
        'bash',
      ],
      ...[place, root, path.join(repositoryRoot, 'hack/kind/nas/ganesha.conf'), exported, ...entrypoint],
    ]);
    let said = '';
    for (const stream of [server.stdout, server.stderr])
      stream.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
    const ended = once(server, 'exit');
    try {
      await expect.poll(() => said, { timeout: 30_000 }).toContain('NFS SERVER INITIALIZED');
      const { stdout } = await run('ip', ['netns', 'exec', name, process.execPath, '-e', nullCall()], {
        timeout: 10_000,
      });
      // A reply, accepted, successful.
      expect(stdout.trim()).toBe('1 0 0');
    } finally {
      server.kill('SIGKILL');
      await ended;
      await run('ip', ['netns', 'delete', name]);
      await rm(exported, { recursive: true });
    }
  });
});

describe('the CI workflows', () => {
  const folder = path.join(repositoryRoot, '.github/workflows');
  interface Workflow {
    on: Record<string, unknown>;
    jobs: Record<
      string,
      { steps: { run?: string; if?: string }[]; strategy?: { matrix: { target: string[] } } }
    >;
  }
  /** What is run whether or not something has failed before is not among `commands`. */
  async function workflow(
    name: string,
  ): Promise<{ text: string; jobs: Workflow['jobs']; commands: string[] }> {
    const text = await readFile(path.join(folder, name), 'utf8');
    const { on, jobs } = load(text) as Workflow;
    expect(Object.keys(on)).toContain('pull_request');
    expect(text).not.toContain('continue-on-error');
    const steps = Object.values(jobs).flatMap((job) => job.steps);
    return {
      text,
      jobs,
      commands: steps.flatMap((step) => (step.if === undefined ? (step.run ?? []) : [])),
    };
  }

  it('have nothing that actionlint, and shellcheck in it, know to be wrong', async () => {
    const actionlint = await ensureTool('actionlint');
    const files = (await readdir(folder)).map((name) => path.join(folder, name));
    expect(files.length).toBeGreaterThan(1);
    expect((await run(actionlint, files)).stdout).toBe('');
    const wrong = path.join(scratch, 'wrong.yml');
    await writeFile(wrong, (await workflow('kind.yml')).text.replace('runs-on:', 'run-on:'));
    await expect(run(actionlint, [wrong])).rejects.toMatchObject({
      stdout: expect.stringContaining('run-on'),
    });
  });

  it('run kind.sh with the versions of versions.env', async () => {
    const { commands } = await workflow('kind.yml');
    const verbs = commands.flatMap((command) => /hack\/kind\/kind\.sh (.*)$/.exec(command)?.[1] ?? []);
    expect(verbs).toEqual(['up', 'test']);
    expect(commands.join('\n')).toContain('hack/kind/versions.env');
  });

  it('run the targets of the Makefile', async () => {
    const { jobs, commands } = await workflow('test.yml');
    expect(commands.at(-1)).toMatch(/^make \$\{\{ matrix\.target \}\}$/);
    const makefile = await readFile(path.join(repositoryRoot, 'Makefile'), 'utf8');
    const targets = jobs['test']?.strategy?.matrix.target ?? [];
    expect(targets).toContain('test');
    for (const target of targets) expect(makefile).toContain(`\n${target}: `);
  });
});
