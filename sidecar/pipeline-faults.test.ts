// Faults injected into whole pipelines: a destination QEMU that stops reading where QEMU does, a target that withholds what it
// owes, links that break or lie, strangers at the socket, a slow NAS. The bytes stay exact, nothing waits for ever, memory
// stays within its stated bounds, and the source VM is never told that a broken migration went well.

import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { BufferPool } from './buffer-pool.ts';
import { BlockIndex } from './index/block-index.ts';
import { PageHasher, randomSeed } from './index/page-hash.ts';
import { BatchEncoder } from './link/batch-encoder.ts';
import { FrameReader } from './link/frame-reader.ts';
import {
  ABORT_PROTOCOL,
  FRAME_ABORT,
  FRAME_ACK,
  FRAME_END_ACK,
  FRAME_HEADER_BYTES,
  MAX_OPEN_GROWS,
  PING_INTERVAL_MS,
} from './link/frame-types.ts';
import { abortFrame, growFrame, helloFrame } from './link/frame-writer.ts';
import { encodeSourceHello, migrationIdFromUid, randomHello } from './link/hello.ts';
import { deriveProofKey } from './link/link-keys.ts';
import type { ReadDone } from './nas/volume.ts';
import { relayRaw } from './raw-relay.ts';
import { SourceMigration } from './source/source-migration.ts';
import { AssemblyPool, StreamBatcher } from './source/stream-batcher.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { generateMigration, MainStream, MultifdStream } from './stream/test-streams.ts';

import { indexOf, MemoryVolume, runPipeline } from './test-pipeline.ts';
import {
  atEnd,
  boundaries,
  cleanUp,
  feed,
  guest,
  listening,
  MIB,
  rig,
  ScriptedTarget,
  sleep,
  UID,
  within,
} from './test-rig.ts';

const SHUT = Buffer.from('00010004' + '00000000', 'hex');
afterEach(cleanUp);

describe('multifd barriers', () => {
  it.each(['10.0', '7.2'] as const)(
    'QEMU %s: a destination that stops each channel at SYNC until main moves gets everything',
    async (qemu) => {
      const { volume, migration, streams } = guest({ channels: 4, pages: 5000, qemu, seed: 21 });
      // Up to 8.0 every end of a RAM section is the partner of a SYNC, later a FLUSH is.
      const partners = boundaries(
        migration.expected.main,
        qemu === '7.2' ? ['ram-section', 'ram-end'] : ['multifd-flush'],
      );
      const syncs = migration.expected.multifd.map((lines) => boundaries(lines, ['multifd-sync']));
      expect(syncs.every((offsets) => offsets.length === partners.length)).toBe(true);
      const received: Buffer[][] = streams.map(() => []);
      const got = streams.map(() => 0);
      const sockets: Socket[] = [];
      const passed = (offsets: readonly number[], bytes: number): number =>
        offsets.filter((offset) => offset <= bytes).length;
      const regulate = (): void => {
        const mainAt = passed(partners, got[0] as number);
        sockets.forEach((socket, i) => {
          // A channel goes past its n-th SYNC only when main reached the n-th FLUSH, and main past it only when all are there.
          const ahead =
            i === 0
              ? syncs.some((offsets, channel) => passed(offsets, got[channel + 1] as number) < mainAt)
              : passed(syncs[i - 1] as number[], got[i] as number) > mainAt;
          if (ahead) socket.pause();
          else socket.resume();
        });
      };
      const {
        source,
        target,
        qemu: open,
      } = await rig({
        volumes: [volume],
        pace: true,
        onQemu: (socket, ordinal) => {
          sockets[ordinal] = socket;
          socket.on('data', (bytes: Buffer) => {
            received[ordinal]?.push(bytes);
            got[ordinal] = (got[ordinal] as number) + bytes.length;
            regulate();
          });
          regulate();
        },
      });
      const origin: Socket[] = [];
      for (const _ of streams) origin.push(await open());
      for (const socket of origin) socket.resume();
      for (const [i, stream] of streams.entries()) void feed(origin[i] as Socket, stream);
      const all = streams.reduce((sum, stream) => sum + stream.length, 0);
      await within(12_000, () => got.reduce((sum, bytes) => sum + bytes, 0) === all);
      expect(got).toEqual(streams.map((stream) => stream.length));
      streams.forEach((stream, i) => {
        expect(Buffer.compare(Buffer.concat(received[i] as Buffer[]), stream)).toBe(0);
      });
      expect(source.failure ?? target.failure).toBeUndefined();
    },
  );

  it("main passes its FLUSH while another channel's ACKs are withheld for 5 s and the NAS window is full", {
    timeout: 30_000,
  }, async () => {
    const { volume, migration, streams } = guest({ channels: 2, pages: 4000, seed: 22, ownShare: 0 });
    const flushes = boundaries(migration.expected.main, ['multifd-flush']);
    const firstFlush = flushes[1] as number;
    const syncs = boundaries(migration.expected.multifd[0] as string[], ['multifd-sync']);
    const withheldFrom = syncs[0] as number;
    const targets: ScriptedTarget[] = [];
    let withheld = true;
    let withheldSinceMs: number | undefined;
    const { source, sessionKey, qemu } = await rig({
      volumes: [volume],
      onLink: (link) => {
        targets.push(
          new ScriptedTarget(
            link,
            () => sessionKey,
            (one) => {
              if (one.ordinal === 1 && one.streamBytes > withheldFrom && withheld)
                withheldSinceMs ??= performance.now();
              else one.acknowledge(8 * MIB);
            },
          ),
        );
      },
    });
    const origin: Socket[] = [];
    for (const _ of streams) origin.push(await qemu());
    const main = (): number => targets.find((one) => one.ordinal === 0)?.streamBytes ?? 0;
    // Main's list of RAMBlocks, then the channels until the window is full, then main's FLUSH.
    const list = boundaries(migration.expected.main, ['ram-section'])[0] as number;
    await feed(origin[0] as Socket, migration.main.subarray(0, list));
    void feed(origin[1] as Socket, streams[1] as Uint8Array);
    void feed(origin[2] as Socket, streams[2] as Uint8Array);
    // As if a NAS that does not answer held what was asked of it: the window that all share stays full.
    source.nasQueuedBytes += 64 * MIB;
    await sleep(300);
    expect(await within(3000, () => withheldSinceMs !== undefined)).toBe(true);
    expect(source.isFull).toBe(true);
    void feed(origin[0] as Socket, migration.main.subarray(list, firstFlush));
    expect(await within(1500, () => main() === firstFlush)).toBe(true);
    await sleep(5000 - (performance.now() - (withheldSinceMs ?? 0)));
    expect(source.failure).toBeUndefined();
    // And all of main goes through; what stays behind is channel 1 alone.
    void feed(origin[0] as Socket, migration.main.subarray(firstFlush));
    expect(await within(1500, () => main() === migration.main.length)).toBe(true);
    expect(targets.find((one) => one.ordinal === 1)?.streamBytes).toBeLessThan(streams[1]?.length as number);
    withheld = false;
    source.nasQueuedBytes -= 64 * MIB;
    for (const one of targets) one.acknowledge(8 * MIB, 64 * MIB);
    expect(
      await within(3000, () => targets.find((one) => one.ordinal === 1)?.streamBytes === streams[1]?.length),
    ).toBe(true);
    expect(source.failure).toBeUndefined();
  });
});

