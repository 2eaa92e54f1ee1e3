// The programs that shipping needs besides Node: built once from their Go modules at a pinned version into `.cache/bin`, named
// by that version. Nothing is downloaded but Go modules.
//   node hack/ship/tools.ts [helm|kubeconform …]     builds what is missing and prints the paths
import { execFile } from 'node:child_process';
import { access, constants, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

interface Tool {
  readonly package: string;
  readonly version: string;
}

const tools = {
  helm: { package: 'helm.sh/helm/v4/cmd/helm', version: 'v4.3.1' },
  kind: { package: 'sigs.k8s.io/kind', version: 'v0.32.0' },
  kubeconform: { package: 'github.com/yannh/kubeconform/cmd/kubeconform', version: 'v0.8.0' },
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
  const tool = tools[name];
  const file = path.join(binDirectory, `${name}-${tool.version}`);
  if (await isExecutable(file)) return file;
  await mkdir(binDirectory, { recursive: true });
  const building = await mkdtemp(path.join(binDirectory, '.building-'));
  try {
    // One package at a time and at low priority. No cgo: the program runs on any Linux.
    await run(
      'nice',
      [
        '-n',
        '10',
        'go',
        'install',
        '-p',
        '1',
        '-trimpath',
        '-ldflags',
        '-s -w',
        `${tool.package}@${tool.version}`,
      ],
      {
        env: { ...process.env, GOBIN: building, GOFLAGS: '', CGO_ENABLED: '0' },
        timeout: BUILD_TIMEOUT_MS,
        maxBuffer: 16 * 1024 * 1024,
      },
    );
    await rename(path.join(building, name), file);
  } catch (error) {
    throw new ToolBuildError(name, error instanceof Error ? error.message : String(error));
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  return file;
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
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
