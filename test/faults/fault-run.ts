// One fault run: a migration is begun, broken where the plan says, watched from outside until the VM runs on exactly one side,
// and judged against the table. Afterwards the VM moves plainly, so that the next run finds it in a fresh pod and
// accelerates it again.

import { setTimeout as sleep } from 'node:timers/promises';
import { runCommand } from '../lab/run-command.ts';
import type { MigrationResult } from '../launcher/live-migration.ts';
import type { RecordedMigration } from '../launcher/recorded-migration.ts';
import { type Home, TravellingGuest, VOLUME } from '../launcher/travelling-guest.ts';
import { expectedOutcome } from './expected-outcomes.ts';
import type { PlannedFault } from './fault-plan.ts';
import { type Injected, inject } from './injector.ts';
import { type Inodes, leftAtSource, madeByVirtHandler } from './leavings.ts';
import { Monitor, OutsideObserver } from './outside-observer.ts';
import { PhaseMissedError, reachPhase } from './phase-triggers.ts';
import { ShutGate } from './shut-gate.ts';
import { type Ending, judge, outcomeOf, RUNS_AGAIN_WITHIN_MS, type Verdict } from './verdict.ts';

/** Small, so that a run is short; with enough of its own that the link is busy for seconds. */
const GUEST = { memoryMiB: 256, readMiB: 96, randomMiB: 24, textMiB: 0, churnMiB: 0 };
const LINK_MBIT = 100;
/** Rewrites enough for a second pass, and less than the link carries. */
const LOAD = { kind: 'load', anonymousBytesPerSecond: 3 * 2 ** 20, fileBytesPerSecond: 0 } as const;
const PUBLIC_LIMIT_BYTES = 2 * 2 ** 20;
const PHASE_TIMEOUT_MS = 40_000;
/** libvirt gives a silent connection up after 30 s, and then tidies up: its call is over by then. The VM runs earlier. */
const CALL_ENDS_WITHIN_MS = 50_000;
const PERFORM_TIMEOUT_MS = 90_000;
/** SHUT is held so long after the fault: what the fault does is done by then. */
const SHUT_HELD_MS = 700;
const TIDY_WITHIN_MS = 5_000;
/**
 * A destination QEMU whose main thread waits for a channel's SYNC does not see that the channel has ended (docs/limits.md): libvirt ends it by
 * SIGTERM and, 10 s later, SIGKILL.
 */
const TARGET_ENDS_WITHIN_MS = 20_000;
const TIDY_POLL_MS = 50;
/** Times that a run whose phase was missed is begun anew. */
const MOST_MISSES = 3;

type Stage = 'prepared' | 'hit' | 'ended' | 'judged' | 'movedPlainly';

export interface FaultRun {
  readonly number: number;
  readonly fault: string;
  readonly phase: string;
  readonly channels: number;
  /** What was seen when the phase was reached, and what was done. */
  readonly seen: string;
  readonly injected: string;
  /** Stream bytes when the fault was injected. */
  readonly offsets: { readonly left: number; readonly reached: number };
  readonly framedInFlight: boolean;
  readonly outcome: Ending;
  readonly expected: readonly Ending[];
  readonly verdict: Verdict;
  readonly error: string;
  /** The source sidecar's reason or detail. */
  readonly told: string;
  /** Names in the socket directories that should have been gone. */
  readonly leftBehind: readonly string[];
  readonly selfCheck: 'ok' | 'failed' | 'none';
  readonly identicalStreams: boolean | null;
  /** The plain migration after it succeeded. */
  readonly plainAfter: boolean;
  readonly missed: number;
  readonly elapsedMs: number;
  /** What of it went where: before the migration, until the fault, until libvirt's answer, for the verdict, for the plain migration. */
  readonly stagesMs: Readonly<Record<Stage, number>>;
  /** Everything that is not as it must be, in words; empty when all is well. */
  readonly problems: readonly string[];
}

export class FaultLab {
  readonly guest: TravellingGuest;
  readonly #volumeCopy: string;
  readonly #volumeFile: string;
  readonly #missed: string[] = [];
  /** No fault run has framed anything since the last plain migration. */
  #accelerationUnproven = false;

  private constructor(guest: TravellingGuest, volumeFile: string, volumeCopy: string) {
    this.guest = guest;
    this.#volumeFile = volumeFile;
    this.#volumeCopy = volumeCopy;
  }

