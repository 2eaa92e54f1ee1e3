import { describe, expect, it } from 'vitest';
import { exampleHello, exampleProgress, exampleResult } from '../../control/example-messages.ts';
import {
  type NasAwareMigrationStatus,
  nasAwareMigrationStatusSchema,
} from '../../crds/nas-aware-migration.ts';
import { readVmi, readVmim } from '../kubevirt/objects.ts';
import { type Decision, decide, decideRefused, migrationNameFor, wantsPermit } from './decide.ts';
import {
  handedOff,
  nam,
  nowMs,
  pod,
  seenAt,
  snapshot,
  uid,
  view,
  vmi,
  vmim,
  vmimUid,
} from './example-snapshots.ts';
import { readPolicy } from './policies.ts';
import type { PodFacts, Snapshot } from './snapshot.ts';

const effectTypes = ({ effects }: Decision) =>
  effects.map(({ type }) => type).filter((type) => type !== 'event');
const condition = (decision: Decision, type: string) =>
  decision.status?.conditions?.find((one) => one.type === type);
const accelerated = (decision: Decision) => {
  const found = condition(decision, 'Accelerated');
  return `${found?.status} ${found?.reason}`;
};

describe('starting', () => {
  it('makes the migration, with a name that is always the same', () => {
    const decision = decide(snapshot());
    expect(effectTypes(decision)).toEqual(['createMigration']);
    expect(decision.status).toMatchObject({
      phase: 'Preparing',
      migration: { name: 'move-db-6f1b7a52' },
      vmiUID: 'vmi-1',
    });
    expect(accelerated(decision)).toBe('Unknown Arming');
    expect(decide(snapshot())).toEqual(decision);
  });

  it('waits for a sidecar that may be on its way to a new leader, and no longer', () => {
    const away = { sourcePod: pod('pod-a', { connected: false, index: undefined, link: undefined }) };
    const waiting = decide(snapshot({ ...away, reconnectUntilMs: nowMs + 1500 }));
    expect(effectTypes(waiting)).toEqual([]);
    expect(accelerated(waiting)).toBe('Unknown Preparing');
    expect(waiting.requeueAfterMs).toBe(1500);
    expect(accelerated(decide(snapshot({ ...away, reconnectUntilMs: nowMs })))).toBe('False HubUnreachable');
    const none = { sourcePod: pod('pod-a', { connected: false, hasSidecar: false }) };
    expect(accelerated(decide(snapshot({ ...none, reconnectUntilMs: nowMs + 1500 })))).toBe(
      'False NoSidecar',
    );
  });

  it.each([
    ['ProtocolTooOld', { sourcePod: pod('pod-a', { link: { min: 200, max: 201 } }) }],
    ['GainTooSmall', { sourcePod: pod('pod-a', { index: { ...exampleHello.index, blocks: 0 } }) }],
    ['GainTooSmall', { lastQemuBytes: 1e15 }],
  ] as [string, Partial<Snapshot>][])('goes plainly with %s; Required refuses', (reason, facts) => {
    expect(accelerated(decide(snapshot(facts)))).toBe(`False ${reason}`);
    const required = decide(snapshot({ ...facts, migration: nam({ acceleration: 'Required' }) }));
    expect(required.status).toMatchObject({ phase: 'Failed', result: { reason } });
  });

  it('goes plainly where plain was seen to be faster, but not with Required', () => {
    const facts = { isPlainFaster: true };
    const plain = decide(snapshot(facts));
    expect(accelerated(plain)).toBe('False GainTooSmall');
    const limited = decide(snapshot({ ...facts, migration: nam({ limits: { linkBandwidth: '50M' } }) }));
    expect(accelerated(limited)).toBe('Unknown Arming');
    const required = decide(snapshot({ ...facts, migration: nam({ acceleration: 'Required' }) }));
    expect(accelerated(required)).toBe('Unknown Arming');
  });

  it('observes also what is not worth the while', () => {
    const observed = { lastQemuBytes: 1e15, migration: nam({ acceleration: 'Observe' }) };
    expect(accelerated(decide(snapshot(observed)))).toBe('False Observing');
  });

  it('takes its finalizer first', () => {
    expect(effectTypes(decide(snapshot({ migration: nam({}, {}, { finalizers: [] }) })))).toEqual([
      'addFinalizer',
      'createMigration',
    ]);
  });

  it('makes a name that fits', () => {
    expect(migrationNameFor({ name: 'a'.repeat(253), uid })).toHaveLength(63);
    expect(migrationNameFor({ name: `${'a'.repeat(53)}.b`, uid })).toBe(`${'a'.repeat(53)}-6f1b7a52`);
  });

  it.each([
    ['no VMI', { vmi: undefined }, 'VirtualMachineInstanceNotFound'],
    ['a stopped VMI', { vmi: vmi({ phase: 'Scheduling' }) }, 'VirtualMachineInstanceNotRunning'],
    [
      'a VMI that cannot be migrated',
      {
        vmi: vmi({
          conditions: [
            { type: 'LiveMigratable', status: 'False', reason: 'DisksNotLiveMigratable', message: 'no RWX' },
          ],
        }),
      },
      'NotLiveMigratable',
    ],
    [
      'another migration',
      { others: [vmim('Running', { uid: 'other', name: 'other' })!] },
      'MigrationInFlight',
    ],
    [
      'an adopted one that is gone',
      { migration: nam({ migrationName: 'x' }, seenAt(nowMs - 60_000)) },
      'MigrationNotFound',
    ],
  ] as [string, Partial<Snapshot>, string][])(
    'refuses with %s, and moves nothing',
    (_what, facts, reason) => {
      const decision = decide(snapshot(facts));
      expect(decision.status?.phase).toBe('Failed');
      expect(condition(decision, 'Complete')).toMatchObject({ status: 'True', reason });
      expect(effectTypes(decision)).toEqual([]);
    },
  );

  it.each([
    [
      'NoSharedRawVolume',
      { volumes: { usable: [], refused: [{ name: 'rootdisk', why: 'access mode ReadWriteOnce' }] } },
    ],
    ['NoSidecar', { sourcePod: pod('pod-a', { hasSidecar: false, connected: false }) }],
    [
      'HubUnreachable',
      {
        sourcePod: pod('pod-a', { connected: false }),
        migration: nam({}, seenAt(0)),
      },
    ],
    ['BreakerOpen', { breaker: { reason: 'BreakerOpen', detail: '' } }],
    ['VolumesBeingMigrated', { vmi: vmi({ migratedVolumes: [{ volumeName: 'rootdisk' }] }) }],
    ['RootVmi', { vmi: vmi({ runtimeUser: 0 }) }],
    ['Suspended', { policy: readPolicy({ metadata: { name: 'all' }, spec: { suspend: true } }) }],
  ] as [string, Partial<Snapshot>][])(
    'with %s: Preferred migrates plainly and says so, Required refuses',
    (reason, facts) => {
      const preferred = decide(snapshot(facts));
      expect(effectTypes(preferred)).toEqual(['createMigration']);
      expect(accelerated(preferred)).toBe(`False ${reason}`);
      expect(preferred.effects).toContainEqual(
        expect.objectContaining({ type: 'event', severity: 'Warning', reason }),
      );
      const { migration = nam() } = facts;
      const required = decide(
        snapshot({
          ...facts,
          migration: { ...migration, firstSeenMs: 0, spec: { ...migration.spec, acceleration: 'Required' } },
        }),
      );
      expect(effectTypes(required)).toEqual([]);
      expect(required.status).toMatchObject({ phase: 'Failed', result: { accelerated: false, reason } });
    },
  );

  it('waits for a sidecar and for the index as long as it was asked to', () => {
    const migration = nam({ prepareTimeout: '30s' });
    for (const sourcePod of [
      pod('pod-a', { connected: false }),
      pod('pod-a', { index: { ...exampleHello.index, ready: false } }),
    ]) {
      const waiting = decide(snapshot({ migration, sourcePod }));
      expect(effectTypes(waiting)).toEqual([]);
      expect(waiting.status?.phase).toBe('Preparing');
      expect(waiting.requeueAfterMs).toBe(2000);
      const later = { ...migration, firstSeenMs: nowMs };
      expect(effectTypes(decide(snapshot({ migration: later, sourcePod, nowMs: nowMs + 29_999 })))).toEqual(
        [],
      );
      expect(effectTypes(decide(snapshot({ migration: later, sourcePod, nowMs: nowMs + 30_000 })))).toEqual([
        'createMigration',
      ]);
    }
    expect(effectTypes(decide(snapshot({ migration })))).toEqual(['createMigration']);
  });

  it.each([
    ['an hour ahead', 3_600_000],
    ['an hour behind', -3_600_000],
  ])('waits no less and no longer when our clock is %s of the API server’s', (_what, skewMs) => {
    const sourcePod = pod('pod-a', { connected: false });
    const migration = nam({ prepareTimeout: '30s' }, {}, { creationTimestamp: new Date(nowMs - skewMs) });
    const first = decide(snapshot({ migration, sourcePod }));
    expect(effectTypes(first)).toEqual([]);
    const waited = nam({ prepareTimeout: '30s' }, first.status);
    expect(effectTypes(decide(snapshot({ migration: waited, sourcePod, nowMs: nowMs + 20_000 })))).toEqual(
      [],
    );
    expect(effectTypes(decide(snapshot({ migration: waited, sourcePod, nowMs: nowMs + 30_000 })))).toEqual([
      'createMigration',
    ]);
  });

  it('waits anew, and not for an hour, when the leader before had a clock an hour ahead', () => {
    const sourcePod = pod('pod-a', { connected: false });
    const migration = nam({ prepareTimeout: '30s' }, seenAt(nowMs + 3_600_000));
    const waiting = decide(snapshot({ migration, sourcePod }));
    expect(effectTypes(waiting)).toEqual([]);
    const later = nam({ prepareTimeout: '30s' }, waiting.status);
    expect(effectTypes(decide(snapshot({ migration: later, sourcePod, nowMs: nowMs + 30_000 })))).toEqual([
      'createMigration',
    ]);
    const adopted = decide(snapshot({ migration: nam({ migrationName: 'x' }, seenAt(nowMs + 3_600_000)) }));
    expect(adopted.requeueAfterMs).toBe(1000);
    const gone = nam({ migrationName: 'x' }, adopted.status);
    expect(decide(snapshot({ migration: gone, nowMs: nowMs + 60_000 })).status?.phase).toBe('Failed');
  });

  it('keeps what the index was when pages began to move, and tells of it anew until then', () => {
    const young = { ...exampleHello.index, blocks: 5, ready: false };
    const waiting = decide(
      snapshot({ migration: nam({ prepareTimeout: '30s' }), sourcePod: pod('pod-a', { index: young }) }),
    );
    expect(waiting.status?.index).toMatchObject({ blocks: 5, ready: false });
    const made = decide(snapshot({ migration: nam({}, waiting.status) }));
    expect(made.status?.index).toEqual(exampleHello.index);
    const running = snapshot({
      migration: nam({}, made.status),
      vmim: vmim('Running'),
      vmi: handedOff(),
      sourcePod: pod('pod-a', { index: { ...young, blocks: 9 } }),
      coordination: view({ go: true }),
    });
    expect(decide(running).status?.index).toEqual(exampleHello.index);
  });

  it('lets the policy decide where the object does not say', () => {
    const policy = readPolicy({
      metadata: { name: 'all' },
      spec: { defaults: { acceleration: 'Disabled' } },
    });
    expect(accelerated(decide(snapshot({ policy })))).toBe('False AccelerationDisabled');
    expect(accelerated(decide(snapshot({ policy, migration: nam({ acceleration: 'Preferred' }) })))).toBe(
      'Unknown Arming',
    );
  });
});

