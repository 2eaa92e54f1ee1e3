// The guest's disk over NFS, as two nodes see it.

import { randomFillSync } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readDirect } from './direct-read.ts';
import { DiskMount } from './disk-mount.ts';
import { trafficBetween } from './interface-counters.ts';
import { Lab } from './lab.ts';
import { QEMU_OWNER } from './node.ts';

const DISK_BYTES = 64 << 20;
const MIB = 1 << 20;

let lab: Lab;
let content: Buffer;
let source: DiskMount;
let target: DiskMount;
let sourcePath: string;
let targetPath: string;

beforeAll(async () => {
  lab = await Lab.start();
  content = randomFillSync(Buffer.alloc(DISK_BYTES));
  await lab.nas.addFile('disk.img', content);
  source = await lab.mountDisk('source', 'disk.img');
  target = await lab.mountDisk('target', 'disk.img');
  sourcePath = DiskMount.pathFromHost(lab.source, source);
  targetPath = DiskMount.pathFromHost(lab.target, target);
});
afterAll(() => lab.close());

test('the disk is what the NAS has', async () => {
  expect((await readFile(sourcePath)).equals(content)).toBe(true);
  expect((await readFile(targetPath)).equals(content)).toBe(true);
});

test('every direct read goes to the NAS, and is counted at that node alone', async () => {
  for (let round = 0; round < 3; round++) {
    const before = await lab.traffic();
    for (let offset = 0; offset < DISK_BYTES; offset += MIB) {
      const read = await readDirect(targetPath, offset, MIB);
      expect(Buffer.compare(read, content.subarray(offset, offset + MIB))).toBe(0);
    }
    const { storage, migration } = trafficBetween(before, await lab.traffic());
    expect(storage.target.read).toBeGreaterThan(DISK_BYTES);
    expect(storage.target.read).toBeLessThan(DISK_BYTES * 1.08);
    expect(storage.source.read).toBeLessThan(MIB / 10);
    expect(migration.sourceToTarget + migration.targetToSource).toBe(0);
  }
});

test('what a process of the source has written, the target reads at once', async () => {
  const writer = await open(sourcePath, 'r+');
  try {
    for (let i = 0; i < 200; i++) {
      const offset = ((i * 2_654_435_761) % (DISK_BYTES / 4096)) * 4096;
      const block = randomFillSync(Buffer.alloc(4096));
      // The target has just read the old content: nothing of that may be kept anywhere.
      await readDirect(targetPath, offset, 4096);
      await writer.write(block, 0, 4096, offset);
      const seen = await readDirect(targetPath, offset, 4096);
      expect(Buffer.compare(seen, block)).toBe(0);
      block.copy(content, offset);
    }
  } finally {
    await writer.close();
  }
  expect((await readFile(lab.nas.file('disk.img'))).equals(content)).toBe(true);
});

test('user 107 reads and writes it, others do not', async () => {
  const read = (uid: number, name: string) =>
    lab.target.spawn({
      name,
      argv: [process.execPath, `${import.meta.dirname}/direct-read.ts`, target.path, '0', '4096'],
      user: { uid, gid: uid },
    });
  expect((await (await read(107, 'reader-107')).ended).code).toBe(0);
  const other = await read(1234, 'reader-1234');
  expect((await other.ended).code).toBe(1);
  expect(await other.logTail()).toContain('EACCES');
  const writer = await lab.source.spawn({
    name: 'writer-107',
    argv: ['dd', 'if=/dev/zero', `of=${source.path}`, 'bs=4096', 'count=1', 'conv=notrunc', 'oflag=direct'],
    user: QEMU_OWNER,
  });
  expect((await writer.ended).code).toBe(0);
  content.fill(0, 0, 4096);
  expect(Buffer.compare(await readDirect(targetPath, 0, 4096), content.subarray(0, 4096))).toBe(0);
});

