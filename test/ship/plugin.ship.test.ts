// The kubectl plugin against a real API server, through real kubectl: before KubeVirt and the chart are there, with the chart
// installed and the operator running as it installs it, and as people with fewer rights. Migrations are the operator's own,
// with KubeVirt and sidecars played.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import { load } from 'js-yaml';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { ensureTool, repositoryRoot } from '../../hack/ship/tools.ts';
import { contentTypes } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';

import { archivePlugin } from '../../plugin/build.ts';
import { exitCodes } from '../../plugin/exit-codes.ts';
import { verbs } from '../../plugin/verbs.ts';
import { KubevirtActor, type Vm } from '../control-plane/kubevirt-actor.ts';
import { ShipCluster } from './cluster.ts';
import { shellBlocks } from './docs-blocks.ts';
import { NAMESPACE } from './helm.ts';
import { OperatorProcess, operatorPorts } from './operator-process.ts';
import { PlayedMigrations } from './played-migrations.ts';
import { type Outcome, PluginRunner, type RunOptions, recordPlugin } from './plugin-runner.ts';

const SHOP = 'shop';
const code = (exit: keyof typeof exitCodes) => exitCodes[exit].code;

let cluster: ShipCluster;
let kubevirt: KubevirtActor;
let runner: PluginRunner;
let operator: OperatorProcess | undefined;
let migrations: PlayedMigrations;
const usedVerbs = new Set<string>();
let passed = 0;

// Every case starts the built program many times, on a machine that may do other things.
vi.setConfig({ testTimeout: 240_000 });

beforeAll(async () => {
  cluster = await ShipCluster.start();
  runner = await PluginRunner.start(cluster.plane.kubectl, cluster.plane.kubeconfig);
  kubevirt = await KubevirtActor.start(cluster.plane, cluster.api);
  migrations = new PlayedMigrations(cluster, kubevirt, running);
  await kubevirt.namespace(SHOP);
});

afterEach((context) => {
  if (context.task.result?.state === 'pass') passed += 1;
});

afterAll(async () => {
  await recordPlugin('cluster', usedVerbs.size, passed);
  await migrations?.stop();
  await operator?.stop();
  kubevirt?.close();
  await runner?.close();
  await cluster?.stop();
});

function running(): OperatorProcess {
  if (operator === undefined) throw new Error('the operator was not started');
  return operator;
}

function nasmig(words: readonly string[], options?: RunOptions): Promise<Outcome> {
  if (words[0] !== undefined && verbs.some(({ name }) => name === words[0])) usedVerbs.add(words[0]);
  return runner.nasmig(words, options);
}

/** Ends well; its standard output. */
async function well(words: readonly string[], options?: RunOptions): Promise<string> {
  const outcome = await nasmig(words, options);
  expect(outcome, `${words.join(' ')}\n${outcome.stderr}`).toMatchObject({ code: 0 });
  return outcome.stdout;
}

/** Ends with this exit code; its standard error. Nothing on standard output: a script reads that. */
async function badly(
  exit: keyof typeof exitCodes,
  words: readonly string[],
  options?: RunOptions,
): Promise<string> {
  const outcome = await nasmig(words, options);
  expect(outcome.code, `${words.join(' ')}\n${outcome.stdout}${outcome.stderr}`).toBe(code(exit));
  expect(outcome.stdout).toBe('');
  return outcome.stderr;
}

const kubectlName = 'nasawaremigration.nasmigration.io';
const migrationObject = (name: string, spec: object = {}, labels: Record<string, string> = {}) =>
  cluster.api.create(resources.nasAwareMigrations, {
    apiVersion: 'nasmigration.io/v1alpha1',
    kind: 'NasAwareMigration',
    metadata: { namespace: SHOP, name, labels },
    spec: { vmiName: 'db', ...spec },
  } as KubernetesObject);

async function statusOf(name: string, status: object): Promise<void> {
  await cluster.api.mergePatch(resources.nasAwareMigrations, SHOP, name, { status }, 'status');
}

const saving = (savedPercent: number) => ({
  linkBytes: 100_000_000,
  nasBytes: 700_000_000,
  savedBytes: savedPercent * 10_000_000,
  savedPercent,
  pages: { reference: 170_000, literalRaw: 1000, literalCompressed: 29_000, zero: 40_000 },
  hitsCountedTimes: 8,
});

const finished = (attempt: string, savedPercent: number, more: object = {}) => ({
  phase: 'Succeeded',
  completionTime: new Date().toISOString(),
  conditions: [
    {
      type: 'Accelerated',
      status: attempt === 'Accelerated' ? 'True' : 'False',
      reason: attempt === 'Accelerated' ? 'Framed' : 'Observing',
      message: 'pages came from the NAS',
      lastTransitionTime: new Date().toISOString(),
    },
  ],
  result: {
    accelerated: attempt === 'Accelerated',
    attempt,
    qemuBytes: 1_000_000_000,
    linkBytes: 100_000_000,
    nasBytes: 700_000_000,
    ...(attempt === 'Observed' ? { estimate: saving(savedPercent) } : saving(savedPercent)),
    pages: { reference: 170_000, literalRaw: 1000, literalCompressed: 29_000, zero: 40_000 },
    resends: 2,
    durationMs: 14_900,
    downtimeMs: 111,
    ...more,
  },
});

