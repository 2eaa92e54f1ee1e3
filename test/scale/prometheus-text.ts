// What is read of the operator's /metrics page: the value of a series, and a quantile of a histogram between two scrapes, as
// Prometheus' histogram_quantile estimates it (linear within a bucket). Pure.

/** Series of a page by their name with labels, as they are written: `name{label="value"}`. */
export type Scrape = ReadonlyMap<string, number>;

export function parseScrape(text: string): Scrape {
  const series = new Map<string, number>();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const end = line.lastIndexOf(' ');
    const value = Number(line.slice(end + 1));
    if (end > 0 && !Number.isNaN(value)) series.set(line.slice(0, end), value);
  }
  return series;
}

/** Sum over all series of this metric. */
export function total(scrape: Scrape, metric: string): number {
  let sum = 0;
  for (const [name, value] of scrape) if (nameOf(name) === metric) sum += value;
  return sum;
}

/** How many series there are whose name begins so. */
export function seriesCount(scrape: Scrape, prefix: string): number {
  return [...scrape.keys()].filter((name) => nameOf(name).startsWith(prefix)).length;
}

/** Of what a histogram took in from `before` to `after`, over all its labels; undefined when that is nothing. */
export function quantile(
  before: Scrape,
  after: Scrape,
  histogram: string,
  share: number,
): number | undefined {
  const buckets = new Map<number, number>();
  for (const [name, value] of after) {
    if (nameOf(name) !== `${histogram}_bucket`) continue;
    const bound = /le="([^"]+)"/.exec(name)?.[1];
    if (bound === undefined) continue;
    const upTo = bound === '+Inf' ? Number.POSITIVE_INFINITY : Number(bound);
    buckets.set(upTo, (buckets.get(upTo) ?? 0) + value - (before.get(name) ?? 0));
  }
  const bounds = [...buckets.keys()].sort((a, b) => a - b);
  const count = buckets.get(Number.POSITIVE_INFINITY) ?? 0;
  if (count === 0) return undefined;
  const rank = share * count;
  let lower = 0;
  let below = 0;
  for (const bound of bounds) {
    const upTo = buckets.get(bound) ?? 0;
    if (upTo >= rank) {
      // Beyond the last bucket nothing is known but that: its bound is the least it can be.
      if (!Number.isFinite(bound)) return lower;
      return upTo === below ? bound : lower + ((bound - lower) * (rank - below)) / (upTo - below);
    }
    lower = bound;
    below = upTo;
  }
  return lower;
}

function nameOf(series: string): string {
  const brace = series.indexOf('{');
  return brace === -1 ? series : series.slice(0, brace);
}
