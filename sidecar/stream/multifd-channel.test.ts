// Every rule of a multifd channel's packets, with exact bytes: each stream is pushed whole and one byte at a time.
import { describe, expect, it } from 'vitest';
import { MainChannelFinder } from './main-channel.ts';
import { MultifdChannelFinder } from './multifd-channel.ts';
import { MAX_RAM_BLOCKS, RamBlocks } from './ram-blocks.ts';
import {
  ByteWriter,
  generateMigration,
  MultifdStream,
  PacketFlag,
  pushInPieces,
  pushOneByOne,
  RecordingSink,
} from './test-streams.ts';

const BLOCK = 'pc.ram';

function listed(): RamBlocks {
  const blocks = new RamBlocks();
  blocks.declare(BLOCK, 256);
  blocks.declare('vga', 16);
  blocks.finishList();
  return blocks;
}

function find(bytes: Uint8Array, oneByOne = false, blocks = listed()): RecordingSink {
  const sink = new RecordingSink(blocks);
  const finder = new MultifdChannelFinder(sink, blocks);
  if (oneByOne) pushOneByOne(finder, bytes);
  else finder.push(bytes);
  expect(finder.streamOffset).toBe(bytes.length);
  return sink;
}

function expectFound(stream: MultifdStream, blocks: () => RamBlocks = listed): void {
  const bytes = stream.finish();
  expect(find(bytes, false, blocks()).lines).toEqual(stream.lines);
  expect(find(bytes, true, blocks()).lines).toEqual(stream.lines);
}

const begun = () => new MultifdStream().init(3);
const pages = (count: number) => new Uint8Array(4096 * count).fill(0x11);
const range = (count: number) => Array.from({ length: count }, (_, i) => i);

describe('init packet', () => {
  it('is 64 bytes and has the channel number', () => {
    const finder = new MultifdChannelFinder(new RecordingSink(listed()), listed());
    expect(finder.channelId).toBe(-1);
    finder.push(begun().finish());
    expect(finder.streamOffset).toBe(64);
    expect(finder.channelId).toBe(3);
    expect(finder.isOpaque).toBe(false);
  });

  it('is refused with another magic or version', () => {
    expectFound(new MultifdStream().opaque('header').u32(0x1122_3345).u32(1).fill(56));
    expectFound(new MultifdStream().opaque('header').u32(0x1122_3344).u32(2).fill(56));
  });
});