  static async start(): Promise<FaultLab> {
    const guest = await TravellingGuest.start({
      guest: { profile: GUEST },
      linkMbit: LINK_MBIT,
      publicLimitBytes: PUBLIC_LIMIT_BYTES,
    });
    const volumeFile = `${VOLUME}.img`;
    const copy = `${guest.lab.lab.run.bulkPath}/${volumeFile}`;
    await runCommand(['cp', '--sparse=always', guest.lab.lab.nas.file(volumeFile), copy]);
    await guest.observer.command(LOAD);
    return new FaultLab(guest, volumeFile, copy);
  }

  async close(keepLogsIn?: string): Promise<void> {
    await this.guest.close(keepLogsIn);
  }

  /** Phases that were not met, in words. */
  get missed(): readonly string[] {
    return this.#missed;
  }

  /** Runs it; repeated when its phase was missed. */
  async run(planned: PlannedFault): Promise<FaultRun> {
    for (let missed = 0; ; missed++) {
      try {
        return await this.#runOnce(planned, missed);
      } catch (error) {
        if (!(error instanceof PhaseMissedError) || missed >= MOST_MISSES) throw error;
      }
    }
  }

  /** An accelerated migration without a fault: the proof that one is possible after all that was done. */
  async proveAcceleration(): Promise<string | undefined> {
    const journey = await this.guest.travel();
    this.#accelerationUnproven = false;
    return journey.outcome;
  }

  get accelerationUnproven(): boolean {
    return this.#accelerationUnproven;
  }

