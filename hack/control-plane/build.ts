// Builds kube-apiserver, kube-controller-manager, kubectl and etcd from their Go modules, once, into the cache.
//   node hack/control-plane/build.ts            what is missing
//   node hack/control-plane/build.ts --all      all of it, whatever lies on PATH
// k8s.io/kubernetes names its staging modules as v0.0.0 with replacements by relative path, which a module zip does not
// contain; so a go.mod is generated that replaces each by its published version. etcd is the version Kubernetes was tested
// with: it is in the same module graph.
import { execFile, spawn } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { cacheDirectory, kubernetesRelease, missingPrograms, type Program, programs } from './release.ts';

const run = promisify(execFile);

const packages: Record<Program, string> = {
  etcd: 'go.etcd.io/etcd/server/v3',
  'kube-apiserver': 'k8s.io/kubernetes/cmd/kube-apiserver',
  'kube-controller-manager': 'k8s.io/kubernetes/cmd/kube-controller-manager',
  kubectl: 'k8s.io/kubernetes/cmd/kubectl',
};

/** Two compilations at a time: the machine is shared with running VMs. */
const PARALLEL_COMPILATIONS = '2';
/** A cold build of kube-apiserver takes 4 minutes on two cores; four times that with the machine busy, and some more. */
const BUILD_TIMEOUT_MS = 40 * 60_000;

/** The module names that Kubernetes' go.mod replaces by a path under ./staging. */
export function stagingModules(goMod: string): string[] {
  return [...goMod.matchAll(/^\s+(k8s\.io\/[a-z0-9-]+) => \.\/staging\//gm)].map((match) => match[1] ?? '');
}

/** A go.mod from which all four programs build. `release` is like `v1.37.2`. */
export function generateGoMod(release: string, kubernetesGoMod: string): string {
  const go = /^go (\S+)$/m.exec(kubernetesGoMod)?.[1] ?? '1.26.0';
  const stagingVersion = release.replace(/^v1\./, 'v0.');
  const replacements = stagingModules(kubernetesGoMod).map(
    (module) => `\t${module} => ${module} ${stagingVersion}`,
  );
  return [
    'module control-plane',
    '',
    `go ${go}`,
    '',
    `require k8s.io/kubernetes ${release}`,
    '',
    'replace (',
    ...replacements,
    ')',
    '',
  ].join('\n');
}

/** Linker flags by which the programs report their release as an official build does. */
export function versionFlags(release: string): string {
  const [major = '1', minor = '0'] = release.slice(1).split('.');
  const values = { gitVersion: release, gitMajor: major, gitMinor: minor, gitTreeState: 'clean' };
  const settings = ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'].flatMap((module) =>
    Object.entries(values).map(([key, value]) => `-X ${module}.${key}=${value}`),
  );
  return ['-s', '-w', ...settings].join(' ');
}

async function build(wanted: readonly Program[]): Promise<void> {
  const directory = path.join(cacheDirectory, 'build');
  await mkdir(path.join(cacheDirectory, 'bin'), { recursive: true });
  await mkdir(directory, { recursive: true });
  const download = await run('go', ['mod', 'download', '-json', `k8s.io/kubernetes@${kubernetesRelease}`], {
    cwd: directory,
    env: { ...process.env, GOFLAGS: '-mod=mod' },
    timeout: BUILD_TIMEOUT_MS,
  });
  const { GoMod } = JSON.parse(download.stdout) as { GoMod: string };
  await writeFile(
    path.join(directory, 'go.mod'),
    generateGoMod(kubernetesRelease, await readFile(GoMod, 'utf8')),
  );
  for (const program of wanted) {
    const startedAt = performance.now();
    console.log(`building ${program} of ${kubernetesRelease} …`);
    await compile(directory, program);
    console.log(`built ${program} in ${((performance.now() - startedAt) / 1000).toFixed(0)} s`);
  }
}

function compile(directory: string, program: Program): Promise<void> {
  const output = path.join(cacheDirectory, 'bin', program);
  const flags = program === 'etcd' ? '-s -w' : versionFlags(kubernetesRelease);
  const command = ['-n', '10', 'go', 'build', '-p', PARALLEL_COMPILATIONS, '-trimpath', '-ldflags', flags];
  return new Promise((resolve, reject) => {
    const child = spawn('nice', [...command, '-o', output, packages[program]], {
      cwd: directory,
      env: { ...process.env, GOFLAGS: '-mod=mod', CGO_ENABLED: '0' },
      stdio: ['ignore', 'inherit', 'inherit'],
      timeout: BUILD_TIMEOUT_MS,
    });
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`go build of ${program} ended with ${code ?? signal}; see its output above`));
    });
  });
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { all: { type: 'boolean', default: false } } });
  const wanted = values.all ? [...programs] : await missingPrograms();
  if (wanted.length === 0) console.log('all programs of the control plane are there');
  else await build(wanted);
}
