import { randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import { generateMigration } from '../../sidecar/stream/test-streams.ts';
import { countIncompressiblePages, savedPageOffsets } from './saved-pages.ts';

/** Of four pages one is random, one compresses a little, one well, and one is zero. */
const { main } = generateMigration({
  rounds: 1,
  ramBlocks: [{ name: 'pc.ram', pageCount: 40 }],
  content: (_block, page, _round, out) => {
    if (page % 4 < 2) randomBytes(out.length).copy(out);
    if (page % 4 === 1) out.fill(7, 0, out.length / 8);
    if (page % 4 === 2) out.fill(1 + page);
    return page % 4 !== 3;
  },
});

it('finds the pages of a saved state, and those that zstd makes nothing of', () => {
  expect(savedPageOffsets(main)).toHaveLength(30);
  expect(countIncompressiblePages(main)).toBe(10);
});