  async #runOnce(planned: PlannedFault, missed: number): Promise<FaultRun> {
    const startedMs = Date.now();
    const stagesMs: Record<Stage, number> = { prepared: 0, hit: 0, ended: 0, judged: 0, movedPlainly: 0 };
    let stageBeganMs = startedMs;
    const stage = (name: Stage, endMs = Date.now()): void => {
      stagesMs[name] = endMs - stageBeganMs;
      stageBeganMs = endMs;
    };
    const { guest } = this;
    const source = guest.home;
    const target = await guest.newHome();
    await guest.waitForIndex(source);
    let gate: ShutGate | undefined;
    const migration = await guest.prepare(target, {
      flags: { channels: planned.channels },
      ...(planned.phase === 'end'
        ? {
            gate: async (listen: string, dial: string) => {
              gate = await ShutGate.start(listen, dial);
            },
          }
        : {}),
    });
    const observer = new OutsideObserver(monitorOf(source), monitorOf(target));
    await observer.source.look();
    guest.observer.mark();
    observer.start();
    const made = madeByVirtHandler(await guest.socketInodes(source), await guest.socketInodes(source));
    stage('prepared');
    let injected: Injected | undefined;
    try {
      const hit = await this.#hit(planned, migration, { source, target, gate, observer });
      injected = hit.injected;
      stage('hit', hit.injectedAtMs);
      await hit.performing;
      stage('ended');
      const judged = await this.#judge(planned, migration, hit, { source, target, observer, made });
      stage('judged');
      const problems = [...judged.problems];
      const plainAfter = await this.#moveBackPlainly(problems);
      stage('movedPlainly');
      return { ...judged, plainAfter, problems, missed, elapsedMs: Date.now() - startedMs, stagesMs };
    } catch (error) {
      if (error instanceof PhaseMissedError)
        this.#missed.push(`${planned.fault} ${planned.phase}: ${error.message}`);
      if (error instanceof PhaseMissedError) await this.#recoverFromMiss(migration, source, target);
      throw error;
    } finally {
      await injected?.mend().catch(() => undefined);
      await observer.stop();
      observer.source.close();
      observer.target.close();
      await gate?.close();
    }
  }

  /** Begins the migration (for arming: does not yet), reaches the phase, and injects. */
  async #hit(planned: PlannedFault, migration: RecordedMigration, parts: HitParts): Promise<Hit> {
    const { source, target, gate, observer } = parts;
    const perform = (): Promise<MigrationResult> => migration.perform({ timeoutMs: PERFORM_TIMEOUT_MS });
    const held = holdsGo(planned) ? this.guest.coordinator.holdGo(migration.migrationUid) : undefined;
    let performing = planned.phase === 'arming' && held === undefined ? undefined : perform();
    const { seen } = await reachPhase(
      {
        planned,
        monitor: observer.source,
        gate,
        bothArmed: () => this.guest.coordinator.bothArmed(migration.migrationUid),
        holding: held?.holding,
        over: performing ?? new Promise(() => undefined),
      },
      PHASE_TIMEOUT_MS,
    );
    const injectedAtMs = Date.now();
    const offsets = migration.offsets().catch(() => ({ left: 0, reached: 0 }));
    // Before the sidecar has a successor, with a log of its own.
    const framed = wasFramed(this.guest.logOf(source), migration.migrationUid);
    const injecting = inject(planned.fault, {
      guest: this.guest,
      ...{ source, target, migration, planned },
      ...{ volumeCopy: this.#volumeCopy, volumeFile: this.#volumeFile },
    });
    const injected = mendedOnce(await injecting);
    held?.release();
    performing ??= perform();
    const ended = endOf(performing);
    if (gate !== undefined) void sleep(SHUT_HELD_MS).then(() => gate.release());
    if (injected.lastsMs !== undefined) {
      void Promise.race([sleep(injected.lastsMs), ended]).then(() => injected.mend().catch(() => undefined));
    }
    const inTime = await Promise.race([ended.then(() => true), sleep(CALL_ENDS_WITHIN_MS, false)]);
    // What hangs is waited for once more after the fault is mended, so that the lab can be used on.
    if (!inTime) await injected.mend();
    return {
      ...{ seen, injected, injectedAtMs, inTime, performing: ended },
      offsets: await offsets,
      framed: await framed,
    };
  }

  async #judge(
    planned: PlannedFault,
    migration: RecordedMigration,
    hit: Hit,
    parts: { source: Home; target: Home; observer: OutsideObserver; made: ReadonlySet<number> },
  ): Promise<Omit<FaultRun, 'missed' | 'elapsedMs' | 'stagesMs' | 'plainAfter'>> {
    const { guest } = this;
    const { source, target, observer, made } = parts;
    const result = await hit.performing;
    await hit.injected.mend();
    const problems: string[] = [];
    const selfCheck = await guest.checkGuest(RUNS_AGAIN_WITHIN_MS).catch((error: Error) => {
      problems.push(error.message);
      return 'none' as const;
    });
    const recording = await migration.finish();
    // libvirt ends the target of a failed migration, at the latest when virt-handler's proxies are gone.
    if (!result.succeeded) await observer.targetEnds(TARGET_ENDS_WITHIN_MS);
    const verdict = judge({
      injectedAtMs: hit.injectedAtMs,
      sightings: await observer.stop(),
      repeatedCounters: guest.observer.report().repeatedCounters,
      selfCheck,
      migrationEnded: hit.inTime,
    });
    // As the operator does when the migration has ended: who is still armed for it gets its socket back.
    const told = await guest.resultOf(source, migration.migrationUid, result.succeeded ? 3_000 : 1_500);
    guest.coordinator.record(migration.migrationUid);
    const outcome = outcomeOf(result.succeeded, told?.outcome, verdict);
    const leftBehind = await this.#leavings(source, target, (now) => leftAtSource(now, planned.fault, made));
    const expected: readonly Ending[] = expectedOutcome(planned.fault, planned.phase).outcomes;
    const identical = result.succeeded ? recording.comparison.identical : null;
    if (!expected.includes(outcome)) problems.push(`outcome ${outcome}, expected ${expected.join(' or ')}`);
    if (verdict.lost) problems.push('the VM runs nowhere');
    if (verdict.twice) problems.push('the VM runs twice');
    if (verdict.stuck) {
      problems.push(`the VM ran nowhere for ${verdict.outageMs} ms, or libvirt's call did not end`);
    }
    if (verdict.wrongMemory) problems.push('wrong memory');
    if (selfCheck !== 'ok') problems.push(`self-check ${selfCheck}`);
    if (leftBehind.length > 0) problems.push(`left behind: ${leftBehind.join(', ')}`);
    if (identical === false) problems.push(recording.comparison.differences.join('; '));
    const moved = result.succeeded || verdict.runsOn === 'target';
    await (moved ? guest.moveIn(target) : guest.leave(target));
    if (hit.framed) this.#accelerationUnproven = false;
    return {
      ...{ number: planned.number, fault: planned.fault, phase: planned.phase, channels: planned.channels },
      ...{ seen: hit.seen, injected: hit.injected.what, offsets: hit.offsets },
      framedInFlight:
        hit.framed &&
        /^(bulk|decision|stopped)$/.test(planned.phase) &&
        hit.offsets.left > hit.offsets.reached,
      ...{ outcome, expected, verdict, error: result.error },
      told: [told?.outcome, told?.reason, told?.detail].filter((part) => part !== undefined).join(' '),
      ...{ leftBehind, selfCheck, identicalStreams: identical, problems },
    };
  }

  /** What the breaker makes of a failed attempt: the next is plain. The link is quick meanwhile. */
  async #moveBackPlainly(problems: string[]): Promise<boolean> {
    const { guest } = this;
    const { network } = guest.lab.lab;
    await network.setMigrationRate({ outMbit: 0, inMbit: 0 });
    try {
      guest.observer.mark();
      const { recording } = await guest.travel({ armed: false });
      if (!recording.comparison.identical) problems.push('the plain migration afterwards changed bytes');
      const selfCheck = await guest.checkGuest();
      if (selfCheck !== 'ok') problems.push(`self-check after the plain migration: ${selfCheck}`);
      this.#accelerationUnproven = true;
      return true;
    } catch (error) {
      problems.push(`plain migration afterwards: ${error instanceof Error ? error.message : String(error)}`);
      return false;
    } finally {
      await network.setMigrationRate({ outMbit: LINK_MBIT, inMbit: LINK_MBIT });
    }
  }

  /** Names that are left in the socket directories when virt-handler has cleaned up, and should not be. */
  async #leavings(source: Home, target: Home, ofSource: (now: Inodes) => string[]): Promise<string[]> {
    const deadlineMs = Date.now() + TIDY_WITHIN_MS;
    for (;;) {
      const names = [
        ...ofSource(await this.guest.socketInodes(source)).map((name) => `${source.pod.name}/${name}`),
        ...(await this.guest.socketsOf(target)).map((name) => `${target.pod.name}/${name}`),
      ];
      if (names.length === 0 || Date.now() > deadlineMs) return names;
      await sleep(TIDY_POLL_MS);
    }
  }

  async #recoverFromMiss(migration: RecordedMigration, source: Home, target: Home): Promise<void> {
    await migration.migration.cancel().catch(() => undefined);
    await sleep(1_000);
    await migration.finish();
    const moved = (await source.pod.domainState('default_vm')) !== 'running';
    await (moved ? this.guest.moveIn(target) : this.guest.leave(target));
  }
}

