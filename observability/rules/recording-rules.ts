// Recording rules: what alerts and dashboards share. Counters of migrations grow when a migration ends, so they are looked at over
// an hour.
import { faultReasons } from './fallback-reasons.ts';
import type { RecordingRule } from './rule.ts';

const HOUR = 3600;
/** A batch of the link holds at most 1 MiB of pages. */
const PAGES_A_BATCH = 256;
const sent = 'nasmig_pages_total{kind!="zero"}';

export const recordingRules: readonly RecordingRule[] = [
  {
    record: 'nasmig:migrations:increase1h',
    expr: (range) => `sum by (attempt) (increase(nasmig_migrations_total[${range(HOUR)}]))`,
  },
  {
    record: 'nasmig:fallbacks:increase1h',
    expr: (range) =>
      `sum by (reason) (increase(nasmig_migrations_total{attempt="Plain", reason=~"${faultReasons.join('|')}"}[${range(HOUR)}]))`,
  },
  {
    record: 'nasmig:fallbacks:ratio1h',
    expr: () => 'sum(nasmig:fallbacks:increase1h) / (sum(nasmig:migrations:increase1h) > 0)',
  },
  {
    // Of batches' worth of pages. 1 in 20 is where the sidecars stop referring for a while.
    record: 'nasmig:resent_batches:ratio1h',
    expr: (range) =>
      `sum(increase(nasmig_resent_batches_total[${range(HOUR)}])) / (sum(increase(${sent}[${range(HOUR)}])) / ${PAGES_A_BATCH} > 0)`,
  },
  {
    record: 'nasmig:saved_bytes:ratio1h',
    expr: (range) =>
      `sum(increase(nasmig_saved_bytes_total[${range(HOUR)}])) / (sum(increase(nasmig_saved_bytes_total[${range(HOUR)}])) + sum(increase(nasmig_link_bytes_total[${range(HOUR)}])) > 0)`,
  },
];
