// Every rule of the main channel's grammar, with exact bytes: each stream is pushed whole and one byte at a time.
import { describe, expect, it } from 'vitest';
import { MainChannelFinder } from './main-channel.ts';
import { RamBlocks } from './ram-blocks.ts';
import {
  ByteWriter,
  Command,
  generateMigration,
  MainStream,
  pushOneByOne,
  RecordFlag,
  RecordingSink,
  type TestRamBlock,
} from './test-streams.ts';

const BLOCKS: readonly TestRamBlock[] = [
  { name: 'pc.ram', pageCount: 256 },
  { name: 'vga.vram', pageCount: 16 },
];
const CONTENT = new Uint8Array(4096).fill(0x7e);

function find(bytes: Uint8Array, oneByOne = false): RecordingSink {
  const blocks = new RamBlocks();
  const sink = new RecordingSink(blocks);
  const finder = new MainChannelFinder(sink, blocks);
  if (oneByOne) pushOneByOne(finder, bytes);
  else finder.push(bytes);
  expect(finder.streamOffset).toBe(bytes.length);
  expect(finder.isOpaque).toBe(sink.lines.some((line) => line.startsWith('opaque')));
  return sink;
}

/** The finder tells exactly what the stream's writer noted, however the stream is cut. */
function expectFound(stream: MainStream): void {
  const bytes = stream.finish();
  expect(find(bytes).lines).toEqual(stream.lines);
  expect(find(bytes, true).lines).toEqual(stream.lines);
}

/** Header, RAM's START with BLOCKS, ready for another item. */
const started = () => new MainStream().header().ramStart(BLOCKS).ramEos();
const sectionStart = () => new MainStream().header();
const tail = (stream: MainStream) => stream.fill(5000, 0x02);

describe('file header and configuration', () => {
  it('reads the bytes of a header, a RAMBlock list, a page and a footer', () => {
    const bytes = new ByteWriter()
      .bytes([0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 3]) // magic, version
      .bytes([7, 0, 0, 0, 2, 0x70, 0x63]) // configuration, "pc"
      .bytes([1, 0, 0, 0, 9, 3, 0x72, 0x61, 0x6d, 0, 0, 0, 0, 0, 0, 0, 4]) // START 9 "ram" 0 4
      .bytes([0, 0, 0, 0, 0, 0, 0x20, 0x04]) // MEM_SIZE: 8192 bytes
      .bytes([1, 0x61, 0, 0, 0, 0, 0, 0, 0x20, 0]) // "a", 8192
      .bytes([0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0, 0, 9]) // EOS, footer
      .bytes([2, 0, 0, 0, 9]) // PART
      .bytes([0, 0, 0, 0, 0, 0, 0x10, 0x08, 1, 0x61]) // PAGE 1 of "a"
      .fill(4096, 0xff)
      .bytes([0, 0, 0, 0, 0, 0, 0, 0x22, 0]) // ZERO, CONTINUE: page 0
      .bytes([0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0, 0, 9])
      .bytes([3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0, 0, 9]) // END
      .bytes([4, 0, 0, 0, 0]);
    const expected = [
      'blocks a=2',
      'boundary 63 ram-section',
      'page 78 a 1',
      'zero a 0',
      'boundary 4196 ram-section',
      'boundary 4214 ram-end',
      'opaque ram-end 4214',
    ];
    expect(find(bytes.finish()).lines).toEqual(expected);
    expect(find(bytes.finish(), true).lines).toEqual(expected);
  });

  it('refuses another magic or version, and a stream without configuration', () => {
    expectFound(new MainStream().opaque('header').text('QEVN').u32(3).u8(7));
    expectFound(new MainStream().opaque('header').text('QEVM').u32(2).u8(7));
    expectFound(new MainStream().opaque('header').text('QEVM').u32(3).u8(1).u32(7));
  });

  it('reads the known subsections in any number', () => {
    expectFound(
      new MainStream().header({ pageBits: 12, capabilities: [], uuid: true }).ramStart(BLOCKS).ramEos(),
    );
    expectFound(new MainStream().header({ uuid: true }).ping(1));
    expectFound(new MainStream().header({ machineType: 'm'.repeat(256) }).ping(1));
  });

  it('refuses target pages that are not 4096 bytes', () => {
    const stream = new MainStream().header();
    stream.opaque('page-size').u8(5).cstr('configuration/target-page-bits').u32(1).u32(14);
    expectFound(stream);
  });

  it.each(['x-ignore-shared', 'mapped-ram'])(
    'refuses capability %s, which changes the format of RAM',
    (name) => {
      const stream = new MainStream().header();
      stream.opaque('capability').u8(5).cstr('configuration/capabilities').u32(1).u32(1).cstr(name);
      expectFound(stream);
      expect(find(stream.finish()).opaqueDetail).toContain(name);
    },
  );

  it('refuses subsections of unknown length or version', () => {
    for (const idstr of ['configuration/other', 'device/x', 'configuration/']) {
      expectFound(tail(new MainStream().header().opaque('configuration').u8(5).cstr(idstr)));
    }
    for (const idstr of ['target-page-bits', 'capabilities', 'uuid']) {
      const stream = new MainStream().header().opaque('configuration');
      expectFound(stream.u8(5).cstr(`configuration/${idstr}`).u32(2).fill(16, 0));
    }
    expectFound(new MainStream().header().opaque('configuration').u8(5).u8(0));
  });

  it('refuses a machine type that is too long, empty or not text', () => {
    const head = () => new MainStream().opaque('configuration', 8).text('QEVM').u32(3).u8(7);
    expectFound(head().u32(257).fill(257, 0x61));
    expectFound(head().u32(0).u8(1));
    expectFound(head().u32(0xffff_ffff).u8(1));
    expectFound(head().u32(3).bytes([0x61, 0, 0x62]));
  });
});

