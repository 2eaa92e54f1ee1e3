// What the other end of the link could do on purpose: flood connections, say nothing, never read, announce what no frame may
// have, send more than it was granted or batches again or in another order, acknowledge and never answer a PING. Each ends with a named error on that
// connection or is refused; memory stays within its stated limits; and nobody who has not proved that he belongs to a
// migration ends one that runs.

import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ShutdownError } from './connection-errors.ts';
import {
  ABORT_PROTOCOL,
  ABORT_RETURN_PATH_STUCK,
  FRAME_BATCH,
  FRAME_HELLO,
  FRAME_PATCH,
  INITIAL_CREDIT_BYTES,
  MAX_CONNECTIONS,
  MAX_FRAME_BODY_BYTES,
  MAX_HELD_RETURN_BYTES,
  MAX_OPEN_PINGS,
  MAX_RECONSTRUCTED_BYTES,
  MAX_RETURN_BYTES,
  MAX_UNREAD_LINK_BYTES,
} from './link/frame-types.ts';
import { abortFrame, helloFrame, pingFrame, returnFrames } from './link/frame-writer.ts';
import { encodeSourceHello, migrationIdFromUid, randomHello } from './link/hello.ts';
import { deriveProofKey } from './link/link-keys.ts';
import { MainStream } from './stream/test-streams.ts';
import { indexOf, type MemoryVolume } from './test-pipeline.ts';
import {
  atEnd,
  cleanUp,
  feed,
  guest,
  MIB,
  type Rig,
  rig,
  ScriptedSource,
  ScriptedTarget,
  sleep,
  tamper,
  UID,
  within,
} from './test-rig.ts';

afterEach(cleanUp);

const codeOf = (error: Error | undefined): unknown => (error as { code?: unknown } | undefined)?.code;

/** What is held outside of the JavaScript heap, where Buffers are. */
const bufferBytes = (): number => process.memoryUsage().arrayBuffers;

/** Connects to the place of the destination QEMU's socket, as anybody could whom virt-handler lets through. */
async function stranger({ at }: Pick<Rig, 'at'>): Promise<Socket> {
  const socket = connect({ path: at('target.sock'), allowHalfOpen: true });
  socket.on('error', () => socket.destroy());
  atEnd(() => socket.destroy());
  await new Promise<void>((resolve) => socket.once('connect', resolve).once('close', () => resolve()));
  return socket;
}

/** Writes as long as the socket takes it, without ever reading; says how many bytes it took. */
async function flood(socket: Socket, bytes: Buffer, most: number, until: () => boolean): Promise<number> {
  let written = 0;
  while (written < most && !socket.destroyed && !until()) {
    written += bytes.length;
    if (socket.write(bytes)) continue;
    // What this side holds itself is not to be measured.
    if (!(await within(5000, () => socket.destroyed || socket.writableLength === 0 || until()))) break;
  }
  return written;
}

function sourceHello(sessionKey: Uint8Array, ordinal = 0): Buffer {
  const body = encodeSourceHello(
    { ordinal, mode: 'framed', random: randomHello(), migrationId: migrationIdFromUid(UID), volumes: [] },
    deriveProofKey(sessionKey),
  );
  return Buffer.concat(helloFrame(body));
}

/** A source that has sent its first batches to a target that the test plays. */
async function scripted(
  volume: MemoryVolume,
  main: Uint8Array,
): Promise<{ running: Rig; peer: ScriptedTarget; link: Socket; origin: Socket }> {
  const peers: ScriptedTarget[] = [];
  const running = await rig({
    volumes: [volume],
    onLink: (socket) => {
      const peer = new ScriptedTarget(
        socket,
        () => running.sessionKey,
        () => {},
      );
      peers.push(peer);
    },
  });
  const origin = await running.qemu();
  void feed(origin, main.subarray(0, 30_000));
  expect(await within(5000, () => running.source.counters.batches > 0)).toBe(true);
  const [peer] = peers;
  if (peer === undefined) throw new Error('nobody dialed the target');
  return { running, peer, link: peer.link, origin };
}

