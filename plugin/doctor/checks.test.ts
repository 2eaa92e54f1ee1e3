import type { V1Deployment, V1MutatingWebhookConfiguration } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { createAuthority } from '../../operator/certificates/x509.ts';
import { LEASE_NAME, WEBHOOK_CONFIGURATION } from '../../operator/operator.ts';
import { OPERATOR_NAME, operatorLabels } from '../cluster/installation.ts';
import { readKubeVirt, readMigrationPolicy } from '../cluster/kubevirt-settings.ts';
import { instant, launcherPod, NOW_MS, succeeded, vmi } from '../testing/objects.ts';
import { checks, diagnose, type Finding } from './checks.ts';
import { type Facts, type Known, sidecarsIn } from './facts.ts';

const is = <T>(value: T): Known<T> => ({ known: true, value });
const forbidden = { known: false, missing: false, why: 'the API server does not let you' } as const;
const missing = { known: false, missing: true, why: 'not installed' } as const;
const DAY_MS = 86_400_000;

const bundle = (untilMs: number) =>
  Buffer.from(
    createAuthority('test', new Date(NOW_MS - 400 * DAY_MS), new Date(untilMs)).certificatePem,
  ).toString('base64');
const goodBundle = bundle(NOW_MS + 100 * DAY_MS);

const webhook = (change: object = {}): V1MutatingWebhookConfiguration =>
  ({
    webhooks: [{ name: 'x', failurePolicy: 'Ignore', clientConfig: { caBundle: goodBundle }, ...change }],
  }) as V1MutatingWebhookConfiguration;

const deployment = (change: object = {}, environment: Record<string, string> = {}) => ({
  namespace: 'nasmig',
  environment: { NASMIG_SIDECAR_IMAGE: 'registry.example/nas-aware-migration:0.1.0', ...environment },
  deployment: {
    metadata: { namespace: 'nasmig' },
    spec: { replicas: 2, template: {} },
    status: { readyReplicas: 2 },
    ...change,
  } as unknown as V1Deployment,
});

const kubeVirt = (migrations: object = {}, status: object = {}) =>
  [
    readKubeVirt({
      metadata: { namespace: 'kubevirt', name: 'kubevirt' },
      spec: { configuration: { migrations } },
      status: { phase: 'Deployed', observedKubeVirtVersion: 'v1.6.2', ...status },
    } as object),
  ].flatMap((one) => one ?? []);

const db = vmi('db', { labels: { app: 'db' } });
const policy = (spec: object = {}, name = 'default', status: object = {}) => ({
  metadata: { name },
  spec: { selectors: {}, ...spec },
  status,
});

/** A cluster in which everything is well. */
const facts = (change: Partial<Facts> = {}): Facts => ({
  kubernetesVersion: is({ major: '1', minor: '33', gitVersion: 'v1.33.1' }),
  kubeVirts: is(kubeVirt()),
  migrationPolicies: is([]),
  policies: is([policy()]),
  migrations: is([]),
  installation: is(deployment()),
  operatorPods: is([
    { metadata: { name: 'operator-1', labels: { ...operatorLabels, 'nasmigration.io/leader': 'true' } } },
  ]),
  lease: is({ spec: { holderIdentity: 'operator-1', renewTime: instant(2000) as unknown as Date } } as never),
  hubEndpoints: is([
    { endpoints: [{ addresses: ['10.0.0.7'], conditions: { ready: true } }], addressType: 'IPv4' },
  ]),
  webhook: is(webhook()),
  vmis: is([db]),
  launcherPods: is([launcherPod(db)]),
  namespace: undefined,
  claims: is({ drivers: new Map([['shop/db-root', 'nfs.csi.k8s.io']]), unreadable: new Set<string>() }),
  namespaceLabels: new Map(),
  networkPolicies: is([]),
  connectedSidecars: is(1),
  nowMs: NOW_MS,
  ...change,
});

const of = (check: string, change: Partial<Facts>): Finding[] =>
  diagnose(facts(change)).filter((one) => one.check === check);

describe('a cluster in which all is well', () => {
  it('has a line for each check, and no remedy', () => {
    const findings = diagnose(facts());
    expect(findings.filter(({ status }) => status !== 'ok')).toEqual([]);
    expect(new Set(findings.map(({ check }) => check)).size).toBe(checks.length);
  });
});

