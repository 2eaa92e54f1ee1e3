// The programs that shipping needs besides Node: built once from their Go modules at a pinned version into `.cache/bin`, named
// by that version. Nothing is downloaded but Go modules.
//   node hack/ship/tools.ts [helm|kubeconform …]     builds what is missing and prints the paths
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { isExecutable } from '../executable.ts';

const run = promisify(execFile);

interface Tool {
  readonly module: string;
  /** Of the program, below the module; its last part is the program's name. */
  readonly folder: string;
  readonly version: string;
  /** `go install` also asks for a list of versions of the module's parents, which some module proxies do not have for this one. */
  readonly listless?: true;
}

const tools = {
  helm: { module: 'helm.sh/helm/v4', folder: '/cmd/helm', version: 'v4.3.1' },
  kind: { module: 'sigs.k8s.io/kind', folder: '', version: 'v0.32.0' },
  kubeconform: { module: 'github.com/yannh/kubeconform', folder: '/cmd/kubeconform', version: 'v0.8.0' },
  krew: { module: 'sigs.k8s.io/krew', folder: '/cmd/krew', version: 'v0.5.0', listless: true },
  actionlint: { module: 'github.com/rhysd/actionlint', folder: '/cmd/actionlint', version: 'v1.7.12' },
} as const satisfies Record<string, Tool>;

export type ToolName = keyof typeof tools;
export const toolNames = Object.keys(tools) as ToolName[];

export const repositoryRoot = path.resolve(import.meta.dirname, '../..');
const binDirectory = path.join(repositoryRoot, '.cache', 'bin');
/** helm takes four minutes on two idle cores; the machine may be running VMs at the same time. */
const BUILD_TIMEOUT_MS = 40 * 60_000;

/** A tool could not be built. */
export class ToolBuildError extends Error {
  readonly code = 'NASMIG_SHIP_TOOL_BUILD';

  constructor(name: string, cause: string) {
    super(
      `${name} could not be built: ${cause}\nIt needs Go and the Go module proxy; see hack/ship/tools.ts.`,
    );
    this.name = 'ToolBuildError';
  }
}

/** Where the tool is; built when it is not there yet. Throws {@link ToolBuildError}. */
export async function ensureTool(name: ToolName): Promise<string> {
  const tool: Tool = tools[name];
  const file = path.join(binDirectory, `${name}-${tool.version}`);
  if (await isExecutable(file)) return file;
  await mkdir(binDirectory, { recursive: true });
  const building = await mkdtemp(path.join(binDirectory, '.building-'));
  try {
    await build(tool, building);
    await rename(path.join(building, name), file);
  } catch (error) {
    throw new ToolBuildError(name, error instanceof Error ? error.message : String(error));
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  return file;
}

/** One package at a time and at low priority. No cgo: the program runs on any Linux. */
async function build({ module, folder, version, listless }: Tool, directory: string): Promise<void> {
  const program = `${module}${folder}`;
  const flags = ['-p', '1', '-trimpath', '-ldflags', '-s -w'];
  if (listless === true) {
    // Built in a module that requires it, through a package that imports it, so that its requirements are those of this module.
    const requires = `module building\n\ngo 1.25\n\nrequire ${module} ${version}\n`;
    const imports = `//go:build tools\n\npackage building\n\nimport _ "${program}"\n`;
    await writeFile(path.join(directory, 'go.mod'), requires);
    await writeFile(path.join(directory, 'tools.go'), imports);
  }
  const command =
    listless === true
      ? ['build', ...flags, '-o', path.basename(program), program]
      : ['install', ...flags, `${program}@${version}`];
  await run('nice', ['-n', '10', 'go', ...command], {
    cwd: directory,
    env: {
      ...process.env,
      GOBIN: directory,
      GOFLAGS: listless === true ? '-mod=mod' : '',
      CGO_ENABLED: '0',
    },
    timeout: BUILD_TIMEOUT_MS,
    maxBuffer: 16 * 1024 * 1024,
  });
}

if (import.meta.main) {
  const wanted = process.argv.slice(2);
  const unknown = wanted.filter((name) => !toolNames.some((known) => known === name));
  if (unknown.length > 0) {
    console.error(`unknown tool ${unknown.join(', ')}; known: ${toolNames.join(', ')}`);
    process.exit(2);
  }
  for (const name of wanted.length === 0 ? toolNames : (wanted as ToolName[]))
    console.log(await ensureTool(name));
}
