import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { generateMigration } from '../sidecar/stream/test-streams.ts';

let folder = '';
const migration = generateMigration({ channels: 1, seed: 2 });

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'inspect-stream-'));
  writeFileSync(join(folder, 'main'), migration.main);
  writeFileSync(join(folder, 'channel'), migration.multifd[0]!);
  writeFileSync(join(folder, 'text'), 'not a stream');
});

afterAll(() => rmSync(folder, { recursive: true }));

function inspect(...files: string[]) {
  const tool = join(import.meta.dirname, 'inspect-stream.ts');
  return spawnSync(process.execPath, [tool, ...files.map((file) => join(folder, file))], {
    encoding: 'utf8',
  });
}

it('prints what the finder sees, the main channel first', () => {
  const { stdout, status } = inspect('channel', 'text', 'main');
  expect(status).toBe(0);
  expect(stdout.startsWith('main: main channel, ')).toBe(true);
  expect(stdout).toContain('section END ram');
  expect(stdout).toMatch(/opaque from byte \d+ on: ram-end/);
  expect(stdout).toContain('channel: multifd channel 0, ');
  expect(stdout).toContain('text: unknown connection, no pages to find');
  const normal = [...stdout.matchAll(/: (\d+) normal/g)].reduce((sum, match) => sum + Number(match[1]), 0);
  expect(normal).toBe(migration.sent.normal);
});

it('names a file that cannot be read, and shows the others', () => {
  const { stdout, stderr, status } = inspect('missing', 'main');
  expect(status).toBe(1);
  expect(stderr).toContain('missing');
  expect(stdout).toContain('main: main channel, ');
});

it('explains its use', () => {
  const { stderr, status } = inspect();
  expect(status).toBe(2);
  expect(stderr).toContain('usage: ');
});
