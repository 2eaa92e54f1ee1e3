// What the chart's templates make of its values. No cluster.

import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { V1Container, V1Deployment, V1Pod, V1Role, V1Service } from '@kubernetes/client-node';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { customResourceDefinitions } from '../../crds/definitions.ts';
import { nasMigrationPolicySchema } from '../../crds/nas-migration-policy.ts';
import {
  chartDirectory,
  generatedWithoutHelm,
  manifest,
  manifestFile,
  outdated,
} from '../../hack/ship/generate.ts';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { documentedValues } from '../../hack/ship/values-table.ts';
import { dashboards, grafanaDashboard } from '../../observability/dashboards/grafana.ts';
import { ruleFile } from '../../observability/rules/rule-file.ts';
import { LEADER_LABEL, LEADER_LABEL_VALUE } from '../../operator/leader/leader-label.ts';
import { clusterRules, namespaceRules, type PolicyRule } from '../../operator/permissions.ts';
import { settingsFrom } from '../../operator/settings.ts';
import { Helm, HelmError, NAMESPACE, objectOf, type Rendered, type Values } from './helm.ts';
import { record } from './report.ts';

const DIGEST = `sha256:${'0123456789abcdef'.repeat(4)}`;

let helm: Helm;
let objects: Rendered[];

beforeAll(async () => {
  helm = await Helm.start();
  objects = await helm.template();
});

let passed = 0;

afterEach(({ task }) => {
  if (task.result?.errors === undefined) passed += 1;
});

afterAll(async () => {
  await record('helm', { unitTests: passed });
  await helm?.close();
});

const deploymentOf = (rendered: readonly Rendered[]) =>
  objectOf(rendered, 'Deployment') as unknown as V1Deployment;

function containerOf(rendered: readonly Rendered[]): V1Container {
  const container = deploymentOf(rendered).spec?.template.spec?.containers[0];
  if (container === undefined) throw new Error('the Deployment has no container');
  return container;
}

/** What the operator reads, with what kubelet would put in for references to fields. */
function environmentOf(rendered: readonly Rendered[]): Record<string, string> {
  const fields: Record<string, string> = { 'metadata.namespace': NAMESPACE, 'metadata.name': 'pod-1' };
  return Object.fromEntries(
    (containerOf(rendered).env ?? []).map(({ name, value, valueFrom }) => [
      name,
      value ?? fields[valueFrom?.fieldRef?.fieldPath ?? ''] ?? '',
    ]),
  );
}

describe('generated files', () => {
  it('are what would be generated: the copies of the CRDs, the table of values, the manifest without Helm', async () => {
    const files = new Map([...(await generatedWithoutHelm()), [manifestFile, await manifest()]]);
    expect(files.size).toBe(7);
    expect(await outdated(files)).toEqual([]);
  });
});

describe('lint', () => {
  it('has nothing to say', async () => {
    expect(await helm.lint()).toContain('0 chart(s) failed');
    await record('helm', { lint: true });
  });
});

