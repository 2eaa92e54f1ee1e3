// The operator's Prometheus metrics: prefix `nasmig_`, base units, no label without bound. Per-migration numbers are in the
// objects' status; here are sums, states and latencies. docs/metrics.md is made from this registry.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';

const LATENCY_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const DURATION_BUCKETS = [1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280];
const DOWNTIME_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9, 2, 5];

export interface GaugeSources {
  hubConnections: () => number;
  isLeader: () => boolean;
  queueDepth: () => number;
  activeMigrations: () => number;
  certificateExpirySeconds: () => number;
}

export class OperatorMetrics {
  readonly registry = new Registry();
  readonly #registers = [this.registry];

  readonly migrations = new Counter({
    name: 'nasmig_migrations_total',
    help: 'Finished migrations by phase, what became of the acceleration, and the reason when there was none.',
    labelNames: ['phase', 'attempt', 'reason'],
    registers: this.#registers,
  });
  readonly savedBytes = new Counter({
    name: 'nasmig_saved_bytes_total',
    help: 'Bytes that plain migrations would have sent and ours did not.',
    registers: this.#registers,
  });
  readonly linkBytes = new Counter({
    name: 'nasmig_link_bytes_total',
    help: 'Bytes of the sidecars on migration links.',
    registers: this.#registers,
  });
  readonly nasBytes = new Counter({
    name: 'nasmig_nas_read_bytes_total',
    help: 'Bytes read from the NAS for pages.',
    registers: this.#registers,
  });
  readonly pages = new Counter({
    name: 'nasmig_pages_total',
    help: 'Pages of 4096 bytes by what became of them.',
    labelNames: ['kind'],
    registers: this.#registers,
  });
  readonly resends = new Counter({
    name: 'nasmig_resent_batches_total',
    help: 'Batches of which pages were sent again because the NAS had other data.',
    registers: this.#registers,
  });
  readonly duration = new Histogram({
    name: 'nasmig_migration_duration_seconds',
    help: 'From the first byte of a stream to its last.',
    labelNames: ['attempt'],
    buckets: DURATION_BUCKETS,
    registers: this.#registers,
  });
  readonly downtime = new Histogram({
    name: 'nasmig_migration_downtime_seconds',
    help: 'How long VMs were stopped, as the source sidecar saw it.',
    labelNames: ['attempt'],
    buckets: DOWNTIME_BUCKETS,
    registers: this.#registers,
  });
  readonly arming = new Histogram({
    name: 'nasmig_arming_seconds',
    help: "From the target's ARMED to GO.",
    buckets: LATENCY_BUCKETS,
    registers: this.#registers,
  });
  readonly reconcileDuration = new Histogram({
    name: 'nasmig_reconcile_duration_seconds',
    help: 'Work on one object, once.',
    labelNames: ['outcome'],
    buckets: LATENCY_BUCKETS,
    registers: this.#registers,
  });
  readonly queueWait = new Histogram({
    name: 'nasmig_reconcile_queue_wait_seconds',
    help: 'How long an object waited for work on it.',
    buckets: LATENCY_BUCKETS,
    registers: this.#registers,
  });
  readonly apiRequests = new Counter({
    name: 'nasmig_api_requests_total',
    help: 'Requests to the API server; status 0 is no answer.',
    labelNames: ['method', 'resource', 'status'],
    registers: this.#registers,
  });
  readonly hubRefusals = new Counter({
    name: 'nasmig_hub_refused_connections_total',
    help: 'Connections of sidecars that were refused or closed, by reason.',
    labelNames: ['reason'],
    registers: this.#registers,
  });
  readonly webhookDecisions = new Counter({
    name: 'nasmig_webhook_decisions_total',
    help: 'Pods seen by the injection webhook, by what was decided.',
    labelNames: ['decision'],
    registers: this.#registers,
  });
  readonly webhookDuration = new Histogram({
    name: 'nasmig_webhook_duration_seconds',
    help: 'Answering the API server about one pod.',
    buckets: LATENCY_BUCKETS,
    registers: this.#registers,
  });

  /** Where the gauges look when they are scraped; set by the operator. */
  sources: GaugeSources = {
    hubConnections: () => 0,
    isLeader: () => false,
    queueDepth: () => 0,
    activeMigrations: () => 0,
    certificateExpirySeconds: () => 0,
  };

  constructor() {
    this.#gauge('nasmig_hub_connections', 'Sidecars that are connected.', () =>
      this.sources.hubConnections(),
    );
    this.#gauge('nasmig_leader', 'Whether this replica leads.', () => (this.sources.isLeader() ? 1 : 0));
    this.#gauge('nasmig_reconcile_queue_depth', 'Objects that wait for work on them.', () =>
      this.sources.queueDepth(),
    );
    this.#gauge('nasmig_active_migrations', 'Migrations whose sidecars are coordinated.', () =>
      this.sources.activeMigrations(),
    );
    this.#gauge(
      'nasmig_certificate_expiry_timestamp_seconds',
      'When the serving certificate of hub and webhook ends, if it is not renewed.',
      () => this.sources.certificateExpirySeconds(),
    );
  }

  #gauge(name: string, help: string, collect: () => number): void {
    new Gauge({
      name,
      help,
      registers: this.#registers,
      collect() {
        this.set(collect());
      },
    });
  }

  /** A migration came to its end. */
  finished(status: NasAwareMigrationStatus): void {
    const { phase = 'Failed', result } = status;
    const attempt = result?.attempt ?? 'Plain';
    this.migrations.inc({ phase, attempt, reason: result?.reason ?? '' });
    if (result === undefined) return;
    this.savedBytes.inc(result.savedBytes ?? 0);
    this.linkBytes.inc(result.linkBytes ?? 0);
    this.nasBytes.inc(result.nasBytes ?? 0);
    this.resends.inc(result.resends ?? 0);
    for (const [kind, count] of Object.entries(result.pages ?? {})) this.pages.inc({ kind }, count);
    if (result.durationMs !== undefined) this.duration.observe({ attempt }, result.durationMs / 1000);
    if (result.downtimeMs !== undefined) this.downtime.observe({ attempt }, result.downtimeMs / 1000);
  }
}