describe('items', () => {
  it('ends at unknown items', () => {
    for (const type of [0x05, 0x06, 0x07, 0x09, 0x7e, 0xff])
      expectFound(tail(started().opaque('section').u8(type)));
  });

  it('ends at EOF and at sections of unknown length', () => {
    expectFound(started().opaque('end-of-file').u8(0).u8(6));
    expectFound(tail(started().opaque('section').sectionHeader(4, 5, 'timer', 2)));
    expectFound(tail(started().opaque('section').sectionHeader(1, 5, 'block', 1)));
    expectFound(tail(started().opaque('section').sectionHeader(1, 5, 'dirty-bitmap', 2)));
    expectFound(tail(started().opaque('section').sectionHeader(4, 5, 'dirty-bitmap', 1)));
    expectFound(tail(started().opaque('section').u8(1).u32(5).u8(0)));
  });

  it('ends at RAM of another version, instance or kind, and at a second START', () => {
    expectFound(tail(sectionStart().opaque('section').sectionHeader(1, 3, 'ram', 5)));
    expectFound(tail(sectionStart().opaque('section').sectionHeader(1, 3, 'ram', 4, 1)));
    expectFound(tail(sectionStart().opaque('section').sectionHeader(4, 3, 'ram', 4)));
    expectFound(tail(started().opaque('section').sectionHeader(1, 8, 'ram', 4)));
    expectFound(tail(started().opaque('section').sectionHeader(1, 3, 'dirty-bitmap', 1)));
  });

  it('ends at PART or END of a section that was not started', () => {
    expectFound(tail(started().opaque('section').sectionAgain(2, 99)));
    expectFound(tail(started().opaque('section').sectionAgain(3, 99)));
    expectFound(tail(sectionStart().opaque('section').sectionAgain(2, 3)));
  });

  it('ends where a footer is missing or has another id', () => {
    const at = (stream: MainStream) => stream.opaque('section-footer').u64(RecordFlag.eos);
    expectFound(tail(at(started().ramPart()).footer(4)));
    expectFound(tail(at(started().ramPart()).u8(2).u32(3)));
  });

  it('does not mistake footers and items in pages for its own', () => {
    const page = new ByteWriter();
    while (page.length < 4096) page.u8(0x7e).u32(3).u8(0).u64(RecordFlag.eos);
    expectFound(
      started().ramPart().page('pc.ram', 9, page.finish().subarray(0, 4096)).zero('pc.ram', 1).ramEos(),
    );
  });
});

