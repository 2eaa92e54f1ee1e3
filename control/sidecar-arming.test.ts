import { describe, expect, it } from 'vitest';
import { exampleArm } from './example-messages.ts';
import { GO_TIMEOUT_MS } from './limits.ts';
import {
  type ArmingEffect,
  type ArmingEvent,
  type ArmingState,
  idle,
  nextTickMs,
  type Order,
  phaseForHello,
  stepArming,
} from './sidecar-arming.ts';

const { type: _type, ...source } = exampleArm;
const target: Order = { ...source, role: 'target' };
const { migrationUid, epoch } = source;
const go: ArmingEvent = { type: 'go', migrationUid, epoch };
const disarm: ArmingEvent = { type: 'disarm', migrationUid, epoch, reason: 'Cancelled' };

function run(events: ArmingEvent[], from: ArmingState = idle, highestEpoch = epoch) {
  const effects: ArmingEffect[] = [];
  let state = from;
  for (const event of events) {
    const step = stepArming(state, event, highestEpoch);
    state = step.state;
    effects.push(...step.effects);
  }
  const kinds = effects.map((effect) => (effect.type === 'send' ? effect.message.type : effect.type));
  return { state, effects, kinds };
}

describe('a source', () => {
  it('frames after arm, socket, connection and GO', () => {
    const { state, kinds } = run([
      { type: 'arm', order: source },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 5 },
      go,
    ]);
    expect(state.phase).toBe('framed');
    expect(kinds).toEqual(['takeSocket', 'armed', 'holding', 'startFramed']);
  });

  it('does not hold when GO came before the connection', () => {
    const { kinds } = run([
      { type: 'arm', order: source },
      { type: 'socketTaken' },
      go,
      { type: 'connection', nowMs: 5 },
    ]);
    expect(kinds).toEqual(['takeSocket', 'armed', 'startFramed']);
  });

  it('goes raw after two seconds without GO, and a late GO changes nothing', () => {
    const held = run([
      { type: 'arm', order: source },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 100 },
    ]);
    expect(nextTickMs(held.state)).toBe(100 + GO_TIMEOUT_MS);
    expect(run([{ type: 'tick', nowMs: 99 + GO_TIMEOUT_MS }], held.state).kinds).toEqual([]);
    const late = run([{ type: 'tick', nowMs: 100 + GO_TIMEOUT_MS }, go], held.state);
    expect(late.kinds).toEqual(['startRaw', 'raw']);
    expect(late.state).toMatchObject({ phase: 'raw', reason: 'NoGo' });
    expect(nextTickMs(late.state)).toBeUndefined();
  });

  it('relays a held connection raw when it is disarmed', () => {
    const { kinds } = run([
      { type: 'arm', order: source },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
      disarm,
    ]);
    expect(kinds.slice(-2)).toEqual(['startRaw', 'raw']);
  });

  it('takes its hands off after GO: neither disarm nor a new session stops it', () => {
    const framed = run([
      { type: 'arm', order: source },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
      go,
    ]);
    const later = run(
      [disarm, { type: 'arm', order: { ...source, epoch: epoch + 1 } }],
      framed.state,
      epoch + 1,
    );
    expect(later.kinds).toEqual([]);
    expect(later.state).toBe(framed.state);
  });

  it('does not accept GO for another migration, epoch, or from a deposed leader', () => {
    const held = run([
      { type: 'arm', order: source },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
    ]);
    const other = '00000000-0000-4000-8000-000000000000';
    expect(run([{ type: 'go', migrationUid: other, epoch }], held.state).kinds).toEqual([]);
    expect(run([{ type: 'go', migrationUid, epoch: epoch + 1 }], held.state).kinds).toEqual([]);
    expect(run([go], held.state, epoch + 1).kinds).toEqual([]);
  });

  it('keeps the deadline of its hold when a new leader makes a new session', () => {
    const held = run([
      { type: 'arm', order: source },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
    ]);
    const renewed = run([{ type: 'arm', order: { ...source, epoch: epoch + 1 } }], held.state, epoch + 1);
    expect(renewed.kinds).toEqual(['armed', 'holding']);
    expect(nextTickMs(renewed.state)).toBe(GO_TIMEOUT_MS);
    expect(run([{ type: 'go', migrationUid, epoch: epoch + 1 }], renewed.state, epoch + 1).kinds).toEqual([
      'startFramed',
    ]);
  });
});

