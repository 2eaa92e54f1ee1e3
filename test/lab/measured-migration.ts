// One migration in a lab of its own, measured from outside: bytes at the interfaces, time by the wall clock, the guest's
// gap by its beacons, equality of the streams by the recorders. The programs under test only add how they got there.

import { randomBytes, randomUUID } from 'node:crypto';
import { chown } from 'node:fs/promises';
import { GuestObserver } from './guest-observer.ts';
import type { GuestProfileName } from './guest-profiles.ts';
import { compareStreams, identicalStreams } from './identical-streams.ts';
import { trafficBetween } from './interface-counters.ts';
import { Lab } from './lab.ts';
import { type LabNode, QEMU_OWNER } from './node.ts';
import { type MigrationOutcome, type MigrationSettings, Qemu } from './qemu.ts';
import { forwardBytesSince } from './recorders.ts';
import type { RootSuite } from './roots.ts';
import { SidecarProcess, type SidecarResult, type SidecarState } from './sidecar-process.ts';
import { copyDisk, ensureWarmState, GUESTS_DIRECTORY, guestOptions, type WarmState } from './warm-state.ts';

export type Method = 'plain' | 'zstd' | 'nas';

export interface Scenario {
  readonly method: Method;
  readonly profile: GuestProfileName;
  readonly suite: RootSuite;
  /** Multifd channels; 0 or 1: pages on the main channel. */
  readonly channels: number;
  /** Rates in both directions; 0: unlimited. */
  readonly linkMbit: number;
  readonly nasMbit: number;
  readonly downtimeLimitMs: number;
  /** After this long without convergence it is cancelled. */
  readonly timeoutMs: number;
  readonly index: 'full' | 'sampled';
  readonly pace?: boolean;
  readonly zstd?: boolean;
}

export interface Progress {
  readonly elapsedMs: number;
  readonly ram: MigrationOutcome['ram'];
  readonly source: SidecarState | null;
  readonly target: SidecarState | null;
}

export interface Measurement {
  readonly scenario: Scenario;
  readonly qemuVersion: string;
  readonly memory: WarmState['memory'];
  readonly outcome: MigrationOutcome;
  readonly converged: boolean;
  readonly linkBytes: number;
  readonly storage: { readonly sourceRead: number; readonly targetRead: number; readonly written: number };
  /** Bytes over the storage network while the index was made. */
  readonly indexNasBytes: number;
  readonly streamBytes: number;
  /** Bytes the two QEMUs exchanged after the guest stopped. */
  readonly bytesAfterStop: number | null;
  readonly guestGapMs: number | null;
  readonly guestSelfCheck: 'ok' | 'failed' | 'none';
  readonly identicalStreams: boolean | null;
  readonly differences: readonly string[];
  readonly sidecars: { readonly source: SidecarResult; readonly target: SidecarResult } | null;
  readonly sidecarCpuSeconds: { readonly source: number; readonly target: number } | null;
}

/** Long enough for a full index of a few GiB over a slow NAS. */
const SIDECAR_READY_MS = 120_000;
const SIDECAR_RESULT_MS = 5_000;
const PROGRESS_MS = 250;
const FIRST_BEACON_MS = 15_000;

/** Runs the scenario from the saved warm state to the guest's self-check on the other side. */
export async function measureMigration(
  scenario: Scenario,
  say: (message: string) => void,
  onProgress: (progress: Progress) => void,
  keepLogsIn?: string,
): Promise<Measurement> {
  const state = await ensureWarmState(scenario.profile, scenario.suite, say);
  const lab = await Lab.start({ linkMbit: scenario.linkMbit, nasMbit: scenario.nasMbit });
  const observer = new GuestObserver();
  try {
    return await measureIn(lab, observer, scenario, state, say, onProgress);
  } finally {
    await observer.close();
    await lab.close(keepLogsIn === undefined ? {} : { keepLogsIn });
  }
}

