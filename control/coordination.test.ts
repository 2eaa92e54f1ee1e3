import { describe, expect, it } from 'vitest';
import {
  type Coordination,
  type CoordinationEffect,
  type CoordinationEvent,
  isFramed,
  rawReason,
  startCoordination,
  stepCoordination,
} from './coordination.ts';
import { exampleArm, exampleResult } from './example-messages.ts';
import type { Role } from './messages.ts';

const { migrationUid, epoch, mode, sessionKey, downtimeLimitMs, volumes, limits } = exampleArm;
const plan = { migrationUid, epoch, mode, sessionKey, downtimeLimitMs, volumes, limits };
const connected = (role: Role): CoordinationEvent => ({ type: 'connected', role });
const says = (type: 'armed' | 'holding', role: Role): CoordinationEvent => ({
  type: 'message',
  message: { type, migrationUid, epoch, role },
});
const raw = (role: Role): CoordinationEvent => ({
  type: 'message',
  message: { type: 'raw', migrationUid, epoch, role, reason: 'VolumeNotReadable' },
});

function run(events: CoordinationEvent[], from: Coordination = startCoordination(plan)) {
  const effects: CoordinationEffect[] = [];
  let state = from;
  for (const event of events) {
    const step = stepCoordination(state, event);
    state = step.state;
    effects.push(...step.effects);
  }
  return { state, sent: effects.map(({ to, message }) => `${message.type} ${to}`), effects };
}

