// QEMU before 9.0 loses writes of a guest that it emulates (not of one under KVM) while it migrates, plainly too: where it clears
// dirty bits 64 pages at a time it does not tell the emulated CPU, whose next writes to those pages go unseen (mended by QEMU's
// commit 03bfc2188f, "physmem: Fix migration dirty bitmap coherency with TCG memory access"). A memory that is not a multiple of
// 64 pages takes the way that does tell it, page by page; the first pass stops a guest of a GiB for 8 to 10 s then (docs/adr/0020).

import type { RootSuite } from './roots.ts';

/** Of the suites whose QEMU loses them. */
const LOSES_WRITES: Readonly<Record<RootSuite, boolean>> = { bookworm: true, trixie: false, sid: false };
/** Two pages; QEMU rounds a machine's memory up to that. */
const ODD_KIB = 8;
const KIB_PER_MIB = 1024;

/** Memory of an emulated guest of so many MiB, in KiB: a little more where its QEMU needs that. */
export function guestMemoryKib(suite: RootSuite, memoryMib: number): number {
  return memoryMib * KIB_PER_MIB + (LOSES_WRITES[suite] ? ODD_KIB : 0);
}

/** What the recipe of a saved guest has more where its memory is not its profile's: nothing elsewhere, so that those stay valid. */
export function oddMemoryRecipe(suite: RootSuite): readonly string[] {
  return LOSES_WRITES[suite] ? ['odd memory'] : [];
}
