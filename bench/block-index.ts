// Micro-benchmark of the block index: hashing a page, adding, finding and not finding a block, saving and loading, building from
// a file, and what the source does with the pages of a recorded stream. Usage: node bench/block-index.ts [blocks, default 2000000].
// Prints one line each, in ns and in GB/s of the pages that it is done for; runs in about a minute.
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockIndex } from '../sidecar/index/block-index.ts';
import { buildFull, buildSample } from '../sidecar/index/index-builder.ts';
import { loadIndex, saveIndex } from '../sidecar/index/index-file.ts';
import { PAGE_BYTES, PageHasher, randomSeed } from '../sidecar/index/page-hash.ts';
import { patternBlocks } from '../sidecar/nas/memory-volume.ts';
import { openVolume } from '../sidecar/nas/volume.ts';
import { savedPageOffsets } from '../test/lab/saved-pages.ts';
import { ensureRecordedFiles, recordedGuest } from './recorded-guest.ts';

const ROUNDS = 5;
const blocks = Number(process.argv[2] ?? 2_000_000);

/** Median CPU time of one operation over the rounds, printed in nanoseconds: unlike wall time it is little changed by what else runs. */
function measure(what: string, operations: number, run: () => void): void {
  const rounds: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const before = process.threadCpuUsage();
    run();
    const { user, system } = process.threadCpuUsage(before);
    rounds.push(user + system);
  }
  rounds.sort((a, b) => a - b);
  const ns = ((rounds[ROUNDS >> 1] as number) * 1e3) / operations;
  const rate = (PAGE_BYTES / ns).toFixed(1).padStart(7);
  console.log(`${what.padEnd(44)} ${ns.toFixed(0).padStart(6)} ns, ${rate} GB/s`);
}

const hasher = new PageHasher(randomSeed());
for (const [what, pages] of [
  ['hash a page in the CPU cache', 64],
  ['hash a page from memory', 32768],
] as const) {
  const memory = patternBlocks(pages);
  const repeats = Math.ceil(32768 / pages);
  measure(what, pages * repeats, () => {
    for (let r = 0; r < repeats; r++) for (let i = 0; i < pages; i++) hasher.hash(memory, i * PAGE_BYTES);
  });
}

const volumes = [{ name: 'disk', sizeBytes: blocks * PAGE_BYTES }];
const options = { volumes, seed: randomSeed(), budgetBytes: 2 ** 31 };
const hi = new Int32Array(2 * blocks);
const lo = new Int32Array(2 * blocks);
for (let i = 0; i < 2 * blocks; i++) {
  hi[i] = Math.random() * 2 ** 32;
  lo[i] = Math.random() * 2 ** 32;
}
let index = BlockIndex.create(options);
measure(`add, from empty to full (${blocks} blocks)`, blocks, () => {
  index = BlockIndex.create(options);
  for (let i = 0; i < blocks; i++) index.add(0, i, hi[i] as number, lo[i] as number);
});
console.log(
  `${index.count} of ${index.capacity} blocks, ${(index.stats.bytes / index.count).toFixed(2)} bytes a block`,
);
let found = 0;
measure('look up a block that is there', blocks, () => {
  for (let i = 0; i < blocks; i++) if (index.lookup(hi[i] as number, lo[i] as number) >= 0) found++;
});
measure('look up one that is there, near another', blocks, () => {
  for (let i = 0; i < blocks; i++) if (index.lookupNear(hi[i] as number, lo[i] as number, 0, i) >= 0) found++;
});
let falselyFound = 0;
measure('look up one that is not there', blocks, () => {
  for (let i = blocks; i < 2 * blocks; i++)
    if (index.lookup(hi[i] as number, lo[i] as number) >= 0) falselyFound++;
});
console.log(`found ${found / 2 / ROUNDS} of ${index.count}, falsely ${falselyFound / ROUNDS}`);

const directory = await mkdtemp(join(tmpdir(), 'bench-index-'));
try {
  const path = join(directory, 'index');
  let startedAt = performance.now();
  const { fileBytes } = await saveIndex(path, index, {
    kind: 'full',
    nasBytes: 0,
    seconds: 0,
    completedAtMs: 0,
  });
  console.log(
    `save ${(fileBytes / 2 ** 20).toFixed(1)} MiB in ${(performance.now() - startedAt).toFixed(0)} ms`,
  );
  startedAt = performance.now();
  await loadIndex(path, { volumes, budgetBytes: 2 ** 31 });
  console.log(`load it in ${(performance.now() - startedAt).toFixed(0)} ms`);

  const disk = join(directory, 'disk.img');
  await writeFile(disk, patternBlocks(65536));
  const volume = await openVolume({ name: 'disk', path: disk }, console.log);
  for (const [what, build] of [
    ['full', buildFull],
    ['sampled', buildSample],
  ] as const) {
    const fresh = BlockIndex.create({ volumes: [volume], seed: randomSeed(), budgetBytes: 2 ** 26 });
    const result = await build({ index: fresh, volume, number: 0 });
    const rate = (result.bytesRead / result.seconds / 1e6).toFixed(0);
    console.log(
      `build ${what}: ${fresh.count} blocks, ${result.reads} reads, ${result.seconds.toFixed(2)} s, ${rate} MB/s`,
    );
  }
  await volume.close();
} finally {
  await rm(directory, { recursive: true });
}

// Every page of a recorded guest against an index of the disk that its page cache was read from.
const files = await ensureRecordedFiles();
const stream = readFileSync(files.statePath);
const offsets = Uint32Array.from(savedPageOffsets(stream));
const guest = recordedGuest(files);
const disk = { name: 'disk', sizeBytes: guest.volumeBlocks * PAGE_BYTES };
const ofDisk = BlockIndex.create({ volumes: [disk], seed: hasher.seed, budgetBytes: 2 ** 26 });
guest.forEachBlock((block, content) => {
  hasher.hash(content, 0);
  ofDisk.add(0, block, hasher.hi, hasher.lo);
});
const pageHi = new Int32Array(offsets.length);
const pageLo = new Int32Array(offsets.length);
measure('hash a page of a recorded stream', offsets.length, () =>
  hasher.hashPages(stream, offsets, offsets.length, pageHi, pageLo),
);
let onDisk = 0;
measure('look it up in an index of its disk', offsets.length, () => {
  for (let i = 0; i < offsets.length; i++)
    if (ofDisk.lookup(pageHi[i] as number, pageLo[i] as number) >= 0) onDisk++;
});
console.log(
  `${((100 * onDisk) / ROUNDS / offsets.length).toFixed(1)} % of ${offsets.length} pages are on it`,
);
