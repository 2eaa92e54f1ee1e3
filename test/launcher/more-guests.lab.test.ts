// Guests that are not like the lab's usual one, each moved plainly and accelerated through libvirt: two vCPUs, memory plugged into
// a running guest by virtio-mem, memory in huge pages, a second volume, and XBZRLE, which sends differences in place of pages.

import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { CACHE_DIR } from '../lab/build-cache.ts';
import { ensureGuestKernel } from '../lab/guest-image.ts';
import { type LabCase, recordCase } from '../report/lab-report.ts';
import { MACHINES } from './guest-domain.ts';
import { reserveHugePages } from './huge-pages.ts';
import type { MigrationFlags } from './live-migration.ts';
import { type BootedGuest, TravellingGuest, type TravelOptions } from './travelling-guest.ts';

const PROFILE = { memoryMiB: 256, readMiB: 120, randomMiB: 12, textMiB: 0, churnMiB: 0 };
/** Slow enough that a page from the NAS is worth more than one from the link. */
const LINK_MBIT = 100;
const CASE_TIMEOUT_MS = 300_000;
const STAGE_TIMEOUT_MS = 30_000;
const MIB = 2 ** 20;

/**
 * More files than fit into the base: the plugged memory is used, and what is in it can be dropped when the guest is short of some.
 * The device is no larger than the base: under emulation QEMU looks for a block's dirty pages at the start of its RAM instead of at
 * the block's offset there, and ends with an assertion (tlb_reset_dirty_range_all) when the first block is the smaller one.
 */
const PLUGGED = {
  profile: { ...PROFILE, memoryMiB: 320, readMiB: 280, randomMiB: 64 },
  mostMib: 320,
  beforeMib: 128,
  liveMib: 192,
};
const DATA_MIB = 48;
/** So that QEMU comes to its third pass, the first in which a page may be a difference. */
const REWRITES_MUCH = { kind: 'load', anonymousBytesPerSecond: 8e6, fileBytesPerSecond: 0 } as const;

let guest: TravellingGuest | undefined;
let tidy: (() => void | Promise<void>)[] = [];

afterEach(async () => {
  await guest?.close(process.env['NASMIG_LAB_LOGS']);
  guest = undefined;
  for (const one of tidy.reverse()) await one();
  tidy = [];
}, 60_000);

async function begin(booted: BootedGuest, options: Partial<TravelOptions> = {}): Promise<TravellingGuest> {
  guest = await TravellingGuest.start({ guest: booted, linkMbit: LINK_MBIT, ...options });
  return guest;
}

interface There {
  readonly recorded: LabCase;
  /** Of the accelerated migration's source sidecar. */
  readonly sourceLog: string;
}

/** Plainly to the other node, quickly, and back with the sidecars: the case of the report. */
async function thereAndBack(
  moved: TravellingGuest,
  name: string,
  flags: MigrationFlags = {},
): Promise<There> {
  const version = await moved.home.pod.qemuVersion();
  const { network } = moved.lab.lab;
  await network.setMigrationRate({ outMbit: 0, inMbit: 0 });
  moved.observer.mark();
  const plain = await moved.travel({ armed: false, flags });
  expect(plain.recording.comparison.differences).toEqual([]);
  expect(await moved.checkGuest()).toBe('ok');
  await network.setMigrationRate({ outMbit: LINK_MBIT, inMbit: LINK_MBIT });
  await moved.waitForIndex(moved.home);
  const from = moved.home;
  moved.observer.mark();
  const journey = await moved.travel({ flags });
  const recorded = recordCase({
    name: `guests/${name}`,
    ...{ qemu: `${version}->${version}`, expected: 'accelerated' },
    outcome: journey.outcome ?? 'told nothing',
    reason: journey.reason ?? '',
    identicalStreams: journey.recording.comparison.identical,
    guestSelfCheck: await moved.checkGuest(),
    linkBytes: journey.recording.linkBytes,
    plainLinkBytes: plain.recording.linkBytes,
  });
  expect(journey.recording.comparison.differences).toEqual([]);
  expect(recorded).toMatchObject({ ok: true });
  const sourceLog = await moved.logOf(from);
  return { recorded, sourceLog };
}

it(
  'two vCPUs',
  async () => {
    const moved = await begin({ profile: PROFILE, domain: { vcpus: 2 } });
    await thereAndBack(moved, 'two-vcpus-8', { channels: 8 });
    await thereAndBack(moved, 'two-vcpus-single', { channels: 0 });
  },
  CASE_TIMEOUT_MS,
);