describe('commands', () => {
  it('tells the end of each', () => {
    expectFound(
      new MainStream().header().command(Command.openReturnPath).ping(1).ping(0x42).switchoverStart(),
    );
  });

  it('tells post-copy announced for RAM, or for dirty bitmaps alone', () => {
    expectFound(new MainStream().header().advise(4096));
    expectFound(new MainStream().header().advise());
  });

  it('refuses an ADVISE with other target pages', () => {
    const stream = new MainStream().header();
    stream.lines.push('postcopy-announced true');
    stream.opaque('page-size').u8(8).u16(Command.postcopyAdvise).u16(16).u64(0x1_0000).u64(0x1_0000);
    expectFound(stream);
  });

  it('ends at unknown commands, wrong lengths, and those of recoveries and packages', () => {
    const at = (command: number, length: number) =>
      expectFound(tail(new MainStream().header().opaque('command').u8(8).u16(command).u16(length)));
    at(0, 0);
    at(12, 0);
    at(0xffff, 4);
    at(Command.openReturnPath, 1);
    at(Command.ping, 8);
    at(Command.postcopyAdvise, 8);
    at(Command.packaged, 8);
    at(Command.switchoverStart, 2);
    at(Command.postcopyListen, 0);
    at(Command.postcopyRun, 0);
    at(Command.postcopyResume, 0);
    at(Command.recvBitmap, 7);
  });

  it('ends at ENABLE_COLO', () => {
    expectFound(tail(new MainStream().header().opaque('colo').u8(8).u16(Command.enableColo).u16(0)));
  });

  it('skips a package, which lies outside its length, and reads on in post-copy', () => {
    const stream = new MainStream().header().advise(4096).ramStart(BLOCKS).ramEos();
    stream.ramPart().page('pc.ram', 1, CONTENT).ramEos().switchoverStart();
    stream.discard('pc.ram', [[0, 4096]]).discard('vga.vram', [[4096, 8192]]);
    stream.ping(2).packaged(new Uint8Array(70_000).fill(3)).ping(4);
    stream.ramPart().page('pc.ram', 7, CONTENT, false).zero('pc.ram', 8, false).ramEos();
    stream.ramEnd().ramEos('ram-end').opaque('end-of-file').u8(0).u8(6);
    expectFound(stream);
  });

  it('tells the end of an empty package', () => {
    expectFound(started().packaged(new Uint8Array(0)).ping(4));
  });

  it('refuses in post-copy what cannot be there', () => {
    const switched = () => started().packaged(new Uint8Array(3)).ramPart();
    expectFound(
      tail(
        switched()
          .opaque('ram-record')
          .u64(4096 + RecordFlag.xbzrle)
          .cstr('pc.ram')
          .u8(1)
          .u16(4),
      ),
    );
    const ended = () => started().packaged(new Uint8Array(3)).ramEnd().ramEos('ram-end');
    expectFound(tail(ended().opaque('section').ramPart()));
  });
});

