// A dashboard before it is Grafana's JSON: sections of panels, each with its queries. The JSON is made in one place (grafana.ts), and
// the same description is drawn as a picture for the documentation (observability/picture/).

export type Unit = 'short' | 'bytes' | 'Bps' | 's' | 'percentunit' | 'reqps' | 'bool';

export interface Query {
  /** PromQL; `$node` and the like are variables of the dashboard, `$__rate_interval` and `$__range` are Grafana's. */
  readonly expr: string;
  /** `{{label}}` is replaced; without labels the same for all series. */
  readonly legend: string;
}

export interface Panel {
  readonly title: string;
  /** What it shows and what to look for. */
  readonly description: string;
  /** `stat` is the last value in large letters, `bars` the last value of each series, `graph` all of them over time. */
  readonly kind: 'stat' | 'graph' | 'bars';
  readonly unit: Unit;
  readonly queries: readonly Query[];
  /** Of 24 columns. */
  readonly width: number;
  /** Series on top of each other. */
  readonly stacked?: true;
  /** From this value on it is shown as wrong; below, when `wrongBelow`. */
  readonly wrongFrom?: number;
  readonly wrongBelow?: number;
}

export interface Section {
  readonly title: string;
  readonly panels: readonly Panel[];
}

/** Values that a person picks, from the labels of a metric. */
export interface Variable {
  readonly name: string;
  readonly label: string;
  /** `label_values(metric{…}, label)`. */
  readonly metric: string;
  readonly of: string;
  /** Several at once, or all. */
  readonly multiple?: true;
}

export interface Dashboard {
  /** File name and UID, stable. */
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly variables: readonly Variable[];
  readonly sections: readonly Section[];
  /** What it opens with. */
  readonly from: string;
  readonly refresh: string;
}
