// The bench's records and floors as Markdown. Pure.

import type { FloorResult } from './bench-floors.ts';
import type { BenchRecord } from './bench-record.ts';

const mebibytes = (bytes: number): string => (bytes / 1024 / 1024).toFixed(1);
const whole = (value: number | null): string => (value === null ? '' : String(Math.round(value)));

/** How people call the way of a record. */
export function wayOf({ method, variant }: BenchRecord): string {
  if (variant === undefined) return method;
  switch (variant) {
    case 'avail-switchover-bandwidth':
      return `${method}, avail-switchover-bandwidth`;
    case 'rewritten':
      return `${method}, 0.5 % of blocks rewritten`;
    case 'second-hop':
      return `${method}, second hop`;
    case 'next':
      return `${method}, the next one of the VM`;
  }
}

/** Rates as people write them: `200, 2000 Mbit/s`, 0 is unlimited. */
export function ratesOf({ linkMbit, nasMbit }: BenchRecord): string {
  const rate = (mbit: number): string => (mbit === 0 ? 'unlimited' : String(mbit));
  return `${rate(linkMbit)}, ${rate(nasMbit)}`;
}

/** The plain migration of the same guest at the same rates. */
export function plainOf(record: BenchRecord, records: readonly BenchRecord[]): BenchRecord | undefined {
  return records.find(
    (other) =>
      other.method === 'plain' &&
      other.guest === record.guest &&
      other.linkMbit === record.linkMbit &&
      other.nasMbit === record.nasMbit,
  );
}

function markdown(rows: readonly (readonly string[])[]): string {
  return rows.map((row) => `| ${row.join(' | ')} |`).join('\n');
}

/** A table of the records, each with its ratios to plain in the same bench. */
export function benchTable(records: readonly BenchRecord[]): string {
  const head = [
    ...[
      'guest',
      'link, NAS (Mbit/s)',
      'method',
      'link MiB',
      'fewer than plain',
      'total s',
      'shorter than plain',
    ],
    ...[
      'downtime ms',
      'guest gap ms',
      'NAS MiB',
      'of it and before for the index',
      'sidecar CPU s',
      'all CPU s',
      'busy',
    ],
  ];
  const rows = records.map((record) => {
    const plain = plainOf(record, records);
    const times = (key: 'linkBytes' | 'totalMs'): string => {
      const [own, reference] = [record[key], plain?.[key] ?? null];
      return own === null || reference === null || own === 0 ? '' : `${(reference / own).toFixed(1)} x`;
    };
    const isOurs = record.method === 'nas';
    return [
      record.guest,
      ratesOf(record),
      record.converged ? wayOf(record) : `${wayOf(record)}: did not converge`,
      mebibytes(record.linkBytes),
      times('linkBytes'),
      record.totalMs === null ? '' : (record.totalMs / 1000).toFixed(2),
      times('totalMs'),
      whole(record.downtimeMs),
      whole(record.guestGapMs),
      isOurs ? mebibytes(record.nasBytes) : '',
      isOurs ? mebibytes(record.indexNasBytes) : '',
      isOurs ? record.cpuSeconds.toFixed(2) : '',
      record.labCpuSeconds.toFixed(1),
      `${Math.round(100 * record.busyShare)} %`,
    ];
  });
  return markdown([head, head.map(() => '---'), ...rows]);
}

/** A table of the floors and what was reached. */
export function floorTable(results: readonly FloorResult[]): string {
  const rows = results.map(({ on, figure, floor, reached, holds }) => [
    ...[on, figure, floor, reached],
    holds === null ? '' : holds ? 'yes' : '**no**',
  ]);
  const head = ['on', 'figure', 'floor', 'measured', 'holds'];
  return markdown([head, head.map(() => '---'), ...rows]);
}
