// The real API server accepts the generated definitions and enforces their rules.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ControlPlane } from '../hack/control-plane/control-plane.ts';
import { type PolicyObject, readPolicy } from '../operator/controller/policies.ts';
import { type MigrationObject, readMigration } from '../operator/controller/snapshot.ts';
import { ApiClient } from '../operator/kubernetes/api-client.ts';
import { resources } from '../operator/kubernetes/resources.ts';
import { installDefinitions } from '../test/control-plane/apply.ts';
import { API_GROUP as group, API_VERSION as version } from './definitions.ts';

let plane: ControlPlane;
let api: ApiClient;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'nasmig-crds-'));
  plane = await ControlPlane.start({ dir, controllerManager: false });
  const config = new KubeConfig();
  config.loadFromFile(plane.kubeconfig);
  api = new ApiClient(config, { userAgent: 'test' });
  await installDefinitions(api);
}, 180_000);

afterAll(async () => {
  api?.close();
  await plane?.stop();
  await rm(dir, { recursive: true, force: true });
});

const namespace = 'default';
const { nasAwareMigrations, nasMigrationPolicies } = resources;
let serial = 0;

function migration(spec: Record<string, unknown>) {
  serial += 1;
  const body = {
    apiVersion: `${group}/${version}`,
    kind: 'NasAwareMigration',
    metadata: { namespace, name: `m-${serial}` },
    spec,
  };
  return {
    body,
    create: () => api.create(nasAwareMigrations, body),
  };
}

function policy(spec: Record<string, unknown>) {
  serial += 1;
  const body = {
    apiVersion: `${group}/${version}`,
    kind: 'NasMigrationPolicy',
    metadata: { name: `p-${serial}` },
    spec,
  };
  return api.create(nasMigrationPolicies, body);
}

describe('NasAwareMigration on a real API server', () => {
  it('is accepted with eight lines', async () => {
    await expect(migration({ vmiName: 'db' }).create()).resolves.toMatchObject({ spec: { vmiName: 'db' } });
  });

  it('is accepted with everything', async () => {
    const spec = {
      vmiName: 'db',
      target: { nodeSelector: { 'kubernetes.io/hostname': 'node-2' } },
      acceleration: 'Required',
      volumes: ['rootdisk', 'data'],
      limits: { linkBandwidth: '400M', nasReadBandwidth: 1_000_000 },
      prepareTimeout: '1m30s',
      ttlAfterFinished: '24h',
    };
    const stored = (await migration(spec).create()) as MigrationObject;
    expect(stored).toMatchObject({ spec });
    // An integer that the API server lets in is read as a quantity like any other.
    expect(readMigration(stored)?.spec.limits).toEqual({
      linkBandwidth: '400M',
      nasReadBandwidth: '1000000',
    });
  });

  it.each([
    ['without vmiName', {}],
    ['with a name that is not one', { vmiName: 'Not A Name' }],
    ['with an unknown acceleration', { vmiName: 'db', acceleration: 'Always' }],
    ['with a volume twice', { vmiName: 'db', volumes: ['a', 'a'] }],
    ['with an empty volume list', { vmiName: 'db', volumes: [] }],
    [
      'with too many volumes',
      { vmiName: 'db', volumes: Array.from({ length: 65 }, (_, index) => `v${index}`) },
    ],
    ['with a limit of zero', { vmiName: 'db', limits: { linkBandwidth: '0' } }],
    ['with a limit that is no quantity', { vmiName: 'db', limits: { linkBandwidth: 'fast' } }],
    ['with a time-out that is no duration', { vmiName: 'db', prepareTimeout: 'soon' }],
    ['with a time-out of a month', { vmiName: 'db', prepareTimeout: '720h' }],
    [
      'with both a target and an existing migration',
      { vmiName: 'db', migrationName: 'x', target: { nodeSelector: {} } },
    ],
  ])('is refused %s', async (_what, spec) => {
    await expect(migration(spec).create()).rejects.toMatchObject({ status: 422 });
  });

  it('keeps what cannot be changed', async () => {
    const { body, create } = migration({ vmiName: 'db', volumes: ['rootdisk'] });
    const created = (await create()) as { metadata: object };
    const replace = (spec: object) =>
      api.replace(nasAwareMigrations, { ...body, metadata: created.metadata, spec });
    await expect(replace({ vmiName: 'other', volumes: ['rootdisk'] })).rejects.toMatchObject({ status: 422 });
    await expect(replace({ vmiName: 'db' })).rejects.toMatchObject({ status: 422 });
    await expect(replace({ vmiName: 'db', volumes: ['rootdisk'], target: {} })).rejects.toMatchObject({
      status: 422,
    });
    await expect(
      replace({ vmiName: 'db', volumes: ['rootdisk'], ttlAfterFinished: '1h' }),
    ).resolves.toBeDefined();
  });

  it('keeps status apart', async () => {
    const { body, create } = migration({ vmiName: 'db' });
    await create();
    const name = body.metadata.name;
    const status = { phase: 'Pending' };
    await api.mergePatch(nasAwareMigrations, namespace, name, { status }, 'status');
    await api.mergePatch(nasAwareMigrations, namespace, name, { status: { phase: 'Failed' } });
    await expect(api.get(nasAwareMigrations, namespace, name)).resolves.toMatchObject({ status });
    const wrong = { status: { phase: 'Thinking' } };
    await expect(api.mergePatch(nasAwareMigrations, namespace, name, wrong, 'status')).rejects.toMatchObject({
      status: 422,
    });
  });
});

describe('NasMigrationPolicy on a real API server', () => {
  it('gets its defaults', async () => {
    await expect(policy({})).resolves.toMatchObject({
      spec: { injection: 'Enabled', adoption: 'Enabled', suspend: false },
    });
  });

  it('that leaves out its selectors does not get any, and so selects nothing', async () => {
    const stored = (await policy({})) as { spec: object };
    expect(stored.spec).not.toHaveProperty('selectors');
    await expect(policy({ selectors: {} })).resolves.toMatchObject({ spec: { selectors: {} } });
  });

  it.each([
    ['no memory', { sidecar: { memory: '0' } }, 'above zero'],
    ['too little memory', { sidecar: { memory: '127Mi' } }, '128Mi at the least'],
    ['too little memory, as an integer', { sidecar: { memory: 1000 } }, '128Mi at the least'],
    [
      'an index as large as itself',
      { sidecar: { memory: '256Mi' }, index: { memory: 268_435_456 } },
      'must be less',
    ],
  ])('is refused with a sidecar of %s', async (_what, spec, words) => {
    await expect(policy(spec)).rejects.toMatchObject({
      status: 422,
      message: expect.stringContaining(words),
    });
  });

  it.each([
    ['quantities as integers', { sidecar: { cpu: 1, memory: 268_435_456 }, index: { memory: 1_000_000 } }],
    ['the least memory', { sidecar: { memory: '128Mi' }, index: { memory: '127Mi' } }],
    ['an index alone', { index: { memory: '1Gi' } }],
  ])('is accepted with %s, and read', async (_what, spec) => {
    const stored = (await policy(spec)) as PolicyObject;
    expect(stored).toMatchObject({ spec });
    expect(readPolicy(stored)).toBeDefined();
  });
});
