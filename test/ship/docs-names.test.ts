// What the documents name in code font is there: metrics, reasons and conditions, fields, chart values, environment variables, make
// targets, files. The reference pages that the names are compared with are generated from the code and checked elsewhere.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { reasons } from '../../control/reasons.ts';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { documentedValues } from '../../hack/ship/values-table.ts';
import { OperatorMetrics } from '../../operator/metrics/metrics.ts';

const read = (file: string) => readFileSync(path.join(repositoryRoot, file), 'utf8');

const pages = [
  'README.md',
  'CHANGELOG.md',
  ...readdirSync(path.join(repositoryRoot, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`)
    .sort(),
];

/** Text in code font and in fenced blocks, by page. */
const named = new Map(
  pages.map((page) => {
    const text = read(page);
    const fenced = [...text.matchAll(/^\s*```[^\n]*\n([\s\S]*?)^\s*```/gm)].map((match) => match[1] ?? '');
    const inline = [...text.replace(/^\s*```[\s\S]*?^\s*```/gm, '').matchAll(/`([^`\n]+)`/g)];
    return [page, { inline: inline.map((match) => match[1] ?? ''), all: `${fenced.join('\n')}\n${text}` }];
  }),
);

/** Each page's matches of a pattern that are not known, as `page: name`. */
function unknown(matches: (page: string) => Iterable<string>, isKnown: (name: string) => boolean): string[] {
  return pages.flatMap((page) =>
    [...new Set(matches(page))].filter((name) => !isKnown(name)).map((name) => `${page}: ${name}`),
  );
}

const inline = (page: string) => named.get(page)?.inline ?? [];
const everywhere = (pattern: RegExp) => (page: string) =>
  [...(named.get(page)?.all ?? '').matchAll(pattern)].map((match) => match[1] ?? match[0]);

/** All sources as one text: what a name must be found in. */
const sources = execFileSync(
  'git',
  [
    'ls-files',
    '--cached',
    '--others',
    '--exclude-standard',
    '*.ts',
    '*.go',
    '*.yaml',
    '*.sh',
    '*.env',
    '*.tpl',
  ],
  { cwd: repositoryRoot, encoding: 'utf8' },
)
  .split('\n')
  .filter((file) => file !== '' && existsSync(path.join(repositoryRoot, file)))
  .map(read)
  .join('\n');

