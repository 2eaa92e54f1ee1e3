// What API servers do to their clients, on a real one: watches that break or fall silent, versions that etcd has compacted away,
// throttling, others that write the same object. After each the operator's cache and its migrations are as they should be.
import {
  KubeConfig,
  type KubernetesObject,
  type V1ConfigMap,
  type V1MutatingWebhookConfiguration,
} from '@kubernetes/client-node';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { ApiClient, contentTypes } from '../../operator/kubernetes/api-client.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { pathOf, type Resource, resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import {
  AUTHORITY_CONFIG_MAP,
  AUTHORITY_SECRET,
  LEASE_NAME,
  WEBHOOK_CONFIGURATION,
} from '../../operator/operator.ts';
import { BreakableProxy } from './breakable-proxy.ts';
import { OperatorWorld } from './operator-world.ts';

const eventually = <T>(check: () => T | Promise<T>, timeout = 20_000) =>
  vi.waitFor(check, { timeout, interval: 20 });

class CountingClient extends ApiClient {
  lists = 0;

  override list<T extends KubernetesObject>(
    resource: Resource,
    namespace?: string,
    query: Record<string, string> = {},
  ) {
    this.lists += 1;
    return super.list<T>(resource, namespace, query);
  }
}

describe('a cache of a real API server', () => {
  const namespace = 'cached';
  let world: OperatorWorld;
  let proxy: BreakableProxy;
  let client: CountingClient;
  let informer: Informer<V1ConfigMap>;
  let changes: string[];

  beforeAll(async () => {
    // Watches go to etcd, so that a compaction there is one for them.
    world = await OperatorWorld.start({}, ['--watch-cache=false']);
    await world.kubevirt.namespace(namespace);
    proxy = await BreakableProxy.start(world.plane.url);
  }, 180_000);

  afterEach(async () => {
    await informer?.stop();
    client?.close();
    proxy.mend();
  });

  afterAll(async () => {
    await proxy?.stop();
    await world?.stop();
  });

  const put = (name: string, value: string) =>
    world.api.apply(
      resources.configMaps,
      { metadata: { namespace, name }, data: { value } } as object,
      'test',
    );
  const cached = () =>
    Object.fromEntries(
      [...informer.values()].flatMap(({ metadata, data }) =>
        metadata?.name === 'kube-root-ca.crt' ? [] : [[metadata?.name, data?.['value']]],
      ),
    );

  async function start(silenceMs?: number): Promise<void> {
    const config = new KubeConfig();
    config.loadFromString(
      world.plane.kubeconfigFor('admin', adminToken()).replaceAll(world.plane.url, proxy.url),
    );
    client = new CountingClient(config, { userAgent: 'test' });
    changes = [];
    informer = new Informer<V1ConfigMap>(client, resources.configMaps, {
      namespace,
      ...(silenceMs === undefined ? {} : { silenceMs }),
    });
    informer.onChange(({ current, previous }) => {
      const what = current === undefined ? '-' : previous === undefined ? '+' : '~';
      changes.push(`${what}${(current ?? previous)?.metadata?.name}`);
    });
    informer.start();
    await informer.synced;
  }

  function adminToken(): string {
    const config = new KubeConfig();
    config.loadFromFile(world.plane.kubeconfig);
    return config.getCurrentUser()?.token ?? '';
  }

  async function emptied(): Promise<void> {
    for (const name of ['kept', 'changed', 'deleted', 'new'])
      await world.api.delete(resources.configMaps, namespace, name);
  }

  it('goes on after its watch broke, from where it was, and misses nothing', async () => {
    await emptied();
    await put('kept', '1');
    await put('deleted', '1');
    await start();
    proxy.cut();
    await put('new', '1');
    await world.api.delete(resources.configMaps, namespace, 'deleted');
    proxy.mend();
    await eventually(() => expect(cached()).toEqual({ kept: '1', new: '1' }));
    expect(client.lists).toBe(1);
    expect(changes.filter((change) => change === '+new')).toHaveLength(1);
  });

  it('lists anew when etcd has compacted away the version it was at, and tells what it missed', async () => {
    await emptied();
    await put('kept', '1');
    await put('changed', '1');
    await put('deleted', '1');
    await start();
    proxy.cut();
    await put('changed', '2');
    await world.api.delete(resources.configMaps, namespace, 'deleted');
    await put('new', '1');
    await compact(world);
    changes.length = 0;
    proxy.mend();
    await eventually(() => expect(cached()).toEqual({ kept: '1', changed: '2', new: '1' }));
    expect(client.lists).toBe(2);
    expect([...changes].sort()).toEqual(['+new', '-deleted', '~changed']);
    // And the watch after it is one that works.
    await put('kept', '2');
    await eventually(() => expect(cached()['kept']).toBe('2'));
  });

  it('notices that its connection is dead when nobody says so', async () => {
    await emptied();
    await put('kept', '1');
    await start(1500);
    proxy.silence();
    await put('kept', '2');
    await eventually(() => expect(cached()['kept']).toBe('2'));
    expect(client.lists).toBe(1);
  });
});

