// The keeper with real volumes: small files, sampled at once.

import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { indexStatusSchema } from '../../control/messages.ts';
import { IndexKeeper } from './index-keeper.ts';
import { PodVolumes } from './pod-volumes.ts';

const BLOCKS = 512;
let directory: string;
let volumes: PodVolumes;
let keeper: IndexKeeper;
let log: string[];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'nasmig-keeper-'));
  mkdirSync(join(directory, 'root'));
  writeFileSync(join(directory, 'root/disk.img'), randomBytes(BLOCKS * 4096));
  volumes = new PodVolumes(directory, () => {});
  await volumes.open();
});

afterEach(async () => {
  keeper.stop();
  await Promise.all(volumes.readable.map((volume) => volume.close()));
  rmSync(directory, { recursive: true, force: true });
});

function keep(change: Partial<ConstructorParameters<typeof IndexKeeper>[0]['config']> = {}): void {
  log = [];
  keeper = new IndexKeeper({
    config: { memoryBytes: 1 << 20, bytesPerSecond: 2 ** 30, delayMs: 0, oneIn: 8, ...change },
    volumes: () => volumes.readable,
    log: (event) => void log.push(event),
  });
}

describe('IndexKeeper', () => {
  it('samples one block in so many after its delay, and counts what that read', async () => {
    keep();
    expect(keeper.status()).toMatchObject({ blocks: 0, bytes: 0, ready: false, nasReadBytes: 0 });
    keeper.start();
    await expect.poll(() => keeper.status().ready).toBe(true);
    expect(keeper.status()).toMatchObject({ blocks: BLOCKS / 8, nasReadBytes: (BLOCKS / 8) * 4096 });
    expect(log).toEqual(['index sampled']);
    // What HELLO and stats carry must be what the operator accepts.
    expect(indexStatusSchema.parse(keeper.status())).toEqual(keeper.status());
  });

  it('does not sample while a migration is armed, and goes on afterwards', async () => {
    keep();
    keeper.pause();
    keeper.start();
    const found = await keeper.forMigration();
    expect(found?.index.count).toBe(0);
    expect(found?.volumes.map(({ name }) => name)).toEqual(['root']);
    keeper.resume();
    await expect.poll(() => keeper.status().blocks).toBe(BLOCKS / 8);
  });

  it('does not sample what an incoming migration has brought', async () => {
    keep();
    keeper.pause();
    const found = await keeper.forMigration();
    found?.index.add(0, 3, 1, 2);
    keeper.inherited();
    keeper.resume();
    keeper.start();
    expect(keeper.status()).toMatchObject({ blocks: 1, ready: true });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(keeper.status()).toMatchObject({ blocks: 1, nasReadBytes: 0 });
    expect(log).toEqual([]);
  });

  it('has no index without memory for one', async () => {
    keep({ memoryBytes: 0 });
    keeper.start();
    expect(await keeper.forMigration()).toBeUndefined();
    expect(keeper.status()).toMatchObject({ blocks: 0, ready: true });
  });

  it('begins anew when one more volume can be read', async () => {
    keep();
    keeper.start();
    await expect.poll(() => keeper.status().ready).toBe(true);
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    expect(await volumes.open()).toBe(true);
    keeper.volumesChanged();
    await expect.poll(() => keeper.status().blocks).toBe(BLOCKS / 4);
    expect((await keeper.forMigration())?.volumes.map(({ name }) => name)).toEqual(['data', 'root']);
  });
});
