// Builds the lab's Go programs (test/lab/go, standard library only) when their source has changed, into
// `.cache/lab-bin/<name>-<digest of source>`. The binaries are static, so that they run in any root.

import { access, constants, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CACHE_DIR, ensureBuilt, recipeDigest } from './build-cache.ts';
import { runCommand } from './run-command.ts';

export type GoProgram =
  | 'recorder'
  | 'migration-proxy'
  | 'guest-init'
  | 'guest-data-disk'
  | 'nfs-write-counter'
  | 'frame-relay';

const MODULE_DIRECTORY = join(import.meta.dirname, 'go');
/** Where go.dev's archives install, which is often not on PATH. */
const USUAL_GO = '/usr/local/go/bin/go';
const BUILD_TIMEOUT_MS = 5 * 60_000;

/** There is no Go compiler. */
export class GoMissingError extends Error {
  readonly code = 'NASMIG_LAB_GO_MISSING';
  constructor() {
    super(
      `the lab's proxies and recorders are Go programs, and there is no \`go\` on PATH or at ${USUAL_GO}; install Go 1.19 or later`,
    );
    this.name = 'GoMissingError';
  }
}

/** Absolute path of the binary of `program`, built if need be. Throws GoMissingError, CommandFailedError. */
export async function buildGoProgram(program: GoProgram): Promise<string> {
  const directory = join(MODULE_DIRECTORY, 'cmd', program);
  const sources = [join(MODULE_DIRECTORY, 'go.mod')];
  for (const name of (await readdir(directory)).sort()) {
    if (name.endsWith('.go') && !name.endsWith('_test.go')) sources.push(join(directory, name));
  }
  const contents: string[] = [];
  for (const source of sources)
    contents.push(source.slice(MODULE_DIRECTORY.length), await readFile(source, 'utf8'));
  return ensureBuilt(
    join(CACHE_DIR, 'lab-bin', `${program}-${recipeDigest(contents)}`),
    async (temporaryPath) => {
      const go = await findGo();
      await runCommand([go, 'build', '-trimpath', '-o', temporaryPath, `./cmd/${program}`], {
        cwd: MODULE_DIRECTORY,
        // GOTOOLCHAIN: the installed compiler, never a download.
        env: { ...process.env, CGO_ENABLED: '0', GOTOOLCHAIN: 'local', GOFLAGS: '-mod=mod' },
        timeoutMs: BUILD_TIMEOUT_MS,
      });
    },
  );
}

/** Absolute path of the Go compiler. Throws GoMissingError. */
export async function findGo(): Promise<string> {
  const candidates = (process.env['PATH'] ?? '')
    .split(':')
    .filter(Boolean)
    .map((directory) => join(directory, 'go'));
  for (const candidate of [...candidates, USUAL_GO]) {
    const found = await access(candidate, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return candidate;
  }
  throw new GoMissingError();
}
