// Adoption with its caches over objects in memory: which record a migration of somebody else's gets.
import { pino } from 'pino';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { resources } from '../kubernetes/resources.ts';
import { TestObjects } from '../kubernetes/test-objects.ts';
import { Adoption } from './adoption.ts';
import { type Caches, createCaches, startCaches, stopCaches } from './caches.ts';
import type { MigrationObject } from './snapshot.ts';

const { nasAwareMigrations, virtualMachineInstances, virtualMachineInstanceMigrations } = resources;
const waiting = { timeout: 5000, interval: 5 };
const quiet = () => new Promise((resolve) => setTimeout(resolve, 300));
const uid = '0b5f8d11-2c9e-4f0a-9a53-0d5f1d3c8e11';

let objects: TestObjects;
let caches: Caches;
let adoption: Adoption;

beforeEach(async () => {
  objects = new TestObjects();
  objects.put(virtualMachineInstances, { metadata: { namespace: 'shop', name: 'db', uid: 'vmi-1' } });
  policy('Enabled');
  caches = createCaches(objects.client, () => {});
  await startCaches(caches);
  adoption = new Adoption({ api: objects.client, caches, log: pino({ level: 'silent' }) });
});

afterEach(async () => {
  await adoption.stop();
  await stopCaches(caches);
});

function policy(adoption: 'Enabled' | 'Disabled'): void {
  const spec = { selectors: { namespaceSelector: {} }, adoption };
  objects.put(resources.nasMigrationPolicies, { metadata: { name: 'all' }, spec } as object);
}

function drain(name = 'drain', migrationUid = uid): void {
  objects.put(virtualMachineInstanceMigrations, {
    metadata: { namespace: 'shop', name, uid: migrationUid },
    spec: { vmiName: 'db' },
    status: { phase: 'Running' },
  } as object);
}

function record(name: string, status?: object, migrationName = 'drain'): void {
  objects.put(nasAwareMigrations, {
    metadata: { namespace: 'shop', name },
    spec: { vmiName: 'db', migrationName },
    ...(status === undefined ? {} : { status }),
  } as MigrationObject);
}

const names = () => objects.of(nasAwareMigrations).map(({ metadata }) => metadata?.name);
const ended = { phase: 'Succeeded', migration: { name: 'drain', uid: 'an-earlier-one' } };

it('records a migration under its name', async () => {
  drain();
  await vi.waitFor(() => expect(names()).toEqual(['drain']), waiting);
});

it('records one that was made again under a name that has a record', async () => {
  record('drain', ended);
  drain();
  await vi.waitFor(() => expect(names()).toEqual(['drain', 'drain-0b5f8d11']), waiting);
  expect(objects.of<MigrationObject>(nasAwareMigrations)[1]?.spec).toEqual({
    vmiName: 'db',
    migrationName: 'drain',
  });
});

it('records one whose name somebody gave to an object of their own', async () => {
  record('drain', undefined, 'another');
  drain();
  await vi.waitFor(() => expect(names()).toEqual(['drain', 'drain-0b5f8d11']), waiting);
});

it('records nothing twice', async () => {
  record('mine', { phase: 'Preparing', migration: { name: 'drain', uid } });
  drain();
  await quiet();
  expect(names()).toEqual(['mine']);
});

it('records nothing twice that the cache does not show yet', async () => {
  objects.hold(nasAwareMigrations);
  drain();
  await vi.waitFor(() => expect(names()).toEqual(['drain']), waiting);
  adoption.addAll();
  await quiet();
  expect(names()).toEqual(['drain']);
  objects.letGo(nasAwareMigrations);
});

it('does not record again what somebody deleted, and records what was made again', async () => {
  drain();
  await vi.waitFor(() => expect(caches.migrations.size).toBe(1), waiting);
  objects.remove(nasAwareMigrations, 'shop/drain');
  await vi.waitFor(() => expect(caches.migrations.size).toBe(0), waiting);
  adoption.addAll();
  await quiet();
  expect(names()).toEqual([]);
  objects.remove(virtualMachineInstanceMigrations, 'shop/drain');
  drain('drain', 'made-again');
  await vi.waitFor(() => expect(names()).toEqual(['drain']), waiting);
});

it('takes the end of an old record for no word about the migration of now', async () => {
  policy('Disabled');
  record('old', ended);
  drain();
  await vi.waitFor(() => expect([caches.migrations.size, caches.vmims.size]).toEqual([1, 1]), waiting);
  objects.remove(nasAwareMigrations, 'shop/old');
  await vi.waitFor(() => expect(caches.migrations.size).toBe(0), waiting);
  policy('Enabled');
  await vi.waitFor(() => expect(names()).toEqual(['drain']), waiting);
});