describe('a destination QEMU that does not read for a while', () => {
  it('batches are asked for again and corrected meanwhile, the return path goes on, and the bytes are the same', async () => {
    const { volume, streams } = guest({ channels: 0, pages: 4000, seed: 23, ownShare: 0.1 });
    const index = indexOf([volume]);
    // Blocks rewritten all over the volume: nearly every batch needs a PATCH.
    for (let block = 400; block < volume.blockCount; block += 100)
      randomBytes(PAGE_BYTES).copy(volume.content, block * PAGE_BYTES);
    const received: Buffer[] = [];
    let got = 0;
    let sink: Socket | undefined;
    let resentBefore = Number.POSITIVE_INFINITY;
    const { source, target, qemu } = await rig({
      volumes: [volume],
      index,
      onQemu: (socket) => {
        sink = socket;
        socket.on('data', (bytes: Buffer) => {
          received.push(bytes);
          got += bytes.length;
          if (got < 300_000 || got - bytes.length >= 300_000) return;
          socket.pause();
          resentBefore = source.counters.resentBatches;
          setTimeout(() => socket.resume(), 1200);
        });
        socket.resume();
      },
    });
    const origin = await qemu();
    let answeredAtMs = 0;
    origin.on('data', () => {
      answeredAtMs = performance.now();
    });
    const main = streams[0] as Uint8Array;
    void feed(origin, main);
    expect(await within(2000, () => sink?.isPaused() === true)).toBe(true);
    expect(await within(800, () => source.counters.resentBatches > resentBefore)).toBe(true);
    expect(sink?.isPaused()).toBe(true);
    const askedAtMs = performance.now();
    sink?.write(SHUT);
    expect(await within(300, () => answeredAtMs > 0)).toBe(true);
    expect(answeredAtMs - askedAtMs).toBeLessThan(200);
    expect(sink?.isPaused()).toBe(true);
    expect(await within(5000, () => got === main.length)).toBe(true);
    expect(Buffer.compare(Buffer.concat(received), main)).toBe(0);
    expect(source.failure ?? target.failure).toBeUndefined();
  });

  it('in later passes no more is under way than QEMU may stop the VM with (invariant 6)', async () => {
    const { volume, migration } = guest({
      channels: 0,
      pages: 2000,
      seed: 24,
      rounds: 6,
      dirtyShare: 0.9,
      ownShare: 1,
    });
    const bytesPerSecond = 12 * MIB;
    const { source, qemu } = await rig({
      volumes: [volume],
      pace: true,
      // A destination that takes 12 MiB/s, behind a link that carries far more.
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          socket.pause();
          setTimeout(() => socket.resume(), (bytes.length * 1000) / bytesPerSecond);
        });
        socket.resume();
      },
    });
    const origin = await qemu();
    void feed(origin, migration.main);
    expect(await within(8000, () => source.pace.phase !== 'first-pass')).toBe(true);
    let most = 0;
    await within(2500, () => {
      if (source.pace.phase === 'later-pass') most = Math.max(most, source.windowBytes);
      return source.pace.phase === 'released';
    });
    // 20 ms of work are 0.25 MiB at this rate; 512 KiB are granted at least, and on top what the read that passes them brings.
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThan(2 * MIB);
  });

  it.each([
    ['a guest whose pages can be told apart is in its first pass', 2 ** 28, 'first-pass'],
    ['a guest of more than 2 TiB is paced from its first page on', 2 ** 29 + 1, 'later-pass'],
  ])('%s', async (_what, pageCount, phase) => {
    const { source, qemu } = await rig({
      volumes: [new MemoryVolume('root', randomBytes(4 * PAGE_BYTES))],
      pace: true,
    });
    const stream = new MainStream()
      .header()
      .ramStart([{ name: 'pc.ram', pageCount }])
      .ramEos()
      .ramPart();
    const content = randomBytes(PAGE_BYTES);
    for (let page = 0; page < 100; page++) stream.page('pc.ram', page, content);
    await feed(await qemu(), stream.finish());
    expect(await within(2000, () => source.counters.streamBytes === stream.length)).toBe(true);
    expect(source.pace.phase).toBe(phase);
    expect(source.pace.bytesPerSecond < 100 * MIB).toBe(phase === 'later-pass');
  });
});

