// What setup.sh says of a Go compiler that is too old; the rest of it is run by every target of the Makefile.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

const bin = mkdtempSync(path.join(tmpdir(), 'nasmig-setup-'));
afterAll(() => rmSync(bin, { recursive: true, force: true }));

/** Runs the function that looks for a compiler with this one. */
function goCompiler(version: string): { status: number | null; stdout: string; stderr: string } {
  writeFileSync(path.join(bin, 'go'), `#!/bin/sh\necho ${version}\n`, { mode: 0o755 });
  const script =
    'set -- && source hack/setup.sh && PATH="$FIRST:$PATH" && go_compiler && echo "toolchain $GOTOOLCHAIN"';
  return spawnSync('bash', ['--norc', '-c', script], {
    cwd: path.resolve(import.meta.dirname, '..'),
    encoding: 'utf8',
    env: { PATH: '/usr/bin:/bin', FIRST: bin, GOTOOLCHAIN: 'local' },
  });
}

describe('setup.sh', () => {
  it.each([
    ['go1.26.0', 'toolchain local'],
    ['go1.30.1', 'toolchain local'],
    ['go1.24.4', 'toolchain auto'],
  ])('takes %s', (version, said) => {
    const { status, stdout, stderr } = goCompiler(version);
    expect(stderr).toBe('');
    expect(stdout.trim()).toBe(said);
    expect(status).toBe(0);
  });

  it('refuses one that cannot fetch a newer one, and says what to do', () => {
    const { status, stderr } = goCompiler('go1.19.8');
    expect(status).toBe(1);
    expect(stderr).toContain('Go 1.26 or later is needed');
  });
});
