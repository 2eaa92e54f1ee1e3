// One migration through libvirt with a recorder beside each QEMU, so that what left the one and what reached the other can be
// compared, and with the link's bytes counted at the interface. Nothing of the system under test is asked.
//
//   QEMU → recorder → (sidecar) → virt-handler ══► virt-handler → (sidecar) → recorder → (gate) → QEMU

import { join } from 'node:path';
import { compareStreams, type StreamComparison } from '../lab/identical-streams.ts';
import { trafficBetween } from '../lab/interface-counters.ts';
import { Recorder, type RecorderReport } from '../lab/recorders.ts';
import type { LauncherLab } from './launcher-lab.ts';
import { type LauncherPod, POD_PATHS } from './launcher-pod.ts';
import { LiveMigration, type MigrationFlags, type MigrationResult } from './live-migration.ts';
import { socketName } from './virt-handler.ts';

/** Enough of the UID to be unique in a run, and short enough for a socket's path. */
const NAME_LENGTH = 8;

export interface RecordedMigrationOptions {
  readonly source: LauncherPod;
  readonly target: LauncherPod;
  readonly domain: string;
  readonly flags?: MigrationFlags;
  /** Stands between the target's recorder and QEMU: called with where to listen and what to dial, before QEMU is there. */
  readonly gate?: (listen: string, dial: string) => Promise<void>;
}

export interface Recording {
  readonly comparison: StreamComparison;
  /** What crossed the migration network in both directions, from the end of prepare() to the end of perform(). */
  readonly linkBytes: number;
}

/** Of a migration that was not begun. */
const NOTHING: StreamComparison = {
  identical: false,
  returnIdentical: false,
  streamBytes: 0,
  connections: [],
  differences: ['nothing was migrated'],
};

export class RecordedMigration {
  readonly migration: LiveMigration;
  readonly #lab: LauncherLab;
  readonly #options: RecordedMigrationOptions;
  readonly #name: string;
  #recorders: { readonly source: Recorder; readonly target: Recorder } | undefined;
  #linkBytes = 0;

  constructor(lab: LauncherLab, options: RecordedMigrationOptions) {
    this.#lab = lab;
    this.#options = options;
    const base = {
      source: lab.side(options.source),
      target: lab.side(options.target),
      domain: options.domain,
      ...(options.flags === undefined ? {} : { flags: options.flags }),
    };
    const migrationUid = crypto.randomUUID();
    this.#name = `stream-${migrationUid.slice(0, NAME_LENGTH)}`;
    this.migration = new LiveMigration({
      ...base,
      migrationUid,
      qemuSocket: join(POD_PATHS.observer, `${this.#name}.sock`),
    });
  }

  get migrationUid(): string {
    return this.migration.migrationUid;
  }

  prepareTarget(): Promise<void> {
    return this.migration.prepareTarget();
  }

  prepareSource(): Promise<void> {
    return this.migration.prepareSource();
  }

  cancel(): Promise<void> {
    return this.migration.cancel();
  }

  switchToPostCopy(): Promise<void> {
    return this.migration.switchToPostCopy();
  }

  /** The target's listeners, the source's sockets, and the recorders before and behind them. */
  async prepare(): Promise<void> {
    await this.migration.prepareTarget();
    await this.migration.prepareSource();
    await this.record();
  }

  /** Starts the recorders, for who takes the steps before one by one; the second call does nothing. */
  async record(): Promise<void> {
    if (this.#recorders !== undefined) return;
    const { source, target, gate } = this.#options;
    const qemu = (pod: LauncherPod): string => join(pod.observerDirectory, `${this.#name}.sock`);
    const stream = (pod: LauncherPod): string =>
      join(pod.socketDirectoryFromNode, socketName(this.migrationUid, 'stream'));
    const start = (pod: LauncherPod, listen: string, dial: string): Promise<Recorder> =>
      Recorder.start(pod.node, {
        name: `recorder-${pod.name}-${this.#name}`,
        listen,
        dial,
        reportPath: join(pod.observerDirectory, `${this.#name}.json`),
      });
    let behindTarget = qemu(target);
    if (gate !== undefined) {
      behindTarget = join(target.observerDirectory, `${this.#name}-gate.sock`);
      await gate(behindTarget, qemu(target));
    }
    this.#recorders = {
      target: await start(target, stream(target), behindTarget),
      source: await start(source, qemu(source), stream(source)),
    };
  }

  /** From libvirt's call to its answer. */
  async perform(options: { timeoutMs?: number } = {}): Promise<MigrationResult> {
    await this.record();
    const before = await this.#lab.lab.traffic();
    const result = await this.migration.perform(options);
    const { migration } = trafficBetween(before, await this.#lab.lab.traffic());
    this.#linkBytes = migration.sourceToTarget + migration.targetToSource;
    return result;
  }

  /** Stream bytes that left the source QEMU and that reached the target's, as of now. */
  async offsets(): Promise<{ readonly left: number; readonly reached: number }> {
    if (this.#recorders === undefined) throw new Error('offsets() comes after prepare()');
    const [source, target] = await Promise.all([
      this.#recorders.source.snapshot(),
      this.#recorders.target.snapshot(),
    ]);
    return { left: forwardBytes(source), reached: forwardBytes(target) };
  }

  /** virt-handlers' cleaning up, and the recorders' last reports. May be called again, and when nothing was prepared. */
  async finish(): Promise<Recording> {
    await this.migration.finish();
    if (this.#recorders === undefined) return { comparison: NOTHING, linkBytes: 0 };
    const [source, target] = await Promise.all([
      this.#recorders.source.finish(),
      this.#recorders.target.finish(),
    ]);
    return { comparison: compareStreams(source, target), linkBytes: this.#linkBytes };
  }
}

function forwardBytes(report: RecorderReport): number {
  return report.connections.reduce((sum, { forward }) => sum + forward.bytes, 0);
}
