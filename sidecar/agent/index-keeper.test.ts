// The keeper with real volumes: small files, sampled at once.

import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { indexStatusSchema } from '../../control/messages.ts';
import type { ReadDone, Volume } from '../nas/volume.ts';
import { IndexKeeper, retryDelayMs } from './index-keeper.ts';
import { PodVolumes } from './pod-volumes.ts';

const BLOCKS = 512;
/** The machine may be busy with other tests. */
const eventually = <T>(value: () => T) => expect.poll(value, { timeout: 10_000 });
let directory: string;
let volumes: PodVolumes;
let keeper: IndexKeeper;
let log: string[];
let ready: number;
let logged: Readonly<Record<string, unknown>>[];

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

function keep(
  change: Partial<ConstructorParameters<typeof IndexKeeper>[0]['config']> = {},
  readable: () => readonly Volume[] = () => volumes.readable,
  progressLogMs = 30_000,
  renewAfterMs = 60_000,
  retryMs = 60_000,
): void {
  log = [];
  logged = [];
  ready = 0;
  keeper = new IndexKeeper({
    config: {
      memoryBytes: 1 << 20,
      build: 'sample',
      bytesPerSecond: 2 ** 30,
      delayMs: 0,
      oneIn: 8,
      ...change,
    },
    volumes: readable,
    log: (event, values) => {
      log.push(event);
      logged.push({ event, ...values });
    },
    ...{ progressLogMs, renewAfterMs, retryMs },
    onReady: () => {
      ready += 1;
    },
  });
}

