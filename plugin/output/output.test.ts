import { describe, expect, it } from 'vitest';
import { nameOf, objectsAs } from './objects.ts';
import { age, bytes, duration, percent, rate } from './sizes.ts';
import { table } from './table.ts';

describe('sizes', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [29_779_559, '28.4 MiB'],
    [2 ** 40 * 1.5, '1.5 TiB'],
    [2 ** 70, '1048576.0 PiB'],
  ])('%d bytes are %s', (count, text) => {
    expect(bytes(count)).toBe(text);
  });

  it.each([
    [0, '0 ms'],
    [999, '999 ms'],
    [1900, '1.9 s'],
    [61_000, '1m 1s'],
    [3_599_999, '1h 0m'],
    [7_500_000, '2h 5m'],
  ])('%d ms are %s', (ms, text) => {
    expect(duration(ms)).toBe(text);
  });

  it('ages are in one unit', () => {
    expect([5000, 130_000, 7_300_000, 200_000_000, -5, Number.NaN].map(age)).toEqual([
      '5s',
      '2m',
      '2h',
      '2d',
      '0s',
      '<unknown>',
    ]);
    expect(rate(1024)).toBe('1.0 KiB/s');
    expect([percent(1, 3), percent(0, 0)]).toEqual([33, 0]);
  });
});

describe('tables', () => {
  it('have columns as wide as their widest entry, and <none> for nothing', () => {
    const rows = [
      { a: 'x', b: '' },
      { a: 'long', b: 'y' },
    ];
    const columns = [
      { name: 'A', of: (row: { a: string; b: string }) => row.a },
      { name: 'B', of: (row: { a: string; b: string }) => row.b },
    ];
    expect(table(rows, columns)).toEqual(['A      B', 'x      <none>', 'long   y']);
    expect(table(rows, columns, false)).toHaveLength(2);
    expect(table([], columns)).toEqual(['A   B']);
  });
});

describe('objects', () => {
  const object = {
    apiVersion: 'nasmigration.io/v1alpha1',
    kind: 'NasAwareMigration',
    metadata: { name: 'm', managedFields: [{}] },
  };

  it('are written as kubectl does', () => {
    expect(nameOf(object)).toBe('nasawaremigration.nasmigration.io/m');
    expect(nameOf({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' } })).toBe('pod/p');
    expect(objectsAs([object], 'name', true)).toBe('nasawaremigration.nasmigration.io/m\n');
    const one = JSON.parse(objectsAs([object], 'json', false)) as { metadata: object };
    expect(one.metadata).toEqual({ name: 'm' });
    expect(JSON.parse(objectsAs([], 'json', true))).toMatchObject({ kind: 'List', items: [] });
    expect(objectsAs([object], 'yaml', false)).toBe(
      'apiVersion: nasmigration.io/v1alpha1\nkind: NasAwareMigration\nmetadata:\n  name: m\n',
    );
  });
});
