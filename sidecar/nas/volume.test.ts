import { execFileSync } from 'node:child_process';
import { mkdtemp, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { patternBlocks } from './memory-volume.ts';
import { NasError } from './nas-error.ts';
import { alignedMemory, BLOCK_BYTES, openVolume, type Volume } from './volume.ts';

// Lets a test play a file system that knows no O_DIRECT, or that does not answer.
const fileSystem = vi.hoisted(() => ({ refusesDirect: false, answersAfterMs: 0, opened: 0, closed: 0 }));
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  type Done = (error: Error | null, fd?: number) => void;
  const open = (path: string, flags: number, done: Done) => {
    if (fileSystem.refusesDirect && (flags & fs.constants.O_DIRECT) !== 0) {
      done(Object.assign(new Error('EINVAL: invalid argument, open'), { code: 'EINVAL' }));
      return;
    }
    setTimeout(() => {
      fileSystem.opened++;
      fs.open(path, flags, done);
    }, fileSystem.answersAfterMs);
  };
  const close = (fd: number, done: (error: Error | null) => void) => {
    fileSystem.closed++;
    fs.close(fd, done);
  };
  return { ...fs, open, close };
});

let directory: string;
let path: string;
const log: string[] = [];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'volume-'));
  path = join(directory, 'disk.img');
  log.length = 0;
  Object.assign(fileSystem, { refusesDirect: false, answersAfterMs: 0, opened: 0, closed: 0 });
});
afterEach(() => rm(directory, { recursive: true }));

const openDisk = (deadlineMs?: number) =>
  openVolume(
    { name: 'rootdisk', path },
    (line) => log.push(line),
    deadlineMs === undefined ? {} : { deadlineMs },
  );

async function openingError(deadlineMs?: number): Promise<string> {
  const error = await openDisk(deadlineMs).then(
    () => new Error('it opened'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof NasError)) throw error;
  expect(error.volume).toBe('rootdisk');
  return error.code;
}

function readVolume(
  volume: Volume,
  length: number,
  position: number,
): Promise<{ bytes: number; memory: Uint8Array }> {
  const memory = alignedMemory(length);
  return new Promise((resolve, reject) => {
    volume.read(memory, length, position, (error, bytes) =>
      error ? reject(error) : resolve({ bytes, memory }),
    );
  });
}

describe('openVolume', () => {
  it('opens a raw file and reads it uncached', async () => {
    const content = patternBlocks(20);
    await writeFile(path, Buffer.concat([content, Buffer.from('a partial block')]));
    const volume = await openDisk();
    expect(volume).toMatchObject({ name: 'rootdisk', sizeBytes: 20 * BLOCK_BYTES + 15, blockCount: 20 });
    expect(volume.uncached).toBe(true);
    expect(log).toEqual([
      `volume rootdisk: ${path}, ${volume.sizeBytes} bytes, read uncached: ${volume.uncachedReason}`,
    ]);
    const { bytes, memory } = await readVolume(volume, 4 * BLOCK_BYTES, 7 * BLOCK_BYTES);
    expect(bytes).toBe(4 * BLOCK_BYTES);
    const wanted = content.subarray(7 * BLOCK_BYTES, 11 * BLOCK_BYTES);
    expect(Buffer.compare(memory.subarray(0, bytes), wanted)).toBe(0);
    await volume.close();
    expect(fileSystem.closed).toBe(1);
  });

  it('reads through the page cache where O_DIRECT is refused, and says why', async () => {
    const content = patternBlocks(3);
    await writeFile(path, content);
    fileSystem.refusesDirect = true;
    const volume = await openDisk();
    expect(volume.uncached).toBe(false);
    expect(log[0]).toMatch(/read through the page cache: .*EINVAL/);
    const { memory } = await readVolume(volume, BLOCK_BYTES, BLOCK_BYTES);
    const wanted = content.subarray(BLOCK_BYTES, 2 * BLOCK_BYTES);
    expect(Buffer.compare(memory.subarray(0, BLOCK_BYTES), wanted)).toBe(0);
    await volume.close();
  });

  it('names what is wrong: missing, no file, empty', async () => {
    expect(await openingError()).toBe('NASMIG_VOLUME_MISSING');
    await writeFile(path, 'less than a block');
    expect(await openingError()).toBe('NASMIG_VOLUME_EMPTY');
    path = directory;
    expect(await openingError()).toBe('NASMIG_VOLUME_UNREADABLE');
    path = join(directory, 'fifo');
    execFileSync('mkfifo', [path]);
    expect(await openingError()).toBe('NASMIG_VOLUME_UNREADABLE');
    expect(fileSystem.opened).toBe(0);
  });

  it('names a file that is shorter than it says', async () => {
    // Files of sysfs say 4096 bytes and hold less.
    path = '/sys/kernel/mm/transparent_hugepage/enabled';
    fileSystem.refusesDirect = true;
    expect(await openingError()).toBe('NASMIG_VOLUME_SHORT');
    expect(fileSystem.closed).toBe(fileSystem.opened);
  });

  it('does not wait for ever, and closes what opens too late', async () => {
    await writeFile(path, patternBlocks(3));
    fileSystem.answersAfterMs = 60;
    expect(await openingError(20)).toBe('NASMIG_NAS_DEADLINE');
    await vi.waitFor(() => expect(fileSystem.closed).toBe(1));
    expect(fileSystem.opened).toBe(1);
  });

  it('tells when an opening that was given up has come to an end, and of no other', async () => {
    await writeFile(path, patternBlocks(3));
    let late = 0;
    const opening = (deadlineMs: number) =>
      openVolume({ name: 'rootdisk', path }, () => {}, { deadlineMs, onLate: () => late++ });
    await (await opening(5000)).close();
    expect(late).toBe(0);
    fileSystem.answersAfterMs = 60;
    await expect(opening(20)).rejects.toThrow('opening');
    expect(late).toBe(0);
    await vi.waitFor(() => expect(late).toBe(1));
    // It is over, closed and all.
    expect(fileSystem.closed).toBe(2);
  });
});

