// What `make demo` says of its two migrations: the record written to build/demo.json and the table for people. Pure.

import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import type { DemoOptions } from './demo-options.ts';
import { GUEST_PROFILES } from './guest-profiles.ts';
import type { Measurement } from './measured-migration.ts';

export interface DemoRecord {
  readonly guest: {
    readonly profile: string;
    readonly memoryMiB: number;
    readonly nonZeroPages: number;
    readonly pagesOnDisk: number;
  };
  readonly qemu: string;
  readonly channels: number;
  readonly linkMbit: number;
  readonly nasMbit: number;
  readonly index: {
    readonly kind: string;
    readonly nasBytes: number;
    readonly seconds: number;
    /** From its making to the migrate command. */
    readonly ageSeconds: number;
    /** File data that the guest wrote to its disk in that time. */
    readonly guestBytesWrittenSince: number;
  };
  readonly plain: {
    readonly linkBytes: number;
    readonly totalMs: number;
    readonly downtimeMs: number | null;
    readonly guestGapMs: number | null;
  };
  readonly nasAware: {
    readonly linkBytes: number;
    /** Reads with headers, as the interfaces counted them; `written` is the file data in NFS writes: reading sends calls too. */
    readonly nasBytes: { readonly sourceRead: number; readonly targetRead: number; readonly written: number };
    readonly totalMs: number;
    readonly downtimeMs: number | null;
    readonly guestGapMs: number | null;
    readonly pages: { readonly zero: number; readonly reference: number; readonly literal: number };
    readonly resentPages: number;
    readonly uncachedReads: boolean;
    readonly sourceCpuSeconds: number;
    readonly targetCpuSeconds: number;
  };
  readonly identicalStreams: boolean | null;
  readonly guestSelfCheck: string;
}

/** What a demo that fails may know by then. */
export type KnownOfDemo = Partial<Pick<DemoRecord, 'qemu' | 'plain' | 'guestSelfCheck'>> & {
  readonly nasAwareMigration?: Pick<NasAwareMigrationStatus, 'phase' | 'result'>;
};

/** In the place of a {@link DemoRecord} when a migration failed. */
export interface FailedDemoRecord extends KnownOfDemo {
  readonly guest: Pick<DemoRecord['guest'], 'profile' | 'memoryMiB'>;
  readonly channels: number;
  readonly linkMbit: number;
  readonly nasMbit: number;
  readonly identicalStreams: null;
  readonly failure: string;
}

export function failedDemoRecord(
  options: Pick<DemoOptions, 'guest' | 'channels' | 'link' | 'nas'>,
  known: KnownOfDemo,
  failure: string,
): FailedDemoRecord {
  return {
    guest: { profile: options.guest, memoryMiB: GUEST_PROFILES[options.guest].memoryMiB },
    ...{ channels: options.channels, linkMbit: options.link, nasMbit: options.nas },
    ...known,
    ...{ identicalStreams: null, failure },
  };
}

export function plainFigures({ linkBytes, outcome, guestGapMs }: Measurement): DemoRecord['plain'] {
  return {
    ...{ linkBytes, totalMs: Math.round(outcome.wallMs) },
    ...{ downtimeMs: outcome.downtimeMs, guestGapMs },
  };
}

/**
 * The two measurements as one record. NAS bytes are what the NAS-aware run used beyond the plain one's own I/O: bytes at the
 * interfaces read, and file data written.
 */