describe("RAM's RAMBlock list", () => {
  it('accepts an empty list, and blocks of no pages', () => {
    expectFound(new MainStream().header().ramStart([]).ramEos());
    expectFound(
      new MainStream()
        .header()
        .ramStart([{ name: 'none', pageCount: 0 }, ...BLOCKS])
        .ramEos(),
    );
  });

  it('reads FLUSH and pages in START', () => {
    expectFound(
      new MainStream().header().ramStart(BLOCKS).multifdFlush().page('pc.ram', 0, CONTENT).ramEos(),
    );
  });

  it('takes blocks of 16 TiB less a page', () => {
    expectFound(
      new MainStream()
        .header()
        .ramStart([{ name: 'huge', pageCount: 0xffff_ffff }])
        .zero('huge', 0xffff_fffe)
        .ramEos(),
    );
  });

  it('refuses a START that does not begin with the list, and a second list', () => {
    const stream = new MainStream().header().sectionHeader(1, 3, 'ram', 4);
    expectFound(tail(stream.opaque('ram-list').u64(RecordFlag.eos)));
    expectFound(
      tail(
        started()
          .ramPart()
          .opaque('ram-record')
          .u64(4096 + RecordFlag.memSize),
      ),
    );
  });

  it('refuses sizes that are too large, not whole pages, over the total, or names that are empty or repeated', () => {
    const list = (total: number | bigint) => {
      const stream = new MainStream().header().sectionHeader(1, 3, 'ram', 4).opaque('ram-list');
      return stream.u64(BigInt(total) + BigInt(RecordFlag.memSize));
    };
    expectFound(tail(list(8192).cstr('a').u64(12_288)));
    expectFound(tail(list(8192).cstr('a').u64(100)));
    expectFound(tail(list(8192).cstr('a').u64(0xffff_ffff_ffff_f000n)));
    expectFound(
      tail(
        list(2 ** 52)
          .cstr('a')
          .u64(2 ** 44),
      ),
    );
    expectFound(tail(list(8192).cstr('a').u64(4097).cstr('b').u64(4095)));
    expectFound(tail(list(8192).u8(0)));
    expectFound(tail(list(8192).cstr('a').u64(4096).cstr('a').u64(4096)));
    expectFound(tail(list(0xffff_ffff_ffff_f000n)));
  });

  it('holds at most 4096 blocks', () => {
    const many = (count: number) =>
      Array.from({ length: count }, (_, i) => ({ name: `b${i}`, pageCount: 1 }));
    expectFound(new MainStream().header().ramStart(many(4096)).ramEos());
    const stream = new MainStream().header();
    const offset = stream.length + 17; // the list's record
    stream.ramStart(many(4097)).ramEos();
    expect(find(stream.finish()).lines).toEqual([`opaque ram-list ${offset}`]);
  });

  it('reads page sizes of blocks after an ADVISE that has them', () => {
    const huge = 0x20_0000;
    const advised = (blocks: readonly TestRamBlock[]) =>
      new MainStream()
        .header()
        .advise(BigInt(huge) | 0x4000_0000n | 0x10_0000_0000n | 4096n)
        .ramStart(blocks);
    const a = { name: 'a', pageCount: 512 };
    for (const pageBytes of [huge, 0x4000_0000, 0x10_0000_0000]) {
      expectFound(advised([{ ...a, pageBytes }, ...BLOCKS]).ramEos());
      expectFound(advised([...BLOCKS, { ...a, pageBytes }]).ramEos());
      expectFound(
        advised([...BLOCKS, { ...a, pageBytes }])
          .multifdFlush()
          .ramEos(),
      );
    }
    expectFound(advised(BLOCKS).ramEos());
    expectFound(advised(BLOCKS).multifdFlush().ramEos());
    expectFound(advised(BLOCKS).page('pc.ram', 3, CONTENT).ramEos());
  });

  it('refuses page sizes that ADVISE does not have, and anything that is neither size nor name', () => {
    const list = (second: number | bigint, total = 16_384) => {
      const stream = new MainStream().header().advise(4096n | 0x20_0000n);
      stream
        .sectionHeader(1, 3, 'ram', 4)
        .opaque('ram-list')
        .u64(total + RecordFlag.memSize);
      return tail(stream.cstr('a').u64(8192).u64(second));
    };
    expectFound(list(0x4000_0000));
    expectFound(list(0x20_1000));
    expectFound(list(RecordFlag.eos));
    expectFound(list(0x0100_0000_0000_0010n, 8192));
  });

  it('does not look for page sizes without such an ADVISE', () => {
    for (const stream of [new MainStream().header(), new MainStream().header().advise()]) {
      stream.sectionHeader(1, 3, 'ram', 4);
      const offset = stream.length;
      stream
        .u64(16_384 + RecordFlag.memSize)
        .cstr('a')
        .u64(8192)
        .u64(0x20_0000);
      expectFound(tail(stream.opaque('ram-list', offset)));
    }
  });
});

