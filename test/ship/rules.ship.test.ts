// The rules as they are shipped, by Debian's promtool: they are well formed, and they fire after the time they say and not before
// (test/ship/rules.promtool.yaml, with series written by hand). The chart's PrometheusRule has the same ones.
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { load } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rulesFile } from '../../hack/ship/generate.ts';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { alertRules } from '../../observability/rules/alerts.ts';
import { recordingRules } from '../../observability/rules/recording-rules.ts';
import { type RuleFile, ruleFileYaml } from '../../observability/rules/rule-file.ts';
import { Helm, objectOf, type Values } from './helm.ts';
import { promtool } from './prometheus.ts';

const shipped = path.join(repositoryRoot, rulesFile);
const cases = path.join(repositoryRoot, 'test/ship/rules.promtool.yaml');

let dir: string;
let helm: Helm;

beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'nasmig-rules-'));
  helm = await Helm.start();
});

afterAll(async () => {
  await helm?.close();
  if (dir !== undefined) await rm(dir, { recursive: true, force: true });
});

const rulesOf = ({ groups }: RuleFile) => groups.flatMap(({ rules }) => rules);
const alertsOf = (file: RuleFile) => rulesOf(file).flatMap(({ alert }) => alert ?? []);

/** The PrometheusRule that the chart makes; its spec is a rule file. */
async function prometheusRule(values: Values = {}): Promise<RuleFile> {
  const { prometheusRule: own, ...others } = values as { prometheusRule?: object };
  const rendered = await helm.template({ ...others, prometheusRule: { ...own, enabled: true } });
  return objectOf(rendered, 'PrometheusRule')['spec'] as RuleFile;
}

describe('rules', () => {
  it('are well formed', async () => {
    const said = await promtool(['check', 'rules', shipped]);
    expect(said).toContain(`SUCCESS: ${alertRules.length + recordingRules.length} rules found`);
  });

  it('fire after the time they say, and not for what only looks like it', async () => {
    expect(await promtool(['test', 'rules', cases])).toContain('SUCCESS');
  });

  it('have a case for every alert, silent and firing', async () => {
    const { tests } = load(await readFile(cases, 'utf8')) as {
      tests: { promql_expr_test: { expr: string; exp_samples: unknown[] }[] }[];
    };
    const checks = tests.flatMap(({ promql_expr_test }) => promql_expr_test);
    for (const { alert } of alertRules) {
      const own = checks.filter(({ expr }) => expr.includes(`"${alert}"`));
      expect(
        own.filter(({ exp_samples }) => exp_samples.length === 0),
        alert,
      ).not.toEqual([]);
      expect(
        own.filter(({ exp_samples }) => exp_samples.length === 1),
        alert,
      ).not.toEqual([]);
    }
  });

  it('are not passed by the cases when a waiting time is gone', async () => {
    const wrong = load(await readFile(shipped, 'utf8')) as RuleFile;
    for (const rule of rulesOf(wrong)) delete rule.for;
    // Where the cases look for it, relative to a copy of them.
    const file = path.join(dir, rulesFile);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, ruleFileYaml(wrong));
    const copy = path.join(dir, 'test/ship/cases.yaml');
    await mkdir(path.dirname(copy), { recursive: true });
    await writeFile(copy, await readFile(cases));
    await expect(promtool(['test', 'rules', copy])).rejects.toThrow('FAILED');
  });
});

describe('PrometheusRule', () => {
  it('has the shipped rules', async () => {
    const file = load(await readFile(shipped, 'utf8')) as RuleFile;
    const runbookBaseUrl = 'https://wiki.example.org/nasmig';
    const rendered = await prometheusRule({ prometheusRule: { runbookBaseUrl } });
    for (const { annotations } of [...rulesOf(rendered), ...rulesOf(file)])
      if (annotations !== undefined) delete annotations['runbook_url'];
    expect(rendered).toEqual(file);
    // Where none are served, alerts name no runbook.
    expect(await prometheusRule()).toEqual(file);
    expect((await helm.template()).some(({ kind }) => kind === 'PrometheusRule')).toBe(false);
  });

  it('takes labels, a place of the runbooks, and alerts to leave out from values', async () => {
    const spec = await prometheusRule({
      prometheusRule: {
        additionalLabels: { team: 'virt' },
        runbookBaseUrl: 'https://wiki.example.org/nasmig/',
        disabledAlerts: ['NasMigrationIndexStale'],
      },
    });
    expect(alertsOf(spec)).not.toContain('NasMigrationIndexStale');
    expect(alertsOf(spec)).toHaveLength(alertRules.length - 1);
    const stuck = rulesOf(spec).find(({ alert }) => alert === 'NasMigrationStuck');
    expect(stuck?.labels).toMatchObject({ team: 'virt', severity: 'warning' });
    expect(stuck?.annotations?.['runbook_url']).toBe('https://wiki.example.org/nasmig/NasMigrationStuck.md');
    expect(
      rulesOf(spec).filter(({ record, labels }) => record !== undefined && labels !== undefined),
    ).toEqual([]);
  });

  it('has no alert on a webhook that is not asked for', async () => {
    const spec = await prometheusRule({ injection: { enabled: false } });
    const missing = alertRules.map(({ alert }) => alert).filter((alert) => !alertsOf(spec).includes(alert));
    const ofInjection = alertRules.filter(({ needsInjection }) => needsInjection).map(({ alert }) => alert);
    expect(missing).toEqual(ofInjection);
  });
});
