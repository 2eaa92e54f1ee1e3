// The controller with its caches over objects in memory: what it writes and makes, in what order, and when it makes nothing.
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { ApiError } from '../kubernetes/api-client.ts';
import { resources } from '../kubernetes/resources.ts';
import { TestObjects } from '../kubernetes/test-objects.ts';
import { type Caches, createCaches, startCaches, stopCaches } from './caches.ts';
import { Controller, type ControllerOptions } from './controller.ts';
import { FINALIZER, type MigrationObject } from './snapshot.ts';

const { nasAwareMigrations, virtualMachineInstances, virtualMachineInstanceMigrations, events } = resources;
const waiting = { timeout: 5000, interval: 5 };
/** What was not to happen would have happened by then: the queue's first back-off and a recheck are shorter. */
const QUIET_MS = 400;
const quiet = () => new Promise((resolve) => setTimeout(resolve, QUIET_MS));

const forbidden = (message: string) => new ApiError('POST', '/apis/…', 403, 'Forbidden', message);
const missingRight = () =>
  forbidden(
    'virtualmachineinstancemigrations.kubevirt.io is forbidden: User "system:serviceaccount:nasmig:operator" cannot create resource "virtualmachineinstancemigrations" in API group "kubevirt.io" in the namespace "shop"',
  );
const CREATE = 'create virtualmachineinstancemigrations';

let objects: TestObjects;
let caches: Caches;
let controller: Controller;
const coordinator = {
  view: vi.fn(),
  session: vi.fn(),
  index: vi.fn(),
  coordinate: vi.fn(),
  giveUp: vi.fn(),
  recorded: vi.fn(),
};
let nowMs: number | undefined;

beforeEach(async () => {
  for (const method of Object.values(coordinator)) method.mockReset();
  nowMs = undefined;
  objects = new TestObjects();
  objects.put(virtualMachineInstances, {
    metadata: { namespace: 'shop', name: 'db', uid: 'vmi-1' },
    status: { phase: 'Running', nodeName: 'node-1' },
  });
  caches = createCaches(objects.client, () => {});
  await startCaches(caches);
  controller = new Controller({
    api: objects.client,
    caches,
    claims: {
      driverOf: () => undefined,
      serverOf: () => undefined,
    } as unknown as ControllerOptions['claims'],
    coordinator: coordinator as unknown as ControllerOptions['coordinator'],
    log: pino({ level: 'silent' }),
    sharedFileSystemDrivers: new Set(),
    workers: 1,
    nasReadPermits: 0,
    now: () => nowMs ?? Date.now(),
  });
});

afterEach(async () => {
  await controller.stop();
  await stopCaches(caches);
});

function put(status?: object, metadata: object = {}, spec: object = {}): MigrationObject {
  const object: MigrationObject = {
    metadata: { namespace: 'shop', name: 'move-db', generation: 1, ...metadata },
    spec: { vmiName: 'db', ...spec },
    ...(status === undefined ? {} : { status }),
  };
  return objects.put(nasAwareMigrations, object);
}

const vmims = () => objects.of(virtualMachineInstanceMigrations);
const statusNow = () => (objects.of(nasAwareMigrations)[0]?.status ?? {}) as NasAwareMigrationStatus;
const complete = () => statusNow().conditions?.find(({ type }) => type === 'Complete');
const created = () => objects.calls.filter((call) => call.startsWith(CREATE)).length;
const eventsNow = () =>
  (
    objects.of(events) as {
      type?: string;
      reason?: string;
      message?: string;
      involvedObject?: { kind: string };
    }[]
  )
    .filter(({ involvedObject }) => involvedObject?.kind === 'NasAwareMigration')
    .map(({ type, reason }) => `${type} ${reason}`);

describe('a status that this release cannot read', () => {
  it.each([
    ['an unknown word', { phase: 'Succeeded', result: { accelerated: true, attempt: 'PartlyAccelerated' } }],
    ['an unknown phase', { phase: 'Archived' }],
  ])('with %s starts nothing, and is told once', async (_what, status) => {
    const object = put(status, { finalizers: [FINALIZER] });
    await vi.waitFor(() => expect(eventsNow()).toEqual(['Warning Unreadable']), waiting);
    put(status, { ...object.metadata, labels: { touched: 'true' } });
    await quiet();
    expect(vmims()).toEqual([]);
    expect(statusNow()).toEqual(status);
    expect(eventsNow()).toEqual(['Warning Unreadable']);
  });

  it('does not keep the object from being deleted', async () => {
    put({ phase: 'Archived' }, { finalizers: [FINALIZER], deletionTimestamp: new Date() });
    await vi.waitFor(
      () => expect(objects.of(nasAwareMigrations)[0]?.metadata?.finalizers).toEqual([]),
      waiting,
    );
  });

  it('does not keep the object from being deleted when it is the spec either', async () => {
    const deleted = { finalizers: ['theirs', FINALIZER], deletionTimestamp: new Date() };
    put(undefined, deleted, { acceleration: 'Twice' });
    await vi.waitFor(
      () => expect(objects.of(nasAwareMigrations)[0]?.metadata?.finalizers).toEqual(['theirs']),
      waiting,
    );
  });

  it('in the spec leaves an object alone that nobody deletes', async () => {
    put(undefined, { finalizers: [FINALIZER] }, { acceleration: 'Twice' });
    await vi.waitFor(() => expect(eventsNow()).toEqual(['Warning Unreadable']), waiting);
    await quiet();
    expect(objects.of(nasAwareMigrations)[0]?.metadata?.finalizers).toEqual([FINALIZER]);
  });

  it('is not one whose times have an offset', async () => {
    const status = { phase: 'Succeeded', completionTime: '2026-06-01T14:00:00+02:00' };
    put(status);
    await quiet();
    expect([vmims(), eventsNow()]).toEqual([[], []]);
    expect(statusNow()).toEqual(status);
  });
});

