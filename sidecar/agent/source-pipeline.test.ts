import { afterEach, expect, it, vi } from 'vitest';
import { BlockIndex } from '../index/block-index.ts';
import type { Volume } from '../nas/volume.ts';
import { RouteChoice } from '../source/route-choice.ts';
import { SourceMigration } from '../source/source-migration.ts';
import { MemoryVolume } from '../test-pipeline.ts';
import type { PipelineOptions } from './pipeline.ts';
import { SourcePipeline } from './source-pipeline.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

function pipeline(limits: Partial<PipelineOptions>, volumes: readonly Volume[] = []): SourcePipeline {
  const index = BlockIndex.create({
    volumes: [{ name: 'root', sizeBytes: 65_536 }],
    seed: { hi: 1, lo: 2 },
    budgetBytes: 65_536,
  });
  const options: PipelineOptions = {
    migrationUid: '6f1b7a52-2c9e-4f0a-9a53-0d5f1d3c8e11',
    sessionKey: Buffer.alloc(32),
    volumeNames: [],
    downtimeLimitMs: 300,
    linkBytesPerSecond: undefined,
    nasReadBytesPerSecond: undefined,
    dial: () => Promise.reject(new Error('nobody dials')),
    log: () => undefined,
    ...limits,
  };
  return new SourcePipeline(options, index, volumes, false);
}

it('says that a plain migration is faster, but not where the operator limits it', () => {
  const told = (limits: Partial<PipelineOptions> = {}) => pipeline(limits).snapshot().isPlainFaster;
  expect(told()).toBe(false);
  vi.spyOn(RouteChoice.prototype, 'isPlainFaster', 'get').mockReturnValue(true);
  expect(told()).toBe(true);
  expect(told({ linkBytesPerSecond: 1e6 })).toBe(false);
  expect(told({ nasReadBytesPerSecond: 1e6 })).toBe(false);
});

it('says of each volume why it was turned off', () => {
  const volumes = ['a', 'b', 'c'].map((name) => new MemoryVolume(name, Buffer.alloc(4096)));
  vi.spyOn(SourceMigration.prototype, 'offReason').mockImplementation(
    (volume) => (['NasReadFailed', undefined, 'NasTooSlow'] as const)[volume],
  );
  const told = pipeline({}, volumes as unknown as Volume[]).snapshot().volumes;
  expect(told.map(({ offReason }) => offReason)).toEqual(['NasReadFailed', undefined, 'NasTooSlow']);
});
