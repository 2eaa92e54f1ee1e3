// The chart through its life with real Helm on a real API server: install, upgrade from the version before with objects in
// place, rollback, uninstall; and the same without Helm. Tests follow one another, as an administrator's steps do.

import { execFile } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { KubernetesObject, V1CustomResourceDefinition, V1Secret } from '@kubernetes/client-node';
import { load } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chartDirectory, manifestFile } from '../../hack/ship/generate.ts';
import { ensureTool, repositoryRoot } from '../../hack/ship/tools.ts';
import { apiVersionOf, type Resource, resources } from '../../operator/kubernetes/resources.ts';
import { ShipCluster } from './cluster.ts';
import { HelmError, NAMESPACE, objectOf, objectsOf, RELEASE, type Rendered } from './helm.ts';
import { type Schema, writeSchemas } from './openapi-schemas.ts';
import { record } from './report.ts';

const run = promisify(execFile);

const MIGRATIONS_CRD = 'nasawaremigrations.nasmigration.io';
const POLICIES_CRD = 'nasmigrationpolicies.nasmigration.io';
const GUEST_NAMESPACE = 'shop';
const PREVIOUS = '0.0.9';
/** A field that the version before does not have yet. */
const NEW_FIELD = 'ttlAfterFinished';
/** And values, with their template. */
const NEW_VALUES = 'podMonitor';

const everything = {
  serviceMonitor: { enabled: true, labels: { release: 'prometheus' } },
  prometheusRule: { enabled: true, additionalLabels: { team: 'virt' } },
  dashboards: { enabled: true, annotations: { grafana_folder: 'KubeVirt' } },
  certManager: { enabled: true },
  defaultPolicy: { enabled: true },
  image: { repository: 'registry.example/nasmig', digest: `sha256:${'a'.repeat(64)}` },
};

let cluster: ShipCluster;
let previousChart: string;

beforeAll(async () => {
  cluster = await ShipCluster.start();
  previousChart = await chartBefore();
});

afterAll(async () => {
  await cluster?.stop();
  if (previousChart !== undefined) await rm(path.dirname(previousChart), { recursive: true, force: true });
});

/** The chart as it could have been one version ago: other version, a CRD without a field, without some values. */
async function chartBefore(): Promise<string> {
  const copy = path.join(await mkdtemp(path.join(tmpdir(), 'nasmig-chart-')), 'nas-aware-migration');
  await cp(chartDirectory, copy, { recursive: true });
  const chartFile = path.join(copy, 'Chart.yaml');
  const chart = await readFile(chartFile, 'utf8');
  await writeFile(chartFile, chart.replaceAll(/^((?:appV|v)ersion): .*$/gm, `$1: ${PREVIOUS}`));
  const crdFile = path.join(copy, 'files', 'crds', 'nasmigration.io_nasawaremigrations.yaml');
  const [definition] = objectsOf(await readFile(crdFile, 'utf8')) as unknown as V1CustomResourceDefinition[];
  delete specFieldsOf(definition)[NEW_FIELD];
  await writeFile(crdFile, JSON.stringify(definition));
  const valuesFile = path.join(copy, 'values.yaml');
  const { [NEW_VALUES]: _block, ...values } = load(await readFile(valuesFile, 'utf8')) as Record<
    string,
    unknown
  >;
  await writeFile(valuesFile, JSON.stringify(values));
  await rm(path.join(copy, 'templates', `${NEW_VALUES.toLowerCase()}.yaml`));
  return copy;
}

function specFieldsOf(definition: V1CustomResourceDefinition | undefined): Record<string, unknown> {
  const fields = definition?.spec.versions[0]?.schema?.openAPIV3Schema?.properties?.['spec']?.properties;
  if (fields === undefined) throw new Error('the CRD has no spec');
  return fields;
}

const crd = (name: string) =>
  cluster.get<V1CustomResourceDefinition>(resources.customResourceDefinitions, undefined, name);
const releaseOf = async () =>
  (await cluster.deployment()).spec?.template.spec?.containers[0]?.env?.find(
    ({ name }) => name === 'NASMIG_RELEASE',
  )?.value;