/** Resolves when the other end took so many bytes more. */
function taken(socket: Socket, bytes: number): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.write(Buffer.alloc(bytes), (error) => (error ? reject(error) : resolve()));
  });
}

describe('links that break', () => {
  it('at any byte: the source QEMU is cut off, the destination has a strict prefix, both sides report a failure', async () => {
    const { volume, streams } = guest({ channels: 2, pages: 1200, seed: 25, ownShare: 0.3 });
    const stale = indexOf([volume]);
    for (let block = 0; block < volume.blockCount; block += 37)
      randomBytes(PAGE_BYTES).copy(volume.content, block * PAGE_BYTES);
    const all = streams.reduce((sum, stream) => sum + stream.length, 0);
    for (const breakAt of [1, 150, 400, 3000, 60_000, 200_000, 500_000, 900_000]) {
      const received: Buffer[][] = [];
      let linkBytes = 0;
      const { source, target, qemu } = await rig({
        volumes: [volume],
        index: stale,
        onQemu: (socket, ordinal) => {
          received[ordinal] = [];
          socket.on('data', (bytes: Buffer) => received[ordinal]?.push(bytes));
          socket.on('end', () => socket.end());
          socket.resume();
        },
        onDialed: (link) => {
          link.on('data', (bytes: Buffer) => {
            linkBytes += bytes.length;
          });
          const write = link.write.bind(link) as (...args: unknown[]) => boolean;
          link.write = ((bytes: Uint8Array, ...rest: unknown[]) => {
            linkBytes += bytes.length;
            if (linkBytes >= breakAt) link.destroy();
            return write(bytes, ...rest);
          }) as typeof link.write;
        },
      });
      const origin: Socket[] = [];
      for (const _ of streams) origin.push(await qemu());
      let closed = 0;
      origin.forEach((socket, i) => {
        socket.resume();
        socket.on('end', () => socket.destroy()).on('close', () => closed++);
        void feed(socket, streams[i] as Uint8Array);
      });
      const [main, ...channels] = origin as [Socket, ...Socket[]];
      // The sidecar destroys its end of main: QEMU reads an end or an error, and its writes fail. Then it closes its channels.
      expect(await within(3000, () => main.destroyed)).toBe(true);
      expect(channels.map(({ destroyed }) => destroyed)).toEqual(channels.map(() => false));
      // Until then they take what it writes: its threads must not end, nor wait, at a SYNC (docs/adr/0018).
      await Promise.all(channels.map((channel) => taken(channel, MIB)));
      expect(source.connections).toBe(0);
      // So does one that connects only now.
      const late = await qemu();
      await taken(late, MIB);
      late.destroy();
      for (const channel of channels) channel.destroy();
      expect(await within(500, () => closed === origin.length)).toBe(true);
      expect(await within(2500, () => source.connections + target.connections === 0)).toBe(true);
      expect(source.failure).toBeDefined();
      const got = received.reduce((sum, chunks) => sum + chunks.reduce((n, one) => n + one.length, 0), 0);
      expect(got).toBeLessThan(all);
      received.forEach((chunks, i) => {
        const bytes = Buffer.concat(chunks);
        expect(Buffer.compare(bytes, (streams[i] as Uint8Array).subarray(0, bytes.length))).toBe(0);
      });
    }
  });

  it('and links that change a byte never change one at the destination', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 600, seed: 26, ownShare: 0.5 });
    const index = indexOf([volume]);
    for (const flipAt of [2000, 40_000, 90_000, 200_000, 450_000]) {
      const received: Buffer[] = [];
      let sent = 0;
      const { source, target, qemu } = await rig({
        volumes: [volume],
        index,
        zstd: flipAt % 4000 === 0,
        onQemu: (socket) => {
          socket.on('data', (bytes: Buffer) => received.push(bytes));
          socket.on('end', () => socket.end());
          socket.resume();
        },
        onDialed: (link) => {
          const write = link.write.bind(link) as (...args: unknown[]) => boolean;
          link.write = ((bytes: Uint8Array, ...rest: unknown[]) => {
            const from = sent;
            sent += bytes.length;
            if (flipAt < from || flipAt >= sent) return write(bytes, ...rest);
            const changed = Buffer.from(bytes);
            changed[flipAt - from] = (changed[flipAt - from] as number) ^ 0x40;
            return write(changed, ...rest);
          }) as typeof link.write;
        },
      });
      const origin = await qemu();
      origin.resume();
      void feed(origin, migration.main);
      const bytes = (): Buffer => Buffer.concat(received);
      await within(2500, () => source.failure !== undefined || bytes().length === migration.main.length);
      // A literal page that was damaged is corrected; anything else ends the migration. Never a wrong byte.
      expect(Buffer.compare(bytes(), migration.main.subarray(0, bytes().length))).toBe(0);
      if (source.failure === undefined) expect(target.counters.resends).toBeGreaterThan(0);
      else expect(target.failure).toBeDefined();
    }
  });

  it('after END_ACK have nothing left to break', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 300, seed: 27 });
    let links: Socket[] = [];
    const { source, sessionKey, qemu } = await rig({
      volumes: [volume],
      onDialed: (link) => {
        links = [link];
      },
      onLink: (link) =>
        void new ScriptedTarget(
          link,
          () => sessionKey,
          (one) => one.acknowledge(8 * MIB),
        ),
    });
    const origin = await qemu();
    await feed(origin, migration.main);
    let acknowledged = false;
    links[0]?.on('data', (bytes: Buffer) => {
      // END_ACK is the last frame: 8 bytes of header, 8 of body.
      acknowledged ||= bytes.at(-(FRAME_HEADER_BYTES + 8)) === FRAME_END_ACK;
    });
    origin.end();
    expect(await within(2000, () => acknowledged)).toBe(true);
    // What a target that closes with our PING unread does to us.
    links[0]?.destroy(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
    await within(500, () => source.connections === 0);
    expect(source.failure).toBeUndefined();
  });
});

