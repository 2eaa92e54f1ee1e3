// The image has no package folder. What a program would read from one it must have in its bundle, also in a part that is loaded
// only when a migration comes.
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PAGE_BYTES, PageHasher } from '../../sidecar/index/page-hash.ts';
import { compileProgram } from './compile.ts';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'nasmig-compile-'));
  await compileProgram('sidecar', directory);
});
afterAll(() => rm(directory, { recursive: true }));

/** What the part of the bundle that declares the class PageHasher exports, by whatever names. */
async function exportsBesidePageHasher(): Promise<unknown[]> {
  for (const name of await readdir(directory)) {
    const part = path.join(directory, name);
    if (name.endsWith('.js') && /PageHasher = class/.test(await readFile(part, 'utf8')))
      return Object.values(await import(part));
  }
  throw new Error('no part of the bundle declares PageHasher');
}

describe("the sidecar's bundle", () => {
  it('has no character that would double the memory of its source', async () => {
    for (const name of await readdir(directory)) {
      expect(await readFile(path.join(directory, name), 'utf8')).not.toMatch(/[\u0100-\uffff]/);
    }
  });

  it('hashes pages as the sources do, where there is no package folder', async () => {
    const Bundled = (await exportsBesidePageHasher()).find(
      (value): value is typeof PageHasher => typeof value === 'function' && value.name === 'PageHasher',
    );
    if (Bundled === undefined) throw new Error('the bundle does not export PageHasher');
    const page = new Uint8Array(PAGE_BYTES).map((_, i) => i & 0xff);
    const [bundled, own] = [new Bundled({ hi: 1, lo: -2 }), new PageHasher({ hi: 1, lo: -2 })];
    bundled.hash(page, 0);
    own.hash(page, 0);
    expect([bundled.hi, bundled.lo]).toEqual([own.hi, own.lo]);
  });
});
