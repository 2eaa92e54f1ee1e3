// Makes the corpus anew: real migration streams of every QEMU of the lab, recorded from a guest of 16 MiB that keeps writing to
// 16 of its pages, trimmed to a few pages for each kind of item; and what two sidecars say to each other over such a stream.
// Run by hand, as root: `node test/fuzz/record-corpus.ts`. With `--states` it takes the saved states of the lab's guests in .cache,
// which are streams too, in place of starting QEMUs. With `--links` only what the sidecars say is made anew, from the streams there are.
// With `--control DIR` only the messages of the control protocol are, from a recording of the lab (test/launcher/control-recording.ts).
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { constants, zstdCompressSync } from 'node:zlib';
import { exampleArm } from '../../control/example-messages.ts';
import { type RecordedStreams, readRecordedStreams, repeatPages } from '../../sidecar/recorded-streams.ts';
import { PAGE_BYTES } from '../../sidecar/stream/page-sink.ts';
import { indexOf, MemoryVolume, runPipeline } from '../../sidecar/test-pipeline.ts';
import { CACHE_DIR } from '../lab/build-cache.ts';
import { LocalNode } from '../lab/local-node.ts';
import { QmpClient } from '../lab/qmp.ts';
import { ensureRoot, ROOT_SUITES } from '../lab/roots.ts';
import { CORPUS_DIRECTORY } from './corpus.ts';
import { trimMain, trimMultifd } from './trim-stream.ts';

const MIGRATION_MS = 20_000;

interface Recording {
  readonly name: string;
  readonly capabilities: readonly string[];
  readonly parameters: Readonly<Record<string, unknown>>;
}

const RECORDINGS: readonly Recording[] = [
  { name: 'main', capabilities: ['dirty-bitmaps'], parameters: {} },
  { name: 'xbzrle', capabilities: ['xbzrle'], parameters: {} },
  { name: 'postcopy', capabilities: ['postcopy-ram'], parameters: {} },
  { name: 'multifd', capabilities: ['multifd'], parameters: { 'multifd-channels': 2 } },
  {
    name: 'zstd',
    capabilities: ['multifd'],
    parameters: { 'multifd-channels': 2, 'multifd-compression': 'zstd' },
  },
];

/** In 16-bit code: adds one to the first byte of each of 16 pages, for ever. */
const BOOT_SECTOR = Buffer.alloc(512);
Buffer.from('b800208ec031ff26fe0581c70010ebf7', 'hex').copy(BOOT_SECTOR);
BOOT_SECTOR.writeUInt16LE(0xaa55, 510);

