// What the API server accepts and refuses when our container is added to a running virt-launcher pod as an ephemeral container,
// through pods/ephemeralcontainers. The facts of docs/adr/0005; a Kubernetes release that changes one fails here. What kubelet
// makes of it (cgroups, mounts, signals) is not tested: there is no kubelet.
import type { KubeConfig, V1EphemeralContainer, V1Pod } from '@kubernetes/client-node';
import { KubeConfig as KubeConfigOf } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ApiClient, ApiError } from '../../operator/kubernetes/api-client.ts';
import { pathOf, resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import { OperatorWorld } from './operator-world.ts';

let world: OperatorWorld;
let serial = 0;

beforeAll(async () => {
  // No operator: nothing is injected, as for a VM that ran before the install.
  world = await OperatorWorld.start();
}, 180_000);

afterAll(() => world?.stop());

/** A pod as KubeVirt makes it. */
async function launcher(): Promise<V1Pod> {
  serial += 1;
  const namespace = `ephemeral-${serial}`;
  await world.kubevirt.namespace(namespace);
  const { pod } = await world.kubevirt.vm(namespace, 'db', 'node-1');
  expect(hasSidecar(pod)).toBe(false);
  return pod;
}

const container: V1EphemeralContainer = {
  name: 'nas-aware-migration',
  image: 'example.org/sidecar:test',
  env: [{ name: 'NASMIG_POD_UID', valueFrom: { fieldRef: { fieldPath: 'metadata.uid' } } }],
  volumeMounts: [
    { name: 'public', mountPath: '/var/run/kubevirt' },
    { name: 'rootdisk', mountPath: '/var/run/nasmigration/volumes/rootdisk', readOnly: true },
  ],
  securityContext: {
    runAsUser: 107,
    runAsGroup: 107,
    runAsNonRoot: true,
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
    seccompProfile: { type: 'RuntimeDefault' },
  },
};

function patch(
  pod: V1Pod,
  ephemeralContainers: object[],
  spec: object = {},
  api = world.api,
): Promise<V1Pod> {
  const { namespace, name } = pod.metadata ?? {};
  return api.call<V1Pod>('PATCH', pathOf(resources.pods, namespace, name, 'ephemeralcontainers'), {
    body: { spec: { ...spec, ephemeralContainers } },
    contentType: 'application/strategic-merge-patch+json',
  });
}

/** The words of the refusal. */
async function refusal(attempt: Promise<unknown>): Promise<string> {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ApiError)) throw new Error(`it was accepted, or failed otherwise: ${String(error)}`);
  return `${error.status} ${error.message}`;
}

