// One process of the pipeline benchmark: node bench/pipeline-process.ts ROLE DIRECTORY zstd|no-zstd [STATE DISK]. With the files of a recorded
// guest it is that one's stream, else the generated one's. It says `ready`, does its part of one stream, and says what that took;
// bench/pipelines.ts starts it and reads that.

import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { dialUnix } from '../sidecar/dial.ts';
import { collectLessOften } from '../sidecar/garbage-collection.ts';
import { BlockIndex } from '../sidecar/index/block-index.ts';
import { PageHasher } from '../sidecar/index/page-hash.ts';
import { FrameReader } from '../sidecar/link/frame-reader.ts';
import { FRAME_BATCH, FRAME_END, FRAME_HELLO, FRAME_PING } from '../sidecar/link/frame-types.ts';
import { ackFrame, endAckFrame, helloFrame, pongFrame } from '../sidecar/link/frame-writer.ts';
import { answerHello, randomHello } from '../sidecar/link/hello.ts';
import { deriveProofKey } from '../sidecar/link/link-keys.ts';
import { BlockReader } from '../sidecar/nas/block-reader.ts';
import { MemoryVolume } from '../sidecar/nas/memory-volume.ts';
import { relayRaw } from '../sidecar/raw-relay.ts';
import { SourceMigration } from '../sidecar/source/source-migration.ts';
import { PAGE_BYTES } from '../sidecar/stream/page-sink.ts';
import { TargetMigration } from '../sidecar/target/target-migration.ts';
import { GENERATED_GUEST } from './pipeline-guest.ts';
import { recordedGuest } from './recorded-guest.ts';

collectLessOften();
const [role, directory = '', zstd = 'zstd', statePath, diskPath] = process.argv.slice(2);
const guest =
  statePath === undefined || diskPath === undefined
    ? GENERATED_GUEST
    : recordedGuest({ statePath, diskPath });
const at = (name: string): string => join(directory, name);
const shared = {
  migrationId: '5b3c1f0e-9a7d-4c55-8d1e-0123456789ab',
  // The benchmark's own processes are the only ones that know its sockets.
  sessionKey: Buffer.alloc(32, 7),
  volumes: [{ name: 'root', sizeBytes: guest.volumeBlocks * PAGE_BYTES }],
  now: () => performance.now(),
  log: () => {},
};

function tell(event: string, values: object = {}): void {
  process.stdout.write(`${JSON.stringify({ event, ...values })}\n`);
}

/** Calls `accept` for connections on the socket `name`, and tells wall clock and CPU from the first one to the end of the last. */
function serve(name: string, accept: (socket: Socket) => void, facts: () => object): void {
  let open = 0;
  let startedAt = 0;
  let cpu = process.cpuUsage();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    if (startedAt === 0) {
      startedAt = performance.now();
      cpu = process.cpuUsage();
    }
    open += 1;
    socket.on('close', () => closed());
    accept(socket);
  });
  const closed = (): void => {
    open -= 1;
    if (open > 0) return;
    const used = process.cpuUsage(cpu);
    tell('done', {
      seconds: (performance.now() - startedAt) / 1000,
      cpuSeconds: (used.user + used.system) / 1e6,
      maxRssBytes: process.resourceUsage().maxRSS * 1024,
      ...facts(),
    });
    setTimeout(() => process.exit(0), 50);
  };
  server.listen(at(name), () => tell('ready'));
}

/** QEMU at the source: writes every connection in the order in which QEMU would. */
async function write(to: string): Promise<void> {
  const { streams, writes } = guest.migration();
  tell('ready');
  await new Promise((resolve) => process.stdin.once('data', resolve));
  const sockets: Socket[] = [];
  for (let i = 0; i < streams.length; i++) {
    const socket = connect({ path: at(to), allowHalfOpen: true });
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    socket.resume();
    sockets.push(socket);
  }
  for (const { connection, from, to: end } of writes) {
    const socket = sockets[connection] as Socket;
    if (socket.write((streams[connection] as Uint8Array).subarray(from, end))) continue;
    await new Promise((resolve) => socket.once('drain', resolve));
  }
  for (const socket of sockets) socket.end();
  tell('done', { streamBytes: streams.reduce((sum, stream) => sum + stream.length, 0) });
  process.stdin.destroy();
}

