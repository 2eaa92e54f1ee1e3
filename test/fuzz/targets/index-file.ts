// The index file: any bytes are refused by name or make an index whose every entry is a block of the volumes, in no more
// memory than the budget. The checksum is made right for most inputs, so that what it protects is reached.
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockIndex } from '../../../sidecar/index/block-index.ts';
import { loadIndex, saveIndex } from '../../../sidecar/index/index-file.ts';
import { type FuzzTarget, must, refusalOf, seededRandom } from '../target.ts';

const VOLUMES = [
  { name: 'root', sizeBytes: 4096 * 500 },
  { name: 'data', sizeBytes: 4096 * 70 + 100 },
];
const BUDGET_BYTES = 64 * 1024;
const SUM_BYTES = 32;
const ENTRY_BYTES = 9;

const directory = mkdtempSync(join(tmpdir(), 'nasmig-fuzz-'));
process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
const path = join(directory, 'index');

async function saved(entries: number, kind: 'sampled' | 'full' | 'inherited'): Promise<Uint8Array> {
  const index = BlockIndex.create({ volumes: VOLUMES, seed: { hi: 5, lo: 6 }, budgetBytes: BUDGET_BYTES });
  const random = seededRandom(entries);
  const hash = () => Math.floor(random() * 2 ** 32) | 0;
  for (let i = 0; i < entries; i++) index.add(i % 2, Math.floor(random() * 70), hash(), hash());
  await saveIndex(path, index, { kind, nasBytes: entries * 4096, seconds: 1.5, completedAtMs: 1e12 });
  return readFile(path);
}

/** Loads one file. */
export const indexFile: FuzzTarget = {
  seeds: async () => [await saved(0, 'full'), await saved(3, 'inherited'), await saved(60, 'sampled')],
  run: async (input) => {
    writeFileSync(path, input);
    try {
      const { index, provenance } = await loadIndex(path, { volumes: VOLUMES, budgetBytes: BUDGET_BYTES });
      must(
        index.count <= input.length / ENTRY_BYTES,
        () => `${index.count} entries in ${input.length} bytes`,
      );
      must(
        index.handle().memory.byteLength <= BUDGET_BYTES,
        () => `${index.handle().memory.byteLength} bytes`,
      );
      must(['sampled', 'full', 'inherited'].includes(provenance.kind), () => `kind ${provenance.kind}`);
      must(provenance.seconds >= 0 && provenance.nasBytes >= 0, () => 'a negative count');
      // A file without a right checksum has nothing that may be believed.
      const sum = createHash('sha256')
        .update(input.subarray(0, input.length - SUM_BYTES))
        .digest();
      must(sum.equals(input.subarray(input.length - SUM_BYTES)), () => 'a wrong checksum is believed');
      const view = new DataView(new ArrayBuffer(9 * 4096));
      for (let slot = 0; slot >= 0; ) {
        const part = index.exportEntries(slot, view, 65_536);
        slot = part.next;
        for (let i = 0; i < part.entries; i++) {
          const place = view.getUint32(i * ENTRY_BYTES + 5);
          must(place < index.places, () => `place ${place} of ${index.places}`);
        }
      }
      return 'loaded';
    } catch (error) {
      return refusalOf(error);
    }
  },
  repair: (input, random) => {
    const trailer = 4 + SUM_BYTES;
    if (input.length < 56 + trailer) return input;
    const bytes = Buffer.from(input);
    const headerBytes = bytes.readUInt32BE(12);
    const entries = Math.floor((bytes.length - headerBytes - trailer) / ENTRY_BYTES);
    if (entries >= 0 && random() < 0.9) bytes.writeUInt32BE(entries, bytes.length - trailer);
    createHash('sha256')
      .update(bytes.subarray(0, bytes.length - SUM_BYTES))
      .digest()
      .copy(bytes, bytes.length - SUM_BYTES);
    return bytes;
  },
  hot: (input) => [
    [0, Math.min(input.length, 110)],
    [Math.max(0, input.length - 200), input.length],
  ],
  maxInputBytes: 16 * 1024,
};