describe('values', () => {
  it('are all in the schema, and the schema has no others', async () => {
    const chart = path.join(repositoryRoot, 'charts/nas-aware-migration');
    const documented = documentedValues(await readFile(path.join(chart, 'values.yaml'), 'utf8')).map(
      (value) => value.path,
    );
    const schema = JSON.parse(await readFile(path.join(chart, 'values.schema.json'), 'utf8')) as Schema;
    interface Schema {
      properties?: Record<string, Schema>;
    }
    const isDocumented = (name: string) => documented.includes(name);
    const leaves = (node: Schema, prefix: string): string[] =>
      Object.entries(node.properties ?? {}).flatMap(([name, child]) => {
        const full = prefix === '' ? name : `${prefix}.${name}`;
        return child.properties === undefined || isDocumented(full) ? [full] : leaves(child, full);
      });
    // Helm itself puts `global` there.
    expect(
      leaves(schema, '')
        .filter((name) => name !== 'global')
        .sort(),
    ).toEqual(documented.toSorted());
  });

  it.each<[string, Values, RegExp]>([
    ['a name that is not there', { replicas: 2 }, /replicas/],
    ['a nested name that is not there', { image: { sha: 'x' } }, /sha/],
    ['no replica', { replicaCount: 0 }, /replicaCount/],
    ['a digest that is none', { image: { digest: 'sha256:abc' } }, /digest/],
    ['an image with its tag', { image: { repository: 'a/b:c:' } }, /repository/],
    ['a log level that is none', { operator: { logLevel: 'verbose' } }, /logLevel/],
    ['a quantity that is none', { sidecar: { memory: '256 MB' } }, /memory/],
    ['a switch that is text', { crds: { keep: 'false' } }, /keep/],
    ['a port that is none', { networkPolicy: { apiServerPorts: [0] } }, /apiServerPorts/],
    ['an interval without a unit', { podMonitor: { interval: '30' } }, /interval/],
    ['an alert that cannot be', { prometheusRule: { disabledAlerts: ['Node'] } }, /disabledAlerts/],
    ['a label that is a number', { dashboards: { labels: { grafana_dashboard: 1 } } }, /grafana_dashboard/],
    ['an issuer without a name', { certManager: { issuerRef: { kind: 'ClusterIssuer' } } }, /issuerRef/],
    ['an alert that is none', { prometheusRule: { disabledAlerts: ['NasMigrationNone'] } }, /disabledAlerts/],
    ['runbooks that are no address', { prometheusRule: { runbookBaseUrl: 'docs' } }, /runbookBaseUrl/],
    [
      'a certificate that is always to be renewed',
      { certManager: { enabled: true, duration: '720h', renewBefore: '720h' } },
      /renewBefore 720h is not less/,
    ],
    ['a sidecar without room', { sidecar: { memory: '100Mi' } }, /at the least/],
    ['an index as large as its sidecar', { sidecar: { indexMemory: '256Mi' } }, /is no part of/],
    ['an operator without room', { resources: { limits: { memory: '128Mi' } } }, /needs 192Mi/],
    ['a limit that is none', { resources: { limits: { memory: '1e3Mi' } } }, /memory/],
    [
      'a label that the Deployment selects by',
      { podLabels: { 'app.kubernetes.io/component': 'x' } },
      /podLabels/,
    ],
    ['a peer that is none', { networkPolicy: { metricsFrom: [{ namespace: 'x' }] } }, /metricsFrom/],
  ])('are refused: %s', async (_what, values, names) => {
    await expect(helm.template(values)).rejects.toThrow(names);
    await expect(helm.template(values)).rejects.toBeInstanceOf(HelmError);
  });
});

it('the schema knows every alert, and no other', async () => {
  const file = path.join(repositoryRoot, 'charts/nas-aware-migration/values.schema.json');
  const { properties } = JSON.parse(await readFile(file, 'utf8')) as {
    properties: { prometheusRule: { properties: { disabledAlerts: { items: { enum: string[] } } } } };
  };
  const known = properties.prometheusRule.properties.disabledAlerts.items.enum;
  const alerts = ruleFile().groups.flatMap(({ rules }) =>
    rules.flatMap((rule) => ('alert' in rule ? [rule.alert] : [])),
  );
  expect(known).toEqual(alerts.toSorted());
});

