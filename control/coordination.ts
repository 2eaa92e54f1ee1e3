// How the hub brings two sidecars together for one migration: a pure state machine per migration. It sends ARM to each
// side as soon as that side is connected, GO to the source only when the source holds a connection and the target has
// its socket's place, and takes both back when either goes raw before GO. After GO it only listens.
// See docs/control-protocol.md, which has the table of this file.
import type { Arm, ArmMode, HubMessage, Role, SidecarMessage, SidePhase } from './messages.ts';
import type { Reason } from './reasons.ts';

export interface CoordinationPlan {
  migrationUid: string;
  epoch: number;
  mode: ArmMode;
  /** base64 of 32 random bytes, made for this coordination and never stored. */
  sessionKey: string;
  downtimeLimitMs: number;
  volumes: string[];
  limits: Arm['limits'];
}

/** What is known of one side. `absent`: its sidecar is not connected (yet). `told`: ARM was sent. */
export type CoordinatedPhase = 'absent' | 'told' | Exclude<SidePhase, 'arming'>;

export interface CoordinatedSide {
  phase: CoordinatedPhase;
  reason?: Reason;
}

export interface Coordination {
  plan: CoordinationPlan;
  source: CoordinatedSide;
  target: CoordinatedSide;
  /** GO was sent: from here on nothing that happens to operator or hub matters. */
  go: boolean;
  /** Set once when the coordination was given up before GO. */
  given?: Reason;
}

export type CoordinationEvent =
  /**
   * A sidecar of this migration said HELLO; `phase` is what it claims to be in for this migration and epoch. One that waits with the
   * key of an earlier epoch is `arming`: it has to be told anew.
   */
  | { type: 'connected'; role: Role; phase?: SidePhase; reason?: Reason }
  | { type: 'disconnected'; role: Role }
  | { type: 'message'; message: Extract<SidecarMessage, { type: 'armed' | 'holding' | 'raw' | 'result' }> }
  /** The controller decided against it (cancelled, suspended, …). */
  | { type: 'giveUp'; reason: Reason };

export interface CoordinationEffect {
  to: Role;
  message: HubMessage;
}

export interface CoordinationStep {
  state: Coordination;
  effects: CoordinationEffect[];
}

export function startCoordination(plan: CoordinationPlan): Coordination {
  return { plan, source: { phase: 'absent' }, target: { phase: 'absent' }, go: false };
}

/** One event of this migration; the caller has checked that the sender is the source or target pod it says it is. */
export function stepCoordination(state: Coordination, event: CoordinationEvent): CoordinationStep {
  switch (event.type) {
    case 'connected':
      return onConnected(state, event);
    case 'disconnected': {
      const side = state[event.role];
      // Its phase is not known until it is back; a framed or finished side does not need us.
      if (side.phase === 'framed' || side.phase === 'finished' || side.phase === 'raw')
        return { state, effects: [] };
      return { state: withSide(state, event.role, { phase: 'absent' }), effects: [] };
    }
    case 'message':
      return onMessage(state, event.message);
    case 'giveUp':
      return giveUp(state, event.reason);
  }
}

/** True when both sides change the stream, as far as the hub has seen. */
export function isFramed(state: Coordination): boolean {
  return state.go && state.source.phase === 'framed';
}

/** The reason this migration is not accelerated, if one is known: ours, else the source's, else the target's. */
export function rawReason(state: Coordination): Reason | undefined {
  const { given, source, target } = state;
  if (given !== undefined && given !== 'PeerRaw' && given !== 'MigrationOver') return given;
  const own = [source.reason, target.reason].find((reason) => reason !== undefined && reason !== 'PeerRaw');
  return own ?? (given === 'MigrationOver' ? undefined : given) ?? source.reason ?? target.reason;
}

function onConnected(
  state: Coordination,
  event: { role: Role; phase?: SidePhase; reason?: Reason },
): CoordinationStep {
  const { role, phase, reason } = event;
  if (state[role].phase === 'finished') return { state, effects: [] };
  const { given } = state;
  // It was away when it was decided, and would wait with its socket's place taken until its pod ends. After GO the source may be on its
  // way to a target that waits: only a migration that is over takes that back.
  if (given !== undefined && isWaiting(phase) && (!state.go || given === 'MigrationOver')) {
    return {
      state: withSide(state, role, { phase: phase === 'arming' ? 'told' : phase }),
      effects: [{ to: role, message: disarmMessage(state.plan, role, given) }],
    };
  }
  if (phase === undefined || phase === 'arming') {
    // One that waits is remembered, so that it gets its socket back in the end.
    if (state.go && phase !== undefined) {
      return { state: withSide(state, role, { phase: 'told' }), effects: [] };
    }
    if (given !== undefined || state.go) return { state, effects: [] };
    return {
      state: withSide(state, role, { phase: 'told' }),
      effects: [{ to: role, message: armMessage(state.plan, role) }],
    };
  }
  const next = withSide(state, role, reason === undefined ? { phase } : { phase, reason });
  if (phase === 'framed') return { state: { ...next, go: true }, effects: [] };
  if (phase === 'raw') return onRaw(next, role, reason ?? 'InternalError');
  return maybeGo(next);
}

