// One QEMU of the lab, driven over QMP: starts it in a node, migrates it as libvirt would (same capabilities, unix
// sockets), follows the migration to its end, and reports QEMU's own figures together with wall-clock times.
// It sees nothing of what is on the sockets; recorders and interface counters do.

import { rm } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { DISK_NODE, type QemuGuestOptions, qemuArguments } from './qemu-arguments.ts';
import { QmpClient, QmpClosedError, type QmpEvent } from './qmp.ts';

/** What of a node's process this file needs; NodeProcess has it. */
export interface QemuProcess {
  readonly pid: number;
  readonly running: boolean;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stop(timeoutMs?: number): Promise<unknown>;
  kill(): Promise<unknown>;
  logTail(): Promise<string>;
}

/** What of a node this file needs; LabNode and LocalNode have it. */
export interface QemuHost {
  spawn(options: {
    name: string;
    argv: readonly string[];
    root: string;
    user?: { uid: number; gid: number };
  }): Promise<QemuProcess>;
}

export interface QemuStartOptions extends QemuGuestOptions {
  /** Name of the process in its node. Default `qemu`. */
  name?: string;
  /** A Debian root made by ensureRoot. */
  root: string;
  user?: { uid: number; gid: number };
}

/** The settings of a migration; both sides must be given the same. */
export interface MigrationSettings {
  /** 0 or 1: no multifd. Default 0. */
  channels?: number;
  /** Default true. */
  returnPath?: boolean;
  /** Default false. Always on under libvirt. With it QEMU stops before the switch-over; `migrate` lets it go on at once. */
  pauseBeforeSwitchover?: boolean;
  /** Default 300, as QEMU and KubeVirt have it. */
  downtimeLimitMs?: number;
  /** Default: none, as KubeVirt has it. */
  maxBytesPerSecond?: number;
  /** Sent only when given; QEMU 8.2 and later. */
  availSwitchoverBytesPerSecond?: number;
  /** Default none. `zstd` needs channels. */
  multifdCompression?: 'none' | 'zstd';
}

/** Time of an event on the wall clock, in ms since 1970, by QEMU's own clock reading. */
export interface MigrationOutcome {
  status: 'completed' | 'failed' | 'cancelled';
  /** QEMU's reason when failed. */
  error: string | null;
  /** From the `migrate` command to the source's `completed`, by this process's clock. */
  wallMs: number;
  /** QEMU's own figures; null where the migration did not get that far. */
  totalMs: number | null;
  downtimeMs: number | null;
  setupMs: number | null;
  ram: RamStatistics | null;
  startedAtMs: number;
  /** When the guest stopped on the source. */
  stopAtMs: number | null;
  /** When the source said `completed`. */
  completedAtMs: number | null;
  /** When the guest ran on the destination. Filled in when `migrate` was given the destination. */
  resumeAtMs: number | null;
}

/** QEMU's `ram` of query-migrate, what the lab uses of it. */
export interface RamStatistics {
  totalBytes: number;
  transferredBytes: number;
  normalPages: number;
  zeroPages: number;
  dirtySyncs: number;
  remainingBytes: number;
  /** What QEMU measured over its last window of about 100 ms: times the downtime limit it is what QEMU stops the VM for. */
  bytesPerSecond: number;
}

/** A look at a migration that is under way. */
export interface MigrationProgress {
  status: string;
  elapsedMs: number;
  ram: RamStatistics | null;
}

/** 1 TiB/s: QEMU takes 0 for "no bandwidth" in some versions. */
const UNLIMITED_BYTES_PER_SECOND = 2 ** 40;
const PROGRESS_INTERVAL_MS = 100;
const START_TIMEOUT_MS = 60_000;
const RESUME_TIMEOUT_MS = 10_000;
const FINAL_STATUSES = ['completed', 'failed', 'cancelled'] as const;

/** QEMU ended while it was still needed. */
export class QemuEndedError extends Error {
  readonly code = 'NASMIG_LAB_QEMU_ENDED';
  constructor(what: string, log: string) {
    super(`QEMU ended ${what}; end of its log:\n${log || '(empty)'}`);
    this.name = 'QemuEndedError';
  }
}

/** A migration neither completed nor failed within the time it was given; it was cancelled. */
export class MigrationTimeoutError extends Error {
  readonly code = 'NASMIG_LAB_MIGRATION_TIMEOUT';
  readonly progress: MigrationProgress;
  constructor(timeoutMs: number, progress: MigrationProgress) {
    super(`the migration was still '${progress.status}' after ${timeoutMs} ms and has been cancelled`);
    this.name = 'MigrationTimeoutError';
    this.progress = progress;
  }
}

export interface MigrateOptions {
  /** The destination, to learn when the guest ran there. Not one that stays paused. */
  destination?: Qemu;
  /** Default two minutes. Then the migration is cancelled and MigrationTimeoutError thrown. */
  timeoutMs?: number;
  onProgress?: (progress: MigrationProgress) => void;
}

export class Qemu {
  readonly process: QemuProcess;
  readonly qmp: QmpClient;

