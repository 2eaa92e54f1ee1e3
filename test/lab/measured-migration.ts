// Migrations in a lab of their own, measured from outside: bytes at the interfaces, time by the wall clock, the guest's
// gap by its beacons, equality of the streams by the recorders. The programs under test only add how they got there.

import type { GuestCommand } from './guest-beacon.ts';
import type { GuestProfileName } from './guest-profiles.ts';
import type { MemoryDifference } from './memory-statistics.ts';
import { MovingGuest } from './moving-guest.ts';
import type { MigrationOutcome } from './qemu.ts';
import type { RootSuite } from './roots.ts';
import type { SidecarResult, SidecarState } from './sidecar-process.ts';
import { ensureWarmState, type WarmState } from './warm-state.ts';

export type Method = 'plain' | 'zstd' | 'nas';

export interface Scenario {
  readonly method: Method;
  readonly profile: GuestProfileName;
  readonly suite: RootSuite;
  /** Multifd channels; 0 or 1: pages on the main channel. */
  readonly channels: number;
  /** Rates in both directions; 0: unlimited. */
  readonly linkMbit: number;
  readonly nasMbit: number;
  readonly downtimeLimitMs: number;
  /** After this long without convergence it is cancelled. */
  readonly timeoutMs: number;
  /** How the first source makes its index; later ones inherit theirs. */
  readonly index: 'full' | 'sampled';
  /** The first source's index: read from this file when it is there, else made and written to it. */
  readonly indexFile?: string;
  readonly pace?: boolean;
  readonly zstd?: boolean;
  /** QEMU's `avail-switchover-bandwidth`, bytes/s; not set without it. */
  readonly availSwitchoverBytesPerSecond?: number;
  /** What the guest does between the making of the index and the first migration. Default: what its profile says. */
  readonly beforeMigration?: readonly GuestCommand[];
  /** Default: the guest checks all it has after each migration. Without it only what its check came by meanwhile counts. */
  readonly verifyAll?: boolean;
  /**
   * The destination stays paused until its memory has been compared with the source's, which QEMU leaves as it was when the guest
   * stopped; the guest's gap then says nothing. For the first hop. Default: not compared.
   */
  readonly compareMemory?: boolean;
}

export interface Progress {
  readonly elapsedMs: number;
  readonly ram: MigrationOutcome['ram'];
  readonly source: SidecarState | null;
  readonly target: SidecarState | null;
}

export interface Measurement {
  readonly scenario: Scenario;
  readonly qemuVersion: string;
  readonly memory: WarmState['memory'];
  /** `cancelled` after the scenario's time limit: then `converged` is false, and what follows is what was seen until then. */
  readonly outcome: MigrationOutcome;
  readonly converged: boolean;
  readonly linkBytes: number;
  /** Reads are bytes at the interface, headers included; `written` is the file data in the nodes' NFS writes. */
  readonly storage: { readonly sourceRead: number; readonly targetRead: number; readonly written: number };
  /** Bytes that both nodes read over the storage network while the index was made, less what opening the volumes reads. */
  readonly indexNasBytes: number;
  /** From the making of the index to the migrate command. */
  readonly indexAgeSeconds: number;
  /** File data that the guest wrote to its disk in that time. */
  readonly writtenSinceIndex: number;
  readonly streamBytes: number;
  /** The most that the source QEMU got rid of within one second. */
  readonly fastestSecondBytes: number;
  /** Bytes the destination QEMU received after the guest stopped. */
  readonly bytesAfterStop: number | null;
  /** Bytes on the link, in the guest's direction, after the guest stopped. */
  readonly linkBytesAfterStop: number | null;
  readonly guestGapMs: number | null;
  readonly guestSelfCheck: 'ok' | 'failed' | 'none';
  /** Source's to destination's after the migration; null unless the scenario asked for it and it completed. */
  readonly memoryDifference: MemoryDifference | null;
  readonly identicalStreams: boolean | null;
  readonly differences: readonly string[];
  readonly sidecars: { readonly source: SidecarResult; readonly target: SidecarResult } | null;
  /** Why the source sent no more references from some moment on; null when it did to the end. */
  readonly referencesOff: string | null;
  readonly sidecarCpuSeconds: { readonly source: number; readonly target: number } | null;
  /** Of all processes of the lab during the migration. */
  readonly labCpuSeconds: number;
  /** Share of the machine's CPU time that was not idle during the migration, whoever used it. */
  readonly busyShare: number;
}

/** Runs the scenario from the saved warm state to the guest's self-check on the other side. */
export async function measureMigration(
  scenario: Scenario,
  say: (message: string) => void = () => undefined,
  onProgress: (progress: Progress) => void = () => undefined,
  keepLogsIn?: string,
): Promise<Measurement> {
  const [measured] = await measureHops(scenario, 1, say, onProgress, keepLogsIn);
  if (measured === undefined) throw new Error('unreachable: one hop was asked for');
  return measured;
}

/** The same guest moved `hops` times, to and fro; each later source has the index that it inherited as the target before. */
export async function measureHops(
  scenario: Scenario,
  hops: number,
  say: (message: string) => void = () => undefined,
  onProgress: (progress: Progress) => void = () => undefined,
  keepLogsIn?: string,
): Promise<Measurement[]> {
  const state = await ensureWarmState(scenario.profile, scenario.suite, say);
  const guest = await MovingGuest.start(state, scenario, say);
  try {
    const measured: Measurement[] = [];
    for (let hop = 0; hop < hops; hop++) {
      const one = await guest.move(onProgress, hop < hops - 1);
      measured.push(one);
      if (!one.converged) break;
    }
    return measured;
  } finally {
    await guest.close(keepLogsIn);
  }
}
