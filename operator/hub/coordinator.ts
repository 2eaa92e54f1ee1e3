// Runs the coordinations of all migrations under way over the hub's sessions: which pod is source and which is target comes
// from the controller, never from a sidecar. ARM, with its session key, goes to those two pods alone; a message about a
// migration counts only from the pod that has that role in it. Nothing here is stored: after a restart the controller asks
// for the same coordinations again, and sidecars say in HELLO where they stand.
import { randomBytes } from 'node:crypto';
import {
  type Coordination,
  type CoordinationEvent,
  type CoordinationPlan,
  isWaiting,
  rawReason,
  startCoordination,
  stepCoordination,
} from '../../control/coordination.ts';
import { MAX_RESUMED_MIGRATIONS, SESSION_KEY_BYTES } from '../../control/limits.ts';
import type {
  Hello,
  HubMessage,
  IndexStatus,
  Progress,
  Result,
  Role,
  SidecarMessage,
  Stats,
} from '../../control/messages.ts';
import type { Reason } from '../../control/reasons.ts';
import type { HubListener, Session } from './hub.ts';

/** What the controller asks for; the same order again changes nothing but the pods that were not known before. */
export interface CoordinationOrder extends Omit<CoordinationPlan, 'epoch' | 'sessionKey'> {
  sourcePodUid: string;
  targetPodUid: string | undefined;
  /** The migration has ended: only results are collected, nobody is armed. */
  over?: boolean;
}

/** What is known of a migration's acceleration. */
export interface CoordinationView {
  go: boolean;
  /** Only results are collected. */
  over: boolean;
  reason: Reason | undefined;
  detail: string | undefined;
  /** Set when both sides had their sockets: seconds from the target's ARMED to GO. */
  armingSeconds: number | undefined;
  progress: Progress | undefined;
  results: { source?: Result; target?: Result };
  /** A side said in HELLO that it has finished: its result is the next that it says. */
  isResultComing: boolean;
}

export interface CoordinatorOptions {
  epoch: number;
  /** Something of this migration changed; the controller reconciles it. */
  onChange: (migrationUid: string) => void;
  onStats: (session: Session, stats: Stats) => void;
  /** Whether the result of this migration is in its object's status already. */
  isRecorded: (migrationUid: string) => boolean;
  onProblem: (problem: string, session: Session) => void;
}

/**
 * A leader that begins has its caches, but they may be seconds behind: a side that waits in a migration that is not run here is disarmed
 * only when it is not run after this time either.
 */
const UNKNOWN_GRACE_MS = 20_000;

interface Running {
  order: CoordinationOrder;
  state: Coordination;
  detail: string | undefined;
  targetArmedAtMs: number | undefined;
  armingSeconds: number | undefined;
  progress: Progress | undefined;
  results: { source?: Result; target?: Result };
  /** The source gave up waiting for GO while the target's sidecar was not connected. */
  isPeerMissing: boolean;
  /** A side that was framed came back as a new process, which knows nothing of the migration. */
  hasRestarted: boolean;
}

export class Coordinator implements HubListener {
  readonly #options: CoordinatorOptions;
  readonly #sessions = new Map<string, Session>();
  readonly #indexes = new Map<string, IndexStatus>();
  readonly #running = new Map<string, Running>();
  /** Migrations by pod, for sessions that come and go. */
  readonly #byPod = new Map<string, Set<string>>();
  /** Results that came before the controller asked for their migration (after a restart), by pod. */
  readonly #early = new Map<string, Result[]>();
  /** Sessions whose HELLO said that they wait in a migration that is not run here, by migration. */
  readonly #strays = new Map<string, Set<Session>>();
  /** The hub serves for a moment after the term: orders of a leader that is none any longer are not given in it. */
  #ended: Reason | undefined;

  constructor(options: CoordinatorOptions) {
    this.#options = options;
  }

  get epoch(): number {
    return this.#options.epoch;
  }

  get runningCount(): number {
    return this.#running.size;
  }

  /** What the pod's sidecar said last of its index, in HELLO or stats. */
  index(podUid: string): IndexStatus | undefined {
    return this.#sessions.has(podUid) ? this.#indexes.get(podUid) : undefined;
  }

  session(podUid: string): Session | undefined {
    return this.#sessions.get(podUid);
  }