describe('IndexKeeper', () => {
  it('samples one block in so many after its delay, and counts what that read', async () => {
    keep();
    expect(keeper.status()).toMatchObject({ blocks: 0, bytes: 0, ready: false, nasReadBytes: 0 });
    keeper.start();
    await eventually(() => keeper.status().ready).toBe(true);
    expect(keeper.status()).toMatchObject({ blocks: BLOCKS / 8, nasReadBytes: (BLOCKS / 8) * 4096 });
    expect(log).toEqual(['index sampled']);
    // What HELLO and stats carry must be what the operator accepts.
    expect(indexStatusSchema.parse(keeper.status())).toEqual(keeper.status());
  });

  it('tells at once that the index is ready, sampled or inherited', async () => {
    keep();
    keeper.start();
    await eventually(() => ready).toBe(1);
    expect(keeper.status().ready).toBe(true);
    keep({ delayMs: 60_000 });
    keeper.start();
    expect(ready).toBe(0);
    keeper.inherited();
    expect(ready).toBe(1);
  });

  it('does not sample while a migration is armed, and goes on afterwards', async () => {
    keep();
    keeper.pause();
    keeper.start();
    const found = await keeper.forMigration();
    expect(found?.index.count).toBe(0);
    expect(found?.volumes.map(({ name }) => name)).toEqual(['root']);
    keeper.resume();
    await eventually(() => keeper.status().blocks).toBe(BLOCKS / 8);
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

  it('samples beside what was inherited when that is old, also when a migration was armed meanwhile', async () => {
    keep({}, undefined, undefined, 100);
    keeper.pause();
    const found = await keeper.forMigration();
    found?.index.add(0, 3, 1, 2);
    keeper.inherited();
    keeper.resume();
    expect(keeper.grows).toBe(false);
    keeper.pause();
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(keeper.status()).toMatchObject({ blocks: 1, ready: true, nasReadBytes: 0 });
    keeper.resume();
    await eventually(() => keeper.status().blocks).toBe(1 + BLOCKS / 8);
    await eventually(() => log).toEqual(['index sampled']);
    expect(keeper.status().ready).toBe(true);
    expect([keeper.hitsStandFor, keeper.grows]).toEqual([8, true]);
  });

  it('keeps what was inherited, ready, when a volume cannot be read at its renewal', async () => {
    keep({}, undefined, undefined, 100);
    const found = await keeper.forMigration();
    found?.index.add(0, 3, 1, 2);
    keeper.inherited();
    truncateSync(join(directory, 'root/disk.img'), 4096);
    await eventually(() => log).toEqual(['index sampled']);
    expect(keeper.status()).toMatchObject({ ready: true });
  });

  it('serves with what was inherited while a volume came, which is taken in with the next renewal', async () => {
    keep({}, undefined, undefined, 100);
    keeper.pause();
    const found = await keeper.forMigration();
    found?.index.add(0, 3, 1, 2);
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    expect(await volumes.open()).toBe(true);
    keeper.volumesChanged();
    keeper.inherited();
    keeper.resume();
    expect(keeper.status()).toMatchObject({ blocks: 1, ready: true, blockStandsFor: 1 });
    await eventually(() => keeper.status().blocks).toBe(BLOCKS / 4);
    expect((await keeper.forMigration())?.volumes.map(({ name }) => name)).toEqual(['data', 'root']);
    expect(keeper.status()).toMatchObject({ blockStandsFor: 8 });
  });

  it('adds nothing to what was inherited where nothing is to be read for an index', async () => {
    keep({ build: 'inherit' }, undefined, undefined, 1);
    const found = await keeper.forMigration();
    found?.index.add(0, 3, 1, 2);
    keeper.inherited();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(keeper.status()).toMatchObject({ blocks: 1, nasReadBytes: 0 });
  });

  it('has a sample from its beginning, also when it is stopped, until a migration has brought an index', async () => {
    keep({ bytesPerSecond: 1 });
    const facts = () => [keeper.hitsStandFor, keeper.grows];
    expect(facts()).toEqual([1, false]);
    keeper.start();
    await eventually(facts).toEqual([8, true]);
    keeper.pause();
    expect(keeper.status().ready).toBe(false);
    expect(facts()).toEqual([8, true]);
    keeper.inherited();
    keeper.resume();
    expect(facts()).toEqual([1, false]);
  });

  it('does not have a sample grow where nothing is to be read for an index', async () => {
    keep();
    keeper.start();
    await eventually(() => keeper.status().ready).toBe(true);
    expect(keeper.grows).toBe(true);
    keeper.configure({ build: 'inherit' });
    expect(keeper.grows).toBe(false);
  });

  it('reads a volume that failed again, ever more rarely, and no other', async () => {
    mkdirSync(join(directory, 'data'));
    const data = randomBytes(BLOCKS * 4096);
    writeFileSync(join(directory, 'data/disk.img'), data);
    await volumes.open();
    truncateSync(join(directory, 'data/disk.img'), 4096);
    keep({}, undefined, undefined, undefined, 20);
    keeper.start();
    const startedMs = performance.now();
    const bytesOf = () => logged.map(({ nasBytes }) => nasBytes as number);
    await eventually(() => bytesOf().length).toBeGreaterThanOrEqual(5);
    expect(performance.now() - startedMs).toBeGreaterThan(20 + 40 + 80 + 160);
    expect(keeper.status().ready).toBe(false);
    const [first = 0, ...later] = bytesOf();
    expect(first).toBeGreaterThanOrEqual((BLOCKS / 8) * 4096);
    // Of the volume that failed what it has; of the other nothing.
    expect(Math.max(...later)).toBeLessThanOrEqual(4096);
    writeFileSync(join(directory, 'data/disk.img'), data);
    await eventually(() => keeper.status()).toMatchObject({ ready: true, blocks: BLOCKS / 4 });
  });

  it('waits twice as long after each further failure, at most an hour', () => {
    const minutes = [1, 2, 3, 4, 5, 500].map((failed) => retryDelayMs(failed) / 60_000);
    expect(minutes).toEqual([10, 20, 40, 60, 60, 60]);
  });

  it('asks a volume that does not answer for no more, and reads the others', async () => {
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    await volumes.open();
    const [data, root] = volumes.readable as [Volume, Volume];
    let asked = 0;
    let answers = false;
    // What came back did so with an error; what did not is told by readsUnderWay.
    const hanging = new Proxy(data, {
      get(volume, name) {
        if (name === 'readsUnderWay') return answers ? 0 : 3;
        if (name !== 'read') return Reflect.get(volume, name, volume);
        return (into: Uint8Array, length: number, position: number, done: ReadDone) => {
          asked += 1;
          if (answers) volume.read(into, length, position, done);
          else setTimeout(() => done(new Error('EIO'), 0), 1);
        };
      },
    });
    keep({}, () => [hanging, root], undefined, undefined, 20);
    keeper.start();
    await eventually(() => log.length).toBeGreaterThanOrEqual(1);
    const askedOnce = asked;
    await eventually(() => log.length).toBeGreaterThanOrEqual(4);
    expect(askedOnce).toBeGreaterThan(0);
    expect(asked).toBe(askedOnce);
    expect(keeper.status()).toMatchObject({ ready: false, blocks: BLOCKS / 8 });
    expect(logged.map(({ nasBytes }) => nasBytes).slice(0, 3)).toEqual([(BLOCKS / 8) * 4096, 0, 0]);
    answers = true;
    await eventually(() => keeper.status()).toMatchObject({ ready: true, blocks: BLOCKS / 4 });
  });

  it('renews all that was inherited, also after a sample, and of a volume that failed then nothing but that', async () => {
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    await volumes.open();
    keep({}, undefined, undefined, 100, 20);
    keeper.start();
    await eventually(() => log).toEqual(['index sampled']);
    keeper.inherited();
    truncateSync(join(directory, 'data/disk.img'), 4096);
    await eventually(() => logged.length).toBeGreaterThanOrEqual(4);
    const [sampled, renewed, ...later] = logged.map(({ nasBytes }) => nasBytes as number);
    expect(sampled).toBe((BLOCKS / 4) * 4096);
    expect(renewed).toBeGreaterThanOrEqual((BLOCKS / 8) * 4096);
    expect(Math.max(...later)).toBeLessThanOrEqual(4096);
  });

  it('does not read again what it has read when a migration came in between', async () => {
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    await volumes.open();
    // Two reads of a MiB each volume, half a second between them.
    keep({ build: 'full', bytesPerSecond: 2 * 2 ** 20 });
    keeper.start();
    await eventually(() => keeper.status().blocks).toBeGreaterThan(BLOCKS);
    keeper.pause();
    keeper.resume();
    await eventually(() => keeper.status().ready).toBe(true);
    expect(keeper.status().blocks).toBe(2 * BLOCKS);
    expect(keeper.status().nasReadBytes).toBeLessThan(3 * BLOCKS * 4096);
  });

  it('reads all volumes again when more is asked for, also those that were sampled', async () => {
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    await volumes.open();
    truncateSync(join(directory, 'data/disk.img'), 4096);
    keep();
    keeper.start();
    await eventually(() => log).toEqual(['index sampled']);
    keeper.configure({ build: 'full' });
    await eventually(() => log).toEqual(['index sampled', 'index configured', 'index built']);
    expect(keeper.status().blocks).toBeGreaterThanOrEqual(BLOCKS);
  });

  it('has no index without memory for one', async () => {
    keep({ memoryBytes: 0 });
    keeper.start();
    expect(await keeper.forMigration()).toBeUndefined();
    expect(keeper.status()).toMatchObject({ blocks: 0, ready: true });
  });

  it.each([
    ['beside others', [10, 10, 1], ['a', 'c'], ['b']],
    ['alone', [16], undefined, ['a']],
  ])(
    'leaves out a volume with more blocks than can be told apart, %s, and says so',
    async (_, tebibytes, kept, leftOut) => {
      const large = tebibytes.map((size, i) => ({ name: 'abc'[i], sizeBytes: size * 2 ** 40 }));
      keep({ build: 'inherit' }, () => large as unknown as readonly Volume[]);
      const found = await keeper.forMigration();
      expect(found?.volumes.map(({ name }) => name)).toEqual(kept);
      expect(found?.index.volumes.map(({ name }) => name)).toEqual(kept);
      expect(keeper.leftOut).toEqual(leftOut);
      expect(log).toEqual(['volume left out']);
    },
  );

  it('begins anew when one more volume can be read', async () => {
    keep();
    keeper.start();
    await eventually(() => keeper.status().ready).toBe(true);
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    expect(await volumes.open()).toBe(true);
    keeper.volumesChanged();
    await eventually(() => keeper.status().blocks).toBe(BLOCKS / 4);
    expect((await keeper.forMigration())?.volumes.map(({ name }) => name)).toEqual(['data', 'root']);
  });

  it('takes in a volume that came while a migration was armed, once it is over', async () => {
    keep();
    keeper.start();
    await eventually(() => keeper.status().ready).toBe(true);
    keeper.pause();
    const before = await keeper.forMigration();
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    expect(await volumes.open()).toBe(true);
    keeper.volumesChanged();
    // The migration's is not taken from it.
    expect(await keeper.forMigration()).toEqual(before);
    keeper.resume();
    await eventually(() => keeper.status().blocks).toBe(BLOCKS / 4);
    const after = await keeper.forMigration();
    expect(after?.volumes.map(({ name }) => name)).toEqual(['data', 'root']);
    // Once.
    keeper.pause();
    keeper.resume();
    expect((await keeper.forMigration())?.index).toBe(after?.index);
  });

  it('keeps what a migration brought for a volume that came before the index was made', async () => {
    keep();
    keeper.pause();
    mkdirSync(join(directory, 'data'));
    writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
    expect(await volumes.open()).toBe(true);
    keeper.volumesChanged();
    const found = await keeper.forMigration();
    found?.index.add(1, 3, 1, 2);
    keeper.inherited();
    keeper.resume();
    expect(keeper.status()).toMatchObject({ blocks: 1, ready: true });
  });

  it.each(['while a migration is armed', 'afterwards'])(
    'keeps what a migration brought, without the volume that came later, %s, until more than that is asked for',
    async (when) => {
      keep({ build: 'inherit' });
      keeper.pause();
      const found = await keeper.forMigration();
      found?.index.add(0, 3, 1, 2);
      keeper.inherited();
      if (when === 'afterwards') keeper.resume();
      mkdirSync(join(directory, 'data'));
      writeFileSync(join(directory, 'data/disk.img'), randomBytes(BLOCKS * 4096));
      expect(await volumes.open()).toBe(true);
      keeper.volumesChanged();
      if (when !== 'afterwards') keeper.resume();
      expect(keeper.status()).toMatchObject({ blocks: 1 });
      keeper.configure({ build: 'full' });
      await eventually(() => keeper.status()).toMatchObject({ ready: true, blocks: 2 * BLOCKS });
    },
  );

  it('reads whole volumes where that is asked for, and goes on from a sample to it', async () => {
    keep();
    keeper.start();
    await eventually(() => keeper.status().ready).toBe(true);
    expect(keeper.hitsStandFor).toBe(8);
    keeper.configure({ build: 'full' });
    expect(keeper.status().ready).toBe(false);
    await eventually(() => keeper.status().ready).toBe(true);
    expect(keeper.status()).toMatchObject({ blocks: BLOCKS, nasReadBytes: (BLOCKS / 8 + BLOCKS) * 4096 });
    expect(keeper.hitsStandFor).toBe(1);
    expect(log).toEqual(['index sampled', 'index configured', 'index built']);
  });

  it('tells how far a build is that takes long, from time to time', async () => {
    // One MiB a read, two in all, and half a second between them.
    keep({ build: 'full', bytesPerSecond: 2 * 2 ** 20 }, undefined, 1);
    keeper.start();
    await eventually(() => keeper.status().ready).toBe(true);
    expect(log).toEqual(['index being built', 'index built']);
    expect(logged[0]).toMatchObject({ percent: 50, blocks: BLOCKS / 2, nasBytes: 2 ** 20 });
    expect(logged[0]?.['secondsLeft']).toBeTypeOf('number');
    keep({ build: 'full', bytesPerSecond: 2 * 2 ** 20 });
    keeper.start();
    await eventually(() => keeper.status().ready).toBe(true);
    expect(log).toEqual(['index built']);
  });

  it('reads nothing where only what migrations bring is asked for', async () => {
    keep({ build: 'inherit' });
    keeper.start();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(keeper.status()).toMatchObject({ blocks: 0, nasReadBytes: 0, ready: true });
    keeper.configure({ build: 'sample' });
    await eventually(() => keeper.status().blocks).toBe(BLOCKS / 8);
  });

  it('keeps to the bytes per second that are asked for, also for what is under way', async () => {
    keep({ build: 'full', bytesPerSecond: 1 });
    keeper.start();
    await new Promise((resolve) => setTimeout(resolve, 50));
    // The first read goes at once, the second would be due after days.
    expect(keeper.status()).toMatchObject({ ready: false });
    keeper.configure({ build: 'full', nasReadBytesPerSecond: 2 ** 30 });
    await eventually(() => keeper.status()).toMatchObject({ ready: true, blocks: BLOCKS });
    // The same again changes nothing.
    keeper.configure({ build: 'full', nasReadBytesPerSecond: 2 ** 30 });
    expect(log.filter((event) => event === 'index configured')).toHaveLength(1);
  });
});