interface HitParts {
  readonly source: Home;
  readonly target: Home;
  readonly gate: ShutGate | undefined;
  readonly observer: OutsideObserver;
}

interface Hit {
  readonly seen: string;
  readonly injected: Injected;
  readonly injectedAtMs: number;
  readonly offsets: { left: number; reached: number };
  /** The source sidecar had said that it frames this migration. */
  readonly framed: boolean;
  readonly inTime: boolean;
  readonly performing: Promise<MigrationResult>;
}

async function wasFramed(log: Promise<string>, migrationUid: string): Promise<boolean> {
  const lines = (await log).split('\n');
  return lines.some((line) => line.includes(migrationUid) && line.includes('"msg":"framed"'));
}

function monitorOf(home: Home): Monitor {
  return new Monitor(`${home.pod.observerDirectory}/qmp.sock`);
}

/**
 * Arming has two halves: before libvirt is called, and while the source holds QEMU's first connection. Without a NAS or a link
 * QEMU itself could not begin, and there is nothing to cancel before: these faults hit in the second.
 */
function holdsGo({ phase, fault, position }: PlannedFault): boolean {
  if (phase !== 'arming') return false;
  return position >= 0.5 || /^(nas|link)-|^cancelled$/.test(fault);
}

/** A failure of the call itself (not of the migration) counts as a migration that failed, with its words. */
function endOf(performing: Promise<MigrationResult>): Promise<MigrationResult> {
  return performing.catch((error: Error) => ({
    succeeded: false,
    error: error.message,
    elapsedMs: Number.NaN,
    job: undefined,
  }));
}

function mendedOnce(injected: Injected): Injected {
  let mending: Promise<void> | undefined;
  return {
    ...injected,
    mend: () => {
      mending ??= injected.mend();
      return mending;
    },
  };
}
