// To and fro: the target hashes what it reconstructs, so it holds the index of the guest's cache when it becomes the source.
// The second hop reads nothing to make an index, and still finds nearly all that there is to find on the NAS.

import { expect, it } from 'vitest';
import { measureHops } from './measured-migration.ts';

/** What the guest itself may read meanwhile; an index by sampling reads 160 MB. */
const NEXT_TO_NOTHING_BYTES = 1024 * 1024;
const TIMEOUT_MS = 5 * 60_000;

it(
  'the second hop has its index for nothing, and references most of the guest’s cache',
  async () => {
    const [there, back] = await measureHops(
      {
        ...{ method: 'nas', profile: 'warm', suite: 'trixie', channels: 8, index: 'sampled' },
        ...{ linkMbit: 400, nasMbit: 4000, downtimeLimitMs: 900, timeoutMs: 120_000 },
      },
      2,
    );
    if (there === undefined || back === undefined) throw new Error('the guest did not make two hops');
    for (const hop of [there, back]) {
      expect(hop.outcome.error).toBeNull();
      expect(hop.differences).toEqual([]);
      expect(hop.identicalStreams).toBe(true);
      expect(hop.guestSelfCheck).toBe('ok');
      // Known to be on the NAS; on a busy machine some of it is sent all the same, because the NAS is the slower pipe.
      const { referencePages = 0, declinedPages = 0 } = hop.sidecars?.source ?? {};
      expect(referencePages + declinedPages).toBeGreaterThan(hop.memory.pagesOnDisk / 2);
      expect(referencePages).toBeGreaterThan(hop.memory.pagesOnDisk / 10);
    }
    // The counter-example is the first hop: it read the NAS for its index, before and during the migration.
    expect(there.sidecars?.source.index.kind).toBe('sampled');
    expect(there.indexNasBytes).toBeGreaterThan(100 * NEXT_TO_NOTHING_BYTES);
    expect(there.sidecars?.target.growth?.bytesRead).toBeGreaterThan(100 * NEXT_TO_NOTHING_BYTES);
    expect(back.sidecars?.source.index).toMatchObject({ kind: 'inherited', nasBytes: 0 });
    expect(back.indexNasBytes).toBe(0);
    expect(back.sidecars?.target.growth).toEqual({ bytesRead: 0, unusedBytes: 0 });
    expect(back.storage.sourceRead).toBeLessThan(NEXT_TO_NOTHING_BYTES);
    expect(back.indexAgeSeconds).toBeGreaterThan(0);
  },
  TIMEOUT_MS,
);
