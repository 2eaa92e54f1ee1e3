// Properties of both finders over generated migrations: any cut tells the same; whatever is done to the bytes, nothing throws, what
// is told lies in the stream in rising order, and memory stays bounded.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MainChannelFinder } from './main-channel.ts';
import { MultifdChannelFinder } from './multifd-channel.ts';
import type { BoundaryKind, ChannelFinder } from './page-sink.ts';
import { MAX_RAM_BLOCKS, RamBlocks } from './ram-blocks.ts';
import {
  generateMigration,
  type Migration,
  type MigrationOptions,
  pushInPieces,
  pushOneByOne,
  RecordingSink,
} from './test-streams.ts';

const RAM_BLOCKS = [
  { name: 'pc.ram', pageCount: 40 },
  { name: 'vga.vram', pageCount: 5 },
  { name: 'mem0', pageCount: 512, pageBytes: 0x20_0000 },
];

// Pages of one repeated byte, two in three zero: streams stay small, and bytes of pages are like bytes of headers.
const BYTES = [0x00, 0x7e, 0x02, 0x08, 0x11, 0x01, 0xff];

const options: fc.Arbitrary<MigrationOptions> = fc
  .record({
    qemu: fc.constantFrom('7.2', '10.0', '11.1' as const),
    channels: fc.integer({ min: 0, max: 3 }),
    seed: fc.nat(),
    rounds: fc.integer({ min: 1, max: 4 }),
    pagesPerSection: fc.integer({ min: 1, max: 200 }),
    postcopy: fc.constantFrom('off', 'advised', 'switched' as const),
    otherSections: fc.boolean(),
    xbzrle: fc.boolean(),
    dirtyShare: fc.double({ min: 0, max: 0.3, noNaN: true }),
    deviceStateBytes: fc.constant(500),
  })
  .map((drawn) => ({
    ...drawn,
    ramBlocks: RAM_BLOCKS,
    content: (block, page, round, out) => {
      const mixed = (page * 7 + round * 3 + block.length + drawn.seed) % 21;
      if (mixed >= BYTES.length) return false;
      out.fill(BYTES[mixed]!);
      return BYTES[mixed] !== 0;
    },
  }));

/** Checks every call on its way into the lines. */
class CheckedSink extends RecordingSink {
  /** Bytes pushed, the piece being pushed included. */
  pushed = 0;
  #end = 0;
  #boundary = 0;