describe('page packets', () => {
  it('reads the bytes of a packet', () => {
    const stream = begun();
    stream.u32(0x1122_3344).u32(1).u32(0).u32(128).u32(2).u32(8192).u64(77).u32(1).fill(28);
    stream
      .text('pc.ram')
      .fill(250)
      .u64(0x2000)
      .u64(0xff000)
      .u64(0x7000)
      .fill(8 * 125)
      .fill(8192, 9);
    stream.lines.push('page 1408 pc.ram 2', 'page 5504 pc.ram 255', 'zero pc.ram 7');
    expect(stream.length).toBe(64 + 1344 + 8192);
    expectFound(stream.packet({ block: 'vga', normal: [15], payload: pages(1) }));
  });

  it('reads full packets, zero entries alone, and switches of block', () => {
    const stream = begun().packet({ block: BLOCK, normal: range(128), payload: pages(128) });
    stream
      .packet({ block: BLOCK, zero: range(128) })
      .packet({ block: 'vga', zero: [0], normal: [1], payload: pages(1) });
    expectFound(stream.packet({ block: BLOCK, normal: [255], zero: [3], payload: pages(1) }).packet({}));
  });

  it('tells a block from one whose name it begins with', () => {
    const blocks = () => {
      const table = new RamBlocks();
      table.declare('mem', 4);
      table.declare('mem10', 200);
      table.finishList();
      return table;
    };
    const stream = begun()
      .packet({ block: 'mem10', zero: [150] })
      .packet({ block: 'mem', zero: [3] });
    expectFound(stream.packet({ block: 'mem10', zero: [151] }).packet({ block: 'mem', zero: [2] }), blocks);
    const outside = begun().packet({ block: 'mem10', zero: [150] });
    const offset = outside.length;
    const bytes = outside.packet({ block: 'mem', zero: [150] }).finish();
    expect(find(bytes, false, blocks()).lines.at(-1)).toBe(`opaque multifd-packet ${offset}`);
  });

  it('tells SYNC at the end of the packet, after its pages', () => {
    const stream = begun().packet({ flags: PacketFlag.sync, pagesAlloc: 0 });
    stream.packet({ flags: PacketFlag.sync, block: BLOCK, normal: [1, 9], payload: pages(2), stale: true });
    stream.packet({ flags: PacketFlag.sync, block: BLOCK, zero: [1, 9] });
    expectFound(stream.packet({ block: BLOCK, normal: [1], payload: pages(1) }));
  });

  it('ignores what packets without pages have left over: size, block, offsets', () => {
    const stream = begun().packet({ block: BLOCK, normal: [7, 8], payload: pages(2), stale: true });
    stream.packet({ flags: PacketFlag.sync, stale: true }).packet({ stale: true });
    stream.packet({ block: BLOCK, zero: [5], nextPacketSize: 12_345 });
    stream.packet({ flags: PacketFlag.sync, block: 'not a RAMBlock', nextPacketSize: 0xffff_ffff });
    expectFound(stream.packet({ block: BLOCK, normal: [6], payload: pages(1), stale: true }));
  });

  it('refuses magic, version, flags and counts that cannot be', () => {
    const rest = (stream: MultifdStream) => stream.fill(2000);
    expectFound(rest(begun().opaque('multifd-packet').u32(0x1122_3343).u32(1).u32(0)));
    expectFound(rest(begun().opaque('multifd-packet').u32(0x1122_3344).u32(3).u32(0)));
    for (const flags of [0x80, 0x06, 0x3e, 0x41, 0x42, 0x8000_0000, 0xffff_ffff]) {
      expectFound(rest(begun().opaque('multifd-packet').u32(0x1122_3344).u32(1).u32(flags)));
    }
    const header = (
      allocated: number,
      normal: number,
      size: number,
      zero: number,
      name = BLOCK,
      offset = 0,
    ) => {
      const stream = begun().opaque('multifd-packet').u32(0x1122_3344).u32(1).u32(0);
      stream
        .u32(allocated)
        .u32(normal)
        .u32(size)
        .u64(0)
        .u32(zero)
        .fill(28)
        .text(name)
        .fill(256 - name.length);
      expectFound(stream.u64(offset).fill(8 * 127 + 5000));
    };
    header(128, 129, 129 * 4096, 0);
    header(128, 100, 100 * 4096, 29);
    header(128, 0xffff_ffff, 0xffff_f000, 1);
    header(128, 0, 0, 0xffff_ffff);
    header(128, 1, 0, 0);
    header(128, 1, 4095, 0);
    header(128, 2, 4096, 0);
    header(64, 1, 4096, 0); // 8 KiB pages
    header(0, 1, 4096, 0);
    header(64, 0, 0, 0);
    header(128, 1, 4096, 0, 'pc.rom');
    header(128, 1, 4096, 0, '');
    header(128, 1, 4096, 0, 'n'.repeat(256));
    header(128, 1, 4096, 0, BLOCK, 256 * 4096);
    header(128, 1, 4096, 0, BLOCK, 100);
    header(128, 0, 0, 1, BLOCK, 0x1000_0000_0000);
  });

  it('tells nothing of a packet in which one offset cannot be', () => {
    const stream = begun().opaque('multifd-packet');
    stream
      .u32(0x1122_3344)
      .u32(1)
      .u32(1)
      .u32(128)
      .u32(1)
      .u32(4096)
      .u64(0)
      .u32(1)
      .fill(28)
      .text(BLOCK)
      .fill(250);
    expectFound(
      stream
        .u64(0)
        .u64(256 * 4096)
        .fill(8 * 126 + 4096),
    );
  });
});

