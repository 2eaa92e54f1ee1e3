// The lab: two nodes and a NAS on one machine, each in its own namespaces, joined by links of settable rate.
// This is where the parts are put together; what they are and guarantee is in their own files. Several labs can run at
// once. A lab ends with close(), and by itself when its process is interrupted or dies.

import { cp, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type CgroupLayout, detectCgroups, ProcessCgroup } from './cgroup.ts';
import { DiskMount } from './disk-mount.ts';
import { ensureHostTools } from './host-tools.ts';
import { readTraffic, type Traffic } from './interface-counters.ts';
import { MigrationPath } from './migration-path.ts';
import { Nas } from './nas.ts';
import { LabNetwork, type NetworkRates, type NodeName, type PlaceName } from './network.ts';
import { NfsWriteCounter } from './nfs-write-counter.ts';
import { LabNode } from './node.ts';
import { ensureRoot, type RootSuite } from './roots.ts';
import { type Guardian, removeRun, startGuardian, sweepStaleRuns } from './run-cleanup.ts';
import { RunDirectory } from './run-directory.ts';

export interface LabOptions {
  /** Rate of the migration network in both directions, Mbit/s; 0 (the default): unlimited. */
  linkMbit?: number;
  /** Rate between the NAS and each node in both directions, Mbit/s; 0 (the default): unlimited. */
  nasMbit?: number;
  /** TLS between the migration proxies, as KubeVirt has it (the default). */
  tls?: boolean;
}

/** NAS and disk mounts come from here, whichever root the QEMUs under test come from. */
const SERVICES_SUITE: RootSuite = 'trixie';

const INTERRUPTS: readonly { signal: NodeJS.Signals; exitCode: number }[] = [
  { signal: 'SIGINT', exitCode: 130 },
  { signal: 'SIGTERM', exitCode: 143 },
];

interface LabParts {
  run: RunDirectory;
  network: LabNetwork;
  cgroups: CgroupLayout;
  source: LabNode;
  target: LabNode;
  nas: Nas;
  writeCounters: Record<NodeName, NfsWriteCounter>;
  servicesRoot: string;
  tls: boolean;
  guardian: Guardian;
}

export class Lab {
  readonly run: RunDirectory;
  readonly network: LabNetwork;
  readonly source: LabNode;
  readonly target: LabNode;
  readonly nas: Nas;
  private readonly parts: LabParts;
  private readonly removeHandlers: () => void;
  private closing: Promise<void> | null = null;

  private constructor(parts: LabParts) {
    this.parts = parts;
    this.run = parts.run;
    this.network = parts.network;
    this.source = parts.source;
    this.target = parts.target;
    this.nas = parts.nas;
    this.removeHandlers = this.closeOnInterrupt();
  }

  /**
   * Starts network, nodes and NAS (under a second when the Debian root is there; else it is built, about a minute).
   * Runs whose process is dead are removed first. Nothing is left behind when it throws.
   */
  static async start(options: LabOptions = {}): Promise<Lab> {
    await ensureHostTools();
    await sweepStaleRuns();
    const servicesRoot = await ensureRoot(SERVICES_SUITE);
    const run = await RunDirectory.create();
    const guardian = startGuardian(run);
    try {
      const cgroups = await detectCgroups();
      const network = await LabNetwork.create(run.id);
      const node = (place: PlaceName) => LabNode.start({ place, run, network, cgroups });
      const [source, target, nasNode] = await Promise.all([node('source'), node('target'), node('nas')]);
      const [nas, ...counters] = await Promise.all([
        Nas.start(nasNode, servicesRoot, run.bulkPath),
        NfsWriteCounter.start(source),
        NfsWriteCounter.start(target),
      ]);
      await network.setRates(symmetricRates(options.linkMbit ?? 0, options.nasMbit ?? 0));
      return new Lab({
        run,
        network,
        cgroups,
        source,
        target,
        nas,
        writeCounters: { source: counters[0], target: counters[1] },
        servicesRoot,
        tls: options.tls ?? true,
        guardian,
      });
    } catch (error) {
      await removeRun(run.id);
      guardian.dismiss();
      throw error;
    }
  }

  node(name: NodeName): LabNode {
    return name === 'source' ? this.source : this.target;
  }

  /** Makes a file of the NAS a file of a node (`<node directory>/<file>`). */
  mountDisk(name: NodeName, file: string, options: { readOnly?: boolean } = {}): Promise<DiskMount> {
    return DiskMount.mount(this.node(name), { file, root: this.parts.servicesRoot, ...options });
  }

  /** Recorders and proxies for one migration, from `from` (default: source) to the other node. */
  openMigrationPath(options: { name: string; sidecars: boolean; from?: NodeName }): Promise<MigrationPath> {
    const [from, to] = options.from === 'target' ? [this.target, this.source] : [this.source, this.target];
    const certificates = this.parts.tls ? join(this.run.path, 'certificates') : null;
    return MigrationPath.open(from, to, { name: options.name, sidecars: options.sidecars, certificates });
  }

  /** Bytes at the nodes' interfaces since the start; take the difference of two with trafficBetween(). */
  traffic(): Promise<Traffic> {
    return readTraffic(this.source.holderPid, this.target.holderPid);
  }

  /** File data that each node has written to the NAS since the start. */
  async nfsWrites(): Promise<Record<NodeName, number>> {
    const { source, target } = this.parts.writeCounters;
    const [sourceBytes, targetBytes] = await Promise.all([source.bytes(), target.bytes()]);
    return { source: sourceBytes, target: targetBytes };
  }

  /** CPU time of all processes of the run since the start: QEMUs, NAS, proxies, recorders, sidecars. */
  cpuSeconds(): Promise<number> {
    return ProcessCgroup.ofRun(this.parts.cgroups, this.run.id).cpuSeconds();
  }

  /** Ends and removes everything of this run. With `keepLogsIn` the logs of all processes are copied there first. */
  close(options: { keepLogsIn?: string } = {}): Promise<void> {
    this.closing ??= this.remove(options.keepLogsIn);
    return this.closing;
  }

  private async remove(keepLogsIn: string | undefined): Promise<void> {
    if (keepLogsIn !== undefined) {
      await mkdir(keepLogsIn, { recursive: true });
      await cp(join(this.run.path, 'logs'), keepLogsIn, { recursive: true });
    }
    await removeRun(this.run.id);
    this.parts.guardian.dismiss();
    this.removeHandlers();
  }

  /** An interrupted lab removes itself before its process ends; a second interrupt leaves that to the guardian. */
  private closeOnInterrupt(): () => void {
    const handlers = INTERRUPTS.map(({ signal, exitCode }) => {
      const handler = () => {
        this.close().finally(() => process.exit(exitCode));
      };
      process.once(signal, handler);
      return { signal, handler };
    });
    return () => {
      for (const { signal, handler } of handlers) process.removeListener(signal, handler);
    };
  }
}

/** The same rate in both directions, and for both nodes to the NAS. Mbit/s, 0 is unlimited. */
export function symmetricRates(linkMbit: number, nasMbit: number): NetworkRates {
  const storage = { outMbit: nasMbit, inMbit: nasMbit };
  return {
    migration: { outMbit: linkMbit, inMbit: linkMbit },
    storage: { source: storage, target: storage },
  };
}
