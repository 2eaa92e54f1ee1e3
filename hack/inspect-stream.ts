// Runs the page finder over recorded migration connections and prints what it sees: node hack/inspect-stream.ts FILE...
// Each file holds what QEMU wrote on one connection, from its first byte. Give all connections of one migration together: the main
// channel is read first, because the RAMBlock list that bounds the others' page numbers is on it. Exit status: 0 when every file
// could be read, whatever was found in it, 1 when one could not, 2 for wrong use.
import { closeSync, openSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { type ConnectionKind, connectionKind } from '../sidecar/stream/connection-kind.ts';
import { MainChannelFinder } from '../sidecar/stream/main-channel.ts';
import { MultifdChannelFinder } from '../sidecar/stream/multifd-channel.ts';
import type {
  BoundaryKind,
  ChannelFinder,
  CompressionKind,
  OpaqueReason,
  PageSink,
  StreamTrace,
} from '../sidecar/stream/page-sink.ts';
import { PAGE_BYTES } from '../sidecar/stream/page-sink.ts';
import { type RamBlock, RamBlocks } from '../sidecar/stream/ram-blocks.ts';

const CHUNK_BYTES = 1024 * 1024;

const COMMAND_NAMES = [
  '0',
  'OPEN_RETURN_PATH',
  'PING',
  'POSTCOPY_ADVISE',
  'POSTCOPY_LISTEN',
  'POSTCOPY_RUN',
  'POSTCOPY_RAM_DISCARD',
  'PACKAGED',
  'ENABLE_COLO',
  'POSTCOPY_RESUME',
  'RECV_BITMAP',
  'SWITCHOVER_START',
];

/** Counts what one connection's finder tells. */
class Summary implements PageSink, StreamTrace {
  readonly #blocks: RamBlocks;
  readonly #facts: string[] = [];
  readonly #counts = new Map<string, number>();
  readonly #pagesOf = new Map<number, { normal: number; zero: number; unknown: number }>();
  #normal = 0;
  #opaque = '';

  constructor(blocks: RamBlocks) {
    this.#blocks = blocks;
  }

  ramBlocks(blocks: readonly RamBlock[]): void {
    const listed = blocks.map((block) => `${block.name} ${size(block.pageCount * PAGE_BYTES)}`);
    this.#facts.push(`RAMBlocks: ${listed.join(', ')}`);
  }

  pages(_streamOffset: number, ramBlock: number, _pageNumbers: Uint32Array, count: number): void {
    this.#of(ramBlock).normal += count;
    this.#normal += count;
  }

  zeroPages(ramBlock: number, _pageNumbers: Uint32Array, count: number): void {
    this.#of(ramBlock).zero += count;
  }

  unknownPages(ramBlock: number, _pageNumbers: Uint32Array, count: number): void {
    this.#of(ramBlock).unknown += count;
  }

  compression(kind: CompressionKind): void {
    this.#facts.push(`compression: ${kind}`);
  }

  boundary(_streamOffset: number, kind: BoundaryKind): void {
    this.#count(`boundary ${kind}`);
  }

  postcopyAnnounced(advisesRam: boolean): void {
    this.#facts.push(`post-copy announced for ${advisesRam ? 'RAM' : 'dirty bitmaps alone'}`);
  }

  postcopyStarted(): void {
    this.#facts.push('post-copy started');
  }

  opaque(reason: OpaqueReason, streamOffset: number, detail: string): void {
    this.#opaque = `opaque from byte ${streamOffset} on: ${reason} (${detail})`;
  }

  machineType(name: string): void {
    this.#facts.push(`machine type: ${name}`);
  }

  section(_streamOffset: number, kind: string, id: number, idstr: string): void {
    this.#count(`section ${kind.toUpperCase()} ${idstr} (id ${id})`);
  }

  command(_streamOffset: number, command: number): void {
    this.#count(`command ${COMMAND_NAMES[command] ?? command}`);
  }

  packet(_streamOffset: number, flags: number, normalPages: number, zeroPages: number): void {
    const pages =
      normalPages > 0 ? (zeroPages > 0 ? 'normal and zero' : 'normal') : zeroPages > 0 ? 'zero' : 'no';
    this.#count(`packet flags 0x${flags.toString(16)} with ${pages} pages`);
  }

  print(file: string, kind: string, finder: ChannelFinder): void {
    console.log(`${basename(file)}: ${kind}, ${size(finder.streamOffset)} (${finder.streamOffset} bytes)`);
    for (const fact of this.#facts) console.log(`  ${fact}`);
    for (const [name, count] of this.#counts) console.log(`  ${name}: ${count}`);
    for (const [index, pages] of this.#pagesOf) {
      const name = this.#blocks.all[index]?.name ?? index;
      console.log(`  pages of ${name}: ${pages.normal} normal, ${pages.zero} zero, ${pages.unknown} unknown`);
    }
    const inPages = this.#normal * PAGE_BYTES;
    const share = finder.streamOffset > 0 ? ((100 * inPages) / finder.streamOffset).toFixed(1) : '0.0';
    console.log(`  content of pages: ${size(inPages)}, ${share} % of the stream`);
    console.log(`  ${this.#opaque === '' ? 'no part of it opaque' : this.#opaque}`);
  }

  #count(name: string): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
  }

  #of(ramBlock: number): { normal: number; zero: number; unknown: number } {
    let pages = this.#pagesOf.get(ramBlock);
    if (pages === undefined) {
      pages = { normal: 0, zero: 0, unknown: 0 };
      this.#pagesOf.set(ramBlock, pages);
    }
    return pages;
  }
}

function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 ** 2) return `${(bytes / 1024).toFixed(1)} KiB`;
  return bytes < 1024 ** 3
    ? `${(bytes / 1024 ** 2).toFixed(1)} MiB`
    : `${(bytes / 1024 ** 3).toFixed(2)} GiB`;
}

