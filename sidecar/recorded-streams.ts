// Test support: real migrations out of the fuzzer's corpus (test/fuzz/record-corpus.ts), each with all its connections, for
// pipelines that have to carry what QEMU wrote and not only what we think it writes. bookworm's QEMU is 7.2, trixie's 10.0,
// sid's 11.1.
// What is not QEMU's: the corpus keeps a few pages of every run (trim-stream.ts), and repeatPages sends these again and again,
// for a connection refers to nothing in its first 64 KiB (FIRST_LITERAL_BYTES) and no recording is as long. Not covered: when
// each connection was written, which was not recorded (drawWrites draws it, within what QEMU keeps to); post-copy after its
// switch; content that QEMU compressed, for those pages are none to a finder.

import { readNamedCorpus } from '../test/fuzz/corpus.ts';
import { MainChannelFinder } from './stream/main-channel.ts';
import { MultifdChannelFinder } from './stream/multifd-channel.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { RamBlocks } from './stream/ram-blocks.ts';
import { RecordingSink } from './stream/test-streams.ts';

/** Most bytes of one connection before it is another's turn; the shortest recorded channel has 7 KiB. */
const TURN_BYTES = 8192;

/** Flag of a multifd packet. */
const SYNC = 0x01;

export interface RecordedStreams {
  /** As its main channel is called in the corpus, e.g. `trixie-multifd`; `trixie-multifd repeated` by {@link repeatPages}. */
  readonly name: string;
  /** What QEMU wrote on each connection; the first is main. */
  readonly streams: readonly Uint8Array[];
  /** Of each connection, ends of the channels' SYNC packets and of their partners on main; as many of each. */
  readonly syncs: readonly (readonly number[])[];
  /** Distinct contents of the pages that lie uncompressed in the streams. */
  readonly pages: readonly Uint8Array[];
}

/** What a finder tells about one connection. */
interface Told {
  readonly lines: readonly string[];
  /** Where there are PART sections of RAM, or packets of a multifd channel without SYNC. Each can come again as it is. */
  readonly repeatable: readonly { readonly from: number; readonly to: number }[];
}

/** All of the corpus. Throws where the recordings of one migration's connections do not belong together. */
export function readRecordedStreams(): RecordedStreams[] {
  const channels = readNamedCorpus('qemu-multifd');
  return [...readNamedCorpus('qemu-main')].map(([name, main]) => {
    const streams = [main];
    for (let channel = channels.get(`${name}-0`); channel !== undefined; ) {
      streams.push(channel);
      channel = channels.get(`${name}-${streams.length - 1}`);
    }
    return recordedStreams(name, streams);
  });
}

/**
 * The same migration in which the guest writes to the same pages again and again: each PART section of RAM comes `times` times, or,
 * with channels, each packet but those with SYNC, which have partners on main. Throws when that is no stream of QEMU's any more.
 */
export function repeatPages({ name, streams }: RecordedStreams, times: number): RecordedStreams {
  const told = findAll(streams);
  const repeated = streams.map((bytes, connection) => {
    const hasPages = connection > 0 || streams.length === 1;
    const parts: Uint8Array[] = [];
    let at = 0;
    for (const { from, to } of hasPages ? (told[connection]?.repeatable ?? []) : []) {
      parts.push(bytes.subarray(at, from));
      for (let i = 0; i < times; i++) parts.push(bytes.subarray(from, to));
      at = to;
    }
    return Buffer.concat([...parts, bytes.subarray(at)]);
  });
  const endings = (all: readonly Told[]): string => JSON.stringify(all.map(({ lines }) => whyOpaque(lines)));
  if (endings(findAll(repeated)) !== endings(told))
    throw new Error(`${name} with its pages repeated is not understood as it was`);
  return recordedStreams(`${name} repeated`, repeated);
}

/**
 * An order in which QEMU could have written: channels run on as they like, main completes the partner of a SYNC only when every
 * channel has written that SYNC (multifd_send_sync_main waits for all of them).
 */