describe('running', () => {
  it('arms nobody before the configuration of the migration is known', () => {
    expect(effectTypes(decide(snapshot({ vmim: vmim('Scheduling') })))).toEqual([]);
    const earlier = vmi({ migrationState: { migrationUid: 'an-earlier-one', migrationConfiguration: {} } });
    expect(effectTypes(decide(snapshot({ vmim: vmim('Scheduling'), vmi: earlier })))).toEqual([]);
  });

  it.each([
    [{}, 300],
    [{ maxDowntimeMs: 900 }, 300],
    [{ maxDowntimeMs: 150.4 }, 150],
    [{ maxDowntimeMs: 0 }, 1],
  ])('paces the first pass for the limit that QEMU has in it: %j', (configuration, downtimeLimitMs) => {
    const decision = decide(snapshot({ vmim: vmim('TargetReady'), vmi: handedOff(configuration) }));
    expect(decision.effects).toMatchObject([{ type: 'coordinate', order: { downtimeLimitMs } }]);
  });

  it.each([
    [[{ name: 'default', bridge: {} }], [{ name: 'default', pod: {} }], 'PodNetworkBridged'],
    [[{ name: 'default', masquerade: {} }], [{ name: 'default', pod: {} }], 'HubUnreachable'],
    [[{ name: 'second', bridge: {} }], [{ name: 'second', multus: {} }], 'HubUnreachable'],
  ])('of a VM with interfaces %j says why its sidecar is not connected', (interfaces, networks, reason) => {
    const bridged = readVmi({
      metadata: { namespace: 'shop', name: 'db', uid: 'vmi-1' },
      ...({
        spec: { volumes: [], networks, domain: { devices: { interfaces } } },
        status: { phase: 'Running' },
      } as object),
    });
    const decision = decide(snapshot({ vmi: bridged, sourcePod: pod('pod-a', { connected: false }) }));
    expect(condition(decision, 'Accelerated')).toMatchObject({ status: 'False', reason });
  });

  it('arms both pods after the hand-off, with the limits that apply', () => {
    const policy = readPolicy({
      metadata: { name: 'all' },
      spec: { defaults: { limits: { linkBandwidth: '100M', nasReadBandwidth: '1Gi' } } },
    });
    const migration = nam({ limits: { linkBandwidth: '400M' } });
    const decision = decide(
      snapshot({ vmim: vmim('TargetReady'), vmi: handedOff(), targetPod: pod('pod-b'), policy, migration }),
    );
    expect(decision.effects).toEqual([
      {
        type: 'coordinate',
        order: {
          migrationUid: vmimUid,
          mode: 'accelerate',
          downtimeLimitMs: 300,
          volumes: ['rootdisk'],
          limits: { linkBytesPerSecond: 1e8, nasReadBytesPerSecond: 2 ** 30 },
          sourcePodUid: 'pod-a',
          targetPodUid: 'pod-b',
        },
      },
    ]);
    expect(decision.status).toMatchObject({
      source: { node: 'node-1' },
      target: { node: 'node-2', pod: 'pod-b' },
    });
  });

  it('gives no key to a pod that is not of the VM', () => {
    const stranger = pod('pod-b', { belongsToVmi: false });
    const decision = decide(snapshot({ vmim: vmim('TargetReady'), vmi: handedOff(), targetPod: stranger }));
    expect(decision.effects).toMatchObject([{ type: 'coordinate', order: { targetPodUid: undefined } }]);
    expect(
      effectTypes(decide(snapshot({ vmim: vmim('TargetReady'), vmi: handedOff(), sourcePod: stranger }))),
    ).toEqual([]);
  });

  it.each([
    ['PostCopyAllowed', handedOff({ allowPostCopy: true })],
    ['CompressionOn', handedOff({ experimental: { compression: 'zstd' } })],
    ['CappedByBandwidthPerMigration', handedOff({ bandwidthPerMigration: '64Mi' })],
  ] as const)('does not arm with %s', (reason, configured) => {
    const decision = decide(
      snapshot({ vmim: vmim('TargetReady'), vmi: configured, targetPod: pod('pod-b') }),
    );
    expect(accelerated(decision)).toBe(`False ${reason}`);
    expect(effectTypes(decision)).toEqual([]);
    const later = decide(
      snapshot({ vmim: vmim('TargetReady'), vmi: configured, targetPod: pod('pod-b'), coordination: view() }),
    );
    expect(later.effects).toContainEqual(expect.objectContaining({ type: 'giveUp', reason }));
    const required = decide(
      snapshot({ vmim: vmim('TargetReady'), vmi: configured, migration: nam({ acceleration: 'Required' }) }),
    );
    expect(effectTypes(required)).toEqual(['deleteMigration']);
  });

  it('does not stop what has begun', () => {
    const policy = readPolicy({ metadata: { name: 'all' }, spec: { suspend: true } });
    const decision = decide(
      snapshot({
        vmim: vmim('Running'),
        vmi: handedOff(),
        targetPod: pod('pod-b'),
        coordination: view({ go: true }),
        policy,
      }),
    );
    expect(accelerated(decision)).toBe('True Framed');
    expect(effectTypes(decision)).toEqual(['coordinate']);
    expect(decision.status?.phase).toBe('Migrating');
  });

  it('shows progress that never runs backwards, at most every ten seconds', () => {
    const facts = { vmim: vmim('Running'), vmi: handedOff(), targetPod: pod('pod-b') };
    const told = (remainingBytes: number, iteration = 1) =>
      view({ go: true, progress: { ...exampleProgress, ramBytes: 1000, remainingBytes, iteration } });
    const first = decide(snapshot({ ...facts, coordination: told(500) })).status;
    expect(first?.progress).toMatchObject({ percent: 45, secondsLeft: 1 });
    const soon = decide(
      snapshot({ ...facts, migration: nam({}, first), coordination: told(100), nowMs: nowMs + 5000 }),
    );
    expect(soon.status?.progress).toEqual(first?.progress);
    const worse = decide(
      snapshot({ ...facts, migration: nam({}, first), coordination: told(900), nowMs: nowMs + 10_000 }),
    );
    expect(worse.status?.progress).toMatchObject({ percent: 45, remainingBytes: 900 });
  });

  it('does not take back what an earlier leader gave its GO to', () => {
    const status: NasAwareMigrationStatus = {
      phase: 'Migrating',
      migration: { name: 'move-db-6f1b7a52', uid: vmimUid },
      conditions: [
        {
          ...{ type: 'Accelerated', status: 'True', reason: 'Framed', message: '' },
          lastTransitionTime: '2026-06-01T11:59:00Z',
        },
      ],
    };
    const facts = { vmim: vmim('Running'), vmi: handedOff(), targetPod: pod('pod-b') };
    const decision = decide(snapshot({ ...facts, migration: nam({}, status), isPlainFaster: true }));
    expect(accelerated(decision)).not.toContain('False');
    expect(effectTypes(decision)).toContain('coordinate');
  });

  it('says what the sidecars say', () => {
    const coordination = view({ reason: 'SocketNotTaken', detail: 'QEMU connected first' });
    const decision = decide(
      snapshot({ vmim: vmim('Running'), vmi: handedOff(), targetPod: pod('pod-b'), coordination }),
    );
    expect(accelerated(decision)).toBe('False SocketNotTaken');
    expect(condition(decision, 'Accelerated')?.message).toContain('QEMU connected first');
  });

  it('refuses somebody else’s migration of another VM', () => {
    const decision = decide(
      snapshot({ migration: nam({ migrationName: 'x' }), vmim: vmim('Running', {}, { vmiName: 'other' }) }),
    );
    expect(decision.status?.phase).toBe('Failed');
    expect(effectTypes(decision)).toEqual(['recorded']);
  });
});

