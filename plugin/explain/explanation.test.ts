import { describe, expect, it } from 'vitest';
import { describeReason, reasons, reasonText } from '../../control/reasons.ts';
import type { Policy } from '../../operator/controller/policies.ts';
import { readPolicy } from '../../operator/controller/policies.ts';
import {
  condition,
  instant,
  launcherPod,
  migration,
  NOW_MS,
  plainTerminal,
  succeeded,
  vmi,
} from '../testing/objects.ts';
import { lines } from './explain.ts';
import { type ForecastFacts, forecast, tell, theOneToExplain, wordsFor } from './explanation.ts';

describe('what was', () => {
  it.each(reasons)('%s is told with its meaning, and what to change on a line of its own', (reason) => {
    const message = describeReason(reason, 'some detail');
    const told = tell(
      migration('m', {
        phase: 'Succeeded',
        conditions: [condition('Accelerated', 'False', reason, message)],
      }),
    );
    expect(told).toMatchObject({ accelerated: 'No', reason });
    expect(told.why).toContain('(some detail).');
    const { nextStep } = reasonText(reason);
    expect(told.why).not.toContain(nextStep);
    expect(told.change.toLowerCase()).toContain(nextStep.toLowerCase());
  });

  it('is told of one that was accelerated, with its numbers', () => {
    const told = tell(migration('m', succeeded('Accelerated', { resends: 3 })));
    expect(told).toMatchObject({ accelerated: 'Yes', reason: 'Framed', change: 'Nothing to do.' });
    expect(told.facts).toContain('saved 858.3 MiB (90 %)');
    expect(told.facts.join('\n')).toContain('3 batches were sent again in part');
  });

  it('says what kept it from saving more', () => {
    const few = succeeded('Accelerated', {
      pages: { reference: 10, literalRaw: 90, literalCompressed: 0, zero: 5 },
    });
    expect(tell(migration('m', few)).facts.join('\n')).toContain('only 10 % of the pages');
    const empty = { ...few, index: { blocks: 0, bytes: 0, ageSeconds: 0, ready: true } };
    expect(tell(migration('m', empty)).facts).toContain('the index was empty when it began');
  });

  it('says why it failed rather than why it was plain', () => {
    const told = tell(
      migration('m', {
        phase: 'Failed',
        conditions: [
          condition('Accelerated', 'True', 'Framed'),
          condition('Complete', 'True', 'MigrationFailed', 'm-1 failed: no room; the VM runs on its source'),
        ],
        result: { accelerated: false, attempt: 'FailedWhileArmed' },
      }),
    );
    expect(told).toMatchObject({
      reason: 'MigrationFailed',
      why: 'M-1 failed: no room; the VM runs on its source.',
    });
    expect(told.facts.join('\n')).toContain('the next migrations of this VM are plain');
  });

  it('says that the operator has not taken it up', () => {
    expect(tell(migration('m'))).toMatchObject({ accelerated: 'Undecided', reason: 'Pending' });
  });

  it('has words for every constant of the operator that is not in the common list', () => {
    for (const constant of [
      'NotLiveMigratable',
      'MigrationInFlight',
      'MigrationDeleted',
      'Observing',
      'Framed',
    ])
      expect(wordsFor(constant)?.nextStep).toBeTruthy();
    expect(wordsFor('SomethingNew')).toBeUndefined();
  });
});

const db = vmi('db');
const policyOf = (spec: object = {}): Policy => {
  const read = readPolicy({ metadata: { name: 'default' }, spec });
  if (read === undefined) throw new Error('a policy of the test cannot be read');
  return read;
};
const facts = (change: Partial<ForecastFacts> = {}): ForecastFacts => ({
  vmi: db,
  policy: policyOf(),
  policiesKnown: true,
  others: [],
  attempts: [],
  pods: [launcherPod(db)],
  configuration: { configuration: {}, from: 'KubeVirt kubevirt/kubevirt' },
  driverOf: () => 'nfs',
  unreadableClaims: new Set(),
  sharedDrivers: new Set(['nfs']),
  nowMs: NOW_MS,
  ...change,
});