describe('strangers at the target while a migration runs', () => {
  const small = () => guest({ channels: 0, pages: 800, seed: 51 });

  /** The migration goes on around what `disturb` does after its first half. */
  async function undisturbed(
    disturb: (running: Rig) => Promise<void>,
    options: { readonly helloTimeoutMs?: number } = {},
  ): Promise<Rig> {
    const { volume, migration } = small();
    const received: Buffer[] = [];
    let got = 0;
    const running = await rig({
      volumes: [volume],
      ...options,
      onQemu: (socket, ordinal) => {
        if (ordinal === 0)
          socket.on('data', (bytes: Buffer) => {
            received.push(bytes);
            got += bytes.length;
          });
        socket.resume();
      },
    });
    const origin = await running.qemu();
    const half = Math.floor(migration.main.length / 2);
    await feed(origin, migration.main.subarray(0, half));
    expect(await within(5000, () => got > half / 4)).toBe(true);
    await disturb(running);
    await feed(origin, migration.main.subarray(half));
    expect(await within(8000, () => got === migration.main.length)).toBe(true);
    expect(Buffer.compare(Buffer.concat(received), migration.main)).toBe(0);
    expect(running.source.failure ?? running.target.failure).toBeUndefined();
    expect(running.source.counters.batches).toBeGreaterThan(0);
    return running;
  }

  it('a flood of connections costs the migration nothing: above the limit the oldest of them are closed', async () => {
    const { log } = await undisturbed(async (running) => {
      const before = bufferBytes();
      const window = running.target.connectionWindowBytes(0);
      const sockets: Socket[] = [];
      for (let i = 0; i < MAX_CONNECTIONS + 40; i++) sockets.push(await stranger(running));
      for (const socket of sockets) socket.resume();
      const isOver = (socket: Socket) => socket.destroyed || socket.readableEnded;
      expect(await within(5000, () => sockets.filter(isOver).length === 40)).toBe(true);
      expect(sockets.slice(0, 40).every(isOver)).toBe(true);
      // The migration's own, and theirs.
      expect(running.target.connections).toBe(1 + MAX_CONNECTIONS);
      expect(running.target.connectionWindowBytes(0)).toBe(window);
      // Half-open ones hold no batch.
      expect(bufferBytes() - before).toBeLessThan(32 * MIB);
    });
    expect(
      log.filter((line) => line.startsWith('connection closed that did not prove itself')),
    ).not.toHaveLength(0);
  });

  it('a flood that was there first does not keep the migration out', async () => {
    const { volume, streams } = guest({ channels: 2, pages: 400, seed: 52 });
    const received: Buffer[][] = [];
    const running = await rig({
      volumes: [volume],
      onQemu: (socket, ordinal) => {
        const one: Buffer[] = [];
        received[ordinal] = one;
        socket.on('data', (bytes: Buffer) => one.push(bytes)).resume();
      },
    });
    for (let i = 0; i < MAX_CONNECTIONS; i++) (await stranger(running)).resume();
    expect(await within(5000, () => running.target.connections === MAX_CONNECTIONS)).toBe(true);
    for (const bytes of streams) void feed(await running.qemu(), bytes);
    const isComplete = () => streams.every((bytes, at) => Buffer.concat(received[at] ?? []).equals(bytes));
    expect(await within(8000, isComplete)).toBe(true);
    expect(running.source.failure ?? running.target.failure).toBeUndefined();
    expect(running.source.counters.batches).toBeGreaterThan(0);
  });

  it('a flood of connections that QEMU gets as they are is refused above the limit', async () => {
    const { log } = await undisturbed(async (running) => {
      for (let i = 0; i < MAX_CONNECTIONS; i++) (await stranger(running)).resume().write('x');
      expect(await within(5000, () => running.target.connections === 1 + MAX_CONNECTIONS)).toBe(true);
      const reached = () =>
        running.log.filter((line) => line.startsWith('connection without HELLO relayed raw')).length;
      expect(await within(5000, () => reached() === MAX_CONNECTIONS)).toBe(true);
      await sleep(50);
      const last = await stranger(running);
      last.resume();
      expect(await within(5000, () => last.destroyed || last.readableEnded)).toBe(true);
    });
    expect(log.some((line) => line.startsWith('connection refused: too many'))).toBe(true);
  });

  it('one that says nothing, and one that says its HELLO a byte at a time, are closed in time', async () => {
    const { log } = await undisturbed(
      async (running) => {
        const silent = await stranger(running);
        const slow = await stranger(running);
        const ended = [silent, slow].map(() => false);
        for (const [i, socket] of [silent, slow].entries()) {
          socket.resume();
          socket.on('end', () => {
            ended[i] = true;
          });
        }
        const hello = sourceHello(running.sessionKey);
        for (let i = 0; i < 40 && ended.includes(false); i++) {
          if (!slow.destroyed) slow.write(hello.subarray(i, i + 1));
          await sleep(50);
        }
        expect(await within(3000, () => !ended.includes(false))).toBe(true);
      },
      { helloTimeoutMs: 500 },
    );
    expect(log.filter((line) => line.startsWith('connection closed that did not prove itself'))).toHaveLength(
      2,
    );
  });

  it('one with another key, one with a HELLO that came before, and one with garbage after its magic', async () => {
    await undisturbed(async (running) => {
      const garbage = sourceHello(running.sessionKey);
      garbage.fill(0xee, 20);
      for (const bytes of [
        sourceHello(Buffer.alloc(32, 9)),
        // Proven by the right key, but connection 0 is there already.
        sourceHello(running.sessionKey),
        garbage,
      ]) {
        const socket = await stranger(running);
        let isOver = false;
        socket.on('end', () => {
          isOver = true;
        });
        socket.resume();
        socket.write(bytes);
        expect(await within(3000, () => isOver || socket.destroyed)).toBe(true);
      }
    });
  });

  it('when nobody else came, what a stranger did is the reason that is reported', async () => {
    const { volume } = small();
    const { target, at } = await rig({ volumes: [volume] });
    const socket = await stranger({ at });
    socket.resume();
    socket.write(sourceHello(Buffer.alloc(32, 9)));
    expect(await within(3000, () => codeOf(target.failure) === 'NASMIG_LINK_PROOF')).toBe(true);
  });
});

