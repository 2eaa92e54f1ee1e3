// The pages about this protocol say what the code does.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import * as limits from './limits.ts';
import { hubMessageSchema, sidecarMessageSchema } from './messages.ts';
import { reasonsPage } from './reasons-page.ts';

const docs = path.resolve(import.meta.dirname, '../docs');

describe('docs/control-protocol.md', () => {
  it('has a row for every message', async () => {
    const page = await readFile(path.join(docs, 'control-protocol.md'), 'utf8');
    const types = [...sidecarMessageSchema.options, ...hubMessageSchema.options].map(
      ({ shape }) => shape.type.value,
    );
    expect(types).toHaveLength(13);
    for (const type of types) expect(page).toMatch(new RegExp(`^\\| \`${type}\` \\|`, 'm'));
  });

  it.each([
    ['message', `${limits.MAX_MESSAGE_BYTES} bytes`],
    ['volumes in a message', String(limits.MAX_VOLUMES)],
    ['migrations in `hello`', String(limits.MAX_RESUMED_MIGRATIONS)],
    ['free text', `${limits.MAX_TEXT_LENGTH} characters`],
    ['time from connection to `hello`', `${limits.HELLO_TIMEOUT_MS} ms`],
    ["hold of QEMU's first connection without `go`", `${limits.GO_TIMEOUT_MS} ms`],
    ['`progress`', `at most one in ${limits.PROGRESS_INTERVAL_MS} ms`],
  ])('gives the bound of %s', async (bound, value) => {
    const page = await readFile(path.join(docs, 'control-protocol.md'), 'utf8');
    expect(page).toContain(`| ${bound} | ${value} |`);
  });

  it('names path, sub-protocol and audience', async () => {
    const page = await readFile(path.join(docs, 'control-protocol.md'), 'utf8');
    for (const name of [limits.HUB_PATH, limits.SUBPROTOCOL, limits.TOKEN_AUDIENCE])
      expect(page).toContain(`\`${name}\``);
  });
});

describe('docs/reasons.md', () => {
  it('is what the constants say', async () => {
    expect(await readFile(path.join(docs, 'reasons.md'), 'utf8')).toBe(reasonsPage());
  });
});