describe('what the next one would be', () => {
  it.each<[string, Partial<ForecastFacts>, string, string | undefined, string]>([
    ['accelerated', {}, 'Accelerated', undefined, 'Nothing to do.'],
    [
      'observed',
      { policy: policyOf({ defaults: { acceleration: 'Observe' } }) },
      'Observed',
      'Observing',
      'policy default to Preferred',
    ],
    ['without a policy', { policy: undefined }, 'Plain', 'NoSidecar', 'Create a NasMigrationPolicy'],
    [
      'before the sidecar',
      { pods: [launcherPod(db, { sidecar: false })] },
      'Plain',
      'NoSidecar',
      'Migrate or restart the VM once',
    ],
    [
      'injection off',
      { pods: [launcherPod(db, { sidecar: false })], policy: policyOf({ injection: 'Disabled' }) },
      'Plain',
      'NoSidecar',
      'spec.injection of policy default to Enabled',
    ],
    ['suspended', { policy: policyOf({ suspend: true }) }, 'Plain', 'Suspended', 'spec.suspend'],
    [
      'post-copy',
      { configuration: { configuration: { allowPostCopy: true }, from: 'MigrationPolicy fast' } },
      'Plain',
      'PostCopyAllowed',
      'MigrationPolicy fast',
    ],
    [
      'no shared volume',
      { driverOf: () => 'local' },
      'Plain',
      'NoSharedRawVolume',
      'sharedFileSystemDrivers',
    ],
    [
      'a claim that may not be read',
      { driverOf: () => undefined, unreadableClaims: new Set(['shop/db-root']) },
      'Unknown',
      undefined,
      '--acceleration Observe',
    ],
    [
      'policies that may not be read',
      { policy: undefined, policiesKnown: false },
      'Unknown',
      undefined,
      '--acceleration Observe',
    ],
    [
      'a VM that does not run',
      { vmi: vmi('db', { status: { phase: 'Scheduling' } }) },
      'Refused',
      'VirtualMachineInstanceNotRunning',
      'Start the VM',
    ],
    [
      'after a failure',
      { attempts: [{ namespace: 'shop', vmiName: 'db', endMs: NOW_MS - 60_000, outcome: 'failed' }] },
      'Plain',
      'BreakerOpen',
      "failed attempt's status",
    ],
  ])('%s', (_name, change, verdict, reason, words) => {
    const found = forecast(facts(change));
    expect(found.verdict).toBe(verdict);
    expect(found.reason).toBe(reason);
    expect(found.change).toContain(words);
  });
});

describe('which one is explained', () => {
  it('is the one under way, else the newest', () => {
    const old = migration('old', succeeded('Plain'), { createdAgoMs: 9000 });
    const open = migration('open', { phase: 'Migrating' }, { createdAgoMs: 5000 });
    const newest = migration('newest', succeeded('Plain'), { createdAgoMs: 1000 });
    expect(theOneToExplain([newest, open, old])).toBe(open);
    expect(theOneToExplain([newest, old])).toBe(newest);
    expect(theOneToExplain([])).toBeUndefined();
  });
});

describe('for the terminal', () => {
  it('has reason, why, change and facts', () => {
    const told = tell(
      migration('m', {
        phase: 'Succeeded',
        completionTime: instant(),
        conditions: [
          condition('Accelerated', 'False', 'NoSidecar', describeReason('NoSidecar', 'source pod x')),
        ],
      }),
    );
    const text = lines(
      { namespace: 'shop', vmi: 'db', migration: told, olderMigrations: 2, next: forecast(facts()) },
      { terminal: plainTerminal() },
    );
    expect(text).toEqual([
      'shop/m   VM db   Succeeded   not accelerated',
      '  Reason   NoSidecar',
      '  Why      A virt-launcher pod of the VM has no sidecar (source pod x).',
      '  Change   Create a NasMigrationPolicy that selects the VM, and migrate or restart the VM once.',
      '  (2 older: kubectl nasmig list -n shop --vmi db)',
      '',
      'The next migration of db would be accelerated (policy default).',
      "  Why      Nothing in the cluster's objects speaks against it; what only the sidecars know (their connection, the index) is seen when it starts.",
      '  Change   Nothing to do.',
      '  Volumes  root',
    ]);
  });
});
