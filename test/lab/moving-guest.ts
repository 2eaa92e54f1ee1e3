// A running guest in a lab of its own that is moved from node to node and back, each move measured from outside. A move makes
// everything it needs (recorders, proxies, sidecars, the incoming QEMU) and takes it down again; what lives on is the guest, its
// disk on the NAS, and the index that each target inherited.

import { randomBytes, randomUUID } from 'node:crypto';
import { chown, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pathExists } from './build-cache.ts';
import { busyShare, cpuTimes } from './busy-share.ts';
import { GuestObserver } from './guest-observer.ts';
import { compareStreams, identicalStreams } from './identical-streams.ts';
import { type Traffic, trafficBetween } from './interface-counters.ts';
import { Lab } from './lab.ts';
import { LinkTimeline } from './link-timeline.ts';
import type { Measurement, Progress, Scenario } from './measured-migration.ts';
import { compareDumps, type MemoryDifference } from './memory-statistics.ts';
import type { MigrationPath } from './migration-path.ts';
import type { NodeName } from './network.ts';
import { QEMU_OWNER } from './node.ts';
import { guestMemoryKib } from './odd-memory.ts';
import { type MigrationOutcome, type MigrationSettings, MigrationTimeoutError, Qemu } from './qemu.ts';
import { fastestForwardBytes, forwardBytesSince } from './recorders.ts';
import { SidecarProcess } from './sidecar-process.ts';
import { copyDisk, GUESTS_DIRECTORY, type GuestStart, guestOptions, type WarmState } from './warm-state.ts';

/** Long enough for a full index of a few GiB over a slow NAS. */
const SIDECAR_READY_MS = 120_000;
const SIDECAR_RESULT_MS = 5_000;
const PROGRESS_MS = 250;
const FIRST_BEACON_MS = 15_000;
const DISK = 'disk.img';
/**
 * What opening the volumes reads at most: attributes, and a block on each node to see whether O_DIRECT works (18 KB seen, NFS and
 * headers included). Not for the index; a sampled one reads thousands of times as much.
 */
const OPENING_BYTES = 64 * 1024;
const MILLISECONDS_PER_SECOND = 1000;

interface Sidecars {
  readonly source: SidecarProcess;
  readonly target: SidecarProcess;
  readonly indexNasBytes: number;
  readonly madeAtMs: number;
  /** File data written by both nodes until the index was made. */
  readonly writtenBefore: number;
}

export class MovingGuest {
  readonly lab: Lab;
  readonly #state: WarmState;
  readonly #scenario: Scenario;
  readonly #say: (message: string) => void;
  readonly #observer = new GuestObserver();
  #diskPaths: Record<NodeName, string> = { source: '', target: '' };
  #home: NodeName = 'source';
  #qemu: Qemu | undefined;
  #hop = 0;
  /** The index that the guest's present node inherited. */
  #inherited: { file: string; atMs: number; writtenBefore: number } | undefined;

  private constructor(lab: Lab, state: WarmState, scenario: Scenario, say: (message: string) => void) {
    this.lab = lab;
    this.#state = state;
    this.#scenario = scenario;
    this.#say = say;
  }

  /** Starts the lab and, from its saved state, the guest on node `source`. Nothing is left behind when it throws. */
  static async start(
    state: WarmState,
    scenario: Scenario,
    say: (message: string) => void,
  ): Promise<MovingGuest> {
    const lab = await Lab.start({ linkMbit: scenario.linkMbit, nasMbit: scenario.nasMbit });
    const guest = new MovingGuest(lab, state, scenario, say);
    try {
      await guest.#startOnSource();
      return guest;
    } catch (error) {
      await guest.close();
      throw error;
    }
  }