describe('RAM records', () => {
  it('reads pages and zero pages with and without CONTINUE, over sections, commands and switches of block', () => {
    const stream = started()
      .ramPart()
      .page('pc.ram', 0, CONTENT)
      .page('pc.ram', 255, CONTENT)
      .zero('vga.vram', 3);
    stream.ramEos().ping(7).ramPart().zero('vga.vram', 4, false).page('vga.vram', 15, CONTENT, true).ramEos();
    expectFound(
      stream.ramEnd().page('vga.vram', 1, CONTENT, false).ramEos('ram-end').opaque('ram-end').fill(999, 8),
    );
  });

  it('accepts FLUSH anywhere in a body, also without multifd', () => {
    const stream = started().ramPart().multifdFlush().page('pc.ram', 0, CONTENT).multifdFlush().ramEos();
    expectFound(stream.ramEnd().multifdFlush().ramEos('ram-end').opaque('ram-end').u8(4));
  });

  it('skips XBZRLE and compressed pages: their content is unknown', () => {
    const stream = started().ramPart().xbzrle('pc.ram', 1, CONTENT.subarray(0, 100));
    stream.xbzrle('pc.ram', 2, new Uint8Array(0)).xbzrle('vga.vram', 2, CONTENT);
    stream
      .compressPage('pc.ram', 9, CONTENT.subarray(0, 50))
      .compressPage('pc.ram', 10, new Uint8Array(4109).fill(1));
    expectFound(stream.page('pc.ram', 2, CONTENT).ramEos());
  });

  it('tells a page filled with another byte as unknown', () => {
    expectFound(started().ramPart().zero('pc.ram', 1, true, 0x55).zero('pc.ram', 2).ramEos());
  });

  it('refuses lengths of XBZRLE and compressed pages that cannot be', () => {
    const at = () => started().ramPart().opaque('ram-record');
    expectFound(tail(at().u64(RecordFlag.xbzrle).cstr('pc.ram').u8(1).u16(4097)));
    expectFound(tail(at().u64(RecordFlag.xbzrle).cstr('pc.ram').u8(2).u16(10)));
    expectFound(tail(at().u64(RecordFlag.compressPage).cstr('pc.ram').u32(0)));
    expectFound(tail(at().u64(RecordFlag.compressPage).cstr('pc.ram').u32(8193)));
    expectFound(tail(at().u64(RecordFlag.compressPage).cstr('pc.ram').u32(0xffff_ffff)));
  });

  it('refuses offsets whose page number does not fit 32 bits', () => {
    const huge = () => new MainStream().header().ramStart([{ name: 'huge', pageCount: 0xffff_ffff }]);
    const stream = huge()
      .opaque('ram-record')
      .u64(0x1000_0000_0000n | BigInt(RecordFlag.page))
      .cstr('huge');
    expectFound(tail(stream));
    expect(find(stream.finish()).opaqueDetail).toContain('2^44');
  });

  it('compares EOS and FLUSH with all of the u64', () => {
    const over = 0x1_0000_0000;
    expectFound(
      tail(
        started()
          .ramPart()
          .opaque('ram-record')
          .u64(over + RecordFlag.eos),
      ),
    );
    expectFound(
      tail(
        started()
          .ramPart()
          .opaque('ram-record')
          .u64(over + RecordFlag.multifdFlush),
      ),
    );
  });

  it('refuses unknown blocks, offsets outside them, and CONTINUE without a block', () => {
    const at = () => started().ramPart().opaque('ram-record');
    expectFound(tail(at().u64(RecordFlag.page).cstr('pc.rom')));
    expectFound(tail(at().u64(RecordFlag.page).u8(0)));
    expectFound(
      tail(
        at()
          .u64(256 * 4096 + RecordFlag.page)
          .cstr('pc.ram'),
      ),
    );
    expectFound(
      tail(
        at()
          .u64(0x1000_0000_0000n | BigInt(RecordFlag.page))
          .cstr('pc.ram'),
      ),
    );
    expectFound(
      tail(
        at()
          .u64(0xffff_ffff_ffff_f000n | BigInt(RecordFlag.zero))
          .cstr('pc.ram'),
      ),
    );
    expectFound(tail(at().u64(RecordFlag.page | RecordFlag.continue)));
  });

  it('ends at HOOK (RDMA) and at flags that no receiver takes', () => {
    expectFound(tail(started().ramPart().opaque('rdma').u64(RecordFlag.hook)));
    for (const flags of [0x001, 0x00a, 0x018, 0x030, 0x220, 0x210, 0x400, 0x800, 0xfff, 0]) {
      expectFound(tail(started().ramPart().opaque('ram-record').u64(flags)));
    }
    expectFound(
      tail(
        started()
          .ramPart()
          .opaque('ram-record')
          .u64(4096 + RecordFlag.eos),
      ),
    );
    expectFound(
      tail(
        started()
          .ramPart()
          .opaque('ram-record')
          .u64(4096 + RecordFlag.multifdFlush),
      ),
    );
  });
});

