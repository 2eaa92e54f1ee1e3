// The guest, without a network or a NAS: it starts from its warm state, survives a plain migration between two QEMUs,
// and notices a wrong byte in its memory. What the whole lab concludes from the guest's self-check rests on this.

import { copyFile, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { GuestObserver } from './guest-observer.ts';
import { LocalNode } from './local-node.ts';
import { Qemu } from './qemu.ts';
import { countIncompressiblePages } from './saved-pages.ts';
import { copyDisk, ensureWarmState, GUESTS_DIRECTORY, guestOptions, type WarmState } from './warm-state.ts';

/** The first run builds roots, guest and state. */
const BUILD_TIMEOUT_MS = 20 * 60_000;
const TEST_TIMEOUT_MS = 3 * 60_000;
const PAGE_BYTES = 4096;
const MIDDLE = 2048;
const MIB = 2 ** 20;
/** What of a GiB the guest's kernel leaves out of its MemTotal of 991,176 kB: its image, and its array of pages. */
const UNCOUNTED_BYTES = 1024 * MIB - 991_176 * 1024;

let state: WarmState;
let node: LocalNode;
let observer: GuestObserver;
let diskDirectory: string;

beforeEach(async () => {
  state = await ensureWarmState('warm');
  const run = await LocalNode.start([GUESTS_DIRECTORY, join(GUESTS_DIRECTORY, '../lab-runs')]);
  node = run;
  diskDirectory = run.run.bulkPath;
  observer = new GuestObserver();
  await observer.listen(node.file('net-source'), 'source');
  await observer.listen(node.file('net-target'), 'target');
  await copyDisk(state, join(diskDirectory, 'disk.img'));
}, BUILD_TIMEOUT_MS);

afterEach(async () => {
  await observer.close();
  await node.close();
}, TEST_TIMEOUT_MS);

function start(side: 'source' | 'target', of: WarmState = state): Promise<Qemu> {
  const place = {
    name: `qemu-${side}`,
    diskPath: join(diskDirectory, 'disk.img'),
    networkSocketPath: node.file(`net-${side}`),
    qmpSocketPath: node.file(`qmp-${side}`),
    serialLogPath: node.file(`serial-${side}`),
  };
  return Qemu.start(node, guestOptions(of, place, { kind: side === 'source' ? 'state' : 'incoming' }));
}

it('has the memory that its profile promises', () => {
  const { nonZeroPages, pagesOnDisk, pages } = state.memory;
  expect(pages * PAGE_BYTES).toBe(state.profile.memoryMiB * 1024 * 1024);
  // Page cache dominates, and at least 12 % of the non-zero pages are neither zero nor on the disk.
  expect(pagesOnDisk / nonZeroPages).toBeGreaterThan(0.7);
  expect(1 - pagesOnDisk / nonZeroPages).toBeGreaterThan(0.12);
});

it(
  'full: no page is free',
  async () => {
    const { memory } = await ensureWarmState('full');
    // The kernel keeps some 2 % free, and some of what is used is zero; of warm's pages 8 to 9 % are zero.
    expect(memory.nonZeroPages / memory.pages).toBeGreaterThan(0.94);
  },
  BUILD_TIMEOUT_MS,
);

it(
  'mixed: half its used memory is anonymous and incompressible',
  async () => {
    const mixed = await ensureWarmState('mixed');
    const { pages, nonZeroPages, pagesOnDisk } = mixed.memory;
    const incompressible = countIncompressiblePages(await readFile(mixed.statePath));
    expect(incompressible).toBeGreaterThan((mixed.profile.randomMiB * MIB) / PAGE_BYTES);
    const usedPages = nonZeroPages - UNCOUNTED_BYTES / PAGE_BYTES;
    expect(incompressible / usedPages).toBeGreaterThanOrEqual(0.5);
    // On the disk is next to all of the rest, and what is free is little.
    expect((incompressible + pagesOnDisk) / nonZeroPages).toBeGreaterThan(0.85);
    expect(nonZeroPages / pages).toBeGreaterThan(0.9);
  },
  BUILD_TIMEOUT_MS,
);

it.each([0, 8])(
  'survives a plain migration with %d multifd channels',
  async (channels) => {
    const source = await start('source');
    await source.cont();
    await observer.waitForNext(10_000);
    const target = await start('target');
    const uri = `unix:${node.file('migration')}`;
    await target.listen(uri, { channels });
    observer.mark();
    const outcome = await source.migrate(uri, { channels }, { destination: target });
    expect(outcome).toMatchObject({ status: 'completed', error: null });
    expect(outcome.ram?.normalPages).toBeGreaterThan(state.memory.nonZeroPages * 0.9);
    expect(outcome.resumeAtMs).toBeGreaterThan(outcome.stopAtMs ?? Number.POSITIVE_INFINITY);
    await observer.waitForNext(5_000);
    const gap = observer.report().longestGap;
    expect(gap?.gapMs).toBeGreaterThanOrEqual((outcome.resumeAtMs ?? 0) - (outcome.stopAtMs ?? 0));
    await observer.command({ kind: 'verifyAll' });
    const report = observer.report();
    expect(report).toMatchObject({ selfCheck: 'ok', failedSlices: 0, repeatedCounters: 0, failure: '' });
    expect(report.verifiedSlices).toBeGreaterThan(50_000);
    expect(await source.status()).toBe('postmigrate');
    expect(await target.status()).toBe('running');
  },
  TEST_TIMEOUT_MS,
);

it(
  'goes on at its source when the migration is cancelled',
  async () => {
    const source = await start('source');
    await source.cont();
    const target = await start('target');
    const uri = `unix:${node.file('migration')}`;
    await target.listen(uri);
    let asked = false;
    const outcome = await source.migrate(
      uri,
      { maxBytesPerSecond: 10e6 },
      {
        // Before it is active, QEMU may take a cancellation for a failure to connect.
        onProgress: ({ status }) => {
          if (asked || status !== 'active') return;
          asked = true;
          void source.cancelMigration();
        },
      },
    );
    expect(outcome.status).toBe('cancelled');
    expect(await source.status()).toBe('running');
    await observer.waitForNext(5_000);
  },
  TEST_TIMEOUT_MS,
);

it(
  'notices a wrong byte in its page cache',
  async () => {
    const damaged = join(diskDirectory, 'state');
    await copyFile(state.statePath, damaged);
    expect(await damageCachedBlocks(damaged, state.diskTemplatePath)).toBeGreaterThan(0);
    const source = await start('source', { ...state, statePath: damaged });
    await source.cont();
    observer.mark();
    await observer.command({ kind: 'verifyAll' });
    const report = observer.report();
    expect(report.selfCheck).toBe('failed');
    expect(report.failedSlices).toBeGreaterThan(0);
    expect(report.failure).toMatch(/^\/disk\//);
  },
  TEST_TIMEOUT_MS,
);

/** Flips a byte in the saved copies of a few of the disk's blocks; returns how many were found. */
async function damageCachedBlocks(statePath: string, diskPath: string): Promise<number> {
  const saved = await readFile(statePath);
  const disk = await open(diskPath, 'r');
  const file = await open(statePath, 'r+');
  let found = 0;
  try {
    const block = Buffer.alloc(PAGE_BYTES);
    const { size } = await stat(diskPath);
    // Blocks in the middle of what is used, far enough apart to belong to different files.
    for (let offset = size / 8; offset < size / 2; offset += size / 16) {
      await disk.read(block, 0, PAGE_BYTES, offset);
      // A short needle: searching for a whole block that is not there takes minutes.
      const at = saved.indexOf(block.subarray(MIDDLE, MIDDLE + 64)) - MIDDLE;
      if (at < 0 || !saved.subarray(at, at + PAGE_BYTES).equals(block)) continue;
      await file.write(Buffer.from([(block[MIDDLE] ?? 0) ^ 1]), 0, 1, at + MIDDLE);
      found++;
    }
  } finally {
    await disk.close();
    await file.close();
  }
  return found;
}