async function measureIn(
  lab: Lab,
  observer: GuestObserver,
  scenario: Scenario,
  state: WarmState,
  say: (message: string) => void,
  onProgress: (progress: Progress) => void,
): Promise<Measurement> {
  const accelerated = scenario.method === 'nas';
  await copyDisk(state, lab.nas.file('disk.img'));
  await chown(lab.nas.file('disk.img'), QEMU_OWNER.uid, QEMU_OWNER.gid);
  const [sourceDisk, targetDisk] = await Promise.all([
    lab.mountDisk('source', 'disk.img'),
    lab.mountDisk('target', 'disk.img'),
  ]);
  const path = await lab.openMigrationPath({ name: 'migration', sidecars: accelerated });
  const startQemu = async (node: LabNode, diskPath: string, incoming: boolean): Promise<Qemu> => {
    await node.bindIntoRoot(state.root, GUESTS_DIRECTORY);
    await observer.listen(node.file('net.sock'), node.place);
    const place = {
      diskPath,
      networkSocketPath: node.file('net.sock'),
      qmpSocketPath: node.file('qmp.sock'),
      serialLogPath: node.file('serial.log'),
    };
    const start = incoming ? ({ kind: 'incoming' } as const) : ({ kind: 'state' } as const);
    return Qemu.start(node, guestOptions(state, place, start));
  };
  say(`starting the ${scenario.profile} guest from its saved state`);
  const source = await startQemu(lab.source, sourceDisk.path, false);
  await source.cont();
  await observer.waitForNext(FIRST_BEACON_MS);
  const target = await startQemu(lab.target, targetDisk.path, true);

  const beforeIndex = await lab.traffic();
  const sidecars =
    path.sidecars === null
      ? null
      : await startSidecars(
          lab,
          path.sidecars,
          scenario,
          { source: sourceDisk.path, target: targetDisk.path },
          say,
        );
  const indexTraffic = trafficBetween(beforeIndex, await lab.traffic()).storage;
  for (const command of state.profile.beforeMigration) await observer.command(command);

  const settings: MigrationSettings = {
    channels: scenario.channels,
    downtimeLimitMs: scenario.downtimeLimitMs,
    multifdCompression: scenario.method === 'zstd' ? 'zstd' : 'none',
  };
  await target.listen(`unix:${path.targetSocket}`, settings);
  observer.mark();
  const cpuBefore = sidecars === null ? null : await cpuSeconds(sidecars);
  const before = await lab.traffic();
  const startedAt = performance.now();
  const ticker = setInterval(() => {
    void (async () => {
      const [sourceState, targetState] =
        sidecars === null
          ? [null, null]
          : await Promise.all([sidecars.source.state(), sidecars.target.state()]);
      onProgress({
        elapsedMs: performance.now() - startedAt,
        ram: lastRam,
        source: sourceState,
        target: targetState,
      });
    })().catch(() => undefined);
  }, PROGRESS_MS);
  let lastRam: MigrationOutcome['ram'] = null;
  let outcome: MigrationOutcome;
  try {
    outcome = await source.migrate(`unix:${path.sourceSocket}`, settings, {
      destination: target,
      timeoutMs: scenario.timeoutMs,
      onProgress: (ram) => {
        lastRam = ram.ram;
      },
    });
  } finally {
    clearInterval(ticker);
  }
  const used = trafficBetween(before, await lab.traffic());
  const cpuAfter = sidecars === null ? null : await cpuSeconds(sidecars);
  const converged = outcome.status === 'completed';
  const gap = observer.report().longestGap;
  if (converged) await observer.command({ kind: 'verifyAll' });
  const guest = observer.report();
  const results =
    sidecars === null
      ? null
      : {
          source: await sidecars.source.result(SIDECAR_RESULT_MS),
          target: await sidecars.target.result(SIDECAR_RESULT_MS),
        };
  await Promise.all([source.quit(), target.quit()]);
  const reports = await path.finish();
  const comparison = compareStreams(reports.source, reports.target);
  return {
    scenario,
    qemuVersion: source.version,
    memory: state.memory,
    outcome,
    converged,
    linkBytes: used.migration.sourceToTarget,
    storage: {
      sourceRead: used.storage.source.read,
      targetRead: used.storage.target.read,
      written: used.storage.source.written + used.storage.target.written,
    },
    indexNasBytes: accelerated ? indexTraffic.source.read + indexTraffic.target.read : 0,
    streamBytes: comparison.streamBytes,
    bytesAfterStop: outcome.stopAtMs === null ? null : forwardBytesSince(reports.target, outcome.stopAtMs),
    guestGapMs: gap?.gapMs ?? null,
    guestSelfCheck: guest.selfCheck,
    identicalStreams: identicalStreams(comparison, converged),
    differences: comparison.differences,
    sidecars: results,
    sidecarCpuSeconds:
      cpuBefore === null || cpuAfter === null
        ? null
        : { source: cpuAfter.source - cpuBefore.source, target: cpuAfter.target - cpuBefore.target },
  };
}

interface Sidecars {
  readonly source: SidecarProcess;
  readonly target: SidecarProcess;
}

async function startSidecars(
  lab: Lab,
  sockets: { source: { listen: string; dial: string }; target: { listen: string; dial: string } },
  scenario: Scenario,
  volumes: { source: string; target: string },
  say: (message: string) => void,
): Promise<Sidecars> {
  const shared = {
    migrationId: randomUUID(),
    sessionKey: randomBytes(32).toString('hex'),
    downtimeLimitMs: scenario.downtimeLimitMs,
    pace: scenario.pace ?? true,
    zstd: scenario.zstd ?? true,
  };
  say(`starting the sidecars; the source makes its index (${scenario.index})`);
  const [source, target] = await Promise.all([
    SidecarProcess.start(
      lab.source,
      {
        ...shared,
        role: 'source',
        sockets: sockets.source,
        volumePath: volumes.source,
        index: { kind: scenario.index },
      },
      SIDECAR_READY_MS,
    ),
    SidecarProcess.start(
      lab.target,
      {
        ...shared,
        role: 'target',
        sockets: sockets.target,
        volumePath: volumes.target,
        index: { kind: 'inherit' },
      },
      SIDECAR_READY_MS,
    ),
  ]);
  return { source, target };
}

async function cpuSeconds(sidecars: Sidecars): Promise<{ source: number; target: number }> {
  const [source, target] = await Promise.all([
    sidecars.source.process.cgroup.cpuSeconds(),
    sidecars.target.process.cgroup.cpuSeconds(),
  ]);
  return { source, target };
}
