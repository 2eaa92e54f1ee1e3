// One migration through libvirt, looked at from outside: a recorder beside each QEMU, between it and the socket whose place the
// sidecar takes, and the interfaces' counters from libvirt's call to its answer. Nothing of the system under test is asked.
//
//   QEMU → recorder → (sidecar) → virt-handler ══► virt-handler → (sidecar) → recorder → QEMU

import { join } from 'node:path';
import { compareStreams, type StreamComparison } from '../lab/identical-streams.ts';
import { type Traffic, trafficBetween } from '../lab/interface-counters.ts';
import type { Lab } from '../lab/lab.ts';
import { Recorder } from '../lab/recorders.ts';
import { type LauncherPod, POD_PATHS } from '../launcher/launcher-pod.ts';
import { socketName } from '../launcher/virt-handler.ts';
import type { MigrationProbe } from './virt-handlers.ts';

/** Enough of the UID to be unique in a run, and short enough for a socket's path. */
const NAME_LENGTH = 8;

export interface RecordedMigration {
  readonly comparison: StreamComparison;
  /** Both directions on the migration network, and each node's storage network; `atMs` is the time between. */
  readonly traffic: Traffic;
  /** File data that both nodes wrote to the NAS meanwhile. */
  readonly nfsWritten: number;
}

export class MigrationRecording implements MigrationProbe {
  readonly qemuSocket: string;
  readonly #lab: Lab;
  readonly #migrationUid: string;
  readonly #pods: { readonly source: LauncherPod; readonly target: LauncherPod };
  readonly #name: string;
  #recorders: { source: Recorder; target: Recorder } | undefined;
  #before: { traffic: Traffic; written: number } | undefined;
  #recorded: RecordedMigration | undefined;

  constructor(lab: Lab, migrationUid: string, source: LauncherPod, target: LauncherPod) {
    this.#lab = lab;
    this.#migrationUid = migrationUid;
    this.#pods = { source, target };
    this.#name = `stream-${migrationUid.slice(0, NAME_LENGTH)}.sock`;
    this.qemuSocket = join(POD_PATHS.observer, this.#name);
  }

  async begin(): Promise<void> {
    const { source, target } = this.#pods;
    const of = (pod: LauncherPod): { qemu: string; stream: string } => ({
      qemu: join(pod.observerDirectory, this.#name),
      stream: join(pod.socketDirectoryFromNode, socketName(this.#migrationUid, 'stream')),
    });
    const start = (pod: LauncherPod, listen: string, dial: string): Promise<Recorder> => {
      const name = `recorder-${pod.name}-${this.#migrationUid.slice(0, NAME_LENGTH)}`;
      return Recorder.start(pod.node, {
        name,
        listen,
        dial,
        reportPath: join(pod.observerDirectory, `${name}.json`),
      });
    };
    this.#recorders = {
      target: await start(target, of(target).stream, of(target).qemu),
      source: await start(source, of(source).qemu, of(source).stream),
    };
    const written = await this.#written();
    this.#before = { traffic: await this.#lab.traffic(), written };
  }

  async end(): Promise<void> {
    const after = await this.#lab.traffic();
    if (this.#recorders === undefined || this.#before === undefined)
      throw new Error('end() comes after begin()');
    const [source, target] = await Promise.all([
      this.#recorders.source.finish(),
      this.#recorders.target.finish(),
    ]);
    this.#recorded = {
      comparison: compareStreams(source, target),
      traffic: trafficBetween(this.#before.traffic, after),
      nfsWritten: (await this.#written()) - this.#before.written,
    };
  }

  async #written(): Promise<number> {
    const { source, target } = await this.#lab.nfsWrites();
    return source + target;
  }

  /** What was seen; throws before the migration has ended. */
  get recorded(): RecordedMigration {
    if (this.#recorded === undefined) throw new Error(`migration ${this.#migrationUid} has not ended`);
    return this.#recorded;
  }
}