describe('an END that is not acknowledged yet', () => {
  it('is followed by no PING: the target may have closed, and a write would lose its END_ACK', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 300, seed: 30 });
    let link: Socket | undefined;
    let endSeen = false;
    const { sessionKey, qemu } = await rig({
      volumes: [volume],
      onDialed: (dialed) => {
        link = dialed;
      },
      onLink: (accepted) =>
        void new ScriptedTarget(
          accepted,
          () => sessionKey,
          (one) => one.acknowledge(8 * MIB),
          () => {
            endSeen = true;
          },
        ),
    });
    const origin = await qemu();
    await feed(origin, migration.main);
    origin.end();
    expect(await within(5000, () => endSeen)).toBe(true);
    const writtenAtEnd = link?.bytesWritten ?? 0;
    await sleep(2 * PING_INTERVAL_MS + 100);
    expect(link?.bytesWritten).toBe(writtenAtEnd);
  });
});

describe('raw relay', () => {
  it('an orderly end is no failure', async () => {
    const volume = new MemoryVolume('root', randomBytes(100 * PAGE_BYTES));
    const migration = generateMigration({ postcopy: 'advised', seed: 28 });
    const outcome = await runPipeline({
      streams: [migration.main],
      volumes: [volume],
      ...indexOf([volume]),
      answer: SHUT,
    });
    expect(outcome.answered.equals(SHUT)).toBe(true);
    expect(outcome.target.failure).toBeUndefined();
    expect(outcome.source.failure).toBeUndefined();
  });

  it('one connection that ends orderly leaves the other ones alone', async () => {
    const migration = generateMigration({ postcopy: 'advised', seed: 29 });
    const got: number[] = [];
    const sockets: Socket[] = [];
    const { source, qemu } = await rig({
      volumes: [new MemoryVolume('root', randomBytes(4 * PAGE_BYTES))],
      onQemu: (socket, ordinal) => {
        sockets.push(socket);
        got[ordinal] = 0;
        socket.on('data', (bytes: Buffer) => {
          got[ordinal] = (got[ordinal] as number) + bytes.length;
        });
        socket.resume();
      },
    });
    const main = await qemu();
    main.resume();
    await feed(main, migration.main.subarray(0, 5000));
    expect(await within(1000, () => got[0] === 5000)).toBe(true);
    // As post-copy's preempt channel, without a magic.
    const preempt = await qemu();
    preempt.resume();
    await feed(preempt, Buffer.alloc(100));
    expect(await within(1000, () => got[1] === 100)).toBe(true);
    sockets[1]?.end();
    await sleep(100);
    await feed(main, migration.main.subarray(5000));
    await within(1000, () => got[0] === migration.main.length);
    expect(got[0]).toBe(migration.main.length);
    expect(source.failure).toBeUndefined();
  });

  it('ends when one side was gone before it began', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'nasmig-faults-'));
    atEnd(() => rmSync(directory, { recursive: true, force: true }));
    const accepted: Socket[] = [];
    await listening(join(directory, 's'), (socket) => accepted.push(socket));
    const left = connect({ path: join(directory, 's'), allowHalfOpen: true });
    const right = connect({ path: join(directory, 's'), allowHalfOpen: true });
    atEnd(
      () => left.destroy(),
      () => right.destroy(),
    );
    await within(500, () => accepted.length === 2);
    left.destroy();
    await sleep(20);
    const ended = await Promise.race([relayRaw(left, right).then(() => true), sleep(500).then(() => false)]);
    expect(ended).toBe(true);
  });
});

