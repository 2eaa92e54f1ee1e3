// Any runs, over two volumes, with any largest read and gap: what arrives equals what a naive reader copies block by block, no byte
// elsewhere is touched, and pages are missing exactly where a read failed.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockReader, type BlockRun } from './block-reader.ts';
import { MemoryVolume, patternBlocks } from './memory-volume.ts';
import { BLOCK_BYTES } from './volume.ts';

const BLOCKS = 200;
const CONTENTS = [patternBlocks(BLOCKS, 1), patternBlocks(BLOCKS, 2)];

const request = fc.array(
  fc.record({
    volume: fc.integer({ min: 0, max: 1 }),
    block: fc.integer({ min: 0, max: BLOCKS - 1 }),
    count: fc.integer({ min: 1, max: 40 }),
    between: fc.constantFrom(0, 0, 8, 17),
  }),
  { maxLength: 12 },
);

describe('BlockReader', () => {
  it('reads what a naive reader reads', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 3 }),
        fc.record({
          maxInFlight: fc.integer({ min: 1, max: 4 }),
          gapBlocks: fc.integer({ min: 0, max: 10 }),
          cellBlocks: fc.integer({ min: 1, max: 32 }),
        }),
        fc.integer({ min: 0, max: BLOCKS }),
        async (requests, { maxInFlight, gapBlocks, cellBlocks }, endBlock) => {
          const volumes = CONTENTS.map((content, i) => new MemoryVolume(`v${i}`, content));
          (volumes[1] as MemoryVolume).endBytes = endBlock * BLOCK_BYTES;
          const reader = new BlockReader({
            volumes,
            maxInFlight,
            gapBlocks,
            maxReadBytes: cellBlocks * BLOCK_BYTES,
          });
          await Promise.all(
            requests.map(async (wanted) => {
              let size = 0;
              const runs: BlockRun[] = wanted.map(({ volume, block, count, between }) => {
                const run = {
                  volume,
                  block,
                  count: Math.min(count, BLOCKS - block),
                  offset: size,
                  stride: BLOCK_BYTES + between,
                };
                size += run.count * run.stride;
                return run;
              });
              const destination = new Uint8Array(size).fill(0xaa);
              const outcome = await reader.readBlocks(runs, destination);

              const expected = new Uint8Array(size).fill(0xaa);
              const missing: boolean[] = [];
              for (const { volume, block, count, offset, stride } of runs) {
                for (let i = 0; i < count; i++) {
                  const gone = volume === 1 && block + i >= endBlock;
                  missing.push(gone);
                  if (gone) continue;
                  const at = (block + i) * BLOCK_BYTES;
                  const content = CONTENTS[volume] as Uint8Array;
                  expected.set(content.subarray(at, at + BLOCK_BYTES), offset + i * stride);
                }
              }
              expect(Buffer.compare(destination, expected)).toBe(0);
              expect(outcome.pages).toBe(missing.length);
              expect(outcome.missingCount).toBe(missing.filter(Boolean).length);
              missing.forEach((gone, page) => {
                const bit = ((outcome.missing?.[page >> 3] ?? 0) >> (page & 7)) & 1;
                expect(bit === 1).toBe(gone);
              });
              expect(outcome.failure === null).toBe(!missing.includes(true));
            }),
          );
          for (const volume of volumes) {
            for (const { position, length } of volume.reads) {
              const first = position / BLOCK_BYTES;
              const last = first + length / BLOCK_BYTES - 1;
              expect(Math.floor(first / cellBlocks)).toBe(Math.floor(last / cellBlocks));
            }
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});