describe('a migration that is refused', () => {
  it.each([
    ['a quota', 'virtualmachineinstancemigrations.kubevirt.io "x" is forbidden: exceeded quota: migrations'],
    ['admission', 'admission webhook "migration-create-validator.kubevirt.io" denied the request: no'],
  ])('by %s ends at once, and nobody is told that it was made', async (_what, message) => {
    objects.failures.push({ call: CREATE, error: forbidden(message) });
    put();
    await vi.waitFor(() => expect(statusNow().phase).toBe('Failed'), waiting);
    expect(complete()).toMatchObject({ status: 'True', reason: 'MigrationRefused' });
    expect(complete()?.message).toContain(message);
    expect(complete()?.message).toContain('make another NasAwareMigration');
    expect(statusNow().result).toMatchObject({
      accelerated: false,
      attempt: 'Plain',
      reason: 'MigrationRefused',
    });
    await quiet();
    expect(eventsNow()).toEqual(['Warning MigrationRefused']);
    expect(created()).toBe(1);
  });

  it('because somebody else has one of that name ends at once', async () => {
    const { metadata } = put(undefined, { uid: '6f1b7a52-0' });
    const name = 'move-db-6f1b7a52';
    objects.put(virtualMachineInstanceMigrations, {
      metadata: { namespace: 'shop', name },
      spec: { vmiName: 'other' },
    } as object);
    await vi.waitFor(() => expect(complete()?.reason).toBe('MigrationRefused'), waiting);
    expect(metadata?.uid).toBe('6f1b7a52-0');
  });

  it('for a right that the API server does not know yet is made a moment later', async () => {
    for (let i = 0; i < 3; i += 1) objects.failures.push({ call: CREATE, error: missingRight() });
    put();
    await vi.waitFor(() => expect(vmims()).toHaveLength(1), waiting);
    await vi.waitFor(() => expect(eventsNow()).toContain('Normal MigrationCreated'), waiting);
    expect(created()).toBe(4);
  });

  it('for a right that is still missing after some seconds ends', async () => {
    nowMs = Date.now();
    for (let i = 0; i < 20; i += 1) objects.failures.push({ call: CREATE, error: missingRight() });
    put();
    await vi.waitFor(() => expect(created()).toBeGreaterThan(1), waiting);
    expect(statusNow().phase).toBe('Preparing');
    nowMs += 15_000;
    await vi.waitFor(() => expect(complete()?.reason).toBe('MigrationRefused'), waiting);
  });
});

describe('a migration that was made', () => {
  it('is in the status with its UID before a cache has seen it, and is waited for', async () => {
    objects.hold(virtualMachineInstanceMigrations);
    put();
    await vi.waitFor(() => expect(statusNow().migration?.uid).toBeDefined(), waiting);
    expect(statusNow().migration?.uid).toBe(vmims()[0]?.metadata?.uid);
    await quiet();
    expect(statusNow().phase).toBe('Preparing');
    expect(created()).toBe(1);
    objects.letGo(virtualMachineInstanceMigrations);
  });

  it('and is gone before a cache saw it is not made again', async () => {
    objects.hold(virtualMachineInstanceMigrations);
    put();
    await vi.waitFor(() => expect(statusNow().migration?.uid).toBeDefined(), waiting);
    const { namespace, name } = vmims()[0]?.metadata ?? {};
    objects.remove(virtualMachineInstanceMigrations, `${namespace}/${name}`);
    put(statusNow(), { ...objects.of(nasAwareMigrations)[0]?.metadata, labels: { touched: 'true' } });
    await vi.waitFor(() => expect(statusNow().phase).toBe('Cancelled'), waiting);
    expect(complete()?.reason).toBe('MigrationDeleted');
    expect(created()).toBe(1);
  });

  it('and is gone before its UID could be written is not made again', async () => {
    const { finished } = failUidWrites();
    objects.hold(virtualMachineInstanceMigrations);
    put();
    await vi.waitFor(() => expect(vmims()).toHaveLength(1), waiting);
    const { namespace, name } = vmims()[0]?.metadata ?? {};
    objects.remove(virtualMachineInstanceMigrations, `${namespace}/${name}`);
    finished();
    await vi.waitFor(() => expect(complete()?.reason).toBe('MigrationDeleted'), waiting);
    expect(created()).toBe(1);
  });

  /** Writes that tell of a UID fail until then. */
  function failUidWrites(): { finished: () => void } {
    const apply = objects.apply.bind(objects);
    let failing = true;
    objects.apply = async (resource, object) => {
      const uid = (object.status as NasAwareMigrationStatus | undefined)?.migration?.uid;
      if (failing && uid !== undefined) throw new ApiError('PATCH', '', 500, 'InternalError', 'not now');
      return apply(resource, object);
    };
    return {
      finished: () => {
        failing = false;
      },
    };
  }
});