export function drawWrites(
  { streams, syncs }: RecordedStreams,
  random: () => number,
): { connection: number; from: number; to: number }[] {
  const written = streams.map(() => 0);
  const hasAll = (sync: number): boolean =>
    written.every((bytes, connection) => connection === 0 || bytes >= (syncs[connection]?.[sync] ?? 0));
  const limit = (connection: number): number => {
    const partner = connection > 0 ? undefined : syncs[0]?.find((_, sync) => !hasAll(sync));
    return partner === undefined ? (streams[connection]?.length ?? 0) : partner - 1;
  };
  const writes: { connection: number; from: number; to: number }[] = [];
  for (;;) {
    const ready = written.flatMap((from, connection) => {
      const room = limit(connection) - from;
      return room > 0 ? [{ connection, from, room }] : [];
    });
    const turn = ready[Math.floor(random() * ready.length)];
    if (turn === undefined) return writes;
    const { connection, from, room } = turn;
    const to = from + Math.min(room, 1 + Math.floor(random() * TURN_BYTES));
    writes.push({ connection, from, to });
    written[connection] = to;
  }
}

function recordedStreams(name: string, streams: readonly Uint8Array[]): RecordedStreams {
  const told = findAll(streams);
  const syncs = streams.length === 1 ? [[]] : told.map(({ lines }) => syncEnds(lines));
  if (syncs.some(({ length }) => length !== syncs[0]?.length))
    throw new Error(`the connections of ${name} have ${syncs.map(({ length }) => length)} SYNCs`);
  return { name, streams, syncs, pages: distinctPages(streams, told) };
}

function findAll(streams: readonly Uint8Array[]): Told[] {
  const blocks = new RamBlocks();
  return streams.map((bytes, connection) => (connection === 0 ? findMain : findChannel)(bytes, blocks));
}

function findMain(bytes: Uint8Array, blocks: RamBlocks): Told {
  const sink = new RecordingSink(blocks);
  const starts: number[] = [];
  const section = (from: number, kind: string, _id: number, idstr: string): void => {
    if (kind === 'part' && idstr === 'ram') starts.push(from);
  };
  new MainChannelFinder(sink, blocks, { section }).push(bytes);
  const ends = endsOf(sink.lines, 'ram-section');
  const repeatable = starts.map((from) => ({ from, to: ends.find((end) => end > from) ?? from }));
  return { lines: sink.lines, repeatable };
}

function findChannel(bytes: Uint8Array, blocks: RamBlocks): Told {
  const sink = new RecordingSink(blocks);
  const packets: { from: number; flags: number }[] = [];
  const packet = (from: number, flags: number): void => void packets.push({ from, flags });
  new MultifdChannelFinder(sink, blocks, { packet }).push(bytes);
  const repeatable = packets
    .map(({ from, flags }, i) => ({ from, to: packets[i + 1]?.from ?? bytes.length, flags }))
    .filter(({ flags }) => (flags & SYNC) === 0);
  return { lines: sink.lines, repeatable };
}

/** The partner of a SYNC is a FLUSH on main; up to QEMU 8.0 it is the end of each of RAM's sections. */
function syncEnds(lines: readonly string[]): number[] {
  const ends = endsOf(lines, 'multifd-(?:flush|sync)');
  return ends.length > 0 ? ends : endsOf(lines, 'ram-(?:section|end)');
}

function endsOf(lines: readonly string[], kind: string): number[] {
  const boundary = new RegExp(`^boundary (\\d+) ${kind}$`);
  return lines.flatMap((line) => boundary.exec(line)?.[1] ?? []).map(Number);
}

function whyOpaque(lines: readonly string[]): string | undefined {
  return lines.flatMap((line) => /^opaque (\S+)/.exec(line)?.[1] ?? [])[0];
}

function distinctPages(streams: readonly Uint8Array[], told: readonly Told[]): Uint8Array[] {
  const pages = new Map<string, Uint8Array>();
  for (const [connection, stream] of streams.entries()) {
    for (const line of told[connection]?.lines ?? []) {
      const offset = /^page (\d+)/.exec(line)?.[1];
      if (offset === undefined) continue;
      const page = stream.subarray(Number(offset), Number(offset) + PAGE_BYTES);
      pages.set(Buffer.from(page).toString('latin1'), page);
    }
  }
  return [...pages.values()];
}
