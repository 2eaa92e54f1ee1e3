import { describe, expect, it } from 'vitest';
import { parseScrape, quantile, seriesCount, total } from './prometheus-text.ts';

const empty = parseScrape('');

describe('metrics page', () => {
  it('is read series by series', () => {
    const scrape = parseScrape('# HELP a b\n# TYPE a counter\na{x="1"} 2\na{x="2"} 3\nb 4.5\n');
    expect([...scrape]).toEqual([
      ['a{x="1"}', 2],
      ['a{x="2"}', 3],
      ['b', 4.5],
    ]);
    expect(total(scrape, 'a')).toBe(5);
    expect(total(scrape, 'absent')).toBe(0);
    expect(seriesCount(scrape, 'a')).toBe(2);
  });
});

describe('quantile', () => {
  const page = (counts: number[]) =>
    parseScrape(
      ['0.1', '0.25', '1', '+Inf'].map((le, at) => `d_bucket{le="${le}",o="ok"} ${counts[at]}`).join('\n'),
    );

  it('is interpolated within its bucket', () => {
    // 50 below 0.1, 50 between 0.1 and 0.25.
    expect(quantile(empty, page([50, 100, 100, 100]), 'd', 0.5)).toBeCloseTo(0.1);
    expect(quantile(empty, page([50, 100, 100, 100]), 'd', 0.75)).toBeCloseTo(0.175);
  });

  it('is of what came between two scrapes', () => {
    expect(quantile(page([90, 90, 90, 90]), page([90, 90, 100, 100]), 'd', 0.5)).toBeCloseTo(0.625);
    expect(quantile(page([1, 1, 1, 1]), page([1, 1, 1, 1]), 'd', 0.5)).toBeUndefined();
  });

  it('is at least the last bound when it lies beyond', () => {
    expect(quantile(empty, page([0, 0, 0, 10]), 'd', 0.99)).toBe(1);
  });

  it('adds up what other labels have', () => {
    const both = parseScrape(
      'd_bucket{le="1",o="ok"} 9\nd_bucket{le="+Inf",o="ok"} 9\nd_bucket{le="1",o="error"} 0\nd_bucket{le="+Inf",o="error"} 1',
    );
    expect(quantile(empty, both, 'd', 0.9)).toBeCloseTo(1);
  });
});