describe('a source that opens more connections than a migration may have', () => {
  it('gets no further one', async () => {
    const { volume } = guest({ channels: 0, pages: 50 });
    const running = await rig({ volumes: [volume] });
    const greet = async (ordinal: number): Promise<Socket> => {
      const socket = await stranger(running);
      socket.resume();
      socket.write(sourceHello(running.sessionKey, ordinal));
      return socket;
    };
    for (let ordinal = 0; ordinal < MAX_CONNECTIONS; ordinal++) await greet(ordinal);
    expect(await within(5000, () => running.target.connections === MAX_CONNECTIONS)).toBe(true);
    await sleep(100);
    const last = await greet(MAX_CONNECTIONS);
    expect(await within(5000, () => last.destroyed || last.readableEnded)).toBe(true);
    expect(running.target.connections).toBe(MAX_CONNECTIONS);
    expect(running.target.failure).toBeUndefined();
    expect(running.log.some((line) => line.includes(`${MAX_CONNECTIONS} connections are open already`))).toBe(
      true,
    );
  });
});

describe('whoever connects to a source whose migration has failed', () => {
  it('is read from, as a channel of QEMU that comes late, but for more than a migration may have', async () => {
    const { volume } = guest({ channels: 0, pages: 50 });
    const { source, qemu } = await rig({ volumes: [volume] });
    await qemu();
    expect(await within(1000, () => source.connections === 1)).toBe(true);
    source.abort(new ShutdownError());
    const late: Socket[] = [];
    for (let i = 0; i <= MAX_CONNECTIONS; i++) {
      const socket = await qemu();
      late.push(socket.resume());
    }
    expect(
      await within(2000, () => late.some(({ destroyed, readableEnded }) => destroyed || readableEnded)),
    ).toBe(true);
    const refused = late.filter(({ destroyed, readableEnded }) => destroyed || readableEnded);
    expect(refused).toEqual([late.at(-1)]);
  });
});