describe('an ephemeral container in a virt-launcher pod', () => {
  it('may mount the volumes that the pod has, whole, one of them read-only, as user 107', async () => {
    const pod = await launcher();
    const patched = await patch(pod, [container]);
    expect(patched.spec?.ephemeralContainers).toMatchObject([
      { ...container, env: [{ name: 'NASMIG_POD_UID' }] },
    ]);
    expect(patched.metadata?.uid).toBe(pod.metadata?.uid);
  });

  it.each([
    ['resources', { resources: { requests: { memory: '256Mi' }, limits: { memory: '256Mi' } } }, 'resources'],
    ['a restart policy', { restartPolicy: 'Always' }, 'restartPolicy'],
    ['a readiness probe', { readinessProbe: { exec: { command: ['true'] } } }, 'readinessProbe'],
    ['a liveness probe', { livenessProbe: { exec: { command: ['true'] } } }, 'livenessProbe'],
    ['ports', { ports: [{ containerPort: 8080 }] }, 'ports'],
    ['a preStop hook', { lifecycle: { preStop: { exec: { command: ['true'] } } } }, 'lifecycle'],
    [
      'a sub-path of a volume',
      { volumeMounts: [{ name: 'public', mountPath: '/run/mp', subPath: 'migrationproxy' }] },
      'volumeMounts[0].subPath',
    ],
    [
      'a volume that the pod does not have',
      { volumeMounts: [{ name: 'credentials', mountPath: '/var/run/secrets' }] },
      'volumeMounts[0].name',
    ],
    ['a name that a container has', { name: 'compute' }, 'name'],
  ])('may not have %s', async (_what, change, field) => {
    const said = await refusal(patch(await launcher(), [{ ...container, ...change }]));
    expect(said).toMatch(/^422 /);
    expect(said).toContain(`spec.ephemeralContainers[0].${field}`);
  });

  it('brings no volume with it: a projected token has no way into a pod that runs', async () => {
    const pod = await launcher();
    const volumes = [
      {
        name: 'credentials',
        projected: { sources: [{ serviceAccountToken: { audience: 'nasmigration.io', path: 'token' } }] },
      },
    ];
    const mount = { name: 'credentials', mountPath: '/var/run/secrets/nasmigration.io' };
    const said = await refusal(patch(pod, [{ ...container, volumeMounts: [mount] }], { volumes }));
    expect(said).toMatch(/^422 .*spec\.ephemeralContainers\[0\]\.volumeMounts\[0\]\.name: Not found/s);
    // Without a mount the volume is dropped without a word.
    const patched = await patch(pod, [container], { volumes });
    expect(patched.spec?.volumes?.some(({ name }) => name === 'credentials')).toBe(false);
    // And the pod's own volumes cannot be changed either.
    const { namespace, name } = pod.metadata ?? {};
    const changed = world.api.call('PATCH', pathOf(resources.pods, namespace, name), {
      body: { spec: { volumes } },
      contentType: 'application/strategic-merge-patch+json',
    });
    expect(await refusal(changed)).toMatch(/^422 .*pod updates may not change fields/s);
  });

  it('is the only container that a pod which runs can get: a native sidecar is refused', async () => {
    const { namespace, name } = (await launcher()).metadata ?? {};
    const added = world.api.call('PATCH', pathOf(resources.pods, namespace, name), {
      body: {
        spec: { initContainers: [{ name: 'late', image: 'example.org/any', restartPolicy: 'Always' }] },
      },
      contentType: 'application/strategic-merge-patch+json',
    });
    expect(await refusal(added)).toMatch(/^422 .*may not add or remove containers/s);
  });

  it('cannot be changed or taken away again', async () => {
    const pod = await launcher();
    await patch(pod, [container]);
    expect(await refusal(patch(pod, [{ ...container, image: 'example.org/sidecar:next' }]))).toMatch(/^422 /);
    const { namespace, name } = pod.metadata ?? {};
    const path = pathOf(resources.pods, namespace, name, 'ephemeralcontainers');
    const removed = world.api.call('PATCH', path, {
      body: [{ op: 'remove', path: '/spec/ephemeralContainers/0' }],
      contentType: 'application/json-patch+json',
    });
    expect(await refusal(removed)).toMatch(/^422 /);
    const second = await patch(pod, [{ ...container, name: 'nas-aware-migration-2' }]);
    expect(second.spec?.ephemeralContainers).toHaveLength(2);
  });

  it('is not counted by a quota, and changes neither requests nor QoS class', async () => {
    const pod = await launcher();
    const { namespace } = pod.metadata ?? {};
    await world.api.call('POST', `/api/v1/namespaces/${namespace}/resourcequotas`, {
      body: {
        apiVersion: 'v1',
        kind: 'ResourceQuota',
        metadata: { name: 'full' },
        spec: { hard: { 'requests.memory': '1Gi' } },
      },
    });
    const patched = await patch(pod, [container]);
    expect(patched.spec?.ephemeralContainers?.[0]?.resources ?? {}).toEqual({});
    expect(patched.status?.qosClass).toBe(pod.status?.qosClass);
  });

  it('needs the right to patch that sub-resource of every virt-launcher pod, which is the right to run anything in it', async () => {
    const pod = await launcher();
    const { namespace = '' } = pod.metadata ?? {};
    const name = 'adder';
    const account = await accountWith(namespace, name, ['pods/ephemeralcontainers'], ['patch']);
    const api = new ApiClient(account, { userAgent: 'test' });
    try {
      const root = {
        name: 'root',
        image: 'example.org/any',
        securityContext: { privileged: true, runAsUser: 0 },
      };
      const patched = await patch(pod, [root], {}, api);
      expect(patched.spec?.ephemeralContainers?.[0]?.securityContext?.privileged).toBe(true);
    } finally {
      api.close();
    }
    const reader = new ApiClient(await accountWith(namespace, 'reader', ['pods'], ['get', 'patch']), {
      userAgent: 'test',
    });
    try {
      expect(await refusal(patch(pod, [container], {}, reader))).toMatch(/^403 /);
    } finally {
      reader.close();
    }
  });
});

/** A service account with one rule in one namespace. */
async function accountWith(
  namespace: string,
  name: string,
  ruleResources: string[],
  verbs: string[],
): Promise<KubeConfig> {
  const rbac = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`;
  const apiVersion = 'rbac.authorization.k8s.io/v1';
  await world.api.create(resources.serviceAccounts, {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { namespace, name },
  });
  await world.api.call('POST', `${rbac}/roles`, {
    body: {
      apiVersion,
      kind: 'Role',
      metadata: { name },
      rules: [{ apiGroups: [''], resources: ruleResources, verbs }],
    },
  });
  await world.api.call('POST', `${rbac}/rolebindings`, {
    body: {
      apiVersion,
      kind: 'RoleBinding',
      metadata: { name },
      subjects: [{ kind: 'ServiceAccount', namespace, name }],
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name },
    },
  });
  const path = pathOf(resources.serviceAccounts, namespace, name, 'token');
  const token = await world.api.call<{ status: { token: string } }>('POST', path, {
    body: { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3600 } },
  });
  const config = new KubeConfigOf();
  config.loadFromString(world.plane.kubeconfigFor(name, token.status.token));
  return config;
}