describe('the end', () => {
  const running = (more: NasAwareMigrationStatus = {}): NasAwareMigrationStatus => ({
    phase: 'Migrating',
    migration: { name: 'move-db-6f1b7a52', uid: vmimUid },
    ...more,
  });
  const results = { source: exampleResult, target: { ...exampleResult, role: 'target' as const } };

  it('waits a little for results, then records what is known', () => {
    const facts = {
      vmim: vmim('Succeeded'),
      vmi: handedOff(),
      targetPod: pod('pod-b'),
      coordination: view({ go: true }),
    };
    const waiting = decide(snapshot({ ...facts, migration: nam({}, running()) }));
    expect(waiting.status?.phase).toBe('Migrating');
    expect(waiting.requeueAfterMs).toBe(1000);
    const late = decide(snapshot({ ...facts, migration: nam({}, waiting.status), nowMs: nowMs + 5000 }));
    expect(late.status).toMatchObject({
      phase: 'Succeeded',
      result: { accelerated: true, attempt: 'Accelerated' },
    });
  });

  it.each([
    ['the leader changed', { over: true }],
    ['a sidecar that came back has said that it has finished', { go: true, isResultComing: true }],
  ])('waits longer for results when %s, also while the target is connected', (_what, coordination) => {
    const facts = {
      vmim: vmim('Succeeded'),
      vmi: handedOff(),
      targetPod: pod('pod-b'),
      coordination: view(coordination),
    };
    const first = decide(snapshot({ ...facts, migration: nam({}, running()) }));
    const at = (ms: number) =>
      decide(snapshot({ ...facts, migration: nam({}, first.status), nowMs: nowMs + ms })).status?.phase;
    expect(at(6000)).toBe('Migrating');
    expect(at(20_000)).toBe('Succeeded');
  });

  it('waits for nobody when it failed before there was a target', () => {
    const status: NasAwareMigrationStatus = {
      ...running({ phase: 'Preparing' }),
      conditions: [
        {
          type: 'Accelerated',
          status: 'Unknown',
          reason: 'Arming',
          message: '',
          lastTransitionTime: '2026-06-01T11:59:00Z',
        },
      ],
    };
    const facts = { vmim: vmim('Failed'), coordination: undefined };
    expect(decide(snapshot({ ...facts, migration: nam({}, status) })).status?.phase).toBe('Failed');
    const withTarget = { ...status, target: { pod: 'pod-b', podUID: 'uid-b', node: 'node-2' } };
    expect(decide(snapshot({ ...facts, migration: nam({}, withTarget) })).status?.phase).toBe('Preparing');
  });

  it('records the numbers of an accelerated migration', () => {
    const decision = decide(
      snapshot({
        migration: nam({}, running()),
        vmim: vmim('Succeeded'),
        vmi: handedOff(),
        targetPod: pod('pod-b'),
        coordination: view({ go: true, results }),
      }),
    );
    expect(decision.status).toMatchObject({
      phase: 'Succeeded',
      completionTime: '2026-06-01T12:00:00Z',
      result: {
        accelerated: true,
        linkBytes: 31_000_000,
        savedBytes: 726_000_000,
        savedPercent: 95,
        downtimeMs: 180,
      },
    });
    expect(decision.status?.result).not.toHaveProperty('reason');
    expect(effectTypes(decision)).toEqual(['recorded']);
  });

  it('says why one was plain', () => {
    const source = { ...exampleResult, outcome: 'raw' as const, reason: 'NoGo' as const };
    const coordination = view({ reason: 'NoGo', results: { source } });
    const decision = decide(
      snapshot({ migration: nam({}, running()), vmim: vmim('Succeeded'), vmi: handedOff(), coordination }),
    );
    expect(decision.status?.result).toMatchObject({ accelerated: false, attempt: 'Plain', reason: 'NoGo' });
    expect(decision.status?.result?.message).toContain('GO');
  });

  it('says why one was plain that was over before anybody decided', () => {
    const over = (target: Partial<PodFacts>) =>
      decide(
        snapshot({
          migration: nam(),
          vmim: vmim('Succeeded'),
          vmi: handedOff(),
          targetPod: pod('pod-b', target),
        }),
      ).status?.result;
    expect(over({ hasSidecar: false, connected: false })).toMatchObject({
      attempt: 'Plain',
      reason: 'NoSidecar',
      message: expect.stringContaining('target pod pod-b'),
    });
    expect(over({})).toMatchObject({ attempt: 'Plain', reason: 'HubUnreachable' });
  });

  it('remembers an armed attempt that failed', () => {
    const facts = { migration: nam({}, running()), vmim: vmim('Failed'), vmi: handedOff() };
    const armed = decide(snapshot({ ...facts, coordination: view({ go: true, results }) }));
    expect(armed.status).toMatchObject({
      phase: 'Failed',
      result: { attempt: 'FailedWhileArmed', accelerated: false },
    });
    const plain = decide(snapshot({ ...facts, coordination: view({ reason: 'PostCopyAllowed' }) }));
    expect(plain.status?.result).toMatchObject({ attempt: 'Plain', reason: 'PostCopyAllowed' });
  });

  it('believes the target that has every byte, not the source that missed the last word', () => {
    const { plainLinkBytes: _plain, ...numbers } = results.source;
    const source = { ...numbers, outcome: 'failed' as const, detail: 'the link closed' };
    const facts = { migration: nam({}, running()), targetPod: pod('pod-b'), vmi: handedOff() };
    const coordination = view({ go: true, results: { source, target: results.target } });
    const moved = decide(snapshot({ ...facts, vmim: vmim('Succeeded'), coordination }));
    expect(moved.status?.result).toMatchObject({
      accelerated: true,
      attempt: 'Accelerated',
      savedBytes: 726_000_000,
      downtimeMs: 180,
    });
    expect(moved.status?.result).not.toHaveProperty('message');
    const stayed = decide(snapshot({ ...facts, vmim: vmim('Failed'), coordination }));
    expect(stayed.status?.result).toMatchObject({ accelerated: false, attempt: 'FailedWhileArmed' });
  });

  it('tells KubeVirt’s reason of a failure from whichever object has it, and no more than a status may hold', () => {
    const told = (facts: Partial<Snapshot>) => {
      const decision = decide(snapshot({ migration: nam({}, running()), ...facts }));
      expect(decision.status?.phase).toBe('Failed');
      const { message = '' } = condition(decision, 'Complete') ?? {};
      return { message, result: decision.status?.result?.message ?? '' };
    };
    const state = { migrationUid: vmimUid, failed: true, failureReason: 'libvirt gave up' };
    const failed = vmim('Failed');
    expect(told({ vmim: failed, vmi: vmi({ migrationState: state }) }).message).toContain('libvirt gave up');
    const itself = readVmim({
      metadata: { namespace: 'shop', name: 'move-db-6f1b7a52', uid: vmimUid },
      ...({ spec: { vmiName: 'db' }, status: { phase: 'Failed', migrationState: state } } as object),
    });
    expect(told({ vmim: itself, vmi: vmi() }).message).toContain('libvirt gave up');
    const long = { ...state, failureReason: 'x'.repeat(200_000) };
    const { message, result } = told({ vmim: failed, vmi: vmi({ migrationState: long }) });
    expect(message.length).toBeLessThanOrEqual(32_768);
    expect(result).toHaveLength(4096);
  });

  it('is Cancelled when the KubeVirt migration was', () => {
    const gone = decide(snapshot({ migration: nam({}, running()), vmim: undefined }));
    expect(gone.status?.phase).toBe('Cancelled');
    expect(effectTypes(gone)).not.toContain('createMigration');
    const aborted = decide(
      snapshot({
        migration: nam({}, running()),
        vmim: vmim('Failed', { deletionTimestamp: '2026-06-01T12:00:00Z' as never }),
      }),
    );
    expect(aborted.status?.phase).toBe('Cancelled');
  });

  it('only collects after a restart: nobody is armed for a migration that is over', () => {
    const status = running({
      conditions: [
        {
          type: 'Accelerated',
          status: 'True',
          reason: 'Framed',
          message: '',
          lastTransitionTime: '2026-06-01T11:59:00Z',
        },
      ],
    });
    const decision = decide(
      snapshot({
        migration: nam({}, status),
        vmim: vmim('Succeeded'),
        vmi: handedOff(),
        targetPod: pod('pod-b'),
      }),
    );
    expect(decision.effects).toMatchObject([{ type: 'coordinate', order: { over: true } }]);
    const collecting = decide(
      snapshot({
        migration: nam({}, decision.status),
        vmim: vmim('Succeeded'),
        vmi: handedOff(),
        targetPod: pod('pod-b'),
        coordination: view({ over: true }),
      }),
    );
    expect(collecting.status?.phase).toBe('Migrating');
    expect(collecting.effects).toEqual([]);
  });
});

