import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockIndex } from './block-index.ts';
import { IndexFileError, type IndexProvenance, loadIndex, saveIndex } from './index-file.ts';
import { PAGE_BYTES } from './page-hash.ts';

const VOLUMES = [
  { name: 'rootdisk', sizeBytes: 6000 * PAGE_BYTES + 512 },
  { name: 'données', sizeBytes: 4000 * PAGE_BYTES },
];
const SEED = { hi: -5, lo: 0x7654_3210 };
const PROVENANCE: IndexProvenance = {
  kind: 'sampled',
  nasBytes: 5 * 2 ** 33 + 17,
  seconds: 12.345,
  completedAtMs: 1_790_000_000_123,
};
const LOAD = { volumes: VOLUMES, budgetBytes: 1 << 20 };
/** 56 bytes, and for each volume 9 and its name. */
const HEADER_BYTES = 56 + 9 + 8 + 9 + 8;

let directory: string;
let path: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'index-file-'));
  path = join(directory, 'index');
});
afterEach(() => rm(directory, { recursive: true }));

function makeIndex(entries: number): BlockIndex {
  const index = BlockIndex.create({ volumes: VOLUMES, seed: SEED, budgetBytes: 1 << 20 });
  for (let i = 0; i < entries; i++) {
    const [hi, lo] = makeHash(i);
    index.add(i < 6000 ? 0 : 1, i % 6000, hi, lo);
  }
  return index;
}

function makeHash(i: number): [number, number] {
  return [Math.imul(i + 1, 0x9e37_79b1) | 0, Math.imul(i + 7, 0x85eb_ca6b) | 0];
}

async function refusal(options = LOAD): Promise<string> {
  const error = await loadIndex(path, options).then(
    () => new Error('it was not refused'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof IndexFileError)) throw error;
  return error.code;
}

/** Makes the checksum right again, so that what is behind it is tested. */
function resign(bytes: Buffer): Buffer {
  const sum = createHash('sha256').update(bytes.subarray(0, -32)).digest();
  return Buffer.concat([bytes.subarray(0, -32), sum]);
}