export function demoRecord(plain: Measurement, nas: Measurement, memoryMiB: number): DemoRecord {
  const { sidecars, sidecarCpuSeconds } = nas;
  if (sidecars === null || sidecarCpuSeconds === null)
    throw new Error('the NAS-aware migration ran without sidecars');
  const beyond = (key: 'sourceRead' | 'targetRead' | 'written'): number =>
    Math.max(0, nas.storage[key] - plain.storage[key]);
  return {
    guest: {
      profile: nas.scenario.profile,
      memoryMiB,
      nonZeroPages: nas.memory.nonZeroPages,
      pagesOnDisk: nas.memory.pagesOnDisk,
    },
    qemu: nas.qemuVersion,
    channels: nas.scenario.channels,
    linkMbit: nas.scenario.linkMbit,
    nasMbit: nas.scenario.nasMbit,
    index: {
      kind: sidecars.source.index.kind,
      nasBytes: nas.indexNasBytes,
      seconds: sidecars.source.index.seconds,
      ageSeconds: sidecars.source.index.ageSeconds + nas.indexAgeSeconds,
      guestBytesWrittenSince: nas.writtenSinceIndex,
    },
    plain: plainFigures(plain),
    nasAware: {
      linkBytes: nas.linkBytes,
      nasBytes: {
        sourceRead: beyond('sourceRead'),
        targetRead: beyond('targetRead'),
        written: beyond('written'),
      },
      totalMs: Math.round(nas.outcome.wallMs),
      downtimeMs: nas.outcome.downtimeMs,
      guestGapMs: nas.guestGapMs,
      pages: {
        zero: sidecars.source.zeroPages ?? 0,
        reference: sidecars.source.referencePages,
        literal: sidecars.source.literalPages ?? 0,
      },
      resentPages: sidecars.source.resentPages ?? 0,
      uncachedReads: sidecars.source.uncachedReads && sidecars.target.uncachedReads,
      sourceCpuSeconds: sidecarCpuSeconds.source,
      targetCpuSeconds: sidecarCpuSeconds.target,
    },
    identicalStreams:
      plain.identicalStreams === null || nas.identicalStreams === null
        ? null
        : plain.identicalStreams && nas.identicalStreams,
    guestSelfCheck: plain.guestSelfCheck === 'ok' ? nas.guestSelfCheck : plain.guestSelfCheck,
  };
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

export function seconds(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

/** How much `small` is of `large`, as people say it: "13.2 x less" or "1.10 x". */
export function ratio(nas: number | null, plain: number | null): string {
  if (nas === null || plain === null || plain === 0) return '';
  if (nas === 0) return 'none';
  return plain >= nas ? `${(plain / nas).toFixed(1)} x less` : `${(nas / plain).toFixed(2)} x`;
}

/** The table, as lines of equal columns. */
export function demoTable(record: DemoRecord): string {
  const { plain, nasAware } = record;
  const time = (ms: number | null): string => (ms === null ? 'unknown' : seconds(ms));
  const rows: string[][] = [
    ['', 'plain', 'NAS-aware', 'ratio to plain'],
    [
      'bytes on the link',
      mebibytes(plain.linkBytes),
      mebibytes(nasAware.linkBytes),
      ratio(nasAware.linkBytes, plain.linkBytes),
    ],
    ['bytes from the NAS', '', mebibytes(nasAware.nasBytes.targetRead + nasAware.nasBytes.sourceRead), ''],
    ['total time', time(plain.totalMs), time(nasAware.totalMs), ratio(nasAware.totalMs, plain.totalMs)],
    [
      "downtime (QEMU's figure)",
      time(plain.downtimeMs),
      time(nasAware.downtimeMs),
      ratio(nasAware.downtimeMs, plain.downtimeMs),
    ],
    [
      'longest gap seen in the guest',
      time(plain.guestGapMs),
      time(nasAware.guestGapMs),
      ratio(nasAware.guestGapMs, plain.guestGapMs),
    ],
    ['pages: zero', '', String(nasAware.pages.zero), ''],
    ['pages: from the NAS', '', String(nasAware.pages.reference), ''],
    ['pages: over the link', '', String(nasAware.pages.literal), ''],
    ['pages sent again', '', String(nasAware.resentPages), ''],
    [
      'sidecar CPU (source, target)',
      '',
      `${nasAware.sourceCpuSeconds.toFixed(2)} s, ${nasAware.targetCpuSeconds.toFixed(2)} s`,
      '',
    ],
    [
      `index (${record.index.kind})`,
      '',
      `${mebibytes(record.index.nasBytes)} read in ${record.index.seconds.toFixed(1)} s, before`,
      '',
    ],
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
