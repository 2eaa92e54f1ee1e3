import { describe, expect, it } from 'vitest';
import { exampleProgress } from '../../control/example-messages.ts';
import { LINGER_MS, MAX_SERIES, MigrationSeries } from './migration-series.ts';

const labels = (name: string) => ({ namespace: 'shop', name, vmi: 'db' });

describe('series of migrations', () => {
  it('are there while one runs and for one scrape interval after', () => {
    let now = 0;
    const series = new MigrationSeries(() => now);
    series.running(labels('a'), exampleProgress);
    now = 10 * LINGER_MS;
    expect(series.samples()).toMatchObject([{ labels: labels('a') }]);
    series.ended(labels('a'));
    now += LINGER_MS - 1;
    series.ended(labels('a'));
    expect(series.samples()).toHaveLength(1);
    now += 1;
    expect(series.samples()).toEqual([]);
  });

  it('have the last word', () => {
    const series = new MigrationSeries(() => 0);
    series.running(labels('a'), exampleProgress);
    series.running(labels('a'), { ...exampleProgress, linkBytes: 5 });
    expect(series.samples().map(({ progress }) => progress.linkBytes)).toEqual([5]);
  });

  it('are never more than their bound', () => {
    let now = 0;
    const series = new MigrationSeries(() => now);
    for (let i = 0; i < MAX_SERIES + 10; i += 1) series.running(labels(`m${i}`), exampleProgress);
    expect(series.samples()).toHaveLength(MAX_SERIES);
    series.ended(labels('m0'));
    now = LINGER_MS;
    series.running(labels('late'), exampleProgress);
    expect(series.samples().some(({ labels: { name } }) => name === 'late')).toBe(true);
  });
});
