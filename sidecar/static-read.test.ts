import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { bufferedIn, readInPlace } from './static-read.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

/** A client's socket, and the accepted end of it, paused. */
async function pair(): Promise<{ client: Socket; accepted: Socket }> {
  const directory = mkdtempSync(join(tmpdir(), 'nasmig-static-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, 's.sock');
  const accepted = new Promise<Socket>((resolve) => {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, resolve);
    cleanups.push(() => server.close());
    server.listen(path, () => {
      client.connect({ path });
    });
  });
  const client = new Socket({ allowHalfOpen: true }).on('error', () => {});
  cleanups.push(() => client.destroy());
  return { client, accepted: await accepted };
}

it('reads all bytes into one buffer, pauses, answers, and tells the end', async () => {
  const { client, accepted } = await pair();
  const memory = new Set<ArrayBufferLike>();
  const got: Buffer[] = [];
  const socket = readInPlace(accepted, (bytes) => {
    memory.add(bytes.buffer);
    got.push(Buffer.from(bytes));
  });
  cleanups.push(() => socket.destroy());
  let ended = false;
  socket.on('end', () => {
    ended = true;
  });
  const sent = Buffer.alloc(3_000_000, 'page cache');
  client.write(sent);
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(got).toEqual([]);
  socket.resume();
  await expect.poll(() => got.reduce((sum, bytes) => sum + bytes.length, 0)).toBe(sent.length);
  expect(Buffer.concat(got).equals(sent)).toBe(true);
  // This is what it is for: fails when a Node release does it in another way.
  expect(memory.size).toBe(1);
  socket.pause();
  client.write('later');
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(Buffer.concat(got).length).toBe(sent.length);
  socket.resume();
  await expect.poll(() => Buffer.concat(got).subarray(sent.length).toString()).toBe('later');
  const answer = new Promise<string>((resolve) => client.once('data', (bytes) => resolve(bytes.toString())));
  socket.write('return path');
  expect(await answer).toBe('return path');
  client.end();
  await expect.poll(() => ended).toBe(true);
  // Half-open: the other direction still works.
  const more = new Promise<string>((resolve) => client.once('data', (bytes) => resolve(bytes.toString())));
  socket.write('still open');
  expect(await more).toBe('still open');
});

it('reads to where it is told, which may be small and another place each time', async () => {
  const { client, accepted } = await pair();
  const places: Buffer[] = [];
  let read = 0;
  const onBytes = (bytes: Buffer) => {
    const place = places.at(-1) as Buffer;
    expect([bytes.buffer, bytes.byteOffset]).toEqual([place.buffer, place.byteOffset]);
    places[places.length - 1] = bytes;
    read += bytes.length;
  };
  const socket = readInPlace(accepted, onBytes, () => {
    places.push(Buffer.allocUnsafeSlow(100 + 50_000 * (places.length % 3)));
    return places.at(-1) as Buffer;
  });
  cleanups.push(() => socket.destroy());
  const sent = Buffer.alloc(1_000_000);
  for (let i = 0; i < sent.length; i += 4) sent.writeUInt32LE(i, i);
  client.write(sent);
  socket.resume();
  await expect.poll(() => read).toBe(sent.length);
  expect(Buffer.concat(places.slice(0, -1)).equals(sent)).toBe(true);
});

it('reads nothing when it is paused right after it was resumed', async () => {
  const { client, accepted } = await pair();
  let read = 0;
  const socket = readInPlace(accepted, (bytes) => {
    read += bytes.length;
  });
  cleanups.push(() => socket.destroy());
  socket.resume();
  socket.pause();
  client.write(Buffer.alloc(100_000));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(read).toBe(0);
  socket.resume();
  await expect.poll(() => read).toBe(100_000);
});

it('loses nothing of what was read before, however many pieces it came in, nor the end', async () => {
  const { client, accepted } = await pair();
  const sent = Buffer.alloc(5_000_000);
  for (let i = 0; i < sent.length; i += 4) sent.writeUInt32LE(i, i);
  const got: Buffer[] = [];
  const first = new Promise<void>((resolve) => {
    accepted.on('data', (bytes: Buffer) => {
      got.push(bytes);
      accepted.pause();
      resolve();
    });
  });
  accepted.resume();
  // A short piece before the long ones, so that more than one waits.
  client.write(sent.subarray(0, 100));
  await first;
  client.write(sent.subarray(100, 200));
  await new Promise((resolve) => setTimeout(resolve, 20));
  client.end(sent.subarray(200));
  await expect.poll(() => accepted.readableLength).toBeGreaterThan(60_000);
  accepted.removeAllListeners('data');
  got.push(...bufferedIn(accepted));
  const socket = readInPlace(accepted, (bytes) => void got.push(Buffer.from(bytes)));
  const ended = new Promise((resolve) => socket.on('end', resolve));
  socket.resume();
  await ended;
  expect(Buffer.concat(got).equals(sent)).toBe(true);
});

it('goes on with what it was given when the handle cannot be moved', async () => {
  const { client, accepted } = await pair();
  Object.defineProperty(accepted, '_handle', { get: () => undefined, set: () => {} });
  const got: Buffer[] = [];
  expect(readInPlace(accepted, (bytes) => void got.push(bytes))).toBe(accepted);
  client.destroy();
});

it('closes when the peer is gone', async () => {
  const { client, accepted } = await pair();
  const socket = readInPlace(accepted, () => {});
  const closed = new Promise((resolve) => socket.on('close', resolve));
  socket.on('error', () => {});
  // Whoever counts the server's connections must see this one go.
  const acceptedClosed = new Promise((resolve) => accepted.on('close', resolve));
  socket.resume();
  client.destroy();
  socket.end();
  await closed;
  await acceptedClosed;
});