it(
  'XBZRLE',
  async () => {
    const moved = await begin({ profile: { ...PROFILE, randomMiB: 24 } });
    await moved.observer.command(REWRITES_MUCH);
    const { sourceLog } = await thereAndBack(moved, 'xbzrle', { channels: 0, xbzrle: true });
    // Framed all the same: the tag covers bytes, whatever they are.
    expect(sourceLog).toMatch(/"kind":"xbzrle".*"QEMU compresses pages itself/);
  },
  CASE_TIMEOUT_MS,
);

it.each([
  ['whose stream tells what is not plugged', MACHINES.trixie],
  ['whose stream does not tell it', MACHINES.bookworm],
])(
  'memory plugged by virtio-mem, before and while the guest runs, on a machine %s',
  async (_, machine) => {
    const { profile, mostMib, beforeMib, liveMib } = PLUGGED;
    const moved = await begin({
      profile,
      domain: { machine, hotplug: { mostMib, pluggedMib: beforeMib } },
      kernel: await ensureGuestKernel(CACHE_DIR, { modules: ['virtio_mem'] }),
    });
    const { pod } = moved.home;
    const pluggedKib = async (): Promise<number> =>
      Number(/<current unit='KiB'>(\d+)<\/current>/.exec(await pod.virsh(['dumpxml', 'default_vm']))?.[1]);
    await expect.poll(pluggedKib, { timeout: STAGE_TIMEOUT_MS }).toBe(beforeMib * 1024);
    const change = ['--alias', 'ua-hotplug', '--requested-size', `${liveMib}MiB`, '--live'];
    await pod.virsh(['update-memory-device', 'default_vm', ...change]);
    await expect.poll(pluggedKib, { timeout: STAGE_TIMEOUT_MS }).toBe(liveMib * 1024);
    const { sourceLog } = await thereAndBack(moved, `virtio-mem-${machine}`);
    // What is not plugged is listed as RAM and never sent: the pace does not wait for it when the stream tells it in time.
    const unplugged = (mostMib - liveMib) * MIB;
    const told = /"bytes":(\d+),"msg":"RAM not plugged"/.exec(sourceLog)?.[1];
    expect(told).toBe(machine === MACHINES.trixie ? String(unplugged) : undefined);
    const left = Number(
      /"remainingBytes":(\d+),"msg":"(?:later pass|one pass was enough)"/.exec(sourceLog)?.[1],
    );
    const counted = machine === MACHINES.trixie ? 0 : unplugged;
    expect(left).toBeGreaterThanOrEqual(counted);
    expect(left).toBeLessThan(counted + 16 * MIB);
  },
  CASE_TIMEOUT_MS,
);

it(
  'memory in huge pages',
  async () => {
    // Of two pods at a time, and the firmware's and the devices' RAM is in small ones.
    tidy.push(reserveHugePages(2 * PROFILE.memoryMiB));
    const moved = await begin({ profile: PROFILE, domain: { hugePages: true } });
    const xml = await moved.home.pod.virsh([
      'qemu-monitor-command',
      'default_vm',
      '{"execute":"query-memdev"}',
    ]);
    expect(xml).toContain(`"size":${PROFILE.memoryMiB * MIB}`);
    await thereAndBack(moved, 'huge-pages');
  },
  CASE_TIMEOUT_MS,
);

it(
  'two volumes: blocks of both are referred to',
  async () => {
    const directory = await mkdtemp(join(tmpdir(), 'nasmig-data-'));
    tidy.push(() => rm(directory, { recursive: true, force: true }));
    const image = join(directory, 'data.img');
    // Content that nothing compresses and the first volume does not have.
    await writeFile(image, randomBytes(DATA_MIB * MIB));
    const moved = await begin(
      { profile: PROFILE, kernel: await ensureGuestKernel(CACHE_DIR, { dataDisk: true }) },
      { moreVolumes: [{ name: 'data', image }] },
    );
    const { recorded } = await thereAndBack(moved, 'two-volumes');
    const read = new Map(
      /"volumes":(\[.*?\]),?.*"migration over"/
        .exec(await moved.logOf(moved.home))
        ?.slice(1)
        .flatMap((list) => JSON.parse(list) as { name: string; nasBytes: number }[])
        .map(({ name, nasBytes }) => [name, nasBytes]),
    );
    // Nearly all of the second disk is in the guest's cache; the sampled index and a late read leave some out.
    expect(read.get('data')).toBeGreaterThan((DATA_MIB * MIB) / 2);
    expect(read.get('rootdisk')).toBeGreaterThan((PROFILE.readMiB * MIB) / 2);
    expect(recorded.plainLinkBytes).toBeGreaterThan(2 * recorded.linkBytes);
  },
  CASE_TIMEOUT_MS,
);
