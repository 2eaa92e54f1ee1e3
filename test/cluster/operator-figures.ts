// What the operator's metrics say of its own speed.

export interface ArmingTimes {
  readonly count: number;
  readonly meanMs: number;
  /** How many took less than 100 ms, as far as the histogram's buckets tell. */
  readonly below100Ms: number;
}

const NAME = 'nasmig_arming_seconds';

/** From the target's socket being taken to GO, over all migrations of the process. Undefined when none was armed. */
export function armingTimes(metrics: string): ArmingTimes | undefined {
  const value = (line: string): number => {
    const found = metrics.split('\n').find((one) => one.startsWith(line));
    return found === undefined ? 0 : Number(found.slice(found.lastIndexOf(' ') + 1));
  };
  const count = value(`${NAME}_count`);
  if (count === 0) return undefined;
  return {
    count,
    meanMs: Math.round((value(`${NAME}_sum`) / count) * 10_000) / 10,
    below100Ms: value(`${NAME}_bucket{le="0.1"}`),
  };
}