describe('operator Deployment', () => {
  it('is what restricted pod security asks for, with a read-only root and bounded memory', () => {
    const pod = deploymentOf(objects).spec?.template.spec;
    expect(pod?.securityContext).toMatchObject({
      runAsNonRoot: true,
      runAsUser: 65532,
      seccompProfile: { type: 'RuntimeDefault' },
    });
    expect(containerOf(objects).securityContext).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
    expect(containerOf(objects).resources).toMatchObject({
      requests: { cpu: '50m', memory: '256Mi' },
      limits: { memory: '512Mi' },
    });
    expect(pod?.volumes).toBeUndefined();
  });

  it('has half of its memory for what it remembers', async () => {
    const heapWith = async (memory: string | null) =>
      containerOf(await helm.template({ resources: { limits: { memory } } })).args?.filter((argument) =>
        argument.startsWith('--max-old-space-size='),
      );
    expect(await heapWith('512Mi')).toEqual(['--max-old-space-size=256']);
    expect(await heapWith('4Gi')).toEqual(['--max-old-space-size=2048']);
    expect(await heapWith('2G')).toEqual(['--max-old-space-size=953']);
    expect(await heapWith(null)).toEqual([]);
  });

  it('leaves its user to a cluster that chooses one', async () => {
    const values = { podSecurityContext: { runAsUser: null, runAsGroup: null, fsGroup: null } };
    const left = { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } };
    const rendered = await helm.template(values);
    expect(deploymentOf(rendered).spec?.template.spec?.securityContext).toEqual(left);
    const test = objectOf(rendered, 'Pod', 'nas-aware-migration-test') as unknown as V1Pod;
    expect(test.spec?.securityContext).toEqual(left);
  });

  it('has two replicas on different nodes, one of which a drain leaves', () => {
    const { spec } = deploymentOf(objects);
    expect(spec?.replicas).toBe(2);
    const selector = spec?.selector.matchLabels;
    const term =
      spec?.template.spec?.affinity?.podAntiAffinity?.preferredDuringSchedulingIgnoredDuringExecution?.[0];
    expect(term?.podAffinityTerm).toEqual({
      topologyKey: 'kubernetes.io/hostname',
      labelSelector: { matchLabels: selector },
    });
    expect(objectOf(objects, 'PodDisruptionBudget')['spec']).toMatchObject({
      maxUnavailable: 1,
      selector: { matchLabels: selector },
    });
    expect(spec?.template.metadata?.labels).toMatchObject(selector ?? { none: '' });
  });

  it('gives the operator settings that it takes', () => {
    const settings = settingsFrom(environmentOf(objects));
    expect(settings).toMatchObject({
      namespace: NAMESPACE,
      podName: 'pod-1',
      hubUrl: `wss://nas-aware-migration-hub.${NAMESPACE}.svc:8443`,
      webhookService: 'nas-aware-migration-webhook',
      webhookUrl: undefined,
      kubevirtUser: 'system:serviceaccount:kubevirt:kubevirt-controller',
      injection: true,
      workers: 4,
    });
    expect(settings.sidecar).toEqual({
      image: 'nas-aware-migration:0.1.0',
      cpu: '100m',
      memory: '256Mi',
      indexMemory: '64Mi',
    });
    expect(settings.sharedFileSystemDrivers).toContain('nfs.csi.k8s.io');
  });

  it('sets all that the operator can be told, but for what only tests change', () => {
    const environment = {
      ...environmentOf(objects),
      NASMIG_SHARED_DRIVERS: 'nfs',
      NASMIG_WEBHOOK_CERTIFICATE_DIR: '/etc/webhook-certificate',
    };
    const asked = new Set<string>();
    const watched = new Proxy<NodeJS.ProcessEnv>(environment, {
      get(target, name) {
        if (typeof name === 'string' && name.startsWith('NASMIG_')) asked.add(name);
        return Reflect.get(target, name);
      },
    });
    settingsFrom(watched);
    const onlyInTests = ['NASMIG_LEASE_SECONDS', 'NASMIG_LISTEN_HOST', 'NASMIG_WEBHOOK_URL'];
    expect([...asked].sort()).toEqual([...Object.keys(environment), ...onlyInTests].sort());
  });

  it('takes every setting from values', async () => {
    const rendered = await helm.template({
      image: { repository: 'registry.example:5000/team/nasmig', digest: DIGEST, tag: 'ignored' },
      replicaCount: 3,
      operator: {
        logLevel: 'debug',
        workers: 2,
        nasReadPermits: 0,
        sharedFileSystemDrivers: ['nfs', 'a.example.org'],
      },
      injection: { enabled: false },
      kubevirt: { namespace: 'cnv', controllerServiceAccount: 'kv' },
      sidecar: { cpu: '200m', memory: '1Gi', indexMemory: '512Mi' },
      nodeSelector: { role: 'infra' },
      tolerations: [{ key: 'infra', operator: 'Exists' }],
      priorityClassName: 'system-cluster-critical',
      imagePullSecrets: [{ name: 'pull' }],
      podLabels: { team: 'virt' },
      podAnnotations: { note: 'here' },
      serviceAccount: { name: 'other', annotations: { a: 'b' } },
      affinity: { nodeAffinity: {} },
    });
    expect(settingsFrom(environmentOf(rendered))).toMatchObject({
      injection: false,
      workers: 2,
      nasReadPermits: 0,
      logLevel: 'debug',
      kubevirtUser: 'system:serviceaccount:cnv:kv',
      sharedFileSystemDrivers: ['nfs', 'a.example.org'],
      sidecar: {
        image: `registry.example:5000/team/nasmig@${DIGEST}`,
        cpu: '200m',
        memory: '1Gi',
        indexMemory: '512Mi',
      },
    });
    const { spec } = deploymentOf(rendered);
    expect(spec?.replicas).toBe(3);
    expect(spec?.template.metadata).toMatchObject({
      labels: { team: 'virt' },
      annotations: { note: 'here' },
    });
    expect(spec?.template.spec).toMatchObject({
      nodeSelector: { role: 'infra' },
      tolerations: [{ key: 'infra', operator: 'Exists' }],
      priorityClassName: 'system-cluster-critical',
      imagePullSecrets: [{ name: 'pull' }],
      serviceAccountName: 'other',
      affinity: { nodeAffinity: {} },
    });
    expect(containerOf(rendered).image).toBe(`registry.example:5000/team/nasmig@${DIGEST}`);
    expect(objectOf(rendered, 'ServiceAccount', 'other').metadata?.annotations).toEqual({ a: 'b' });
    for (const kind of ['ClusterRoleBinding', 'RoleBinding']) {
      expect(objectOf(rendered, kind)['subjects']).toEqual([
        { kind: 'ServiceAccount', name: 'other', namespace: NAMESPACE },
      ]);
    }
    expect(rendered.some(({ kind }) => kind === 'MutatingWebhookConfiguration')).toBe(false);
  });
});

