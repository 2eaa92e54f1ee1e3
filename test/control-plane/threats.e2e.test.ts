// Claims of docs/security.md that only a real API server can show: what the operator's account may not do, that the session key
// ends nowhere, that only KubeVirt's own pods are injected into. Tokens and identities are in operator/operator.e2e.test.ts.
import { Writable } from 'node:stream';
import type { V1Pod } from '@kubernetes/client-node';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { ApiClient, ApiError } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import { Operator } from '../../operator/operator.ts';
import { OperatorWorld } from './operator-world.ts';

let world: OperatorWorld;
let logged = '';

beforeAll(async () => {
  world = await OperatorWorld.start();
  const everything = new Writable({
    write(chunk: Buffer, _encoding, done) {
      logged += chunk.toString();
      done();
    },
  });
  const operator = await Operator.start(
    world.operatorConfig,
    { ...world.settings, logLevel: 'debug' },
    pino({ level: 'trace' }, everything),
  );
  world.operator = operator;
  await vi.waitFor(() => expect(operator.hubPort).toBeDefined(), { timeout: 20_000, interval: 20 });
}, 180_000);

afterAll(() => world?.stop());

describe('the session key', () => {
  it('is given to two pods, and is in no object and no line of the log', async () => {
    const shop = await world.shop();
    const { source, target, vmim, targetPod } = await world.streaming(shop);
    const keys = [source, target].map(({ received }) =>
      received.flatMap((message) => (message.type === 'arm' ? [message.sessionKey] : [])),
    );
    const key = keys[0]?.[0] ?? '';
    expect(key).toHaveLength(44);
    expect(keys).toEqual([[key], [key]]);
    source.finish();
    target.finish();
    await world.kubevirt.succeed(shop.vm, vmim, targetPod, 'node-2');
    await world.waitForPhase(shop, 'Succeeded');
    const raw = Buffer.from(key, 'base64');
    const forms = [key, raw.toString('hex'), Buffer.from(key).toString('base64')];
    let objects = '';
    for (const kind of [
      'nasAwareMigrations',
      'nasMigrationPolicies',
      'virtualMachineInstances',
      'virtualMachineInstanceMigrations',
      'pods',
      'events',
      'configMaps',
      'secrets',
      'leases',
    ] as const)
      objects += JSON.stringify(await world.api.list(resources[kind]));
    expect(objects).toContain(shop.namespace);
    expect(logged).toContain('migration finished');
    for (const form of forms) {
      expect(objects.includes(form)).toBe(false);
      expect(logged.includes(form)).toBe(false);
    }
  });
});

describe("the operator's account", () => {
  it.each([
    ['read a Secret that is not its own', 'GET', pathOf(resources.secrets, 'kubevirt', 'any')],
    ['list Secrets of its own namespace', 'GET', pathOf(resources.secrets, 'nas-aware-migration')],
    [
      'read a token of a service account',
      'POST',
      pathOf(resources.serviceAccounts, 'kubevirt', 'kubevirt-controller', 'token'),
    ],
    ['change a VM', 'PATCH', pathOf(resources.virtualMachineInstances, 'shop', 'db')],
    ['delete a VM', 'DELETE', pathOf(resources.virtualMachineInstances, 'shop', 'db')],
    ['change a virt-launcher pod', 'PATCH', pathOf(resources.pods, 'shop', 'virt-launcher-db')],
    ['make a pod', 'POST', pathOf(resources.pods, 'nas-aware-migration')],
    ['run something in a pod', 'POST', pathOf(resources.pods, 'shop', 'virt-launcher-db', 'exec')],
    [
      'add an ephemeral container',
      'PATCH',
      pathOf(resources.pods, 'shop', 'virt-launcher-db', 'ephemeralcontainers'),
    ],
    ['change a policy', 'PATCH', pathOf(resources.nasMigrationPolicies, undefined, 'all')],
    ['change a claim', 'PATCH', pathOf(resources.persistentVolumeClaims, 'shop', 'db-root')],
    ['give itself more rights', 'POST', '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings'],
    ['see nodes', 'GET', pathOf(resources.nodes)],
  ])('may not %s', async (_what, method, path) => {
    const api = new ApiClient(world.operatorConfig, { userAgent: 'test' });
    try {
      const body = method === 'GET' ? undefined : {};
      const contentType = method === 'PATCH' ? 'application/merge-patch+json' : undefined;
      const refused = await api
        .call(method, path, {
          ...(body === undefined ? {} : { body }),
          ...(contentType === undefined ? {} : { contentType }),
        })
        .catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(ApiError);
      expect(refused).toMatchObject({ status: 403 });
    } finally {
      api.close();
    }
  });
});

describe('injection', () => {
  it('leaves alone a pod that only looks like virt-launcher’s, of whoever may create pods', async () => {
    const shop = await world.shop();
    expect(hasSidecar(shop.vm.pod)).toBe(true);
    const { metadata, spec } = shop.vm.pod;
    const copied: V1Pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        namespace: shop.namespace,
        name: 'virt-launcher-copied',
        ...(metadata?.labels === undefined ? {} : { labels: metadata.labels }),
        ...(metadata?.ownerReferences === undefined ? {} : { ownerReferences: metadata.ownerReferences }),
      },
      spec: {
        containers: (spec?.containers ?? []).map((container) => ({
          ...container,
          volumeMounts: container.volumeMounts?.filter(({ name }) => !name.startsWith('kube-api')) ?? [],
        })),
        volumes: spec?.volumes?.filter(({ name }) => name === 'public' || name === 'rootdisk') ?? [],
      },
    };
    const made = await world.api.create<V1Pod>(resources.pods, copied);
    expect(hasSidecar(made)).toBe(false);
  });

  it('gives no sidecar to a VM that has no disk both nodes can read, and mounts of the others none of those', async () => {
    const shop = await world.shop();
    const lonely = await world.kubevirt.vm(shop.namespace, 'lonely', 'node-1', {}, ['ReadWriteOnce']);
    expect(hasSidecar(lonely.pod)).toBe(false);
    expect(hasSidecar((await world.kubevirt.vm(shop.namespace, 'sociable', 'node-1')).pod)).toBe(true);
  });
});
