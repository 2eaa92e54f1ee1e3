// Judges a fault run by what was seen from outside: both QEMUs' states and the guest's own words. Pure.

import type { Outcome } from './expected-outcomes.ts';

/** `incoming` has not run and cannot: it waits for a stream. */
export type QemuState = 'absent' | 'incoming' | 'stopped' | 'running';

export interface Sighting {
  /** Wall clock, ms, before both were asked. */
  readonly atMs: number;
  readonly source: QemuState;
  readonly target: QemuState;
}

export interface RunFacts {
  readonly injectedAtMs: number;
  readonly sightings: readonly Sighting[];
  /** Beacons whose counter was not higher than one before. */
  readonly repeatedCounters: number;
  /** The guest went on with its counter and verified every page. */
  readonly selfCheck: 'ok' | 'failed' | 'none';
  /** libvirt's call came back. */
  readonly migrationEnded: boolean;
}

export interface Verdict {
  /** Where the VM runs at the end; undefined when it is lost or runs twice. */
  readonly runsOn: 'source' | 'target' | undefined;
  /** The target has a QEMU at the end, whatever it does. */
  readonly targetRemains: boolean;
  /** It ran nowhere when the time was up. */
  readonly lost: boolean;
  /** It was seen running on both sides, or its counter came twice. */
  readonly twice: boolean;
  readonly wrongMemory: boolean;
  /** The migration did not end, or the VM ran nowhere for too long. */
  readonly stuck: boolean;
  /** The longest time after the fault in which the VM was not seen running on exactly one side, to one look. */
  readonly outageMs: number;
}

/** The bound: the VM runs on exactly one side again. */
export const RUNS_AGAIN_WITHIN_MS = 30_000;

export function judge(facts: RunFacts): Verdict {
  const both = facts.sightings.some(({ source, target }) => source === 'running' && target === 'running');
  const twice = both || facts.repeatedCounters > 0;
  const last = facts.sightings.at(-1);
  const runsOn = last === undefined ? undefined : sideOf(last);
  const outageMs = longestOutage(facts);
  return {
    runsOn: twice ? undefined : runsOn,
    targetRemains: last !== undefined && last.target !== 'absent',
    lost: runsOn === undefined && !both,
    twice,
    wrongMemory: facts.selfCheck === 'failed',
    stuck: !facts.migrationEnded || outageMs > RUNS_AGAIN_WITHIN_MS,
    outageMs,
  };
}

/**
 * `unsafe`, which is right nowhere: the migration failed, and the VM does not run on its source alone, or the target still has a
 * QEMU; or it succeeded, and the VM runs on its source.
 */
export type Ending = Outcome | 'unsafe';

/**
 * What became of a migration.
 * @param told the outcome in the source sidecar's result.
 */
export function outcomeOf(
  succeeded: boolean,
  told: string | undefined,
  { runsOn, targetRemains }: Pick<Verdict, 'runsOn' | 'targetRemains'>,
): Ending {
  if (!succeeded) return runsOn === 'source' && !targetRemains ? 'failed-safe' : 'unsafe';
  if (runsOn === 'source') return 'unsafe';
  if (told === 'accelerated') return 'accelerated';
  return told === 'raw' || told === 'unused' ? 'plain' : 'completed';
}

function sideOf({ source, target }: Sighting): 'source' | 'target' | undefined {
  if (source === 'running' && target !== 'running') return 'source';
  return target === 'running' && source !== 'running' ? 'target' : undefined;
}

/** From the first look that found it nowhere to the first that found it again; one that goes on counts to the last look. */
function longestOutage({ sightings, injectedAtMs }: RunFacts): number {
  let beganAtMs: number | undefined;
  let longestMs = 0;
  for (const sighting of sightings) {
    if (sighting.atMs < injectedAtMs) continue;
    if (sideOf(sighting) === undefined) beganAtMs ??= sighting.atMs;
    if (beganAtMs !== undefined) longestMs = Math.max(longestMs, sighting.atMs - beganAtMs);
    if (sideOf(sighting) !== undefined) beganAtMs = undefined;
  }
  return longestMs;
}