const closing = {
  metadata: { namespace: 'shop', name: 'nothing-out' },
  spec: { podSelector: {}, policyTypes: ['Egress'] },
};
const failedAttempt = (vm: string, agoMs: number) => ({
  metadata: { namespace: 'shop', name: vm },
  spec: { vmiName: vm },
  status: { ...succeeded('FailedWhileArmed'), completionTime: instant(agoMs) },
});

describe('each thing that is not well', () => {
  it.each<[string, string, Finding['status'], Partial<Facts>, string]>([
    [
      'Kubernetes too old',
      'Kubernetes version',
      'failed',
      { kubernetesVersion: is({ major: '1', minor: '28+', gitVersion: 'v1.28.9' }) },
      'no native sidecars',
    ],
    ['no KubeVirt kind', 'KubeVirt version', 'failed', { kubeVirts: missing }, 'not installed'],
    ['no KubeVirt object', 'KubeVirt version', 'failed', { kubeVirts: is([]) }, 'no KubeVirt object'],
    [
      'KubeVirt too old',
      'KubeVirt version',
      'warning',
      { kubeVirts: is(kubeVirt({}, { observedKubeVirtVersion: 'v1.2.9' })) },
      'outside 1.3 to 1.9',
    ],
    [
      'KubeVirt too new',
      'KubeVirt version',
      'warning',
      { kubeVirts: is(kubeVirt({}, { observedKubeVirtVersion: '1.10.0' })) },
      'outside 1.3 to 1.9',
    ],
    [
      'KubeVirt without a version',
      'KubeVirt version',
      'unknown',
      { kubeVirts: is(kubeVirt({}, { observedKubeVirtVersion: 'main' })) },
      'no version',
    ],
    [
      'KubeVirt not deployed',
      'KubeVirt version',
      'warning',
      { kubeVirts: is(kubeVirt({}, { phase: 'Deploying' })) },
      'Deploying',
    ],
    ['no CRDs', 'Custom resources', 'failed', { migrations: missing }, 'no NasAwareMigration'],
    ['no operator', 'Operator', 'failed', { installation: is(undefined) }, 'no Deployment'],
    [
      'operator not ready',
      'Operator',
      'failed',
      { installation: is(deployment({ status: {} })) },
      'none of 2 pods',
    ],
    [
      'one pod not ready',
      'Operator',
      'warning',
      { installation: is(deployment({ status: { readyReplicas: 1 } })) },
      '1 of 2',
    ],
    [
      'one replica',
      'Operator',
      'warning',
      { installation: is(deployment({ spec: { replicas: 1, template: {} }, status: { readyReplicas: 1 } })) },
      'one pod alone',
    ],
    ['no leader', 'Leader', 'failed', { lease: is(undefined) }, 'no operator pod leads'],
    [
      'a leader that hangs',
      'Leader',
      'failed',
      { lease: is({ spec: { holderIdentity: 'x', renewTime: instant(300_000) } } as never) },
      'has not renewed',
    ],
    [
      'no leader label',
      'Leader',
      'failed',
      { operatorPods: is([{ metadata: { name: 'operator-1' } }]) },
      'no pod carries the label',
    ],
    ['webhook not registered', 'Injection', 'failed', { webhook: is(undefined) }, 'not registered'],
    ['webhook empty', 'Injection', 'failed', { webhook: is({}) }, 'has not written it'],
    [
      'webhook that keeps VMs from starting',
      'Injection',
      'warning',
      { webhook: is(webhook({ failurePolicy: 'Fail' })) },
      'failurePolicy is Fail',
    ],
    [
      'injection off',
      'Injection',
      'warning',
      { installation: is(deployment({}, { NASMIG_INJECTION: 'false' })) },
      'injection is off',
    ],
    [
      'injection stopped by a quota',
      'Injection',
      'failed',
      {
        policies: is([
          policy({}, 'default', {
            conditions: [
              {
                type: 'Injecting',
                status: 'False',
                reason: 'StoppedInNamespaces',
                message: 'refused in shop',
                lastTransitionTime: instant(),
              },
            ],
          }),
        ]),
      },
      'refused in shop',
    ],
    [
      'CA ended',
      'Certificate',
      'failed',
      { webhook: is(webhook({ clientConfig: { caBundle: bundle(NOW_MS - DAY_MS) } })) },
      'ended on',
    ],
    [
      'CA about to end',
      'Certificate',
      'warning',
      { webhook: is(webhook({ clientConfig: { caBundle: bundle(NOW_MS + DAY_MS) } })) },
      'ends on',
    ],
    [
      'a bundle of nothing',
      'Certificate',
      'failed',
      { webhook: is(webhook({ clientConfig: { caBundle: 'eA==' } })) },
      'no certificate',
    ],
    ['no policy', 'Policies', 'failed', { policies: is([]) }, 'no NasMigrationPolicy'],
    ['suspended', 'Policies', 'warning', { policies: is([policy({ suspend: true })]) }, 'suspended'],
    [
      'injection disabled by policy',
      'Policies',
      'warning',
      { policies: is([policy({ injection: 'Disabled' })]) },
      'injection Disabled',
    ],
    [
      'a policy that cannot be read',
      'Policies',
      'failed',
      { policies: is([policy({ injection: 'Maybe' })]) },
      'cannot be read',
    ],
    [
      'a policy that selects nothing',
      'Policies',
      'warning',
      { policies: is([policy({ selectors: { virtualMachineInstanceSelector: { a: 'b' } } })]) },
      'selects any running VM',
    ],
    [
      'an unknown driver',
      'Shared storage',
      'failed',
      { claims: is({ drivers: new Map([['shop/db-root', 'local.csi']]), unreadable: new Set<string>() }) },
      'driver local.csi',
    ],
    [
      'a claim that may not be read',
      'Shared storage',
      'unknown',
      { claims: is({ drivers: new Map(), unreadable: new Set(['shop/db-root']) }) },
      'volumes of shop/db',
    ],
    [
      'no sidecar',
      'Sidecars',
      'warning',
      { launcherPods: is([launcherPod(db, { sidecar: false })]) },
      '1 of 1 pods have none: shop/db',
    ],
    [
      'a sidecar whose image cannot be pulled',
      'Sidecars',
      'failed',
      {
        launcherPods: is([
          launcherPod(db, {
            status: {
              initContainerStatuses: [
                {
                  name: 'nas-aware-migration',
                  image: '',
                  imageID: '',
                  ready: false,
                  restartCount: 0,
                  state: { waiting: { reason: 'ErrImagePull' } },
                },
              ],
            },
          }),
        ]),
      },
      'ErrImagePull',
    ],
    [
      'a sidecar that restarts',
      'Sidecars',
      'warning',
      {
        launcherPods: is([
          launcherPod(db, {
            status: {
              initContainerStatuses: [
                {
                  name: 'nas-aware-migration',
                  image: '',
                  imageID: '',
                  ready: true,
                  restartCount: 9,
                  started: true,
                },
              ],
            },
          }),
        ]),
      },
      'restarted',
    ],
    [
      'another image',
      'Sidecar versions',
      'warning',
      { launcherPods: is([launcherPod(db, { sidecar: 'old:0.0.9' })]) },
      'shop/db (old:0.0.9)',
    ],
    ['no hub endpoint', 'Hub reachability', 'failed', { hubEndpoints: is([]) }, 'no endpoint'],
    [
      'nobody connected',
      'Hub reachability',
      'failed',
      { connectedSidecars: is(0) },
      '0 sidecars are connected, 1 pods have one',
    ],
    [
      'connections that cannot be asked',
      'Hub reachability',
      'unknown',
      { connectedSidecars: forbidden },
      'could not be asked',
    ],
    [
      'connections of all namespaces beside the pods of one',
      'Hub reachability',
      'unknown',
      { namespace: 'shop', connectedSidecars: is(7) },
      '7 sidecars of all namespaces are connected; whether the 1 of namespace shop',
    ],
    [
      'a namespace that lets nothing out',
      'Network policy',
      'failed',
      { networkPolicies: is([closing]) },
      'out of namespace shop by nothing-out',
    ],
    [
      'a namespace that lets out to the hub alone',
      'Network policy',
      'failed',
      {
        networkPolicies: is([
          {
            metadata: { namespace: 'shop', name: 'hub-only' },
            spec: { podSelector: {}, policyTypes: ['Egress'], egress: [{ ports: [{ port: 8443 }] }] },
          },
        ]),
      },
      'DNS queries, without which the hub is not found, are not let out of namespace shop by hub-only',
    ],
    [
      "an operator's namespace that lets nothing in",
      'Network policy',
      'failed',
      {
        networkPolicies: is([
          {
            metadata: { namespace: 'nasmig', name: 'closed' },
            spec: { podSelector: {}, policyTypes: ['Ingress'] },
          },
        ]),
      },
      'into namespace nasmig by closed',
    ],
    [
      'post-copy',
      'Post-copy',
      'failed',
      { kubeVirts: is(kubeVirt({ allowPostCopy: true })) },
      'KubeVirt kubevirt/kubevirt allows post-copy',
    ],
    [
      'a cap',
      'Bandwidth',
      'failed',
      { kubeVirts: is(kubeVirt({ bandwidthPerMigration: '64Mi' })) },
      '64Mi/s',
    ],
    [
      'compression by a MigrationPolicy',
      'Compression',
      'failed',
      {
        migrationPolicies: is(
          [
            readMigrationPolicy({
              metadata: { name: 'small' },
              spec: {
                experimental: { compression: 'zstd' },
                selectors: { virtualMachineInstanceSelector: { app: 'db' } },
              },
            } as object),
          ].flatMap((one) => one ?? []),
        ),
      },
      'MigrationPolicy small has QEMU compress pages (zstd)',
    ],
    [
      'a root VM',
      'Root VMs',
      'warning',
      { vmis: is([vmi('db', { status: { runtimeUser: 0 } })]) },
      'shop/db run as root',
    ],
    [
      'the breaker of a VM',
      'Breaker',
      'warning',
      { migrations: is([failedAttempt('db', 60_000)]) },
      'open for shop/db',
    ],
    [
      'the breaker of the cluster',
      'Breaker',
      'failed',
      { migrations: is(['a', 'b', 'c'].map((vm) => failedAttempt(vm, 60_000))) },
      '3 failed attempts',
    ],
  ])('%s', (_name, check, status, change, words) => {
    const findings = of(check, change);
    const found = findings.find((one) => one.status === status);
    expect(found, JSON.stringify(findings)).toBeDefined();
    expect(found?.message).toContain(words);
    expect(found?.remedy).toBeTruthy();
  });

  it('is not hidden by another setting of the same VM', () => {
    const findings = diagnose(
      facts({ kubeVirts: is(kubeVirt({ allowPostCopy: true, bandwidthPerMigration: '64Mi' })) }),
    );
    expect(findings.filter(({ status }) => status === 'failed').map(({ check }) => check)).toEqual([
      'Post-copy',
      'Bandwidth',
    ]);
  });

  it('a MigrationPolicy wins over the configuration of KubeVirt, field by field', () => {
    const allowed = is(kubeVirt({ allowPostCopy: true }));
    const own = (spec: object) =>
      is(
        [
          readMigrationPolicy({ metadata: { name: 'p' }, spec: { selectors: {}, ...spec } } as object),
        ].flatMap((one) => one ?? []),
      );
    expect(
      of('Post-copy', { kubeVirts: allowed, migrationPolicies: own({ allowPostCopy: false }) })[0]?.status,
    ).toBe('ok');
    expect(
      of('Post-copy', { kubeVirts: allowed, migrationPolicies: own({ bandwidthPerMigration: '0' }) })[0]
        ?.status,
    ).toBe('failed');
  });

  it('without VMs the configuration of KubeVirt counts for every VM', () => {
    expect(
      of('Post-copy', { vmis: is([]), kubeVirts: is(kubeVirt({ allowPostCopy: true })) })[0]?.message,
    ).toContain('every VM');
  });
});