  override pages(streamOffset: number, ramBlock: number, pageNumbers: Uint32Array, count: number): void {
    expect(count).toBeGreaterThan(0);
    expect(count).toBeLessThanOrEqual(128);
    expect(streamOffset).toBeGreaterThanOrEqual(this.#end);
    expect(streamOffset).toBeLessThanOrEqual(this.pushed);
    this.#end = streamOffset + count * 4096;
    super.pages(streamOffset, ramBlock, pageNumbers, count);
  }

  override boundary(streamOffset: number, kind: BoundaryKind): void {
    expect(streamOffset).toBeGreaterThan(this.#boundary);
    expect(streamOffset).toBeGreaterThanOrEqual(this.#end);
    expect(streamOffset).toBeLessThanOrEqual(this.pushed);
    this.#boundary = streamOffset;
    super.boundary(streamOffset, kind);
  }

  override opaque(...told: Parameters<RecordingSink['opaque']>): void {
    expect(this.lines.some((line) => line.startsWith('opaque'))).toBe(false);
    expect(told[1]).toBeGreaterThanOrEqual(this.#boundary);
    expect(told[1]).toBeLessThanOrEqual(this.pushed);
    expect(told[2].length).toBeLessThan(2000);
    super.opaque(...told);
  }
}

type Push = (finder: ChannelFinder, bytes: Uint8Array) => void;

function find(kind: 'main' | 'multifd', bytes: Uint8Array, push: Push, blocks: RamBlocks): readonly string[] {
  const sink = new CheckedSink(blocks);
  const finder: ChannelFinder =
    kind === 'main' ? new MainChannelFinder(sink, blocks) : new MultifdChannelFinder(sink, blocks);
  const counting: ChannelFinder = {
    push: (piece) => {
      sink.pushed += piece.length;
      finder.push(piece);
    },
    get streamOffset() {
      return finder.streamOffset;
    },
    get isOpaque() {
      return finder.isOpaque;
    },
  };
  push(counting, bytes);
  expect(finder.streamOffset).toBe(bytes.length);
  expect(blocks.all.length).toBeLessThanOrEqual(MAX_RAM_BLOCKS);
  return sink.lines;
}

function listed(): RamBlocks {
  const blocks = new RamBlocks();
  for (const { name, pageCount } of RAM_BLOCKS) blocks.declare(name, pageCount);
  blocks.finishList();
  return blocks;
}

const whole: Push = (finder, bytes) => finder.push(bytes);

/** Each connection with its bytes and what must be told about it. */
function connections({ main, multifd, expected }: Migration) {
  return [
    { kind: 'main' as const, bytes: main, lines: expected.main, table: () => new RamBlocks() },
    ...multifd.map((bytes, i) => ({
      kind: 'multifd' as const,
      bytes,
      lines: expected.multifd[i]!,
      table: listed,
    })),
  ];
}

describe('cuts', () => {
  it('any cut of any migration tells the same', () => {
    fc.assert(
      fc.property(options, fc.array(fc.nat(), { maxLength: 200 }), (drawn, numbers) => {
        for (const { kind, bytes, lines, table } of connections(generateMigration(drawn))) {
          const cuts = numbers.map((number) => number % (bytes.length + 1));
          expect(find(kind, bytes, (finder) => pushInPieces(finder, bytes, cuts), table())).toEqual(lines);
        }
      }),
      { numRuns: 150 },
    );
  });

  it('one byte at a time tells the same', () => {
    fc.assert(
      fc.property(options, (drawn) => {
        for (const { kind, bytes, lines, table } of connections(generateMigration(drawn))) {
          expect(find(kind, bytes, pushOneByOne, table())).toEqual(lines);
        }
      }),
      { numRuns: 25 },
    );
  });

  it('a stream that ends early tells a beginning of the same', () => {
    fc.assert(
      fc.property(options, fc.double({ min: 0, max: 1, noNaN: true }), (drawn, share) => {
        for (const { kind, bytes, lines, table } of connections(generateMigration(drawn))) {
          const beginning = bytes.subarray(0, Math.floor(share * bytes.length));
          const told = find(kind, beginning, whole, table());
          if (kind === 'main') expect(told).toEqual(lines.slice(0, told.length));
          else expect(lines.slice(0, told.length)).toEqual(told);
        }
      }),
      { numRuns: 100 },
    );
  });
});

type Mutation = {
  readonly at: number;
  readonly kind: 'set' | 'flip' | 'remove' | 'repeat' | 'ones';
  readonly value: number;
};

const mutations = fc.array(
  fc.record<Mutation>({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    kind: fc.constantFrom('set', 'flip', 'remove', 'repeat', 'ones' as const),
    value: fc.integer({ min: 0, max: 255 }),
  }),
  { minLength: 1, maxLength: 6 },
);

/** Mutations hit headers: `spots` are offsets of headers, found from what was told. */
function mutate(bytes: Uint8Array, list: readonly Mutation[], spots: readonly number[]): Uint8Array {
  let mutated = bytes.slice();
  for (const { at, kind, value } of list) {
    const spot = spots[Math.floor(at * (spots.length - 1))] ?? 0;
    const offset = Math.max(0, Math.min(mutated.length - 1, spot + (value % 40) - 20));
    if (kind === 'set') mutated[offset] = value;
    else if (kind === 'flip') mutated[offset]! ^= 1 << (value & 7);
    else if (kind === 'ones') mutated.fill(0xff, offset, offset + (value % 9));
    else {
      const count = 1 + (value % 12);
      const rest =
        kind === 'remove' ? mutated.subarray(offset + count) : mutated.subarray(Math.max(0, offset - count));
      const joined = new Uint8Array(offset + rest.length);
      joined.set(mutated.subarray(0, offset));
      joined.set(rest, offset);
      mutated = joined;
    }
  }
  return mutated;
}

describe('bytes that are not what they should be', () => {
  it('mutated migrations: nothing throws, nothing lies outside, and any cut tells the same', () => {
    fc.assert(
      fc.property(options, mutations, fc.array(fc.nat(), { maxLength: 50 }), (drawn, list, numbers) => {
        for (const { kind, bytes, lines, table } of connections(generateMigration(drawn))) {
          const spots = lines
            .flatMap((line) => /^(?:page|boundary|opaque ram-end) (\d+)/.exec(line)?.[1] ?? [])
            .map(Number);
          const mutated = mutate(bytes, list, [0, 8, 20, 64, ...spots]);
          const told = find(kind, mutated, whole, table());
          const cuts = numbers.map((number) => number % (mutated.length + 1));
          expect(find(kind, mutated, (finder) => pushInPieces(finder, mutated, cuts), table())).toEqual(told);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('noise after a good beginning', () => {
    fc.assert(
      fc.property(
        options,
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.uint8Array({ minLength: 1, maxLength: 3000 }),
        (drawn, share, noise) => {
          for (const { kind, bytes, table } of connections(generateMigration(drawn))) {
            const kept = Math.floor(share * bytes.length);
            const noisy = new Uint8Array(kept + noise.length);
            noisy.set(bytes.subarray(0, kept));
            noisy.set(noise, kept);
            expect(find(kind, noisy, whole, table())).toEqual(find(kind, noisy, pushOneByOne, table()));
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('noise alone is opaque within its first header', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 200 }), (noise) => {
        noise[0] = 0x99; // no magic begins so
        expect(find('main', noise, whole, new RamBlocks())).toEqual(['opaque header 0']);
        expect(find('multifd', noise, whole, listed())).toEqual(['opaque header 0']);
      }),
    );
  });

  it('names and sections without end stay within the limits', () => {
    const big = generateMigration({
      ramBlocks: Array.from({ length: 5000 }, (_, i) => ({
        name: `block-${i}`.padEnd(255, 'x'),
        pageCount: 1,
      })),
      rounds: 1,
      content: () => false,
    });
    const blocks = new RamBlocks();
    const told = find('main', big.main, whole, blocks);
    expect(told.at(-1)).toMatch(/^opaque ram-list /);
    expect(blocks.all.length).toBe(MAX_RAM_BLOCKS);
  });
});