/** Calls `see` with the file's bytes, piece by piece, in one reused buffer; stops when `see` returns false. */
function eachPiece(file: string, see: (bytes: Uint8Array) => boolean): void {
  const descriptor = openSync(file, 'r');
  try {
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (;;) {
      const count = readSync(descriptor, buffer, 0, buffer.length, null);
      if (count === 0 || !see(buffer.subarray(0, count))) return;
    }
  } finally {
    closeSync(descriptor);
  }
}

function kindOf(file: string): ConnectionKind | 'more-bytes-needed' {
  let kind: ConnectionKind | 'more-bytes-needed' = 'more-bytes-needed';
  eachPiece(file, (bytes) => {
    kind = connectionKind(bytes);
    return false;
  });
  return kind;
}

function inspect(file: string, kind: ConnectionKind | 'more-bytes-needed', blocks: RamBlocks): void {
  if (kind !== 'main' && kind !== 'multifd') {
    const what = kind === 'more-bytes-needed' ? 'too short to tell what it is' : `${kind} connection`;
    console.log(`${basename(file)}: ${what}, no pages to find`);
    return;
  }
  const summary = new Summary(blocks);
  const finder =
    kind === 'main'
      ? new MainChannelFinder(summary, blocks, summary)
      : new MultifdChannelFinder(summary, blocks, summary);
  eachPiece(file, (bytes) => {
    finder.push(bytes);
    return true;
  });
  const number = finder instanceof MultifdChannelFinder ? ` channel ${finder.channelId}` : ' channel';
  summary.print(file, `${kind}${number}`, finder);
}

function main(files: readonly string[]): number {
  if (files.length === 0 || files.some((file) => file.startsWith('-'))) {
    console.error('usage: node hack/inspect-stream.ts FILE...   (all connections of one migration together)');
    return 2;
  }
  const blocks = new RamBlocks();
  let status = 0;
  const connections: { file: string; kind: ConnectionKind | 'more-bytes-needed' }[] = [];
  for (const file of files) {
    try {
      connections.push({ file, kind: kindOf(file) });
    } catch (error) {
      console.error(`cannot read ${file}: ${error instanceof Error ? error.message : error}`);
      status = 1;
    }
  }
  connections.sort((left, right) => Number(right.kind === 'main') - Number(left.kind === 'main'));
  for (const { file, kind } of connections) {
    try {
      inspect(file, kind, blocks);
    } catch (error) {
      console.error(`cannot read ${file}: ${error instanceof Error ? error.message : error}`);
      status = 1;
    }
  }
  return status;
}

process.exitCode = main(process.argv.slice(2));
