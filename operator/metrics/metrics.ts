// The operator's Prometheus metrics: prefix `nasmig_`, base units, no label without bound. A migration's final numbers are in
// its object's status; here are sums, states and latencies, and series of those that run (migration-series.ts).
// docs/metrics.md is made from this registry.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { PageCounts, Progress } from '../../control/messages.ts';
import { reasons } from '../../control/reasons.ts';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import type { HubRefusal } from '../hub/hub.ts';
import { Fleet, type NodeSums } from './fleet.ts';
import { MigrationSeries } from './migration-series.ts';

const LATENCY_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const DURATION_BUCKETS = [1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280];
const BUILD_BUCKETS = [1, 5, 15, 60, 300, 900, 3600, 14_400];
const DOWNTIME_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9, 2, 5];

const PAGE_KINDS = [
  'reference',
  'literalRaw',
  'literalCompressed',
  'zero',
] as const satisfies (keyof PageCounts)[];

const HUB_REFUSALS: readonly HubRefusal[] = [
  ...(['path', 'full', 'address', 'token', 'unavailable', 'hello'] as const),
  ...(['message', 'rate', 'timeout', 'replaced'] as const),
];

/** The phases of a migration that is not finished. */
export type ActivePhase = 'Pending' | 'Preparing' | 'Migrating';