describe('opening', () => {
  it('a main channel that is quiet between its header and the RAMBlock list is framed', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 300, seed: 30 });
    let got = 0;
    const { source, qemu } = await rig({
      volumes: [volume],
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        socket.resume();
      },
    });
    const main = await qemu();
    // QEMU flushes header, OPEN_RETURN_PATH and PING, then starts dirty logging: long, on a large guest.
    const firstCommand = boundaries(migration.expected.main, ['command'])[1] as number;
    await feed(main, migration.main.subarray(0, firstCommand));
    await sleep(400);
    await feed(main, migration.main.subarray(firstCommand));
    expect(await within(2000, () => got === migration.main.length)).toBe(true);
    expect(source.counters.batches).toBeGreaterThan(0);
  });

  it('channels are not held at the least pace when the RAMBlock list never became known', async () => {
    const { volume, migration, streams } = guest({ channels: 2, pages: 6000, seed: 31, ownShare: 1 });
    let got = 0;
    const { source, qemu } = await rig({
      volumes: [volume],
      pace: true,
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        socket.resume();
      },
    });
    // Main says nothing for a while, goes raw, and with it everything that the pace is made of.
    const main = await qemu();
    await sleep(300);
    const channels = [await qemu(), await qemu()];
    await feed(main, migration.main.subarray(0, 3000));
    const beganMs = performance.now();
    channels.forEach((socket, i) => void feed(socket, streams[i + 1] as Uint8Array));
    const all = (streams[1]?.length ?? 0) + (streams[2]?.length ?? 0);
    await within(3000, () => got >= all);
    const mibPerSecond = got / MIB / ((performance.now() - beganMs) / 1000);
    expect(source.failure).toBeUndefined();
    expect(mibPerSecond).toBeGreaterThan(12);
  });
});

