// A live migration as KubeVirt runs it: peer-to-peer, live, persistent, both URIs unix sockets, with the flags that
// virt-launcher sets. Split into the steps of kubevirt.md, 3, so that a test can do something between two of them.

import { randomUUID } from 'node:crypto';
import { CommandFailedError } from '../lab/run-command.ts';
import { type LauncherPod, POD_PATHS, SOCKET_DIRECTORY } from './launcher-pod.ts';
import { type JobInfo, parseJobInfo } from './migration-job.ts';
import { type MigrationProxies, socketName, type TargetAddress, type VirtHandler } from './virt-handler.ts';

const DEFAULT_TIMEOUT_MS = 120_000;
/** A libvirt whose QEMU does not answer keeps this waiting too. */
const INFO_TIMEOUT_MS = 10_000;
/** KubeVirt's parallelMultifdMigrationThreads. */
export const KUBEVIRT_CHANNELS = 8;

/** What a MigrationPolicy and the VMI decide in KubeVirt. */
export interface MigrationFlags {
  /** multifd channels, 8 in KubeVirt unless the VMI has a CPU limit; 0: one plain connection. Default 8. */
  readonly channels?: number;
  readonly autoConverge?: boolean;
  /** Allows post-copy; `virsh migrate-postcopy` switches. */
  readonly postCopy?: boolean;
  /** bandwidthPerMigration, MiB/s; 0 or absent: unlimited. */
  readonly bandwidthMib?: number;
  /** spec.experimental.compression: multifd zstd. */
  readonly zstd?: boolean;
  /** Differences to what was sent before, in place of pages; without multifd. Not something that KubeVirt sets. */
  readonly xbzrle?: boolean;
  /** For a libvirt before 11.0, which cannot be told that the lab's FUSE files are on shared storage; NFS it knows by itself. */
  readonly unsafe?: boolean;
}

export interface MigrationSide {
  readonly pod: LauncherPod;
  readonly handler: VirtHandler;
  /** The node's address on the migration network. */
  readonly address: string;
}

export interface MigrationOptions {
  readonly source: MigrationSide;
  readonly target: MigrationSide;
  readonly domain: string;
  readonly flags?: MigrationFlags;
  /** The VMIM's UID; a new one unless given. */
  readonly migrationUid?: string;
  /** In both pods: where QEMU connects and listens, when a recorder stands between it and virt-handler's socket. */
  readonly qemuSocket?: string;
}

export interface MigrationResult {
  readonly succeeded: boolean;
  /** libvirt's words when it did not. */
  readonly error: string;
  /** From the call to libvirt to its answer: what virt-launcher would see. */
  readonly elapsedMs: number;
  /** libvirt's account, from the source; undefined when it has none. */
  readonly job: JobInfo | undefined;
}

export class LiveMigration {
  readonly migrationUid: string;
  readonly #options: MigrationOptions;
  #inbound: MigrationProxies | undefined;
  #outbound: MigrationProxies | undefined;
  #targetAddress: TargetAddress | undefined;

  constructor(options: MigrationOptions) {
    this.migrationUid = options.migrationUid ?? randomUUID();
    this.#options = options;
  }