describe('a record that is finished', () => {
  const migration = { name: 'move-db-1', uid: 'vmim-1' };
  const finished = (completedMsAgo: number): NasAwareMigrationStatus => ({
    phase: 'Succeeded',
    migration,
    policyName: 'nightly',
    completionTime: new Date(Date.now() - completedMsAgo).toISOString(),
  });
  const policy = (ttlAfterFinished: string) =>
    objects.put(resources.nasMigrationPolicies, {
      metadata: { name: 'nightly' },
      spec: {
        selectors: { virtualMachineInstanceSelector: { 'only-this': 'vm' } },
        defaults: { ttlAfterFinished },
      },
    } as object);

  it.each([
    ['it had one', migration],
    ['it had none', undefined],
  ])('says nothing of another migration that has its name, when %s', async (_what, own) => {
    const { migration: _, ...status } = finished(0);
    put(own === undefined ? status : { ...status, migration: own }, {}, { migrationName: 'move-db-1' });
    await vi.waitFor(() => expect(caches.migrations.size).toBe(1), waiting);
    const again = {
      metadata: { namespace: 'shop', uid: 'vmim-2', name: 'move-db-1' },
      spec: { vmiName: 'db' },
    };
    objects.put(virtualMachineInstanceMigrations, again as object);
    await quiet();
    expect(coordinator.recorded).not.toHaveBeenCalledWith('vmim-2');
    expect(statusNow().migration?.uid).toBe(own?.uid);
  });

  it('goes when a policy shortens its time, also while the VM is off', async () => {
    objects.remove(virtualMachineInstances, 'shop/db');
    policy('1h');
    put(finished(60_000), {}, { migrationName: 'move-db-1' });
    await quiet();
    expect(objects.of(nasAwareMigrations)).toHaveLength(1);
    policy('10s');
    await vi.waitFor(() => expect(objects.of(nasAwareMigrations)).toEqual([]), waiting);
  });
});

describe('an object that is gone without its finalizer', () => {
  const migration = { name: 'move-db-1', uid: 'vmim-1' };

  it('leaves no coordination behind', async () => {
    put({ phase: 'Preparing', migration }, { finalizers: [FINALIZER] });
    await vi.waitFor(() => expect(caches.migrations.size).toBe(1), waiting);
    objects.remove(nasAwareMigrations, 'shop/move-db');
    await vi.waitFor(() => expect(coordinator.recorded).toHaveBeenCalledWith('vmim-1'), waiting);
    expect(coordinator.giveUp).toHaveBeenCalledWith('vmim-1', 'Cancelled', expect.any(String));
    const [gaveUp, recorded] = [coordinator.giveUp, coordinator.recorded].map(
      ({ mock }) => mock.invocationCallOrder.at(-1) ?? 0,
    );
    expect(gaveUp).toBeLessThan(recorded ?? 0);
  });

  it('leaves alone a migration that has another record', async () => {
    const vmim = {
      metadata: { namespace: 'shop', uid: 'vmim-1', name: 'move-db-1' },
      spec: { vmiName: 'db' },
    };
    objects.put(virtualMachineInstanceMigrations, vmim as object);
    const spec = { migrationName: 'move-db-1' };
    put({ phase: 'Preparing', migration }, { finalizers: [FINALIZER] }, spec);
    put({ phase: 'Preparing', migration }, { name: 'other', finalizers: [FINALIZER] }, spec);
    await vi.waitFor(() => expect(caches.migrations.size).toBe(2), waiting);
    objects.remove(nasAwareMigrations, 'shop/move-db');
    await vi.waitFor(() => expect(caches.migrations.size).toBe(1), waiting);
    await quiet();
    expect(coordinator.recorded).not.toHaveBeenCalled();
  });
});
