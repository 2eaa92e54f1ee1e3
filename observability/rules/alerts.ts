// The alerts. Names, labels and annotations follow KubeVirt's guidelines: a summary, a description, a runbook, a severity, what it
// says of the operator. No selector names a job, a namespace or a cluster: the metrics' own names are enough. Each alert has a
// runbook in docs/runbooks/ and a test that causes it (test/ship/alerts.ship.test.ts).
import type { AlertRule } from './rule.ts';

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;
/** Our own certificates are renewed 2.3 days before their end, so a day before it several attempts have failed. */
const CERTIFICATE_LEFT = DAY;
/** The VM has written its disk for so long since the index last took in a block. */
const INDEX_AGE = 7 * DAY;
/** The chart's name for the webhook, as the API server's metrics carry it. */
const WEBHOOK = 'sidecar.nasmigration.io';

export const alertRules: readonly AlertRule[] = [
  {
    alert: 'NasMigrationOperatorDown',
    severity: 'critical',
    health: 'critical',
    forSeconds: 5 * MINUTE,
    expr: () => 'absent(nasmig_leader == 1)',
    summary: 'No operator replica leads.',
    description:
      'No replica of nas-aware-migration has said for 5 minutes that it leads. Migrations are plain, NasAwareMigration objects are not worked on. VMs run, and KubeVirt migrates them, as without it.',
  },
  {
    alert: 'NasMigrationWebhookDown',
    severity: 'warning',
    health: 'warning',
    forSeconds: 10 * MINUTE,
    needsInjection: true,
    expr: (range) =>
      `(count(nasmig_injection_registered) > 0 unless on () count(nasmig_injection_registered == 1)) or sum(increase(apiserver_admission_webhook_fail_open_count{name="${WEBHOOK}"}[${range(10 * MINUTE)}])) > 0`,
    summary: 'Virt-launcher pods start without a sidecar because the injection webhook does not answer.',
    description:
      'The injection webhook is not registered, or the API server could not reach it and created pods without asking ({{ $value }} in 10 minutes, where the API server is scraped). VMs start and move, but new pods cannot be accelerated.',
  },
  {
    alert: 'NasMigrationCertificateExpiring',
    severity: 'warning',
    health: 'warning',
    forSeconds: 15 * MINUTE,
    expr: () => `(nasmig_certificate_expiry_timestamp_seconds > 0) - time() < ${CERTIFICATE_LEFT}`,
    summary: 'A serving certificate of hub or webhook ends within a day and was not renewed.',
    description:
      'The serving certificate of {{ $labels.instance }} ends in {{ $value | humanizeDuration }}. After that sidecars and the API server refuse the connection: migrations are plain, new pods get no sidecar.',
  },
  {
    alert: 'NasMigrationBreakerOpen',
    severity: 'critical',
    health: 'critical',
    forSeconds: 0,
    expr: () => 'max(nasmig_cluster_breaker_open) == 1',
    summary: 'Three accelerated attempts failed within an hour, so that nothing is accelerated (Degraded).',
    description:
      'The breaker of the cluster is open: three accelerated migrations failed within an hour. All migrations are plain until the failures are an hour old.',
  },
  {
    alert: 'NasMigrationAccelerationFailing',
    severity: 'warning',
    health: 'warning',
    forSeconds: 0,
    expr: (range) => `sum(increase(nasmig_migrations_total{attempt="FailedWhileArmed"}[${range(HOUR)}])) > 0`,
    summary: 'An accelerated migration failed.',
    description:
      '{{ $value | humanize }} accelerated migrations failed within an hour. Their VMs run on where they were; the next attempt of each is plain.',
  },
  {
    alert: 'NasMigrationFallbacksRising',
    severity: 'warning',
    health: 'warning',
    forSeconds: 15 * MINUTE,
    expr: () => 'nasmig:fallbacks:ratio1h > 0.2 and sum(nasmig:fallbacks:increase1h) > 2',
    summary: 'Many migrations that should be accelerated are plain.',
    description:
      '{{ $value | humanizePercentage }} of the migrations of the last hour should have been accelerated and were plain because something was amiss. They succeed, but take the time and the bandwidth of plain ones.',
  },
  {
    alert: 'NasMigrationResendsHigh',
    severity: 'warning',
    health: 'none',
    forSeconds: 15 * MINUTE,
    expr: () => 'nasmig:resent_batches:ratio1h > 0.05',
    summary: 'Many batches had to be sent again because the NAS had other data than the index says.',
    description:
      '{{ $value | humanizePercentage }} of the batches of the last hour had to be sent again in part. Nothing wrong reached a VM, but the references cost more than they save.',
  },
  {
    alert: 'NasMigrationIndexStale',
    severity: 'info',
    health: 'none',
    forSeconds: HOUR,
    expr: () => `max by (node) (nasmig_index_age_seconds) > ${INDEX_AGE}`,
    summary: 'An index has not taken in a block for a week.',
    description:
      'A sidecar on node {{ $labels.node }} has an index that is {{ $value | humanizeDuration }} old. The next migration of its VM may find few pages in it.',
  },
  {
    alert: 'NasMigrationNasBudgetExhausted',
    severity: 'warning',
    health: 'none',
    forSeconds: 10 * MINUTE,
    expr: () => 'max(nasmig_nas_permits_waiting) > 0 and max(nasmig_nas_permits_limit) > 0',
    summary: 'Migrations have waited for a permit to read the NAS for 10 minutes.',
    description:
      '{{ $value }} migrations wait because as many as allowed read their NFS server already. Migrations of a drain do not wait: they are plain meanwhile.',
  },
  {
    alert: 'NasMigrationStuck',
    severity: 'warning',
    health: 'none',
    forSeconds: 5 * MINUTE,
    expr: (range) =>
      `changes(nasmig_migration_qemu_bytes[${range(10 * MINUTE)}]) == 0 and nasmig_migration_qemu_bytes offset ${range(10 * MINUTE)}`,
    summary: 'A migration moves no bytes.',
    description:
      'QEMU of VM {{ $labels.namespace }}/{{ $labels.vmi }} has written nothing into its migration stream for 10 minutes (NasAwareMigration {{ $labels.name }}). The VM runs on its source.',
  },
  {
    alert: 'NasMigrationInjectionStopped',
    severity: 'warning',
    health: 'none',
    forSeconds: 0,
    needsInjection: true,
    expr: () => 'max(nasmig_injection_stopped_namespaces) > 0',
    summary:
      'A quota, a limit range, full nodes or an image that cannot be pulled stopped a pod with a sidecar, so injection stopped in its namespace.',
    description:
      'Injection is stopped in {{ $value }} namespaces because a quota, a limit range, full nodes or an image that cannot be pulled stopped a pod that had a sidecar. Pods there start without one until the refusal is half an hour old.',
  },
  {
    alert: 'NasMigrationSidecarsRefused',
    severity: 'warning',
    health: 'warning',
    forSeconds: 5 * MINUTE,
    expr: (range) =>
      `sum by (reason) (increase(nasmig_hub_refused_connections_total{reason!="replaced"}[${range(15 * MINUTE)}])) > 5`,
    summary: 'The operator refuses connections of sidecars.',
    description:
      'The hub refused or closed {{ $value | humanize }} connections within 15 minutes (reason {{ $labels.reason }}). The VMs of these sidecars move plainly.',
  },
];
