// The commands that kind.sh would run, without running any: their order, their versions, and what they name in this repository.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const repository = resolve(import.meta.dirname, '../..');
const script = 'hack/kind/kind.sh';

function dryRun(verb: string): string[] {
  const output = execFileSync('bash', [script, '--dry-run', verb], {
    cwd: repository,
    encoding: 'utf8',
    // Nothing but coreutils: a dry run must not need what it would run.
    env: { PATH: '/usr/bin:/bin' },
  });
  return output.split('\n').filter((line) => line.startsWith('+ '));
}

const versions = Object.fromEntries(
  readFileSync(resolve(import.meta.dirname, 'versions.env'), 'utf8')
    .split('\n')
    .filter((line) => /^[A-Z_]+=/.test(line))
    .map((line) => line.split('=', 2) as [string, string]),
);

/** Where in the list the one command is that matches. */
function placeOf(commands: readonly string[], pattern: RegExp): number {
  const places = commands.flatMap((command, index) => (pattern.test(command) ? [index] : []));
  expect(places, String(pattern)).toHaveLength(1);
  return places[0] ?? -1;
}

describe('kind.sh --dry-run up', () => {
  const commands = dryRun('up');

  it('makes every part after the one that it needs', () => {
    const order = [
      /kind create cluster/,
      /node test\/kind\/prepare\.ts/,
      /docker build --tag nasmig-guest-boot:kind/,
      /kind load docker-image/,
      /kubectl apply .* hack\/kind\/nas\.yaml/,
      /rollout status deployment\/nas /,
      /helm upgrade --install csi-driver-nfs/,
      /kubevirt-operator\.yaml/,
      /kubectl apply .* hack\/kind\/kubevirt\.yaml/,
      /wait kubevirt\/kubevirt --for condition=Available/,
      /helm upgrade --install nas-aware-migration/,
      /examples\/nas-migration-policy\.yaml/,
      /--selector \\!nasmigration\.io\/accelerate -f hack\/kind\/vm\.yaml/,
      /wait persistentvolumeclaim\/db-rootdisk/,
      /gzip -1|exec deployment\/nas -- test -e/,
      /--selector nasmigration\.io\/accelerate -f hack\/kind\/vm\.yaml/,
      /wait virtualmachineinstance\/db/,
    ].map((pattern) => placeOf(commands, pattern));
    expect(order).toEqual([...order].sort((a, b) => a - b));
  });

  it('takes every version from versions.env, the node image by digest', () => {
    const text = commands.join('\n');
    for (const name of ['KIND_NODE_IMAGE', 'KUBEVIRT_VERSION', 'CSI_DRIVER_NFS_VERSION'])
      expect(text, name).toContain(versions[name]);
    expect(versions['KIND_NODE_IMAGE']).toMatch(/^kindest\/node:v\d+\.\d+\.\d+@sha256:[0-9a-f]{64}$/);
    expect(text).not.toContain(':latest');
  });

  it('builds every image that its manifests name, and pulls none of them', () => {
    const load = commands.find((command) => command.includes('kind load')) ?? '';
    const built = commands
      .flatMap((command) => /build --tag (\S+)/.exec(command)?.[1] ?? [])
      .filter((image) => image.endsWith(':kind'));
    expect(load.split(' ').filter((word) => word.endsWith(':kind'))).toEqual(built);
    for (const file of ['nas.yaml', 'vm.yaml']) {
      const text = readFileSync(resolve(import.meta.dirname, file), 'utf8');
      for (const [, image = ''] of text.matchAll(/^\s+image: (\S+)$/gm)) expect(built).toContain(image);
      expect(text.match(/imagePullPolicy: Never/g)).toHaveLength((text.match(/^\s+image: /gm) ?? []).length);
    }
    const values = readFileSync(resolve(import.meta.dirname, 'values.yaml'), 'utf8');
    expect(values).toContain('repository: nas-aware-migration\n  tag: kind');
  });

  it('samples as soon as the lab, with an image made from the one of this tree', () => {
    const dockerfile = readFileSync(resolve(import.meta.dirname, 'eager/Dockerfile'), 'utf8');
    const base = /^FROM (\S+)$/m.exec(dockerfile)?.[1] ?? '';
    const places = [`build --tag ${base} \\.$`, 'build --tag nas-aware-migration:kind hack/kind/eager$'].map(
      (end) => placeOf(commands, new RegExp(end)),
    );
    expect(places).toEqual([...places].sort((a, b) => a - b));
    const lab = readFileSync(resolve(repository, 'test/cluster/images.ts'), 'utf8');
    expect(lab).toContain("NASMIG_INDEX_DELAY_MS: '4000'");
    expect(dockerfile).toContain('NASMIG_INDEX_DELAY_MS=4000');
  });

  it('names files that are there', () => {
    const files = commands.flatMap(
      (command) => command.match(/(?:hack|test|examples|charts)\/[\w./-]+/g) ?? [],
    );
    expect(files.length).toBeGreaterThan(8);
    for (const file of files) expect(existsSync(resolve(repository, file)), file).toBe(true);
  });

  it('never touches the kubeconfig of whoever runs it', () => {
    const create = commands.find((command) => command.includes('create cluster')) ?? '';
    expect(create).toMatch(/--kubeconfig \S*\.cache\/kind\/kubeconfig/);
  });
});

describe('kind.sh', () => {
  it('runs the end-to-end files of the lab with the kind driver', () => {
    expect(dryRun('test')).toEqual([
      expect.stringContaining('kubectl delete namespace shop --ignore-not-found'),
      expect.stringMatching(/NASMIG_E2E_CLUSTER=kind .*vitest run --config test\/kind\/vitest\.config\.ts$/),
    ]);
  });

  it('removes the cluster and what it kept', () => {
    expect(dryRun('down')).toEqual([
      expect.stringContaining('kind delete cluster --name nasmig'),
      '+ rm -rf .cache/kind',
    ]);
  });

  it('says how it is used when it is used otherwise', () => {
    for (const words of [[], ['sideways'], ['--dry-run'], ['up', 'down']]) {
      const { status, stderr } = spawnSync('bash', [script, ...words], { cwd: repository, encoding: 'utf8' });
      expect(status).toBe(2);
      expect(stderr).toContain('hack/kind/kind.sh [--dry-run] up');
    }
  });

  it('says all that is missing, and what to do about each', () => {
    const { status, stderr } = spawnSync('bash', [script, 'check'], {
      cwd: repository,
      encoding: 'utf8',
      env: { PATH: '/usr/bin:/bin' },
    });
    const lines = stderr.split('\n').filter((line) => line.startsWith('kind: missing: '));
    expect(lines.length).toBe(status);
    expect(lines.length).toBeGreaterThan(0);
    expect(stderr).toContain(`go install sigs.k8s.io/kind@${versions['KIND_VERSION']}`);
    for (const line of lines) expect(line).toMatch(/\. \S/);
  });
});