/** QEMU at the destination: takes everything. */
function read(): void {
  let bytes = 0;
  serve(
    'reader.sock',
    (socket) => {
      socket.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      });
      socket.on('end', () => socket.end());
      socket.resume();
    },
    () => ({ streamBytes: bytes }),
  );
}

function relay(): void {
  serve(
    'relay.sock',
    (socket) => void dialUnix(at('reader.sock'), 1000).then((to) => relayRaw(socket, to)),
    () => ({}),
  );
}

function source(target: string): void {
  const index = BlockIndex.create({ volumes: shared.volumes, seed: { hi: 1, lo: 2 }, budgetBytes: 64 << 20 });
  const pageHasher = new PageHasher(index.seed);
  guest.forEachBlock((block, content) => {
    pageHasher.hash(content, 0);
    index.add(0, block, pageHasher.hi, pageHasher.lo);
  });
  const migration = new SourceMigration({
    ...shared,
    index,
    pageHasher,
    downtimeLimitMs: 300,
    linkBytesPerSecond: 0,
    paceEnabled: false,
    zstd: zstd === 'zstd',
    dial: () => dialUnix(at(target), 1000),
  });
  serve(
    'source.sock',
    (socket) => migration.accept(socket),
    () => ({ ...migration.counters, failure: migration.failure?.message }),
  );
}

/** Acknowledges every batch at once, so that only the source works. */
function acknowledge(): void {
  const proofKey = deriveProofKey(shared.sessionKey);
  serve(
    'acknowledger.sock',
    (socket) => {
      let batches = 0;
      let bytes = 0;
      const ack = (): void => {
        const creditLimit = bytes + 16 * 1024 * 1024;
        socket.write(
          ackFrame({ deliveredBatches: batches, creditLimit, nasBytesPerSecond: 0, nasP99Micros: 0 }),
        );
      };
      const reader = new FrameReader<'target'>(
        {
          onFrame: (frame) => {
            if (frame.type === FRAME_HELLO) {
              const random = randomHello();
              const body = answerHello(frame.hello, { mode: 'framed', random, usable: [true] }, proofKey);
              for (const part of helloFrame(body)) socket.write(part);
              ack();
            } else if (frame.type === FRAME_BATCH) {
              batches += 1;
              bytes += frame.reconstructedBytes;
              ack();
            } else if (frame.type === FRAME_PING) socket.write(pongFrame(frame.clockMicros));
            else if (frame.type === FRAME_END) socket.end(endAckFrame(frame.streamBytes));
          },
        },
        'target',
      );
      socket.on('data', (chunk: Buffer) => reader.push(chunk));
      socket.on('error', () => socket.destroy());
      socket.resume();
    },
    () => ({}),
  );
}

function target(): void {
  const content = new Uint8Array(guest.volumeBlocks * PAGE_BYTES);
  guest.forEachBlock((block, bytes) => content.set(bytes, block * PAGE_BYTES));
  const volume = new MemoryVolume('root', content);
  const index = BlockIndex.create({ volumes: shared.volumes, seed: { hi: 3, lo: 4 }, budgetBytes: 64 << 20 });
  const migration = new TargetMigration({
    ...shared,
    reader: new BlockReader({ volumes: [volume] }),
    inherit: index,
    dial: () => dialUnix(at('reader.sock'), 1000),
  });
  serve(
    'target.sock',
    (socket) => migration.accept(socket),
    () => ({ ...migration.counters, failure: migration.failure?.message }),
  );
}

const roles: Record<string, () => void | Promise<void>> = {
  'write-to-relay': () => write('relay.sock'),
  'write-to-source': () => write('source.sock'),
  read,
  relay,
  'source-to-acknowledger': () => source('acknowledger.sock'),
  'source-to-target': () => source('target.sock'),
  acknowledge,
  target,
};
const start = roles[role ?? ''];
if (start === undefined)
  throw new Error(`usage: pipeline-process.ts ${Object.keys(roles).join('|')} DIRECTORY`);
await start();