describe('without a cluster to speak to', () => {
  it('says that nobody answers, and how long it waited', async () => {
    expect(await badly('unreachable', ['list', '--server', 'https://127.0.0.1:9'])).toMatch(
      /no answer from the API server https:\/\/127\.0\.0\.1:9: connection refused\nCheck that the server is up/,
    );
    // Takes connections and never answers.
    const silent = createServer(() => {});
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as { port: number };
    const stderr = await badly('unreachable', [
      'list',
      '--server',
      `http://127.0.0.1:${port}`,
      '--request-timeout',
      '1s',
    ]);
    expect(stderr).toContain('it did not answer in time');
    silent.close();
  });

  it('does not trust a certificate of an unknown CA, unless told so', async () => {
    const foreign = ['list', '--server', cluster.plane.url, '--token', 'x'];
    const stderr = await badly('unreachable', foreign, { environment: { KUBECONFIG: '/dev/null' } });
    expect(stderr).toContain('--certificate-authority');
    const unsafe = await badly('forbidden', [...foreign, '--insecure-skip-tls-verify'], {
      environment: { KUBECONFIG: '/dev/null' },
    });
    expect(unsafe).toContain('does not accept your credentials');
    const ca = path.join(runner.home, 'ca.crt');
    await writeFile(ca, cluster.plane.caPem);
    await badly('forbidden', [...foreign, '--certificate-authority', ca], {
      environment: { KUBECONFIG: '/dev/null' },
    });
  });

  it('says that no cluster is configured', async () => {
    const stderr = await badly('unreachable', ['list'], { environment: { KUBECONFIG: '/nowhere' } });
    expect(stderr).toContain('no cluster is configured');
    expect(await badly('usage', ['list', '--context', 'moon'])).toContain(
      'has no context moon\nIt has: admin',
    );
    expect(await badly('usage', ['list', '--kubeconfig', '/nowhere'])).toContain(
      'there is no kubeconfig /nowhere',
    );
  });

  it('tells usage without asking anybody, beginning with the name kubectl gives it', async () => {
    const away = { environment: { KUBECONFIG: '/nowhere' } };
    expect(await well([], away)).toContain('Usage: kubectl nasmig VERB');
    expect(await well(['watch', '--help'], away)).toContain(
      'Usage: kubectl nasmig watch [VMI|MIGRATION...] [flags]',
    );
    expect(await badly('usage', ['migrat', 'db'], away)).toContain('Did you mean kubectl nasmig migrate?');
    expect(await badly('usage', ['list', '--namespac', 'x'], away)).toContain('Did you mean --namespace?');
    expect(await badly('usage', ['migrate'], away)).toContain('Usage: kubectl nasmig migrate VMI');
  });
});

describe('before the chart is installed', () => {
  it('every verb that needs it says so', async () => {
    for (const words of [
      ['list'],
      ['watch'],
      ['explain', 'db'],
      ['cancel', 'db'],
      ['estimate'],
      ['suspend', '--all'],
      ['resume', '--all'],
    ]) {
      const stderr = await badly('notInstalled', words);
      expect(stderr).toContain('nas-aware-migration is not installed in this cluster');
      expect(stderr).toContain('Install it');
    }
  });

  it('doctor finds it missing, and is not well', async () => {
    const outcome = await nasmig(['doctor']);
    expect(outcome.code).toBe(code('unhealthy'));
    expect(outcome.stdout).toMatch(/FAILED\s+Custom resources\s+the API server has no NasAwareMigration/);
    expect(outcome.stdout).toMatch(/FAILED\s+Operator\s+no Deployment nas-aware-migration was found/);
  });

  it('version knows the plugin, and that the rest is not there', async () => {
    expect(await well(['version'])).toMatch(/plugin: \d+\.\d+\.\d+\noperator: not installed\n/);
  });
});