test('the storage rate is kept', async () => {
  await lab.network.setStorageRate('target', { outMbit: 200, inMbit: 200 });
  const before = await lab.traffic();
  // Four at a time: one alone leaves the link idle between answer and next call.
  const readers = [0, 1, 2, 3].map(async (first) => {
    for (let block = first; block < 40; block += 4) await readDirect(targetPath, block * MIB, MIB);
  });
  await Promise.all(readers);
  const used = trafficBetween(before, await lab.traffic());
  await lab.network.setStorageRate('target', { outMbit: 0, inMbit: 0 });
  const mbit = (used.storage.target.read * 8) / used.atMs / 1000;
  console.log(`NAS at 200 Mbit/s: ${mbit.toFixed(1)} on the wire`);
  expect(mbit).toBeLessThan(210);
  // What the link does not get is QEMU's and ganesha's share of a busy machine.
  expect(mbit).toBeGreaterThan(150);
});

test('file data in NFS writes is counted to the byte, and reads are none', async () => {
  const before = await lab.nfsWrites();
  for (let block = 0; block < 8; block++) await readDirect(targetPath, block * MIB, MIB);
  expect(await lab.nfsWrites()).toEqual(before);
  const bytes = 24 * MIB;
  const writer = await lab.target.spawn({
    name: 'writer-counted',
    argv: [
      ...['dd', `if=${target.path}`, `of=${target.path}`, 'bs=1M', `count=${bytes / MIB}`],
      ...['conv=notrunc', 'iflag=direct', 'oflag=direct'],
    ],
    user: QEMU_OWNER,
  });
  expect((await writer.ended).code).toBe(0);
  expect(await lab.nfsWrites()).toEqual({ source: before.source, target: before.target + bytes });
});

test('a read-only mount takes no writes', async () => {
  await lab.nas.addFile('other.img', lab.nas.file('disk.img'));
  const mount = await lab.mountDisk('source', 'other.img', { readOnly: true });
  const path = DiskMount.pathFromHost(lab.source, mount);
  expect(Buffer.compare(await readDirect(path, 0, 4096), content.subarray(0, 4096))).toBe(0);
  await expect(
    (async () => {
      const file = await open(path, 'r+');
      try {
        await file.write(Buffer.alloc(4096), 0, 4096, 0);
      } finally {
        await file.close();
      }
    })(),
  ).rejects.toThrow(/EROFS|EACCES|EPERM|EBADF|EIO/);
  await mount.unmount();
  expect((await lab.source.run(['stat', '-c', '%s', mount.path])).trim()).toBe('0');
});

test('a file that the NAS does not have is not mounted, and the reason is told', async () => {
  await expect(lab.mountDisk('source', 'missing.img')).rejects.toThrow(
    /missing.img[\s\S]*NFS3ERR_NOENT|NOENT|No such file/,
  );
});

test('a frozen NAS answers nothing, and everything once it goes on', async () => {
  lab.nas.pause();
  const reading = readDirect(targetPath, MIB, MIB);
  const outcome = await Promise.race([reading.then(() => 'read'), sleep(500, 'nothing')]);
  lab.nas.resume();
  expect(outcome).toBe('nothing');
  expect(Buffer.compare(await reading, content.subarray(MIB, 2 * MIB))).toBe(0);
});

test('a storage link that was down, and a NAS that crashed and was restarted, are read from again', async () => {
  await lab.network.setStorageLinkUp('target', false);
  const reading = readDirect(targetPath, 2 * MIB, MIB);
  await sleep(300);
  await lab.network.setStorageLinkUp('target', true);
  expect(Buffer.compare(await reading, content.subarray(2 * MIB, 3 * MIB))).toBe(0);

  await lab.nas.stop(false);
  await lab.nas.restart();
  expect(Buffer.compare(await readDirect(targetPath, 3 * MIB, MIB), content.subarray(3 * MIB, 4 * MIB))).toBe(
    0,
  );
});
