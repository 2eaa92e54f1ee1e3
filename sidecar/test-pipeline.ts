// Test support: runs recorded or generated streams through a source and a target migration inside one process, over real
// unix sockets, with a volume in memory. What plays QEMU on both ends does what QEMU does: it writes in the given order,
// answers on main's return path when everything has arrived, and closes.

import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dialUnix } from './dial.ts';
import { BlockIndex } from './index/block-index.ts';
import { IndexGrower } from './index/index-grower.ts';
import { PageHasher, randomSeed } from './index/page-hash.ts';
import { BlockReader } from './nas/block-reader.ts';
import type { BlockVolume, ReadDone } from './nas/volume.ts';
import { RemoteBlockHashes } from './source/remote-block-hashes.ts';
import { SourceMigration } from './source/source-migration.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { TargetMigration } from './target/target-migration.ts';

/** A volume in memory. `content` may be changed at any time, as another writer of the NAS would. */
export class MemoryVolume implements BlockVolume {
  readonly name: string;
  readonly uncached = true;
  readonly content: Buffer;
  /** Milliseconds that a read takes. */
  delayMs = 0;
  failure: Error | undefined;
  reads = 0;

  constructor(name: string, content: Buffer) {
    this.name = name;
    this.content = content;
  }

  get sizeBytes(): number {
    return this.content.length;
  }

  get blockCount(): number {
    return Math.floor(this.content.length / PAGE_BYTES);
  }

  read(into: Uint8Array, length: number, position: number, done: ReadDone): void {
    this.reads += 1;
    const finish = (): void => {
      if (this.failure !== undefined) {
        done(this.failure, 0);
        return;
      }
      const bytes = this.content.subarray(position, position + length);
      into.set(bytes);
      done(null, bytes.length);
    };
    if (this.delayMs > 0) setTimeout(finish, this.delayMs);
    else setImmediate(finish);
  }
}

/** The index of every block of the volumes, or of one in `oneIn`. */
export function indexOf(
  volumes: readonly MemoryVolume[],
  oneIn = 1,
): { index: BlockIndex; pageHasher: PageHasher } {
  const identities = volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes }));
  const index = BlockIndex.create({ volumes: identities, seed: randomSeed(), budgetBytes: 16 * 1024 * 1024 });
  const pageHasher = new PageHasher(index.seed);
  volumes.forEach((volume, number) => {
    for (let block = 0; block < volume.blockCount; block += oneIn) {
      pageHasher.hash(volume.content, block * PAGE_BYTES);
      index.add(number, block, pageHasher.hi, pageHasher.lo);
    }
  });
  return { index, pageHasher };
}

export interface PipelineOptions {
  /** Bytes that QEMU writes on each connection; the first is main. */
  readonly streams: readonly Uint8Array[];
  /** In which order QEMU writes them, and in which pieces; by default one connection after the other. */
  readonly writes?: readonly { readonly connection: number; readonly from: number; readonly to: number }[];
  readonly volumes: readonly MemoryVolume[];
  readonly index: BlockIndex;
  readonly pageHasher: PageHasher;
  /** What the destination QEMU answers on main's return path at its end. */
  readonly answer?: Uint8Array;
  readonly nasDeadlineMs?: number;
  readonly zstd?: boolean;
  readonly pace?: boolean;
  /** Called with both migrations before the first byte. */
  readonly prepare?: (source: SourceMigration, target: TargetMigration) => void;
  /** What the target can read; by default the same volumes. */
  readonly targetVolumes?: readonly MemoryVolume[];
  /** By default random. */
  readonly sessionKey?: Uint8Array;
  /** The target's session key; by default the source's. */
  readonly targetKey?: Uint8Array;
  /** Sees each socket that the source sidecar dialed, before it is used. */
  readonly onDialed?: (link: Socket) => void;
  /** QEMU's connections reach the target sidecar without a source sidecar. */
  readonly unarmedSource?: boolean;
  /** The source QEMU closes as soon as it wrote everything, as one that is cancelled does. */
  readonly closeAfterWriting?: boolean;
  readonly timeoutMs?: number;
  /** The source asks the target for what lies around its hits. */
  readonly growing?: boolean;
  /** The index that the target fills, about its volumes. */
  readonly inherit?: BlockIndex;
  /** What an admin allows on the link; 0 for no limit. */
  readonly linkBytesPerSecond?: number;
}

export interface PipelineOutcome {
  /** What the destination QEMU got on each connection, in the order in which they were opened there. */
  readonly received: readonly Buffer[];
  /** What the source QEMU read on main. */
  readonly answered: Buffer;
  readonly source: SourceMigration;
  readonly target: TargetMigration;
  readonly log: readonly string[];
}

async function listening(path: string, onSocket: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, onSocket);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return server;
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
  });
}