describe('bringing two sidecars together', () => {
  it('arms each side as it connects, with the same key, and sends GO when source holds and target is armed', () => {
    const { sent, state, effects } = run([
      connected('source'),
      says('armed', 'source'),
      connected('target'),
      says('holding', 'source'),
      says('armed', 'target'),
    ]);
    expect(sent).toEqual(['arm source', 'arm target', 'go source']);
    expect(effects[0]?.message).toEqual({ ...exampleArm, role: 'source' });
    expect(effects[1]?.message).toEqual({ ...exampleArm, role: 'target' });
    expect(isFramed(state)).toBe(true);
    expect(rawReason(state)).toBeUndefined();
  });

  it('sends GO once, whatever is repeated', () => {
    const { sent } = run([
      connected('source'),
      connected('target'),
      says('armed', 'target'),
      says('armed', 'source'),
      says('holding', 'source'),
      says('holding', 'source'),
      says('armed', 'target'),
    ]);
    expect(sent.filter((line) => line.startsWith('go'))).toHaveLength(1);
  });

  it('gives the other side its socket back when one cannot', () => {
    const { sent, state } = run([
      connected('source'),
      says('armed', 'source'),
      connected('target'),
      raw('target'),
    ]);
    expect(sent.at(-1)).toBe('disarm source');
    expect(rawReason(state)).toBe('VolumeNotReadable');
    const late = run([says('holding', 'source'), says('armed', 'target')], state);
    expect(late.sent).toEqual([]);
  });

  it('gives the other side its socket back when one ended unused, and only then', () => {
    const ends = (outcome: 'unused' | 'accelerated'): CoordinationEvent => ({
      type: 'message',
      message: { ...exampleResult, migrationUid, role: 'target', outcome, reason: 'SidecarStopping' },
    });
    const before = run([connected('source'), connected('target'), says('armed', 'target')]).state;
    const { sent, state } = run([ends('unused')], before);
    expect(sent).toEqual(['disarm source']);
    expect(rawReason(state)).toBe('SidecarStopping');
    // A new leader has not seen the GO of the one before it.
    expect(run([ends('accelerated')], before).sent).toEqual([]);
    const gone = run([says('armed', 'source'), says('holding', 'source')], before);
    expect(gone.sent).toEqual(['go source']);
    expect(run([ends('unused')], gone.state).sent).toEqual([]);
    // Away when it ended, it says so in its HELLO, and what became of it after that.
    const back: CoordinationEvent = { type: 'connected', role: 'target', phase: 'finished' };
    expect(run([back, ends('unused')], before).sent).toEqual(['disarm source']);
    expect(run([back, ends('unused'), ends('unused')], before).sent).toEqual(['disarm source']);
  });

  it('takes both back when the controller gives up, and arms nobody later', () => {
    const { sent, state } = run([
      connected('source'),
      { type: 'giveUp', reason: 'Suspended' },
      connected('target'),
    ]);
    expect(sent).toEqual(['arm source', 'disarm source']);
    expect(rawReason(state)).toBe('Suspended');
  });

  it('takes a target back that nobody reached after GO, once the migration is over, and not before', () => {
    const { state } = run([
      ...[connected('source'), connected('target'), says('armed', 'target'), says('holding', 'source')],
    ]);
    expect(run([{ type: 'giveUp', reason: 'Suspended' }], state).sent).toEqual([]);
    expect(run([{ type: 'giveUp', reason: 'MigrationOver' }], state).sent).toEqual(['disarm target']);
    const finished = run([{ type: 'message', message: { ...exampleResult, role: 'target' } }], state);
    expect(run([{ type: 'giveUp', reason: 'MigrationOver' }], finished.state).sent).toEqual([]);
  });

  it('does not send GO to a target that is gone, and arms it again when it is back', () => {
    const { sent } = run([
      connected('source'),
      connected('target'),
      says('armed', 'target'),
      { type: 'disconnected', role: 'target' },
      says('holding', 'source'),
      connected('target'),
      says('armed', 'target'),
    ]);
    expect(sent).toEqual(['arm source', 'arm target', 'arm target', 'go source']);
  });

  it('goes on where a side says it stands after a reconnect', () => {
    const { sent } = run([
      { type: 'connected', role: 'source', phase: 'holding' },
      { type: 'connected', role: 'target', phase: 'armed' },
    ]);
    expect(sent).toEqual(['go source']);
    const framed = run([
      { type: 'connected', role: 'source', phase: 'framed' },
      { type: 'giveUp', reason: 'Suspended' },
    ]);
    expect(framed.sent).toEqual([]);
    expect(isFramed(framed.state)).toBe(true);
  });

  it.each(['arming', 'armed', 'holding'] as const)(
    'gives a side its socket back that was away when it was decided, and is %s',
    (phase) => {
      const { state } = run([
        ...[connected('source'), connected('target'), says('armed', 'target')],
        { type: 'disconnected', role: 'source' },
        { type: 'giveUp', reason: 'Suspended' },
      ]);
      const back = run([{ type: 'connected', role: 'source', phase }], state);
      expect(back.effects).toMatchObject([
        { to: 'source', message: { type: 'disarm', reason: 'Suspended' } },
      ]);
      expect(run([connected('source')], state).sent).toEqual([]);
    },
  );

  it('leaves a target that waits after GO, until the migration is over', () => {
    const framed = run([{ type: 'connected', role: 'source', phase: 'framed' }]);
    for (const phase of ['arming', 'armed'] as const) {
      const waiting = run([{ type: 'connected', role: 'target', phase }], framed.state);
      expect(waiting.sent).toEqual([]);
      const over = run([{ type: 'giveUp', reason: 'MigrationOver' }], waiting.state);
      expect(over.sent).toEqual(['disarm target']);
    }
    // It was given up before it was known that there had been a GO: who is on its way must find the target's sidecar.
    const late = run([
      { type: 'giveUp', reason: 'Suspended' },
      { type: 'connected', role: 'source', phase: 'framed' },
      { type: 'connected', role: 'target', phase: 'armed' },
    ]);
    expect(late.sent).toEqual([]);
    expect(run([{ type: 'giveUp', reason: 'MigrationOver' }], late.state).sent).toEqual(['disarm target']);
  });

  it('does not arm a side again that has told its result', () => {
    const { sent } = run([{ type: 'message', message: exampleResult }, connected('source')]);
    expect(sent).toEqual([]);
  });

  it('ignores answers to an earlier session, but never a result', () => {
    const stale: CoordinationEvent = {
      type: 'message',
      message: { type: 'armed', migrationUid, epoch: epoch - 1, role: 'target' },
    };
    const { sent, state } = run([connected('source'), connected('target'), says('holding', 'source'), stale]);
    expect(sent).not.toContain('go source');
    const done = run([{ type: 'message', message: { ...exampleResult, epoch: epoch - 1 } }], state);
    expect(done.state.source.phase).toBe('finished');
  });
});