async function record(node: LocalNode, root: string, suite: string, recording: Recording): Promise<Buffer[]> {
  const id = `${suite}-${recording.name}`;
  const [qmpPath, sinkPath, diskPath] = ['qmp', 'sink', 'disk'].map((what) => node.file(`${what}-${id}`)) as [
    string,
    string,
    string,
  ];
  writeFileSync(diskPath, Buffer.concat([BOOT_SECTOR, Buffer.alloc(1024 * 1024 - 512)]));
  const streams: Buffer[][] = [];
  const sockets: Socket[] = [];
  const sink = createServer((socket) => {
    const chunks: Buffer[] = [];
    streams.push(chunks);
    sockets.push(socket);
    socket.on('data', (bytes: Buffer) => chunks.push(bytes));
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => sink.listen(sinkPath, resolve));
  const process = await node.spawn({
    name: id,
    root,
    argv: [
      'qemu-system-x86_64',
      ...['-machine', 'q35', '-accel', 'tcg', '-cpu', 'qemu64', '-smp', '1'],
      ...['-m', '16M,maxmem=64M,slots=1', '-nodefaults', '-no-user-config', '-display', 'none'],
      ...['-object', 'memory-backend-ram,id=more,size=16M', '-device', 'virtio-mem-pci,id=vm0,memdev=more'],
      ...['-blockdev', `driver=file,node-name=file,filename=${diskPath}`],
      ...[
        '-blockdev',
        'driver=raw,node-name=disk,file=file',
        '-device',
        'virtio-blk-pci,drive=disk,bootindex=0',
      ],
      ...['-qmp', `unix:${qmpPath},server=on,wait=off`],
    ],
  });
  try {
    const qmp = await QmpClient.connect(qmpPath, 30_000);
    await sleep(3000); // SeaBIOS loads the boot sector
    await qmp.execute('block-dirty-bitmap-add', { node: 'disk', name: 'changed', persistent: false });
    await qmp.execute('migrate-set-capabilities', {
      capabilities: recording.capabilities.map((capability) => ({ capability, state: true })),
    });
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 4_000_000, ...recording.parameters });
    await qmp.execute('migrate', { uri: `unix:${sinkPath}` });
    const until = Date.now() + MIGRATION_MS;
    let status = '';
    while (Date.now() < until && !['completed', 'failed'].includes(status)) {
      await sleep(200);
      ({ status = '' } = await qmp.execute<{ status?: string }>('query-migrate'));
    }
    console.log(
      `${id}: QEMU ${qmp.version}, ${status}, ${streams.map((chunks) => Buffer.concat(chunks).length)} bytes`,
    );
  } finally {
    for (const socket of sockets) socket.destroy();
    sink.close();
    await process.kill();
  }
  return streams.map((chunks) => Buffer.concat(chunks));
}

function write(folder: string, name: string, bytes: Uint8Array): void {
  const stored = zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 19 } });
  writeFileSync(join(CORPUS_DIRECTORY, folder, `${name}.zst`), stored);
  console.log(`  ${folder}/${name}: ${bytes.length} bytes, ${stored.length} stored`);
}

/** Links are recorded of these streams, with pages beyond the first 64 KiB of a connection, which are never referred to. */
const LINKS_OF = /-(main|multifd|state)$/;
const TIMES = 8;

async function recordAllLinks(): Promise<void> {
  for (const folder of ['link-at-target', 'link-at-source']) {
    rmSync(join(CORPUS_DIRECTORY, folder), { recursive: true, force: true });
    mkdirSync(join(CORPUS_DIRECTORY, folder), { recursive: true });
  }
  for (const recorded of readRecordedStreams()) {
    if (LINKS_OF.test(recorded.name)) await recordLinks(recorded.name, repeatPages(recorded, TIMES));
  }
}

/** Both directions of every link connection, of a migration with references and with a stale block. */
async function recordLinks(name: string, { streams, pages }: RecordedStreams): Promise<void> {
  const content = Buffer.concat([...pages.filter((_, i) => i % 4 !== 3), Buffer.alloc(PAGE_BYTES, 1)]);
  const volume = new MemoryVolume('root', content);
  const index = indexOf([volume]);
  // Rewritten after it was indexed: these pages are asked for again.
  for (let block = 0; block < volume.blockCount; block += 3)
    content.fill(0x77, block * PAGE_BYTES, block * PAGE_BYTES + 8);
  const sent: Buffer[][] = [];
  const answered: Buffer[][] = [];
  const { source } = await runPipeline({
    streams,
    volumes: [volume],
    ...index,
    closeAfterWriting: true,
    zstd: name.endsWith('10.0') || streams.length > 1,
    prepare: (source) => {
      const options = source.options as { dial: () => Promise<Socket> };
      const { dial } = options;
      options.dial = async () => {
        const socket = await dial();
        const [out, back]: [Buffer[], Buffer[]] = [[], []];
        sent.push(out);
        answered.push(back);
        const original = socket.write.bind(socket) as (bytes: Uint8Array, done?: () => void) => boolean;
        Object.assign(socket, {
          write: (bytes: Uint8Array, done?: () => void) => {
            out.push(Buffer.from(bytes));
            return original(bytes, done);
          },
        });
        socket.on('data', (bytes: Buffer) => back.push(Buffer.from(bytes)));
        return socket;
      };
    },
  });
  if (source.counters.referencePages === 0 || source.counters.resentPages === 0)
    throw new Error(`${name}: nothing was referred to, or nothing asked for again`);
  for (const [i, chunks] of sent.entries()) write('link-at-target', `${name}-${i}`, Buffer.concat(chunks));
  for (const [i, chunks] of answered.entries())
    write('link-at-source', `${name}-${i}`, Buffer.concat(chunks));
}

