// Builds everything the lab takes from its cache, so that `make setup` on a new machine says what takes its time:
// the Debian root, the guest's kernel and disk, its saved warm state, and the Go programs. Quick when all is there.

import { buildGoProgram } from './go-programs.ts';
import { ensureGuestDisk, ensureGuestKernel } from './guest-image.ts';
import { ensureHostTools } from './host-tools.ts';
import { ensureRoot } from './roots.ts';
import { ensureWarmState } from './warm-state.ts';

/** A step that takes longer than this was not in the cache, and its time is told. */
const WORTH_TELLING_MS = 2000;

const STEPS: readonly { readonly what: string; readonly run: () => Promise<unknown> }[] = [
  { what: 'programs of the host', run: ensureHostTools },
  {
    what: 'Debian root with QEMU, libvirt and the NFS server (about a minute)',
    run: () => ensureRoot('trixie'),
  },
  { what: "guest's kernel", run: () => ensureGuestKernel() },
  { what: "guest's disk (about two minutes)", run: () => ensureGuestDisk() },
  {
    what: 'recorder and migration proxy',
    run: () => Promise.all([buildGoProgram('recorder'), buildGoProgram('migration-proxy')]),
  },
  { what: 'saved state of the warm guest (about a minute)', run: () => ensureWarmState('warm') },
];

for (const { what, run } of STEPS) {
  const announce = setTimeout(() => console.log(`lab: making ${what}`), WORTH_TELLING_MS);
  const startedAt = performance.now();
  try {
    await run();
  } catch (error) {
    console.error(`lab: could not make ${what}: ${(error as Error).message}`);
    process.exit(1);
  } finally {
    clearTimeout(announce);
  }
  const elapsedMs = performance.now() - startedAt;
  if (elapsedMs > WORTH_TELLING_MS) console.log(`lab: made ${what} in ${(elapsedMs / 1000).toFixed(1)} s`);
}
