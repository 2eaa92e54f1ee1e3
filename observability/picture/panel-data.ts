// What a picture of a dashboard is drawn from: the answers of a Prometheus to the queries of each panel. Written by the test that has
// the data, read by the command that draws.
import type { Dashboard, Panel, Query } from '../dashboards/panel.ts';

export interface PanelSeries {
  readonly name: string;
  /** [seconds since the beginning, value]; one for panels that show the last value. */
  readonly points: readonly (readonly [number, number])[];
}

export interface PanelData {
  readonly title: string;
  readonly series: readonly PanelSeries[];
}

export interface DashboardData {
  /** Of the dashboard. */
  readonly name: string;
  /** What was going on. */
  readonly caption: string;
  readonly seconds: number;
  /** In the order of the dashboard's panels. */
  readonly panels: readonly PanelData[];
}

export function panelsOf({ sections }: Dashboard): Panel[] {
  return sections.flatMap(({ panels }) => [...panels]);
}

/** The query as Grafana sends it: all values of each variable, or those given. */
export function withVariables(
  expr: string,
  {
    range,
    rateInterval,
    ...values
  }: Readonly<Record<string, string>> & { range: string; rateInterval: string },
): string {
  return expr
    .replaceAll('$__range', range)
    .replaceAll('$__rate_interval', rateInterval)
    .replaceAll(/\$(\w+)/g, (_all, name: string) => values[name] ?? '.*');
}

/** `{{label}}` replaced by the series' labels. */
export function seriesName({ legend }: Query, labels: Readonly<Record<string, string>>): string {
  return legend.replaceAll(/\{\{(\w+)\}\}/g, (_all, label: string) => labels[label] ?? '');
}
