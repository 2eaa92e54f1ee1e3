import { describe, expect, it } from 'vitest';
import { metricNames } from './metric-names.ts';

describe('metrics of an expression', () => {
  it.each([
    ['max by (node) (nasmig_a{node=~"$node", b="c d"}) > 604800', ['nasmig_a']],
    ['sum(increase(nasmig_b_total[1h])) / (nasmig:c:ratio1h > 0)', ['nasmig:c:ratio1h', 'nasmig_b_total']],
    ['changes(nasmig_d[10m]) == 0 and nasmig_d offset 10m', ['nasmig_d']],
    ['count(e) > 0 unless on () count(e == 1)', ['e']],
  ])('%s', (expr, names) => {
    expect(metricNames(expr)).toEqual(names);
  });
});
