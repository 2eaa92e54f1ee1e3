// The guests of the lab: how much memory each has, what is in it, and what it does during a migration.
// The numbers become `nasmig.*` words on the kernel's command line (go/cmd/guest-init/main.go) and commands.

import type { GuestCommand } from './guest-beacon.ts';

export type GuestProfileName = 'warm' | 'full' | 'mixed' | 'aged' | 'busy' | 'cold' | 'small';

export interface GuestProfile {
  name: GuestProfileName;
  memoryMiB: number;
  /** Files read into the page cache; 0: the guest has no disk mounted. */
  readMiB: number;
  /** Anonymous memory with incompressible content. */
  randomMiB: number;
  /** Anonymous memory that zstd makes about four times smaller, and that no file has. */
  textMiB: number;
  /** Written, deleted and rewritten on the disk before it is read. */
  churnMiB: number;
  /** To be sent after the index was made and before the migration; the lab waits until each is done. */
  beforeMigration: readonly GuestCommand[];
}

const MIB = 1024 * 1024;

const WARM = {
  memoryMiB: 1024,
  readMiB: 780,
  randomMiB: 39,
  textMiB: 0,
  churnMiB: 0,
  beforeMigration: [],
} as const satisfies Omit<GuestProfile, 'name'>;

export const GUEST_PROFILES: Readonly<Record<GuestProfileName, GuestProfile>> = {
  /** Page cache dominates, and the disk is as it was installed: the upper case. */
  warm: { name: 'warm', ...WARM },
  /** Memory is 0.6 times the files that it reads, so that no page is free. */
  full: { name: 'full', ...WARM, memoryMiB: 600, readMiB: 1000 },
  /**
   * Half its used memory is anonymous and incompressible: of the 891 MiB that the guest counts as not free (MemTotal - MemFree). The
   * kernel's image and its array of pages are 56 MiB more, which it does not count.
   */
  mixed: { name: 'mixed', ...WARM, readMiB: 404, randomMiB: 446 },
  /** As warm on a disk with a past, and 100 MB of its cached files rewritten after the index was made. */
  aged: {
    name: 'aged',
    ...WARM,
    churnMiB: 900,
    beforeMigration: [{ kind: 'rewriteFiles', bytes: 100e6, seed: 1 }],
  },
  /** As warm, and rewriting memory and files at rates that a 200 Mbit/s link just keeps up with. */
  busy: {
    name: 'busy',
    ...WARM,
    beforeMigration: [{ kind: 'load', anonymousBytesPerSecond: 6 * MIB, fileBytesPerSecond: 1 * MIB }],
  },
  /** Has nothing in common with the disk. */
  cold: { name: 'cold', ...WARM, readMiB: 0, randomMiB: 300, textMiB: 300 },
  /** As warm in a quarter of its memory: for suites that need many VMs and few bytes. */
  small: { name: 'small', ...WARM, memoryMiB: 256, readMiB: 120, randomMiB: 12 },
};

/** What the profile puts on the kernel's command line. Profiles with the same words and memory share a warm state. */
export function profileKernelArguments(profile: GuestProfile): string[] {
  return [
    `nasmig.read=${profile.readMiB}`,
    `nasmig.random=${profile.randomMiB}`,
    `nasmig.text=${profile.textMiB}`,
    `nasmig.churn=${profile.churnMiB}`,
  ];
}