describe('Volume', () => {
  it('tells the end when the file has become shorter', async () => {
    await writeFile(path, patternBlocks(20));
    const volume = await openDisk();
    await truncate(path, 10 * BLOCK_BYTES);
    expect((await readVolume(volume, 4 * BLOCK_BYTES, 8 * BLOCK_BYTES)).bytes).toBe(2 * BLOCK_BYTES);
    expect((await readVolume(volume, 4 * BLOCK_BYTES, 15 * BLOCK_BYTES)).bytes).toBe(0);
    await truncate(path, 10 * BLOCK_BYTES + 100);
    expect((await readVolume(volume, 4 * BLOCK_BYTES, 8 * BLOCK_BYTES)).bytes).toBe(2 * BLOCK_BYTES + 100);
    await volume.close();
  });

  it('goes on with the file it opened when another takes its name', async () => {
    const content = patternBlocks(2);
    await writeFile(path, content);
    const volume = await openDisk();
    await writeFile(`${path}.new`, patternBlocks(2, 99));
    await rename(`${path}.new`, path);
    const { memory } = await readVolume(volume, BLOCK_BYTES, 0);
    expect(Buffer.compare(memory.subarray(0, BLOCK_BYTES), content.subarray(0, BLOCK_BYTES))).toBe(0);
    await volume.close();
  });

  it('reports an error of the system, and closes only after the last read', async () => {
    await writeFile(path, patternBlocks(2));
    const volume = await openDisk();
    // Not aligned: the kernel refuses an uncached read into it.
    await expect(
      new Promise((resolve, reject) => {
        volume.read(alignedMemory(BLOCK_BYTES).subarray(1), 100, 0, (error, bytes) =>
          error ? reject(error) : resolve(bytes),
        );
      }),
    ).rejects.toMatchObject({ code: 'EINVAL' });

    const order: string[] = [];
    const reading = readVolume(volume, BLOCK_BYTES, 0).then(() => order.push('read'));
    const closing = volume.close().then(() => order.push('closed'));
    await Promise.all([reading, closing]);
    expect(order).toEqual(['read', 'closed']);
  });

  it('is read by another thread through the same descriptor', async () => {
    const content = patternBlocks(5);
    await writeFile(path, content);
    const volume = await openDisk();
    const source = `
      const { workerData, parentPort } = require('node:worker_threads');
      import(workerData.module).then(({ Volume, alignedMemory }) => {
        const volume = Volume.fromHandle(workerData.handle);
        const memory = alignedMemory(4096);
        volume.read(memory, 4096, 3 * 4096, async (error, bytes) => {
          await volume.close();
          parentPort.postMessage(error ?? { bytes, first: memory.slice(0, 4096) });
        });
      });`;
    const worker = new Worker(source, {
      eval: true,
      workerData: { handle: volume.handle(), module: new URL('./volume.ts', import.meta.url).href },
    });
    const message = await new Promise<{ bytes: number; first: Uint8Array }>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    await worker.terminate();
    expect(message.bytes).toBe(4096);
    expect(Buffer.compare(message.first, content.subarray(3 * 4096, 4 * 4096))).toBe(0);
    expect((await readVolume(volume, BLOCK_BYTES, 0)).bytes).toBe(BLOCK_BYTES);
    await volume.close();
  });
});