  /** Begins, or goes on with, the coordination of a migration. */
  coordinate(order: CoordinationOrder): void {
    let running = this.#running.get(order.migrationUid);
    if (running !== undefined && hasOtherPods(running, order)) {
      // A pod that had the key is not of this migration any longer: everything anew, with another key.
      this.#drop(running, [order.sourcePodUid, order.targetPodUid]);
      running = undefined;
    }
    if (running === undefined) {
      const { sourcePodUid: _source, targetPodUid: _target, over = false, ...plan } = order;
      const sessionKey = randomBytes(SESSION_KEY_BYTES).toString('base64');
      running = {
        order: { ...order, targetPodUid: undefined },
        state: {
          ...startCoordination({ ...plan, epoch: this.#options.epoch, sessionKey }),
          ...(over ? { given: 'MigrationOver' } : {}),
        },
        detail: undefined,
        targetArmedAtMs: undefined,
        armingSeconds: undefined,
        progress: undefined,
        results: {},
        isPeerMissing: false,
        hasRestarted: false,
      };
      this.#running.set(order.migrationUid, running);
      this.#join(order.migrationUid, running, 'source', order.sourcePodUid);
    }
    if (order.targetPodUid !== undefined && running.order.targetPodUid === undefined) {
      running.order.targetPodUid = order.targetPodUid;
      this.#join(order.migrationUid, running, 'target', order.targetPodUid);
    }
  }

  giveUp(migrationUid: string, reason: Reason, detail: string): void {
    const running = this.#running.get(migrationUid);
    if (running === undefined || running.state.go || running.state.given !== undefined) return;
    running.detail = detail;
    this.#step(running, { type: 'giveUp', reason });
  }

  view(migrationUid: string): CoordinationView | undefined {
    const running = this.#running.get(migrationUid);
    if (running === undefined) return undefined;
    const { state, detail, armingSeconds, progress, results, hasRestarted } = running;
    return {
      go: state.go,
      over: running.order.over === true,
      reason: rawReason(state) ?? (hasRestarted ? 'SidecarRestarted' : undefined),
      detail,
      armingSeconds,
      progress,
      results,
      isResultComing: (['source', 'target'] as const).some(
        (role) => state[role].phase === 'finished' && results[role] === undefined,
      ),
    };
  }

  /** The result is stored: tells both sidecars, and forgets the migration and its key. */
  recorded(migrationUid: string): void {
    for (const session of this.#strays.get(migrationUid) ?? []) this.#disarm(session, migrationUid);
    const running = this.#running.get(migrationUid);
    if (running === undefined) return;
    this.#drop(running);
    for (const podUid of podsOf(running))
      this.#sessions.get(podUid)?.send({ type: 'recorded', migrationUid });
  }

  /** A side that is armed for nothing gets its socket back; one that is about to be armed anew keeps it. */
  #drop(running: Running, armedAnew: readonly (string | undefined)[] = []): void {
    const { migrationUid } = running.order;
    for (const { to, message } of stepCoordination(running.state, { type: 'giveUp', reason: 'MigrationOver' })
      .effects) {
      const podUid = to === 'source' ? running.order.sourcePodUid : running.order.targetPodUid;
      if (!armedAnew.includes(podUid)) this.#send(running, to, message);
    }
    this.#running.delete(migrationUid);
    for (const podUid of podsOf(running)) {
      const migrations = this.#byPod.get(podUid);
      migrations?.delete(migrationUid);
      if (migrations?.size === 0) this.#byPod.delete(podUid);
    }
  }

  /**
   * This leader's term ends: nobody is armed and no GO is given from here on. Sides that are only armed wait for the next leader; a
   * source that holds QEMU's connection, now or later, for a GO that this one does not say is let go at once.
   */
  endTerm(reason: 'NotLeader' | 'OperatorStopping'): void {
    this.#ended = reason;
    for (const running of this.#running.values()) {
      if (running.state.source.phase === 'holding') this.#step(running, { type: 'giveUp', reason });
    }
  }

  onSession(session: Session): void {
    const { podUid } = session.identity;
    this.#sessions.set(podUid, session);
    this.#indexes.set(podUid, session.hello.index);
    for (const migrationUid of this.#byPod.get(podUid) ?? []) {
      const running = this.#running.get(migrationUid);
      if (running !== undefined) this.#connect(running, session);
    }
    this.#findStrays(session);
  }

  onSessionEnded(session: Session): void {
    const { podUid } = session.identity;
    if (this.#sessions.get(podUid) === session) {
      this.#sessions.delete(podUid);
      this.#indexes.delete(podUid);
    }
    this.#early.delete(podUid);
    for (const { migrationUid } of session.hello.migrations) this.#forgetStray(session, migrationUid);
    for (const migrationUid of this.#byPod.get(podUid) ?? []) {
      const running = this.#running.get(migrationUid);
      const role = running === undefined ? undefined : roleOf(running, podUid);
      if (running !== undefined && role !== undefined) this.#step(running, { type: 'disconnected', role });
    }
  }

  onMessage(session: Session, message: Exclude<SidecarMessage, Hello>): void {
    if (message.type === 'stats') {
      if (this.#sessions.get(session.identity.podUid) === session)
        this.#indexes.set(session.identity.podUid, message.index);
      this.#options.onStats(session, message);
      return;
    }
    const { podUid } = session.identity;
    const running = this.#running.get(message.migrationUid);
    if (running === undefined) {
      this.#onUnknown(session, message);
      return;
    }
    const role = roleOf(running, podUid);
    if (role === undefined && isFarewell(message)) {
      // It was told that the migration is not its own any more.
      if (message.type === 'result') session.send({ type: 'recorded', migrationUid: message.migrationUid });
      return;
    }
    if (role !== message.role) {
      this.#options.onProblem(`${message.type} for a migration that is not its own`, session);
      session.close('not your migration');
      return;
    }
    this.#onOwn(running, withPeer(running, message));
  }

  #onOwn(running: Running, message: Exclude<SidecarMessage, Hello | Stats>): void {
    switch (message.type) {
      case 'progress':
        if (message.role === 'source' && message.sequence > (running.progress?.sequence ?? -1)) {
          running.progress = message;
          this.#options.onChange(message.migrationUid);
        }
        return;
      case 'raw':
        running.detail ??= message.detail;
        break;
      case 'result':
        running.results[message.role] = message;
        running.detail ??= message.detail;
        break;
      case 'armed':
        if (message.role === 'target') running.targetArmedAtMs ??= performance.now();
        break;
      case 'holding':
        break;
    }
    this.#step(running, { type: 'message', message });
  }

  #onUnknown(session: Session, message: Exclude<SidecarMessage, Hello | Stats>): void {
    if (message.type !== 'result') return;
    if (this.#options.isRecorded(message.migrationUid)) {
      session.send({ type: 'recorded', migrationUid: message.migrationUid });
      return;
    }
    const early = this.#early.get(session.identity.podUid) ?? [];
    const others = early.filter(({ migrationUid }) => migrationUid !== message.migrationUid);
    this.#early.set(session.identity.podUid, [...others, message].slice(-MAX_RESUMED_MIGRATIONS));
    this.#options.onChange(message.migrationUid);
  }

  #join(migrationUid: string, running: Running, role: Role, podUid: string): void {
    const migrations = this.#byPod.get(podUid);
    if (migrations === undefined) this.#byPod.set(podUid, new Set([migrationUid]));
    else migrations.add(migrationUid);
    // A result that is there already comes first: who has finished is not armed again.
    const early = this.#early
      .get(podUid)
      ?.find((result) => result.migrationUid === migrationUid && result.role === role);
    if (early !== undefined) this.#onOwn(running, early);
    const session = this.#sessions.get(podUid);
    if (session !== undefined) this.#connect(running, session);
  }