describe('a target', () => {
  it('frames with its first connection, without GO', () => {
    const { state, kinds } = run([
      { type: 'arm', order: target },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
    ]);
    expect(kinds).toEqual(['takeSocket', 'armed', 'startFramed']);
    expect(state.phase).toBe('framed');
  });

  it('arms again when QEMU makes its socket anew', () => {
    const { kinds } = run([
      { type: 'arm', order: target },
      { type: 'socketTaken' },
      { type: 'socketLost' },
      { type: 'socketTaken' },
    ]);
    expect(kinds).toEqual(['takeSocket', 'armed', 'takeSocket', 'armed']);
  });
});

describe('either side', () => {
  it('touches nothing that was not announced', () => {
    const { state, kinds } = run([
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
      go,
      disarm,
      { type: 'tick', nowMs: 1e9 },
    ]);
    expect(state).toEqual(idle);
    expect(kinds).toEqual([]);
    expect(phaseForHello(state)).toBeUndefined();
  });

  it('gives the socket back when it is disarmed before a connection', () => {
    expect(run([{ type: 'arm', order: target }, { type: 'socketTaken' }, disarm]).kinds).toEqual([
      'takeSocket',
      'armed',
      'restoreSocket',
      'raw',
    ]);
  });

  it('says why when it cannot', () => {
    const { effects, state } = run([
      { type: 'arm', order: target },
      { type: 'declined', reason: 'VolumeNotReadable', detail: 'rootdisk: EACCES' },
    ]);
    expect(effects.at(-1)).toEqual({
      type: 'send',
      message: {
        type: 'raw',
        migrationUid,
        epoch,
        role: 'target',
        reason: 'VolumeNotReadable',
        detail: 'rootdisk: EACCES',
      },
    });
    expect(state).toMatchObject({ phase: 'raw', reason: 'VolumeNotReadable' });
  });

  it('refuses an order of an older leader', () => {
    const { effects, state } = run([{ type: 'arm', order: source }], idle, epoch + 1);
    expect(state).toBe(idle);
    expect(effects).toMatchObject([{ type: 'send', message: { type: 'raw', reason: 'StaleEpoch' } }]);
  });

  it('goes raw when it is armed again in another mode: what it made ready cannot serve that', () => {
    const observe: Order = { ...target, mode: 'observe' };
    const anew: ArmingEvent = { type: 'arm', order: { ...target, epoch: epoch + 1 } };
    for (const events of [[], [{ type: 'socketTaken' }]] as ArmingEvent[][]) {
      const before = run([{ type: 'arm', order: observe }, ...events]);
      const { effects, state } = run([anew], before.state, epoch + 1);
      expect(state.phase).toBe('raw');
      expect(effects).toMatchObject([
        { type: 'restoreSocket' },
        { type: 'send', message: { type: 'raw', epoch: epoch + 1, reason: 'ModeChanged' } },
      ]);
    }
  });

  it('lets a held connection go when its source is armed again in another mode', () => {
    const held = run([
      { type: 'arm', order: { ...source, mode: 'observe' } },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
    ]);
    expect(run([{ type: 'arm', order: source }], held.state).kinds).toEqual(['startRaw', 'raw']);
  });

  it('is busy with one migration, and takes the next when that has ended', () => {
    const framed = run([
      { type: 'arm', order: target },
      { type: 'socketTaken' },
      { type: 'connection', nowMs: 0 },
    ]);
    const next = { ...source, migrationUid: '00000000-0000-4000-8000-000000000000' };
    expect(run([{ type: 'arm', order: next }], framed.state).effects).toMatchObject([
      { type: 'send', message: { type: 'raw', reason: 'Busy', migrationUid: next.migrationUid } },
    ]);
    expect(run([{ type: 'ended' }, { type: 'arm', order: next }], framed.state).kinds).toEqual([
      'takeSocket',
    ]);
  });

  it('repeats its decision when the same migration is armed again', () => {
    const raw = run([{ type: 'arm', order: source }, disarm]);
    expect(run([{ type: 'arm', order: source }], raw.state).effects).toMatchObject([
      { type: 'send', message: { type: 'raw', reason: 'Cancelled' } },
    ]);
  });
});