export async function runPipeline(options: PipelineOptions): Promise<PipelineOutcome> {
  const directory = mkdtempSync(join(tmpdir(), 'nasmig-pipeline-'));
  const at = (name: string): string => join(directory, name);
  const log: string[] = [];
  const sessionKey = options.sessionKey ?? randomBytes(32);
  const shared = {
    migrationId: '5b3c1f0e-9a7d-4c55-8d1e-0123456789ab',
    volumes: options.volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
    now: () => performance.now(),
    log: (event: string, values: Readonly<Record<string, unknown>>) =>
      void log.push(`${event} ${JSON.stringify(values)}`),
  };
  const remoteHashes = new RemoteBlockHashes(options.index.seed);
  const grower = new IndexGrower({ index: options.index, volumes: options.volumes, hashes: remoteHashes });
  const source = new SourceMigration({
    ...shared,
    sessionKey,
    index: options.index,
    ...(options.growing === true ? { grower, remoteHashes } : {}),
    pageHasher: options.pageHasher,
    downtimeLimitMs: 300,
    linkBytesPerSecond: options.linkBytesPerSecond ?? 0,
    paceEnabled: options.pace ?? false,
    zstd: options.zstd ?? true,
    dial: async () => {
      const link = await dialUnix(at('target.sock'), 1000);
      options.onDialed?.(link);
      return link;
    },
  });
  const targetVolumes = options.targetVolumes ?? options.volumes;
  const reader = new BlockReader({
    volumes: [...targetVolumes],
    deadlineMs: options.nasDeadlineMs ?? 2000,
  });
  const target = new TargetMigration({
    ...shared,
    volumes: targetVolumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
    sessionKey: options.targetKey ?? sessionKey,
    reader,
    ...(options.inherit === undefined ? {} : { inherit: options.inherit }),
    dial: () => dialUnix(at('qemu.sock'), 1000),
  });
  options.prepare?.(source, target);

  const received: Buffer[][] = [];
  const expected = options.streams.reduce((sum, stream) => sum + stream.length, 0);
  let receivedBytes = 0;
  let mainAtDestination: Socket | undefined;
  const destination: Socket[] = [];
  const qemu = await listening(at('qemu.sock'), (socket) => {
    const chunks: Buffer[] = [];
    received.push(chunks);
    destination.push(socket);
    mainAtDestination ??= socket;
    socket.on('data', (bytes: Buffer) => {
      chunks.push(bytes);
      receivedBytes += bytes.length;
      if (receivedBytes < expected) return;
      if (options.answer !== undefined) mainAtDestination?.write(options.answer);
      for (const one of destination) one.end();
    });
    socket.on('error', () => socket.destroy());
    socket.on('end', () => socket.end());
    socket.resume();
  });
  const targetServer = await listening(at('target.sock'), (socket) => target.accept(socket));
  const sourceServer = await listening(at('source.sock'), (socket) => source.accept(socket));

  const answered: Buffer[] = [];
  const origin: Socket[] = [];
  const closed: Promise<void>[] = [];
  for (let i = 0; i < options.streams.length; i++) {
    const path = at(options.unarmedSource === true ? 'target.sock' : 'source.sock');
    const socket = connect({ path, allowHalfOpen: true });
    origin.push(socket);
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    if (i === 0) socket.on('data', (bytes: Buffer) => answered.push(bytes));
    else socket.resume();
    // QEMU closes its channels when main's return path ended, and when main broke.
    socket.on('end', () => {
      for (const one of origin) one.end();
    });
    if (i === 0) {
      socket.on('close', () => {
        for (const one of origin) if (!one.writableEnded) one.destroy();
      });
    }
    socket.on('error', () => socket.destroy());
    closed.push(new Promise((resolve) => socket.on('close', () => resolve())));
  }
  const writes =
    options.writes ??
    options.streams.map((stream, connection) => ({ connection, from: 0, to: stream.length }));
  const writing = (async () => {
    for (const { connection, from, to } of writes) {
      const socket = origin[connection] as Socket;
      if (socket.destroyed) continue;
      if (!socket.write((options.streams[connection] as Uint8Array).slice(from, to))) {
        await drained(socket);
      }
    }
    if (options.closeAfterWriting === true) for (const one of origin) one.end();
  })();

  const timeoutMs = options.timeoutMs ?? 15_000;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), timeoutMs);
  });
  try {
    const ended = await Promise.race([Promise.all([...closed, writing]).then(() => 'ended' as const), late]);
    if (ended === 'late') {
      throw new Error(
        `the pipeline hung: ${receivedBytes} of ${expected} bytes arrived after ${timeoutMs} ms\n${log.join('\n')}`,
      );
    }
    // Connections close after the last acknowledgement; give both sides their turn.
    for (let i = 0; i < 400 && source.connections + target.connections > 0; i++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  } finally {
    clearTimeout(timer);
    for (const socket of [...origin, ...destination]) socket.destroy();
    for (const server of [qemu, targetServer, sourceServer]) server.close();
    reader.close();
    rmSync(directory, { recursive: true, force: true });
  }
  return {
    received: received.map((chunks) => Buffer.concat(chunks)),
    answered: Buffer.concat(answered),
    source,
    target,
    log,
  };
}