describe('packets of other forms', () => {
  it('skips device state', () => {
    const stream = begun().deviceState(new Uint8Array(70_000).fill(0x11)).deviceState(new Uint8Array(0));
    expectFound(stream.packet({ block: BLOCK, normal: [1], payload: pages(1) }));
  });

  it.each(['zlib', 'zstd', 'qpl', 'uadk', 'qatzip'] as const)(
    'tells pages packed with %s as unknown',
    (method) => {
      const stream = begun().packet({ flags: PacketFlag[method], block: BLOCK, zero: [3] });
      stream.packet({
        flags: PacketFlag[method],
        block: BLOCK,
        normal: [1, 2],
        zero: [4],
        payload: pages(1).subarray(0, 99),
      });
      stream.packet({ flags: PacketFlag[method] | PacketFlag.sync, stale: true });
      stream.packet({
        flags: PacketFlag[method] | PacketFlag.sync,
        block: BLOCK,
        normal: [1],
        payload: pages(2),
      });
      stream.packet({ flags: PacketFlag[method], block: BLOCK, normal: [9], payload: pages(256) });
      expectFound(stream.packet({ block: BLOCK, normal: [1], payload: pages(1) }));
      const large = begun().opaque('multifd-packet');
      large
        .u32(0x1122_3344)
        .u32(1)
        .u32(PacketFlag[method])
        .u32(128)
        .u32(1)
        .u32(256 * 4096 + 1)
        .u64(0)
        .u32(0);
      expectFound(
        large
          .fill(28)
          .text(BLOCK)
          .fill(250)
          .fill(8 * 128),
      );
    },
  );
});

describe('before the RAMBlock list is known', () => {
  it('refuses offsets whose page number does not fit 32 bits', () => {
    const stream = begun().packet({ block: BLOCK, zero: [0xffff_ffff] });
    stream
      .opaque('multifd-packet')
      .u32(0x1122_3344)
      .u32(1)
      .u32(0)
      .u32(128)
      .u32(0)
      .u32(0)
      .u64(1)
      .u32(1)
      .fill(28);
    expectFound(
      stream
        .text(BLOCK)
        .fill(250)
        .u64(0x1000_0000_0000)
        .fill(8 * 127),
      () => new RamBlocks(),
    );
  });

  it('names blocks by what packets say, and bounds page numbers when the list comes', () => {
    const blocks = new RamBlocks();
    const sink = new RecordingSink(blocks);
    const finder = new MultifdChannelFinder(sink, blocks);
    const stream = begun().packet({ block: BLOCK, zero: [4_000_000], normal: [2], payload: pages(1) });
    finder.push(stream.finish());
    expect(sink.lines).toEqual(stream.lines);
    expect(blocks.find(BLOCK)).toEqual({ index: 0, name: BLOCK, pageCount: 0, isDeclared: false });

    blocks.declare('vga', 16);
    blocks.declare(BLOCK, 256);
    blocks.finishList();
    expect(blocks.find(BLOCK)?.index).toBe(0);
    expect(blocks.totalPages).toBe(272);
    finder.push(
      begun()
        .packet({ block: BLOCK, zero: [255] })
        .finish()
        .subarray(64),
    );
    expect(sink.lines.at(-1)).toBe('zero pc.ram 255');
    finder.push(
      begun()
        .packet({ block: BLOCK, zero: [256] })
        .finish()
        .subarray(64),
    );
    expect(sink.lines.at(-1)).toBe(`opaque multifd-packet ${stream.length + 1344}`);
  });

  it('refuses a block that was expected but is not in the list', () => {
    const blocks = new RamBlocks();
    const sink = new RecordingSink(blocks);
    const finder = new MultifdChannelFinder(sink, blocks);
    const stream = begun().packet({ block: 'odd', zero: [1] });
    finder.push(stream.finish());
    blocks.finishList();
    finder.push(
      begun()
        .packet({ block: 'odd', zero: [1] })
        .finish()
        .subarray(64),
    );
    expect(sink.lines).toEqual(['zero odd 1', `opaque multifd-packet ${stream.length}`]);
  });

  it('bounds the names', () => {
    const stream = new MultifdStream().init(0);
    for (let i = 0; i < MAX_RAM_BLOCKS; i++) stream.packet({ block: `b${i}`, zero: [0] });
    expectFound(stream, () => new RamBlocks());
    const offset = stream.length;
    stream.packet({ block: 'one more', zero: [0] });
    const blocks = new RamBlocks();
    expect(find(stream.finish(), false, blocks).lines.at(-1)).toBe(`opaque multifd-packet ${offset}`);
    expect(blocks.all.length).toBe(MAX_RAM_BLOCKS);
  });
});

