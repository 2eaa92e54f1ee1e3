// The commands of docs/install.md, run one block after another as a reader would, with real helm and kubectl on a real API server.
// Played is only the Deployment controller, which `kubectl rollout status` waits for.
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { KubernetesObject, V1ConfigMap } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensureTool, repositoryRoot } from '../../hack/ship/tools.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { ShipCluster } from './cluster.ts';
import { NAMESPACE } from './helm.ts';
import { record } from './report.ts';

const BLOCK_TIMEOUT_MS = 120_000;

let cluster: ShipCluster;
let bin: string;
let page: string;
let blocksRun = 0;
let blocksFailed = 0;

beforeAll(async () => {
  cluster = await ShipCluster.start();
  bin = await mkdtemp(path.join(tmpdir(), 'nasmig-bin-'));
  await symlink(await ensureTool('helm'), path.join(bin, 'helm'));
  await symlink(cluster.plane.kubectl, path.join(bin, 'kubectl'));
  await mkdir(path.join(bin, 'home'));
  page = await readFile(path.join(repositoryRoot, 'docs/install.md'), 'utf8');
});

afterAll(async () => {
  await record('docsCommands', { run: blocksRun, failed: blocksFailed });
  await cluster?.stop();
  if (bin !== undefined) await rm(bin, { recursive: true, force: true });
});

/** The shell blocks of a section. */
function blocksOf(section: string): string[] {
  const start = page.indexOf(`\n## ${section}\n`);
  if (start === -1) throw new Error(`docs/install.md has no section ${section}`);
  const end = page.indexOf('\n## ', start + 1);
  const text = page.slice(start, end === -1 ? undefined : end);
  return [...text.matchAll(/```sh\n([\s\S]*?)```/g)].map((match) => match[1] ?? '');
}

/** Runs each block of a section; their output. */
async function follow(section: string): Promise<string> {
  const outputs: string[] = [];
  for (const block of blocksOf(section)) outputs.push(await shell(block));
  expect(outputs.length).toBeGreaterThan(0);
  return outputs.join('');
}

async function shell(script: string): Promise<string> {
  const controller = setInterval(() => void playDeploymentController(), 300);
  try {
    return await new Promise((resolve, reject) => {
      execFile(
        'bash',
        ['-euo', 'pipefail', '-c', script],
        {
          cwd: repositoryRoot,
          timeout: BLOCK_TIMEOUT_MS,
          env: {
            PATH: `${bin}:${process.env['PATH']}`,
            HOME: path.join(bin, 'home'),
            KUBECONFIG: cluster.plane.kubeconfig,
          },
        },
        (error, stdout, stderr) => {
          blocksRun += 1;
          if (error === null) return resolve(stdout);
          blocksFailed += 1;
          reject(new Error(`${script}\n${stderr}${stdout}${error.message}`));
        },
      );
    });
  } finally {
    clearInterval(controller);
  }
}

async function playDeploymentController(): Promise<void> {
  const where = `/apis/apps/v1/namespaces/${NAMESPACE}/deployments/nas-aware-migration`;
  try {
    const { metadata } = await cluster.api.call<KubernetesObject & { metadata: { generation: number } }>(
      'GET',
      where,
    );
    const status = {
      observedGeneration: metadata.generation,
      replicas: 2,
      updatedReplicas: 2,
      readyReplicas: 2,
      availableReplicas: 2,
    };
    await cluster.api.call('PATCH', `${where}/status`, {
      body: { status },
      contentType: 'application/merge-patch+json',
    });
  } catch {
    // Not installed yet, or not any longer.
  }
}

describe('docs/install.md', () => {
  it('installs in five lines', async () => {
    expect(await follow('In five lines')).toContain('successfully rolled out');
    expect(await cluster.get(resources.nasMigrationPolicies, undefined, 'default')).toBeDefined();
  });

  it('upgrades and rolls back', async () => {
    expect(await follow('Upgrade and rollback')).toContain('Rollback was a success');
  });

  it('uninstalls, and removes what is left', async () => {
    await cluster.api.create(resources.namespaces, {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: 'shop' },
    });
    // An unfinished migration, and a namespace's CA, as the operator leaves them.
    await cluster.api.create(resources.nasAwareMigrations, {
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasAwareMigration',
      metadata: { namespace: 'shop', name: 'move-db', finalizers: ['nasmigration.io/cancel'] },
      spec: { vmiName: 'db' },
    } as KubernetesObject);
    await cluster.api.create(resources.configMaps, {
      metadata: {
        namespace: 'shop',
        name: 'nas-aware-migration-ca',
        labels: { 'app.kubernetes.io/managed-by': 'nas-aware-migration' },
      },
    } as V1ConfigMap);
    await follow('Uninstall');
    await cluster.eventually(async () => {
      const left = await cluster.kubectl(['get', 'crd,configmap,clusterrole', '-A', '-o', 'name']);
      expect(left.split('\n').filter((name) => /nas-?aware-?migration|nasmigration/.test(name))).toEqual([]);
    });
  });

  it('installs without Helm', async () => {
    const start = page.indexOf('```sh without-helm\n');
    const block = page.slice(page.indexOf('\n', start) + 1, page.indexOf('```', start + 3));
    expect(await shell(block)).toContain('successfully rolled out');
    const images = await cluster.kubectl(['-n', NAMESPACE, 'get', 'deployment', '-o', 'yaml']);
    expect(images.match(/registry\.example\/nas-aware-migration:0\.1\.0/g)).toHaveLength(2);
  });
});
