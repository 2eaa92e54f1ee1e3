import { expect, it } from 'vitest';
import { floorLines, pipelineFloors } from './pipeline-floors.ts';

const record = (guest: string, name: string, ofRelay: number) => ({ guest, name, ofRelay });

it('judges the source by the recorded stream, with zstd and without', () => {
  const results = pipelineFloors([
    record('generated', 'source, zstd', 0.9),
    record('generated', 'source, no zstd', 0.1),
    record('recorded', 'source, zstd', 0.44),
    record('recorded', 'source, no zstd', 0.7),
  ]);
  expect(results.map(({ holds }) => holds)).toEqual([false, true]);
  expect(floorLines(results)).toEqual([
    'recorded, source, zstd: stream a core-second, of the relay: asked at least 0.45, measured 0.44, DOES NOT HOLD',
    'recorded, source, no zstd: stream a core-second, of the relay: asked at least 0.7, measured 0.70, holds',
  ]);
});

it('claims nothing of what was not measured', () => {
  const [zstd] = pipelineFloors([]);
  expect(zstd).toMatchObject({ reached: 'not measured', holds: null });
});