describe('sections of known length', () => {
  it('skips virtio-mem before the first page, and tells how much of it is not plugged', () => {
    const page = (stream: MainStream) => expectFound(stream.ramPart().zero('pc.ram', 1).ramEos());
    page(started().virtioMem(60, 2 ** 30, 2 ** 21, 0));
    page(started().virtioMem(60, 65 * 2 ** 21, 2 ** 21, 3 * 2 ** 21));
    page(started().virtioMem(60, 2 ** 30, 2 ** 21, 2 ** 30));
    const malformed = (regionBytes: number | bigint, blockBytes: number | bigint, plugged: bigint = 0n) => {
      const stream = started().opaque('section-body');
      stream
        .sectionHeader(4, 60, '0000:00:04.0/virtio-mem-device-early', 1)
        .u64(0)
        .u64(regionBytes)
        .u64(blockBytes);
      expectFound(tail(stream.u32(0).u64(plugged)));
    };
    malformed(2 ** 30, 0);
    malformed(2 ** 30, 512);
    malformed(2 ** 30 + 1, 2 ** 20);
    malformed(0, 2 ** 20);
    malformed(0xffff_ffff_ffff_ffffn, 2 ** 20);
    malformed(2 ** 45, 2 ** 20);
    malformed(2 ** 30, 0xffff_ffff_ffff_ffffn);
    malformed(2 ** 30, 2 ** 21, 1n);
    malformed(2 ** 30, 2 ** 21, 2n ** 31n);
    malformed(2 ** 30, 2 ** 21, 0xffff_ffff_ffff_ffffn);
  });

  it('skips dirty-bitmap', () => {
    const stream = started().sectionHeader(1, 61, 'dirty-bitmap', 1);
    stream.u8(0x1c).cstr('drive0').cstr('backup').u32(65_536).u8(3); // START with both names
    stream.u8(0x80).u8(0x14).cstr('other').u32(65_536).u8(1); // two bytes of flags: START with a bitmap's name
    stream.u8(0x80).u8(0x80).u16(0x0020); // four bytes: COMPLETE
    stream.u8(0x01).footer(61);
    stream.sectionAgain(2, 61).u8(0x42).u64(0).u32(128); // BITS, ZEROES
    stream.u8(0x40).u64(0).u32(128).u64(32).fill(32, 0x7e);
    stream.u8(0x48).cstr('').u64(0).u32(128).u64(0);
    stream.u8(0x41).u64(0).u32(128).u64(32).fill(32, 0x01).footer(61); // EOS in the flags of a chunk
    stream.ramPart().zero('pc.ram', 1).ramEos().sectionAgain(3, 61).u8(0x20).u8(0x01).footer(61);
    expectFound(stream.ramEnd().ramEos('ram-end').opaque('ram-end').u8(0));
    for (const bits of [10_241, 0xffff_ffff_ffff_ffffn]) {
      const bad = started().opaque('section-body').sectionHeader(1, 61, 'dirty-bitmap', 1);
      expectFound(tail(bad.u8(0x40).u64(0).u32(1).u64(bits)));
    }
  });

  it('skips s390-storage_attributes', () => {
    const stream = started().sectionHeader(1, 5, 's390-storage_attributes', 0).u64(1).footer(5);
    stream.sectionAgain(2, 5).u64(0x7000_1002).u64(300).fill(300, 1).u64(0x1002).u64(0).u64(1).footer(5);
    stream.sectionAgain(3, 5).u64(0x8).u64(1).footer(5);
    expectFound(stream.ramPart().zero('pc.ram', 1).ramEos());
    const bad = () => started().opaque('section-body').sectionHeader(1, 5, 's390-storage_attributes', 0);
    expectFound(tail(bad().u64(4)));
    expectFound(tail(bad().u64(2).u64(0xffff_ffff_ffff_ffffn)));
  });

  it('skips spapr/htab', () => {
    const stream = started().sectionHeader(1, 6, 'spapr/htab', 1).u32(24).footer(6);
    stream
      .sectionAgain(2, 6)
      .u32(0)
      .u32(0)
      .u16(2)
      .u16(0)
      .fill(32, 0x7e)
      .u32(9)
      .u16(0)
      .u16(7)
      .u64(0)
      .footer(6);
    stream.sectionAgain(2, 6).u32(0xffff_ffff).footer(6).sectionAgain(3, 6).u32(0).u64(0).footer(6);
    expectFound(stream.ramPart().zero('pc.ram', 1).ramEos());
  });

  it('skips vfio', () => {
    const tag = (low: number) => 0xffff_ffff_0000_0000n + BigInt(low);
    const begun = () => started().sectionHeader(1, 7, '0000:00:05.0/vfio', 1);
    const ok = () => begun().u64(tag(0xef10_0003)).u64(tag(0xef10_0001)).footer(7);
    const stream = ok()
      .sectionAgain(2, 7)
      .u64(tag(0xef10_0004))
      .u64(3000)
      .fill(3000, 0x7e)
      .u64(tag(0xef10_0005))
      .footer(7);
    stream
      .sectionAgain(2, 7)
      .u64(tag(0xef10_0004))
      .u64(0)
      .u64(tag(0xef10_0004))
      .u64(1)
      .u8(9)
      .u64(tag(0xef10_0001))
      .footer(7);
    expectFound(stream.ramPart().zero('pc.ram', 1).ramEos());
    const badBody = (part: MainStream, from: number) => expectFound(tail(part.opaque('section-body', from)));
    const from = started().length;
    badBody(begun().u64(tag(0xef10_0001)), from);
    badBody(begun().u64(tag(0xef10_0003)).u64(tag(0xef10_0004)), from);
    for (const low of [0xef10_0002, 0xef10_0006, 0])
      badBody(ok().sectionAgain(2, 7).u64(tag(low)), ok().length);
    badBody(ok().sectionAgain(2, 7).u64(0xef10_0004), ok().length);
    badBody(
      ok()
        .sectionAgain(2, 7)
        .u64(tag(0xef10_0004))
        .u64(2 ** 40),
      ok().length,
    );
  });

  it('ends at another footer id after them', () => {
    const stream = started().opaque('section-footer');
    expectFound(tail(stream.sectionHeader(1, 6, 'spapr/htab', 1).u32(24).footer(3)));
  });
});