describe('index file', () => {
  it('comes back as it was saved, for its owner only', async () => {
    const saved = await saveIndex(path, makeIndex(9000), PROVENANCE);
    expect(saved).toEqual({ entries: 9000, fileBytes: HEADER_BYTES + 9 * 9000 + 36 });
    const found = await stat(path);
    expect([found.size, found.mode & 0o777]).toEqual([saved.fileBytes, 0o600]);
    expect(await readdir(directory)).toEqual(['index']);

    const { index, provenance } = await loadIndex(path, LOAD);
    expect(provenance).toEqual(PROVENANCE);
    expect(index.seed).toEqual(SEED);
    expect(index.count).toBe(9000);
    for (let i = 0; i < 9000; i++) {
      const place = index.lookup(...makeHash(i));
      expect([index.volume(place), index.block(place)]).toEqual([i < 6000 ? 0 : 1, i % 6000]);
    }
  });

  it('has the documented bytes', async () => {
    const index = BlockIndex.create({ volumes: VOLUMES, seed: SEED, budgetBytes: 1 << 20 });
    index.add(1, 2, -1, 0x1234_56ab);
    index.add(0, 1, 1, 2);
    await saveIndex(path, index, PROVENANCE);
    const bytes = await readFile(path);
    expect(bytes.toString('latin1', 0, 8)).toBe('NASMIDX\n');
    expect(bytes.toString('hex', 8, 32)).toBe(
      `00010002${HEADER_BYTES.toString(16).padStart(8, '0')}fffffffb765432100000000000000000`,
    );
    expect(bytes.toString('hex', 32, 56)).toBe(
      [PROVENANCE.completedAtMs, PROVENANCE.nasBytes, 12345]
        .map((v) => v.toString(16).padStart(16, '0'))
        .join(''),
    );
    expect(bytes.subarray(HEADER_BYTES, -32).toString('hex')).toBe(
      '000000010200000001' + 'ffffffffab00001772' + '00000002',
    );
  });

  it('replaces an older file, and its left-over temporary file', async () => {
    await saveIndex(path, makeIndex(10), PROVENANCE);
    await writeFile(`${path}.tmp`, 'left over', { mode: 0o644 });
    await saveIndex(path, makeIndex(20), PROVENANCE);
    expect((await loadIndex(path, LOAD)).index.count).toBe(20);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  it('leaves the older file when saving fails', async () => {
    await saveIndex(path, makeIndex(10), PROVENANCE);
    const broken = makeIndex(20);
    broken.exportEntries = () => {
      throw new Error('broken');
    };
    await expect(saveIndex(path, broken, PROVENANCE)).rejects.toThrow('broken');
    expect(await readdir(directory)).toEqual(['index']);
    expect((await loadIndex(path, LOAD)).index.count).toBe(10);
  });

  it('makes room for more, and takes what fits when the budget has shrunk', async () => {
    await saveIndex(path, makeIndex(5000), PROVENANCE);
    const roomy = await loadIndex(path, { ...LOAD, capacityBlocks: 7000 });
    expect(roomy.index.capacity).toBe(7000);
    const tight = await loadIndex(path, { ...LOAD, budgetBytes: 20_000 });
    expect(tight.index.count).toBe(tight.index.capacity);
    expect(tight.index.full).toBe(true);
  });

  it('refuses a file of which any byte was changed', async () => {
    await saveIndex(path, makeIndex(50), PROVENANCE);
    const good = await readFile(path);
    for (let at = 0; at < good.length; at++) {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] as number) ^ (1 << (at % 8));
      await writeFile(path, bad);
      expect(await refusal()).toMatch(/^NASMIG_INDEX_FILE_(FOREIGN|VERSION|VOLUMES|DAMAGED)$/);
    }
  });

  it('refuses a file cut anywhere, or with something behind it', async () => {
    await saveIndex(path, makeIndex(20), PROVENANCE);
    const good = await readFile(path);
    for (let length = 0; length < good.length; length++) {
      await writeFile(path, good.subarray(0, length));
      expect(await refusal()).toMatch(/^NASMIG_INDEX_FILE_(FOREIGN|DAMAGED)$/);
    }
    await writeFile(path, Buffer.concat([good, Buffer.alloc(9)]));
    expect(await refusal()).toBe('NASMIG_INDEX_FILE_DAMAGED');
  });

  it('refuses what the checksum cannot tell: foreign, other version, other volumes, nonsense', async () => {
    expect(await refusal()).toBe('NASMIG_INDEX_FILE_MISSING');
    await writeFile(path, 'QFI\xfb and more');
    expect(await refusal()).toBe('NASMIG_INDEX_FILE_FOREIGN');

    await saveIndex(path, makeIndex(20), PROVENANCE);
    const good = await readFile(path);
    const [first, second] = VOLUMES as [(typeof VOLUMES)[0], (typeof VOLUMES)[0]];
    for (const volumes of [
      [first],
      [second, first],
      [first, { ...second, name: 'other' }],
      [first, { ...second, sizeBytes: second.sizeBytes + PAGE_BYTES }],
    ]) {
      expect(await refusal({ ...LOAD, volumes })).toBe('NASMIG_INDEX_FILE_VOLUMES');
    }

    const changed = async (change: (bytes: Buffer) => void) => {
      const bytes = Buffer.from(good);
      change(bytes);
      await writeFile(path, resign(bytes));
      return refusal();
    };
    expect(await changed((b) => b.writeUInt16BE(2, 8))).toBe('NASMIG_INDEX_FILE_VERSION');
    expect(await changed((b) => b.writeUInt16BE(0, 10))).toBe('NASMIG_INDEX_FILE_DAMAGED');
    expect(await changed((b) => b.writeUInt32BE(0xffff_ffff, 12))).toBe('NASMIG_INDEX_FILE_DAMAGED');
    expect(await changed((b) => b.writeUInt8(9, 24))).toBe('NASMIG_INDEX_FILE_DAMAGED');
    expect(await changed((b) => b.writeUInt32BE(0xffff_ffff, HEADER_BYTES))).toBe(
      'NASMIG_INDEX_FILE_DAMAGED',
    );
    expect(await changed((b) => b.writeUInt32BE(10_000, HEADER_BYTES + 5))).toBe('NASMIG_INDEX_FILE_DAMAGED');
    expect(await changed((b) => b.writeUInt32BE(21, b.length - 36))).toBe('NASMIG_INDEX_FILE_DAMAGED');
    expect(await changed(() => undefined).catch((error: Error) => error.message)).toBe('it was not refused');
  });

  it('says why it cannot read', async () => {
    await rm(path, { force: true });
    path = directory;
    expect(await refusal()).toBe('NASMIG_INDEX_FILE_UNREADABLE');
  });
});
