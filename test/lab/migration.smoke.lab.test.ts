// Whole migrations of a running guest in the lab: whatever the way, the destination QEMU gets the bytes that the source
// QEMU wrote, the guest goes on with the right memory, and most of its page cache comes from the NAS.

import { describe, expect, it } from 'vitest';
import { type Measurement, measureMigration, type Scenario } from './measured-migration.ts';

const SCENARIO: Scenario = {
  method: 'nas',
  profile: 'warm',
  suite: 'trixie',
  channels: 8,
  linkMbit: 400,
  nasMbit: 4000,
  downtimeLimitMs: 900,
  timeoutMs: 120_000,
  index: 'full',
};

/** What one sidecar may hold, its index included: it is small here. */
const MAX_SIDECAR_BYTES = 256 * 1024 * 1024;

function measure(changes: Partial<Scenario>): Promise<Measurement> {
  return measureMigration(
    { ...SCENARIO, ...changes },
    () => undefined,
    () => undefined,
  );
}

function expectMovedUnharmed(measured: Measurement): void {
  expect(measured.outcome.error).toBeNull();
  expect(measured.outcome.status).toBe('completed');
  expect(measured.differences).toEqual([]);
  expect(measured.identicalStreams).toBe(true);
  expect(measured.guestSelfCheck).toBe('ok');
}

describe('live migration in the lab', () => {
  it('plain: the streams are equal and no sidecar is in the way', async () => {
    const measured = await measure({ method: 'plain', linkMbit: 1000 });
    expectMovedUnharmed(measured);
    expect(measured.sidecars).toBeNull();
  });

  it.each([
    { channels: 8, index: 'full' },
    { channels: 0, index: 'full' },
    { channels: 8, index: 'sampled' },
  ] as const)(
    'NAS-aware, $channels multifd channels, $index index: most of the page cache comes from the NAS',
    async (way) => {
      const measured = await measure(way);
      expectMovedUnharmed(measured);
      const { source, target } = measured.sidecars as NonNullable<Measurement['sidecars']>;
      expect(source.error).toBeNull();
      expect(target.error).toBeNull();
      // Most, not all: on a busy machine the NAS may be the slower pipe for a while.
      expect(source.referencePages).toBeGreaterThan(measured.memory.pagesOnDisk / 2);
      expect(measured.linkBytes).toBeLessThan(measured.streamBytes / 2);
      expect(source.uncachedReads && target.uncachedReads).toBe(true);
      expect(Math.max(source.maxRssBytes, target.maxRssBytes)).toBeLessThan(MAX_SIDECAR_BYTES);
    },
  );
});
