import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { exampleArm, exampleHello, exampleProgress, exampleResult } from '../../control/example-messages.ts';
import type { Hello, HubMessage, Role } from '../../control/messages.ts';
import { Coordinator } from './coordinator.ts';
import type { Session } from './hub.ts';

const { migrationUid, mode, downtimeLimitMs, volumes, limits } = exampleArm;
const order = {
  migrationUid,
  mode,
  downtimeLimitMs,
  volumes,
  limits,
  sourcePodUid: 'pod-a',
  targetPodUid: undefined,
};

interface FakeSession extends Session {
  sent: HubMessage[];
  closedWith: string[];
}

function session(podUid: string, migrations: Hello['migrations'] = []): FakeSession {
  const sent: HubMessage[] = [];
  const closedWith: string[] = [];
  return {
    identity: { namespace: 'shop', podName: podUid, podUid },
    hello: { ...exampleHello, migrations },
    send: (message) => {
      sent.push(message);
      return true;
    },
    close: (reason) => closedWith.push(reason),
    sent,
    closedWith,
  };
}

const onChange = vi.fn();
const recorded = new Set<string>();
let coordinator: Coordinator;

const options = {
  onChange,
  onStats: () => {},
  isRecorded: (uid: string) => recorded.has(uid),
  onProblem: () => {},
};

beforeEach(() => {
  onChange.mockReset();
  recorded.clear();
  coordinator = new Coordinator({ ...options, epoch: 7 });
});

const says = (type: 'armed' | 'holding', role: Role) => ({ type, migrationUid, epoch: 7, role }) as const;
const types = (one: FakeSession) => one.sent.map(({ type }) => type);

