// The commands of the documents, run as a reader would run them, with real helm and kubectl on a real API server and a real operator
// (docs-world.ts says what is played). Every shell block of every page is run, or says in its fence why it is not; and every link
// leads somewhere. The runbooks have a suite of their own.
import { execFile } from 'node:child_process';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import type { KubernetesObject, V1ConfigMap } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { anchorsOf, type Block, localLinks, shellBlocks } from './docs-blocks.ts';
import { DocsWorld } from './docs-world.ts';
import { NAMESPACE } from './helm.ts';
import { record } from './report.ts';

const BLOCK_TIMEOUT_MS = 120_000;
/** A page's blocks one after the other. */
const PAGE_TIMEOUT_MS = 300_000;
const INSTALL = 'docs/install.md';
/** Pages with suites of their own that run their commands. */
const OTHERS: Readonly<Record<string, string>> = {
  'docs/runbooks/': 'test/ship/runbooks.ship.test.ts',
};
/** What a reader of a page has done before, elsewhere. */
const BEFORE: Readonly<Record<string, string>> = {
  'docs/kubectl-plugin.md': 'kubectl apply -f examples/nas-migration-policy.yaml',
};
/** In this order, because a reader comes from one to the next; others follow by name. */
const READING_ORDER = ['README.md', 'docs/first-migration.md', 'docs/policies-and-drains.md'];

/** What the commands of a page print among other things, when they do what the page says. */
const PROMISED: Readonly<Record<string, readonly RegExp[]>> = {
  'docs/first-migration.md': [
    /^LiveMigratable=True/m,
    /^rootdisk: db-root \["ReadWriteMany"\] Filesystem$/m,
    /^nasmigrationpolicy\S*accelerated condition met/m,
    /^NoSidecar: /m,
    /^virt-launcher-db-\d+: nas-aware-migration$/m,
    /^move-db +db +Succeeded +True .*Framed/m,
    /"savedPercent":\d+/,
    /^nasawaremigration\S* "move-db" deleted/m,
  ],
  'docs/policies-and-drains.md': [
    /^shop +2 +<none>$/m,
    /^default +0 +\[shop\]$/m,
    /kubevirt-evacuation-db-\d+ +db +Succeeded +True/,
    /kubevirt-evacuation-web-\d+ +web +Succeeded/,
  ],
  'docs/operations.md': [
    /^accelerated:.* Ready=True\(Applied\)/m,
    /Injecting=True\(Registered\)/,
    /STATUS: deployed/,
  ],
  'docs/troubleshooting.md': [
    /^Accelerated=(True|False) \w+: /m,
    /^Complete=True Migrated: /m,
    /"maxDowntimeMs":900/,
    /^sidecar\.nasmigration\.io Ignore$/m,
  ],
  'docs/kubectl-plugin.md': [/ db .*Succeeded/],
  'docs/tuning.md': [/^NAME +ATTEMPT +SAVED/m, /^nasawaremigration\S*move-db-gently condition met/m],
};

const texts = new Map<string, string>();
for (const page of await pages()) texts.set(page, await readFile(path.join(repositoryRoot, page), 'utf8'));
const blocks = [...texts].flatMap(([page, text]) => (ownedByOthers(page) ? [] : shellBlocks(page, text)));
const runnable = blocks.filter(({ mode }) => mode === 'run');

let blocksRun = 0;
let blocksFailed = 0;

