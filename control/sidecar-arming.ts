// What a sidecar does with ARM, GO and DISARM: a pure state machine, one per sidecar process. Events go in, effects come
// out; sockets, clock and the hub's connection belong to the caller. It guarantees that the stream is changed only after
// GO (source), that a held connection is released within GO_TIMEOUT_MS, and that an order of an older leader changes
// nothing. See docs/control-protocol.md.
import { GO_TIMEOUT_MS } from './limits.ts';
import type { Arm, ArmMode, Role, SidecarMessage, SidePhase } from './messages.ts';
import type { Reason } from './reasons.ts';

/** An accepted ARM. */
export type Order = Omit<Arm, 'type'>;

export type ArmingState =
  | { phase: 'idle' }
  /** Told to arm; the socket is not there yet or not taken. A GO cannot come in this phase. */
  | { phase: 'arming'; order: Order }
  /** The socket's place is taken; no connection yet. */
  | { phase: 'armed'; order: Order; go: boolean }
  /** Source only: QEMU's first connection is held until GO or `deadlineMs`. */
  | { phase: 'holding'; order: Order; deadlineMs: number }
  /** The stream is changed (or, in mode observe, watched). There is no way back for this migration. */
  | { phase: 'framed'; order: Order }
  /** Decided: not this migration. */
  | { phase: 'raw'; order: Order; reason: Reason };

export type ArmingEvent =
  | { type: 'arm'; order: Order }
  | { type: 'go'; migrationUid: string; epoch: number }
  | { type: 'disarm'; migrationUid: string; epoch: number; reason: Reason }
  /** The interposer has taken the socket's place. */
  | { type: 'socketTaken' }
  /** The interposer cannot, or this sidecar will not, do it. */
  | { type: 'declined'; reason: Reason; detail?: string }
  /** virt-handler or QEMU made the socket anew: the place is lost until `socketTaken` comes again. */
  | { type: 'socketLost' }
  /** The first connection of the migration was accepted. */
  | { type: 'connection'; nowMs: number }
  | { type: 'tick'; nowMs: number }
  /** All connections of the migration ended, or its socket is gone for good. */
  | { type: 'ended' };

export type ArmingEffect =
  | { type: 'takeSocket'; order: Order }
  /** Put `.orig` back by rename if no connection was accepted; else only stop accepting as armed. */
  | { type: 'restoreSocket' }
  /** Open the link framed for the held connection, and for those that follow (target: answer HELLO). */
  | { type: 'startFramed'; order: Order }
  /** Relay the held connection, and those that follow, byte for byte. */
  | { type: 'startRaw'; reason: Reason }
  | { type: 'send'; message: SidecarMessage };

export interface ArmingStep {
  state: ArmingState;
  effects: ArmingEffect[];
}

export const idle: ArmingState = { phase: 'idle' };

/**
 * One event. `highestEpoch` is the highest epoch of any `welcome` or order this process has seen; orders below it are
 * answered with `raw` reason StaleEpoch (ARM) or ignored (GO, DISARM).
 */
export function stepArming(state: ArmingState, event: ArmingEvent, highestEpoch: number): ArmingStep {
  switch (event.type) {
    case 'arm':
      return onArm(state, event.order, highestEpoch);
    case 'go':
      return onGo(state, event, highestEpoch);
    case 'disarm':
      return onDisarm(state, event, highestEpoch);
    case 'socketTaken':
      return state.phase === 'arming'
        ? {
            state: { phase: 'armed', order: state.order, go: false },
            effects: [{ type: 'send', message: { type: 'armed', ...addressOf(state.order) } }],
          }
        : unchanged(state);
    case 'socketLost':
      return state.phase === 'armed'
        ? {
            state: { phase: 'arming', order: state.order },
            effects: [{ type: 'takeSocket', order: state.order }],
          }
        : unchanged(state);
    case 'declined':
      return isUndecided(state) ? toRaw(state, event.reason, event.detail) : unchanged(state);
    case 'connection':
      return onConnection(state, event.nowMs);
    case 'tick':
      return state.phase === 'holding' && event.nowMs >= state.deadlineMs
        ? toRaw(state, 'NoGo')
        : unchanged(state);
    case 'ended':
      return { state: idle, effects: [] };
  }
}

/** When the next `tick` is needed; undefined when nothing is timed. */
export function nextTickMs(state: ArmingState): number | undefined {
  return state.phase === 'holding' ? state.deadlineMs : undefined;
}

/** The phase as HELLO and status tell it. */
export function phaseForHello(state: ArmingState): SidePhase | undefined {
  return state.phase === 'idle' ? undefined : state.phase;
}