describe('coordinator', () => {
  it('gives the key to the two pods of the migration and to nobody else', () => {
    const [a, b, c] = [session('pod-a'), session('pod-b'), session('pod-c')];
    for (const one of [a, b, c]) coordinator.onSession(one);
    coordinator.coordinate(order);
    expect(types(b)).toEqual([]);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    expect(types(a)).toEqual(['arm']);
    expect(types(b)).toEqual(['arm']);
    expect(types(c)).toEqual([]);
    expect(a.sent[0]).toMatchObject({ role: 'source', epoch: 7 });
    expect((a.sent[0] as { sessionKey: string }).sessionKey).toBe(
      (b.sent[0] as { sessionKey: string }).sessionKey,
    );
  });

  it('makes another key for each migration', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.coordinate(order);
    coordinator.coordinate({ ...order, migrationUid: '00000000-0000-4000-8000-000000000000' });
    const [first, second] = a.sent as { sessionKey: string }[];
    expect(first?.sessionKey).not.toBe(second?.sessionKey);
  });

  it('closes a session that speaks for a role or migration it does not have', () => {
    const [a, c] = [session('pod-a'), session('pod-c')];
    coordinator.onSession(a);
    coordinator.onSession(c);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onMessage(c, says('armed', 'target'));
    coordinator.onMessage(a, says('armed', 'target'));
    expect(c.closedWith).toHaveLength(1);
    expect(a.closedWith).toHaveLength(1);
    expect(coordinator.view(migrationUid)?.go).toBe(false);
  });

  it('sends GO, measures arming, and keeps the newest progress and both results', () => {
    const [a, b] = [session('pod-a'), session('pod-b')];
    coordinator.onSession(a);
    coordinator.onSession(b);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onMessage(a, says('holding', 'source'));
    coordinator.onMessage(b, says('armed', 'target'));
    expect(types(a)).toEqual(['arm', 'go']);
    coordinator.onMessage(a, { ...exampleProgress, sequence: 5 });
    coordinator.onMessage(a, { ...exampleProgress, sequence: 4 });
    coordinator.onMessage(a, exampleResult);
    coordinator.onMessage(b, { ...exampleResult, role: 'target' });
    const view = coordinator.view(migrationUid);
    expect(view?.armingSeconds).toBeLessThan(0.1);
    expect(view?.progress?.sequence).toBe(5);
    expect(Object.keys(view?.results ?? {})).toEqual(['source', 'target']);
    coordinator.recorded(migrationUid);
    expect(types(b)).toEqual(['arm', 'recorded']);
    expect(coordinator.view(migrationUid)).toBeUndefined();
  });

  it('takes up a migration that is under way after a restart', () => {
    coordinator.onSession(session('pod-a', [{ migrationUid, epoch: 3, role: 'source', phase: 'framed' }]));
    coordinator.coordinate(order);
    expect(coordinator.view(migrationUid)?.go).toBe(true);
  });

  it('arms anew a side that was armed under an earlier key', () => {
    const a = session('pod-a', [{ migrationUid, epoch: 3, role: 'source', phase: 'armed' }]);
    coordinator.onSession(a);
    coordinator.coordinate(order);
    expect(types(a)).toEqual(['arm']);
  });

  it('keeps a result that comes before the controller knows the migration', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.onMessage(a, exampleResult);
    expect(onChange).toHaveBeenCalledWith(migrationUid);
    coordinator.coordinate(order);
    expect(coordinator.view(migrationUid)?.results.source).toEqual(exampleResult);
  });

  it('tells at once that a result is recorded already', () => {
    recorded.add(migrationUid);
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.onMessage(a, exampleResult);
    expect(types(a)).toEqual(['recorded']);
  });

  it('arms again when a sidecar comes back before GO', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.coordinate(order);
    coordinator.onSessionEnded(a);
    const again = session('pod-a');
    coordinator.onSession(again);
    expect(types(again)).toEqual(['arm']);
  });

  it('begins anew with another key when a pod turns out not to be of the migration', () => {
    const [a, b, c] = [session('pod-a'), session('pod-b'), session('pod-c')];
    for (const one of [a, b, c]) coordinator.onSession(one);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.coordinate({ ...order, targetPodUid: 'pod-c' });
    expect(types(b)).toEqual(['arm', 'disarm']);
    expect(types(c)).toEqual(['arm']);
    const keys = a.sent.flatMap((message) => (message.type === 'arm' ? message.sessionKey : []));
    expect(new Set(keys).size).toBe(2);
    coordinator.onMessage(b, says('armed', 'target'));
    expect(b.closedWith).toHaveLength(1);
  });

  it('arms nobody for a migration that is over, but takes its results', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.coordinate({ ...order, over: true });
    coordinator.onMessage(a, exampleResult);
    expect(types(a)).toEqual([]);
    expect(coordinator.view(migrationUid)).toMatchObject({ go: false, reason: undefined });
    expect(coordinator.view(migrationUid)?.results.source).toEqual(exampleResult);
  });

  it('gives sockets back when a migration ends that never got GO', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.coordinate(order);
    coordinator.recorded(migrationUid);
    expect(types(a)).toEqual(['arm', 'disarm', 'recorded']);
  });

  it.each(['NotLeader', 'OperatorStopping'] as const)(
    'lets go of a source that holds for its GO when its term ends: %s',
    (reason) => {
      const [a, b] = [session('pod-a'), session('pod-b')];
      coordinator.onSession(a);
      coordinator.onSession(b);
      coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
      coordinator.onMessage(a, says('holding', 'source'));
      coordinator.endTerm(reason);
      expect(a.sent.at(-1)).toMatchObject({ type: 'disarm', reason, epoch: 7 });
      expect(coordinator.view(migrationUid)?.reason).toBe(reason);
    },
  );

  it('leaves the armed and the framed alone when its term ends: the next leader finds them', () => {
    const [a, b] = [session('pod-a'), session('pod-b')];
    coordinator.onSession(a);
    coordinator.onSession(b);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onMessage(b, says('armed', 'target'));
    coordinator.onMessage(a, says('holding', 'source'));
    const other = '00000000-0000-4000-8000-000000000000';
    const c = session('pod-c');
    coordinator.onSession(c);
    coordinator.coordinate({ ...order, migrationUid: other, sourcePodUid: 'pod-c' });
    coordinator.onMessage(c, { ...says('armed', 'source'), migrationUid: other });
    coordinator.endTerm('OperatorStopping');
    expect(types(a)).toEqual(['arm', 'go']);
    expect(types(b)).toEqual(['arm']);
    expect(types(c)).toEqual(['arm']);
  });

  it('gives no GO after its term, to a source that holds later or comes back holding', () => {
    const [a, b] = [session('pod-a'), session('pod-b')];
    coordinator.onSession(a);
    coordinator.onSession(b);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onMessage(a, says('armed', 'source'));
    coordinator.onMessage(b, says('armed', 'target'));
    coordinator.endTerm('NotLeader');
    coordinator.onMessage(a, says('holding', 'source'));
    expect(a.sent.at(-1)).toMatchObject({ type: 'disarm', reason: 'NotLeader', epoch: 7 });
    expect(coordinator.view(migrationUid)).toMatchObject({ go: false, reason: 'NotLeader' });

    const other = '00000000-0000-4000-8000-000000000000';
    const phase = { migrationUid: other, epoch: 7, role: 'source', phase: 'holding' } as const;
    coordinator = new Coordinator({ ...options, epoch: 7 });
    coordinator.coordinate({ ...order, migrationUid: other, targetPodUid: 'pod-b' });
    const target = { ...phase, role: 'target', phase: 'armed' } as const;
    coordinator.onSession(session('pod-b', [target]));
    coordinator.endTerm('NotLeader');
    const back = session('pod-a', [phase]);
    coordinator.onSession(back);
    expect(types(back)).toEqual(['disarm']);
  });

  it('arms nobody after its term', () => {
    const a = session('pod-a');
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.endTerm('NotLeader');
    coordinator.onSession(a);
    coordinator.coordinate({ ...order, migrationUid: '00000000-0000-4000-8000-000000000000' });
    expect(types(a)).toEqual([]);
  });

  it('knows that no GO could come because the target was not connected', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onMessage(a, says('holding', 'source'));
    coordinator.onMessage(a, { type: 'raw', migrationUid, epoch: 7, role: 'source', reason: 'NoGo' });
    expect(coordinator.view(migrationUid)?.reason).toBe('PeerNotConnected');
    coordinator.onSession(session('pod-b'));
    coordinator.onMessage(a, { ...exampleResult, outcome: 'raw', reason: 'NoGo' });
    expect(coordinator.view(migrationUid)?.results.source?.reason).toBe('PeerNotConnected');
  });

  it('does not know it of a result that an earlier leader did not record', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.coordinate({ ...order, over: true });
    coordinator.onMessage(a, { ...exampleResult, outcome: 'raw', reason: 'NoGo' });
    expect(coordinator.view(migrationUid)?.results.source?.reason).toBe('NoGo');
  });

  it('does not blame the connection of a target that was told and did not answer', () => {
    const [a, b] = [session('pod-a'), session('pod-b')];
    coordinator.onSession(a);
    coordinator.onSession(b);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onMessage(a, says('holding', 'source'));
    coordinator.onMessage(a, { type: 'raw', migrationUid, epoch: 7, role: 'source', reason: 'NoGo' });
    expect(coordinator.view(migrationUid)?.reason).toBe('NoGo');
  });

  it('notices that a side in mid-migration is another process now', () => {
    const [a, b] = [session('pod-a'), session('pod-b')];
    coordinator.onSession(a);
    coordinator.onSession(b);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onMessage(a, says('holding', 'source'));
    coordinator.onMessage(b, says('armed', 'target'));
    coordinator.onSessionEnded(b);
    coordinator.onSession(session('pod-b', [{ migrationUid, epoch: 7, role: 'target', phase: 'framed' }]));
    expect(coordinator.view(migrationUid)?.reason).toBeUndefined();
    coordinator.onSessionEnded(a);
    const again = session('pod-a');
    coordinator.onSession(again);
    expect(coordinator.view(migrationUid)?.reason).toBe('SidecarRestarted');
    expect(types(again)).toEqual([]);
  });

  it('knows that a result is coming from a side that has finished, until it is there', () => {
    const a = session('pod-a', [{ migrationUid, epoch: 3, role: 'source', phase: 'finished' }]);
    coordinator.onSession(a);
    coordinator.coordinate({ ...order, over: true });
    expect(coordinator.view(migrationUid)?.isResultComing).toBe(true);
    coordinator.onMessage(a, exampleResult);
    expect(coordinator.view(migrationUid)?.isResultComing).toBe(false);
  });

  it('gives up once, with the reason that was given', () => {
    const a = session('pod-a');
    coordinator.onSession(a);
    coordinator.coordinate(order);
    coordinator.giveUp(migrationUid, 'PostCopyAllowed', 'in the configuration');
    coordinator.giveUp(migrationUid, 'Suspended', '');
    expect(types(a)).toEqual(['arm', 'disarm']);
    expect(coordinator.view(migrationUid)).toMatchObject({
      reason: 'PostCopyAllowed',
      detail: 'in the configuration',
    });
  });
});

