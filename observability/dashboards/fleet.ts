// The fleet overview: is it working, what did it save, why were migrations plain, what does it cost, and is the operator well.
import type { Dashboard, Panel, Query, Section } from './panel.ts';

const RATE = '$__rate_interval';
const one = (expr: string, legend = ''): Query[] => [{ expr, legend }];
const ofNode = (metric: string) => `${metric}{node=~"$node"}`;

/** The quantiles that matter, of a histogram; without those of nothing, which are no numbers. */
const quantiles = (metric: string, by: string, legend: string, range = RATE): Query[] =>
  [0.5, 0.95].map((quantile) => ({
    expr: `histogram_quantile(${quantile}, sum by (${['le', by].filter((label) => label !== '').join(', ')}) (rate(${metric}_bucket[${range}]))) >= 0`,
    legend: `p${quantile * 100}${legend === '' ? '' : ` ${legend}`}`,
  }));

const stat = (title: string, description: string, expr: string, more: Partial<Panel> = {}): Panel => ({
  title,
  description,
  kind: 'stat',
  unit: 'short',
  width: 4,
  queries: one(expr),
  ...more,
});

const graph = (
  title: string,
  description: string,
  unit: Panel['unit'],
  queries: readonly Query[],
  more: Partial<Panel> = {},
): Panel => ({ title, description, kind: 'graph', unit, width: 8, queries, ...more });

const state: Section = {
  title: 'Now',
  panels: [
    stat(
      'Leader',
      'Whether an operator replica leads. Without one, migrations are plain.',
      'sum(nasmig_leader)',
      {
        unit: 'bool',
        wrongBelow: 1,
      },
    ),
    stat(
      'Breaker',
      'Yes: three accelerated attempts failed within an hour, nothing is accelerated.',
      'max(nasmig_cluster_breaker_open)',
      { unit: 'bool', wrongFrom: 1 },
    ),
    stat(
      'Webhook registered',
      'Whether new virt-launcher pods can get a sidecar.',
      'max(nasmig_injection_registered)',
      { unit: 'bool', wrongBelow: 1 },
    ),
    stat(
      'Sidecars connected',
      'Virt-launcher pods whose sidecar the leader hears of.',
      `sum(${ofNode('nasmig_sidecars')})`,
    ),
    stat(
      'Migrations running',
      'NasAwareMigrations that are not finished, plain ones included.',
      'sum(nasmig_active_migrations)',
    ),
    stat(
      'Saved',
      'Over the last hour: what plain migrations would have sent in addition, of all that they would have sent.',
      'nasmig:saved_bytes:ratio1h',
      { unit: 'percentunit' },
    ),
  ],
};

const outcome: Section = {
  title: 'Migrations',
  panels: [
    graph(
      'Finished, by what became of the acceleration',
      'FailedWhileArmed is what the breaker counts; Plain has a reason, beside.',
      'short',
      one('round(sum by (attempt) (increase(nasmig_migrations_total[$__range]))) > 0', '{{attempt}}'),
      { kind: 'bars' },
    ),
    graph(
      'Plain, by reason',
      'Reasons of plain migrations in the range that is shown; docs/reasons.md says what to do about each.',
      'short',
      one(
        'round(sum by (reason) (increase(nasmig_migrations_total{attempt="Plain", reason!=""}[$__range]))) > 0',
        '{{reason}}',
      ),
      { kind: 'bars' },
    ),
    graph(
      'Should have been accelerated',
      'Share of the migrations of the last hour that were plain because something was amiss. An alert from 20 %.',
      'percentunit',
      one('nasmig:fallbacks:ratio1h', 'fallbacks'),
      { wrongFrom: 0.2 },
    ),
    graph(
      'Duration',
      'From the first byte of a stream to its last.',
      's',
      quantiles('nasmig_migration_duration_seconds', 'attempt', '{{attempt}}', '$__range'),
    ),
    graph(
      'Downtime',
      'How long VMs were stopped, as the source sidecar saw it.',
      's',
      quantiles('nasmig_migration_downtime_seconds', 'attempt', '{{attempt}}', '$__range'),
    ),
    graph(
      'Arming',
      "From the target's readiness to GO. From 2 s on a source waits no longer and is plain.",
      's',
      quantiles('nasmig_arming_seconds', '', '', '$__range'),
      { wrongFrom: 2 },
    ),
  ],
};

const bytes: Section = {
  title: 'Bytes and pages',
  panels: [
    graph(
      'Bytes of finished migrations',
      'On the link, from the NAS, and what plain migrations would have sent in addition.',
      'bytes',
      [
        { expr: 'sum(increase(nasmig_link_bytes_total[$__range]))', legend: 'link' },
        { expr: 'sum(increase(nasmig_nas_read_bytes_total[$__range]))', legend: 'NAS' },
        { expr: 'sum(increase(nasmig_saved_bytes_total[$__range]))', legend: 'saved' },
      ],
      { kind: 'bars' },
    ),
    graph(
      'Pages by kind',
      'Reference: the target read it from the NAS. Zero pages cost nothing anyway.',
      'short',
      one('sum by (kind) (increase(nasmig_pages_total[$__range]))', '{{kind}}'),
      { kind: 'bars' },
    ),
    graph(
      'Batches sent again',
      'Because the NAS had other data than the index says. An alert from 5 %.',
      'percentunit',
      one('nasmig:resent_batches:ratio1h', 'sent again'),
      { wrongFrom: 0.05 },
    ),
  ],
};

