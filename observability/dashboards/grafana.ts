// Grafana's JSON of a dashboard (schema version 39, Grafana 10 and later). The data source is a variable, and so is everything a
// cluster names; nothing of one installation is in it.
import { fleetDashboard } from './fleet.ts';
import { migrationDashboard } from './migration.ts';
import type { Dashboard, Panel, Variable } from './panel.ts';

export const dashboards: readonly Dashboard[] = [fleetDashboard, migrationDashboard];

const SCHEMA_VERSION = 39;
const COLUMNS = 24;
const ROW_HEIGHT = 1;
const STAT_HEIGHT = 4;
const GRAPH_HEIGHT = 8;
const datasource = { type: 'prometheus', uid: '$datasource' };

const GRAFANA_TYPES = { stat: 'stat', graph: 'timeseries', bars: 'bargauge' } as const;

export function panelHeight({ kind }: Panel): number {
  return kind === 'stat' ? STAT_HEIGHT : GRAPH_HEIGHT;
}

export interface Placed<T> {
  readonly what: T;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Panels from left to right, a new line when one does not fit; sections below each other with their titles. */
export function layout(dashboard: Dashboard): Placed<Panel | string>[] {
  const placed: Placed<Panel | string>[] = [];
  let y = 0;
  for (const { title, panels } of dashboard.sections) {
    placed.push({ what: title, x: 0, y, width: COLUMNS, height: ROW_HEIGHT });
    y += ROW_HEIGHT;
    let x = 0;
    let lineHeight = 0;
    for (const panel of panels) {
      if (x + panel.width > COLUMNS) {
        x = 0;
        y += lineHeight;
        lineHeight = 0;
      }
      const height = panelHeight(panel);
      placed.push({ what: panel, x, y, width: panel.width, height });
      x += panel.width;
      lineHeight = Math.max(lineHeight, height);
    }
    y += lineHeight;
  }
  return placed;
}

export function grafanaDashboard(dashboard: Dashboard): object {
  return {
    uid: dashboard.name,
    title: dashboard.title,
    description: dashboard.description,
    tags: ['kubevirt', 'nas-aware-migration'],
    schemaVersion: SCHEMA_VERSION,
    version: 1,
    editable: true,
    graphTooltip: 1,
    time: { from: dashboard.from, to: 'now' },
    refresh: dashboard.refresh,
    timezone: 'browser',
    links: [
      {
        type: 'dashboards',
        title: 'NAS-aware migration',
        tags: ['nas-aware-migration'],
        asDropdown: false,
        includeVars: false,
        keepTime: true,
      },
    ],
    annotations: { list: [] },
    templating: {
      list: [
        { name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus', current: {} },
        ...dashboard.variables.map(grafanaVariable),
      ],
    },
    panels: layout(dashboard).map(({ what, x, y, width, height }, index) => {
      const gridPos = { x, y, w: width, h: height };
      return typeof what === 'string'
        ? { id: index + 1, type: 'row', title: what, collapsed: false, panels: [], gridPos }
        : { id: index + 1, gridPos, ...grafanaPanel(what) };
    }),
  };
}

function grafanaVariable({ name, label, metric, of, multiple }: Variable): object {
  const query = `label_values(${metric}, ${of})`;
  return {
    name,
    label,
    type: 'query',
    datasource,
    definition: query,
    query: { query, refId: name },
    // With the range of time: migrations are over soon.
    refresh: 2,
    sort: 1,
    multi: multiple === true,
    includeAll: true,
    allValue: '.*',
    current: { text: 'All', value: '$__all' },
  };
}

function grafanaPanel(panel: Panel): object {
  return {
    type: GRAFANA_TYPES[panel.kind],
    title: panel.title,
    description: panel.description,
    datasource,
    targets: panel.queries.map(({ expr, legend }, index) => ({
      refId: String.fromCharCode('A'.charCodeAt(0) + index),
      datasource,
      expr,
      legendFormat: legend,
      ...(panel.kind === 'graph' ? { range: true } : { instant: true }),
    })),
    fieldConfig: { defaults: defaultsOf(panel), overrides: [] },
    options: optionsOf(panel),
  };
}

function defaultsOf({ unit, kind, stacked, wrongFrom, wrongBelow }: Panel): object {
  const steps =
    wrongBelow === undefined
      ? [
          { color: 'green', value: null },
          ...(wrongFrom === undefined ? [] : [{ color: 'red', value: wrongFrom }]),
        ]
      : [
          { color: 'red', value: null },
          { color: 'green', value: wrongBelow },
        ];
  return {
    // Yes and no are numbers with names.
    unit: unit === 'bool' ? 'none' : unit,
    min: unit === 'bool' ? null : 0,
    thresholds: { mode: 'absolute', steps },
    ...(unit === 'bool'
      ? { mappings: [{ type: 'value', options: { 0: { text: 'no' }, 1: { text: 'yes' } } }] }
      : { mappings: [] }),
    ...(kind === 'graph'
      ? {
          custom: {
            fillOpacity: stacked === true ? 40 : 8,
            lineWidth: 1,
            showPoints: 'never',
            stacking: { mode: stacked === true ? 'normal' : 'none' },
            thresholdsStyle: { mode: wrongFrom === undefined ? 'off' : 'line' },
          },
        }
      : {}),
  };
}

function optionsOf({ kind }: Panel): object {
  const reduceOptions = { calcs: ['lastNotNull'], fields: '', values: false };
  switch (kind) {
    case 'stat':
      return { reduceOptions, colorMode: 'value', graphMode: 'area', textMode: 'value' };
    case 'bars':
      return { reduceOptions, orientation: 'horizontal', displayMode: 'basic', showUnfilled: false };
    case 'graph':
      return {
        legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
        tooltip: { mode: 'multi', sort: 'desc' },
      };
  }
}

/** As the file in the chart. */
export function dashboardJson(dashboard: Dashboard): string {
  return `${JSON.stringify(grafanaDashboard(dashboard), undefined, 2)}\n`;
}