describe('a peer that never reads', () => {
  const pings = Buffer.concat(Array.from({ length: 4096 }, (_, i) => pingFrame(i)));
  /** Every answer is a write of its own; with what Node keeps for each this is below the stated 256 MiB by far. */
  const MOST_RESIDENT_BYTES = 96 * MIB;

  it('is closed by the target, which holds no more for it than its limit', async () => {
    const { volume } = guest({ channels: 0, pages: 50 });
    const running = await rig({ volumes: [volume] });
    const socket = await stranger(running);
    socket.write(sourceHello(running.sessionKey));
    await within(2000, () => running.target.connections === 1);
    const residentBefore = process.memoryUsage().rss;
    const written = await flood(socket, pings, 64 * MIB, () => running.target.failure !== undefined);
    expect(await within(5000, () => codeOf(running.target.failure) === 'NASMIG_PEER_NOT_READING')).toBe(true);
    expect(written).toBeGreaterThan(MAX_UNREAD_LINK_BYTES);
    expect(process.memoryUsage().rss - residentBefore).toBeLessThan(MOST_RESIDENT_BYTES);
  });

  it('is closed by the source', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 50 });
    const { running, link } = await scripted(volume, migration.main);
    link.pause();
    const residentBefore = process.memoryUsage().rss;
    await flood(link, pings, 64 * MIB, () => running.source.failure !== undefined);
    expect(await within(5000, () => codeOf(running.source.failure) === 'NASMIG_PEER_NOT_READING')).toBe(true);
    expect(process.memoryUsage().rss - residentBefore).toBeLessThan(MOST_RESIDENT_BYTES);
  });
});

describe('a source that sends more than it was granted', () => {
  it('is ended at the first byte beyond its credit, and memory was taken for that credit alone', async () => {
    const { volume } = guest({ channels: 0, pages: 50 });
    let qemu: Socket | undefined;
    const running = await rig({
      volumes: [volume],
      // It does not read, so no further credit comes.
      onQemu: (socket) => {
        qemu = socket;
      },
    });
    const { target } = running;
    let takenBytes = 0;
    const take = target.buffers.take.bind(target.buffers);
    target.buffers.take = (bytes) => {
      takenBytes += bytes;
      return take(bytes);
    };
    const source = new ScriptedSource(await stranger(running), running.sessionKey);
    expect(await within(3000, () => source.creditLimit > 0)).toBe(true);
    const credit = source.creditLimit;
    for (let sent = 0; sent < credit; sent += MAX_RECONSTRUCTED_BYTES)
      source.send(Math.min(MAX_RECONSTRUCTED_BYTES, credit - sent));
    expect(await within(5000, () => takenBytes === credit)).toBe(true);
    await sleep(50);
    expect(target.failure).toBeUndefined();
    expect(source.creditLimit).toBe(credit);
    const { batches } = target.counters;

    source.send(1);
    for (let i = 0; i < 16; i++) source.send(MAX_RECONSTRUCTED_BYTES);
    expect(await within(5000, () => codeOf(target.failure) === 'NASMIG_CREDIT_OVERRUN')).toBe(true);
    expect(await within(3000, () => source.aborts.length > 0)).toBe(true);
    expect(source.aborts).toEqual([ABORT_PROTOCOL]);
    qemu?.resume();
    expect(await within(3000, () => qemu?.destroyed === true || qemu?.readableEnded === true)).toBe(true);
    expect(takenBytes).toBe(credit);
    expect(target.counters.batches).toBe(batches);
  });
});

describe('a source that gives up while QEMU is being reached', () => {
  it('ends its connection once, and it stays ended', async () => {
    let reach: (() => void) | undefined;
    const reaching = new Promise<void>((resolve) => {
      reach = resolve;
    });
    let isReaching = false;
    const { volume } = guest({ channels: 0, pages: 50 });
    const running = await rig({
      volumes: [volume],
      beforeQemu: () => {
        isReaching = true;
        return reaching;
      },
    });
    const { target } = running;
    const closed = vi.spyOn(target, 'closed');
    const source = new ScriptedSource(await stranger(running), running.sessionKey);
    expect(await within(1000, () => isReaching)).toBe(true);
    source.link.write(abortFrame(ABORT_PROTOCOL, 'given up'));
    source.link.end();
    await sleep(30);
    reach?.();
    expect(await within(1000, () => closed.mock.calls.length > 0)).toBe(true);
    await sleep(100);
    expect(closed).toHaveBeenCalledOnce();
    expect(codeOf(target.failure)).toBe('NASMIG_LINK_PEER_ABORT');
    expect(target.connections).toBe(0);
  });
});