const nas: Section = {
  title: 'NAS and indexes',
  panels: [
    graph('NAS permits', 'Migrations that read an NFS server, and those that wait for their turn.', 'short', [
      { expr: 'max(nasmig_nas_permits_in_use)', legend: 'in use' },
      { expr: 'max(nasmig_nas_permits_waiting)', legend: 'waiting' },
      { expr: 'max(nasmig_nas_permits_limit)', legend: 'limit of a server' },
    ]),
    graph(
      'Reads to make indexes',
      'What sidecars read from the NAS besides migrations.',
      'Bps',
      one(`sum(rate(nasmig_index_nas_read_bytes_total[${RATE}]))`, 'index reads'),
    ),
    graph(
      'Time to make an index',
      'How long sidecars took; long ones are throttled on purpose.',
      's',
      quantiles('nasmig_index_build_seconds', '', '', '$__range'),
    ),
    graph(
      'Age of the oldest index',
      'Since it last took in a block. An alert from seven days.',
      's',
      one(`max by (node) (${ofNode('nasmig_index_age_seconds')})`, '{{node}}'),
      { wrongFrom: 604_800 },
    ),
    graph('Blocks in indexes', 'Blocks of 4096 bytes that can be referred to.', 'short', [
      { expr: `sum by (node) (${ofNode('nasmig_index_blocks')})`, legend: '{{node}}' },
    ]),
    graph('Indexes', 'Connected sidecars, and those whose index is made.', 'short', [
      { expr: `sum(${ofNode('nasmig_sidecars')})`, legend: 'sidecars' },
      { expr: `sum(${ofNode('nasmig_indexes_ready')})`, legend: 'index made' },
    ]),
  ],
};

const cost: Section = {
  title: 'What it costs',
  panels: [
    graph(
      'CPU of sidecars',
      'All of them, in cores.',
      'short',
      one(`sum(rate(nasmig_sidecar_cpu_seconds_total[${RATE}]))`, 'cores'),
    ),
    graph(
      'Memory of sidecars',
      'Resident, by node.',
      'bytes',
      one(`sum by (node) (${ofNode('nasmig_sidecar_resident_bytes')})`, '{{node}}'),
    ),
    graph(
      'Memory of indexes',
      'Part of the above.',
      'bytes',
      one(`sum by (node) (${ofNode('nasmig_index_bytes')})`, '{{node}}'),
    ),
  ],
};

const operator: Section = {
  title: 'Operator',
  panels: [
    graph(
      'Pods seen by the webhook',
      'By what was decided.',
      'short',
      one('round(sum by (decision) (increase(nasmig_webhook_decisions_total[$__range])))', '{{decision}}'),
      { kind: 'bars' },
    ),
    graph(
      'Webhook latency',
      'Answering the API server about one pod.',
      's',
      quantiles('nasmig_webhook_duration_seconds', '', '', '$__range'),
    ),
    graph(
      'Namespaces without injection',
      'A quota, a limit range, full nodes or an image that cannot be pulled stopped a pod with a sidecar.',
      'short',
      [{ expr: 'max(nasmig_injection_stopped_namespaces)', legend: 'namespaces' }],
    ),
    graph('Work on objects', 'Time of one piece of work, and how long objects wait for it.', 's', [
      ...quantiles('nasmig_reconcile_duration_seconds', '', 'work'),
      ...quantiles('nasmig_reconcile_queue_wait_seconds', '', 'wait'),
    ]),
    graph(
      'Objects waiting for work',
      'More than a few for long: the operator does not keep up.',
      'short',
      one('max(nasmig_reconcile_queue_depth)', 'waiting'),
    ),
    graph(
      'Requests to the API server',
      'By status; 0 is no answer.',
      'reqps',
      one(`sum by (status) (rate(nasmig_api_requests_total[${RATE}]))`, '{{status}}'),
    ),
    graph('Connections of sidecars', 'Connected now.', 'short', [
      { expr: 'sum(nasmig_hub_connections)', legend: 'connected' },
    ]),
    graph(
      'Refused connections',
      'Connections that the hub refused or closed, by reason.',
      'short',
      one('round(sum by (reason) (increase(nasmig_hub_refused_connections_total[$__range])))', '{{reason}}'),
      { kind: 'bars' },
    ),
    stat(
      'Certificate ends in',
      'Of hub and webhook, the earliest of all replicas. An alert below a day.',
      'min(nasmig_certificate_expiry_timestamp_seconds) - time()',
      { unit: 's', wrongBelow: 86_400, width: 8 },
    ),
  ],
};

export const fleetDashboard: Dashboard = {
  name: 'nas-aware-migration-fleet',
  title: 'NAS-aware migration / Fleet',
  description: 'All migrations, sidecars and operator replicas.',
  variables: [{ name: 'node', label: 'Node', metric: 'nasmig_sidecars', of: 'node', multiple: true }],
  sections: [state, outcome, bytes, nas, cost, operator],
  from: 'now-6h',
  refresh: '1m',
};