/** Messages of one shape differ in numbers only, which the fuzzer changes by itself. */
function shapeOf(message: object): string {
  return JSON.stringify(message, (_key, value) => (typeof value === 'number' ? 0 : value));
}

const UIDS = /[0-9a-f]{8}-[0-9a-f-]{27}/g;
/** Of each type of message. */
const MOST_SHAPES = 4;

/** One message of each shape of a recording, with the key of the examples: what must not be in an error's message is known then. */
function recordControl(directory: string): void {
  for (const folder of ['control-from-sidecar', 'control-from-hub']) {
    const shapes = new Map<string, string[]>();
    const seen = new Set<string>();
    for (const line of readFileSync(join(directory, `${folder}.jsonl`), 'utf8')
      .trim()
      .split('\n')) {
      const message = JSON.parse(line) as { type: string; sessionKey?: string };
      if (message.sessionKey !== undefined) message.sessionKey = exampleArm.sessionKey;
      const shape = shapeOf(message).replace(UIDS, '');
      const kept = shapes.get(message.type) ?? [];
      if (seen.has(shape) || kept.length === MOST_SHAPES) continue;
      seen.add(shape);
      shapes.set(message.type, [...kept, JSON.stringify(message)]);
    }
    rmSync(join(CORPUS_DIRECTORY, folder), { recursive: true, force: true });
    mkdirSync(join(CORPUS_DIRECTORY, folder), { recursive: true });
    for (const [type, messages] of shapes)
      for (const [i, text] of messages.entries()) write(folder, `${type}-${i}`, Buffer.from(text));
  }
}

/** Newest saved state of each QEMU: a stream of a real guest of a GiB, without multifd. */
async function recordStates(): Promise<void> {
  const guests = join(CACHE_DIR, 'guests');
  for (const suite of ROOT_SUITES) {
    const folder = readdirSync(guests)
      .filter((name) => name.startsWith(`state-${suite}-`))
      .sort()
      .at(-1);
    if (folder === undefined)
      throw new Error(`no saved state of ${suite}: node test/lab/prepare.ts makes them`);
    const name = `${suite}-state`;
    write('qemu-main', name, trimMain(readFileSync(join(guests, folder, 'state'))));
  }
}

const control = process.argv.indexOf('--control');
if (control > 0) {
  const directory = process.argv[control + 1];
  if (directory === undefined) throw new Error('--control takes the directory of a recording');
  recordControl(directory);
  process.exit(0);
}
for (const folder of ['qemu-main', 'qemu-multifd'])
  mkdirSync(join(CORPUS_DIRECTORY, folder), { recursive: true });
if (process.argv.includes('--states') || process.argv.includes('--links')) {
  if (process.argv.includes('--states')) await recordStates();
  await recordAllLinks();
  process.exit(0);
}
const node = await LocalNode.start();
try {
  for (const suite of ROOT_SUITES) {
    const root = await ensureRoot(suite);
    for (const recording of RECORDINGS) {
      const name = `${suite}-${recording.name}`;
      const streams = await record(node, root, suite, recording);
      const main = streams.find((stream) => stream[0] === 0x51);
      if (main === undefined) throw new Error(`${name}: no main channel was recorded`);
      const channels = streams.filter((stream) => stream[0] === 0x11).map(trimMultifd);
      const trimmed = trimMain(main);
      write('qemu-main', name, trimmed);
      for (const [i, stream] of channels.entries()) write('qemu-multifd', `${name}-${i}`, stream);
    }
  }
  await recordAllLinks();
} finally {
  await node.close();
}
