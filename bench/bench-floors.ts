// The figures that the data plane must reach at least, and what the bench's records say of each. Ratios are of medians. Pure.

import type { Variant } from './bench-plan.ts';
import type { BenchRecord } from './bench-record.ts';

export interface FloorResult {
  readonly on: string;
  readonly figure: string;
  readonly floor: string;
  /** `not measured` when a record it needs is missing. */
  readonly reached: string;
  readonly holds: boolean | null;
}

/** What of the guest's disk a floor needs. */
export interface DiskFacts {
  readonly nonZeroBlocks: number;
}

const BLOCK_BYTES = 4096;
const BYTES_PER_GB = 1e9;
const INDEX_SHARE_PERCENT = 15;
const DOWNTIME_MARGIN_MS = 50;

class Finder {
  readonly #records: readonly BenchRecord[];

  constructor(records: readonly BenchRecord[]) {
    this.#records = records;
  }

  find(
    guest: BenchRecord['guest'],
    linkMbit: number,
    nasMbit: number,
    method: BenchRecord['method'],
    variant?: Variant,
  ): BenchRecord | undefined {
    return this.#records.find(
      (record) =>
        record.guest === guest &&
        record.linkMbit === linkMbit &&
        record.nasMbit === nasMbit &&
        record.method === method &&
        record.variant === variant,
    );
  }
}

type Pick = (record: BenchRecord) => number | null;
const link: Pick = (record) => record.linkBytes;
/** A migration that was cancelled took at least as long as that took; nothing is claimed of it. */
const time: Pick = (record) => record.totalMs;

/** `large` over `small`; null when one of them is not known. */
function quotient(large: BenchRecord | undefined, small: BenchRecord | undefined, pick: Pick): number | null {
  const [over, under] = [large && pick(large), small && pick(small)];
  if (over === null || over === undefined || under === null || under === undefined || under === 0)
    return null;
  return over / under;
}

/** A row that holds when `measured` is not below `floor`; null is not measured. */
export function atLeast(on: string, figure: string, floor: number, measured: number | null): FloorResult {
  return {
    ...{ on, figure, floor: `at least ${floor}` },
    reached: measured === null ? 'not measured' : measured.toFixed(2),
    holds: measured === null ? null : measured >= floor,
  };
}

function atMost(
  on: string,
  figure: string,
  ceiling: number,
  measured: number | null,
  digits = 2,
): FloorResult {
  return {
    ...{ on, figure, floor: `at most ${ceiling}` },
    reached: measured === null ? 'not measured' : measured.toFixed(digits),
    holds: measured === null ? null : measured <= ceiling,
  };
}

/** One row for each floor. */
export function floorResults(records: readonly BenchRecord[], disk: DiskFacts): FloorResult[] {
  const finder = new Finder(records);
  const at200 = (guest: BenchRecord['guest'], method: BenchRecord['method'], variant?: Variant) =>
    finder.find(guest, 200, 2000, method, variant);
  const nas = at200('warm', 'nas');
  const plain = at200('warm', 'plain');
  const zstd = at200('warm', 'zstd');
  const fast = (method: BenchRecord['method']) => finder.find('warm', 1000, 2500, method);
  const withPlain = (
    name: string,
    guest: BenchRecord['guest'],
    linkMbit: number,
    nasMbit: number,
    variant?: Variant,
  ) =>
    atMost(
      name,
      'total time, of plain',
      1.05,
      quotient(
        finder.find(guest, linkMbit, nasMbit, 'nas', variant),
        finder.find(guest, linkMbit, nasMbit, 'plain'),
        time,
      ),
    );
  const hop = at200('warm', 'nas', 'second-hop');
  const indexPercent = nas && (nas.indexNasBytes * 100) / (disk.nonZeroBlocks * BLOCK_BYTES);
  const downtimeCeiling =
    plain?.downtimeMs === null || plain?.downtimeMs === undefined
      ? null
      : Math.max(plain.downtimeMs * 1.1, plain.downtimeMs + DOWNTIME_MARGIN_MS);
  const linkRate =
    plain === undefined || plain.totalMs === null
      ? null
      : (plain.linkBytes * 8) / (plain.totalMs * 1000) / plain.linkMbit;
  return [
    atLeast('the lab', "plain's rate on the link, of what is set", 0.95, linkRate),
    atLeast('warm, 200 Mbit/s', 'link bytes, plain over ours', 13, quotient(plain, nas, link)),
    atLeast('warm, 200 Mbit/s', 'link bytes, zstd over ours', 3.5, quotient(zstd, nas, link)),
    atLeast('warm, 200 Mbit/s', 'total time, plain over ours', 5, quotient(plain, nas, time)),
    atLeast('warm, 200 Mbit/s', 'total time, zstd over ours', 1.6, quotient(zstd, nas, time)),
    downtimeCeiling === null
      ? atMost('warm, 200 Mbit/s', 'downtime in ms', 0, null)
      : atMost('warm, 200 Mbit/s', 'downtime in ms', Math.round(downtimeCeiling), nas?.downtimeMs ?? null, 0),
    atLeast('warm, 1 Gbit/s', 'total time, plain over ours', 1.5, quotient(fast('plain'), fast('nas'), time)),
    atMost('warm, 1 Gbit/s', 'total time, of zstd', 1.1, quotient(fast('nas'), fast('zstd'), time)),
    atMost('aged, 200 Mbit/s', "link bytes, of warm's", 2.5, quotient(at200('aged', 'nas'), nas, link)),
    atMost(
      '0.5 % of blocks rewritten',
      'link bytes, of a fresh index',
      1.3,
      quotient(at200('warm', 'nas', 'rewritten'), nas, link),
    ),
    atLeast(
      'mixed, 200 Mbit/s',
      'link bytes, plain over ours',
      2,
      quotient(at200('mixed', 'plain'), at200('mixed', 'nas'), link),
    ),
    atLeast(
      'mixed, 200 Mbit/s',
      'total time, plain over ours',
      1.5,
      quotient(at200('mixed', 'plain'), at200('mixed', 'nas'), time),
    ),
    withPlain('cold, 200 Mbit/s', 'cold', 200, 2000),
    withPlain('cold, 1 Gbit/s', 'cold', 1000, 2500),
    withPlain('cold, unlimited', 'cold', 0, 0),
    withPlain('warm, NAS at a tenth of the link', 'warm', 200, 20),
    withPlain('warm, unlimited: the first migration of a VM', 'warm', 0, 0),
    withPlain('warm, unlimited: the next one', 'warm', 0, 0, 'next'),
    atMost('index, sampled', 'percent of non-zero blocks read', INDEX_SHARE_PERCENT, indexPercent ?? null, 1),
    atMost('index, second hop', 'MiB read', 0, hop === undefined ? null : hop.indexNasBytes / 2 ** 20, 1),
    atMost(
      'warm, 200 Mbit/s',
      'CPU seconds of both sidecars per GB of stream',
      2.5,
      nas === undefined || nas.streamBytes === 0 ? null : (nas.cpuSeconds * BYTES_PER_GB) / nas.streamBytes,
    ),
  ];
}