  /** The proxies, for faults. Throws before the sockets are there. */
  get proxies(): { source: MigrationProxies; target: MigrationProxies } {
    if (this.#inbound === undefined || this.#outbound === undefined) {
      throw new Error('the proxies are not there yet: call prepareTarget() and prepareSource() first');
    }
    return { source: this.#outbound, target: this.#inbound };
  }

  /** Step 3: the target's directory and its TLS listeners. */
  async prepareTarget(): Promise<void> {
    const { target } = this.#options;
    await target.pod.makeSocketDirectory();
    const { proxies, address } = await target.handler.prepareTarget(
      target.pod,
      this.migrationUid,
      target.address,
    );
    this.#inbound = proxies;
    this.#targetAddress = address;
  }

  /** Step 4: the source's sockets. Called again, virt-handler makes them anew, as after a change of address. */
  async prepareSource(): Promise<void> {
    if (this.#targetAddress === undefined) throw new Error('prepareTarget() comes before prepareSource()');
    const { source } = this.#options;
    this.#outbound = await source.handler.prepareSource(
      source.pod,
      this.migrationUid,
      this.#targetAddress,
      this.#outbound,
    );
  }

  /** Steps 5 to 7. A failed migration is a result, not an exception. */
  async perform(options: { timeoutMs?: number } = {}): Promise<MigrationResult> {
    const { source, domain } = this.#options;
    const startedMs = performance.now();
    let error = '';
    try {
      await source.pod.virsh(this.#command(), { timeoutMs: options.timeoutMs ?? DEFAULT_TIMEOUT_MS });
    } catch (failure) {
      if (!(failure instanceof CommandFailedError)) throw failure;
      error = failure.output.trim() || failure.message;
    }
    const elapsedMs = performance.now() - startedMs;
    const info = await source.pod
      .virsh(['domjobinfo', domain, '--completed', '--keep-completed'], { timeoutMs: INFO_TIMEOUT_MS })
      .catch(() => '');
    return { succeeded: error === '', error, elapsedMs, job: parseJobInfo(info) };
  }

  /** VIR_DOMAIN_ABORT_JOB on the source, as a deleted VMIM does. */
  async cancel(): Promise<void> {
    await this.#options.source.pod.virsh(['domjobabort', this.#options.domain]);
  }

  /** Switches to post-copy, for a migration that allows it. */
  async switchToPostCopy(): Promise<void> {
    await this.#options.source.pod.virsh(['migrate-postcopy', this.#options.domain]);
  }

  /** The longest outage that QEMU may plan for; its default is 300 ms. */
  async setMaxDowntime(downtimeMs: number): Promise<void> {
    await this.#options.source.pod.virsh([
      'migrate-setmaxdowntime',
      this.#options.domain,
      String(downtimeMs),
    ]);
  }

  /** virt-handlers' cleaning up on both sides, whatever became of it. */
  async finish(): Promise<void> {
    await this.#outbound?.stop();
    await this.#inbound?.stop();
    this.#outbound = undefined;
    this.#inbound = undefined;
  }

  #command(): string[] {
    const flags = this.#options.flags ?? {};
    const channels = flags.channels ?? KUBEVIRT_CHANNELS;
    // libvirt and QEMU use these paths on both sides, each in its own pod.
    const directory = `/var${POD_PATHS.public}/${SOCKET_DIRECTORY}`;
    const command = ['migrate', this.#options.domain, '--live', '--p2p', '--persistent'];
    if (channels > 0) command.push('--parallel', '--parallel-connections', String(channels));
    if (flags.autoConverge) command.push('--auto-converge');
    if (flags.postCopy) command.push('--postcopy');
    if (flags.bandwidthMib !== undefined && flags.bandwidthMib > 0) {
      command.push('--bandwidth', String(flags.bandwidthMib));
    }
    if (flags.zstd) command.push('--compressed', '--comp-methods', 'zstd');
    if (flags.unsafe) command.push('--unsafe');
    if (flags.xbzrle) command.push('--compressed', '--comp-methods', 'xbzrle');
    command.push(
      ...['--desturi', `qemu+unix:///session?socket=${directory}/${socketName(this.migrationUid, 'rpc')}`],
      ...[
        '--migrateuri',
        `unix://${this.#options.qemuSocket ?? `${directory}/${socketName(this.migrationUid, 'stream')}`}`,
      ],
    );
    return command;
  }
}

/** A whole migration, from the target's listeners to the cleaning up. */
export async function migrateVm(
  options: MigrationOptions & { timeoutMs?: number },
): Promise<MigrationResult & { migrationUid: string }> {
  const migration = new LiveMigration(options);
  try {
    await migration.prepareTarget();
    await migration.prepareSource();
    const result = await migration.perform(
      options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs },
    );
    return { ...result, migrationUid: migration.migrationUid };
  } finally {
    await migration.finish();
  }
}
