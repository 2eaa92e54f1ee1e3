// What the source pipeline must reach at least of a plain relay of the same recorded bytes in the same run. Pure.

import { atLeast, type FloorResult } from './bench-floors.ts';

/** Shares of the relay's bytes a core-second. */
const FLOORS = [
  { name: 'source, zstd', share: 0.45 },
  { name: 'source, no zstd', share: 0.7 },
] as const;

export interface PipelineRecord {
  readonly guest: string;
  readonly name: string;
  /** Bytes of stream a core-second, of the relay's. */
  readonly ofRelay: number;
}

export function pipelineFloors(records: readonly PipelineRecord[]): FloorResult[] {
  return FLOORS.map(({ name, share }) => {
    const record = records.find((one) => one.guest === 'recorded' && one.name === name);
    return atLeast(`recorded, ${name}`, 'stream a core-second, of the relay', share, record?.ofRelay ?? null);
  });
}

/** One line for each floor. */
export function floorLines(results: readonly FloorResult[]): string[] {
  return results.map(
    ({ on, figure, floor, reached, holds }) =>
      `${on}: ${figure}: asked ${floor}, measured ${reached}${holds === null ? '' : holds ? ', holds' : ', DOES NOT HOLD'}`,
  );
}