describe('switch-over', () => {
  it("RAM's END releases the pace at its first byte, also without SWITCHOVER_START", async () => {
    const stream = new MainStream().header().command(1).ping(1);
    stream.ramStart([{ name: 'pc.ram', pageCount: 600 }]).ramEos('ram-section');
    const page = (n: number): void => void stream.page('pc.ram', n, randomBytes(PAGE_BYTES));
    stream.ramPart();
    for (let n = 0; n < 600; n++) page(n);
    stream.ramEos('ram-section').ramPart();
    for (let n = 0; n < 50; n++) page(n);
    stream.ramEos('ram-section').ramEnd();
    const endBegins = stream.length;
    for (let n = 0; n < 600; n++) page(n);
    stream.ramEos('ram-end').bytes(Buffer.alloc(1000));
    const volume = new MemoryVolume('root', randomBytes(4 * PAGE_BYTES));
    let got = 0;
    const { source, qemu } = await rig({
      volumes: [volume],
      pace: true,
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        socket.resume();
      },
    });
    const main = await qemu();
    const bytes = stream.finish();
    // The VM is stopped; half of the downtime pass has been taken.
    await feed(main, bytes.subarray(0, endBegins + 300 * (PAGE_BYTES + 8)));
    expect(await within(4000, () => got >= endBegins + 200 * PAGE_BYTES)).toBe(true);
    expect(source.pace.phase).toBe('released');
  });

  it('near it multifd packets end one after the other', async () => {
    const [channels, packets, pagesEach] = [4, 8, 128];
    const packetBytes = 64 + 256 + 1024 + pagesEach * PAGE_BYTES;
    const main = new MainStream().header().command(1).ping(1);
    main.ramStart([{ name: 'pc.ram', pageCount: channels * packets * pagesEach }]).ramEos('ram-section');
    const streams = Array.from({ length: channels }, (_, channel) => {
      const stream = new MultifdStream().init(channel);
      for (let packet = 0; packet < packets; packet++) {
        const first = (packet * channels + channel) * pagesEach;
        stream.packet({
          block: 'pc.ram',
          normal: Array.from({ length: pagesEach }, (_, i) => first + i),
          payload: randomBytes(pagesEach * PAGE_BYTES),
        });
      }
      return stream.finish();
    });
    const got = new Array<number>(channels).fill(0);
    // At each end of a packet: how many of the other channels have more than half of theirs behind them.
    let ended = 0;
    let besides = 0;
    const { source, qemu } = await rig({
      volumes: [new MemoryVolume('root', randomBytes(4 * PAGE_BYTES))],
      pace: true,
      onQemu: (socket, ordinal) => {
        socket.on('data', (bytes: Buffer) => {
          if (ordinal === 0) return;
          const before = got[ordinal - 1] as number;
          got[ordinal - 1] = before + bytes.length;
          const packetsBefore = Math.floor((before - 64) / packetBytes);
          if (packetsBefore === Math.floor((before + bytes.length - 64) / packetBytes)) return;
          ended += 1;
          besides += got.filter(
            (sum, i) => i !== ordinal - 1 && (sum - 64) % packetBytes > 0.6 * packetBytes,
          ).length;
        });
        socket.resume();
      },
    });
    void feed(await qemu(), main.finish());
    expect(await within(2000, () => source.pace.readsInTurns)).toBe(true);
    for (const stream of streams) void feed(await qemu(), stream);
    const all = streams.reduce((sum, stream) => sum + stream.length, 0);
    expect(await within(15_000, () => got.reduce((sum, bytes) => sum + bytes, 0) === all)).toBe(true);
    expect(source.pace.phase).toBe('first-pass');
    expect(ended).toBeGreaterThanOrEqual(channels * packets);
    // A turn of which nothing comes goes on, as on a machine that is busy; side by side it is one or more each time.
    expect(besides).toBeLessThan(ended / 3);
  });

  it('a NAS too slow to grow the index costs a wait, not one for every batch', async () => {
    const { volume, migration } = guest({
      channels: 0,
      pages: 6000,
      seed: 32,
      ownShare: 0.2,
      rounds: 2,
      dirtyShare: 0.01,
    });
    let got = 0;
    const { qemu } = await rig({
      volumes: [volume],
      pace: true,
      // A NAS that hangs, or a read budget far behind its queue: what the index asked for does not come in time.
      grower: { grow: () => {}, caughtUp: () => new Promise<void>(() => {}) },
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        socket.resume();
      },
    });
    const main = await qemu();
    void feed(main, migration.main);
    // 2 s for the index, and 2 s for 22 MiB at the decaying pace.
    await within(5500, () => got === migration.main.length);
    expect(got).toBe(migration.main.length);
  });

  it('the pace of later passes knows how re-sent pages compress, not how the first pass did', () => {
    let nowMs = 0;
    const { index, pageHasher } = indexOf([new MemoryVolume('root', randomBytes(4 * PAGE_BYTES))]);
    const migration = new SourceMigration({
      migrationId: UID,
      sessionKey: randomBytes(32),
      volumes: [],
      index,
      pageHasher,
      downtimeLimitMs: 300,
      linkBytesPerSecond: 25 * MIB,
      paceEnabled: true,
      zstd: true,
      dial: () => Promise.reject(new Error('not dialed')),
      log: () => {},
      now: () => nowMs,
    });
    migration.pace.addRam(1024 * MIB);
    // The first pass shrinks to an eighth.
    for (let i = 0; i < 1024; i++) migration.countLiterals(MIB, MIB / 8);
    migration.pace.firstSeen(1024 * MIB);
    migration.pace.laterPass();
    // 0.3 s of re-sent pages that do not shrink, on a link that carries 25 MiB/s and always has something under way.
    migration.linkRate.sent(60 * MIB);
    for (let i = 0; i < 6; i++) {
      nowMs += 50;
      migration.countLiterals(1.25 * MIB, 1.25 * MIB);
      migration.arrived(1.25 * MIB);
    }
    // QEMU would stop the VM with what this rate carries within the downtime limit; the link carries as much as it carries.
    expect(migration.pace.bytesPerSecond / migration.linkRate.bytesPerSecond).toBeLessThan(1.6);
  });
});