  private constructor(process: QemuProcess, qmp: QmpClient) {
    this.process = process;
    this.qmp = qmp;
  }

  /** Starts QEMU in a node and connects to it. With a saved state it returns when that is loaded (paused). */
  static async start(host: QemuHost, options: QemuStartOptions): Promise<Qemu> {
    await rm(options.qmpSocketPath, { force: true });
    const process = await host.spawn({
      name: options.name ?? 'qemu',
      argv: ['qemu-system-x86_64', ...qemuArguments(options)],
      root: options.root,
      ...(options.user ? { user: options.user } : {}),
    });
    const gone = new AbortController();
    void process.ended.then(() => gone.abort());
    try {
      const qmp = await QmpClient.connect(options.qmpSocketPath, START_TIMEOUT_MS, gone.signal);
      const qemu = new Qemu(process, qmp);
      await qmp.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'events', state: true }],
      });
      if (options.start.kind === 'state') await qemu.#waitUntilLoaded();
      return qemu;
    } catch (error) {
      const ended = !process.running || error instanceof QmpClosedError;
      const log = await process.logTail();
      await process.kill();
      throw ended ? new QemuEndedError('while it started', log) : error;
    }
  }

  /** `10.0.13` */
  get version(): string {
    return this.qmp.version;
  }

  /** `running`, `paused`, `inmigrate`, `postmigrate`, ... */
  async status(): Promise<string> {
    return (await this.qmp.execute<{ status: string }>('query-status')).status;
  }

  async cont(): Promise<void> {
    await this.qmp.execute('cont');
  }

  async pause(): Promise<void> {
    await this.qmp.execute('stop');
  }

  /** Destination: takes the settings and listens at `uri` (`unix:/path`); QEMU has bound the socket when this returns. */
  async listen(uri: string, settings: MigrationSettings = {}): Promise<void> {
    await this.#applySettings(settings);
    await this.qmp.execute('migrate-incoming', { uri });
  }

  /** Source: migrates to `uri` and returns when it has completed, failed or been cancelled. Throws MigrationTimeoutError. */
  async migrate(
    uri: string,
    settings: MigrationSettings = {},
    options: MigrateOptions = {},
  ): Promise<MigrationOutcome> {
    await this.#applySettings(settings);
    const since = this.qmp.events.length;
    const destinationSince = options.destination?.qmp.events.length ?? 0;
    const startedAtMs = Date.now();
    const started = performance.now();
    await this.qmp.execute('migrate', { uri });
    const timeoutMs = options.timeoutMs ?? 120_000;
    const final = await this.#follow(since, started, timeoutMs, settings, options.onProgress);
    const wallMs = performance.now() - started;
    const report = await this.qmp.execute<QueryMigrate>('query-migrate');
    const seen = this.qmp.events.slice(since);
    const outcome: MigrationOutcome = {
      status: final.status,
      error: report['error-desc'] ?? null,
      wallMs,
      totalMs: report['total-time'] ?? null,
      downtimeMs: report.downtime ?? null,
      setupMs: report['setup-time'] ?? null,
      ram: ramStatistics(report),
      startedAtMs,
      stopAtMs: seen.findLast((event) => event.name === 'STOP')?.timestampMs ?? null,
      completedAtMs: final.status === 'completed' ? final.atMs : null,
      resumeAtMs: null,
    };
    if (outcome.status === 'completed' && options.destination) {
      outcome.resumeAtMs = await options.destination.#resumedAt(destinationSince);
    }
    return outcome;
  }

  /** What QEMU says of the migration under way, or of the last one. */
  async progress(sinceMs = 0): Promise<MigrationProgress> {
    const report = await this.qmp.execute<QueryMigrate>('query-migrate');
    return {
      status: report.status ?? 'none',
      elapsedMs: performance.now() - sinceMs,
      ram: ramStatistics(report),
    };
  }

  /** Cancels the migration under way; `migrate` then returns `cancelled`. */
  async cancelMigration(): Promise<void> {
    await this.qmp.execute('migrate_cancel');
  }

  /** Writes the state of the guest, which must be paused, to `path` (seen from inside the root). The guest stays paused. */
  async saveState(path: string, timeoutMs = 120_000): Promise<void> {
    const outcome = await this.migrate(`exec:cat > '${path}'`, { returnPath: false }, { timeoutMs });
    if (outcome.status !== 'completed')
      throw new QemuEndedError(`saving its state (${outcome.error})`, await this.process.logTail());
  }

  /** Writes the guest's physical memory, raw, to `path` (seen from inside the root). */
  async dumpMemory(path: string, memoryKib: number): Promise<void> {
    await this.qmp.execute('pmemsave', { val: 0, size: memoryKib * 1024, filename: path }, 120_000);
  }

  /** What QEMU found the guest's disk to have, bytes. Throws when the guest has none. */
  async diskBytes(): Promise<number> {
    const nodes = await this.qmp.execute<BlockNode[]>('query-named-block-nodes');
    const disk = nodes.find((node) => node['node-name'] === DISK_NODE);
    if (disk === undefined) throw new Error(`QEMU has no block node "${DISK_NODE}"`);
    return disk.image['virtual-size'];
  }

  /** Ends QEMU: by `quit`, or by signals when it does not answer. */
  async quit(): Promise<void> {
    if (this.process.running && !this.qmp.closed)
      await this.qmp.execute('quit', undefined, 2_000).catch(() => undefined);
    this.qmp.close();
    await this.process.stop();
  }

  async #applySettings(settings: MigrationSettings): Promise<void> {
    const channels = settings.channels ?? 0;
    const multifd = channels > 1;
    const wanted: Record<string, boolean> = {
      'return-path': settings.returnPath ?? true,
      multifd,
      'pause-before-switchover': settings.pauseBeforeSwitchover ?? false,
    };
    const capabilities = Object.entries(wanted).map(([capability, state]) => ({ capability, state }));
    await this.qmp.execute('migrate-set-capabilities', { capabilities });
    const parameters: Record<string, unknown> = {
      'max-bandwidth': settings.maxBytesPerSecond ?? UNLIMITED_BYTES_PER_SECOND,
      'downtime-limit': settings.downtimeLimitMs ?? 300,
    };
    if (multifd) {
      parameters['multifd-channels'] = channels;
      parameters['multifd-compression'] = settings.multifdCompression ?? 'none';
    }
    if (settings.availSwitchoverBytesPerSecond !== undefined) {
      parameters['avail-switchover-bandwidth'] = settings.availSwitchoverBytesPerSecond;
    }
    await this.qmp.execute('migrate-set-parameters', parameters);
  }

  async #follow(
    since: number,
    started: number,
    timeoutMs: number,
    settings: MigrationSettings,
    onProgress: MigrateOptions['onProgress'],
  ): Promise<{ status: MigrationOutcome['status']; atMs: number }> {
    let finished = false;
    const final = this.qmp
      .waitForEvent((event) => finalStatus(event) !== null, timeoutMs + 30_000, since)
      .finally(() => {
        finished = true;
      });
    if (settings.pauseBeforeSwitchover) {
      // The waiter may never be served (a migration that fails early); its rejection is nobody's concern then.
      this.qmp
        .waitForEvent((event) => isMigrationStatus(event, 'pre-switchover'), timeoutMs + 30_000, since)
        .then(() => this.qmp.execute('migrate-continue', { state: 'pre-switchover' }))
        .catch(() => undefined);
    }
    let cancelled: MigrationTimeoutError | null = null;
    while (!finished) {
      await Promise.race([final, sleep(PROGRESS_INTERVAL_MS)]);
      if (finished) break;
      if (onProgress) onProgress(await this.progress(started));
      if (!cancelled && performance.now() - started > timeoutMs) {
        cancelled = new MigrationTimeoutError(timeoutMs, await this.progress(started));
        await this.cancelMigration();
      }
    }
    const event = await final;
    const status = finalStatus(event);
    if (cancelled && status !== 'completed') throw cancelled;
    if (status === null) throw new Error('unreachable: waited for a final status');
    return { status, atMs: event.timestampMs };
  }

  async #resumedAt(since: number): Promise<number> {
    const event = await this.qmp.waitForEvent(
      (candidate) => candidate.name === 'RESUME',
      RESUME_TIMEOUT_MS,
      since,
    );
    return event.timestampMs;
  }

  async #waitUntilLoaded(): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    while ((await this.status()) === 'inmigrate') {
      if (Date.now() > deadline)
        throw new QemuEndedError('too late: its state did not load', await this.process.logTail());
      await sleep(20);
    }
  }
}

