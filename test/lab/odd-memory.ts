// QEMU before 9.0 loses writes of a guest that it emulates (not of one under KVM) while it migrates, plainly too: where it clears
// dirty bits 64 pages at a time it does not tell the emulated CPU, whose next writes to those pages go unseen (mended by QEMU's
// commit 03bfc2188f, "physmem: Fix migration dirty bitmap coherency with TCG memory access"). A memory that is not a multiple of
// 64 pages takes the way that does tell it, page by page. The first pass stops such a guest for some seconds.

import type { RootSuite } from './roots.ts';

/** Of the suites whose QEMU loses them. */
const LOSES_WRITES: Readonly<Record<RootSuite, boolean>> = { bookworm: true, trixie: false, sid: false };
/** Two pages; QEMU rounds a machine's memory up to that. */
const ODD_KIB = 8;
const KIB_PER_MIB = 1024;

export function losesWrites(suite: RootSuite): boolean {
  return LOSES_WRITES[suite];
}

/** Memory of an emulated guest, KiB, that is not a multiple of 64 pages. */
export function oddMemoryKib(memoryMib: number): number {
  return memoryMib * KIB_PER_MIB + ODD_KIB;
}
