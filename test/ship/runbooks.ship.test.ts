// The commands of docs/runbooks, run page by page with real kubectl and helm on a real API server with the chart installed and the
// objects in place that the pages name; and their queries, read by promtool. `kubectl logs` needs a kubelet: what it names is looked up.

import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ensureTool, repositoryRoot } from '../../hack/ship/tools.ts';
import { ruleFileYaml } from '../../observability/rules/rule-file.ts';
import { ShipCluster } from './cluster.ts';
import { promtool } from './prometheus.ts';
import { record } from './report.ts';

const runbooks = path.join(repositoryRoot, 'docs', 'runbooks');
const PAGE_TIMEOUT_MS = 120_000;
/** Takes the words that say how much of a log is wanted away, and looks its owner up. */
const KUBECTL = `#!/usr/bin/env bash
set -euo pipefail
real="$(dirname "$0")/real-kubectl"
words=() isLogs=false isName=false
for word in "$@"; do
  # Containers are told apart by the log alone.
  if $isName; then isName=false; continue; fi
  case "$word" in
    logs) isLogs=true; words+=(get) ;;
    -c) isName=true ;;
    --since=*|--prefix|--previous) ;;
    *) words+=("$word") ;;
  esac
done
$isLogs || exec "$real" "$@"
case " \${words[*]} " in *" -l "*) words+=(pods) ;; esac
exec "$real" "\${words[@]}"
`;

let cluster: ShipCluster;
let bin: string;
let blocksRun = 0;
let blocksFailed = 0;
const pages = (await readdir(runbooks)).filter((name) => name.startsWith('NasMigration')).sort();

beforeAll(async () => {
  cluster = await ShipCluster.start();
  bin = await mkdtemp(path.join(tmpdir(), 'nasmig-runbooks-'));
  await symlink(await ensureTool('helm'), path.join(bin, 'helm'));
  await symlink(cluster.plane.kubectl, path.join(bin, 'real-kubectl'));
  await writeFile(path.join(bin, 'kubectl'), KUBECTL);
  await chmod(path.join(bin, 'kubectl'), 0o755);
  await mkdir(path.join(bin, 'home'));
  // A revision to go back to.
  await cluster.helm.install();
  await cluster.helm.upgrade();
});

afterAll(async () => {
  await record('runbooks', { run: blocksRun, failed: blocksFailed });
  await cluster?.stop();
  if (bin !== undefined) await rm(bin, { recursive: true, force: true });
});

/** What the pages name. */
beforeEach(async () => {
  const objects = [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'kubevirt' } },
    {
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasMigrationPolicy',
      metadata: { name: 'default' },
      spec: {},
    },
    {
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstance',
      metadata: { namespace: 'shop', name: 'db' },
      spec: {},
    },
    {
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasAwareMigration',
      metadata: { namespace: 'shop', name: 'move-db' },
      spec: { vmiName: 'db' },
    },
    {
      apiVersion: 'v1',
      kind: 'ResourceQuota',
      metadata: { namespace: 'shop', name: 'vms' },
      spec: { hard: { 'requests.memory': '64Gi' } },
    },
    {
      apiVersion: 'apps/v1',
      kind: 'DaemonSet',
      metadata: { namespace: 'kubevirt', name: 'virt-handler' },
      spec: {
        selector: { matchLabels: { app: 'virt-handler' } },
        template: {
          metadata: { labels: { app: 'virt-handler' } },
          spec: { containers: [{ name: 'virt-handler', image: 'example.org/virt-handler' }] },
        },
      },
    },
  ];
  for (const object of objects) await cluster.kubectl(['apply', '-f', '-'], JSON.stringify(object));
});

const blocksOf = (page: string, language: string): string[] =>
  [...page.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, 'g'))].map(
    ([, block = '']) => block,
  );

function shell(script: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      'bash',
      ['-euo', 'pipefail', '-c', script],
      {
        cwd: repositoryRoot,
        timeout: PAGE_TIMEOUT_MS,
        maxBuffer: 16 * 1024 * 1024,
        env: {
          PATH: `${bin}:${process.env['PATH']}`,
          HOME: path.join(bin, 'home'),
          KUBECONFIG: cluster.plane.kubeconfig,
        },
      },
      (error, stdout, stderr) => {
        if (error === null) resolve(`${stdout}${stderr}`);
        else reject(new Error(`${script}\n${stderr}${stdout}${error.message}`));
      },
    );
  });
}

describe('runbook', () => {
  it.each(pages)(
    '%s: its commands do what they say',
    async (name) => {
      const page = await readFile(path.join(runbooks, name), 'utf8');
      const blocks = blocksOf(page, 'sh');
      expect(blocks.length).toBeGreaterThan(1);
      for (const block of blocks) {
        blocksRun += 1;
        const said = await shell(block).catch((error: unknown) => {
          blocksFailed += 1;
          throw error;
        });
        // kubectl warns of unknown fields, deprecated kinds and the like.
        expect(said, block).not.toMatch(/^Warning: (?!resource .* is missing the .*last-applied)/m);
      }
    },
    PAGE_TIMEOUT_MS,
  );

  it('has no other kind of block', async () => {
    for (const name of pages) {
      const page = await readFile(path.join(runbooks, name), 'utf8');
      const languages = [...page.matchAll(/^```(\w+)/gm)].map(([, language]) => language);
      expect(
        languages.every((language) => language === 'sh' || language === 'promql'),
        name,
      ).toBe(true);
    }
  });

  it('asks Prometheus only what Prometheus understands', async () => {
    const queries: string[] = [];
    for (const name of pages) {
      for (const block of blocksOf(await readFile(path.join(runbooks, name), 'utf8'), 'promql'))
        queries.push(...block.trim().split('\n'));
    }
    expect(queries.length).toBeGreaterThan(3);
    const file = path.join(bin, 'queries.yaml');
    const rules = queries.map((expr, index) => ({ record: `runbook:query:${index}`, expr }));
    await writeFile(file, ruleFileYaml({ groups: [{ name: 'runbooks', rules }] }));
    expect(await promtool(['check', 'rules', file])).toContain(`SUCCESS: ${queries.length} rules found`);
  });

  it('fails when a command is wrong, so that the above means something', async () => {
    await expect(shell('kubectl -n shop logs deployment/not-there --since=1h')).rejects.toThrow('not found');
    await expect(
      shell(`kubectl patch nasmigrationpolicy default --type=merge --patch='{"spec":{"suspend":"yes"}}'`),
    ).rejects.toThrow('suspend');
  });
});
