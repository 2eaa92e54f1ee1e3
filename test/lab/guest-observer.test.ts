import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GuestObserver, GuestTimeoutError, UnsoundGuestError } from './guest-observer.ts';

interface Said {
  counter: number;
  verified?: number;
  failed?: number;
  accepted?: number;
  finished?: number;
  ready?: boolean;
}

/** What QEMU's network card writes for a beacon of the guest. */
function beacon(said: Said): Buffer {
  const bytes = Buffer.alloc(4 + 168);
  bytes.writeUInt32BE(168);
  const frame = bytes.subarray(4);
  frame.writeUInt16BE(0x88b5, 12);
  frame.write('NMGB', 14);
  frame.writeUInt16BE(1, 18);
  frame.writeUInt16BE(said.ready ? 1 : 0, 20);
  frame.writeBigUInt64BE(BigInt(said.counter), 22);
  frame.writeBigUInt64BE(BigInt(said.verified ?? 0), 38);
  frame.writeBigUInt64BE(BigInt(said.failed ?? 0), 46);
  frame.writeUInt32BE(said.accepted ?? 0, 62);
  frame.writeUInt32BE(said.finished ?? 0, 66);
  return bytes;
}

let directory: string;
let observer: GuestObserver;
const sockets: Socket[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'observer-'));
  observer = new GuestObserver();
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await observer.close();
  await rm(directory, { recursive: true });
});

async function card(label: string): Promise<Socket> {
  const path = join(directory, label);
  await observer.listen(path, label);
  const socket = connect(path);
  sockets.push(socket);
  await once(socket, 'connect');
  return socket;
}

async function say(socket: Socket, said: Said): Promise<void> {
  socket.write(beacon(said));
  await observer.waitFor('say it', (heard) => heard.counter >= said.counter, 1_000);
}

describe('GuestObserver', () => {
  it('reports the longest gap, and the sockets on both ends of it', async () => {
    const source = await card('source');
    const target = await card('target');
    await say(source, { counter: 1 });
    observer.mark();
    await say(source, { counter: 2 });
    await sleep(80);
    await say(target, { counter: 3 });
    await sleep(10);
    await say(target, { counter: 4 });
    const { longestGap, beacons, firstCounter, lastCounter } = observer.report();
    expect(longestGap).toMatchObject({ from: 'source', to: 'target' });
    expect(longestGap?.gapMs).toBeGreaterThan(70);
    expect({ beacons, firstCounter, lastCounter }).toEqual({ beacons: 3, firstCounter: 2, lastCounter: 4 });
  });

  it('counts the silence since the last beacon as a gap', async () => {
    const source = await card('source');
    await say(source, { counter: 1 });
    await sleep(60);
    expect(observer.report().longestGap?.gapMs).toBeGreaterThan(50);
  });

  it('finds fault with a guest that runs twice', async () => {
    const source = await card('source');
    const target = await card('target');
    await say(source, { counter: 5, verified: 1 });
    observer.mark();
    target.write(beacon({ counter: 5, verified: 9 }));
    await say(source, { counter: 6, verified: 9 });
    await sleep(20);
    expect(observer.report()).toMatchObject({ repeatedCounters: 1, selfCheck: 'failed' });
  });

  it("counts the guest's checks since the mark", async () => {
    const source = await card('source');
    await say(source, { counter: 1, verified: 100 });
    observer.mark();
    expect(observer.report().selfCheck).toBe('none');
    await say(source, { counter: 2, verified: 150 });
    expect(observer.report()).toMatchObject({ verifiedSlices: 50, failedSlices: 0, selfCheck: 'ok' });
    expect(() => observer.requireSound()).not.toThrow();
    await say(source, { counter: 3, verified: 151, failed: 1 });
    expect(observer.report()).toMatchObject({ failedSlices: 1, selfCheck: 'failed' });
    expect(() => observer.requireSound()).toThrow(UnsoundGuestError);
  });

  it('repeats a command until it is accepted, and returns when it is finished', async () => {
    const source = await card('source');
    await say(source, { counter: 1, accepted: 4, finished: 4 });
    const received: Buffer[] = [];
    source.on('data', (chunk: Buffer) => received.push(chunk));
    let finished = false;
    const done = observer.command({ kind: 'verifyAll' }, 2_000).then(() => {
      finished = true;
    });
    await sleep(250);
    const sent = Buffer.concat(received);
    expect(sent.length / 64).toBeGreaterThanOrEqual(2);
    expect(sent.readUInt32BE(4 + 18)).toBe(5);
    await say(source, { counter: 2, accepted: 5, finished: 4 });
    expect(finished).toBe(false);
    source.write(beacon({ counter: 3, accepted: 5, finished: 5 }));
    await done;
    expect(finished).toBe(true);
  });

  it('names what it waited for in vain', async () => {
    await card('source');
    await expect(observer.waitFor('become ready', (heard) => heard.ready, 20)).rejects.toThrow(
      GuestTimeoutError,
    );
  });
});