  /**
   * Moves the guest to the other node. A migration that fails or does not converge is measured too, and ends the guest.
   * `again`: the guest will be moved on, so the target keeps the index that it inherits.
   */
  async move(onProgress: (progress: Progress) => void, again: boolean): Promise<Measurement> {
    const from = this.#home;
    const to: NodeName = from === 'source' ? 'target' : 'source';
    const source = this.#qemu;
    if (source === undefined) throw new Error('the guest has ended');
    const scenario = this.#scenario;
    const hop = ++this.#hop;
    const accelerated = scenario.method === 'nas';
    const path = await this.lab.openMigrationPath({ name: `move-${hop}`, sidecars: accelerated, from });
    const target = await this.#startQemu(to, {
      kind: 'incoming',
      paused: scenario.compareMemory ?? false,
    });
    const sidecars = accelerated ? await this.#startSidecars(path, from, to, again) : null;
    if (hop === 1) {
      for (const command of scenario.beforeMigration ?? this.#state.profile.beforeMigration)
        await this.#observer.command(command);
    }
    const settings: MigrationSettings = {
      channels: scenario.channels,
      downtimeLimitMs: scenario.downtimeLimitMs,
      multifdCompression: scenario.method === 'zstd' ? 'zstd' : 'none',
      ...(scenario.availSwitchoverBytesPerSecond === undefined
        ? {}
        : { availSwitchoverBytesPerSecond: scenario.availSwitchoverBytesPerSecond }),
    };
    await target.listen(`unix:${path.targetSocket}`, settings);

    this.#observer.mark();
    const cpuBefore = sidecars === null ? null : await cpuSeconds(sidecars);
    const writtenBefore = await this.#written();
    const indexAgeSeconds =
      sidecars === null ? 0 : (performance.now() - sidecars.madeAtMs) / MILLISECONDS_PER_SECOND;
    const labCpuBefore = await this.lab.cpuSeconds();
    const cpuTimesBefore = cpuTimes();
    const before = await this.lab.traffic();
    const timeline = LinkTimeline.start(this.lab.node(from));
    const outcome = await this.#migrate(source, target, path, settings, sidecars, onProgress).finally(() =>
      timeline.end(),
    );
    const used = trafficBetween(before, await this.lab.traffic());
    const busy = busyShare(cpuTimesBefore, cpuTimes());
    const labCpuSeconds = (await this.lab.cpuSeconds()) - labCpuBefore;
    const cpuAfter = sidecars === null ? null : await cpuSeconds(sidecars);
    const written = (await this.#written()) - writtenBefore;
    const converged = outcome.status === 'completed';
    const memoryDifference =
      converged && scenario.compareMemory ? await this.#compareMemory(source, target) : null;
    const gapMs = this.#observer.report().longestGap?.gapMs ?? null;
    if (converged && (scenario.verifyAll ?? true)) await this.#observer.command({ kind: 'verifyAll' });
    const guest = this.#observer.report();
    const results =
      sidecars === null
        ? null
        : {
            source: await sidecars.source.result(SIDECAR_RESULT_MS),
            target: await sidecars.target.result(SIDECAR_RESULT_MS),
          };
    if (accelerated && converged && again)
      this.#inherited = {
        file: this.#inheritedFile(hop),
        atMs: performance.now(),
        writtenBefore: await this.#written(),
      };
    await Promise.all([source.quit(), converged ? undefined : target.quit()]);
    this.#qemu = converged ? target : undefined;
    this.#home = to;
    const reports = await path.finish();
    const comparison = compareStreams(reports.source, reports.target);
    return {
      scenario,
      qemuVersion: source.version,
      memory: this.#state.memory,
      outcome,
      converged,
      linkBytes: from === 'source' ? used.migration.sourceToTarget : used.migration.targetToSource,
      storage: { sourceRead: used.storage[from].read, targetRead: used.storage[to].read, written },
      indexNasBytes: sidecars?.indexNasBytes ?? 0,
      indexAgeSeconds,
      writtenSinceIndex: sidecars === null ? 0 : writtenBefore - sidecars.writtenBefore,
      streamBytes: comparison.streamBytes,
      fastestSecondBytes: fastestForwardBytes(reports.source, MILLISECONDS_PER_SECOND),
      bytesAfterStop: outcome.stopAtMs === null ? null : forwardBytesSince(reports.target, outcome.stopAtMs),
      linkBytesAfterStop: outcome.stopAtMs === null ? null : timeline.bytesSince(outcome.stopAtMs),
      guestGapMs: gapMs,
      guestSelfCheck: guest.selfCheck,
      memoryDifference,
      identicalStreams: identicalStreams(comparison, converged),
      differences: comparison.differences,
      sidecars: results,
      referencesOff: sidecars === null ? null : await sidecars.source.referencesOff(),
      sidecarCpuSeconds:
        cpuBefore === null || cpuAfter === null
          ? null
          : { source: cpuAfter.source - cpuBefore.source, target: cpuAfter.target - cpuBefore.target },
      ...{ labCpuSeconds, busyShare: busy },
    };
  }

  async close(keepLogsIn?: string): Promise<void> {
    await this.#observer.close();
    await this.lab.close(keepLogsIn === undefined ? {} : { keepLogsIn });
  }

  async #startOnSource(): Promise<void> {
    const { lab } = this;
    await copyDisk(this.#state, lab.nas.file(DISK));
    await chown(lab.nas.file(DISK), QEMU_OWNER.uid, QEMU_OWNER.gid);
    const [source, target] = await Promise.all([
      lab.mountDisk('source', DISK),
      lab.mountDisk('target', DISK),
    ]);
    this.#diskPaths = { source: source.path, target: target.path };
    for (const node of [lab.source, lab.target]) await node.bindIntoRoot(this.#state.root, GUESTS_DIRECTORY);
    this.#say(`starting the ${this.#state.profile.name} guest from its saved state`);
    this.#qemu = await this.#startQemu('source', { kind: 'state' });
    await this.#qemu.cont();
    await this.#observer.waitForNext(FIRST_BEACON_MS);
  }

  /** Each QEMU has names of its own: the one before it on the same node may not be gone yet. */
  async #startQemu(name: NodeName, start: GuestStart): Promise<Qemu> {
    const node = this.lab.node(name);
    const file = (kind: string): string => node.file(`${kind}-${this.#hop}`);
    await this.#observer.listen(file('net'), `${name} ${this.#hop}`);
    const place = {
      name: `qemu-${this.#hop}`,
      diskPath: this.#diskPaths[name],
      networkSocketPath: file('net'),
      qmpSocketPath: file('qmp'),
      serialLogPath: file('serial'),
    };
    const qemu = await Qemu.start(node, guestOptions(this.#state, place, start));
    const diskBytes = await qemu.diskBytes();
    if (diskBytes === this.#state.diskBytes) return qemu;
    await qemu.quit();
    throw new Error(
      `QEMU on node ${name} sees a disk of ${diskBytes} bytes in place of ${this.#state.diskBytes}: its volume is not mounted`,
    );
  }

  /** Both QEMUs must be stopped; the target goes on afterwards. */
  async #compareMemory(source: Qemu, target: Qemu): Promise<MemoryDifference> {
    const { suite, root, profile } = this.#state;
    const directory = join(this.lab.run.bulkPath, 'memory');
    await mkdir(directory);
    for (const node of [this.lab.source, this.lab.target]) await node.bindIntoRoot(root, directory);
    const dumps = [join(directory, 'source'), join(directory, 'target')] as const;
    const memoryKib = guestMemoryKib(suite, profile.memoryMiB);
    await Promise.all([source.dumpMemory(dumps[0], memoryKib), target.dumpMemory(dumps[1], memoryKib)]);
    const difference = await compareDumps(...dumps);
    await Promise.all(dumps.map((dump) => rm(dump)));
    await target.cont();
    return difference;
  }

  async #startSidecars(path: MigrationPath, from: NodeName, to: NodeName, again: boolean): Promise<Sidecars> {
    const scenario = this.#scenario;
    if (path.sidecars === null) throw new Error('the path has no room for sidecars');
    const shared = {
      migrationId: randomUUID(),
      sessionKey: randomBytes(32).toString('hex'),
      downtimeLimitMs: scenario.downtimeLimitMs,
      pace: scenario.pace ?? true,
      zstd: scenario.zstd ?? true,
      name: String(this.#hop),
    };
    const inherited = this.#inherited;
    const index =
      inherited === undefined
        ? await firstIndex(scenario)
        : ({ kind: 'load', file: inherited.file } as const);
    this.#say(`starting the sidecars; the source's index: ${index.kind}`);
    const before = await this.lab.traffic();
    const [source, target] = await Promise.all([
      SidecarProcess.start(
        this.lab.node(from),
        {
          ...shared,
          role: 'source',
          sockets: path.sidecars.source,
          volumePath: this.#diskPaths[from],
          index,
        },
        SIDECAR_READY_MS,
      ),
      SidecarProcess.start(
        this.lab.node(to),
        {
          ...shared,
          role: 'target',
          sockets: path.sidecars.target,
          volumePath: this.#diskPaths[to],
          index: { kind: 'inherit', ...(again ? { file: this.#inheritedFile(this.#hop) } : {}) },
        },
        SIDECAR_READY_MS,
      ),
    ]);
    const used: Traffic['storage'] = trafficBetween(before, await this.lab.traffic()).storage;
    return {
      source,
      target,
      indexNasBytes: Math.max(0, used.source.read + used.target.read - OPENING_BYTES),
      madeAtMs: inherited?.atMs ?? performance.now(),
      writtenBefore: inherited?.writtenBefore ?? (await this.#written()),
    };
  }

  /** Beside the target sidecar's socket, in a directory that belongs to QEMU's user. */
  #inheritedFile(hop: number): string {
    const to = hop % 2 === 1 ? this.lab.target : this.lab.source;
    return to.file(`move-${hop}/inherited.index`);
  }

  /** File data that both nodes wrote to the NAS since the lab began. */
  async #written(): Promise<number> {
    const { source, target } = await this.lab.nfsWrites();
    return source + target;
  }

  async #migrate(
    source: Qemu,
    target: Qemu,
    path: MigrationPath,
    settings: MigrationSettings,
    sidecars: Sidecars | null,
    onProgress: (progress: Progress) => void,
  ): Promise<MigrationOutcome> {
    const startedAt = performance.now();
    const startedAtMs = Date.now();
    let ram: MigrationOutcome['ram'] = null;
    const tick = async (): Promise<void> => {
      const states = sidecars === null ? [] : [sidecars.source.state(), sidecars.target.state()];
      const [sourceState = null, targetState = null] = await Promise.all(states);
      onProgress({
        elapsedMs: performance.now() - startedAt,
        ram,
        source: sourceState,
        target: targetState,
      });
    };
    const ticker = setInterval(() => void tick().catch(() => undefined), PROGRESS_MS);
    try {
      return await source.migrate(`unix:${path.sourceSocket}`, settings, {
        ...(this.#scenario.compareMemory ? {} : { destination: target }),
        timeoutMs: this.#scenario.timeoutMs,
        onProgress: (progress) => {
          ram = progress.ram;
        },
      });
    } catch (error) {
      if (!(error instanceof MigrationTimeoutError)) throw error;
      return {
        status: 'cancelled',
        error: error.message,
        wallMs: performance.now() - startedAt,
        totalMs: null,
        downtimeMs: null,
        setupMs: null,
        ram: error.progress.ram,
        startedAtMs,
        stopAtMs: null,
        completedAtMs: null,
        resumeAtMs: null,
      };
    } finally {
      clearInterval(ticker);
    }
  }
}

async function firstIndex({ index, indexFile }: Scenario) {
  if (indexFile === undefined) return { kind: index };
  return { kind: (await pathExists(indexFile)) ? ('load' as const) : index, file: indexFile };
}

async function cpuSeconds(sidecars: Sidecars): Promise<{ source: number; target: number }> {
  const [source, target] = await Promise.all([
    sidecars.source.process.cgroup.cpuSeconds(),
    sidecars.target.process.cgroup.cpuSeconds(),
  ]);
  return { source, target };
}
