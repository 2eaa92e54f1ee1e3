// Any sequence of additions and removals: the index must agree with a plain map, up to the 40 bits that it keeps of a hash.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ADDED, BlockIndex, MAX_COPIES, PRESENT, TOO_MANY_COPIES } from './block-index.ts';
import { PAGE_BYTES } from './page-hash.ts';

const VOLUMES = [
  { name: 'a', sizeBytes: 30 * PAGE_BYTES },
  { name: 'b', sizeBytes: 50 * PAGE_BYTES },
];

// Few hash values, close together and far apart, so that runs, copies and gaps happen.
const hash = fc.record({
  hi: fc.oneof(fc.integer({ min: -3, max: 3 }), fc.constantFrom(-0x8000_0000, 0x7fff_ffff, 0x4000_0000)),
  lo: fc.integer({ min: 0, max: 2 }),
});
const step = fc.record({ add: fc.boolean(), place: fc.integer({ min: 0, max: 79 }), hash });

describe('BlockIndex', () => {
  it('agrees with a map', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
        const index = BlockIndex.create({ volumes: VOLUMES, seed: { hi: 1, lo: 2 }, budgetBytes: 1 << 20 });
        const model = new Map<string, { hi: number; lo: number; places: Set<number> }>();
        let count = 0;
        for (const { add, place, hash } of steps) {
          const key = `${hash.hi}/${hash.lo}`;
          const entry = model.get(key) ?? { ...hash, places: new Set<number>() };
          model.set(key, entry);
          const [volume, block] = place < 30 ? [0, place] : [1, place - 30];
          if (add) {
            const expected = entry.places.has(place)
              ? PRESENT
              : entry.places.size >= MAX_COPIES
                ? TOO_MANY_COPIES
                : ADDED;
            const room = count < index.capacity;
            if (!room && expected === ADDED) continue;
            expect(index.add(volume, block, hash.hi, hash.lo)).toBe(expected);
            if (expected === ADDED) {
              entry.places.add(place);
              count++;
            }
          } else {
            expect(index.remove(volume, block, hash.hi, hash.lo)).toBe(entry.places.delete(place));
            count = [...model.values()].reduce((sum, { places }) => sum + places.size, 0);
          }
          expect(index.count).toBe(count);
        }
        for (const { hi, lo, places } of model.values()) {
          const found = index.lookup(hi, lo);
          expect(places.size === 0 ? found === -1 : places.has(found)).toBe(true);
          for (const place of places) {
            expect(index.lookupNear(hi, lo, index.volume(place), index.block(place))).toBe(place);
          }
        }
        const view = new DataView(new ArrayBuffer(9 * 1000));
        expect(index.exportEntries(0, view, 1 << 20)).toEqual({ entries: count, next: -1 });
        for (let i = 1; i < count; i++)
          expect(view.getUint32(9 * i)).toBeGreaterThanOrEqual(view.getUint32(9 * (i - 1)));
      }),
      { numRuns: 500 },
    );
  });
});