describe('names in the documents', () => {
  it('of metrics are those of the operator', async () => {
    const known = new Set((await new OperatorMetrics().registry.getMetricsAsJSON()).map(({ name }) => name));
    const isKnown = (name: string) =>
      known.has(name) || known.has(name.replace(/_(bucket|sum|count)$/, '')) || name.endsWith('_');
    expect(unknown(everywhere(/\bnasmig_[a-z_]+\b/g), isKnown)).toEqual([]);
  });

  it('of environment variables are read by somebody', () => {
    const isKnown = (name: string) => name.endsWith('_') || sources.includes(name);
    expect(unknown(everywhere(/\bNASMIG_[A-Z_]+\b/g), isKnown)).toEqual([]);
  });

  it('of reasons, conditions and kinds are in the code, or are of others', () => {
    /** Names of KubeVirt, Kubernetes and Prometheus, which this code does not have to contain. */
    const others = new Set(['MigrationStallDetection', 'NetworkPolicies', 'LiveMigrate']);
    const known = new Set<string>([...reasons, ...others]);
    const isKnown = (name: string) => known.has(name) || new RegExp(`\\b${name}\\b`).test(sources);
    const words = (page: string) => inline(page).filter((word) => /^([A-Z][a-z]+){2,}[A-Z]*$/.test(word));
    expect(unknown(words, isKnown)).toEqual([]);
  });

  it('of fields are those of the two custom resources', () => {
    const api = new Set(
      [...read('docs/api.md').matchAll(/^\| `([^`]+)` \|/gm)].map((match) => match[1] ?? ''),
    );
    // Of KubeVirt's and Kubernetes' own objects.
    const others =
      /^(spec\.(template|containers|initContainers|domain|volumes\b|experimental|configuration)|status\.(migrationState|volumeStatus|conditions\[))/;
    const isKnown = (name: string) => api.has(name) || others.test(name);
    const paths = (page: string) => inline(page).filter((word) => /^(spec|status)(\.[a-zA-Z]+)+$/.test(word));
    expect(unknown(paths, isKnown)).toEqual([]);
  });

  it('of chart values are in values.yaml', () => {
    const values = documentedValues(read('charts/nas-aware-migration/values.yaml')).map(
      ({ path: name }) => name,
    );
    const tops = new Set(values.filter((name) => name.includes('.')).map((name) => name.split('.')[0]));
    const isKnown = (name: string) => values.some((value) => value === name || name.startsWith(`${value}.`));
    const words = (page: string) => [
      ...inline(page)
        .map((word) => word.replace(/=.*/, ''))
        .filter((word) => /^[a-z][A-Za-z]*(\.[a-zA-Z]+)+$/.test(word) && !/\.(yaml|md)$/.test(word))
        .filter((word) => tops.has(word.split('.')[0])),
      ...everywhere(/--set(?:-json)? '?([a-zA-Z.]+)=/g)(page),
    ];
    expect(unknown(words, isKnown)).toEqual([]);
  });

  it('of the chart’s ClusterRoles, here and in the plugin, are in the chart', () => {
    const manifest = read('deploy/nas-aware-migration.yaml');
    const roles = new Set(
      [...manifest.matchAll(/^kind: ClusterRole\nmetadata:\n {2}name: (\S+)$/gm)].map(
        (match) => match[1] ?? '',
      ),
    );
    expect(roles.size).toBeGreaterThan(2);
    const plugin = execFileSync(
      'git',
      ['ls-files', '--cached', '--others', '--exclude-standard', 'plugin/*.ts'],
      {
        cwd: repositoryRoot,
        encoding: 'utf8',
      },
    )
      .split('\n')
      .filter((file) => file !== '' && existsSync(path.join(repositoryRoot, file)))
      .map(read);
    const texts = [...plugin, ...pages.map(read)];
    /** Also of several: "the ClusterRoles a and b". */
    const lists = texts.flatMap(
      (text) =>
        text.match(/\bClusterRoles? `?nas-aware-migration[a-z-]*`?(?:(?:,| and) `?[a-z-]*-[a-z-]+`?)*/g) ??
        [],
    );
    expect(lists.length).toBeGreaterThan(1);
    const used = lists.flatMap((list) => list.match(/[a-z]*-[a-z-]+/g) ?? []);
    expect(used.filter((name) => !roles.has(name))).toEqual([]);
  });

  it('of make targets are in the Makefile', () => {
    const targets = new Set(
      [...read('Makefile').matchAll(/^([a-z0-9-]+):/gm)].map((match) => match[1] ?? ''),
    );
    expect(unknown(everywhere(/(?:`|^)make ([a-z0-9-]+)/gm), (name) => targets.has(name))).toEqual([]);
  });

  it('of files and folders are there', () => {
    const tops = new Set(
      readdirSync(repositoryRoot, { withFileTypes: true }).flatMap((entry) =>
        entry.isDirectory() && !['node_modules', 'build', '.git', '.cache'].includes(entry.name)
          ? [entry.name]
          : [],
      ),
    );
    const paths = (page: string) =>
      inline(page).filter(
        (word) =>
          /^[\w.-]+\/[\w./-]*$/.test(word) && tops.has(word.split('/')[0] ?? '') && !word.includes('..'),
      );
    /** Made by a target that the page names, an hour's work. */
    const made = new Set(['docs/benchmarks.svg']);
    const isKnown = (name: string) =>
      made.has(name) ||
      existsSync(path.join(repositoryRoot, name)) ||
      existsSync(path.join(repositoryRoot, `${name}.ts`));
    expect(unknown(paths, isKnown)).toEqual([]);
  });

  it('of folders are all in docs/architecture.md', () => {
    const page = read('docs/architecture.md');
    const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
      cwd: repositoryRoot,
      encoding: 'utf8',
    });
    const folders = new Set(
      listed.split('\n').flatMap((file) => {
        const [top = '', next = '', rest] = file.split('/');
        if (next === '' || top.startsWith('.')) return [];
        const isMapped = ['sidecar', 'operator', 'test'].includes(top) && rest !== undefined;
        return isMapped ? [top, `${top}/${next}`] : [top];
      }),
    );
    expect(folders.size).toBeGreaterThan(30);
    // A folder whose own folders are named needs no line of its own.
    expect([...folders].filter((folder) => !page.includes(`\`${folder}/`))).toEqual([]);
  });

  it('of ways to upgrade are those that have values which are new in the new chart', () => {
    expect(unknown(everywhere(/ --reuse-values\b/g), () => false)).toEqual([]);
  });

  it('of the five lines to install are the same in README.md and docs/install.md', () => {
    const linesOf = (page: string) => /```sh[^\n]*\n(helm install [\s\S]*?)```/.exec(read(page))?.[1];
    expect(linesOf('README.md')).toBeDefined();
    expect(linesOf('README.md')).toBe(linesOf('docs/install.md'));
  });
});
