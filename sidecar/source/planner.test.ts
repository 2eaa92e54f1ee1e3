import { describe, expect, it } from 'vitest';
import { LITERAL_PAGE } from '../link/batch-encoder.ts';
import { PAGE_BYTES } from '../stream/page-sink.ts';
import { type BlockLookup, type PipeState, Planner } from './planner.ts';

const FREE: PipeState = {
  linkBytesPerSecond: 0,
  linkQueuedBytes: 0,
  literalRatio: 1,
  nasBytesPerSecond: 0,
  nasQueuedBytes: 0,
};

/** Hashes below 100 are on volume 0 at ten times that block, 100 is on volume 1, others are nowhere. */
const index: BlockLookup = {
  lookupNear: (hi) => (hi <= 100 ? hi : -1),
  volume: (place) => (place === 100 ? 1 : 0),
  block: (place) => place * 10,
};

describe('Planner', () => {
  const plan = (hashes: number[], pipes: PipeState, firstReferencable = 0, usable = [true, true]) => {
    const offsets = Uint32Array.from(hashes, (_, i) => i * PAGE_BYTES);
    const planner = new Planner(index, usable, 512);
    const pages = { hi: Int32Array.from(hashes), lo: new Int32Array(hashes.length) };
    const made = planner.plan(pages, offsets, hashes.length, firstReferencable, pipes);
    return {
      ...made,
      volumes: [...made.volumes.subarray(0, hashes.length)],
      blocks: [...made.blocks.subarray(0, hashes.length)],
    };
  };

  it('refers to what the index knows and sends the rest', () => {
    const made = plan([3, 200, 7], FREE);
    expect(made.volumes).toEqual([0, LITERAL_PAGE, 0]);
    expect(made.blocks[0]).toBe(30);
    expect(made.blocks[2]).toBe(70);
    expect(made.references).toBe(2);
  });

  it('sends the first bytes of a connection as they are', () => {
    expect(plan([3, 3], FREE, PAGE_BYTES).volumes).toEqual([LITERAL_PAGE, 0]);
  });

  it('does not refer to a volume that the target cannot read', () => {
    expect(plan([100, 3], FREE, 0, [true, false]).volumes).toEqual([LITERAL_PAGE, 0]);
  });

  it('sends by the link what a slow NAS would take longer for', () => {
    const many = Array.from({ length: 500 }, () => 3);
    const slowNas: PipeState = {
      ...FREE,
      linkBytesPerSecond: 10e6,
      nasBytesPerSecond: 1e6,
      linkQueuedBytes: 10e6,
      nasQueuedBytes: 1_048_577,
    };
    const made = plan(many, slowNas);
    expect(made.references).toBeGreaterThan(10);
    expect(made.references).toBeLessThan(100);
    expect(made.declined).toBe(500 - made.references);
  });

  it('refers to everything when the NAS is as fast as the link, however well literals compress', () => {
    const many = Array.from({ length: 500 }, () => 3);
    expect(
      plan(many, { ...FREE, linkBytesPerSecond: 25e6, nasBytesPerSecond: 25e6, literalRatio: 4 }).references,
    ).toBe(500);
  });

  it('takes the NAS for free while little waits for it, whatever its rate seemed to be', () => {
    const many = Array.from({ length: 200 }, () => 3);
    expect(plan(many, { ...FREE, linkBytesPerSecond: 10e6, nasBytesPerSecond: 1e6 }).references).toBe(200);
  });

  it('counts compression of literals as speed of the link', () => {
    const many = Array.from({ length: 500 }, () => 3);
    const rates = {
      ...FREE,
      linkBytesPerSecond: 10e6,
      nasBytesPerSecond: 9e6,
      linkQueuedBytes: 1_048_577,
      nasQueuedBytes: 1_048_577,
    };
    const incompressible = plan(many, rates).references;
    expect(incompressible).toBeGreaterThan(150);
    expect(plan(many, { ...rates, literalRatio: 4 }).references).toBeLessThan(incompressible / 2);
  });
});
