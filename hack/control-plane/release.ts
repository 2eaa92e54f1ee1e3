// Which Kubernetes the tests run against, and where its programs come from: KUBEBUILDER_ASSETS, else PATH, else built once
// from their Go modules into .cache/control-plane/<release>/bin. Nothing is downloaded but Go modules.
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { isExecutable } from '../executable.ts';

const run = promisify(execFile);

/** The Kubernetes release that is built when none is there. Its staging modules carry v0.<minor>.<patch>. */
export const kubernetesRelease = 'v1.37.2';

/** kube-controller-manager does what deletes and owner references need: garbage collection, namespaces, service accounts. */
export const programs = ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kubectl'] as const;
export type Program = (typeof programs)[number];

export const repositoryRoot = path.resolve(import.meta.dirname, '../..');
export const cacheDirectory = path.join(repositoryRoot, '.cache', 'control-plane', kubernetesRelease);

/** A program of the control plane is nowhere to be found. */
export class ControlPlaneProgramMissingError extends Error {
  readonly code = 'NASMIG_TEST_CONTROL_PLANE_MISSING';

  constructor(program: string) {
    super(
      `${program} was not found in KUBEBUILDER_ASSETS, on PATH, or in ${cacheDirectory}/bin: ` +
        'run `node hack/control-plane/build.ts` once (needs Go, takes some minutes), or set KUBEBUILDER_ASSETS.',
    );
    this.name = 'ControlPlaneProgramMissingError';
  }
}

/** Finds every program. Throws {@link ControlPlaneProgramMissingError} for the first that is not there. */
export async function locatePrograms(environment = process.env): Promise<Record<Program, string>> {
  const found = {} as Record<Program, string>;
  for (const program of programs) {
    const place = await locate(program, environment);
    if (place === undefined) throw new ControlPlaneProgramMissingError(program);
    found[program] = place;
  }
  return found;
}

/** The programs that would have to be built here. */
export async function missingPrograms(environment = process.env): Promise<Program[]> {
  const missing: Program[] = [];
  for (const program of programs)
    if ((await locate(program, environment)) === undefined) missing.push(program);
  return missing;
}

async function locate(program: Program, environment: NodeJS.ProcessEnv): Promise<string | undefined> {
  const assets = environment['KUBEBUILDER_ASSETS'];
  if (assets !== undefined && assets !== '') {
    const candidate = path.join(assets, program);
    if (await isExecutable(candidate)) return candidate;
  }
  const cached = path.join(cacheDirectory, 'bin', program);
  if (await isExecutable(cached)) return cached;
  for (const directory of (environment['PATH'] ?? '').split(path.delimiter)) {
    if (directory === '') continue;
    const candidate = path.join(directory, program);
    if ((await isExecutable(candidate)) && (await suits(program, candidate))) return candidate;
  }
  return undefined;
}

/** kubectl is supported within one minor of the server; a stray older one on PATH is not taken. */
async function suits(program: Program, file: string): Promise<boolean> {
  if (program !== 'kubectl') return true;
  try {
    const { stdout } = await run(file, ['version', '--client', '-o', 'json'], { timeout: 10_000 });
    const version = JSON.parse(stdout) as { clientVersion?: { gitVersion?: string } };
    const minor = minorOf(version.clientVersion?.gitVersion ?? '');
    return minor !== undefined && Math.abs(minor - (minorOf(kubernetesRelease) ?? 0)) <= 1;
  } catch {
    return false;
  }
}

function minorOf(version: string): number | undefined {
  const match = /^v1\.(\d+)\./.exec(version);
  return match === null ? undefined : Number(match[1]);
}
