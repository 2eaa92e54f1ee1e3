// NAS-aware migrations with the QEMUs that clusters run: 7.2 (bookworm) and 11.1 (sid), whose streams differ from 10.0's in
// multifd packets, zero pages and sections. migration.smoke.lab.test.ts has more of 10.0. Beside what the recorders saw, the memories
// of both QEMUs are compared page by page: the streams of eight channels could be equal, and still be taken in a wrong order.

import { expect, it } from 'vitest';
import { measureMigration } from './measured-migration.ts';

/** The first run builds a Debian root and a warm guest. */
const TIMEOUT_MS = 15 * 60_000;
/** QEMU's own figures are a little ahead: of the last look before its end. */
const FOUND_SHARE = 0.95;

it.each([
  { suite: 'bookworm', version: /^7\.2\./, channels: 1 },
  { suite: 'bookworm', version: /^7\.2\./, channels: 8 },
  { suite: 'trixie', version: /^10\.0\./, channels: 8 },
  { suite: 'sid', version: /^11\.1\./, channels: 1 },
  { suite: 'sid', version: /^11\.1\./, channels: 8 },
] as const)(
  'QEMU of $suite, $channels channels: every page is found, and the destination has the source’s memory',
  async ({ suite, version, channels }) => {
    const measured = await measureMigration({
      ...{ method: 'nas', profile: 'warm', suite, channels, index: 'full' },
      ...{ linkMbit: 400, nasMbit: 4000, downtimeLimitMs: 900, timeoutMs: 120_000 },
      compareMemory: true,
    });
    expect(measured.qemuVersion).toMatch(version);
    expect(measured.outcome.error).toBeNull();
    expect(measured.differences).toEqual([]);
    expect(measured.identicalStreams).toBe(true);
    expect(measured.memoryDifference).toEqual({ pages: 0, firstAddresses: [] });
    expect(measured.guestSelfCheck).toBe('ok');
    const { source, target } = measured.sidecars ?? {};
    expect([source?.error, target?.error]).toEqual([null, null]);
    const { zeroPages = 0, referencePages = 0, literalPages = 0, declinedPages = 0 } = source ?? {};
    // The page finder understood the whole stream: it saw the pages that QEMU says it sent.
    const { normalPages = 0, zeroPages: zeroPagesOfQemu = 0 } = measured.outcome.ram ?? {};
    expect(zeroPages + referencePages + literalPages).toBeGreaterThanOrEqual(
      FOUND_SHARE * (normalPages + zeroPagesOfQemu),
    );
    // On a machine so busy that the NAS is late there are no references from then on: nothing that a version of QEMU could be judged by.
    if (measured.referencesOff !== null) return;
    // What the NAS has was known; on a busy machine some of it is sent all the same, because the NAS is the slower pipe.
    expect(referencePages).toBeGreaterThan(measured.memory.pagesOnDisk / 10);
    expect(referencePages + declinedPages).toBeGreaterThan(measured.memory.pagesOnDisk / 2);
  },
  TIMEOUT_MS,
);