/** A VM and our two kinds, as they are when a cluster is in use. */
async function putInUse(): Promise<void> {
  const create = (resource: Resource, namespace: string | undefined, name: string, spec: object) =>
    cluster.api.create(resource, {
      apiVersion: apiVersionOf(resource),
      kind: resource.kind,
      metadata: { name, ...(namespace === undefined ? {} : { namespace }) },
      spec,
    } as KubernetesObject);
  await cluster.api.create(resources.namespaces, {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name: GUEST_NAMESPACE },
  });
  await create(resources.virtualMachineInstances, GUEST_NAMESPACE, 'db', {});
  await create(resources.nasAwareMigrations, GUEST_NAMESPACE, 'move-db', { vmiName: 'db' });
  await create(resources.nasMigrationPolicies, undefined, 'mine', { suspend: true });
}

/** What of `putInUse` is there, by UID. */
async function inUse(): Promise<Record<string, string | undefined>> {
  const uidOf = async (resource: Resource, namespace: string | undefined, name: string) =>
    (await cluster.get(resource, namespace, name))?.metadata?.uid;
  return {
    vm: await uidOf(resources.virtualMachineInstances, GUEST_NAMESPACE, 'db'),
    migration: await uidOf(resources.nasAwareMigrations, GUEST_NAMESPACE, 'move-db'),
    policy: await uidOf(resources.nasMigrationPolicies, undefined, 'mine'),
    defaultPolicy: await uidOf(resources.nasMigrationPolicies, undefined, 'default'),
    migrations: (await crd(MIGRATIONS_CRD))?.metadata?.uid,
    policies: (await crd(POLICIES_CRD))?.metadata?.uid,
  };
}

/** Writes what the operator writes into the objects that the chart has empty. */
async function asTheOperator(): Promise<void> {
  const secret = await cluster.get<V1Secret>(resources.secrets, NAMESPACE, 'nas-aware-migration-authority');
  await cluster.api.replace(resources.secrets, {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: {
      namespace: NAMESPACE,
      name: 'nas-aware-migration-authority',
      resourceVersion: secret?.metadata?.resourceVersion ?? '',
    },
    data: { 'ca.crt': 'Y2E=' },
  } as V1Secret);
  await cluster.api.apply(
    resources.mutatingWebhooks,
    {
      metadata: { name: 'nas-aware-migration' },
      webhooks: [
        {
          name: 'sidecar.nasmigration.io',
          clientConfig: { url: 'https://127.0.0.1:1/inject' },
          rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['pods'] }],
          failurePolicy: 'Ignore',
          sideEffects: 'None',
          admissionReviewVersions: ['v1'],
        },
      ],
    } as KubernetesObject,
    'nas-aware-migration-injection',
  );
}

async function whatTheOperatorWrote(): Promise<unknown[]> {
  const secret = await cluster.get<V1Secret>(resources.secrets, NAMESPACE, 'nas-aware-migration-authority');
  const webhook = await cluster.get<KubernetesObject & { webhooks?: { name: string }[] }>(
    resources.mutatingWebhooks,
    undefined,
    'nas-aware-migration',
  );
  return [secret?.data?.['ca.crt'], webhook?.webhooks?.map(({ name }) => name)];
}

/** Everything in the cluster that carries one of our names or labels, as kind/name. */
async function ours(): Promise<string[]> {
  const kinds = (
    await cluster.kubectl(['api-resources', '--verbs=list', '-o', 'name', '--request-timeout=20s'])
  )
    .split('\n')
    .filter((kind) => kind !== '' && !kind.startsWith('events'));
  const text = await cluster.kubectl(['get', kinds.join(','), '-A', '-o', 'json', '--ignore-not-found']);
  const { items = [] } = JSON.parse(text === '' ? '{}' : text) as { items?: Rendered[] };
  return (
    items
      .filter(
        ({ metadata }) =>
          metadata?.name?.includes('nas-aware-migration') === true ||
          metadata?.name?.endsWith('nasmigration.io') === true ||
          metadata?.labels?.['app.kubernetes.io/part-of'] === 'nas-aware-migration',
      )
      // The API server makes an APIService of every CRD's group; the namespace is the administrator's.
      .filter(({ kind }) => kind !== 'APIService' && kind !== 'Namespace')
      .map(({ kind, metadata }) => `${kind}/${metadata?.name}`)
      .sort()
  );
}