describe('what may not be read', () => {
  it('is unknown, with the reason, and nothing fails for it', () => {
    const blind = facts({
      kubernetesVersion: forbidden,
      kubeVirts: forbidden,
      migrationPolicies: forbidden,
      policies: forbidden,
      migrations: forbidden,
      installation: forbidden,
      operatorPods: forbidden,
      lease: forbidden,
      hubEndpoints: forbidden,
      webhook: forbidden,
      vmis: forbidden,
      launcherPods: forbidden,
      claims: forbidden,
      networkPolicies: forbidden,
      connectedSidecars: forbidden,
    });
    const findings = diagnose(blind);
    expect(findings.filter(({ status }) => status !== 'unknown')).toEqual([]);
    for (const { message, remedy } of findings) {
      expect(message).toContain('the API server does not let you');
      expect(remedy).toBeTruthy();
    }
  });
});

describe("the operator's own names", () => {
  it('are what this plugin looks for', () => {
    expect([LEASE_NAME, WEBHOOK_CONFIGURATION]).toEqual([OPERATOR_NAME, OPERATOR_NAME]);
    expect(sidecarsIn('# HELP x\nnasmig_hub_connections 12\nother 3\n')).toBe(12);
    expect(() => sidecarsIn('nothing')).toThrow(/no metric/);
  });
});
