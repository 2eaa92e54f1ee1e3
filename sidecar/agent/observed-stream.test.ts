// The observer on made-up migrations whose pages are known, in every cut of the bytes.

import { describe, expect, it } from 'vitest';
import { BlockIndex } from '../index/block-index.ts';
import { PageHasher, randomSeed } from '../index/page-hash.ts';
import { generateMigration, type Migration, seededRandom } from '../stream/test-streams.ts';
import { ObservedStream } from './observed-stream.ts';

const PAGE_BYTES = 4096;
const VOLUME = { name: 'root', sizeBytes: 1024 * PAGE_BYTES };

/** Page `page` of pc.ram never changes, and is known by its number. Every fourth page is zero, others are of this pattern. */
function fill(page: number, out: Uint8Array): void {
  const random = seededRandom(page + 1);
  for (let i = 0; i < PAGE_BYTES; i++) out[i] = random() * 256;
}

function migration(channels: number): Migration {
  return generateMigration({
    channels,
    rounds: 2,
    dirtyShare: 0.25,
    content: (block, page, _round, out) => {
      if (page % 4 === 0) return false;
      if (block === 'pc.ram') fill(page, out);
      else out.fill(7);
      return true;
    },
  });
}

/** An index of the content of these pages; each lies in the block of its number, unless said otherwise. */
function indexOf(pages: readonly number[], blockOf = (page: number) => page): BlockIndex {
  const index = BlockIndex.create({ volumes: [VOLUME], seed: randomSeed(), budgetBytes: 1 << 20 });
  const hasher = new PageHasher(index.seed);
  const bytes = new Uint8Array(PAGE_BYTES);
  for (const page of pages) {
    fill(page, bytes);
    hasher.hash(bytes, 0);
    index.add(0, blockOf(page), hasher.hi, hasher.lo);
  }
  return index;
}

function observe(
  { main, multifd, writes }: Migration,
  options: { index: BlockIndex; usable?: boolean; hitsStandFor?: number; cut?: (length: number) => number },
): ObservedStream {
  const { index, usable = true, hitsStandFor = 1, cut = (length) => length } = options;
  const observed = new ObservedStream({ index, usable: [usable], hitsStandFor });
  const streams = [main, ...multifd];
  const taps = streams.map(() => observed.connection());
  for (const { connection, from, to } of writes) {
    for (let at = from; at < to; ) {
      const length = Math.max(1, Math.min(to - at, cut(to - at)));
      // The socket's buffer is reused by who reads it.
      const chunk = Uint8Array.from((streams[connection] as Uint8Array).subarray(at, at + length));
      taps[connection]?.(chunk);
      chunk.fill(0xee);
      at += length;
    }
  }
  return observed;
}

const even = Array.from({ length: 96 }, (_, i) => 2 * i);

describe.each([0, 2])('observed stream with %i multifd channels', (channels) => {
  const made = migration(channels);

  it('finds every page, and of them those that the index knows', () => {
    const estimate = observe(made, { index: indexOf(even) }).estimate();
    expect(estimate.pages.reference + estimate.pages.literalCompressed).toBe(made.sent.normal);
    expect(estimate.pages.zero).toBe(made.sent.zero);
    // Of pc.ram, pages 2, 6, 10, ... are known and not zero: a third of what it sends.
    expect(estimate.pages.reference).toBeGreaterThanOrEqual(48);
    expect(estimate.nasBytes).toBe(estimate.pages.reference * PAGE_BYTES);
    const streamBytes = [made.main, ...made.multifd].reduce((sum, { length }) => sum + length, 0);
    expect(estimate.linkBytes).toBeLessThan(streamBytes - estimate.pages.reference * (PAGE_BYTES - 16));
    expect(estimate.linkBytes).toBeGreaterThan(0);
  });

  it('comes to the same whatever the bytes are cut into', () => {
    const index = indexOf(even);
    const whole = observe(made, { index });
    const random = seededRandom(3);
    const cuts = [() => 1, () => 4095, () => 64, (length: number) => 1 + Math.floor(random() * length)];
    for (const cut of cuts) {
      const again = observe(made, { index, cut });
      expect(again.estimate()).toEqual(whole.estimate());
      expect(again.iterations).toBe(whole.iterations);
    }
    expect(whole.iterations).toBe(2);
  });

  it('counts a hit for the blocks that a sample left out, but never more pages than there are', () => {
    // Every fourth page is zero: of a sample of every sixth block, page 6 and 18 are content.
    const sample = [6, 18];
    const some = observe(made, { index: indexOf(sample), hitsStandFor: 6 }).estimate();
    const same = observe(made, { index: indexOf(sample) }).estimate();
    expect(some.pages.reference).toBe(same.pages.reference * 6);
    expect(some.hitsCountedTimes).toBe(6);
    const all = observe(made, { index: indexOf(even, (page) => 5 * page), hitsStandFor: 5 }).estimate();
    expect(all.pages).toMatchObject({ reference: made.sent.normal, literalCompressed: 0 });
  });

  it('does not count a hit between the samples, which growth brought, for more than itself', () => {
    const sample = [6, 18];
    const sampled = observe(made, { index: indexOf(sample), hitsStandFor: 6 }).estimate();
    const grown = observe(made, { index: indexOf([...sample, 5, 7, 17, 19]), hitsStandFor: 6 }).estimate();
    expect(grown.pages.reference).toBe(sampled.pages.reference);
    const only = observe(made, { index: indexOf([5, 7]), hitsStandFor: 6 }).estimate();
    expect(only.pages.reference).toBe(observe(made, { index: indexOf([5, 7]) }).estimate().pages.reference);
  });

  it('counts nothing of a volume that the migration may not use', () => {
    expect(observe(made, { index: indexOf(even), usable: false }).estimate().pages.reference).toBe(0);
  });
});

describe('observed stream', () => {
  it('that is not understood saves nothing and breaks nothing', () => {
    const observed = new ObservedStream({ index: indexOf([]), usable: [true], hitsStandFor: 1 });
    const random = seededRandom(9);
    const noise = () => Uint8Array.from({ length: 5000 }, () => random() * 256);
    const beginnings = [[], [0x16, 3], [0x51, 0x45, 0x56, 0x4d], [0x11, 0x22, 0x33, 0x44], [0x51]];
    for (const beginning of beginnings) {
      const tap = observed.connection();
      tap(Uint8Array.from(beginning));
      for (let i = 0; i < 3; i++) tap(noise());
    }
    const bytes = beginnings.reduce((sum, { length }) => sum + length, 0) + 15 * 5000;
    expect(observed.estimate()).toMatchObject({ linkBytes: bytes, nasBytes: 0 });
  });
});