  #connect(running: Running, session: Session): void {
    const role = roleOf(running, session.identity.podUid);
    if (role === undefined) return;
    const { migrationUid, epoch } = running.state.plan;
    this.#forgetStray(session, migrationUid);
    const known = session.hello.migrations.find(
      (one) => one.migrationUid === migrationUid && one.role === role,
    );
    // What a side did under an earlier key says nothing of this one, unless there is no way back for it.
    const counts =
      known !== undefined &&
      (known.epoch === epoch ||
        known.phase === 'framed' ||
        known.phase === 'raw' ||
        known.phase === 'finished');
    if (running.state.go && known === undefined && running.results[role] === undefined)
      running.hasRestarted = true;
    if (this.#ended !== undefined && !counts) return;
    this.#step(running, {
      type: 'connected',
      role,
      ...(counts
        ? { phase: known.phase, ...(known.reason === undefined ? {} : { reason: known.reason }) }
        : known === undefined
          ? {}
          : { phase: 'arming' }),
    });
  }

  /** A side that was away when its migration ended waits on, and says so when it is back. */
  #findStrays(session: Session): void {
    let mayBeKnownLater = false;
    for (const { migrationUid, phase } of session.hello.migrations) {
      if (!isWaiting(phase) || this.#isOfRunning(session, migrationUid)) continue;
      if (this.#options.isRecorded(migrationUid)) {
        this.#disarm(session, migrationUid);
        continue;
      }
      mayBeKnownLater = true;
      this.#strays.set(migrationUid, (this.#strays.get(migrationUid) ?? new Set()).add(session));
    }
    if (mayBeKnownLater) setTimeout(() => this.#endUnknown(session), UNKNOWN_GRACE_MS).unref();
  }

  /** A migration that runs and is not coordinated by now was decided against, by a leader that never armed it. */
  #endUnknown(session: Session): void {
    for (const { migrationUid } of session.hello.migrations) {
      if (this.#strays.get(migrationUid)?.has(session) !== true) continue;
      const running = this.#running.get(migrationUid);
      const isNobodys =
        running === undefined ||
        (running.order.targetPodUid !== undefined && !this.#isOfRunning(session, migrationUid));
      if (isNobodys) this.#disarm(session, migrationUid);
    }
  }

  #isOfRunning(session: Session, migrationUid: string): boolean {
    const running = this.#running.get(migrationUid);
    return running !== undefined && roleOf(running, session.identity.podUid) !== undefined;
  }

  /** Of a migration that is not run here. */
  #disarm(session: Session, migrationUid: string): void {
    this.#forgetStray(session, migrationUid);
    const role = session.hello.migrations.find((one) => one.migrationUid === migrationUid)?.role;
    if (role === undefined || this.#ended !== undefined) return;
    const { epoch } = this.#options;
    session.send({ type: 'disarm', migrationUid, epoch, role, reason: 'MigrationOver' });
  }

  #forgetStray(session: Session, migrationUid: string): void {
    const strays = this.#strays.get(migrationUid);
    strays?.delete(session);
    if (strays?.size === 0) this.#strays.delete(migrationUid);
  }

  #step(running: Running, event: CoordinationEvent): void {
    const before = running.state;
    const { state, effects } =
      this.#ended !== undefined && isNewHold(before, event)
        ? stepCoordination(
            { ...before, source: { phase: 'holding' } },
            { type: 'giveUp', reason: this.#ended },
          )
        : stepCoordination(before, event);
    running.state = state;
    for (const { to, message } of effects) this.#send(running, to, message);
    if (!before.go && state.go && running.targetArmedAtMs !== undefined) {
      running.armingSeconds = (performance.now() - running.targetArmedAtMs) / 1000;
    }
    if (state !== before) this.#options.onChange(state.plan.migrationUid);
  }

  #send(running: Running, to: Role, message: HubMessage): void {
    const podUid = to === 'source' ? running.order.sourcePodUid : running.order.targetPodUid;
    if (podUid !== undefined) this.#sessions.get(podUid)?.send(message);
  }
}