describe('afterwards', () => {
  const done: NasAwareMigrationStatus = {
    phase: 'Succeeded',
    completionTime: '2026-06-01T11:00:00Z',
    migration: { name: 'x', uid: vmimUid },
  };

  it('stays as it is, without finalizer', () => {
    const decision = decide(snapshot({ migration: nam({}, done), vmim: vmim('Succeeded') }));
    expect(decision).toEqual({
      status: undefined,
      effects: [{ type: 'recorded', migrationUid: vmimUid }, { type: 'removeFinalizer' }],
    });
  });

  it('is deleted when its time is over', () => {
    expect(effectTypes(decide(snapshot({ migration: nam({ ttlAfterFinished: '1h' }, done) })))).toContain(
      'deleteSelf',
    );
    expect(decide(snapshot({ migration: nam({ ttlAfterFinished: '2h' }, done) })).requeueAfterMs).toBe(
      3_600_000,
    );
  });

  it('is kept for the breaker when an armed attempt failed', () => {
    const failed = {
      ...done,
      phase: 'Failed' as const,
      result: { accelerated: false, attempt: 'FailedWhileArmed' as const },
    };
    expect(
      effectTypes(decide(snapshot({ migration: nam({ ttlAfterFinished: '1h' }, failed) }))),
    ).not.toContain('deleteSelf');
  });

  it('is kept while it is the success that clears failures which are still there', () => {
    const migration = nam(
      { ttlAfterFinished: '1h' },
      { ...done, result: { accelerated: true, attempt: 'Accelerated' } },
    );
    const kept = decide(snapshot({ migration, clearsFailures: true }));
    expect(effectTypes(kept)).not.toContain('deleteSelf');
    expect(kept.requeueAfterMs).toBe(600_000);
    expect(effectTypes(decide(snapshot({ migration })))).toContain('deleteSelf');
  });

  it('is nothing that is begun again when another release wrote its end', () => {
    const result = { accelerated: true, attempt: 'PartlyAccelerated' } as never;
    const migration = nam({ ttlAfterFinished: '1s' }, { ...done, result });
    expect(migration.status).toEqual({});
    expect(decide(snapshot({ migration }))).toEqual({ status: undefined, effects: [] });
    expect(wantsPermit(snapshot({ migration }))).toBe(false);
    const offset = nam({}, { ...done, completionTime: '2026-06-01T13:00:00+02:00' });
    expect(effectTypes(decide(snapshot({ migration: offset })))).toEqual(['recorded', 'removeFinalizer']);
  });
});