/** All of README.md, CHANGELOG.md and docs/, in the order in which they are run. */
async function pages(): Promise<string[]> {
  const found = (await readdir(path.join(repositoryRoot, 'docs'), { recursive: true }))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`)
    .sort();
  const rank = (page: string) => {
    const place = READING_ORDER.indexOf(page);
    return place === -1 ? READING_ORDER.length : place;
  };
  return ['README.md', 'CHANGELOG.md', ...found].sort((a, b) => rank(a) - rank(b));
}

function ownedByOthers(page: string): boolean {
  return Object.keys(OTHERS).some((start) => page.startsWith(start));
}

function shell(world: DocsWorld, block: Pick<Block, 'page' | 'line' | 'script'>): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      'bash',
      ['-euo', 'pipefail', '-c', block.script],
      {
        cwd: repositoryRoot,
        timeout: BLOCK_TIMEOUT_MS,
        maxBuffer: 16 * 1024 * 1024,
        env: world.environment,
      },
      (error, stdout, stderr) => {
        blocksRun += 1;
        if (error === null) return resolve(stdout);
        blocksFailed += 1;
        const where = `${block.page}:${block.line}`;
        reject(
          new Error(
            `${where}\n${block.script}\n${stderr}${stdout}${error.message}\nplayed: ${world.problems}`,
          ),
        );
      },
    );
  });
}

afterAll(async () => {
  // A run of a part of this file says nothing of the commands.
  if (blocksRun === 0) return;
  await record('docsCommands', { run: blocksRun, failed: blocksFailed });
});

describe(INSTALL, () => {
  let world: DocsWorld;

  beforeAll(async () => {
    world = await DocsWorld.start({ install: false });
  });

  afterAll(() => world?.stop());

  /** Runs each block of a section; their output. */
  async function follow(section: string): Promise<string> {
    const outputs: string[] = [];
    for (const block of runnable.filter((one) => one.page === INSTALL && one.section === section))
      outputs.push(await shell(world, block));
    expect(outputs.length).toBeGreaterThan(0);
    return outputs.join('');
  }

  it('installs in five lines', async () => {
    expect(await follow('In five lines')).toContain('successfully rolled out');
    expect(await world.cluster.get(resources.nasMigrationPolicies, undefined, 'default')).toBeDefined();
  });

  it('upgrades and rolls back', async () => {
    expect(await follow('Upgrade and rollback')).toContain('Rollback was a success');
  });

  it('uninstalls, and removes what is left', async () => {
    const { cluster } = world;
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
    const block = blocks.find(({ page, mode }) => page === INSTALL && mode === 'without-helm');
    if (block === undefined) throw new Error(`${INSTALL} has no block for an installation without Helm`);
    expect(await shell(world, block)).toContain('successfully rolled out');
    const images = await world.cluster.kubectl(['-n', NAMESPACE, 'get', 'deployment', '-o', 'yaml']);
    expect(images.match(/registry\.example\/nas-aware-migration:0\.1\.0/g)).toHaveLength(2);
  });

  it('has no other command', () => {
    const sections = new Set(['In five lines', 'Upgrade and rollback', 'Uninstall', 'Without Helm']);
    const forgotten = blocks.filter(({ page, section }) => page === INSTALL && !sections.has(section));
    expect(forgotten).toEqual([]);
  });
});

describe('guides on an installed cluster', () => {
  let world: DocsWorld;
  const guides = [...new Set(runnable.map(({ page }) => page))].filter((page) => page !== INSTALL);

  beforeAll(async () => {
    world = await DocsWorld.start({ install: true });
  });

  afterAll(() => world?.stop());

  it('are there', () => {
    expect(guides).toEqual(
      expect.arrayContaining([
        'docs/first-migration.md',
        'docs/policies-and-drains.md',
        'docs/tuning.md',
        'docs/operations.md',
        'docs/troubleshooting.md',
      ]),
    );
  });

  it.each(guides)(
    '%s: every command does what it says',
    async (page) => {
      await world.reset();
      const before = BEFORE[page];
      if (before !== undefined) await shell(world, { page, line: 0, script: before });
      const outputs: string[] = [];
      for (const block of runnable.filter((one) => one.page === page))
        outputs.push(await shell(world, block));
      expect(world.problems).toBe('');
      for (const promise of PROMISED[page] ?? []) expect(outputs.join('')).toMatch(promise);
    },
    PAGE_TIMEOUT_MS,
  );
});

describe('commands that are not run', () => {
  it('say why', () => {
    const reasons = blocks.filter(({ mode }) => mode === 'no-run').map(({ reason }) => reason);
    for (const reason of reasons) expect(reason.split(' ').length).toBeGreaterThan(3);
  });

  it.each(Object.entries(OTHERS))('of %s have a suite of their own: %s', async (_pages, suite) => {
    expect((await stat(path.join(repositoryRoot, suite))).size).toBeGreaterThan(0);
  });
});

describe('links', () => {
  it('lead to what is there', async () => {
    const dead: string[] = [];
    for (const [page, text] of texts) {
      for (const link of localLinks(page, text)) {
        const target = link.path === '' ? page : path.posix.join(path.posix.dirname(page), link.path);
        const found = await stat(path.join(repositoryRoot, target)).catch(() => undefined);
        const where = `${page}:${link.line} -> ${link.path}${link.anchor === undefined ? '' : `#${link.anchor}`}`;
        if (found === undefined) dead.push(where);
        else if (link.anchor !== undefined && target.endsWith('.md')) {
          const body = texts.get(target) ?? (await readFile(path.join(repositoryRoot, target), 'utf8'));
          if (!anchorsOf(body).has(link.anchor)) dead.push(where);
        }
      }
    }
    expect(dead).toEqual([]);
  });

  it('reach every page from the index', () => {
    const index = texts.get('docs/README.md') ?? '';
    const linked = new Set(
      localLinks('docs/README.md', index).map((link) => path.posix.join('docs', link.path)),
    );
    const unlinked = [...texts.keys()].filter(
      (page) =>
        page.startsWith('docs/') && !/^docs\/(README|runbooks\/|adr\/)/.test(page) && !linked.has(page),
    );
    expect(unlinked).toEqual([]);
  });
});