describe('permissions', () => {
  const normal = (rules: readonly PolicyRule[]) =>
    rules.map((rule) => JSON.stringify(rule, Object.keys(rule).sort()));

  it('are exactly what the operator says it needs', () => {
    const cluster = objectOf(objects, 'ClusterRole') as unknown as V1Role;
    const own = objectOf(objects, 'Role') as unknown as V1Role;
    expect(normal(cluster.rules as PolicyRule[]).sort()).toEqual(normal(clusterRules).sort());
    expect(normal(own.rules as PolicyRule[]).sort()).toEqual(normal(namespaceRules).sort());
  });

  it('have a reason above every rule', async () => {
    for (const name of ['clusterrole.yaml', 'role.yaml']) {
      const file = path.join(repositoryRoot, 'charts/nas-aware-migration/templates', name);
      const lines = (await readFile(file, 'utf8')).split('\n');
      const rules = lines.flatMap((line, index) => (line.startsWith('  - apiGroups:') ? [index] : []));
      expect(rules.length).toBeGreaterThan(3);
      for (const index of rules) {
        // A creation and its change by name share one reason.
        const before = lines[index - 1]?.trim() ?? '';
        expect(before.startsWith('#') || before === 'verbs: [create]', `${name} line ${index + 1}`).toBe(
          true,
        );
      }
    }
  });

  it('let nobody migrate but whom somebody binds, unless asked to', async () => {
    const aggregation = (rendered: Rendered[], name: string) =>
      Object.keys(objectOf(rendered, 'ClusterRole', name).metadata?.labels ?? {}).filter((label) =>
        label.startsWith('rbac.authorization.k8s.io/aggregate-to-'),
      );
    expect(aggregation(objects, 'nas-aware-migration-migrate')).toEqual([]);
    expect(aggregation(objects, 'nas-aware-migration-view')).toHaveLength(3);
    const asked = await helm.template({ rbac: { aggregateMigrate: true } });
    expect(aggregation(asked, 'nas-aware-migration-migrate')).toHaveLength(2);
  });

  it('can be left to somebody else', async () => {
    const kinds = new Set(
      (
        await helm.template({ rbac: { create: false, aggregate: false }, serviceAccount: { create: false } })
      ).map(({ kind }) => kind),
    );
    for (const kind of ['ClusterRole', 'ClusterRoleBinding', 'Role', 'RoleBinding', 'ServiceAccount'])
      expect(kinds).not.toContain(kind);
  });
});