describe('install', () => {
  it('of the version before', async () => {
    expect(await cluster.helm.install({ replicaCount: 3 }, previousChart)).toContain(
      'rollout status deployment',
    );
    await cluster.established(MIGRATIONS_CRD);
    expect(specFieldsOf(await crd(MIGRATIONS_CRD))).not.toHaveProperty(NEW_FIELD);
    expect(await releaseOf()).toBe(PREVIOUS);
    await putInUse();
    await asTheOperator();
    expect(await whatTheOperatorWrote()).toEqual(['Y2E=', ['sidecar.nasmigration.io']]);
    await record('helm', { installed: true });
  });

  it('is refused a second time in one cluster', async () => {
    await expect(
      cluster.helm.run([
        'install',
        'another',
        chartDirectory,
        '--namespace',
        'elsewhere',
        '--create-namespace',
      ]),
    ).rejects.toBeInstanceOf(HelmError);
  });

  it('makes pods that a namespace with restricted pod security takes', async () => {
    await cluster.kubectl([
      'label',
      'namespace',
      NAMESPACE,
      'pod-security.kubernetes.io/enforce=restricted',
      '--overwrite',
    ]);
    const { spec } = await cluster.deployment();
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name: 'as-the-deployment-would',
        namespace: NAMESPACE,
        labels: spec?.template.metadata?.labels,
      },
      spec: spec?.template.spec,
    };
    // And the chart's own test.
    const [test] = (await cluster.helm.template()).filter(({ kind }) => kind === 'Pod');
    const words = ['create', '--dry-run=server', '--validate=strict', '-f', '-'];
    expect(await cluster.kubectl(words, JSON.stringify(pod))).toContain('created (server dry run)');
    expect(await cluster.kubectl(words, JSON.stringify(test))).toContain('created (server dry run)');
    const privileged = structuredClone(pod);
    const [container] = privileged.spec?.containers ?? [];
    delete container?.securityContext;
    await expect(cluster.kubectl(words, JSON.stringify(privileged))).rejects.toThrow('violates PodSecurity');
  });
});

describe('upgrade', () => {
  let before: Record<string, string | undefined>;

  it('as docs/install.md says has new values of the new chart, and keeps those of the release', async () => {
    const page = await readFile(path.join(repositoryRoot, 'docs/install.md'), 'utf8');
    const [, words = ''] =
      /^helm upgrade nas-aware-migration charts\/nas-aware-migration (.*)$/m.exec(page) ?? [];
    const upgrade = (...flags: string[]) => cluster.helm.run(['upgrade', RELEASE, chartDirectory, ...flags]);
    // What the page must not say: the release has no such values.
    await expect(upgrade('--namespace', NAMESPACE, '--reuse-values')).rejects.toThrow('nil pointer');
    await upgrade(...words.split(' '));
    expect(await releaseOf()).toBe('0.1.0');
    expect((await cluster.deployment()).spec?.replicas).toBe(3);
    await cluster.helm.rollback(1);
    expect(await releaseOf()).toBe(PREVIOUS);
  });

  it('brings new templates and new CRDs, and leaves objects and what the operator wrote', async () => {
    before = await inUse();
    await cluster.helm.upgrade(everything);
    expect(specFieldsOf(await crd(MIGRATIONS_CRD))).toHaveProperty(NEW_FIELD);
    expect(await releaseOf()).toBe('0.1.0');
    const after = await inUse();
    expect(after).toEqual({ ...before, defaultPolicy: expect.any(String) });
    expect(await whatTheOperatorWrote()).toEqual(['Y2E=', ['sidecar.nasmigration.io']]);
  });

  it('has made every object as the API server takes it, strictly', async () => {
    const objects = objectsOf(await cluster.helm.manifest());
    expect(objects.length).toBeGreaterThan(15);
    // Warnings of the server (unknown or repeated fields) are errors with strict validation.
    const text = await cluster.kubectl(
      ['apply', '--server-side', '--force-conflicts', '--dry-run=server', '--validate=strict', '-f', '-'],
      objects.map((object) => JSON.stringify(object)).join('\n---\n'),
    );
    expect(text.trim().split('\n')).toHaveLength(objects.length);
    for (const kind of ['ServiceMonitor', 'PrometheusRule'])
      expect(objectOf(objects, kind).metadata?.namespace).toBe(NAMESPACE);
    expect(objects.filter(({ kind }) => kind === 'Certificate' || kind === 'Issuer')).toHaveLength(4);
    // And what is chosen instead.
    const [podMonitor] = (await cluster.helm.template({ podMonitor: { enabled: true } })).filter(
      ({ kind }) => kind === 'PodMonitor',
    );
    expect(
      await cluster.kubectl(
        ['create', '--dry-run=server', '--validate=strict', '-f', '-'],
        JSON.stringify(podMonitor),
      ),
    ).toContain('created (server dry run)');
    await record('helm', { objects: objects.length });
  });

  it('again changes nothing', async () => {
    const generation = (await cluster.deployment()).metadata?.generation;
    await cluster.helm.upgrade(everything);
    expect((await cluster.deployment()).metadata?.generation).toBe(generation);
  });

  it('with bad values is refused, and changes nothing', async () => {
    const version = (await cluster.deployment()).metadata?.resourceVersion;
    await expect(cluster.helm.upgrade({ replicaCount: 'two' })).rejects.toThrow(/replicaCount/);
    expect((await cluster.deployment()).metadata?.resourceVersion).toBe(version);
  });

  it('can be rolled back', async () => {
    await cluster.helm.rollback(1);
    expect(await releaseOf()).toBe(PREVIOUS);
    expect(await inUse()).toEqual({ ...before, defaultPolicy: expect.any(String) });
    expect(await whatTheOperatorWrote()).toEqual(['Y2E=', ['sidecar.nasmigration.io']]);
    await cluster.helm.upgrade(everything);
    expect(await releaseOf()).toBe('0.1.0');
    await record('helm', { upgraded: true });
  });
});

