import { describe, expect, it } from 'vitest';
import { demoRecord, demoTable } from './demo-report.ts';
import type { Measurement } from './measured-migration.ts';

function measurement(changes: object): Measurement {
  const base = {
    scenario: { method: 'plain', profile: 'warm', channels: 8, linkMbit: 200, nasMbit: 2000 },
    ...{ qemuVersion: '10.0.1', memory: { pages: 262_144, nonZeroPages: 240_000, pagesOnDisk: 200_000 } },
    outcome: { wallMs: 40_000.4, downtimeMs: 300 },
    ...{ linkBytes: 1_000_000_000, storage: { sourceRead: 1000, targetRead: 500, written: 8192 } },
    ...{ indexNasBytes: 0, indexAgeSeconds: 0, writtenSinceIndex: 0, guestGapMs: 320 },
    ...{ guestSelfCheck: 'ok', identicalStreams: true, sidecars: null, sidecarCpuSeconds: null },
  };
  return { ...base, ...changes } as unknown as Measurement;
}

const sidecar = {
  index: { kind: 'inherited', nasBytes: 0, seconds: 0, entries: 5, ageSeconds: 60 },
  ...{ zeroPages: 1, referencePages: 2, literalPages: 3, resentPages: 4, uncachedReads: true },
};
const accelerated = {
  ...{ linkBytes: 50_000_000, storage: { sourceRead: 400, targetRead: 900_500, written: 8192 } },
  ...{ indexNasBytes: 7, indexAgeSeconds: 5, writtenSinceIndex: 4096 },
  ...{ sidecars: { source: sidecar, target: sidecar }, sidecarCpuSeconds: { source: 2, target: 1 } },
};

describe('demoRecord', () => {
  const record = demoRecord(measurement({}), measurement(accelerated), 1024);

  it('counts at the NAS what the plain run did not use', () => {
    expect(record.nasAware.nasBytes).toEqual({ sourceRead: 0, targetRead: 900_000, written: 0 });
  });

  it('says how old the index is, and what the guest wrote since', () => {
    expect(record.index).toMatchObject({ kind: 'inherited', nasBytes: 7, ageSeconds: 65 });
    expect(record.index.guestBytesWrittenSince).toBe(4096);
  });

  it('counts pages that were sent again', () => {
    expect(record.nasAware.resentPages).toBe(4);
  });

  it('never calls streams identical when one was not compared', () => {
    const failed = demoRecord(measurement({ identicalStreams: null }), measurement(accelerated), 1024);
    expect(failed.identicalStreams).toBeNull();
    const differs = measurement({ ...accelerated, identicalStreams: false });
    expect(demoRecord(measurement({}), differs, 1024).identicalStreams).toBe(false);
  });

  it('refuses a NAS-aware migration without sidecars', () => {
    expect(() => demoRecord(measurement({}), measurement({}), 1024)).toThrow('without sidecars');
  });

  it('is shown with ratios', () => {
    expect(demoTable(record)).toMatch(/bytes on the link\s+953\.7 MiB\s+47\.7 MiB\s+20\.0 x less/);
  });
});