function onArm(state: ArmingState, order: Order, highestEpoch: number): ArmingStep {
  if (order.epoch < highestEpoch) return refuse(state, order, 'StaleEpoch');
  if (isUndecided(state) && state.order.migrationUid === order.migrationUid) {
    // What was made ready for one mode cannot serve the other.
    if (state.order.mode !== order.mode) return toRaw({ ...state, order }, 'ModeChanged');
  }
  switch (state.phase) {
    case 'idle':
      return { state: { phase: 'arming', order }, effects: [{ type: 'takeSocket', order }] };
    case 'arming':
    case 'armed':
      // A new session of the same migration (a new leader's key), or another migration before anything connected.
      if (isSameOrder(state.order, order)) return unchanged(state);
      if (state.order.migrationUid === order.migrationUid && state.phase === 'armed') {
        return {
          state: { phase: 'armed', order, go: false },
          effects: [{ type: 'send', message: { type: 'armed', ...addressOf(order) } }],
        };
      }
      return { state: { phase: 'arming', order }, effects: [{ type: 'takeSocket', order }] };
    case 'holding':
      if (state.order.migrationUid !== order.migrationUid) return refuse(state, order, 'Busy');
      return {
        // The hold is not prolonged by a new session: its deadline is a promise to libvirt.
        state: { ...state, order },
        effects: [
          { type: 'send', message: { type: 'armed', ...addressOf(order) } },
          { type: 'send', message: { type: 'holding', ...addressOf(order) } },
        ],
      };
    case 'framed':
      return state.order.migrationUid === order.migrationUid
        ? unchanged(state)
        : refuse(state, order, 'Busy');
    case 'raw':
      if (state.order.migrationUid === order.migrationUid) return refuse(state, order, state.reason);
      return { state: { phase: 'arming', order }, effects: [{ type: 'takeSocket', order }] };
  }
}

function onGo(
  state: ArmingState,
  go: { migrationUid: string; epoch: number },
  highestEpoch: number,
): ArmingStep {
  if (go.epoch < highestEpoch || !('order' in state) || state.order.role !== 'source')
    return unchanged(state);
  if (state.order.migrationUid !== go.migrationUid || state.order.epoch !== go.epoch) return unchanged(state);
  if (state.phase === 'armed') return { state: { ...state, go: true }, effects: [] };
  if (state.phase === 'holding') return toFramed(state.order);
  return unchanged(state);
}

function onDisarm(
  state: ArmingState,
  order: { migrationUid: string; epoch: number; reason: Reason },
  highestEpoch: number,
): ArmingStep {
  if (order.epoch < highestEpoch || !('order' in state) || state.order.migrationUid !== order.migrationUid) {
    return unchanged(state);
  }
  return isUndecided(state) ? toRaw(state, order.reason) : unchanged(state);
}

function onConnection(state: ArmingState, nowMs: number): ArmingStep {
  if (state.phase !== 'armed') return unchanged(state);
  // A target needs no GO: the source's HELLO, or its absence, tells it what the connection is.
  if (state.order.role === 'target' || state.go) return toFramed(state.order);
  return {
    state: { phase: 'holding', order: state.order, deadlineMs: nowMs + GO_TIMEOUT_MS },
    effects: [{ type: 'send', message: { type: 'holding', ...addressOf(state.order) } }],
  };
}

function toFramed(order: Order): ArmingStep {
  return { state: { phase: 'framed', order }, effects: [{ type: 'startFramed', order }] };
}

type UndecidedState = Extract<ArmingState, { phase: 'arming' | 'armed' | 'holding' }>;

function isUndecided(state: ArmingState): state is UndecidedState {
  return state.phase === 'arming' || state.phase === 'armed' || state.phase === 'holding';
}

function toRaw(state: Pick<UndecidedState, 'phase' | 'order'>, reason: Reason, detail?: string): ArmingStep {
  const effects: ArmingEffect[] = [
    state.phase === 'holding' ? { type: 'startRaw', reason } : { type: 'restoreSocket' },
    { type: 'send', message: rawMessage(state.order, reason, detail) },
  ];
  return { state: { phase: 'raw', order: state.order, reason }, effects };
}

function refuse(state: ArmingState, order: Order, reason: Reason): ArmingStep {
  return { state, effects: [{ type: 'send', message: rawMessage(order, reason) }] };
}

function rawMessage(order: Order, reason: Reason, detail?: string): SidecarMessage {
  return { type: 'raw', ...addressOf(order), reason, ...(detail === undefined ? {} : { detail }) };
}

function addressOf(order: Order): { migrationUid: string; epoch: number; role: Role } {
  return { migrationUid: order.migrationUid, epoch: order.epoch, role: order.role };
}

function isSameOrder(a: Order, b: Order): boolean {
  return (
    a.migrationUid === b.migrationUid &&
    a.epoch === b.epoch &&
    a.sessionKey === b.sessionKey &&
    a.role === b.role
  );
}

function unchanged(state: ArmingState): ArmingStep {
  return { state, effects: [] };
}

/** Whether an armed stream is changed at all; in `observe` the caller counts and passes every byte on. */
export function changesStream(mode: ArmMode): boolean {
  return mode === 'accelerate';
}
