// A real socket that is bound but does not listen yet, and what else can be at the end of a dial.

import { mkdtempSync, realpathSync, renameSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dialOriginal } from './dial-original.ts';

let directory: string;
let path: string;
let servers: Server[];

beforeEach(() => {
  directory = mkdtempSync(join(realpathSync(tmpdir()), 'dial-'));
  path = join(directory, 'sock');
  servers = [];
});

afterEach(() => {
  for (const server of servers) server.close();
  rmSync(directory, { recursive: true });
});

async function listenAt(where: string): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end('hello');
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(where, () => resolve()));
  return server;
}

/** A socket that refuses connections, as one does between bind and listen. */
async function refuseAt(where: string): Promise<void> {
  const server = await listenAt(`${where}.closed`);
  renameSync(`${where}.closed`, where);
  await new Promise((resolve) => server.close(resolve));
}

describe('dialOriginal', () => {
  it('connects', async () => {
    await listenAt(path);
    const socket = await dialOriginal(path);
    expect(socket.allowHalfOpen).toBe(true);
    socket.destroy();
  });

  it('waits for a listen that follows the bind', async () => {
    await refuseAt(path);
    const dialing = dialOriginal(path);
    setTimeout(async () => {
      await listenAt(`${path}.real`);
      renameSync(`${path}.real`, path);
    }, 30);
    (await dialing).destroy();
  });

  it('gives up when nobody listens within the bound', async () => {
    await refuseAt(path);
    const startedMs = performance.now();
    await expect(dialOriginal(path, { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'NASMIG_ORIGINAL_UNREACHABLE',
      reason: 'ECONNREFUSED',
    });
    expect(performance.now() - startedMs).toBeLessThan(1000);
  });

  it('does not wait for a socket that is not there', async () => {
    const startedMs = performance.now();
    await expect(dialOriginal(path)).rejects.toMatchObject({
      code: 'NASMIG_ORIGINAL_UNREACHABLE',
      reason: 'ENOENT',
    });
    expect(performance.now() - startedMs).toBeLessThan(500);
  });

  it('ends with its signal', async () => {
    await refuseAt(path);
    const abort = new AbortController();
    const dialing = dialOriginal(path, { signal: abort.signal, timeoutMs: 10_000 });
    setTimeout(() => abort.abort(new Error('cancelled')), 20);
    await expect(dialing).rejects.toThrow('cancelled');
  });
});