describe('whole migrations on the main channel', () => {
  it.each(['7.2', '10.0', '11.1'] as const)('finds every page in the manner of QEMU %s', (qemu) => {
    for (const postcopy of ['off', 'advised', 'switched'] as const) {
      const { main, expected, sent } = generateMigration({
        qemu,
        postcopy,
        otherSections: true,
        xbzrle: true,
        seed: 5,
      });
      const found = find(main);
      expect(found.lines).toEqual(expected.main);
      expect(found.lines.filter((line) => line.startsWith('page')).length).toBe(sent.normal);
      expect(found.lines.filter((line) => line.startsWith('zero')).length).toBe(sent.zero);
      expect(found.lines.filter((line) => line.startsWith('unknown')).length).toBe(sent.unknown);
      expect(sent.normal).toBeGreaterThan(100);
      expect(find(main, true).lines).toEqual(expected.main);
    }
  });

  it('tells offsets at which the page is', () => {
    const content = (block: string, page: number, round: number, out: Uint8Array) => {
      new DataView(out.buffer).setUint32(4092, 0x1_0000 * round + 0x100 * block.length + page);
      return true;
    };
    const { main } = generateMigration({ content });
    const view = new DataView(main.buffer);
    let round = 0;
    let last = '';
    for (const line of find(main).lines.filter((candidate) => candidate.startsWith('page'))) {
      const [, offset, block, page] = line.split(' ');
      const key = `${block} ${page}`;
      if (key === 'pc.ram 0' || (block === 'pc.ram' && !last.startsWith('pc.ram')))
        round = view.getUint32(Number(offset) + 4092) >>> 16;
      expect(view.getUint32(Number(offset) + 4092)).toBe(
        0x1_0000 * round + 0x100 * block!.length + Number(page),
      );
      last = key;
    }
    expect(round).toBe(2);
  });

  it('looks at nothing after it has gone opaque', () => {
    const blocks = new RamBlocks();
    const sink = new RecordingSink(blocks);
    const finder = new MainChannelFinder(sink, blocks);
    finder.push(new Uint8Array(100));
    finder.push(generateMigration().main);
    expect(sink.lines).toEqual(['opaque header 0']);
    expect(finder.isOpaque).toBe(true);
  });
});