/** As the API server does every five minutes: versions before the present one are gone. */
async function compact(world: OperatorWorld): Promise<void> {
  const call = async (path: string, body: object) => {
    const answer = await fetch(`${world.plane.etcdUrl}/v3/kv/${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`etcd ${path}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as { header: { revision: string } };
  };
  const { header } = await call('range', { key: Buffer.from('/').toString('base64') });
  await call('compaction', { revision: header.revision, physical: true });
}

describe('a migration', () => {
  it('goes through an API server that throttles, and through others that write its object', async () => {
    const world = await OperatorWorld.start({}, [
      // No queues: what is too much is refused with 429 and Retry-After.
      '--enable-priority-and-fairness=false',
      '--max-requests-inflight=1',
      '--max-mutating-requests-inflight=1',
    ]);
    const writing = new AbortController();
    try {
      await world.startOperator();
      const shop = await world.shop();
      const source = await world.sidecarOf(shop.vm.pod);
      await world.migrate(shop);
      const written = keepWriting(world, shop.namespace, writing.signal);
      const vmim = await world.kubevirt.migrationOf(shop.vm, 60_000);
      const targetPod = await world.kubevirt.handOff(shop.vm, vmim, 'node-2');
      const target = await world.sidecarOf(targetPod);
      await world.stream(source, target);
      source.finish();
      target.finish();
      await world.kubevirt.succeed(shop.vm, vmim, targetPod, 'node-2');
      const status = await world.waitForPhase(shop, 'Succeeded', 'move-db', 60_000);
      expect(status.result).toMatchObject({ accelerated: true });
      writing.abort();
      await written;
      const object = await world.api.get(resources.nasAwareMigrations, shop.namespace, 'move-db');
      // What others wrote is there; what the operator had no part in is untouched; its own finalizer is gone.
      expect(object.metadata?.annotations?.['example.org/count']).toBeDefined();
      await eventually(async () => {
        const { metadata } = await world.api.get(resources.nasAwareMigrations, shop.namespace, 'move-db');
        expect(metadata?.finalizers).toEqual(['example.org/theirs']);
      });
      await world.api.mergePatch(resources.nasAwareMigrations, shop.namespace, 'move-db', {
        metadata: { finalizers: null },
      });
      expect(await throttledRequests(world)).toBeGreaterThan(0);
    } finally {
      writing.abort();
      await world.stop();
    }
  }, 180_000);
});

/** Somebody who changes the object all the time, and has a finalizer of their own on it. */
async function keepWriting(world: OperatorWorld, namespace: string, signal: AbortSignal): Promise<void> {
  for (let count = 1; !signal.aborted; count += 1) {
    await world.api.apply(
      resources.nasAwareMigrations,
      {
        metadata: {
          namespace,
          name: 'move-db',
          annotations: { 'example.org/count': String(count) },
          finalizers: ['example.org/theirs'],
        },
      },
      'somebody',
    );
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function throttledRequests(world: OperatorWorld): Promise<number> {
  const metric = await world.operator?.metrics.registry.getSingleMetric('nasmig_api_requests_total')?.get();
  return (metric?.values ?? [])
    .filter(({ labels }) => labels['status'] === '429')
    .reduce((sum, { value }) => sum + value, 0);
}

describe('what somebody deleted', () => {
  it('is made anew by the next leader: authority, lease, webhook configuration, CA of a namespace', async () => {
    const world = await OperatorWorld.start();
    try {
      await world.startOperator();
      const shop = await world.shop();
      const own = world.settings.namespace;
      const objects: [Resource, string | undefined, string][] = [
        [resources.secrets, own, AUTHORITY_SECRET],
        [resources.leases, own, LEASE_NAME],
        [resources.mutatingWebhooks, undefined, WEBHOOK_CONFIGURATION],
        [resources.configMaps, shop.namespace, AUTHORITY_CONFIG_MAP],
      ];
      const all = () =>
        Promise.all(objects.map(([resource, namespace, name]) => world.api.get(resource, namespace, name)));
      await eventually(async () => void (await all()));
      await world.operator?.stop();
      for (const [resource, namespace, name] of objects) await world.api.delete(resource, namespace, name);
      await world.startOperator();
      await eventually(async () => void (await all()));
    } finally {
      await world.stop();
    }
  }, 120_000);

  it('or changed is put back by a running leader: webhook configuration, CA of a namespace', async () => {
    const world = await OperatorWorld.start();
    world.settings.certificates.checkMs = 500;
    try {
      await world.startOperator();
      const shop = await world.shop();
      const webhook = () =>
        world.api.get<V1MutatingWebhookConfiguration>(
          resources.mutatingWebhooks,
          undefined,
          WEBHOOK_CONFIGURATION,
        );
      const authority = () =>
        world.api.get<V1ConfigMap>(resources.configMaps, shop.namespace, AUTHORITY_CONFIG_MAP);
      const asTheyWere = await eventually(async () => {
        const [{ webhooks }, { data }] = await Promise.all([webhook(), authority()]);
        expect(webhooks).toHaveLength(1);
        return { webhooks, data };
      });
      const isPutBack = () =>
        eventually(async () => {
          const [{ webhooks }, { data }] = await Promise.all([webhook(), authority()]);
          expect({ webhooks, data }).toEqual(asTheyWere);
        });

      await world.api.delete(resources.mutatingWebhooks, undefined, WEBHOOK_CONFIGURATION);
      await world.api.delete(resources.configMaps, shop.namespace, AUTHORITY_CONFIG_MAP);
      await isPutBack();

      await world.api.mergePatch(resources.configMaps, shop.namespace, AUTHORITY_CONFIG_MAP, {
        data: { 'ca.crt': 'nothing' },
      });
      await world.api.call('PATCH', pathOf(resources.mutatingWebhooks, undefined, WEBHOOK_CONFIGURATION), {
        contentType: contentTypes.jsonPatch,
        body: [
          { op: 'replace', path: '/webhooks/0/failurePolicy', value: 'Fail' },
          { op: 'replace', path: '/webhooks/0/clientConfig/caBundle', value: '' },
        ],
      });
      await isPutBack();
      expect(hasSidecar((await world.kubevirt.vm(shop.namespace, 'web', 'node-1')).pod)).toBe(true);
    } finally {
      await world.stop();
    }
  }, 120_000);

  it('may be made by the operator under no other name', async () => {
    const world = await OperatorWorld.start();
    const api = new ApiClient(world.operatorConfig, { userAgent: 'test' });
    try {
      await world.kubevirt.namespace('other');
      const apply = (resource: Resource, namespace: string | undefined, name: string) =>
        api.apply(
          resource,
          { metadata: { ...(namespace === undefined ? {} : { namespace }), name } },
          'test',
        );
      await expect(apply(resources.configMaps, 'other', 'theirs')).rejects.toMatchObject({ status: 403 });
      await expect(apply(resources.mutatingWebhooks, undefined, 'theirs')).rejects.toMatchObject({
        status: 403,
      });
      await apply(resources.configMaps, 'other', AUTHORITY_CONFIG_MAP);
    } finally {
      api.close();
      await world.stop();
    }
  }, 120_000);
});