export interface GaugeSources {
  hubConnections: () => number;
  isLeader: () => boolean;
  queueDepth: () => number;
  /** NasAwareMigrations that are not finished, by phase; a replica that does not lead counts none. */
  activeMigrations: () => Readonly<Record<ActivePhase, number>>;
  coordinatedMigrations: () => number;
  certificateExpirySeconds: () => number;
  permitsHeld: () => number;
  permitsWaiting: () => number;
  permitLimit: () => number;
  clusterBreakerOpen: () => boolean;
  injectionRegistered: () => boolean;
  injectionStoppedNamespaces: () => number;
  nodeOfPod: (podUid: string) => string | undefined;
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
    activeMigrations: () => countActive([]),
    coordinatedMigrations: () => 0,
    certificateExpirySeconds: () => 0,
    permitsHeld: () => 0,
    permitsWaiting: () => 0,
    permitLimit: () => 0,
    clusterBreakerOpen: () => false,
    injectionRegistered: () => false,
    injectionStoppedNamespaces: () => 0,
    nodeOfPod: () => undefined,
  };

  readonly #indexRead = new Counter({
    name: 'nasmig_index_nas_read_bytes_total',
    help: 'Bytes that connected sidecars read from the NAS for indexes: to make them, and to grow them where no page came of it.',
    registers: this.#registers,
  });
  readonly #sidecarCpu = new Counter({
    name: 'nasmig_sidecar_cpu_seconds_total',
    help: 'CPU time of connected sidecars.',
    registers: this.#registers,
  });
  readonly #indexBuild = new Histogram({
    name: 'nasmig_index_build_seconds',
    help: 'How long it took a sidecar to make its index.',
    buckets: BUILD_BUCKETS,
    registers: this.#registers,
  });
  /** What connected sidecars said; fed by the hub. */
  readonly fleet = new Fleet({
    onCpu: (seconds) => this.#sidecarCpu.inc(seconds),
    onNasRead: (bytes) => this.#indexRead.inc(bytes),
    onBuilt: (seconds) => this.#indexBuild.observe(seconds),
  });
  /** Migrations that run; fed by the controller. */
  readonly running = new MigrationSeries();

  constructor() {
    this.#gauge('nasmig_hub_connections', 'Sidecars that are connected.', () =>
      this.sources.hubConnections(),
    );
    this.#gauge('nasmig_leader', 'Whether this replica leads.', () => (this.sources.isLeader() ? 1 : 0));
    this.#gauge('nasmig_reconcile_queue_depth', 'Objects that wait for work on them.', () =>
      this.sources.queueDepth(),
    );
    this.#activeGauge();
    this.#gauge('nasmig_coordinated_migrations', 'Migrations whose sidecars are coordinated.', () =>
      this.sources.coordinatedMigrations(),
    );
    this.#gauge(
      'nasmig_certificate_expiry_timestamp_seconds',
      'When the serving certificate of hub and webhook ends, if it is not renewed.',
      () => this.sources.certificateExpirySeconds(),
    );
    this.#gauge('nasmig_nas_permits_in_use', 'Migrations that hold permits to read the NAS.', () =>
      this.sources.permitsHeld(),
    );
    this.#gauge('nasmig_nas_permits_waiting', 'Migrations that wait for a permit to read the NAS.', () =>
      this.sources.permitsWaiting(),
    );
    this.#gauge('nasmig_nas_permits_limit', 'Permits for each NFS server; 0 is no limit.', () =>
      this.sources.permitLimit(),
    );
    this.#gauge(
      'nasmig_cluster_breaker_open',
      'Whether three accelerated attempts failed within an hour, so that nothing is accelerated. Alert on it.',
      () => (this.sources.clusterBreakerOpen() ? 1 : 0),
    );
    this.#gauge('nasmig_injection_registered', 'Whether the injection webhook is registered.', () =>
      this.sources.injectionRegistered() ? 1 : 0,
    );
    this.#gauge(
      'nasmig_injection_stopped_namespaces',
      'Namespaces without injection because a quota, a limit range, full nodes or an image that cannot be pulled stopped a pod with a sidecar.',
      () => this.sources.injectionStoppedNamespaces(),
    );
    this.#nodeGauge('nasmig_sidecars', 'Connected sidecars.', ({ sidecars }) => sidecars);
    this.#nodeGauge('nasmig_indexes_ready', 'Connected sidecars whose index is made.', ({ ready }) => ready);
    this.#nodeGauge('nasmig_index_blocks', 'Blocks in the indexes of sidecars.', ({ blocks }) => blocks);
    this.#nodeGauge(
      'nasmig_index_bytes',
      'Memory of the indexes of sidecars.',
      ({ indexBytes }) => indexBytes,
    );
    this.#nodeGauge(
      'nasmig_index_age_seconds',
      'Of the oldest index of the node: since it last took in a block.',
      ({ maxAgeSeconds }) => maxAgeSeconds,
    );
    this.#nodeGauge(
      'nasmig_sidecar_resident_bytes',
      'Resident memory of sidecars, as they said last.',
      ({ residentBytes }) => residentBytes,
    );
    this.#migrationGauge('nasmig_migration_ram_bytes', 'Guest memory.', ({ ramBytes }) => ramBytes);
    this.#migrationGauge(
      'nasmig_migration_remaining_bytes',
      'What QEMU has still to send.',
      ({ remainingBytes }) => remainingBytes,
    );
    this.#migrationGauge(
      'nasmig_migration_iteration',
      "QEMU's pass over the memory.",
      ({ iteration }) => iteration,
    );
    this.#migrationGauge(
      'nasmig_migration_qemu_bytes',
      'Bytes the source QEMU wrote so far.',
      ({ qemuBytes }) => qemuBytes,
    );
    this.#migrationGauge(
      'nasmig_migration_link_bytes',
      'Bytes on the migration link so far.',
      ({ linkBytes }) => linkBytes,
    );
    this.#migrationGauge(
      'nasmig_migration_nas_bytes',
      'Bytes read from the NAS so far.',
      ({ nasBytes }) => nasBytes,
    );
    this.#migrationGauge(
      'nasmig_migration_resent_batches',
      'Batches of which pages were sent again so far.',
      ({ resends }) => resends,
    );
    this.#pagesGauge();
    this.#startAtZero();
  }

  /** A series that begins with its first event at 1 hides that event from rate(): the ones that alerts ask for begin at 0. */
  #startAtZero(): void {
    const none = (phase: string, attempt: string, reason: string) =>
      this.migrations.inc({ phase, attempt, reason }, 0);
    none('Succeeded', 'Accelerated', '');
    none('Succeeded', 'Observed', 'Observing');
    for (const reason of ['MigrationFailed', 'MigrationDeleted', ...reasons])
      none('Failed', 'FailedWhileArmed', reason);
    for (const reason of reasons) none('Succeeded', 'Plain', reason);
    for (const attempt of ['Accelerated', 'FailedWhileArmed', 'Plain', 'Observed']) {
      this.duration.zero({ attempt });
      this.downtime.zero({ attempt });
    }
    for (const kind of PAGE_KINDS) this.pages.inc({ kind }, 0);
    for (const reason of HUB_REFUSALS) this.hubRefusals.inc({ reason }, 0);
  }

  #activeGauge(): void {
    const active = () => this.sources.activeMigrations();
    new Gauge({
      name: 'nasmig_active_migrations',
      help: 'NasAwareMigrations that are not finished, plain ones included, by phase. Told by the leader.',
      labelNames: ['phase'],
      registers: this.#registers,
      collect() {
        for (const [phase, count] of Object.entries(active())) this.set({ phase }, count);
      },
    });
  }

  #pagesGauge(): void {
    const { running } = this;
    new Gauge({
      name: 'nasmig_migration_pages',
      help: 'Pages of 4096 bytes so far, by what became of them. While the migration runs, and for a minute after.',
      labelNames: ['namespace', 'name', 'vmi', 'kind'],
      registers: this.#registers,
      collect() {
        this.reset();
        for (const { labels, progress } of running.samples())
          for (const kind of PAGE_KINDS) this.set({ ...labels, kind }, progress.pages[kind]);
      },
    });
  }

  /** One series for each node, at most so many as fleet.ts keeps apart. */
  #nodeGauge(name: string, help: string, value: (sums: NodeSums) => number): void {
    const { fleet } = this;
    const nodeOf = (podUid: string) => this.sources.nodeOfPod(podUid);
    new Gauge({
      name,
      help,
      labelNames: ['node'],
      registers: this.#registers,
      collect() {
        this.reset();
        for (const [node, sums] of fleet.byNode(nodeOf)) this.set({ node }, value(sums));
      },
    });
  }

  /** One series for each migration that runs or ended a moment ago. */
  #migrationGauge(name: string, help: string, value: (progress: Progress) => number): void {
    const { running } = this;
    new Gauge({
      name,
      help: `${help} While the migration runs, and for a minute after.`,
      labelNames: ['namespace', 'name', 'vmi'],
      registers: this.#registers,
      collect() {
        this.reset();
        for (const { labels, progress } of running.samples()) this.set({ ...labels }, value(progress));
      },
    });
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

/** How many are in each phase that is not an end; one that no controller has seen yet is Pending. */
export function countActive(phases: Iterable<string | undefined>): Record<ActivePhase, number> {
  const counts = { Pending: 0, Preparing: 0, Migrating: 0 };
  for (const phase of phases) {
    const known = phase ?? 'Pending';
    if (known in counts) counts[known as ActivePhase] += 1;
  }
  return counts;
}