describe('uninstall', () => {
  it('leaves VMs, migrations, policies and CRDs, and nothing else', async () => {
    const before = await inUse();
    await cluster.helm.uninstall();
    expect(await inUse()).toEqual(before);
    await cluster.eventually(async () =>
      expect(await ours()).toEqual([
        `CustomResourceDefinition/${MIGRATIONS_CRD}`,
        `CustomResourceDefinition/${POLICIES_CRD}`,
        'NasMigrationPolicy/default',
      ]),
    );
    await record('helm', { uninstalledClean: true });
  });

  it('can be taken back by installing again, which finds the objects', async () => {
    const before = await inUse();
    await cluster.kubectl([
      'patch',
      'nasmigrationpolicy',
      'default',
      '--type=merge',
      '-p',
      '{"spec":{"suspend":true}}',
    ]);
    await cluster.helm.install(everything);
    expect(await inUse()).toEqual(before);
    // Also what somebody set in the policy that the chart made.
    const policy = await cluster.get<KubernetesObject & { spec?: { suspend?: boolean } }>(
      resources.nasMigrationPolicies,
      undefined,
      'default',
    );
    expect(policy?.spec?.suspend).toBe(true);
  });

  it('takes CRDs, and so all objects, only when asked', async () => {
    await cluster.helm.upgrade({ crds: { keep: false } });
    await cluster.helm.uninstall();
    await cluster.eventually(async () => {
      expect(await crd(MIGRATIONS_CRD)).toBeUndefined();
      expect(await crd(POLICIES_CRD)).toBeUndefined();
    });
    expect((await inUse())['vm']).toBeDefined();
    expect(await ours()).toEqual([]);
  });
});