interface Policy {
  spec: Record<'ingress' | 'egress', { from?: unknown; to?: unknown; ports: { port: unknown }[] }[]> & {
    policyTypes: string[];
  };
}

describe('Services and NetworkPolicy', () => {
  it('lead to ports that the container has', () => {
    const ports = new Set(containerOf(objects).ports?.map(({ name }) => name));
    const services = objects.filter(({ kind }) => kind === 'Service') as unknown as V1Service[];
    expect(services.map(({ metadata }) => metadata?.name).sort()).toEqual([
      'nas-aware-migration-hub',
      'nas-aware-migration-metrics',
      'nas-aware-migration-webhook',
    ]);
    // `helm test` looks for pods that are not ready behind the metrics Service, and Prometheus scrapes them.
    expect(
      services.filter(({ spec }) => spec?.publishNotReadyAddresses).map(({ metadata }) => metadata?.name),
    ).toEqual(['nas-aware-migration-metrics']);
    const labels = deploymentOf(objects).spec?.template.metadata?.labels;
    for (const service of services) {
      for (const { targetPort } of service.spec?.ports ?? []) expect(ports).toContain(targetPort);
      const { [LEADER_LABEL]: leader, ...selector } = service.spec?.selector ?? { none: '' };
      expect(labels).toMatchObject(selector);
      expect(leader).toBe(
        service.metadata?.name === 'nas-aware-migration-hub' ? LEADER_LABEL_VALUE : undefined,
      );
    }
  });

  it('let in launcher pods, the API server and Prometheus, and out only to the API server and DNS', async () => {
    const policy = objectOf(objects, 'NetworkPolicy') as unknown as Policy;
    expect(policy.spec.policyTypes).toEqual(['Ingress', 'Egress']);
    expect(policy.spec.ingress).toEqual([
      {
        ports: [{ port: 'hub', protocol: 'TCP' }],
        from: [{ namespaceSelector: {}, podSelector: { matchLabels: { 'kubevirt.io': 'virt-launcher' } } }],
      },
      { ports: [{ port: 'webhook', protocol: 'TCP' }] },
      { ports: [{ port: 'metrics', protocol: 'TCP' }], from: [{ namespaceSelector: {} }] },
    ]);
    expect(policy.spec.egress.map(({ ports }) => ports.map(({ port }) => port))).toEqual([
      [443, 6443],
      [53, 53],
    ]);
    const openshift = {
      namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'openshift-dns' } },
    };
    const elsewhere = objectOf(
      await helm.template({ networkPolicy: { dnsTo: [openshift], dnsPorts: [5353] } }),
      'NetworkPolicy',
    ) as unknown as Policy;
    expect(elsewhere.spec.egress[1]).toEqual({
      to: [openshift],
      ports: [
        { port: 5353, protocol: 'UDP' },
        { port: 5353, protocol: 'TCP' },
      ],
    });
    const apiServer = { ipBlock: { cidr: '10.0.0.0/24' } };
    const prometheus = { namespaceSelector: { matchLabels: { name: 'monitoring' } } };
    const narrow = objectOf(
      await helm.template({
        networkPolicy: { webhookFrom: [apiServer], apiServerTo: [apiServer], metricsFrom: [prometheus] },
      }),
      'NetworkPolicy',
    ) as unknown as Policy;
    expect(narrow.spec.ingress.slice(1).map(({ from }) => from)).toEqual([[apiServer], [prometheus]]);
    expect(narrow.spec.egress[0]?.to).toEqual([apiServer]);
  });
});

