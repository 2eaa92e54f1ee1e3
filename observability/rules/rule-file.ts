// The rules as Prometheus reads them: two groups, recording rules before the alerts that use them.
import { dump } from 'js-yaml';
import { alertRules } from './alerts.ts';
import { recordingRules } from './recording-rules.ts';
import { type Range, realTime } from './rule.ts';

export interface WrittenRule {
  record?: string;
  alert?: string;
  expr: string;
  for?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
}

export interface RuleFile {
  groups: { name: string; interval?: string; rules: WrittenRule[] }[];
}

/** Where runbooks are for who takes the file as it is: in this repository. The chart puts its value there, or leaves the address out. */
export const RUNBOOKS = 'docs/runbooks';

/** `interval`: of evaluation; Prometheus' own when left out. */
export function ruleFile(range: Range = realTime, interval?: string): RuleFile {
  const each = interval === undefined ? {} : { interval };
  const recordings = recordingRules.map(({ record, expr }) => ({ record, expr: expr(range) }));
  const alerts = alertRules.map((rule) => ({
    alert: rule.alert,
    expr: rule.expr(range),
    ...(rule.forSeconds === 0 ? {} : { for: range(rule.forSeconds) }),
    labels: {
      severity: rule.severity,
      operator_health_impact: rule.health,
      kubernetes_operator_part_of: 'kubevirt',
      kubernetes_operator_component: 'nas-aware-migration',
    },
    annotations: {
      summary: rule.summary,
      description: rule.description,
      runbook_url: `${RUNBOOKS}/${rule.alert}.md`,
    },
  }));
  return {
    groups: [
      { name: 'nas-aware-migration.recordings', ...each, rules: recordings },
      { name: 'nas-aware-migration.alerts', ...each, rules: alerts },
    ],
  };
}

export function ruleFileYaml(file: RuleFile): string {
  return dump(file, { lineWidth: -1, noRefs: true });
}