describe('an operator that died after the name was written', () => {
  const named = (status: NasAwareMigrationStatus = {}) => ({
    ...seenAt(nowMs - 60_000),
    migration: { name: 'move-db-6f1b7a52' },
    ...status,
  });
  const moved = (seconds: number) =>
    vmi({
      migrationState: {
        migrationUid: 'nobody-knows',
        startTimestamp: new Date(nowMs - seconds * 1000).toISOString(),
      },
    });

  it('makes the migration, if there was none since', () => {
    for (const facts of [{}, { vmi: moved(3600) }])
      expect(effectTypes(decide(snapshot({ migration: nam({}, named()), ...facts })))).toEqual([
        'createMigration',
      ]);
  });

  it.each<[string, Partial<Snapshot>]>([
    ['has its UID', { migration: nam({}, named({ migration: { name: 'move-db-6f1b7a52', uid: 'gone' } })) }],
    ['finds that the VM was in one meanwhile', { migration: nam({}, named()), vmi: moved(30) }],
  ])('and %s, does not make it again when it is gone', (_what, facts) => {
    const decision = decide(snapshot(facts));
    expect(effectTypes(decision)).not.toContain('createMigration');
    expect(decision.status?.phase).toBe('Cancelled');
    expect(condition(decision, 'Complete')?.reason).toBe('MigrationDeleted');
  });

  it.each([
    ['succeeded', {}, 'Succeeded', 'Migrated', 'node-2'],
    ['failed', { failed: true, failureReason: 'no route' }, 'Failed', 'MigrationFailed', 'no route'],
  ] as const)('that had %s is that, although it is gone', (_what, end, phase, reason, message) => {
    const state = { migrationUid: vmimUid, targetNode: 'node-2', completed: true, ...end };
    const accelerated = { type: 'Accelerated', status: 'True', reason: 'Framed', message: '' } as const;
    const status = named({
      migration: { name: 'move-db-6f1b7a52', uid: vmimUid },
      conditions: [{ ...accelerated, lastTransitionTime: new Date(nowMs).toISOString() }],
    });
    const of = (migrationState: object) =>
      decide(snapshot({ migration: nam({}, status), vmi: vmi({ migrationState }) }));
    const decision = of(state);
    expect(decision.status?.phase).toBe(phase);
    expect(condition(decision, 'Complete')?.reason).toBe(reason);
    expect(condition(decision, 'Complete')?.message).toContain(message);
    expect(decision.status?.result?.attempt).toBe(phase === 'Succeeded' ? 'Accelerated' : 'FailedWhileArmed');
    // Of another migration, or not ended: nothing is known.
    expect(of({ ...state, migrationUid: 'other' }).status?.phase).toBe('Cancelled');
    expect(of({ ...state, completed: false }).status?.phase).toBe('Cancelled');
  });

  it('knows one that it sees for another’s', () => {
    const others = [vmim('Succeeded', { uid: 'nobody-knows', name: 'other' })!];
    const facts = { migration: nam({}, named()), vmi: moved(30), others };
    expect(effectTypes(decide(snapshot(facts)))).toEqual(['createMigration']);
  });
});