describe('memory', () => {
  it('batches kept at the source hold no more than twice their bytes', () => {
    const batcher = new StreamBatcher(new AssemblyPool(64 * 1024 * 1024));
    const chunk = Buffer.alloc(64 * 1024);
    const kept: Uint8Array[] = [];
    for (let i = 0; i < 40; i++) {
      // What 1 ms without input, or the pace, cuts: 320 KiB.
      for (let part = 0; part < 5; part++) batcher.append(chunk, 0, MIB);
      const batch = batcher.cut();
      if (batch !== undefined) kept.push(batch.bytes);
    }
    const bytes = kept.reduce((sum, one) => sum + one.length, 0);
    const held = [...new Set(kept.map((one) => one.buffer))].reduce((sum, one) => sum + one.byteLength, 0);
    expect(held / bytes).toBeLessThan(2);
  });

  it('batches that wait at the target hold no more than a quarter over their bytes, small ones a few KiB', () => {
    const buffers = new BufferPool(0);
    // A PART with zero pages only, and 700 KiB of pages.
    const sizes = [...Array.from({ length: 64 }, () => 500), ...Array.from({ length: 8 }, () => 700 * 1024)];
    const held = sizes.reduce((sum, bytes) => sum + buffers.take(bytes).length, 0);
    const bytes = sizes.reduce((sum, size) => sum + Math.max(size, 8192), 0);
    expect(held / bytes).toBeLessThan(1.26);
  });

  it('the connections of a source encode their batches into the same few buffers', async () => {
    const { volume, streams } = guest({ channels: 3, pages: 800, seed: 61 });
    const encode = vi.spyOn(BatchEncoder.prototype, 'encode');
    atEnd(() => encode.mockRestore());
    const outcome = await runPipeline({ streams, volumes: [volume], ...indexOf([volume]), answer: SHUT });
    expect(outcome.source.counters.batches).toBeGreaterThan(3);
    expect(outcome.source.accepted).toBe(4);
    expect(new Set(encode.mock.contexts).size).toBe(1);
  });

  // KubeVirt makes nine; each further one may have 2 MiB of credit whatever the others have (docs/limits.md).
  it('the credit of up to twelve connections together stays within the budget of the target', async () => {
    const volume = new MemoryVolume('root', randomBytes(4 * PAGE_BYTES));
    const { sessionKey, at } = await rig({ volumes: [volume] });
    const limits: number[] = [];
    for (let ordinal = 0; ordinal < 12; ordinal++) {
      const link = connect({ path: at('target.sock'), allowHalfOpen: true });
      atEnd(() => link.destroy());
      link.on('error', () => {});
      const reader = new FrameReader<'source'>(
        {
          onFrame: (frame) => {
            if (frame.type === FRAME_ACK) limits[ordinal] = frame.creditLimit;
          },
        },
        'source',
      );
      link.on('data', (bytes: Buffer) => reader.push(bytes));
      const body = encodeSourceHello(
        {
          ordinal,
          mode: 'framed',
          random: randomHello(),
          migrationId: migrationIdFromUid(UID),
          volumes: [{ name: 'root', sizeBytes: volume.sizeBytes }],
        },
        deriveProofKey(sessionKey),
      );
      for (const part of helloFrame(body)) link.write(part);
      expect(await within(1000, () => limits[ordinal] !== undefined)).toBe(true);
    }
    expect(limits.reduce((sum, limit) => sum + limit, 0)).toBeLessThanOrEqual(48 * MIB);
  });

  it.each([
    ['for a volume that is not in the list', 1, 9],
    ['beyond those that may be unanswered', 40, 0],
  ])('a source that sends GROWs %s is closed on', async (_what, count, number) => {
    const volume = new MemoryVolume('root', randomBytes(64 * PAGE_BYTES));
    volume.delayMs = 3000;
    const { sessionKey, at, target } = await rig({ volumes: [volume] });
    const link = connect({ path: at('target.sock'), allowHalfOpen: true });
    atEnd(() => link.destroy());
    link.on('error', () => {});
    let greeted = false;
    let aborted: number | undefined;
    const reader = new FrameReader<'source'>(
      {
        onFrame: (frame) => {
          if (frame.type === FRAME_ACK) greeted = true;
          if (frame.type === FRAME_ABORT) aborted = frame.code;
        },
      },
      'source',
    );
    link.on('data', (bytes: Buffer) => reader.push(bytes));
    const hello = {
      ordinal: 0,
      mode: 'framed' as const,
      random: randomHello(),
      migrationId: migrationIdFromUid(UID),
      volumes: [{ name: 'root', sizeBytes: volume.sizeBytes }],
    };
    for (const part of helloFrame(encodeSourceHello(hello, deriveProofKey(sessionKey)))) link.write(part);
    expect(await within(1000, () => greeted)).toBe(true);
    for (let i = 0; i < count; i++) {
      link.write(growFrame({ volume: number, firstBlock: i, blockCount: 1, seed: { hi: 1, lo: 2 } }));
    }
    expect(await within(1000, () => aborted !== undefined)).toBe(true);
    expect(aborted).toBe(ABORT_PROTOCOL);
    expect(target.openGrows).toBeLessThanOrEqual(MAX_OPEN_GROWS);
  });

  it('the inherited index has no block that the NAS has otherwise', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 800, seed: 33, ownShare: 0, rounds: 1 });
    const stale = indexOf([volume]);
    const before = Buffer.from(volume.content);
    const rewritten = [100, 101, 350, 500];
    for (const block of rewritten) randomBytes(PAGE_BYTES).copy(volume.content, block * PAGE_BYTES);
    const index = BlockIndex.create({
      volumes: [{ name: 'root', sizeBytes: volume.sizeBytes }],
      seed: randomSeed(),
      budgetBytes: 4 * MIB,
    });
    const pageHasher = new PageHasher(index.seed);
    let got = 0;
    const { target, qemu } = await rig({
      volumes: [volume],
      index: stale,
      inherit: index,
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        socket.resume();
      },
    });
    const main = await qemu();
    await feed(main, migration.main);
    expect(await within(3000, () => got === migration.main.length)).toBe(true);
    expect(target.counters.resends).toBeGreaterThan(0);
    const wrong = rewritten.filter((block) => {
      pageHasher.hash(before, block * PAGE_BYTES);
      const place = index.lookup(pageHasher.hi, pageHasher.lo);
      return place >= 0 && index.block(place) === block;
    });
    expect(wrong).toEqual([]);
  });
});