describe('a return path that the source QEMU does not read', () => {
  const full = Buffer.concat(returnFrames(Buffer.alloc(MAX_RETURN_BYTES, 0x5a)));

  it('is held up to its limit, and read later', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 50 });
    const { running, link, origin } = await scripted(volume, migration.main);
    const frames = MAX_HELD_RETURN_BYTES / MAX_RETURN_BYTES;
    for (let i = 0; i < frames; i++) link.write(full);
    await sleep(200);
    let read = 0;
    origin.on('data', (bytes: Buffer) => {
      read += bytes.length;
    });
    expect(await within(5000, () => read === frames * MAX_RETURN_BYTES)).toBe(true);
    expect(running.source.failure).toBeUndefined();
  });

  it('ends a target that floods it, with no more held than the limit', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 50 });
    const { running, peer, link, origin } = await scripted(volume, migration.main);
    const { source } = running;
    const before = bufferBytes();
    const written = await flood(link, full, 64 * MIB, () => source.failure !== undefined);
    expect(await within(5000, () => codeOf(source.failure) === 'NASMIG_RETURN_PATH_STUCK')).toBe(true);
    expect(written).toBeGreaterThan(MAX_HELD_RETURN_BYTES);
    // Beside what is held, what the kernel keeps of both sockets.
    expect(written).toBeLessThan(MAX_HELD_RETURN_BYTES + 4 * MIB);
    expect(bufferBytes() - before).toBeLessThan(MAX_HELD_RETURN_BYTES + 8 * MIB);
    expect(await within(3000, () => peer.aborts.length > 0)).toBe(true);
    expect(peer.aborts).toEqual([ABORT_RETURN_PATH_STUCK]);
    // The source QEMU is cut off: its migration fails, and the VM goes on there.
    origin.resume();
    expect(await within(3000, () => origin.destroyed || origin.readableEnded)).toBe(true);
  });
});

describe('announcements that no frame may have', () => {
  const header = (type: number, flags: number, bytes: number): Buffer => {
    const out = Buffer.alloc(8);
    out.writeUInt8(type, 0);
    out.writeUInt8(flags, 1);
    out.writeUInt32BE(bytes, 4);
    return out;
  };
  const CODES = ['NASMIG_LINK_FRAME_TOO_LARGE', 'NASMIG_LINK_BAD_FRAME', 'NASMIG_LINK_DIRECTION'];

  it('end the connection at its header, with nothing allocated for the body', async () => {
    const { volume } = guest({ channels: 0, pages: 50 });
    for (let type = 1; type <= 16; type++) {
      const running = await rig({ volumes: [volume] });
      const socket = await stranger(running);
      socket.resume();
      socket.write(sourceHello(running.sessionKey));
      expect(await within(2000, () => running.target.connections === 1)).toBe(true);
      await sleep(20);
      const before = bufferBytes();
      socket.write(header(type, 0, type % 2 === 0 ? 0xffff_ffff : MAX_FRAME_BODY_BYTES + 1));
      expect(await within(3000, () => running.target.failure !== undefined), `type ${type}`).toBe(true);
      expect([...CODES, 'NASMIG_LINK_FRAME_ORDER'], `type ${type}`).toContain(codeOf(running.target.failure));
      expect(bufferBytes() - before).toBeLessThan(4 * MIB);
      cleanUp();
    }
  });

  it('and so at the source', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 50 });
    for (const bytes of [
      header(3, 0, 0xffff_ffff),
      header(6, 0, 65_537),
      header(2, 0, 100),
      header(200, 0, 0),
    ]) {
      const { running, link, origin } = await scripted(volume, migration.main);
      link.write(bytes);
      expect(await within(3000, () => running.source.failure !== undefined)).toBe(true);
      expect(CODES).toContain(codeOf(running.source.failure));
      // The source QEMU is cut off: its migration fails, and the VM goes on there.
      expect(await within(3000, () => origin.destroyed || origin.readableEnded)).toBe(true);
      cleanUp();
    }
  });
});

