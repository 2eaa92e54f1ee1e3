// A fault after the switch to post-copy has the same outcome with sidecars in the path, which relay raw, as without: the VM's memory
// is on both sides then, and nobody can save it. What can be asked is that we make nothing worse. A killed sidecar is compared with a
// killed proxy, which is what breaks the same way without us.

import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { expect, it } from 'vitest';
import { QmpClient } from '../lab/qmp.ts';
import type { DomainState } from './launcher-pod.ts';
import type { RecordedMigration } from './recorded-migration.ts';
import { type Home, TravellingGuest } from './travelling-guest.ts';

const GUEST = { memoryMiB: 256, readMiB: 0, randomMiB: 48, textMiB: 0, churnMiB: 0 };
/** Slow enough that 48 MiB of random pages are not through when the VM switches. */
const SLOW_MIB = 4;
const SWITCH_TIMEOUT_MS = 30_000;
/** A QEMU that has not answered by then waits for a page that never comes. */
const ANSWER_MS = 5_000;
/** Both QEMUs and both libvirts have noticed when nothing has changed for so many looks. */
const SAME_LOOKS = 4;
const LOOK_MS = 2_000;
const MAX_LOOKS = 30;

interface Ending {
  readonly domains: { readonly source: DomainState; readonly target: DomainState };
  readonly migration: { readonly source: string; readonly target: string };
}

interface Scene {
  readonly guest: TravellingGuest;
  readonly migration: RecordedMigration;
  readonly source: Home;
  readonly target: Home;
}

type Break = (scene: Scene) => void | Promise<void>;

const killSourceProxy: Break = ({ migration }) =>
  migration.migration.proxies.source.process('stream').signal('SIGKILL');
const killTargetProxy: Break = ({ migration }) =>
  migration.migration.proxies.target.process('stream').signal('SIGKILL');
const cutLink: Break = ({ guest }) => guest.lab.lab.network.setMigrationLinkUp(false);
const freezeNas: Break = ({ guest }) => guest.lab.lab.nas.pause();

const FAULTS: readonly { readonly what: string; readonly plain: Break; readonly relayed: Break }[] = [
  { what: "the source's proxy killed", plain: killSourceProxy, relayed: killSourceProxy },
  { what: "the target's proxy killed", plain: killTargetProxy, relayed: killTargetProxy },
  {
    what: 'the source sidecar killed',
    plain: killSourceProxy,
    relayed: ({ source }) => source.sidecar?.signal('SIGKILL'),
  },
  {
    what: 'the target sidecar killed',
    plain: killTargetProxy,
    relayed: ({ target }) => target.sidecar?.signal('SIGKILL'),
  },
  { what: 'the migration link cut', plain: cutLink, relayed: cutLink },
  { what: 'the NAS hanging', plain: freezeNas, relayed: freezeNas },
];

/** Switches to post-copy, breaks something, and tells how both sides stand. */
async function breakAfterSwitch(armed: boolean, breakIt: Break): Promise<Ending> {
  const guest = await TravellingGuest.start({ guest: { profile: GUEST }, linkMbit: 0 });
  const monitors: QmpClient[] = [];
  try {
    const source = guest.home;
    const target = await guest.newHome();
    const migration = await guest.prepare(target, {
      armed,
      flags: { channels: 0, postCopy: true, bandwidthMib: SLOW_MIB },
    });
    const performing = migration.perform({ timeoutMs: 60_000 }).catch(() => undefined);
    const monitor = await QmpClient.connect(`${source.pod.observerDirectory}/qmp.sock`);
    monitors.push(monitor);
    const statusOf = (client: QmpClient): Promise<string> =>
      client.execute<{ status?: string }>('query-migrate', undefined, ANSWER_MS).then(
        ({ status }) => status ?? 'none',
        () => 'no answer',
      );
    /** Active, paused, or without an answer because its main loop is what waits for a page: which of them is a matter of luck. */
    const standing = async (client: QmpClient): Promise<string> => {
      const status = await statusOf(client);
      return /^(postcopy-(active|paused)|no answer)$/.test(status) ? 'waits in post-copy' : status;
    };
    await expect.poll(() => statusOf(monitor), { timeout: SWITCH_TIMEOUT_MS }).toBe('active');
    await sleep(1000);
    await migration.switchToPostCopy();
    await expect.poll(() => statusOf(monitor), { timeout: SWITCH_TIMEOUT_MS }).toBe('postcopy-active');
    if (armed) {
      expect(await guest.logOf(source)).toMatch(/"reason":"PostCopyAnnounced".*"connection relayed raw"/);
    }
    // The source is in post-copy as soon as it has sent the guest's state; what is to be broken is a guest that runs without all of its memory.
    await expect
      .poll(() => target.pod.domainState('default_vm'), { timeout: SWITCH_TIMEOUT_MS })
      .toBe('running');
    const incoming = await QmpClient.connect(`${target.pod.observerDirectory}/qmp.sock`);
    monitors.push(incoming);
    await breakIt({ guest, migration, source, target });
    const look = async (): Promise<Ending> => ({
      domains: {
        source: await source.pod.domainState('default_vm'),
        target: await target.pod.domainState('default_vm'),
      },
      migration: { source: await standing(monitor), target: await standing(incoming) },
    });
    let ending = await look();
    for (let looks = 0, same = 0; looks < MAX_LOOKS && same < SAME_LOOKS; looks++) {
      await sleep(LOOK_MS);
      const next = await look();
      same = isDeepStrictEqual(next, ending) ? same + 1 : 0;
      ending = next;
    }
    guest.lab.lab.nas.resume();
    await guest.lab.lab.network.setMigrationLinkUp(true);
    for (const pod of [source.pod, target.pod]) await pod.virsh(['destroy', 'default_vm']).catch(() => '');
    await performing;
    await migration.finish();
    return ending;
  } finally {
    for (const monitor of monitors) monitor.close();
    await guest.close(process.env['NASMIG_LAB_LOGS']);
  }
}

it.each(FAULTS)(
  '$what after the switch to post-copy ends as without sidecars in the path',
  async ({ what, plain, relayed }) => {
    const without = await breakAfterSwitch(false, plain);
    if (what.endsWith('killed')) expect(without.migration.source).toBe('waits in post-copy');
    expect(await breakAfterSwitch(true, relayed)).toEqual(without);
  },
  600_000,
);
