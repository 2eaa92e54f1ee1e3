// A fault after the switch to post-copy has the same outcome with sidecars in the path, which relay raw, as without: the VM's memory
// is on both sides then, and nobody can save it. What can be asked is that we make nothing worse.

import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { QmpClient } from '../lab/qmp.ts';
import type { DomainState } from './launcher-pod.ts';
import { TravellingGuest } from './travelling-guest.ts';

const GUEST = { memoryMiB: 256, readMiB: 0, randomMiB: 48, textMiB: 0, churnMiB: 0 };
/** Slow enough that 48 MiB of random pages are not through when the VM switches. */
const SLOW_MIB = 4;
const SWITCH_TIMEOUT_MS = 30_000;
/** Both QEMUs have noticed by then. */
const SETTLED_MS = 5_000;

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
      client.execute<{ status?: string }>('query-migrate', undefined, SETTLED_MS).then(
        ({ status }) => status ?? 'none',
        // A destination that waits for a page that never comes does not answer: that is how it stands.
        () => 'no answer',
      );
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
    await sleep(SETTLED_MS);
    const ending: Ending = {
      domains: {
        source: await source.pod.domainState('default_vm'),
        target: await target.pod.domainState('default_vm'),
      },
      migration: { source: await statusOf(monitor), target: await statusOf(incoming) },
    };
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
  expect(plain.migration.source).toMatch(/^postcopy-/);
  expect(relayed).toEqual(plain);
}, 600_000);
