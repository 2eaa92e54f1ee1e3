import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { OperatorMetrics } from '../../operator/metrics/metrics.ts';
import { metricNames } from '../metric-names.ts';
import { alertRules } from './alerts.ts';
import { recordingRules } from './recording-rules.ts';
import { realTime, scaledTime } from './rule.ts';
import { ruleFile } from './rule-file.ts';

const runbooks = path.resolve(import.meta.dirname, '../../docs/runbooks');

describe('durations', () => {
  it.each([
    [3600, '1h'],
    [604_800, '7d'],
    [90, '90s'],
    [600, '10m'],
  ])('%i s are %s', (seconds, text) => {
    expect(realTime(seconds)).toBe(text);
  });

  it('are divided for tests, down to a shortest one', () => {
    const range = scaledTime(120, 2000);
    expect([3600, 900, 60].map(range)).toEqual(['30s', '7500ms', '2s']);
  });
});

describe('rules', () => {
  const rules = ruleFile().groups.flatMap((group) => group.rules);

  it('ask only for metrics that the operator has, that are recorded, or that are the API server’s', async () => {
    const known = new Set([
      ...(await new OperatorMetrics().registry.getMetricsAsJSON()).map(({ name }) => name),
      ...recordingRules.map(({ record }) => record),
      'apiserver_admission_webhook_fail_open_count',
    ]);
    for (const { expr, alert, record } of rules) {
      const asked = metricNames(expr);
      expect(asked.length, alert ?? record).toBeGreaterThan(0);
      for (const name of asked) expect(known, `${alert ?? record} asks for ${name}`).toContain(name);
    }
  });

  it('name no job, namespace or cluster', () => {
    for (const { expr } of rules) expect(expr).not.toMatch(/\b(job|cluster|namespace|instance|pod)\s*=/);
  });

  it('are all told apart', () => {
    const names = rules.map(({ alert, record }) => alert ?? record);
    expect(new Set(names).size).toBe(names.length);
  });

  it('say in words what is the case', () => {
    for (const { alert, summary, description } of alertRules) {
      expect(alert).toMatch(/^NasMigration[A-Z][A-Za-z]+$/);
      expect(summary).toMatch(/\.$/);
      expect(summary).not.toContain('{{');
      expect(description.length).toBeGreaterThan(summary.length);
    }
  });
});

describe('runbooks', () => {
  it('are there for every alert, and for no other', async () => {
    const pages = (await readdir(runbooks)).filter((name) => name !== 'README.md');
    expect(pages.sort()).toEqual(alertRules.map(({ alert }) => `${alert}.md`).sort());
  });

  it.each(alertRules.map(({ alert }) => alert))(
    '%s has meaning, impact, diagnosis with a command, mitigation',
    async (alert) => {
      const page = await readFile(path.join(runbooks, `${alert}.md`), 'utf8');
      expect(page.startsWith(`# ${alert}\n`)).toBe(true);
      expect([...page.matchAll(/^## (.*)$/gm)].map(([, title]) => title)).toEqual([
        'Meaning',
        'Impact',
        'Diagnosis',
        'Mitigation',
      ]);
      for (const section of page.split(/^## /m).slice(1)) expect(section.length).toBeGreaterThan(80);
      expect(page).toMatch(/## Diagnosis[\s\S]*```(sh|promql)\n/);
    },
  );

  it('are listed with their severity', async () => {
    const list = await readFile(path.join(runbooks, 'README.md'), 'utf8');
    for (const { alert, severity } of alertRules)
      expect(list).toContain(`| [${alert}](${alert}.md) | ${severity} |`);
  });
});