function onMessage(
  state: Coordination,
  message: Extract<SidecarMessage, { type: 'armed' | 'holding' | 'raw' | 'result' }>,
): CoordinationStep {
  // An answer to an order of an earlier session says nothing about this one; a result always counts.
  if (message.migrationUid !== state.plan.migrationUid) return { state, effects: [] };
  if (message.type !== 'result' && message.epoch !== state.plan.epoch) return { state, effects: [] };
  const { role } = message;
  const before = state[role].phase;
  // One that ended unused while it was away said so in its HELLO first.
  const isNews = message.type === 'result' && message.outcome === 'unused';
  if ((before === 'finished' && !isNews) || (before === 'raw' && message.type !== 'result'))
    return { state, effects: [] };
  switch (message.type) {
    case 'armed':
      if (before === 'holding' || before === 'framed') return { state, effects: [] };
      return maybeGo(withSide(state, role, { phase: 'armed' }));
    case 'holding':
      if (role !== 'source' || before === 'framed') return { state, effects: [] };
      return maybeGo(withSide(state, role, { phase: 'holding' }));
    case 'raw':
      return onRaw(withSide(state, role, { phase: 'raw', reason: message.reason }), role, message.reason);
    case 'result': {
      const reason = message.reason ?? state[role].reason;
      const next = withSide(
        state,
        role,
        reason === undefined ? { phase: 'finished' } : { phase: 'finished', reason },
      );
      // One that ended without a connection of QEMU's, because it is told to stop, is one less to go with.
      return message.outcome === 'unused'
        ? onRaw(next, role, reason ?? 'PeerRaw')
        : { state: next, effects: [] };
    }
  }
}

function maybeGo(state: Coordination): CoordinationStep {
  if (state.go || state.given !== undefined) return { state, effects: [] };
  if (state.source.phase !== 'holding' || state.target.phase !== 'armed') return { state, effects: [] };
  const { migrationUid, epoch } = state.plan;
  return {
    state: { ...state, go: true, source: { phase: 'framed' } },
    effects: [{ to: 'source', message: { type: 'go', migrationUid, epoch, role: 'source' } }],
  };
}

/** One side is raw: the other gets its socket back, so that the source does not hold for nothing. */
function onRaw(state: Coordination, role: Role, reason: Reason): CoordinationStep {
  if (state.go || state.given !== undefined) return { state, effects: [] };
  const other: Role = role === 'source' ? 'target' : 'source';
  const given: Reason = reason === 'PeerRaw' ? 'PeerRaw' : reason;
  return {
    state: { ...state, given },
    effects: isWithUs(state[other])
      ? [{ to: other, message: disarmMessage(state.plan, other, 'PeerRaw') }]
      : [],
  };
}

/**
 * After GO nothing can be taken back, but when the migration is over a target whom no connection ever reached (the path broke
 * between GO and it) is still armed, and gets its socket back. One that was reached does not listen to DISARM.
 */
function giveUp(state: Coordination, reason: Reason): CoordinationStep {
  const isOver = reason === 'MigrationOver';
  if (state.go ? !isOver || state.given === 'MigrationOver' : state.given !== undefined)
    return { state, effects: [] };
  const roles: Role[] = ['source', 'target'];
  return {
    state: { ...state, given: reason },
    effects: roles
      .filter((role) => isWithUs(state[role]))
      .map((role) => ({ to: role, message: disarmMessage(state.plan, role, reason) })),
  };
}

/** Whether a side that says so has taken its socket's place, or is about to, and waits for what comes. */
export function isWaiting(phase: SidePhase | undefined): phase is 'arming' | 'armed' | 'holding' {
  return phase === 'arming' || phase === 'armed' || phase === 'holding';
}

function isWithUs(side: CoordinatedSide): boolean {
  return side.phase === 'told' || side.phase === 'armed' || side.phase === 'holding';
}

function withSide(state: Coordination, role: Role, side: CoordinatedSide): Coordination {
  return role === 'source' ? { ...state, source: side } : { ...state, target: side };
}

function armMessage(plan: CoordinationPlan, role: Role): HubMessage {
  const { migrationUid, epoch, mode, sessionKey, downtimeLimitMs, volumes, limits } = plan;
  return { type: 'arm', migrationUid, epoch, role, mode, sessionKey, downtimeLimitMs, volumes, limits };
}

function disarmMessage(plan: CoordinationPlan, role: Role, reason: Reason): HubMessage {
  return { type: 'disarm', migrationUid: plan.migrationUid, epoch: plan.epoch, role, reason };
}
