import { describe, expect, it } from 'vitest';
import { readPolicy } from '../controller/policies.ts';
import { type AdmissionContext, type AdmissionReview, admit } from './admission.ts';
import { webhookConfiguration } from './registration.ts';

const policy = (spec: object = {}) => readPolicy({ metadata: { name: 'all' }, spec });
const context: AdmissionContext = {
  kubevirtUser: 'system:serviceaccount:kubevirt:kubevirt-controller',
  policyFor: () => policy(),
  isStopped: () => false,
  onInjected: () => {},
  notShared: () => undefined,
  settings: {
    image: 'example.org/sidecar:1',
    hubUrl: 'wss://hub:8443',
    caConfigMap: 'ca',
    cpu: '100m',
    memory: '256Mi',
    indexMemory: '96Mi',
    logLevel: 'info',
  },
};

function review(change: Partial<AdmissionReview['request']> = {}): AdmissionReview {
  return {
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    request: {
      uid: 'r-1',
      operation: 'CREATE',
      namespace: 'shop',
      resource: { group: '', resource: 'pods' },
      userInfo: { username: context.kubevirtUser },
      object: {
        metadata: {
          labels: { 'kubevirt.io': 'virt-launcher', tier: 'db' },
          ownerReferences: [
            {
              apiVersion: 'kubevirt.io/v1',
              kind: 'VirtualMachineInstance',
              name: 'db',
              uid: 'v',
              controller: true,
            },
          ],
        },
        spec: {
          containers: [
            {
              name: 'compute',
              volumeMounts: [{ name: 'd', mountPath: '/var/run/kubevirt-private/vmi-disks/d' }],
            },
          ],
          volumes: [
            { name: 'public', emptyDir: {} },
            { name: 'd', persistentVolumeClaim: { claimName: 'c' } },
          ],
        },
      },
      ...change,
    },
  };
}

describe('admission', () => {
  it('injects, with what the policy says of resources', () => {
    const { answer, decision } = admit(review(), {
      ...context,
      policyFor: () =>
        policy({
          sidecar: { cpu: '300m', memory: '1Gi' },
          index: { memory: '512Mi', build: 'Full', nasReadBandwidth: '30M' },
        }),
    });
    expect(decision).toBe('Injected');
    expect(answer.response).toMatchObject({ uid: 'r-1', allowed: true, patchType: 'JSONPatch' });
    const patch = JSON.parse(Buffer.from(answer.response.patch ?? '', 'base64').toString()) as {
      value: unknown;
    }[];
    expect(JSON.stringify(patch)).toContain('"cpu":"300m","memory":"1Gi"');
    expect(JSON.stringify(patch)).toContain(`"value":"${512 * 2 ** 20}"`);
    expect(JSON.stringify(patch)).toContain('"name":"NASMIG_INDEX_BUILD","value":"full"');
    expect(JSON.stringify(patch)).toContain('"name":"NASMIG_INDEX_BYTES_PER_SECOND","value":"30000000"');
  });

  it('gives the index half of the sidecar’s memory where the policy’s and the operator’s do not fit together', () => {
    const { answer } = admit(review(), { ...context, policyFor: () => policy({ index: { memory: '1Gi' } }) });
    const patch = Buffer.from(answer.response.patch ?? '', 'base64').toString();
    expect(patch).toContain(`"name":"NASMIG_INDEX_MEMORY_BYTES","value":"${128 * 2 ** 20}"`);
  });

  it('asks for the policy with the labels of pod and namespace', () => {
    const asked: unknown[] = [];
    admit(review(), {
      ...context,
      policyFor: (namespace, labels) => {
        asked.push(namespace, labels['tier']);
        return undefined;
      },
    });
    expect(asked).toEqual(['shop', 'db']);
  });

  it.each([
    ['NotOurs', { userInfo: { username: 'eve' } }, {}],
    ['NotOurs', { operation: 'UPDATE' }, {}],
    ['NotOurs', { resource: { group: 'apps', resource: 'pods' } }, {}],
    ['NoPolicy', {}, { policyFor: () => undefined }],
    ['InjectionDisabled', {}, { policyFor: () => policy({ injection: 'Disabled' }) }],
    ['InjectionStopped', {}, { isStopped: () => true }],
    ['InjectionStopped', {}, { onInjected: () => false }],
    ['NotALauncherPod', { object: {} }, {}],
    [
      'MalformedPod',
      {
        object: {
          metadata: {
            labels: { 'kubevirt.io': 'virt-launcher' },
            ownerReferences: [{ controller: true, kind: 'VirtualMachineInstance' }],
          },
        },
      },
      {},
    ],
    ['NoSharedVolume', {}, { notShared: () => 'access mode ReadWriteOnce' }],
  ] as [string, Partial<AdmissionReview['request']>, Partial<AdmissionContext>][])(
    'allows the pod as it is: %s',
    (expected, change, other) => {
      const { answer, decision } = admit(review(change), { ...context, ...other });
      expect(decision).toBe(expected);
      expect(answer.response).toEqual({ uid: 'r-1', allowed: true });
    },
  );
});

describe('a dry run', () => {
  it('is answered as a pod is, and counts as none', () => {
    const asked: unknown[] = [];
    const told: unknown[] = [];
    const { decision } = admit(review({ dryRun: true }), {
      ...context,
      isStopped: (_namespace, pod) => {
        asked.push(pod);
        return false;
      },
      onInjected: (pod) => told.push(pod) < 0,
    });
    expect(decision).toBe('Injected');
    expect([asked, told]).toEqual([[undefined], []]);
  });
});

describe('webhook configuration', () => {
  const base = { name: 'n', bundlePem: 'PEM', ownNamespace: 'own' };

  it('never keeps a pod from starting', () => {
    const [webhook] =
      webhookConfiguration({ ...base, address: { url: 'https://127.0.0.1:1' } }).webhooks ?? [];
    expect(webhook).toMatchObject({
      failurePolicy: 'Ignore',
      timeoutSeconds: 3,
      sideEffects: 'None',
      reinvocationPolicy: 'IfNeeded',
    });
    expect(webhook?.clientConfig).toEqual({ url: 'https://127.0.0.1:1/inject', caBundle: 'UEVN' });
  });

  it('is called through a Service in a cluster', () => {
    const address = { service: { namespace: 'own', name: 'hook', port: 443 } };
    const [webhook] = webhookConfiguration({ ...base, address }).webhooks ?? [];
    expect(webhook?.clientConfig.service).toEqual({
      namespace: 'own',
      name: 'hook',
      port: 443,
      path: '/inject',
    });
  });
});