describe('words of KubeVirt’s that are longer than a status may hold', () => {
  it('are cut or left out, so that the API server takes it', () => {
    const state = { migrationUid: vmimUid, sourceNode: 'N'.repeat(300), targetNode: 'node_2' };
    const decision = decide(
      snapshot({
        vmi: vmi({ migrationState: state }),
        vmim: vmim('P'.repeat(1000)),
        sourcePod: pod('pod-a', { node: undefined }),
      }),
    );
    expect(decision.status?.migration?.phase).toBe('P'.repeat(64));
    expect(decision.status?.source).toEqual({ pod: 'pod-a', podUID: 'pod-a' });
    expect(decision.status?.target).toEqual({});
    expect(nasAwareMigrationStatusSchema.safeParse(decision.status).success).toBe(true);
  });
});

describe('a refusal of the API server', () => {
  it('is the end, with one event that says what to do', () => {
    const { status, effects } = decideRefused(snapshot(), 'refused; remove what refuses it');
    expect(status).toMatchObject({
      phase: 'Failed',
      result: { accelerated: false, attempt: 'Plain', reason: 'MigrationRefused' },
    });
    expect(effects).toEqual([
      {
        type: 'event',
        severity: 'Warning',
        reason: 'MigrationRefused',
        message: 'refused; remove what refuses it',
      },
    ]);
  });
});

