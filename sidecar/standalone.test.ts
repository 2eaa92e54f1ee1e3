// The standalone sidecar as a process: an index file that it cannot use is told by its code, and made anew.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { BlockIndex } from './index/block-index.ts';
import { type IndexKind, loadIndex, saveIndex } from './index/index-file.ts';

const BLOCKS = 256;
const VOLUMES = [{ name: 'root', sizeBytes: BLOCKS * 4096 }];
const BUDGET_BYTES = 1 << 20;
const PROGRAM = new URL('standalone.ts', import.meta.url).pathname;

let directory: string;
let file: string;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'nasmig-standalone-'));
  file = join(directory, 'index');
  writeFileSync(join(directory, 'disk.img'), randomBytes(BLOCKS * 4096));
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

async function save(volumes = VOLUMES, kind: IndexKind = 'inherited'): Promise<void> {
  const index = BlockIndex.create({ volumes, seed: { hi: 1, lo: 2 }, budgetBytes: BUDGET_BYTES });
  for (let block = 0; block < 9; block++) index.add(0, block, block + 1, 7);
  await saveIndex(file, index, { kind, nasBytes: 0, seconds: 0, completedAtMs: Date.now() });
}

interface Told {
  readonly index: { readonly kind: string; readonly nasBytes: number; readonly entries: number };
  /** What grew the index; not there for one that does not grow. */
  readonly grown?: object;
  readonly log: string;
}

/** Starts a source with the file as its index, and ends it when it is ready. */
async function start(): Promise<Told> {
  const at = (name: string): string => join(directory, name);
  writeFileSync(at('key'), randomBytes(32).toString('hex'));
  const config = {
    ...{ role: 'source', listen: at('source.sock'), dial: at('target.sock') },
    ...{ migrationId: '5b3c1f0e-9a7d-4c55-8d1e-0123456789ab', sessionKeyFile: at('key') },
    volumes: [{ name: 'root', path: at('disk.img') }],
    index: { kind: 'load', file, budgetBytes: BUDGET_BYTES },
  };
  writeFileSync(at('config.json'), JSON.stringify(config));
  const child = spawn(process.execPath, [PROGRAM, at('config.json')], { timeout: 15_000 });
  let [out, log] = ['', ''];
  const line = (event: string): string | undefined =>
    out.split('\n').find((text) => text.startsWith(`{"event":"${event}"`) && text.endsWith('}'));
  child.stderr.on('data', (bytes: Buffer) => {
    log += bytes.toString();
  });
  child.stdout.on('data', (bytes: Buffer) => {
    out += bytes.toString();
    if (line('ready') !== undefined) child.kill('SIGTERM');
  });
  await once(child, 'close');
  const result = line('result');
  if (result === undefined) throw new Error(`the sidecar told no result:\n${log}`);
  return { ...JSON.parse(result), log };
}

it('takes its index from a file that it can use, and reads nothing for it', async () => {
  await save();
  const before = readFileSync(file);
  const { index, grown, log } = await start();
  expect(index).toMatchObject({ kind: 'inherited', nasBytes: 0, entries: 9 });
  expect(grown).toBeUndefined();
  expect(log).not.toContain('NASMIG_INDEX_FILE');
  expect(readFileSync(file)).toEqual(before);
});

it.each([
  ['MISSING', () => {}],
  ['FOREIGN', () => writeFileSync(file, randomBytes(2000))],
  ['VOLUMES', () => save([{ name: 'data', sizeBytes: BLOCKS * 4096 }])],
  [
    'DAMAGED',
    async () => {
      await save();
      const bytes = readFileSync(file);
      bytes[100] = ~(bytes[100] as number);
      writeFileSync(file, bytes);
    },
  ],
])('samples an index, and saves it in the place of a file that is refused: %s', async (code, spoil) => {
  await spoil();
  const { index, grown, log } = await start();
  expect(index).toMatchObject({ kind: 'sampled', entries: Math.ceil(BLOCKS / 10) });
  expect(index.nasBytes).toBeGreaterThan(0);
  expect(grown).toBeDefined();
  expect(log).toContain(`"code":"NASMIG_INDEX_FILE_${code}"`);
  const saved = await loadIndex(file, { volumes: VOLUMES, budgetBytes: BUDGET_BYTES });
  expect(saved.provenance).toMatchObject({ kind: 'sampled', nasBytes: index.nasBytes });
  expect(saved.index.count).toBe(Math.ceil(BLOCKS / 10));
});

it('goes on with what it sampled where nothing can be saved', async () => {
  mkdirSync(file);
  const { index, log } = await start();
  expect(index).toMatchObject({ kind: 'sampled', entries: Math.ceil(BLOCKS / 10) });
  expect(log).toContain('"code":"NASMIG_INDEX_FILE_UNREADABLE"');
  expect(log).toContain('EISDIR');
});
