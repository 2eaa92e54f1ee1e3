import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { OperatorMetrics } from '../../operator/metrics/metrics.ts';
import { metricNames } from '../metric-names.ts';
import { recordingRules } from '../rules/recording-rules.ts';
import { dashboardJson, dashboards, grafanaDashboard, layout } from './grafana.ts';

interface GrafanaDashboard {
  uid: string;
  templating: { list: { name: string; type: string; query: unknown; datasource?: { uid: string } }[] };
  panels: {
    id: number;
    type: string;
    title: string;
    description?: string;
    datasource?: { type: string; uid: string };
    gridPos: { x: number; y: number; w: number; h: number };
    targets?: { refId: string; expr: string; legendFormat: string; datasource: { uid: string } }[];
  }[];
}

const written = dashboards.map((dashboard) => grafanaDashboard(dashboard) as GrafanaDashboard);
const each = written.map((dashboard) => [dashboard.uid, dashboard] as const);
const GRAFANAS_OWN = ['__rate_interval', '__range', 'datasource'];

/** Names of the variables in a text. */
const variablesIn = (text: string) => [...text.matchAll(/\$\{?(\w+)/g)].map(([, name = '']) => name);

describe.each(each)('dashboard %s', (_uid, dashboard) => {
  const panels = dashboard.panels.filter(({ type }) => type !== 'row');

  it('has panels with a title, a description and at least one query', () => {
    expect(panels.length).toBeGreaterThan(8);
    for (const { title, description, targets = [], type } of panels) {
      expect(description, title).toMatch(/\.$/);
      expect(['stat', 'timeseries', 'bargauge']).toContain(type);
      expect(targets.length, title).toBeGreaterThan(0);
      expect(new Set(targets.map(({ refId }) => refId)).size).toBe(targets.length);
    }
    expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length);
  });

  it('has no two panels in one place, and none beyond the edge', () => {
    const taken = new Set<string>();
    for (const { title, gridPos } of dashboard.panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
          expect(taken.has(`${x},${y}`), title).toBe(false);
          taken.add(`${x},${y}`);
        }
      }
    }
  });

  it('asks the data source of its variable, everywhere', () => {
    expect(dashboard.templating.list[0]).toMatchObject({
      name: 'datasource',
      type: 'datasource',
      query: 'prometheus',
    });
    for (const { title, datasource, targets = [] } of panels) {
      expect(datasource, title).toEqual({ type: 'prometheus', uid: '$datasource' });
      for (const target of targets) expect(target.datasource.uid).toBe('$datasource');
    }
    for (const { datasource } of dashboard.templating.list.slice(1))
      expect(datasource?.uid).toBe('$datasource');
  });

  it('uses the variables that it has, and has those that it uses', () => {
    const own = dashboard.templating.list.map(({ name }) => name);
    const text = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)).join(' ');
    const used = new Set(variablesIn(text));
    for (const name of used) expect([...own, ...GRAFANAS_OWN]).toContain(name);
    for (const name of own) if (name !== 'datasource') expect(used).toContain(name);
  });

  it('asks only for metrics that the operator has or that are recorded', async () => {
    const metrics = await new OperatorMetrics().registry.getMetricsAsJSON();
    const known = new Set([
      ...metrics.flatMap(({ name, type }) => (String(type) === 'histogram' ? [`${name}_bucket`] : [name])),
      ...recordingRules.map(({ record }) => record),
    ]);
    for (const { title, targets = [] } of panels) {
      for (const { expr } of targets) {
        const names = metricNames(expr);
        expect(names.length, title).toBeGreaterThan(0);
        for (const name of names) expect(known, `${title} asks for ${name}`).toContain(name);
      }
    }
  });

  it('names nothing of one installation', () => {
    for (const { title, targets = [] } of panels) {
      for (const { expr } of targets) {
        const matched = [...expr.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"/g)];
        for (const [, label, value = ''] of matched) {
          const isOurs = ['attempt', 'reason', 'kind'].includes(label ?? '');
          expect(isOurs || value.startsWith('$'), `${title}: ${label}="${value}"`).toBe(true);
        }
      }
    }
  });
});

describe('files in the chart', () => {
  it.each(dashboards.map((dashboard) => [dashboard.name, dashboard] as const))(
    '%s is what would be written',
    async (name, dashboard) => {
      const file = `../../charts/nas-aware-migration/files/dashboards/${name}.json`;
      expect(await readFile(path.resolve(import.meta.dirname, file), 'utf8')).toBe(dashboardJson(dashboard));
    },
  );
});

describe('layout', () => {
  it('begins each section below the one before', () => {
    for (const dashboard of dashboards) {
      const rows = layout(dashboard).filter(({ what }) => typeof what === 'string');
      expect(rows.map(({ what }) => what)).toEqual(dashboard.sections.map(({ title }) => title));
      expect(rows.every(({ x, width }) => x === 0 && width === 24)).toBe(true);
    }
  });
});