describe('with the chart and the operator', () => {
  let vm: Vm;

  beforeAll(async () => {
    await cluster.helm.install({
      defaultPolicy: { enabled: true, spec: { defaults: { acceleration: 'Preferred' } } },
    });
    const ports = await operatorPorts();
    await cluster.podOfDeployment('operator-0');
    operator = await OperatorProcess.start(cluster, 'operator-0', ports);
    await cluster.eventually(async () => {
      const { status } = await running().probe('/readyz');
      if (status !== 200) throw new Error(`the operator is not ready\n${running().log}`);
    });
    await playDeployment();
    await cluster.api.apply(
      resources.kubeVirts,
      {
        metadata: { namespace: 'kubevirt', name: 'kubevirt' },
        spec: { configuration: {} },
      } as KubernetesObject,
      'test',
    );
    await kubevirtStatus({ phase: 'Deployed', observedKubeVirtVersion: 'v1.6.2' });
    vm = await injectedVm('db');
  });

  const kubevirtStatus = (status: object) =>
    cluster.api.mergePatch(resources.kubeVirts, 'kubevirt', 'kubevirt', { status }, 'status');

  /** Nobody runs pods here: the Deployment's status, and the hub's endpoint, are played. */
  async function playDeployment(): Promise<void> {
    await cluster.api.call(
      'PATCH',
      `/apis/apps/v1/namespaces/${NAMESPACE}/deployments/nas-aware-migration/status`,
      {
        contentType: 'application/merge-patch+json',
        body: {
          status: {
            observedGeneration: 1,
            replicas: 2,
            readyReplicas: 2,
            availableReplicas: 2,
            updatedReplicas: 2,
          },
        },
      },
    );
    await cluster.api.create(resources.endpointSlices, {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        namespace: NAMESPACE,
        name: 'nas-aware-migration-hub-1',
        labels: { 'kubernetes.io/service-name': 'nas-aware-migration-hub' },
      },
      addressType: 'IPv4',
      endpoints: [{ addresses: ['10.0.0.7'], conditions: { ready: true } }],
      ports: [{ name: 'hub', port: 8443, protocol: 'TCP' }],
    } as KubernetesObject);
  }

  /** The webhook decides from a cache: the first pods may come before the policy is in it. */
  async function injectedVm(name: string): Promise<Vm> {
    await cluster.eventually(async () => {
      const policy = await cluster.get<
        KubernetesObject & { status?: { conditions?: { type: string; status: string }[] } }
      >(resources.nasMigrationPolicies, undefined, 'default');
      const injecting = policy?.status?.conditions?.find(({ type }) => type === 'Injecting');
      if (injecting?.status !== 'True')
        throw new Error(`injection is not on: ${JSON.stringify(policy?.status)}\n${running().log}`);
    });
    return kubevirt.vm(SHOP, name, 'node-1', { app: name });
  }

  describe('migrate', () => {
    it('knows no VM of that name, and says which there are', async () => {
      expect(await badly('notFound', ['migrate', 'dn', '-n', SHOP])).toMatch(
        /there is no VirtualMachineInstance dn in namespace shop\nDid you mean db\?/,
      );
      expect(await badly('notFound', ['migrate', 'db'])).toContain('There are no VMIs in this namespace');
    });

    it('refuses values that make no sense, before it asks', async () => {
      expect(await badly('usage', ['migrate', 'db', '--link-bandwidth', 'fast'])).toContain(
        'Write for example 400M',
      );
      expect(await badly('usage', ['migrate', 'db', '--acceleration', 'Always'])).toContain(
        'not one of Preferred',
      );
      expect(await badly('usage', ['migrate', 'db', '-A'])).toContain('unknown flag -A');
    });

    it('writes the object that it would make', async () => {
      const yaml = await well([
        'migrate',
        'db',
        '-n',
        SHOP,
        '--dry-run=client',
        '-o',
        'yaml',
        '--acceleration=Observe',
        '--to-node',
        'node-2',
      ]);
      expect(load(yaml)).toMatchObject({
        kind: 'NasAwareMigration',
        metadata: { namespace: SHOP, generateName: 'db-' },
        spec: {
          vmiName: 'db',
          acceleration: 'Observe',
          target: { nodeSelector: { 'kubernetes.io/hostname': 'node-2' } },
        },
      });
      expect(await well(['migrate', 'db', '-n', SHOP, '--dry-run=server', '--name', 'trial'])).toContain(
        'created (server dry run)',
      );
      expect(await cluster.get(resources.nasAwareMigrations, SHOP, 'trial')).toBeUndefined();
    });

    it('starts one, waits for it, and ends as it ends', async () => {
      const source = await migrations.sidecarOf(vm.pod);
      const waiting = nasmig([
        'migrate',
        'db',
        '-n',
        SHOP,
        '--name',
        'move-db',
        '--wait',
        '--timeout',
        '50s',
      ]);
      const after = await migrations.moved(vm, 'node-2', source);
      const outcome = await waiting;
      expect(outcome.stderr).toBe('');
      expect(outcome.code).toBe(0);
      expect(outcome.stdout).toContain(`${kubectlName}/move-db created`);
      expect(outcome.stdout).toMatch(/move-db vmi=db phase=Succeeded accelerated=Yes .*savedBytes=\d+/);
      vm = after.vm;
    });

    it('refuses a second one of the same VM, and cancel ends the first', async () => {
      expect(await well(['migrate', 'db', '-n', SHOP, '--name', 'second', '-o', 'name'])).toBe(
        `${kubectlName}/second\n`,
      );
      const vmim = await kubevirt.migrationOf(vm);
      expect(await badly('conflict', ['migrate', 'db', '-n', SHOP])).toMatch(
        /db is being migrated already: second is \w+\nFollow it with kubectl nasmig watch second/,
      );
      const short = await nasmig(['watch', 'second', '-n', SHOP, '--timeout', '2s', '-o', 'json']);
      expect(short).toMatchObject({ code: code('timedOut') });
      expect(short.stderr).toContain('not over after 2s; it goes on without being watched');
      let began = () => {};
      const begun = new Promise<void>((resolve) => {
        began = resolve;
      });
      const watching = nasmig(['watch', 'second', '-n', SHOP, '--timeout', '40s'], { onOutput: began });
      await begun;
      const cancelling = nasmig(['cancel', 'db', '-n', SHOP]);
      // KubeVirt's own finalizer is not played: deleting the object cancels it at once.
      await cluster.eventually(async () => {
        const left = await cluster.get(
          resources.virtualMachineInstanceMigrations,
          SHOP,
          vmim.metadata?.name ?? '',
        );
        expect(left).toBeUndefined();
      });
      expect(await cancelling).toMatchObject({
        code: 0,
        stdout: `${kubectlName}/second is being cancelled\n`,
        stderr: 'second is cancelled.\n',
      });
      expect(await watching).toMatchObject({ code: code('migrationFailed') });
      expect(await badly('notFound', ['cancel', 'nam/second', '-n', SHOP])).toContain(
        'there is no migration nam/second',
      );
      expect(await badly('conflict', ['cancel', 'db', '-n', SHOP])).toContain(
        'nothing to cancel: move-db is Succeeded already',
      );
    });

    it('of somebody else is cancelled only when that is asked for', async () => {
      await kubevirt.evict(vm, 'drain-db');
      await cluster.eventually(async () => {
        const record = await cluster.get<KubernetesObject & { status?: { phase?: string } }>(
          resources.nasAwareMigrations,
          SHOP,
          'drain-db',
        );
        if (record?.status?.phase === undefined) throw new Error('not adopted yet');
      });
      expect(await badly('conflict', ['cancel', 'drain-db', '-n', SHOP])).toContain(
        'somebody else started; a node drain would start another',
      );
      expect((await nasmig(['cancel', 'drain-db', '-n', SHOP, '--foreign', '--timeout', '30s'])).code).toBe(
        0,
      );
      expect(await cluster.get(resources.virtualMachineInstanceMigrations, SHOP, 'drain-db')).toBeUndefined();
    });
  });

  describe('list and estimate', () => {
    it('write tables, wide tables, objects and names', async () => {
      const table = await well(['list', '-n', SHOP]);
      expect(table.split('\n')[0]).toMatch(/^NAME +VMI +PHASE +ACCELERATED +PROGRESS +SAVED +AGE$/);
      expect(table).toMatch(/^move-db +db +Succeeded +Yes /m);
      expect(await well(['list', '-A', '-o', 'wide'])).toMatch(
        /^shop +move-db +db .* node-1 +node-2 .* Framed$/m,
      );
      expect(await well(['list', '-n', SHOP, '-o', 'name'])).toContain(`${kubectlName}/move-db\n`);
      const asJson = JSON.parse(await well(['list', '-n', SHOP, '-o', 'json'])) as {
        kind: string;
        items: KubernetesObject[];
      };
      expect(asJson.kind).toBe('List');
      expect(asJson.items.map(({ kind, metadata }) => `${kind} ${metadata?.name}`)).toContain(
        'NasAwareMigration move-db',
      );
      expect(load(await well(['list', '-n', SHOP, '-o', 'yaml']))).toEqual(asJson);
      expect(await well(['list', '-n', SHOP, '--no-headers', '--phase', 'Failed'])).toBe('');
      // No colour where standard output is not a terminal.
      expect(table).not.toContain('\u001b');
    });

    it('choose by label, VM and phase', async () => {
      await migrationObject('labelled', { vmiName: 'web', acceleration: 'Observe' }, { tier: 'front' });
      await cluster.eventually(async () => {
        expect(await well(['list', '-n', SHOP, '-l', 'tier=front', '-o', 'name'])).toBe(
          `${kubectlName}/labelled\n`,
        );
      });
      expect(await well(['list', '-n', SHOP, '--vmi', 'web', '-o', 'name'])).toBe(
        `${kubectlName}/labelled\n`,
      );
      expect(await badly('usage', ['list', '-l', '=,='])).toContain('the API server refuses it');
    });

    it('estimate sums up what was measured, and guesses nothing', async () => {
      await migrationObject('observed-1', { vmiName: 'shelf', acceleration: 'Observe' });
      await migrationObject('observed-2', { vmiName: 'shelf', acceleration: 'Observe' });
      // There is no VM shelf: the operator refuses both, and keeps its hands off what is finished.
      for (const [name, saved] of [
        ['observed-1', 80],
        ['observed-2', 60],
      ] as const) {
        await cluster.eventually(async () => {
          const object = await cluster.get<KubernetesObject & { status?: { phase?: string } }>(
            resources.nasAwareMigrations,
            SHOP,
            name,
          );
          expect(object?.status?.phase).toBe('Failed');
        });
        await statusOf(name, finished('Observed', saved));
      }
      const text = await well(['estimate', 'shelf', '-n', SHOP]);
      expect(text).toContain('shop/shelf: 2 measured, 0 accelerated and 2 observed');
      expect(text).toContain('70 % (60 % to 80 %)');
      const [one] = JSON.parse(await well(['estimate', '-A', '-o', 'json'])) as { vmi: string }[];
      expect(one).toMatchObject({ namespace: SHOP, vmi: 'db', accelerated: 1 });
      expect(await well(['estimate', '-n', SHOP, '-o', 'wide'])).toMatch(
        /^shelf +2 +0 +70 % \(60 % to 80 %\)/m,
      );
      await kubevirt.vm(SHOP, 'fresh', 'node-1');
      expect(await well(['estimate', 'fresh', '-n', SHOP])).toContain(
        'kubectl nasmig migrate fresh -n shop --acceleration Observe',
      );
      expect(await badly('notFound', ['estimate', 'nobody', '-n', SHOP])).toContain(
        'there is no VirtualMachineInstance nobody',
      );
    });
  });

  describe('explain', () => {
    it('says why it was accelerated, and what the next one would be', async () => {
      const text = await well(['explain', 'db', '-n', SHOP]);
      expect(text).toMatch(/VM db +\w+ +/);
      const last = JSON.parse(await well(['explain', 'move-db', '-n', SHOP, '-o', 'json'])) as {
        migration: object;
        next: object;
      };
      expect(last.migration).toMatchObject({ name: 'move-db', accelerated: 'Yes', reason: 'Framed' });
      expect(last.next).toMatchObject({
        verdict: 'Accelerated',
        policy: 'default',
        volumes: { usable: ['rootdisk'] },
      });
    });

    it('says why it was not, and what to change', async () => {
      const text = await well(['explain', 'nam/labelled', '-n', SHOP]);
      expect(text).toContain('Reason   VirtualMachineInstanceNotFound');
      expect(text).toContain('Change   Check the name and the namespace, and start the VM.');
      expect(text).toContain('The VM web is not running');
    });

    it('sees what keeps the next one from being accelerated, by the rules of the operator', async () => {
      const next = async () =>
        (
          JSON.parse(await well(['explain', 'vmi/db', '-n', SHOP, '-o', 'json'])) as {
            next: { reason?: string; change: string };
          }
        ).next;
      await cluster.api.mergePatch(resources.kubeVirts, 'kubevirt', 'kubevirt', {
        spec: { configuration: { migrations: { allowPostCopy: true } } },
      });
      expect(await next()).toMatchObject({ verdict: 'Plain', reason: 'PostCopyAllowed' });
      // A MigrationPolicy for the VM wins over KubeVirt's configuration.
      await cluster.api.create(resources.migrationPolicies, {
        apiVersion: 'migrations.kubevirt.io/v1alpha1',
        kind: 'MigrationPolicy',
        metadata: { name: 'fast' },
        spec: {
          allowPostCopy: false,
          bandwidthPerMigration: '64Mi',
          selectors: { virtualMachineInstanceSelector: { app: 'db' } },
        },
      } as KubernetesObject);
      expect(await next()).toMatchObject({ reason: 'CappedByBandwidthPerMigration' });
      expect((await next()).change).toContain('MigrationPolicy fast');
      const doctor = (await nasmig(['doctor'])).stdout;
      expect(doctor).toMatch(/FAILED +Bandwidth +MigrationPolicy fast caps QEMU at 64Mi\/s/);
      expect(doctor).toMatch(/FAILED +Post-copy +KubeVirt kubevirt\/kubevirt allows post-copy.*shop\/fresh/);
      await cluster.api.delete(resources.migrationPolicies, undefined, 'fast');
      await cluster.api.mergePatch(resources.kubeVirts, 'kubevirt', 'kubevirt', {
        spec: { configuration: { migrations: null } },
      });
      expect(await next()).toMatchObject({ verdict: 'Accelerated' });
    });

    it('does not know what is not there', async () => {
      expect(await badly('notFound', ['explain', 'nam/nothing', '-n', SHOP])).toContain(
        'there is no NasAwareMigration nothing',
      );
      expect(await badly('usage', ['explain', 'pod/x'])).toContain('Write vmi/NAME or nam/NAME.');
    });
  });

  describe('suspend and resume', () => {
    it('are seen by the operator and by explain', async () => {
      expect(await badly('usage', ['suspend'])).toContain('Name some of default, or give --all.');
      expect(await badly('notFound', ['suspend', 'defaults'])).toContain('Did you mean default?');
      expect(await well(['suspend', 'default'])).toBe(
        'nasmigrationpolicy.nasmigration.io/default suspended\n',
      );
      expect(await well(['suspend', '--all'])).toBe(
        'nasmigrationpolicy.nasmigration.io/default is suspended already\n',
      );
      expect(await well(['explain', 'vmi/db', '-n', SHOP])).toContain('Reason   Suspended');
      expect((await nasmig(['doctor', '--problems'])).stdout).toContain('do: kubectl nasmig resume default');
      expect(await well(['resume', 'default', '-o', 'name'])).toBe(
        'nasmigrationpolicy.nasmigration.io/default\n',
      );
      expect(await cluster.get(resources.nasMigrationPolicies, undefined, 'default')).toMatchObject({
        spec: { suspend: false },
      });
    });
  });

  describe('doctor', () => {
    const finding = async (
      check: string,
      words: string[] = [],
    ): Promise<{ status: string; message: string }[]> => {
      const all = JSON.parse((await nasmig(['doctor', '-o', 'json', ...words])).stdout) as {
        check: string;
        status: string;
        message: string;
      }[];
      return all.filter((one) => one.check === check);
    };

    it('finds the cluster well, but for what cannot be seen here', async () => {
      const outcome = await nasmig(['doctor']);
      expect(outcome.stdout).not.toContain('FAILED');
      expect(outcome.code).toBe(0);
      expect(outcome.stdout).toMatch(/^ok +Kubernetes version +v1\./m);
      expect(outcome.stdout).toMatch(/^ok +KubeVirt version +v1\.6\.2$/m);
      expect(outcome.stdout).toMatch(/^ok +Operator +2 of 2 pods/m);
      expect(outcome.stdout).toMatch(/^ok +Leader +operator-0/m);
      expect(outcome.stdout).toMatch(/^ok +Injection +/m);
      expect(outcome.stdout).toMatch(/^ok +Certificate +the operator's CA is good until/m);
      expect(outcome.stdout).toMatch(/^ok +Shared storage +all \d+ running VMs/m);
      expect(outcome.stdout).toMatch(/^ok +Network policy +sidecars of \d+ pods may reach the hub/m);
      expect(outcome.stdout).toMatch(/^ok +Breaker +closed$/m);
      // No pod network: the leader's metrics cannot be asked.
      expect(outcome.stdout).toMatch(/^unknown +Hub reachability +how many sidecars/m);
    });

    it('finds a namespace that lets nothing out', async () => {
      const networkPolicies = `/apis/networking.k8s.io/v1/namespaces/${SHOP}/networkpolicies`;
      await cluster.api.call('POST', networkPolicies, {
        body: {
          apiVersion: 'networking.k8s.io/v1',
          kind: 'NetworkPolicy',
          metadata: { name: 'nothing-out' },
          spec: { podSelector: {}, policyTypes: ['Egress'] },
        },
      });
      const [closed] = await finding('Network policy');
      expect(closed).toMatchObject({ status: 'failed' });
      expect(closed?.message).toContain('nothing-out');
      // The policy of docs/install.md lets them through.
      const page = await readFile(path.join(import.meta.dirname, '../../docs/install.md'), 'utf8');
      const [, documented = ''] = /```yaml\n(apiVersion: networking\.k8s\.io[\s\S]*?)```/.exec(page) ?? [];
      await cluster.kubectl(['-n', SHOP, 'apply', '-f', '-'], documented);
      expect(await finding('Network policy')).toMatchObject([{ status: 'ok' }]);
      // Without DNS the hub's address is not known.
      const rules = `${networkPolicies}/nas-aware-migration`;
      const body = [{ op: 'remove', path: '/spec/egress/1' }];
      await cluster.api.call('PATCH', rules, { body, contentType: contentTypes.jsonPatch });
      const [dns] = await finding('Network policy');
      expect(dns).toMatchObject({ status: 'failed' });
      expect(dns?.message).toContain('DNS queries');
      await cluster.kubectl(['-n', SHOP, 'apply', '-f', '-'], documented);
      await cluster.api.call('DELETE', `${networkPolicies}/nothing-out`);
    });

    it('finds old and new KubeVirt, a VM without a shared volume, a leader that is gone', async () => {
      await kubevirtStatus({ observedKubeVirtVersion: 'v1.2.0' });
      expect((await finding('KubeVirt version'))[0]).toMatchObject({ status: 'warning' });
      await kubevirtStatus({ observedKubeVirtVersion: 'v1.6.2' });
      await cluster.api.mergePatch(resources.virtualMachineInstances, SHOP, 'fresh', {
        status: {
          volumeStatus: [
            {
              name: 'rootdisk',
              persistentVolumeClaimInfo: {
                claimName: 'fresh-root',
                accessModes: ['ReadWriteOnce'],
                volumeMode: 'Filesystem',
              },
            },
          ],
        },
      });
      const [storage] = await finding('Shared storage');
      expect(storage).toMatchObject({ status: 'warning' });
      expect(storage?.message).toContain(
        'shop/fresh (rootdisk: access mode ReadWriteOnce, not ReadWriteMany)',
      );
      await cluster.api.mergePatch(resources.pods, NAMESPACE, 'operator-0', {
        metadata: { labels: { 'nasmigration.io/leader': null } },
      });
      expect((await finding('Leader'))[0]).toMatchObject({ status: 'failed' });
      await cluster.api.mergePatch(resources.pods, NAMESPACE, 'operator-0', {
        metadata: { labels: { 'nasmigration.io/leader': 'true' } },
      });
    });

    it('finds the breaker open after three failures within an hour', async () => {
      for (const name of ['fail-1', 'fail-2', 'fail-3']) {
        await migrationObject(name, { vmiName: `gone-${name}` });
        await cluster.eventually(async () => {
          const object = await cluster.get<KubernetesObject & { status?: { phase?: string } }>(
            resources.nasAwareMigrations,
            SHOP,
            name,
          );
          expect(object?.status?.phase).toBe('Failed');
        });
        await statusOf(name, { ...finished('FailedWhileArmed', 0), phase: 'Failed' });
      }
      expect((await finding('Breaker'))[0]).toMatchObject({ status: 'failed' });
      expect(await well(['explain', 'vmi/db', '-n', SHOP])).toContain('Reason   ClusterBreakerOpen');
      for (const name of ['fail-1', 'fail-2', 'fail-3'])
        await cluster.api.delete(resources.nasAwareMigrations, SHOP, name);
      await cluster.eventually(async () =>
        expect((await finding('Breaker'))[0]).toMatchObject({ status: 'ok' }),
      );
    });
  });

  describe('report', () => {
    it('packs what helps, and no secret', async () => {
      const secret = 'hunter2-hunter2';
      await cluster.api.mergePatch(resources.virtualMachineInstances, SHOP, 'db', {
        metadata: { annotations: { 'example.org/db-password': secret } },
        spec: {
          volumes: [
            { name: 'rootdisk', persistentVolumeClaim: { claimName: 'db-root' } },
            { name: 'init', cloudInitNoCloud: { userData: `#cloud-config\npassword: ${secret}` } },
          ],
        },
      });
      await cluster.api.create(resources.secrets, {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { namespace: SHOP, name: 'db-secret' },
        stringData: { password: secret },
      } as KubernetesObject);
      const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-report-'));
      try {
        const file = path.join(dir, 'bundle.tar.gz');
        const outcome = await nasmig(['report', '-f', file]);
        expect(outcome, outcome.stderr).toMatchObject({ code: 0 });
        expect(outcome.stdout).toMatch(/bundle\.tar\.gz {3}\d+ files, /);
        expect((await stat(file)).mode & 0o777).toBe(0o600);
        const names = execFileSync('tar', ['-tzf', file], { encoding: 'utf8' })
          .split('\n')
          .map((name) => name.replace(/^[^/]*\//, ''));
        for (const name of [
          'README.txt',
          'doctor.txt',
          'nasawaremigrations.json',
          'nasmigrationpolicies.json',
          'kubevirt/virtualmachineinstances.json',
          'operator/installation.json',
          'events.json',
          'problems.txt',
        ])
          expect(names).toContain(name);
        const everything = execFileSync('tar', ['-xzOf', file], {
          encoding: 'utf8',
          maxBuffer: 64 * 1024 * 1024,
        });
        expect(everything).toContain('move-db');
        expect(everything).not.toContain(secret);
        expect(everything).not.toContain('PRIVATE KEY');
        expect(everything).not.toContain('"kind": "Secret"');
        // No kubelet: logs cannot be had, and the bundle says so.
        expect(everything).toMatch(/^logs\/shop\/virt-launcher-db-\S+\/nas-aware-migration\.log: /m);
        expect(await badly('usage', ['report', '-f', file])).toContain('exists already');
      } finally {
        await rm(dir, { recursive: true, force: true });
      }
    });
  });

  describe('people with fewer rights', () => {
    beforeAll(async () => {
      for (const role of ['view', 'edit'])
        await cluster.kubectl([
          '-n',
          SHOP,
          'create',
          'rolebinding',
          `${role}er`,
          `--clusterrole=${role}`,
          `--user=${role}er`,
        ]);
    });

    it('see that they may not, and what to ask for', async () => {
      const stderr = await badly('forbidden', ['list', '-A', '--as', 'viewer']);
      expect(stderr).toContain('User "viewer" cannot list resource "nasawaremigrations"');
      expect(stderr).toContain('nas-aware-migration-view');
      expect(await well(['list', '-n', SHOP, '--as', 'viewer', '-o', 'name'])).toContain('move-db');
      expect(await badly('forbidden', ['suspend', 'default', '--as', 'viewer'])).toContain(
        'does not let you',
      );
      expect(await badly('forbidden', ['list', '--token', 'wrong'])).toContain(
        'does not accept your credentials',
      );
      expect(await badly('usage', ['list', '--as-group', 'x'])).toContain(
        '--as-group, --as-uid and --as-user-extra need --as',
      );
    });

    it('may act as a group, which --as-group says', async () => {
      expect(
        await well(['list', '-A', '-o', 'name', '--as', 'anybody', '--as-group', 'system:masters']),
      ).toContain('move-db');
    });

    it('get from explain what can be told without those rights', async () => {
      await cluster.kubectl([
        'create',
        'clusterrole',
        'see-vmis',
        '--verb=get,list',
        '--resource=virtualmachineinstances.kubevirt.io',
      ]);
      await cluster.kubectl([
        '-n',
        SHOP,
        'create',
        'rolebinding',
        'see-vmis',
        '--clusterrole=see-vmis',
        '--user=viewer',
      ]);
      const explained = JSON.parse(
        await well(['explain', 'db', '-n', SHOP, '--as', 'viewer', '-o', 'json']),
      ) as { next: { verdict: string; why: string } };
      expect(explained.next.verdict).toBe('Unknown');
      expect(explained.next.why).toContain('you may not read NasMigrationPolicies');
    });

    it('doctor says what it could not see instead of failing', async () => {
      const outcome = await nasmig([
        'doctor',
        '-n',
        SHOP,
        '--as',
        'viewer',
        '--operator-namespace',
        NAMESPACE,
      ]);
      expect(outcome.stdout).toMatch(/unknown +Policies +NasMigrationPolicies could not be read/);
      expect(outcome.stdout).toMatch(/unknown +Operator +/);
      expect(outcome.code).toBe(0);
    });
  });

  describe('watch without a terminal', () => {
    it('writes a line for each change, and ends with Ctrl-C as such', async () => {
      const outcome = await nasmig(['watch', '-A'], { interruptAfterMs: 4000 });
      expect(outcome.code).toBe(code('interrupted'));
      expect(outcome.stdout).toMatch(/^shop\/move-db vmi=db phase=Succeeded accelerated=Yes/m);
      expect(outcome.stdout).not.toContain('\u001b');
      expect(await badly('notFound', ['watch', 'nothing', '-n', SHOP])).toContain(
        'there is no migration nothing',
      );
    });

    it('ends by itself for one that is over, with its exit code', async () => {
      expect(await well(['watch', 'move-db', '-n', SHOP])).toContain('phase=Succeeded');
      const outcome = await nasmig(['watch', 'labelled', '-n', SHOP]);
      expect(outcome.code).toBe(code('migrationFailed'));
      const json = JSON.parse(await well(['watch', 'move-db', '-n', SHOP, '-o', 'json'])) as KubernetesObject;
      expect(json).toMatchObject({ kind: 'NasAwareMigration', metadata: { name: 'move-db' } });
    });
  });

  describe('completion', () => {
    it("is given to kubectl's own", async () => {
      const complete = async (...words: string[]) =>
        (await runner.exec(path.join(runner.bin, 'kubectl'), ['__complete', 'nasmig', ...words])).stdout;
      expect(await complete('mig')).toContain('migrate\tlive-migrate a VM');
      expect(await complete('explain', '-n', SHOP, 'mov')).toContain('move-db\tdb, Succeeded');
      expect(await complete('migrate', '-n', SHOP, '')).toMatch(/^db$/m);
      expect(await complete('migrate', 'db', '--acceleration', 'O')).toMatch(/^Observe$/m);
      expect(await complete('suspend', '')).toMatch(/^default$/m);
      expect(await complete('list', '--namesp')).toContain('--namespace');
      expect(await complete('list', '-n', 'sh')).toMatch(/^shop$/m);
    });

    it('works in bash', async () => {
      usedVerbs.add('completion');
      const script = [
        'source <(kubectl-nasmig completion bash)',
        `COMP_WORDS=(kubectl-nasmig explain -n ${SHOP} mov) COMP_CWORD=4`,
        `_kubectl_nasmig && printf '%s\\n' "\${COMPREPLY[@]}"`,
      ].join('\n');
      expect((await runner.exec('/bin/bash', ['-c', script])).stdout).toBe('move-db\n');
      for (const shell of ['zsh', 'fish', 'kubectl'])
        expect(await well(['completion', shell])).toContain('__complete');
      expect(await badly('usage', ['completion', 'csh'])).toContain('bash, zsh, fish, kubectl');
      // The file that the build makes is what `completion kubectl` writes.
      expect(await readFile(path.join(runner.bin, 'kubectl_complete-nasmig'), 'utf8')).toBe(
        await well(['completion', 'kubectl']),
      );
    });
  });

  it('does what its page says: every command of docs/kubectl-plugin.md', async () => {
    const page = 'docs/kubectl-plugin.md';
    const blocks = shellBlocks(page, await readFile(path.join(repositoryRoot, page), 'utf8')).filter(
      ({ mode }) => mode === 'run',
    );
    expect(blocks.length).toBeGreaterThan(4);
    // KubeVirt, for the migrations that the page starts. The target has no sidecar that speaks: they end plainly.
    const stop = new AbortController();
    const nodes = ['node-1', 'node-2'];
    const playing = (async () => {
      while (!stop.signal.aborted) {
        const vmim = await kubevirt.migrationOf(vm, 200).catch(() => undefined);
        if (vmim === undefined) continue;
        const to = nodes.find((node) => node !== vm.node) ?? '';
        vm = await kubevirt.succeed(vm, vmim, await kubevirt.handOff(vm, vmim, to), to);
      }
    })();
    try {
      for (const { line, script } of blocks) {
        const outcome = await runner.exec('/bin/bash', ['-euo', 'pipefail', '-c', script], {
          timeoutMs: 150_000,
        });
        expect(outcome.code, `${page}:${line}\n${script}${outcome.stdout}${outcome.stderr}`).toBe(0);
      }
    } finally {
      stop.abort();
      await playing;
    }
  }, 300_000);

  it('is packed for krew, and installed by it', async () => {
    const { archive, manifest, sha256 } = await archivePlugin(runner.bin);
    const read = load(await readFile(manifest, 'utf8')) as {
      metadata: { name: string };
      spec: { shortDescription: string; platforms: { uri: string; sha256: string }[] };
    };
    // krew-index refuses longer ones.
    expect(read.spec.shortDescription.length).toBeLessThanOrEqual(50);
    expect(read.spec.platforms).toHaveLength(1);
    expect(read.spec.platforms[0]).toMatchObject({
      uri: expect.stringMatching(new RegExp(`/${path.basename(archive)}$`)),
      sha256,
    });
    const krew = await ensureTool('krew');
    const dir = await mkdtemp(path.join(tmpdir(), 'nasmig-krew-'));
    try {
      // Nothing but what krew links, and kubectl: no Node, neither the project's nor another.
      const environment = {
        KREW_ROOT: dir,
        PATH: `${path.join(dir, 'bin')}:/usr/bin:/bin`,
        KUBECONFIG: cluster.plane.kubeconfig,
      };
      const installed = await runner.exec(
        krew,
        ['install', `--manifest=${manifest}`, `--archive=${archive}`],
        { environment },
      );
      expect(installed, installed.stderr).toMatchObject({ code: 0 });
      const listed = await runner.exec(cluster.plane.kubectl, ['nasmig', 'list', '-n', SHOP, '-o', 'name'], {
        environment,
      });
      expect(listed, listed.stderr).toMatchObject({ code: 0 });
      expect(listed.stdout).toContain(`${kubectlName}/move-db\n`);
      const store = path.join(dir, 'store', 'nasmig');
      const [release = ''] = await readdir(store);
      const licences = await readFile(path.join(store, release, 'THIRD-PARTY-LICENSES'), 'utf8');
      for (const name of ['@kubernetes/client-node', 'zod', 'js-yaml', 'node'])
        expect(licences).toContain(`== ${name} `);
      expect(existsSync(path.join(store, release, 'LICENSE'))).toBe(true);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }, 1_300_000);
});

describe('without KubeVirt', () => {
  it('says so', async () => {
    await cluster.kubectl(['delete', 'crd', 'virtualmachineinstances.kubevirt.io', '--wait=true']);
    await cluster.eventually(async () => {
      const stderr = await badly('notInstalled', ['migrate', 'db', '-n', SHOP]);
      expect(stderr).toContain('KubeVirt is not installed in this cluster');
    });
  });

  it('has used every verb', () => {
    expect([...usedVerbs].sort()).toEqual(verbs.map(({ name }) => name).sort());
  });
});
