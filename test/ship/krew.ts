// krew, built once from its Go module at a pinned version into `.cache/bin`. Not by `go install`, which also asks for a list of
// versions that some module proxies do not have: by a module of its own that requires it.
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { repositoryRoot } from '../../hack/ship/tools.ts';

const run = promisify(execFile);

const MODULE = 'sigs.k8s.io/krew';
const VERSION = 'v0.5.0';
const BUILD_TIMEOUT_MS = 20 * 60_000;

/** krew could not be built. */
export class KrewBuildError extends Error {
  readonly code = 'NASMIG_TEST_KREW_BUILD';

  constructor(cause: string) {
    super(`krew could not be built: ${cause}\nIt needs Go and the Go module proxy.`);
    this.name = 'KrewBuildError';
  }
}

/** Where krew is; built when it is not there yet. Throws {@link KrewBuildError}. */
export async function ensureKrew(): Promise<string> {
  const bin = path.join(repositoryRoot, '.cache', 'bin');
  const program = path.join(bin, `krew-${VERSION}`);
  const isThere = await access(program).then(
    () => true,
    () => false,
  );
  if (isThere) return program;
  await mkdir(bin, { recursive: true });
  const building = await mkdtemp(path.join(bin, '.building-'));
  try {
    await writeFile(
      path.join(building, 'go.mod'),
      `module building\n\ngo 1.25\n\nrequire ${MODULE} ${VERSION}\n`,
    );
    // A package that imports it, so that its requirements are those of this module.
    await writeFile(
      path.join(building, 'tools.go'),
      `//go:build tools\n\npackage building\n\nimport _ "${MODULE}/cmd/krew"\n`,
    );
    await run(
      'nice',
      [
        '-n',
        '10',
        'go',
        'build',
        '-p',
        '1',
        '-trimpath',
        '-ldflags',
        '-s -w',
        '-o',
        'krew',
        `${MODULE}/cmd/krew`,
      ],
      {
        cwd: building,
        env: { ...process.env, GOFLAGS: '-mod=mod', CGO_ENABLED: '0' },
        timeout: BUILD_TIMEOUT_MS,
        maxBuffer: 16 * 1024 * 1024,
      },
    );
    await rename(path.join(building, 'krew'), program);
  } catch (error) {
    throw new KrewBuildError(error instanceof Error ? error.message : String(error));
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  return program;
}
