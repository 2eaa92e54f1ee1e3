import { describe, expect, it } from 'vitest';
import { dashboards } from '../dashboards/grafana.ts';
import type { Dashboard } from '../dashboards/panel.ts';
import { humanNumber } from './numbers.ts';
import { panelsOf, seriesName, withVariables } from './panel-data.ts';
import { drawDashboard } from './picture.ts';

describe('numbers', () => {
  it.each([
    [29_779_558, 'bytes', '28.4 MiB'],
    [1.9, 's', '1.9 s'],
    [0.0123, 's', '12.3 ms'],
    [604_800, 's', '7 d'],
    [0.929, 'percentunit', '92.9 %'],
    [205_123, 'short', '205k'],
    [0, 'bool', 'no'],
    [Number.NaN, 'short', 'no data'],
  ] as const)('%d %s is %s', (value, unit, text) => {
    expect(humanNumber(value, unit)).toBe(text);
  });
});

describe('queries of panels', () => {
  it('get Grafana’s values and all values of a variable', () => {
    const expr = 'rate(a{node=~"$node", vmi=~"$vmi"}[$__rate_interval]) + increase(b[$__range])';
    expect(withVariables(expr, { range: '60s', rateInterval: '4s', vmi: 'db' })).toBe(
      'rate(a{node=~".*", vmi=~"db"}[4s]) + increase(b[60s])',
    );
  });

  it('name their series by labels', () => {
    expect(seriesName({ expr: '', legend: 'p95 {{attempt}}' }, { attempt: 'Plain' })).toBe('p95 Plain');
  });
});

const dashboard: Dashboard = {
  name: 'x',
  title: 'A & B',
  description: '',
  variables: [],
  from: 'now-1h',
  refresh: '1m',
  sections: [
    {
      title: 'Section',
      panels: [
        {
          title: 'Number',
          description: '',
          kind: 'stat',
          unit: 'short',
          queries: [],
          width: 8,
          wrongFrom: 5,
        },
        { title: 'Bars', description: '', kind: 'bars', unit: 'bytes', queries: [], width: 8 },
        { title: 'Lines', description: '', kind: 'graph', unit: 's', queries: [], width: 8 },
        { title: 'Nothing', description: '', kind: 'graph', unit: 's', queries: [], width: 8 },
      ],
    },
  ],
};

describe('picture', () => {
  const svg = drawDashboard(dashboard, {
    name: 'x',
    caption: 'test',
    seconds: 10,
    panels: [
      { title: 'Number', series: [{ name: '', points: [[10, 7]] }] },
      { title: 'Bars', series: [{ name: 'link', points: [[10, 1024]] }] },
      {
        title: 'Lines',
        series: [
          {
            name: 'one',
            points: [
              [0, 1],
              [1, 2],
              [2, Number.NaN],
              [8, 1],
              [9, 3],
            ],
          },
        ],
      },
      { title: 'Nothing', series: [] },
    ],
  });

  it('shows every panel with its values, and says where there is no data', () => {
    for (const text of ['A &amp; B', 'Section', 'Number', '>7<', 'link', '1 KiB', 'one 3 s', 'No data'])
      expect(svg).toContain(text);
    // From 5 on it is wrong.
    expect(svg).toMatch(/fill="#d44a3a"[^>]*>7</);
  });

  it('breaks a line where there is no value', () => {
    expect(svg.match(/<polyline/g)).toHaveLength(2);
  });

  it('draws the shipped dashboards without data, too', () => {
    for (const one of dashboards) {
      const empty = drawDashboard(one, { name: one.name, caption: '', seconds: 1, panels: [] });
      expect(empty.match(/No data/g)).toHaveLength(panelsOf(one).length);
    }
  });
});