/** A source knows only that no GO came; here it is known that it could not. */
function withPeer<T extends Exclude<SidecarMessage, Hello | Stats>>(running: Running, message: T): T {
  if (message.role !== 'source' || !('reason' in message) || message.reason !== 'NoGo') return message;
  // At that moment; a result may have come a long way, past another leader.
  if (message.type === 'raw' && running.state.target.phase === 'absent') running.isPeerMissing = true;
  return running.isPeerMissing ? { ...message, reason: 'PeerNotConnected' } : message;
}

/** The source holds QEMU's connection, and whether it is framed is not decided. */
function isNewHold({ source, go, given }: Coordination, event: CoordinationEvent): boolean {
  const holds =
    (event.type === 'message' && event.message.type === 'holding' && event.message.role === 'source') ||
    (event.type === 'connected' && event.phase === 'holding' && event.role === 'source');
  return holds && !go && given === undefined && source.phase !== 'raw' && source.phase !== 'finished';
}

/** How a side ends that was not needed. */
function isFarewell(message: Exclude<SidecarMessage, Hello | Stats>): boolean {
  return message.type === 'raw' || (message.type === 'result' && message.outcome === 'unused');
}

function roleOf(running: Running, podUid: string): Role | undefined {
  if (running.order.sourcePodUid === podUid) return 'source';
  return running.order.targetPodUid === podUid ? 'target' : undefined;
}

function podsOf({ order }: Running): string[] {
  return order.targetPodUid === undefined ? [order.sourcePodUid] : [order.sourcePodUid, order.targetPodUid];
}

/** Before GO, and as long as nothing was decided: a pod with the key is not the one that is wanted now. */
function hasOtherPods({ order, state }: Running, wanted: CoordinationOrder): boolean {
  if (state.go || state.given !== undefined) return false;
  if (order.sourcePodUid !== wanted.sourcePodUid) return true;
  return order.targetPodUid !== undefined && order.targetPodUid !== wanted.targetPodUid;
}
