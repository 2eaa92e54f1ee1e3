// How long reads took, in fixed buckets a quarter of an octave wide, so that a 99th percentile costs no memory and no sorting.
// Old samples fade: the counts are halved every FADE_AFTER samples.

/** Upper bound of the first bucket; a read from the NAS's memory over a fast network takes about this long. */
const FIRST_MICROS = 100;
const PER_OCTAVE = 4;
/** 100 us x 2^(71/4) is 22 s, longer than any deadline. */
const BUCKETS = 72;
const FADE_AFTER = 4096;

export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKETS);
  #total = 0;

  add(micros: number): void {
    const bucket = micros <= FIRST_MICROS ? 0 : Math.ceil(Math.log2(micros / FIRST_MICROS) * PER_OCTAVE);
    const at = Math.min(bucket, BUCKETS - 1);
    this.#counts[at] = (this.#counts[at] as number) + 1;
    this.#total++;
    if (this.#total < FADE_AFTER) return;
    this.#total = 0;
    for (let i = 0; i < BUCKETS; i++) {
      const half = (this.#counts[i] as number) / 2;
      this.#counts[i] = half;
      this.#total += half;
    }
  }

  /** The upper bound, in microseconds, of the bucket that holds the given quantile (0 to 1); 0 without samples. */
  quantileMicros(quantile: number): number {
    if (this.#total === 0) return 0;
    let left = this.#total * quantile;
    for (let i = 0; i < BUCKETS; i++) {
      left -= this.#counts[i] as number;
      if (left <= 0) return FIRST_MICROS * 2 ** (i / PER_OCTAVE);
    }
    return FIRST_MICROS * 2 ** ((BUCKETS - 1) / PER_OCTAVE);
  }
}