describe('strangers and broken peers', () => {
  it('a connection that closes without HELLO does not end the migration', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 600, seed: 34 });
    let got = 0;
    const { source, target, at, qemu } = await rig({
      volumes: [volume],
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        socket.resume();
      },
    });
    const main = await qemu();
    await feed(main, migration.main.subarray(0, 300_000));
    expect(await within(1000, () => got > 200_000)).toBe(true);
    const stranger = connect({ path: at('target.sock') });
    atEnd(() => stranger.destroy());
    stranger.on('error', () => {}).on('connect', () => stranger.end());
    await sleep(100);
    await feed(main, migration.main.subarray(300_000));
    await within(1500, () => got === migration.main.length);
    expect(target.failure).toBeUndefined();
    expect(source.failure).toBeUndefined();
    expect(got).toBe(migration.main.length);
  });

  it('a process that was stopped for a minute does not take its own pause for silence of the peer', async () => {
    const { volume, migration } = guest({ channels: 0, pages: 300, seed: 38 });
    let got = 0;
    const { source, target, qemu } = await rig({
      volumes: [volume],
      onQemu: (socket) => {
        socket.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        socket.resume();
      },
    });
    const main = await qemu();
    await feed(main, migration.main.subarray(0, 300_000));
    expect(await within(1000, () => got > 200_000)).toBe(true);
    // SIGSTOP, a frozen cgroup, a node that was suspended: both clocks jump, and what came meanwhile was not read yet.
    const now = (): number => performance.now() + 60_000;
    Object.assign(source.options, { now });
    Object.assign(target.options, { now });
    await sleep(1200);
    await feed(main, migration.main.subarray(300_000));
    await within(1000, () => got === migration.main.length);
    expect(source.failure ?? target.failure).toBeUndefined();
    expect(got).toBe(migration.main.length);
  });

  it('an ABORT on one connection is told on the others as code 11', async () => {
    const { volume, streams } = guest({ channels: 2, pages: 2000, seed: 35 });
    const targets: ScriptedTarget[] = [];
    const { source, sessionKey, qemu } = await rig({
      volumes: [volume],
      onLink: (link) =>
        void targets.push(
          new ScriptedTarget(
            link,
            () => sessionKey,
            (one) => {
              if (one.ordinal === 1 && one.streamBytes > 200_000) one.link.write(abortFrame(9, 'a fault'));
              else one.acknowledge(8 * MIB);
            },
          ),
        ),
    });
    const origin: Socket[] = [];
    for (const _ of streams) origin.push(await qemu());
    for (const [i, stream] of streams.entries()) void feed(origin[i] as Socket, stream);
    expect(await within(2000, () => source.failure !== undefined)).toBe(true);
    await within(3000, () => targets.every((one) => one.ordinal === 1 || one.aborts.length > 0));
    expect(targets.filter((one) => one.ordinal !== 1).map((one) => one.aborts)).toEqual([[11], [11]]);
  });

  it('a multifd leg that closes inside a page is delivered to its last byte', async () => {
    const { volume, streams } = guest({ channels: 2, pages: 600, seed: 36 });
    const last = streams[2] as Uint8Array;
    const cut = [streams[0] as Uint8Array, streams[1] as Uint8Array, last.subarray(0, last.length - 5000)];
    const outcome = await runPipeline({
      streams: cut,
      volumes: [volume],
      ...indexOf([volume]),
      closeAfterWriting: true,
    });
    cut.forEach((stream, i) => {
      expect(Buffer.compare(outcome.received[i] as Buffer, stream)).toBe(0);
    });
    expect(outcome.source.failure ?? outcome.target.failure).toBeUndefined();
  });
});

/** A NAS that gives so many bytes a second, one read after the other. */
class SlowVolume extends MemoryVolume {
  #freeAtMs = 0;
  readonly #bytesPerSecond: number;

  constructor(name: string, content: Buffer, bytesPerSecond: number) {
    super(name, content);
    this.#bytesPerSecond = bytesPerSecond;
  }

  override read(into: Uint8Array, length: number, position: number, done: ReadDone): void {
    const nowMs = performance.now();
    this.#freeAtMs = Math.max(nowMs, this.#freeAtMs) + (length * 1000) / this.#bytesPerSecond;
    setTimeout(() => super.read(into, length, position, done), this.#freeAtMs - nowMs);
  }
}

describe('a slow NAS', () => {
  it('keeps its references: what is asked of it before its rate is known fits into its deadline', async () => {
    const { volume, migration, streams } = guest({
      channels: 2,
      pages: 4000,
      seed: 37,
      ownShare: 0,
      rounds: 1,
    });
    // A quarter of the real deadline (2 s), and 10 MiB/s: with the real one this is 16 MiB under way, of 64 that are allowed.
    const slow = new SlowVolume('root', volume.content, 10 * MIB);
    const outcome = await runPipeline({
      streams,
      writes: migration.writes,
      volumes: [slow],
      ...indexOf([slow]),
      nasDeadlineMs: 500,
      answer: SHUT,
    });
    streams.forEach((stream, i) => {
      expect(Buffer.compare(outcome.received[i] as Buffer, stream)).toBe(0);
    });
    expect(outcome.source.referencesOff).toBe(false);
  });
});
