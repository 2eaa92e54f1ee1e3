// A fault after the switch to post-copy has the same outcome with sidecars in the path, which relay raw, as without: the VM's memory
// is on both sides then, and nobody can save it. What can be asked is that we make nothing worse.

import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { expect, it } from 'vitest';
import { QmpClient } from '../lab/qmp.ts';
import type { DomainState } from './launcher-pod.ts';
import { TravellingGuest } from './travelling-guest.ts';

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

/** Switches to post-copy, kills the source's proxy, and tells how both sides stand. */
async function killProxyAfterSwitch(armed: boolean): Promise<Ending> {
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
    migration.migration.proxies.source.process('stream').signal('SIGKILL');
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
    for (const pod of [source.pod, target.pod]) await pod.virsh(['destroy', 'default_vm']).catch(() => '');
    await performing;
    await migration.finish();
    return ending;
  } finally {
    for (const monitor of monitors) monitor.close();
    await guest.close(process.env['NASMIG_LAB_LOGS']);
  }
}

it('a proxy killed after the switch to post-copy ends as without sidecars in the path', async () => {
  const plain = await killProxyAfterSwitch(false);
  const relayed = await killProxyAfterSwitch(true);
  expect(plain.migration.source).toBe('waits in post-copy');
  expect(relayed).toEqual(plain);
}, 600_000);
