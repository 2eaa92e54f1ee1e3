// An honest switch-over through libvirt and the proxies: a guest that rewrites memory at a rate near what the link carries, moved
// plainly and accelerated, with one connection and with eight channels. What crosses the link after QEMU stopped the VM is at
// most what the link carries in the downtime limit and one of QEMU's windows, accelerated as well as plain.

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LinkTimeline } from '../lab/link-timeline.ts';
import { QmpClient } from '../lab/qmp.ts';
import { recordCase, recordFigures } from '../report/lab-report.ts';
import { type Home, TravellingGuest } from './travelling-guest.ts';

const GUEST = { memoryMiB: 384, readMiB: 200, randomMiB: 32, textMiB: 0, churnMiB: 0 };
const LINK_MBIT = 100;
const LINK_BYTES_PER_SECOND = (LINK_MBIT * 1e6) / 8;
/** Two thirds of the link: what is dirty shrinks by a third with every pass. */
const LOAD = { kind: 'load', anonymousBytesPerSecond: 8e6, fileBytesPerSecond: 0 } as const;
/** libvirt's and QEMU's default. */
const LIMIT_MS = 300;
/** One of QEMU's windows. */
const MARGIN_MS = 100;
const GAP_MS = 150;

let guest: TravellingGuest;
let qemu = '';
const plainLinkBytes = new Map<number, number>();
const figures: Record<string, unknown> = {};

beforeAll(async () => {
  guest = await TravellingGuest.start({ guest: { profile: GUEST }, linkMbit: LINK_MBIT });
  const version = await guest.home.pod.qemuVersion();
  qemu = `${version}->${version}`;
  await guest.observer.command(LOAD);
}, 600_000);

afterAll(async () => {
  await guest?.close(process.env['NASMIG_LAB_LOGS']);
});

interface Seen {
  readonly linkBytesAfterStop: number;
  readonly guestGapMs: number | undefined;
}

/** A migration whose switch-over is looked at. */
async function look(armed: boolean, channels: number): Promise<Seen> {
  const from = guest.home;
  const target: Home = await guest.newHome();
  if (armed) await guest.waitForIndex(from);
  const migration = await guest.prepare(target, { armed, flags: { channels }, downtimeLimitMs: LIMIT_MS });
  const monitor = await QmpClient.connect(`${from.pod.observerDirectory}/qmp.sock`);
  const timeline = LinkTimeline.start(from.pod.node);
  try {
    guest.observer.mark();
    const stop = monitor.waitForEvent(({ name }) => name === 'STOP', 150_000, monitor.events.length);
    const [result, { timestampMs }] = await Promise.all([migration.perform({ timeoutMs: 150_000 }), stop]);
    expect(result).toMatchObject({ succeeded: true, error: '' });
    await guest.observer.waitForNext(10_000);
    const gap = guest.observer.report().longestGap?.gapMs;
    await timeline.end();
    const recording = await migration.finish();
    const told = armed ? await guest.resultOf(from, migration.migrationUid) : undefined;
    await guest.moveIn(target);
    if (!armed) plainLinkBytes.set(channels, recording.linkBytes);
    const recorded = recordCase({
      name: `libvirt-busy/${armed ? 'accelerated' : 'plain'}-${channels}`,
      ...{ qemu, expected: armed ? 'accelerated' : 'plain' },
      outcome: armed ? (told?.outcome ?? 'told nothing') : 'plain',
      reason: armed ? (told?.reason ?? '') : 'not announced',
      identicalStreams: recording.comparison.identical,
      guestSelfCheck: await guest.checkGuest(),
      linkBytes: recording.linkBytes,
      plainLinkBytes: plainLinkBytes.get(channels) ?? recording.linkBytes,
    });
    expect(recorded).toMatchObject({ ok: true });
    return { linkBytesAfterStop: timeline.bytesSince(timestampMs), guestGapMs: gap };
  } finally {
    await timeline.end();
    monitor.close();
  }
}

describe.each([0, 8])('a busy guest with %i channels', (channels) => {
  it('is stopped when what is left fits into the downtime limit, accelerated as well as plain', async () => {
    const plain = await look(false, channels);
    const accelerated = await look(true, channels);
    figures[`channels-${channels}`] = { plain, accelerated, limitMs: LIMIT_MS, linkMbit: LINK_MBIT };
    recordFigures('switch-over-libvirt', figures);
    const bound = (LINK_BYTES_PER_SECOND * (LIMIT_MS + MARGIN_MS)) / 1000;
    // Whoever measures on a busy machine has plain to compare with: the device state is in both.
    expect(accelerated.linkBytesAfterStop).toBeLessThanOrEqual(Math.max(bound, plain.linkBytesAfterStop));
    expect(accelerated.guestGapMs).toBeLessThanOrEqual(Math.max(LIMIT_MS + GAP_MS, plain.guestGapMs ?? 0));
  }, 400_000);
});
