// Which migrations `make bench` runs: named groups of cases, so that a part of the plan can be run by itself, and what each case
// means for the lab. Pure.

import type { GuestProfileName } from '../test/lab/guest-profiles.ts';
import type { Method, Scenario } from '../test/lab/measured-migration.ts';

/** What is unlike the plain way of running a method. */
export type Variant = 'avail-switchover-bandwidth' | 'rewritten' | 'second-hop' | 'next';

export interface BenchCase {
  /** `<group>/<method>` or `<group>/<method>+<variant>`; unique in the plan. */
  readonly id: string;
  readonly method: Method;
  readonly guest: GuestProfileName;
  readonly channels: number;
  /** 0: unlimited. */
  readonly linkMbit: number;
  readonly nasMbit: number;
  readonly variant?: Variant;
}

/** A run that has not converged by then is cancelled, and recorded as that. */
const TIMEOUT_MS = 120_000;
const DOWNTIME_LIMIT_MS = 300;
const CHANNELS = 8;
/** 0.5 % of the guest's disk of 2 GiB. */
const REWRITTEN_BYTES = Math.round((2 * 1024 ** 3) / 200);
/** Of the bytes on a link, what is QEMU's: the rest are headers. */
const PAYLOAD_SHARE = 0.95;

function group(
  name: string,
  guest: GuestProfileName,
  linkMbit: number,
  nasMbit: number,
  ways: readonly { method: Method; variant?: Variant }[],
): BenchCase[] {
  return ways.map((way) => ({
    id: `${name}/${way.method}${way.variant === undefined ? '' : `+${way.variant}`}`,
    ...{ guest, channels: CHANNELS, linkMbit, nasMbit },
    ...way,
  }));
}

const METHODS = [{ method: 'plain' }, { method: 'zstd' }, { method: 'nas' }] as const;
const ALL = [...METHODS, { method: 'nas', variant: 'avail-switchover-bandwidth' }] as const;

/** In the order in which they are run. */
export const BENCH_GROUPS: Readonly<Record<string, readonly BenchCase[]>> = Object.fromEntries(
  (
    [
      ['warm-200', 'warm', 200, 2000, ALL],
      ['warm-1000', 'warm', 1000, 2500, ALL],
      ['warm-unlimited', 'warm', 0, 0, [...METHODS, { method: 'nas', variant: 'next' }]],
      ['warm-slow-nas', 'warm', 200, 20, METHODS],
      ['rewritten-200', 'warm', 200, 2000, [{ method: 'nas', variant: 'rewritten' }]],
      ['second-hop-200', 'warm', 200, 2000, [{ method: 'nas', variant: 'second-hop' }]],
      ['full-200', 'full', 200, 2000, ALL],
      ['mixed-200', 'mixed', 200, 2000, ALL],
      ['aged-200', 'aged', 200, 2000, ALL],
      ['busy-200', 'busy', 200, 2000, ALL],
      ['cold-200', 'cold', 200, 2000, ALL],
      ['cold-1000', 'cold', 1000, 2500, METHODS],
      ['cold-unlimited', 'cold', 0, 0, [{ method: 'plain' }, { method: 'nas' }]],
    ] as const
  ).map(([name, guest, linkMbit, nasMbit, ways]) => [name, group(name, guest, linkMbit, nasMbit, ways)]),
);

/** A group or case that is not in the plan. */
export class UnknownCaseError extends Error {
  readonly code = 'NASMIG_BENCH_UNKNOWN_CASE';
  constructor(name: string) {
    super(
      `unknown case ${name}; give groups (${Object.keys(BENCH_GROUPS).join(', ')}) or single cases, e.g. warm-200/nas`,
    );
    this.name = 'UnknownCaseError';
  }
}

/** The cases of the named groups and cases, in the plan's order; all of them when none is named. */
export function selectCases(names: readonly string[]): BenchCase[] {
  const all = Object.values(BENCH_GROUPS).flat();
  if (names.length === 0) return all;
  const chosen = new Set<BenchCase>();
  for (const name of names) {
    const found = BENCH_GROUPS[name] ?? all.filter(({ id }) => id === name);
    if (found.length === 0) throw new UnknownCaseError(name);
    for (const one of found) chosen.add(one);
  }
  return all.filter((one) => chosen.has(one));
}

/** The case whose result decides what `one` is: what the operator does with the same VM after it. */
export function caseBefore(one: BenchCase): string | undefined {
  return one.variant === 'next' ? one.id.slice(0, one.id.indexOf('+')) : undefined;
}

/** What the lab is to do for a case; the last of its hops counts. */
export function scenarioOf(one: BenchCase): { scenario: Scenario; hops: number } {
  const { method, guest: profile, channels, linkMbit, nasMbit, variant } = one;
  const scenario: Scenario = {
    ...{ method, profile, channels, linkMbit, nasMbit },
    ...{ suite: 'trixie', downtimeLimitMs: DOWNTIME_LIMIT_MS, timeoutMs: TIMEOUT_MS, index: 'sampled' },
  };
  if (variant === undefined) return { scenario, hops: 1 };
  switch (variant) {
    case 'next':
      return { scenario, hops: 1 };
    case 'second-hop':
      return { scenario, hops: 2 };
    case 'rewritten':
      return {
        scenario: {
          ...scenario,
          beforeMigration: [{ kind: 'rewriteFiles', bytes: REWRITTEN_BYTES, seed: 1 }],
        },
        hops: 1,
      };
    case 'avail-switchover-bandwidth': {
      const availSwitchoverBytesPerSecond = Math.round((linkMbit * 1e6 * PAYLOAD_SHARE) / 8);
      return { scenario: { ...scenario, pace: false, availSwitchoverBytesPerSecond }, hops: 1 };
    }
  }
}