/** Of QMP's answer to query-named-block-nodes, as far as it is used. */
interface BlockNode {
  'node-name': string;
  image: { 'virtual-size': number };
}

/** QMP's answer to query-migrate, as far as it is used. */
interface QueryMigrate {
  status?: string;
  'error-desc'?: string;
  'total-time'?: number;
  'setup-time'?: number;
  downtime?: number;
  ram?: {
    total: number;
    transferred: number;
    normal: number;
    duplicate: number;
    remaining: number;
    'dirty-sync-count': number;
    mbps: number;
    'dirty-pages-rate': number;
  };
}

function ramStatistics(report: QueryMigrate): RamStatistics | null {
  if (!report.ram) return null;
  return {
    totalBytes: report.ram.total,
    transferredBytes: report.ram.transferred,
    normalPages: report.ram.normal,
    zeroPages: report.ram.duplicate,
    dirtySyncs: report.ram['dirty-sync-count'],
    remainingBytes: report.ram.remaining,
    bytesPerSecond: (report.ram.mbps * 1e6) / 8,
  };
}

function isMigrationStatus(event: QmpEvent, status: string): boolean {
  return event.name === 'MIGRATION' && event.data['status'] === status;
}

function finalStatus(event: QmpEvent): MigrationOutcome['status'] | null {
  return FINAL_STATUSES.find((status) => isMigrationStatus(event, status)) ?? null;
}