describe('CustomResourceDefinitions', () => {
  it('are those of crds/, kept at uninstalling unless asked otherwise', async () => {
    const rendered = objects.filter(({ kind }) => kind === 'CustomResourceDefinition');
    expect(rendered).toHaveLength(2);
    for (const definition of rendered) {
      expect(definition.metadata?.annotations).toEqual({ 'helm.sh/resource-policy': 'keep' });
      const source = [...customResourceDefinitions().values()].find(
        ({ metadata }) => metadata?.name === definition.metadata?.name,
      );
      expect(definition['spec']).toEqual(JSON.parse(JSON.stringify(source?.spec)));
    }
    const unkept = await helm.template({ crds: { keep: false } });
    for (const definition of unkept.filter(({ kind }) => kind === 'CustomResourceDefinition'))
      expect(definition.metadata?.annotations).toBeUndefined();
    const without = await helm.template({ crds: { enabled: false } });
    expect(without.some(({ kind }) => kind === 'CustomResourceDefinition')).toBe(false);
  });
});

describe('what is off unless asked', () => {
  it('is the default policy, which then only observes', async () => {
    expect(objects.some(({ kind }) => kind === 'NasMigrationPolicy')).toBe(false);
    const policy = objectOf(
      await helm.template({ defaultPolicy: { enabled: true } }),
      'NasMigrationPolicy',
      'default',
    );
    const { spec } = nasMigrationPolicySchema.parse({ spec: policy['spec'] });
    expect(spec).toMatchObject({
      injection: 'Enabled',
      suspend: false,
      defaults: { acceleration: 'Observe' },
    });
    // A part of the release from the first upgrade on.
    expect(policy.metadata?.annotations).toMatchObject({
      'helm.sh/hook': 'post-install',
      'helm.sh/hook-delete-policy': 'hook-failed',
    });
    const upgraded = await helm.template({ defaultPolicy: { enabled: true } }, '--is-upgrade');
    expect(objectOf(upgraded, 'NasMigrationPolicy', 'default').metadata?.annotations).toEqual({
      'helm.sh/resource-policy': 'keep',
      'meta.helm.sh/release-name': 'nas-aware-migration',
      'meta.helm.sh/release-namespace': NAMESPACE,
    });
  });

  it('is the ServiceMonitor, which selects the metrics Service', async () => {
    expect(objects.some(({ kind }) => kind === 'ServiceMonitor')).toBe(false);
    const rendered = await helm.template({ serviceMonitor: { enabled: true, labels: { release: 'prom' } } });
    const monitor = objectOf(rendered, 'ServiceMonitor');
    expect(monitor.metadata?.labels).toMatchObject({ release: 'prom' });
    const { selector, endpoints } = monitor['spec'] as {
      selector: { matchLabels: Record<string, string> };
      endpoints: { port: string }[];
    };
    const selected = rendered.filter(
      (object) =>
        object.kind === 'Service' &&
        Object.entries(selector.matchLabels).every(
          ([name, value]) => object.metadata?.labels?.[name] === value,
        ),
    ) as unknown as V1Service[];
    expect(selected.map(({ metadata }) => metadata?.name)).toEqual(['nas-aware-migration-metrics']);
    expect(selected[0]?.spec?.ports?.map(({ name }) => name)).toEqual(endpoints.map(({ port }) => port));
  });

  it('is the PodMonitor, which selects the operator’s pods, and is no second way beside the ServiceMonitor', async () => {
    expect(objects.some(({ kind }) => kind === 'PodMonitor')).toBe(false);
    const rendered = await helm.template({ podMonitor: { enabled: true, interval: '10s' } });
    const { selector, podMetricsEndpoints } = objectOf(rendered, 'PodMonitor')['spec'] as {
      selector: { matchLabels: Record<string, string> };
      podMetricsEndpoints: object[];
    };
    expect(deploymentOf(rendered).spec?.template.metadata?.labels).toMatchObject(selector.matchLabels);
    // Without honorLabels the VM's namespace would be called exported_namespace.
    expect(podMetricsEndpoints).toEqual([{ port: 'metrics', interval: '10s', honorLabels: true }]);
    await expect(
      helm.template({ podMonitor: { enabled: true }, serviceMonitor: { enabled: true } }),
    ).rejects.toThrow('choose one');
  });

  it('are the dashboards, one ConfigMap each, where Grafana looks for them', async () => {
    const ofDashboards = (rendered: readonly Rendered[]) =>
      rendered.filter(({ kind, metadata }) => kind === 'ConfigMap' && metadata?.name?.endsWith('-dashboard'));
    expect(ofDashboards(objects)).toEqual([]);
    const rendered = ofDashboards(
      await helm.template({
        dashboards: {
          enabled: true,
          namespace: 'monitoring',
          labels: { dashboards: 'yes' },
          annotations: { grafana_folder: 'KubeVirt' },
        },
      }),
    );
    expect(rendered).toHaveLength(dashboards.length);
    for (const dashboard of dashboards) {
      const map = objectOf(rendered, 'ConfigMap', `${dashboard.name}-dashboard`);
      expect(map.metadata).toMatchObject({
        namespace: 'monitoring',
        labels: { dashboards: 'yes', grafana_dashboard: '1' },
        annotations: { grafana_folder: 'KubeVirt' },
      });
      const data = map['data'] as Record<string, string>;
      expect(JSON.parse(data[`${dashboard.name}.json`] ?? '')).toEqual(grafanaDashboard(dashboard));
    }
  });

  it('is cert-manager, whose certificate is mounted where the operator is told to read it', async () => {
    expect(objects.some(({ kind }) => kind === 'Certificate')).toBe(false);
    expect(settingsFrom(environmentOf(objects)).webhookCertificateDir).toBeUndefined();
    const rendered = await helm.template({ certManager: { enabled: true } });
    const directory = settingsFrom(environmentOf(rendered)).webhookCertificateDir;
    const [mount] = containerOf(rendered).volumeMounts ?? [];
    expect(mount).toMatchObject({ mountPath: directory, readOnly: true });
    const volume = deploymentOf(rendered).spec?.template.spec?.volumes?.find(
      ({ name }) => name === mount?.name,
    );
    const certificate = objectOf(rendered, 'Certificate', 'nas-aware-migration-webhook')['spec'] as {
      secretName: string;
      dnsNames: string[];
      issuerRef: { name: string };
    };
    expect(volume?.secret?.secretName).toBe(certificate.secretName);
    expect(certificate.dnsNames).toContain(`nas-aware-migration-webhook.${NAMESPACE}.svc`);
    // Its issuer is there, too, and has an authority that signed itself.
    const issuer = objectOf(rendered, 'Issuer', certificate.issuerRef.name)['spec'];
    const authority = objectOf(rendered, 'Certificate', 'nas-aware-migration-webhook-authority')['spec'];
    expect(issuer).toEqual({ ca: { secretName: (authority as { secretName: string }).secretName } });
    expect(authority).toMatchObject({ isCA: true, issuerRef: { name: 'nas-aware-migration-self-signed' } });
    const theirs = await helm.template({
      certManager: { enabled: true, issuerRef: { name: 'company', kind: 'ClusterIssuer' } },
    });
    expect(theirs.filter(({ kind }) => kind === 'Issuer')).toEqual([]);
    expect(objectOf(theirs, 'Certificate', 'nas-aware-migration-webhook')['spec']).toMatchObject({
      issuerRef: { name: 'company', kind: 'ClusterIssuer' },
    });
    const without = await helm.template({ certManager: { enabled: true }, injection: { enabled: false } });
    expect(without.some(({ kind }) => kind === 'Certificate')).toBe(false);
    expect(settingsFrom(environmentOf(without)).webhookCertificateDir).toBeUndefined();
  });
});

describe('NOTES.txt', () => {
  it('says the next command', async () => {
    // Helm prints the notes of an installation; a dry run on the client needs no cluster.
    const notes = async (values: Values) =>
      helm.run(
        ['install', 'x', chartDirectory, '--dry-run=client', '--namespace', NAMESPACE, '-f', '-'],
        values,
      );
    expect(await notes({})).toMatch(/NOTES:[\s\S]*rollout status deployment[\s\S]*kubectl apply -f -/);
    const withPolicy = await notes({ defaultPolicy: { enabled: true } });
    expect(withPolicy).toContain('acceleration: Observe');
    expect(withPolicy).toMatch(/NOTES:[\s\S]*kubectl get nasawaremigrations -A/);
  });
});
