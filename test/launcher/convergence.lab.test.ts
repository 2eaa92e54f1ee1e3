// A guest that does not converge plainly at the link's rate, and does accelerated: it has more files than memory and reads them
// all the time, so that its page cache changes faster than the link carries, into what the NAS has. Nothing else of it changes.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { recordCase, recordFigures } from '../report/lab-report.ts';
import { type Home, TravellingGuest } from './travelling-guest.ts';

/** Half of what it reads does not fit into its memory. */
const GUEST = { memoryMiB: 256, readMiB: 500, randomMiB: 8, textMiB: 0, churnMiB: 0 };
const LINK_MBIT = 40;
/** What the guest can read of the NAS on its source: twice the link. The index is made before. */
const SOURCE_NAS_MBIT = 80;
/** libvirt's and QEMU's default. */
const LIMIT_MS = 300;
/** Its first pass takes 54 s; so long it finds that more has changed meanwhile than it began with. */
const PLAIN_GIVEN_UP_MS = 80_000;
const READING_TIMEOUT_MS = 240_000;

let guest: TravellingGuest;

beforeAll(async () => {
  guest = await TravellingGuest.start({
    guest: { profile: GUEST },
    linkMbit: LINK_MBIT,
    sidecarEnv: { NASMIG_INDEX_BUILD: 'full' },
  });
}, 600_000);

afterAll(async () => {
  await guest?.close(process.env['NASMIG_LAB_LOGS']);
});

/** The guest reads all of its files, again and again, until it is told to stop. */
function readOn(): () => Promise<void> {
  let isWanted = true;
  const reading = (async () => {
    while (isWanted) await guest.observer.command({ kind: 'verifyAll' }, READING_TIMEOUT_MS);
  })();
  return async () => {
    isWanted = false;
    await reading;
  };
}

it('a guest that reads more than the link carries arrives accelerated, and not plainly', async () => {
  const version = await guest.home.pod.qemuVersion();
  const qemu = `${version}->${version}`;
  const { network } = guest.lab.lab;
  const slow = { outMbit: SOURCE_NAS_MBIT, inMbit: SOURCE_NAS_MBIT };
  await network.setStorageRate('source', slow);

  guest.observer.mark();
  let stopReading = readOn();
  let target: Home = await guest.newHome();
  const plain = await guest.prepare(target, { armed: false });
  const performing = plain.perform({ timeoutMs: READING_TIMEOUT_MS });
  await Promise.race([performing, sleep(PLAIN_GIVEN_UP_MS)]);
  await plain.cancel().catch(() => undefined);
  const plainResult = await performing;
  const plainRecording = await plain.finish();
  expect(plainResult.error).toContain('canceled by client');
  // More than all of its memory has crossed.
  expect(plainRecording.linkBytes).toBeGreaterThan(GUEST.memoryMiB * 2 ** 20);
  await stopReading();
  const stayed = recordCase({
    ...{ name: 'converges/plain', qemu, expected: 'failed-safe', outcome: 'failed-safe' },
    reason: `not converged in ${PLAIN_GIVEN_UP_MS / 1000} s, cancelled`,
    identicalStreams: null,
    guestSelfCheck: guest.observer.report().selfCheck,
    linkBytes: plainRecording.linkBytes,
    plainLinkBytes: plainRecording.linkBytes,
  });
  expect(stayed).toMatchObject({ ok: true });
  await guest.leave(target);

  guest.observer.mark();
  const from = guest.home;
  target = await guest.newHome();
  const migration = await guest.prepare(target, { downtimeLimitMs: LIMIT_MS });
  stopReading = readOn();
  const result = await migration.perform({ timeoutMs: READING_TIMEOUT_MS });
  const recording = await migration.finish();
  expect(result).toMatchObject({ succeeded: true, error: '' });
  // Before plain was given up.
  expect(result.elapsedMs).toBeLessThan(PLAIN_GIVEN_UP_MS);
  expect(result.job?.iterations).toBeGreaterThan(1);
  const told = await guest.resultOf(from, migration.migrationUid);
  await stopReading();
  await guest.moveIn(target);
  const arrived = recordCase({
    ...{ name: 'converges/accelerated', qemu, expected: 'accelerated' },
    outcome: told?.outcome ?? 'told nothing',
    reason: told?.reason ?? '',
    identicalStreams: recording.comparison.identical,
    guestSelfCheck: await guest.checkGuest(),
    linkBytes: recording.linkBytes,
    plainLinkBytes: plainRecording.linkBytes,
  });
  recordFigures('convergence', {
    ...{ linkMbit: LINK_MBIT, sourceNasMbit: SOURCE_NAS_MBIT, limitMs: LIMIT_MS },
    plain: { givenUpAfterMs: PLAIN_GIVEN_UP_MS, linkBytes: plainRecording.linkBytes },
    accelerated: { elapsedMs: result.elapsedMs, job: result.job, linkBytes: recording.linkBytes },
  });
  expect(recording.comparison.differences).toEqual([]);
  expect(arrived).toMatchObject({ ok: true });
}, 600_000);