describe('batches that come again or in another order', () => {
  /** A third of the batches need a PATCH. */
  const stale = () => {
    const { volume, migration } = guest({ channels: 0, pages: 900, seed: 61, ownShare: 0.3 });
    const index = indexOf([volume]);
    for (let block = 0; block < volume.blockCount; block += 40)
      volume.content.fill(0x11, block * 4096, block * 4096 + 64);
    return { volume, index, migration };
  };

  const cases: readonly (readonly [string, string, () => (frame: Buffer) => readonly Buffer[]])[] = [
    [
      'a batch twice',
      'NASMIG_LINK_BATCH_ORDER',
      () => (frame) => (frame[0] === FRAME_BATCH && frame.readUInt32BE(8) === 2 ? [frame, frame] : [frame]),
    ],
    [
      'two batches exchanged',
      'NASMIG_LINK_BATCH_ORDER',
      () => {
        let held: Buffer | undefined;
        return (frame) => {
          if (frame[0] !== FRAME_BATCH) return [frame];
          if (frame.readUInt32BE(8) === 2) {
            held = frame;
            return [];
          }
          return held !== undefined && frame.readUInt32BE(8) === 3 ? [frame, held] : [frame];
        };
      },
    ],
    [
      'a batch left out',
      'NASMIG_LINK_BATCH_ORDER',
      () => (frame) => (frame[0] === FRAME_BATCH && frame.readUInt32BE(8) === 2 ? [] : [frame]),
    ],
    [
      'an old batch under a new number, which the target asks for and the source does not know',
      'NASMIG_LINK_PEER_ABORT',
      () => {
        let old: Buffer | undefined;
        return (frame) => {
          if (frame[0] === FRAME_PATCH) return [];
          if (frame[0] !== FRAME_BATCH) return [frame];
          if (frame.readUInt32BE(8) === 0) old = Buffer.from(frame);
          if (frame.readUInt32BE(8) !== 1 || old === undefined) return [frame];
          old.writeUInt32BE(1, 8);
          return [old];
        };
      },
    ],
    [
      'a patch twice',
      'NASMIG_UNASKED_PATCH',
      () => (frame) => (frame[0] === FRAME_PATCH ? [frame, frame] : [frame]),
    ],
    [
      'HELLO twice',
      'NASMIG_LINK_FRAME_ORDER',
      () => (frame) => (frame[0] === FRAME_HELLO ? [frame, frame] : [frame]),
    ],
  ];

  it.each(cases)(
    '%s: refused by name, and QEMU has nothing but a beginning of its stream',
    async (_what, code, make) => {
      const { volume, index, migration } = stale();
      const received: Buffer[] = [];
      const change = make();
      const running = await rig({
        volumes: [volume],
        index,
        onQemu: (socket) => {
          socket.on('data', (bytes: Buffer) => received.push(bytes));
          socket.resume();
        },
        onDialed: (link) => tamper(link, change),
      });
      const origin = await running.qemu();
      origin.resume();
      void feed(origin, migration.main);
      expect(await within(8000, () => running.target.failure !== undefined)).toBe(true);
      // A batch of no pages cannot be patched: its tag alone tells. One with pages is asked for again, and nobody answers.
      expect([code, 'NASMIG_LINK_SILENT']).toContain(codeOf(running.target.failure));
      expect(await within(5000, () => running.source.failure !== undefined)).toBe(true);
      expect(await within(5000, () => origin.destroyed || origin.readableEnded)).toBe(true);
      const bytes = Buffer.concat(received);
      expect(bytes.length).toBeLessThan(migration.main.length);
      expect(Buffer.compare(bytes, migration.main.subarray(0, bytes.length))).toBe(0);
    },
  );
});

