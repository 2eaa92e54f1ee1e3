// Connections that go raw, and what must not happen to QEMU at their other end: it is never reached by a connection that has nothing to
// say, gets no byte of ours, and is let go of when one direction has ended although the proxy keeps the other open.

import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ShutdownError } from './connection-errors.ts';
import { FRAME_HELLO } from './link/frame-types.ts';
import { relayRaw } from './raw-relay.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { generateMigration, MainStream, MultifdStream } from './stream/test-streams.ts';
import { atEnd, cleanUp, feed, guest, listening, rig, sleep, watchLink, within } from './test-rig.ts';

afterEach(cleanUp);

const { volume, migration } = guest({ channels: 0, pages: 50 });
/** Goes raw by what its first bytes announce. */
const POST_COPY = generateMigration({ postcopy: 'advised', seed: 28 }).main;

describe('the destination QEMU', () => {
  it('is not reached by a connection that closed without a byte', async () => {
    let reached = 0;
    let dialed = 0;
    const { source, qemu } = await rig({
      volumes: [volume],
      onQemu: () => {
        reached += 1;
      },
      onDialed: () => {
        dialed += 1;
      },
    });
    const silent = await qemu();
    silent.end();
    expect(await within(1000, () => source.accepted === 1 && source.connections === 0)).toBe(true);
    await sleep(100);
    expect({ dialed, reached }).toEqual({ dialed: 0, reached: 0 });
    expect(source.failure).toBeUndefined();
  });

  it('is reached with first bytes in hand: they follow a HELLO that asks for raw, before its answer', async () => {
    let got = Buffer.alloc(0);
    const { qemu } = await rig({
      volumes: [volume],
      // Never answers.
      onLink: (link) => {
        link.on('data', (bytes: Buffer) => {
          got = Buffer.concat([got, bytes]);
        });
        link.resume();
      },
    });
    await feed(await qemu(), POST_COPY.subarray(0, 5000));
    expect(await within(2000, () => got.includes(Buffer.from(POST_COPY.subarray(0, 5000))))).toBe(true);
  });

  it('and gets them once, in order', async () => {
    let got = Buffer.alloc(0);
    const { source, qemu } = await rig({
      volumes: [volume],
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got = Buffer.concat([got, bytes]);
        });
        socket.resume();
      },
    });
    await feed(await qemu(), POST_COPY);
    expect(await within(2000, () => got.length >= POST_COPY.length)).toBe(true);
    expect(got.equals(POST_COPY)).toBe(true);
    expect(source.counters.streamBytes).toBe(POST_COPY.length);
    expect(source.rawReason).toBe('PostCopyAnnounced');
  });
});

describe('a main channel that announces post-copy only after it was framed', () => {
  it('fails the migration, and nothing that comes later goes raw', async () => {
    const modes: string[] = [];
    let atQemu = 0;
    const { source, log, qemu } = await rig({
      volumes: [volume],
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          atQemu += bytes.length;
        });
        socket.resume();
      },
      onDialed: (link) =>
        watchLink(link, (frame) => {
          if (frame.type === FRAME_HELLO) modes.push(frame.hello.mode);
        }),
    });
    const header = new MainStream().header();
    const headerBytes = header.length;
    const stream = header
      .advise(PAGE_BYTES)
      .ramStart([{ name: 'pc.ram', pageCount: 4 }])
      .finish();
    const main = await qemu();
    const heard = listenTo(main);
    await feed(main, stream.subarray(0, headerBytes));
    // It says no more for so long that it is framed.
    expect(await within(5000, () => modes.length === 2)).toBe(true);
    expect(modes).toEqual(['framed', 'framed']);
    await feed(main, stream.subarray(headerBytes));
    const channel = await qemu();
    await feed(channel, Buffer.concat([new MultifdStream().init(0).finish(), Buffer.alloc(5000)]));
    expect(await within(2000, () => main.destroyed || heard.ended)).toBe(true);
    expect(source.failure).toMatchObject({ code: 'NASMIG_LATE_POST_COPY' });
    expect(source.rawReason).toBeUndefined();
    await sleep(100);
    expect(modes).toHaveLength(2);
    expect(atQemu).toBeLessThanOrEqual(headerBytes);
    expect(log.filter((line) => line.includes('raw'))).toEqual([]);
  });
});

/** What arrives at the test's end of a connection. */
function listenTo(socket: Socket): { bytes: number; ended: boolean } {
  const heard = { bytes: 0, ended: false };
  socket.on('data', (bytes: Buffer) => {
    heard.bytes += bytes.length;
  });
  socket.on('end', () => {
    heard.ended = true;
  });
  return heard;
}

describe('a sidecar that gives a raw connection up', () => {
  it('writes nothing into what QEMU reads', async () => {
    const { target, qemu } = await rig({
      volumes: [volume],
      sourceVersions: { min: 1, max: 1 },
      targetVersions: { min: 2, max: 4 },
      onQemu: (socket) => void socket.resume(),
    });
    const origin = await qemu();
    const heard = listenTo(origin);
    await feed(origin, migration.main);
    expect(await within(1000, () => target.rawReason === 'LinkVersion')).toBe(true);
    await sleep(50);
    target.abort(new ShutdownError());
    expect(await within(2000, () => heard.ended)).toBe(true);
    expect(heard.bytes).toBe(0);
  });

  it('nor to a source that never said HELLO', async () => {
    const { target, at } = await rig({ volumes: [volume], helloTimeoutMs: 100 });
    const stranger = connect({ path: at('target.sock'), allowHalfOpen: true });
    atEnd(() => stranger.destroy());
    const heard = listenTo(stranger);
    expect(await within(2000, () => heard.ended)).toBe(true);
    expect(heard.bytes).toBe(0);
    expect(target.hasBegun).toBe(false);
  });
});

describe('a relay', () => {
  /** Two connected pairs; the relay goes between the accepted ends. */
  async function pairs(): Promise<{ left: Socket; right: Socket; farLeft: Socket; farRight: Socket }> {
    const directory = mkdtempSync(join(tmpdir(), 'nasmig-raw-'));
    atEnd(() => rmSync(directory, { recursive: true, force: true }));
    const path = join(directory, 's');
    const accepted: Socket[] = [];
    await listening(path, (socket) => accepted.push(socket));
    const far: Socket[] = [];
    for (let i = 0; i < 2; i++) {
      const socket = connect({ path, allowHalfOpen: true });
      socket.on('error', () => {});
      atEnd(() => socket.destroy());
      far.push(socket);
      await within(1000, () => accepted.length > i);
    }
    const [left, right] = accepted as [Socket, Socket];
    const [farLeft, farRight] = far as [Socket, Socket];
    return { left, right, farLeft, farRight };
  }

  it('is over when QEMU has closed, although the proxy keeps the leg that it has dialed open', async () => {
    const { left, right, farLeft, farRight } = await pairs();
    farLeft.resume();
    const over = relayRaw(left, right);
    farRight.destroy();
    const outcome = await Promise.race([over.then((error) => error ?? 'orderly'), sleep(4000)]);
    expect(outcome).toBe('orderly');
    expect(left.destroyed && right.destroyed).toBe(true);
  });

  it('passes on what comes back after one direction has ended', async () => {
    const { left, right, farLeft, farRight } = await pairs();
    let got = '';
    farLeft.on('data', (bytes: Buffer) => {
      got += bytes.toString();
    });
    farRight.on('end', () => farRight.end('the last word')).resume();
    const over = relayRaw(left, right);
    farLeft.end('the end');
    expect(await over).toBeUndefined();
    expect(await within(1000, () => got === 'the last word')).toBe(true);
  });
});