describe('whole migrations with multifd', () => {
  it.each([
    ['7.2', 2],
    ['10.0', 8],
    ['11.1', 3],
  ] as const)('finds every page in the manner of QEMU %s over %i channels', (qemu, channels) => {
    for (const compression of [undefined, 'zstd'] as const) {
      const options = compression === undefined ? {} : { compression };
      const migration = generateMigration({ qemu, channels, seed: 9, otherSections: true, ...options });
      const blocks = new RamBlocks();
      const sinks = Array.from({ length: channels + 1 }, () => new RecordingSink(blocks));
      const finders = sinks.map((sink, i) =>
        i === 0 ? new MainChannelFinder(sink, blocks) : new MultifdChannelFinder(sink, blocks),
      );
      const streams = [migration.main, ...migration.multifd];
      for (const { connection, from, to } of migration.writes) {
        pushInPieces(finders[connection]!, streams[connection]!.subarray(from, to), [1500, 3000]);
      }
      expect(finders.map((finder) => finder.streamOffset)).toEqual(streams.map((stream) => stream.length));
      expect(sinks[0]!.lines).toEqual(migration.expected.main);
      expect(sinks.slice(1).map((sink) => sink.lines)).toEqual(migration.expected.multifd);
      const all = sinks.flatMap((sink) => sink.lines);
      const count = (kind: string) => all.filter((line) => line.startsWith(`${kind} `)).length;
      expect({ normal: count('page'), zero: count('zero'), unknown: count('unknown') }).toEqual(
        migration.sent,
      );
      if (qemu === '7.2' && compression === undefined) {
        expect(hasSyncWithPages(migration.multifd)).toBe(true);
      }
    }
  });
});

/** Walks the packets by their counts. */
function hasSyncWithPages(streams: readonly Uint8Array[]): boolean {
  return streams.some((stream) => {
    const view = new DataView(stream.buffer);
    for (let at = 64; at < stream.length; at += 1344 + 4096 * view.getUint32(at + 16)) {
      if ((view.getUint32(at + 8) & 1) !== 0 && view.getUint32(at + 16) > 0) return true;
    }
    return false;
  });
}

describe('test streams', () => {
  it('are the same for the same seed', () => {
    const twice = [1, 2].map(() => generateMigration({ channels: 2, seed: 3 }));
    expect(twice[0]).toEqual(twice[1]);
    expect(generateMigration({ channels: 2, seed: 4 }).main).not.toEqual(twice[0]!.main);
  });

  it('are pushed in pieces without being changed, also when they are a Buffer as files are', () => {
    const { main, expected } = generateMigration({ seed: 8 });
    const recording = Buffer.from(main);
    const blocks = new RamBlocks();
    const sink = new RecordingSink(blocks);
    pushInPieces(new MainChannelFinder(sink, blocks), recording, [10, 5000, 5001]);
    expect(sink.lines).toEqual(expected.main);
    expect(recording.equals(main)).toBe(true);
  });

  it('write integers big-endian', () => {
    const writer = new ByteWriter()
      .u16(0x102)
      .u32(0x8304_0506)
      .u64(0x1f_ffff_ffff_ffff)
      .cstr('ab')
      .fill(2, 7);
    expect([...writer.finish()]).toEqual([
      1, 2, 0x83, 4, 5, 6, 0, 0x1f, 255, 255, 255, 255, 255, 255, 2, 97, 98, 7, 7,
    ]);
  });
});