describe('a target that acknowledges and never answers a PING', () => {
  /** Until so much of a main channel has come without RAM's list, it is held back. */
  const HELD_COMMANDS = 6000;
  const COMMAND_BYTES = 12;

  /** A command ends a batch, and every batch has its PING: one after the other, until it breaks or enough were sent. */
  async function run(answersPings: boolean): Promise<Rig> {
    const { volume } = guest({ channels: 0, pages: 10 });
    const main = new MainStream().header();
    const headerBytes = main.length;
    // Two that meet in one read make one batch.
    for (let i = 0; i < HELD_COMMANDS + 6 * MAX_OPEN_PINGS; i++) main.ping(i);
    const bytes = main.finish();
    let came = (): void => {};
    const running = await rig({
      volumes: [volume],
      onLink: (link) => {
        const target = new ScriptedTarget(
          link,
          () => running.sessionKey,
          (one) => {
            one.acknowledge(INITIAL_CREDIT_BYTES);
            came();
          },
        );
        target.answersPings = answersPings;
        link.on('close', () => came());
      },
    });
    const origin = await running.qemu();
    origin.resume();
    const start = headerBytes + HELD_COMMANDS * COMMAND_BYTES;
    await feed(origin, bytes.subarray(0, start));
    expect(await within(5000, () => running.source.counters.streamBytes === start)).toBe(true);
    const { source } = running;
    const isOver = () => source.failure !== undefined || source.counters.batches > MAX_OPEN_PINGS + 100;
    for (let at = start; at < bytes.length && !isOver(); at += COMMAND_BYTES) {
      const next = new Promise<void>((resolve) => {
        came = resolve;
      });
      origin.write(bytes.subarray(at, at + COMMAND_BYTES));
      await next;
    }
    return running;
  }

  it('is closed when the list of open ones has reached its limit', async () => {
    const { source } = await run(false);
    expect(codeOf(source.failure)).toBe('NASMIG_PONGS_WITHHELD');
    expect(source.counters.batches).toBeGreaterThan(MAX_OPEN_PINGS - 100);
    expect(source.counters.batches).toBeLessThanOrEqual(MAX_OPEN_PINGS + 1);
  });

  it('and one that answers them is not', async () => {
    const { source } = await run(true);
    expect(source.failure).toBeUndefined();
    expect(source.counters.batches).toBeGreaterThan(MAX_OPEN_PINGS);
  });
});

describe('slow handshakes', () => {
  it('a target that answers HELLO a byte at a time fails the migration in time', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 50 });
    const { source, qemu } = await rig({
      volumes: [volume],
      helloTimeoutMs: 400,
      onLink: (link) => {
        link.resume();
        const hello = Buffer.concat(helloFrame(Buffer.concat([Buffer.from('NASM'), Buffer.alloc(100, 1)])));
        let at = 0;
        const timer = setInterval(() => {
          if (link.destroyed || at === 60) clearInterval(timer);
          else link.write(hello.subarray(at, ++at));
        }, 40);
        atEnd(() => clearInterval(timer));
      },
    });
    const origin = await qemu();
    origin.resume();
    void feed(origin, migration.main);
    expect(await within(4000, () => codeOf(source.failure) === 'NASMIG_LINK_SILENT')).toBe(true);
    expect(await within(2000, () => origin.destroyed || origin.readableEnded)).toBe(true);
  });
});

describe('a raw relay that breaks', () => {
  it('is told in what both sides report, and is no failure of theirs', async () => {
    const { volume } = guest({ channels: 0, pages: 10 });
    const running = await rig({
      volumes: [volume],
      onQemu: (socket) => {
        socket.resume();
        socket.once('data', () => {
          socket.pause();
          // Closed with bytes unread, as a QEMU that dies: whoever writes to it gets a reset.
          setTimeout(() => socket.destroy(), 50);
        });
      },
    });
    const origin = await running.qemu();
    origin.resume();
    // No magic of QEMU's: relayed as it is.
    void feed(origin, Buffer.alloc(4 * MIB, 0x5f));
    expect(await within(5000, () => running.target.relayFailure !== undefined)).toBe(true);
    expect(running.target.failure ?? running.source.failure).toBeUndefined();
    expect(await within(5000, () => running.source.connections + running.target.connections === 0)).toBe(
      true,
    );
    expect(running.log.some((line) => line.startsWith('relayed connection broke'))).toBe(true);
  });
});
