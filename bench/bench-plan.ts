// Which migrations `make bench` runs, and how their medians become records and a table. Pure.

import type { GuestProfileName } from '../test/lab/guest-profiles.ts';
import type { Method } from '../test/lab/measured-migration.ts';

export interface BenchCase {
  readonly method: Method;
  readonly guest: GuestProfileName;
  readonly channels: number;
  /** 0: unlimited. */
  readonly linkMbit: number;
  readonly nasMbit: number;
}

/** One record of build/bench.json: medians of the case's runs. */
export interface BenchRecord extends BenchCase {
  readonly runs: number;
  readonly linkBytes: number | null;
  readonly nasBytes: number | null;
  readonly indexNasBytes: number | null;
  readonly totalMs: number | null;
  readonly downtimeMs: number | null;
  readonly guestGapMs: number | null;
  /** Of both sidecars; null where there are none. */
  readonly cpuSeconds: number | null;
  readonly streamBytes: number | null;
  /** False when any run was cancelled after the time limit. */
  readonly converged: boolean;
}

const CHANNELS = 8;
const METHODS: readonly Method[] = ['plain', 'zstd', 'nas'];

function allMethods(guest: GuestProfileName, linkMbit: number, nasMbit: number): BenchCase[] {
  return METHODS.map((method) => ({ method, guest, channels: CHANNELS, linkMbit, nasMbit }));
}

/** Named groups, so that a part of the plan can be run by itself. */
export const BENCH_GROUPS: Readonly<Record<string, readonly BenchCase[]>> = {
  'warm-200': allMethods('warm', 200, 2000),
  'warm-1000': allMethods('warm', 1000, 2500),
  'warm-unlimited': allMethods('warm', 0, 0),
  'warm-slow-nas': allMethods('warm', 200, 20),
  'full-200': allMethods('full', 200, 2000),
  'mixed-200': allMethods('mixed', 200, 2000),
  'aged-200': allMethods('aged', 200, 2000),
  'busy-200': allMethods('busy', 200, 2000),
  'cold-200': allMethods('cold', 200, 2000),
};

/** The middle value, the lower of two; null of none. */
export function median(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null).sort((left, right) => left - right);
  return known[Math.floor((known.length - 1) / 2)] ?? null;
}

const mebibytes = (bytes: number | null): string => (bytes === null ? '' : (bytes / 1024 / 1024).toFixed(1));
const seconds = (ms: number | null): string => (ms === null ? '' : (ms / 1000).toFixed(2));

/** A Markdown table of the records, each with its ratios to plain in the same run. */
export function benchTable(records: readonly BenchRecord[]): string {
  const head = [
    'guest',
    'link, NAS (Mbit/s)',
    'method',
    'link MiB',
    'fewer than plain',
    'total s',
    'shorter than plain',
    'downtime ms',
    'guest gap ms',
    'NAS MiB',
    'sidecar CPU s',
  ];
  const rows = records.map((record) => {
    const plain = records.find(
      (other) =>
        other.method === 'plain' &&
        other.guest === record.guest &&
        other.linkMbit === record.linkMbit &&
        other.nasMbit === record.nasMbit,
    );
    const times = (key: 'linkBytes' | 'totalMs'): string => {
      const own = record[key];
      const reference = plain?.[key] ?? null;
      return own === null || reference === null || own === 0 ? '' : `${(reference / own).toFixed(1)} x`;
    };
    const rate = (mbit: number): string => (mbit === 0 ? 'unlimited' : String(mbit));
    return [
      record.guest,
      `${rate(record.linkMbit)}, ${rate(record.nasMbit)}`,
      record.converged ? record.method : `${record.method} (did not converge)`,
      mebibytes(record.linkBytes),
      times('linkBytes'),
      seconds(record.totalMs),
      times('totalMs'),
      record.downtimeMs === null ? '' : String(Math.round(record.downtimeMs)),
      record.guestGapMs === null ? '' : String(Math.round(record.guestGapMs)),
      mebibytes(record.nasBytes),
      record.cpuSeconds === null ? '' : record.cpuSeconds.toFixed(2),
    ];
  });
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
}