describe('deletion', () => {
  const deleting = { deletionTimestamp: '2026-06-01T12:00:00Z' as never };
  const breaker = { reason: 'BreakerOpen', detail: '' } as const;

  it('cancels the migration, and waits for it to end', () => {
    const decision = decide(snapshot({ migration: nam({}, {}, deleting), vmim: vmim('Running') }));
    expect(effectTypes(decision)).toEqual(['giveUp', 'deleteMigration']);
    const cancelling = vmim('Running', { deletionTimestamp: '2026-06-01T12:00:00Z' as never });
    expect(effectTypes(decide(snapshot({ migration: nam({}, {}, deleting), vmim: cancelling })))).toEqual([
      'giveUp',
    ]);
    expect(
      effectTypes(decide(snapshot({ migration: nam({}, {}, deleting), vmim: vmim('Failed') }))),
    ).toContain('removeFinalizer');
  });

  it('of a record does not cancel what somebody else started', () => {
    const migration = nam(
      { migrationName: 'x' },
      {},
      { ...deleting, labels: { 'nasmigration.io/adopted': 'true' } },
    );
    const decision = decide(snapshot({ migration, vmim: vmim('Running') }));
    expect(effectTypes(decision)).toEqual(['giveUp', 'recorded', 'removeFinalizer']);
  });

  it('does not cancel somebody else’s migration, whoever names it in spec.migrationName', () => {
    const theirs = vmim('Scheduling', { ownerReferences: [] });
    const spec = { migrationName: 'move-db-6f1b7a52' };
    const decision = decide(snapshot({ migration: nam(spec, {}, deleting), vmim: theirs }));
    expect(effectTypes(decision)).toEqual(['giveUp', 'recorded', 'removeFinalizer']);
    const required = nam({ ...spec, acceleration: 'Required' });
    const running = decide(snapshot({ migration: required, vmim: theirs, breaker }));
    expect(accelerated(running)).toBe('False BreakerOpen');
    expect(effectTypes(running)).not.toContain('deleteMigration');
    const owner = { apiVersion: 'nasmigration.io/v1alpha1', kind: 'NasAwareMigration', name: 'move-db', uid };
    const ours = vmim('Scheduling', { ownerReferences: [owner] });
    expect(effectTypes(decide(snapshot({ migration: required, vmim: ours, breaker })))).toContain(
      'deleteMigration',
    );
  });
});