describe("an administrator's own policy of the name default", () => {
  const ownPolicy = () =>
    cluster.get<KubernetesObject & { spec?: object }>(resources.nasMigrationPolicies, undefined, 'default');
  const spec = { injection: 'Enabled', defaults: { acceleration: 'Required' } };

  it('stays as it is when the chart is installed, upgraded and uninstalled', async () => {
    await cluster.helm.install({});
    await cluster.established(POLICIES_CRD);
    await cluster.api.create(resources.nasMigrationPolicies, {
      apiVersion: apiVersionOf(resources.nasMigrationPolicies),
      kind: resources.nasMigrationPolicies.kind,
      metadata: { name: 'default' },
      spec,
    } as KubernetesObject);
    const before = await ownPolicy();
    const same = async () => {
      const now = await ownPolicy();
      expect(now?.metadata?.uid).toBe(before?.metadata?.uid);
      expect(now?.spec).toEqual(before?.spec);
    };
    await cluster.helm.upgrade(everything);
    await same();
    await cluster.helm.uninstall();
    await same();
    expect(await cluster.helm.install(everything)).toContain('is left as it is');
    await same();
    expect(objectsOf(await cluster.helm.manifest()).map(({ kind }) => kind)).not.toContain(
      'NasMigrationPolicy',
    );
  });

  it('is one that the chart makes where there was none', async () => {
    await cluster.kubectl(['delete', 'nasmigrationpolicy', 'default']);
    await cluster.helm.upgrade(everything);
    expect((await ownPolicy())?.spec).toMatchObject({ defaults: { acceleration: 'Observe' } });
    await cluster.helm.upgrade({ crds: { keep: false } });
    await cluster.helm.uninstall();
    await cluster.eventually(async () => expect(await crd(POLICIES_CRD)).toBeUndefined());
    // And at the first installation, when its kind is not there yet.
    await cluster.helm.install({ defaultPolicy: { enabled: true } });
    expect((await ownPolicy())?.spec).toMatchObject({ defaults: { acceleration: 'Observe' } });
    await cluster.helm.upgrade({ crds: { keep: false } });
    await cluster.helm.uninstall();
    await cluster.eventually(async () => expect(await crd(POLICIES_CRD)).toBeUndefined());
  });
});

describe('without Helm', () => {
  it('the generated file is right by the schemas of the API server, for a tool that asks no cluster', async () => {
    const { definitions } = await cluster.api.call<{ definitions: Record<string, Schema> }>(
      'GET',
      '/openapi/v2',
    );
    const { template, kinds } = await writeSchemas(definitions, path.join(cluster.dir, 'schemas'));
    expect(kinds).toBeGreaterThan(100);
    const kubeconform = await ensureTool('kubeconform');
    const check = (file: string) =>
      run(kubeconform, ['-strict', '-summary', '-schema-location', template, file], { timeout: 60_000 });
    const file = path.join(repositoryRoot, manifestFile);
    const { stdout } = await check(file);
    expect(stdout).toMatch(/Valid: (\d+), Invalid: 0, Errors: 0, Skipped: 0/);
    const wrong = path.join(cluster.dir, 'wrong.yaml');
    await writeFile(wrong, (await readFile(file, 'utf8')).replace('  replicas: 2', '  replica: 2'));
    await expect(check(wrong)).rejects.toMatchObject({ stdout: expect.stringMatching(/replica/) });
  });

  it('the generated file is applied by kubectl, twice', async () => {
    const file = path.join(repositoryRoot, manifestFile);
    const first = await cluster.kubectl(['apply', '-f', file]);
    const objects = objectsOf(await readFile(file, 'utf8'));
    expect(first.trim().split('\n')).toHaveLength(objects.length);
    await cluster.established(POLICIES_CRD);
    await asTheOperator();
    const again = await cluster.kubectl(['apply', '-f', file]);
    expect(
      again
        .trim()
        .split('\n')
        .filter((line) => !line.endsWith(' unchanged')),
    ).toEqual([
      // Its selector is replaced as a whole, which kubectl calls a change.
      'poddisruptionbudget.policy/nas-aware-migration configured',
      // The operator's CA has replaced the empty Secret, and with it what kubectl noted.
      'secret/nas-aware-migration-authority configured',
    ]);
    expect(await whatTheOperatorWrote()).toEqual(['Y2E=', ['sidecar.nasmigration.io']]);
  });

  it('and on top of server-side apply', async () => {
    const file = path.join(repositoryRoot, manifestFile);
    await cluster.kubectl(['delete', '-f', file, '--wait=true', '--timeout=60s']);
    expect(await ours()).toEqual([]);
    await cluster.kubectl(['apply', '--server-side', '-f', file]);
    expect(await cluster.kubectl(['apply', '--server-side', '-f', file])).toContain('serverside-applied');
  });
});