describe('a side that waits in a migration that is over', () => {
  /** Well above what a new leader's caches may be behind. */
  const LONG_MS = 60_000;
  const waits = (phase: 'arming' | 'armed' | 'holding', role: Role = 'source', epoch = 7) =>
    [{ migrationUid, epoch, role, phase }] as const;

  beforeEach(() => {
    vi.useFakeTimers();
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  it.each(['arming', 'armed', 'holding'] as const)(
    'is disarmed when it was away as the result was recorded, and comes back %s',
    (phase) => {
      const a = session('pod-a');
      coordinator.onSession(a);
      coordinator.coordinate(order);
      coordinator.onSessionEnded(a);
      coordinator.recorded(migrationUid);
      recorded.add(migrationUid);
      const back = session('pod-a', [...waits(phase)]);
      coordinator.onSession(back);
      expect(back.sent).toEqual([
        { type: 'disarm', migrationUid, epoch: 7, role: 'source', reason: 'MigrationOver' },
      ]);
    },
  );

  it.each(['armed', 'holding'] as const)(
    'is disarmed by a leader that only collects results, under any epoch: %s',
    (phase) => {
      const [early, late] = [
        session('pod-a', [...waits(phase, 'source', 3)]),
        session('pod-b', [...waits('armed', 'target', 3)]),
      ];
      coordinator.onSession(early);
      coordinator.coordinate({ ...order, targetPodUid: 'pod-b', over: true });
      coordinator.onSession(late);
      for (const one of [early, late])
        expect(one.sent).toMatchObject([{ type: 'disarm', reason: 'MigrationOver', epoch: 7 }]);
    },
  );

  it('is disarmed when a leader that did not run the migration finds it recorded', () => {
    const a = session('pod-a', [...waits('armed')]);
    coordinator.onSession(a);
    coordinator.recorded(migrationUid);
    expect(types(a)).toEqual(['disarm']);
    coordinator.recorded(migrationUid);
    expect(types(a)).toEqual(['disarm']);
  });

  it('is disarmed when the leader does not run the migration, but not before it could', () => {
    const a = session('pod-a', [...waits('armed')]);
    coordinator.onSession(a);
    vi.advanceTimersByTime(5000);
    expect(types(a)).toEqual([]);
    vi.advanceTimersByTime(LONG_MS);
    expect(types(a)).toEqual(['disarm']);
  });

  it('is armed anew when the leader comes to know the migration, and not disarmed then', () => {
    const a = session('pod-a', [...waits('armed', 'source', 3)]);
    coordinator.onSession(a);
    vi.advanceTimersByTime(5000);
    coordinator.coordinate(order);
    vi.advanceTimersByTime(LONG_MS);
    expect(types(a)).toEqual(['arm']);
  });

  it('is left alone when it is gone, framed, or there after the term', () => {
    const gone = session('pod-a', [...waits('armed')]);
    coordinator.onSession(gone);
    coordinator.onSessionEnded(gone);
    const framed = session('pod-b', [{ migrationUid, epoch: 3, role: 'target', phase: 'framed' }]);
    coordinator.onSession(framed);
    const late = session('pod-c', [...waits('armed')]);
    coordinator.onSession(late);
    coordinator.endTerm('NotLeader');
    vi.advanceTimersByTime(LONG_MS);
    for (const one of [gone, framed, late]) expect(types(one)).toEqual([]);
  });

  it('is disarmed when its pod is not of the migration any longer', () => {
    const c = session('pod-c', [...waits('armed', 'target', 3)]);
    coordinator.onSession(c);
    coordinator.coordinate(order);
    vi.advanceTimersByTime(LONG_MS);
    // Its target may yet turn out to be this one.
    expect(types(c)).toEqual([]);
    const again = session('pod-c', [...waits('armed', 'target', 3)]);
    coordinator.onSessionEnded(c);
    coordinator.coordinate({ ...order, targetPodUid: 'pod-b' });
    coordinator.onSession(again);
    vi.advanceTimersByTime(LONG_MS);
    expect(types(again)).toEqual(['disarm']);
    // What it answers is no reason to end its session, which has other migrations to come.
    const answer = { migrationUid, epoch: 7, role: 'target' } as const;
    coordinator.onMessage(again, { ...answer, type: 'raw', reason: 'MigrationOver' });
    coordinator.onMessage(again, { ...exampleResult, ...answer, outcome: 'unused' });
    expect(again.closedWith).toEqual([]);
    expect(again.sent.at(-1)).toEqual({ type: 'recorded', migrationUid });
    coordinator.onMessage(again, { ...exampleResult, ...answer, outcome: 'accelerated' });
    expect(again.closedWith).toEqual(['not your migration']);
  });
});
