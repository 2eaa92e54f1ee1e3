// What must be so for migrations to be accelerated, one check each: what is the case, and what to do when it is not. From facts
// alone, so that every line has a unit test. Pure.

import { X509Certificate } from 'node:crypto';
import type { V1Pod } from '@kubernetes/client-node';
import { checked } from '../../control/checked.ts';
import { nasMigrationPolicyStatusSchema } from '../../crds/nas-migration-policy.ts';
import { attemptOf } from '../../operator/controller/attempts.ts';
import { clusterBreaker, vmBreaker } from '../../operator/controller/breaker.ts';
import { configurationProblem } from '../../operator/controller/eligibility.ts';
import { readPolicy } from '../../operator/controller/policies.ts';
import { usableVolumes } from '../../operator/controller/volumes.ts';
import {
  controllingVmi,
  hasSidecar,
  isOver,
  SIDECAR_CONTAINER,
} from '../../operator/kubevirt/launcher-pod.ts';
import type { Vmi } from '../../operator/kubevirt/objects.ts';
import { LEADER_LABEL, LEADER_LABEL_VALUE } from '../../operator/leader/leader-label.ts';
import { OPERATOR_NAME, operatorLabels, sharedDriversOf } from '../cluster/installation.ts';
import { resolvedConfiguration } from '../cluster/kubevirt-settings.ts';
import { labelsOfNamespace, mayBeUsable, policyFor } from '../cluster/vms.ts';
import { duration } from '../output/sizes.ts';
import type { Facts } from './facts.ts';
import { type Endpoint, egress, egressToDns, ingress, type Passage } from './network-policies.ts';

export interface Finding {
  check: string;
  /** `unknown`: it could not be seen, and the message says why. */
  status: 'ok' | 'warning' | 'failed' | 'unknown';
  message: string;
  /** What to do; absent where nothing is to be done. */
  remedy?: string;
}

/** First minor version with native sidecars (operator/injection/kubernetes-version.ts). */
const MIN_KUBERNETES_MINOR = 29;
/** What docs/ state as read against KubeVirt's sources. */
const MIN_KUBEVIRT = [1, 3] as const;
const MAX_KUBEVIRT = [1, 9] as const;
const HUB_PORT = 8443;
/** A lease that was not renewed for this long has no holder that works. */
const LEASE_GRACE_MS = 60_000;
const CERTIFICATE_WARNING_MS = 3 * 86_400_000;
/** Names in one line; the rest is counted. */
const MAX_NAMES = 5;

type Check = (facts: Facts) => Finding[];

/** All checks, in the order in which one would look. */
export const checks: readonly Check[] = [
  kubernetes,
  kubevirt,
  definitions,
  operator,
  leader,
  injection,
  certificate,
  policiesCheck,
  sharedStorage,
  sidecars,
  sidecarVersions,
  hub,
  networkPolicy,
  postCopy,
  compression,
  bandwidth,
  rootVms,
  breaker,
];

export function diagnose(facts: Facts): Finding[] {
  return checks.flatMap((check) => check(facts));
}

const ok = (check: string, message: string): Finding => ({ check, status: 'ok', message });
const warning = (check: string, message: string, remedy: string): Finding => ({
  check,
  status: 'warning',
  message,
  remedy,
});
const failed = (check: string, message: string, remedy: string): Finding => ({
  check,
  status: 'failed',
  message,
  remedy,
});

function unknown(check: string, { why }: { why: string }, what: string): Finding {
  return {
    check,
    status: 'unknown',
    message: `${what} could not be read: ${why}`,
    remedy: 'Run it as somebody who may read it (--as, --context), or ask them.',
  };
}

function named(names: readonly string[]): string {
  const unique = [...new Set(names)];
  const shown = unique.slice(0, MAX_NAMES).join(', ');
  return unique.length > MAX_NAMES ? `${shown} and ${unique.length - MAX_NAMES} more` : shown;
}

const titleOf = ({ metadata }: Pick<Vmi, 'metadata'>) => `${metadata.namespace}/${metadata.name}`;

function running({ vmis }: Facts): Vmi[] {
  return vmis.known ? vmis.value.filter(({ status }) => status.phase === 'Running') : [];
}

function kubernetes({ kubernetesVersion }: Facts): Finding[] {
  const check = 'Kubernetes version';
  if (!kubernetesVersion.known) return [unknown(check, kubernetesVersion, 'the version')];
  const { major, minor, gitVersion } = kubernetesVersion.value;
  const isNew = Number(major) > 1 || Number.parseInt(minor, 10) >= MIN_KUBERNETES_MINOR;
  return [
    isNew
      ? ok(check, `${gitVersion} has native sidecars`)
      : failed(
          check,
          `${gitVersion} has no native sidecars, so that nothing is injected`,
          `Upgrade Kubernetes to 1.${MIN_KUBERNETES_MINOR} or later.`,
        ),
  ];
}

function kubevirt({ kubeVirts }: Facts): Finding[] {
  const check = 'KubeVirt version';
  if (!kubeVirts.known)
    return [
      kubeVirts.missing
        ? failed(
            check,
            'KubeVirt is not installed',
            'Install KubeVirt 1.3 to 1.9, or choose another cluster with --context.',
          )
        : unknown(check, kubeVirts, 'the KubeVirt object'),
    ];
  const [one] = kubeVirts.value;
  if (one === undefined)
    return [
      failed(
        check,
        'there is no KubeVirt object: KubeVirt is not deployed',
        'Create one, see the KubeVirt installation guide.',
      ),
    ];
  const version = one.status.observedKubeVirtVersion ?? one.status.operatorVersion;
  const findings: Finding[] = [];
  const parsed = /^v?(\d+)\.(\d+)/.exec(version ?? '');
  if (parsed === null)
    findings.push({
      check,
      status: 'unknown',
      message: `KubeVirt says no version that can be read (${version ?? 'none'})`,
      remedy:
        'Look at .status.observedKubeVirtVersion of the KubeVirt object; 1.3 to 1.9 are what the code was written for.',
    });
  else {
    const order = Number(parsed[1]) * 1000 + Number(parsed[2]);
    const inRange =
      order >= MIN_KUBEVIRT[0] * 1000 + MIN_KUBEVIRT[1] && order <= MAX_KUBEVIRT[0] * 1000 + MAX_KUBEVIRT[1];
    findings.push(
      inRange
        ? ok(check, `${version}`)
        : warning(
            check,
            `${version} is outside 1.3 to 1.9, which is what the code was written for`,
            'Begin with acceleration Observe and read the records; report what differs.',
          ),
    );
  }
  if (one.status.phase !== 'Deployed')
    findings.push(
      warning(
        check,
        `KubeVirt is ${one.status.phase ?? 'without a phase'}, not Deployed`,
        'Look at the conditions of the KubeVirt object.',
      ),
    );
  return findings;
}

function definitions({ policies, migrations }: Facts): Finding[] {
  const check = 'Custom resources';
  for (const [what, known] of [
    ['NasAwareMigration', migrations],
    ['NasMigrationPolicy', policies],
  ] as const) {
    if (known.known) continue;
    return [
      known.missing
        ? failed(
            check,
            `the API server has no ${what}`,
            'Install the chart with crds.enabled (docs/install.md).',
          )
        : unknown(check, known, what),
    ];
  }
  return [ok(check, 'NasAwareMigration and NasMigrationPolicy are installed')];
}

function operator({ installation }: Facts): Finding[] {
  const check = 'Operator';
  if (!installation.known) return [unknown(check, installation, "the operator's Deployment")];
  const found = installation.value;
  if (found === undefined)
    return [
      failed(
        check,
        `no Deployment ${OPERATOR_NAME} was found`,
        'Install the chart (docs/install.md); --operator-namespace says where to look.',
      ),
    ];
  const wanted = found.deployment.spec?.replicas ?? 1;
  const ready = found.deployment.status?.readyReplicas ?? 0;
  const where = `in namespace ${found.namespace}`;
  if (ready === 0)
    return [
      failed(
        check,
        `none of ${wanted} pods is ready ${where}: migrations are plain, and objects stay Pending`,
        `kubectl -n ${found.namespace} describe deployment/${OPERATOR_NAME}; kubectl -n ${found.namespace} logs deployment/${OPERATOR_NAME}`,
      ),
    ];
  if (ready < wanted)
    return [
      warning(
        check,
        `${ready} of ${wanted} pods are ready ${where}`,
        `kubectl -n ${found.namespace} get pods -l app.kubernetes.io/name=${OPERATOR_NAME}`,
      ),
    ];
  if (wanted < 2)
    return [
      warning(
        check,
        `one pod alone ${where}: nobody takes over when its node goes`,
        'Set replicaCount to 2 or more.',
      ),
    ];
  return [ok(check, `${ready} of ${wanted} pods are ready ${where}`)];
}

function leader({ lease, operatorPods, nowMs }: Facts): Finding[] {
  const check = 'Leader';
  if (!lease.known) return [unknown(check, lease, "the operator's Lease")];
  const holder = lease.value?.spec?.holderIdentity ?? '';
  if (holder === '')
    return [
      failed(
        check,
        'no operator pod leads, so that nothing is accelerated',
        "Read the operator's log: it says why it does not get the Lease.",
      ),
    ];
  const renewed = Date.parse(String(lease.value?.spec?.renewTime ?? ''));
  if (nowMs - renewed > LEASE_GRACE_MS)
    return [
      failed(
        check,
        `the leader ${holder} has not renewed its Lease for ${duration(nowMs - renewed)}`,
        "Read the operator's log; delete its pod if it hangs.",
      ),
    ];
  if (!operatorPods.known) return [ok(check, holder)];
  const labelled = operatorPods.value.filter(
    ({ metadata }) => metadata?.labels?.[LEADER_LABEL] === LEADER_LABEL_VALUE,
  );
  if (labelled.length === 1) return [ok(check, holder)];
  return [
    failed(
      check,
      labelled.length === 0
        ? `no pod carries the label ${LEADER_LABEL}, by which sidecars find the leader`
        : `${labelled.length} pods carry the label ${LEADER_LABEL}: sidecars may reach the wrong one`,
      "The leader sets it within a minute; if it stays so, read the operator's log (it needs to patch its own pods).",
    ),
  ];
}

function injection(facts: Facts): Finding[] {
  const check = 'Injection';
  const { webhook, installation, policies } = facts;
  if (!webhook.known) return [unknown(check, webhook, 'the MutatingWebhookConfiguration')];
  if (installation.known && installation.value?.environment['NASMIG_INJECTION'] === 'false')
    return [
      warning(
        check,
        'injection is off in the chart (injection.enabled): new pods get no sidecar',
        'Set injection.enabled to true, unless that is meant.',
      ),
    ];
  const [one] = webhook.value?.webhooks ?? [];
  if (one === undefined || (one.clientConfig.caBundle ?? '') === '')
    return [
      failed(
        check,
        webhook.value === undefined
          ? 'the webhook is not registered: new pods get no sidecar'
          : 'the webhook configuration is empty: the operator has not written it',
        "Read the operator's log, and the Injecting condition of the NasMigrationPolicies.",
      ),
    ];
  const findings: Finding[] = [];
  if (one.failurePolicy !== 'Ignore')
    findings.push(
      warning(
        check,
        `the webhook's failurePolicy is ${one.failurePolicy}: VMs do not start when the operator is away`,
        'Somebody changed it; delete the webhook configuration, the operator writes it anew.',
      ),
    );
  for (const object of policies.known ? policies.value : []) {
    const status = checked(nasMigrationPolicyStatusSchema, object.status ?? {});
    const condition = status.success
      ? status.data.conditions?.find(({ type, status: value }) => type === 'Injecting' && value === 'False')
      : undefined;
    if (condition !== undefined && condition.reason !== 'Disabled')
      findings.push(
        failed(
          check,
          `policy ${object.metadata?.name}: ${condition.message}`,
          'Do what the message says; a stop by quota ends by itself after half an hour.',
        ),
      );
  }
  return findings.length > 0
    ? findings
    : [ok(check, 'the webhook is registered, with failure policy Ignore')];
}

function certificate({ webhook, nowMs }: Facts): Finding[] {
  const check = 'Certificate';
  if (!webhook.known) return [];
  const bundle = webhook.value?.webhooks?.[0]?.clientConfig.caBundle;
  if (bundle === undefined || bundle === '') return [];
  const pem = Buffer.from(bundle, 'base64').toString('utf8');
  const ends = (pem.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? []).flatMap(
    (one) => {
      try {
        return [new X509Certificate(one).validToDate.getTime()];
      } catch {
        return [];
      }
    },
  );
  if (ends.length === 0)
    return [
      failed(
        check,
        "the webhook's CA bundle holds no certificate",
        'Restart the operator, it writes it anew.',
      ),
    ];
  const last = Math.max(...ends);
  const day = new Date(last).toISOString().slice(0, 10);
  if (last < nowMs)
    return [
      failed(
        check,
        `the operator's CA ended on ${day}: nobody can connect`,
        'Restart the operator and read its log: it should have renewed it.',
      ),
    ];
  if (last - nowMs < CERTIFICATE_WARNING_MS)
    return [
      warning(
        check,
        `the operator's CA ends on ${day}`,
        'The operator renews it by itself; read its log if it does not.',
      ),
    ];
  return [ok(check, `the operator's CA is good until ${day}`)];
}

function policiesCheck(facts: Facts): Finding[] {
  const check = 'Policies';
  const { policies } = facts;
  if (!policies.known) return policies.missing ? [] : [unknown(check, policies, 'NasMigrationPolicies')];
  if (policies.value.length === 0)
    return [
      failed(
        check,
        'there is no NasMigrationPolicy: no VM gets a sidecar',
        'Create one, for example kubectl apply -f docs/examples/observe.yaml.',
      ),
    ];
  const findings: Finding[] = [];
  const readable = policies.value.flatMap((object) => readPolicy(object) ?? []);
  for (const object of policies.value) {
    const name = object.metadata?.name ?? '';
    const policy = readable.find((one) => one.name === name);
    if (policy === undefined)
      findings.push(
        failed(
          check,
          `policy ${name} cannot be read by this release; it is ignored`,
          'Write it anew after docs/api.md.',
        ),
      );
    else if (policy.spec.suspend)
      findings.push(
        warning(
          check,
          `policy ${name} is suspended: migrations of its VMs are plain`,
          `kubectl nasmig resume ${name}`,
        ),
      );
    else if (policy.spec.injection === 'Disabled')
      findings.push(
        warning(
          check,
          `policy ${name} has injection Disabled: new pods of its VMs get no sidecar`,
          'Set spec.injection to Enabled, unless that is meant.',
        ),
      );
  }
  const vms = running(facts);
  const without = vms.filter((vmi) => policyFor(vmi, readable, facts.namespaceLabels) === undefined);
  if (vms.length > 0 && without.length === vms.length)
    findings.push(
      warning(
        check,
        'no policy selects any running VM',
        'Compare spec.selectors with the labels of VMIs and namespaces.',
      ),
    );
  else if (without.length > 0)
    findings.push(
      ok(
        check,
        `${vms.length - without.length} of ${vms.length} running VMs are under a policy; not ${named(without.map(titleOf))}`,
      ),
    );
  if (findings.length > 0) return findings;
  return [
    ok(
      check,
      `${policies.value.length} in force${vms.length === 0 ? '' : `, all ${vms.length} running VMs under one`}`,
    ),
  ];
}

function sharedStorage(facts: Facts): Finding[] {
  const check = 'Shared storage';
  const { vmis, claims, installation } = facts;
  if (!vmis.known) return vmis.missing ? [] : [unknown(check, vmis, 'VMIs')];
  if (!claims.known) return [unknown(check, claims, 'volumes')];
  const vms = running(facts);
  if (vms.length === 0) return [ok(check, 'no VM runs, nothing to look at')];
  const shared = sharedDriversOf(installation.known ? installation.value : undefined);
  const without: { vm: string; why: string }[] = [];
  const unseen: string[] = [];
  for (const vmi of vms) {
    const { usable, refused } = usableVolumes(
      vmi,
      undefined,
      (claim) => claims.value.drivers.get(`${vmi.metadata.namespace}/${claim}`),
      shared,
    );
    if (usable.length > 0) continue;
    if (mayBeUsable(vmi, refused, claims.value.unreadable)) unseen.push(titleOf(vmi));
    else
      without.push({
        vm: titleOf(vmi),
        why: refused.map(({ name, why }) => `${name}: ${why}`).join('; ') || 'it has no volumes',
      });
  }
  const notSeen: Finding[] =
    unseen.length === 0
      ? []
      : [
          unknown(
            check,
            { why: 'you may not read their claims or PersistentVolumes' },
            `volumes of ${named(unseen)}`,
          ),
        ];
  if (without.length === 0)
    return unseen.length > 0
      ? notSeen
      : [ok(check, `all ${vms.length} running VMs have a shared raw volume`)];
  const make = without.length === vms.length ? failed : warning;
  return [
    make(
      check,
      `${without.length} of ${vms.length} running VMs have no shared raw volume: ${without
        .slice(0, MAX_NAMES)
        .map(({ vm, why }) => `${vm} (${why})`)
        .join(', ')}${without.length > MAX_NAMES ? ` and ${without.length - MAX_NAMES} more` : ''}`,
      'Use a ReadWriteMany claim in Filesystem mode with a raw disk; add your driver to operator.sharedFileSystemDrivers if it gives every node the same bytes.',
    ),
    ...notSeen,
  ];
}

/** Pods of running VMs that run themselves. */
function livePods(facts: Facts): { pod: V1Pod; vmi: Vmi }[] {
  if (!facts.launcherPods.known) return [];
  const byUid = new Map(running(facts).map((vmi) => [vmi.metadata.uid, vmi]));
  return facts.launcherPods.value.flatMap((pod) => {
    const vmi = byUid.get(controllingVmi(pod)?.uid ?? '');
    return vmi === undefined || isOver(pod) ? [] : [{ pod, vmi }];
  });
}

function sidecars(facts: Facts): Finding[] {
  const check = 'Sidecars';
  const { launcherPods, policies } = facts;
  if (!launcherPods.known) return [unknown(check, launcherPods, 'virt-launcher pods')];
  const readable = policies.known ? policies.value.flatMap((object) => readPolicy(object) ?? []) : [];
  const wanted = livePods(facts).filter(({ vmi }) => {
    const policy = policyFor(vmi, readable, facts.namespaceLabels);
    return policy !== undefined && policy.spec.injection === 'Enabled';
  });
  if (wanted.length === 0) return [ok(check, 'no running VM is to have one')];
  const without = wanted.filter(({ pod }) => !hasSidecar(pod));
  const findings: Finding[] = [];
  if (without.length > 0)
    findings.push(
      warning(
        check,
        `${without.length} of ${wanted.length} pods have none: ${named(without.map(({ vmi }) => titleOf(vmi)))}`,
        'They started before the policy or the install. Migrate or restart those VMs once.',
      ),
    );
  const broken = wanted.filter(({ pod }) => {
    const status = pod.status?.initContainerStatuses?.find(({ name }) => name === SIDECAR_CONTAINER);
    return (
      status !== undefined &&
      (status.started === false || (status.state?.waiting !== undefined && hasSidecar(pod)))
    );
  });
  if (broken.length > 0) {
    const [{ pod, vmi }] = broken as [{ pod: V1Pod; vmi: Vmi }];
    const status = pod.status?.initContainerStatuses?.find(({ name }) => name === SIDECAR_CONTAINER);
    findings.push(
      failed(
        check,
        `${broken.length} do not run: ${named(broken.map((one) => titleOf(one.vmi)))} (${status?.state?.waiting?.reason ?? 'not started'})`,
        `kubectl -n ${vmi.metadata.namespace} logs ${pod.metadata?.name} -c ${SIDECAR_CONTAINER}`,
      ),
    );
  }
  const restarting = wanted.filter(
    ({ pod }) =>
      (pod.status?.initContainerStatuses?.find(({ name }) => name === SIDECAR_CONTAINER)?.restartCount ?? 0) >
      3,
  );
  if (restarting.length > 0)
    findings.push(
      warning(
        check,
        `restarted more than three times: ${named(restarting.map(({ vmi }) => titleOf(vmi)))}`,
        `Look at the previous container's log: kubectl logs -p -c ${SIDECAR_CONTAINER}; memory is spec.sidecar.memory of the policy.`,
      ),
    );
  return findings.length > 0
    ? findings
    : [ok(check, `all ${wanted.length} pods of VMs under a policy have one`)];
}

function sidecarVersions(facts: Facts): Finding[] {
  const check = 'Sidecar versions';
  const { installation } = facts;
  const images = livePods(facts).flatMap(({ pod, vmi }) => {
    const image = pod.spec?.initContainers?.find(({ name }) => name === SIDECAR_CONTAINER)?.image;
    return image === undefined ? [] : [{ image, vm: titleOf(vmi) }];
  });
  if (images.length === 0) return [];
  const installed = installation.known ? installation.value?.environment['NASMIG_SIDECAR_IMAGE'] : undefined;
  if (installed === undefined)
    return [
      {
        check,
        status: 'unknown',
        message: `sidecars run ${named(images.map(({ image }) => image))}; which image is installed is not known`,
        remedy: "Run it as somebody who may read the operator's Deployment.",
      },
    ];
  const others = images.filter(({ image }) => image !== installed);
  if (others.length === 0) return [ok(check, `all ${images.length} run ${installed}`)];
  return [
    warning(
      check,
      `${others.length} of ${images.length} run another image than ${installed}: ${named(others.map(({ vm, image }) => `${vm} (${image})`))}`,
      'They get the installed one with their next migration or restart. Sidecars up to two releases old are spoken with.',
    ),
  ];
}

function hub(facts: Facts): Finding[] {
  const check = 'Hub reachability';
  const { hubEndpoints, connectedSidecars, installation } = facts;
  if (installation.known && installation.value === undefined) return [];
  if (!hubEndpoints.known) return [unknown(check, hubEndpoints, "the hub Service's EndpointSlices")];
  const addresses = hubEndpoints.value.flatMap(({ endpoints }) =>
    (endpoints ?? [])
      .filter(({ conditions }) => conditions?.ready !== false)
      .flatMap((endpoint) => endpoint.addresses),
  );
  if (addresses.length === 0)
    return [
      failed(
        check,
        `the Service ${OPERATOR_NAME}-hub has no endpoint: no sidecar can connect, every migration is plain`,
        `It selects the leader's pod by its label ${LEADER_LABEL}; see the lines Operator and Leader.`,
      ),
    ];
  const injected = livePods(facts).filter(({ pod }) => hasSidecar(pod)).length;
  if (!connectedSidecars.known)
    return [
      ok(check, `the hub has an endpoint (${named(addresses)})`),
      {
        check,
        status: 'unknown',
        message: `how many sidecars are connected could not be asked: ${connectedSidecars.why}`,
        remedy:
          'It is the metric nasmig_hub_connections of the operator; reading it here needs the right to get pods/proxy in its namespace, and the API server among networkPolicy.metricsFrom where that is set.',
      },
    ];
  const connected = connectedSidecars.value;
  // The operator counts those of all namespaces: enough of them says nothing of one namespace.
  if (facts.namespace !== undefined && injected > 0 && connected >= injected)
    return [
      ok(check, `the hub has an endpoint (${named(addresses)})`),
      {
        check,
        status: 'unknown',
        message: `${connected} sidecars of all namespaces are connected; whether the ${injected} of namespace ${facts.namespace} are among them is not known`,
        remedy: 'Run it without -n, which compares them with the pods of all namespaces.',
      },
    ];
  if (connected >= injected) return [ok(check, `${connected} sidecars are connected`)];
  return [
    (connected === 0 ? failed : warning)(
      check,
      `${connected} sidecars are connected, ${injected} pods have one`,
      "Read a sidecar's log: it says why it cannot connect. NetworkPolicies of its namespace must let it reach the hub (next line).",
    ),
  ];
}

function networkPolicy(facts: Facts): Finding[] {
  const check = 'Network policy';
  const { networkPolicies, installation, namespaceLabels } = facts;
  if (!networkPolicies.known) return [unknown(check, networkPolicies, 'NetworkPolicies')];
  const found = installation.known ? installation.value : undefined;
  if (found === undefined) return [];
  const operatorEnd: Endpoint = {
    namespace: found.namespace,
    namespaceLabels: labelsOfNamespace(namespaceLabels, found.namespace),
    podLabels: {
      ...operatorLabels,
      ...found.deployment.spec?.template.metadata?.labels,
      [LEADER_LABEL]: LEADER_LABEL_VALUE,
    },
  };
  const pods = livePods(facts).filter(({ pod }) => hasSidecar(pod));
  if (pods.length === 0) return [ok(check, 'no pod with a sidecar runs, nothing to let through')];
  const worst = new Map<string, { direction: string; what: string; passage: Passage; remedy: string }>();
  const toHub = {
    what: 'connections to the hub',
    remedy: `Let pods with the label kubevirt.io=virt-launcher reach port ${HUB_PORT} in namespace ${found.namespace} (docs/install.md has such a policy).`,
  };
  const toDns = {
    what: 'DNS queries, without which the hub is not found,',
    remedy:
      'Let pods with the label kubevirt.io=virt-launcher reach port 53, UDP and TCP, of the cluster DNS (docs/install.md has such a policy).',
  };
  for (const { pod, vmi } of pods) {
    const end: Endpoint = {
      namespace: vmi.metadata.namespace,
      namespaceLabels: labelsOfNamespace(namespaceLabels, vmi.metadata.namespace),
      podLabels: pod.metadata?.labels ?? {},
    };
    const out = egress(networkPolicies.value, end, operatorEnd, HUB_PORT, 'hub');
    const into = ingress(networkPolicies.value, end, operatorEnd, HUB_PORT, 'hub');
    const dns = egressToDns(networkPolicies.value, end, namespaceLabels);
    for (const one of [
      { ...toHub, direction: `out of namespace ${end.namespace}`, passage: out },
      { ...toHub, direction: `into namespace ${operatorEnd.namespace}`, passage: into },
      { ...toDns, direction: `out of namespace ${end.namespace}`, passage: dns },
    ]) {
      if (one.passage.verdict === 'open') continue;
      const key = `${one.what} ${one.direction} ${one.passage.verdict}`;
      if (!worst.has(key)) worst.set(key, one);
    }
  }
  if (worst.size === 0) return [ok(check, `sidecars of ${pods.length} pods may reach the hub and DNS`)];
  return [...worst.values()].map(({ direction, what, passage, remedy }) => {
    const names = 'policies' in passage ? named(passage.policies) : '';
    return passage.verdict === 'closed'
      ? failed(check, `${what} are not let ${direction} by ${names}: migrations are plain`, remedy)
      : warning(check, `whether ${what} are let ${direction} depends on where that is, by ${names}`, remedy);
  });
}

/** VMs whose configuration has a problem of this kind, by where it is set. */
function configured(
  facts: Facts,
  check: string,
  reason: string,
  words: (from: string, vms: string, detail: string) => [string, string],
  good: string,
): Finding[] {
  const { kubeVirts, migrationPolicies } = facts;
  if (!kubeVirts.known)
    return kubeVirts.missing ? [] : [unknown(check, kubeVirts, "KubeVirt's configuration")];
  const policies = migrationPolicies.known ? migrationPolicies.value : [];
  const vms = running(facts);
  const [kubeVirt] = kubeVirts.value;
  const subjects =
    vms.length > 0
      ? vms.map((vmi) => ({ vmi, title: titleOf(vmi) }))
      : [{ vmi: { metadata: { labels: {} } } as unknown as Vmi, title: 'every VM' }];
  const bySource = new Map<string, { vms: string[]; detail: string }>();
  for (const { vmi, title } of subjects) {
    const { configuration, from } = resolvedConfiguration(
      kubeVirt,
      policies,
      vmi,
      labelsOfNamespace(facts.namespaceLabels, vmi.metadata.namespace ?? ''),
    );
    // One problem hides another in the operator's order; here each is looked at alone.
    const alone = {
      ...(reason === 'PostCopyAllowed' ? { allowPostCopy: configuration.allowPostCopy } : {}),
      ...(reason === 'CompressionOn' ? { experimental: configuration.experimental } : {}),
      ...(reason === 'CappedByBandwidthPerMigration'
        ? { bandwidthPerMigration: configuration.bandwidthPerMigration }
        : {}),
    };
    const problem = configurationProblem(alone as Parameters<typeof configurationProblem>[0]);
    if (problem?.reason !== reason) continue;
    const entry = bySource.get(from) ?? {
      vms: [],
      detail: /\(([^()]*)\); /.exec(problem.message)?.[1] ?? '',
    };
    entry.vms.push(title);
    bySource.set(from, entry);
  }
  const findings = [...bySource].map(([from, { vms: names, detail }]) => {
    const [message, remedy] = words(from, named(names), detail);
    return failed(check, message, remedy);
  });
  if (findings.length > 0) return findings;
  if (!migrationPolicies.known && !migrationPolicies.missing)
    return [unknown(check, migrationPolicies, 'MigrationPolicies')];
  return [ok(check, good)];
}

function postCopy(facts: Facts): Finding[] {
  return configured(
    facts,
    'Post-copy',
    'PostCopyAllowed',
    (from, vms) => [
      `${from} allows post-copy, so that migrations are plain: ${vms}`,
      `Set allowPostCopy to false in ${from}, or make a MigrationPolicy that does for these VMs.`,
    ],
    'not allowed for any running VM',
  );
}

function compression(facts: Facts): Finding[] {
  return configured(
    facts,
    'Compression',
    'CompressionOn',
    (from, vms, detail) => [
      `${from} has QEMU compress pages (${detail}), so that they cannot be recognised: ${vms}`,
      `Set experimental.compression to none in ${from}.`,
    ],
    "QEMU's own is off for all running VMs",
  );
}

function bandwidth(facts: Facts): Finding[] {
  return configured(
    facts,
    'Bandwidth',
    'CappedByBandwidthPerMigration',
    (from, vms, detail) => [
      `${from} caps QEMU at ${detail}/s (bandwidthPerMigration), so that time would not be saved: ${vms}`,
      `Take bandwidthPerMigration out of ${from}, and limit the link with limits.linkBandwidth of the NasMigrationPolicy instead.`,
    ],
    'bandwidthPerMigration does not cap QEMU for any running VM',
  );
}

function rootVms(facts: Facts): Finding[] {
  const check = 'Root VMs';
  if (!facts.vmis.known) return [];
  const rooted = running(facts).filter(({ status }) => status.runtimeUser === 0);
  if (rooted.length === 0) return [ok(check, 'none')];
  return [
    warning(
      check,
      `${named(rooted.map(titleOf))} run as root: the sidecar, which runs as 107, cannot take the socket's place`,
      'Turn the Root feature gate of KubeVirt off and restart these VMs.',
    ),
  ];
}

function breaker({ migrations, nowMs }: Facts): Finding[] {
  const check = 'Breaker';
  if (!migrations.known) return migrations.missing ? [] : [unknown(check, migrations, 'NasAwareMigrations')];
  const attempts = migrations.value.flatMap((object) => attemptOf(object) ?? []);
  const cluster = clusterBreaker(attempts, nowMs);
  if (cluster !== undefined)
    return [
      failed(
        check,
        `nothing is accelerated in the cluster: ${cluster.detail}`,
        'kubectl nasmig list -A -o wide shows the failed ones, kubectl nasmig explain each; report it with kubectl nasmig report.',
      ),
    ];
  const vms = new Map<string, typeof attempts>();
  for (const attempt of attempts) {
    const key = `${attempt.namespace}/${attempt.vmiName}`;
    vms.set(key, [...(vms.get(key) ?? []), attempt]);
  }
  const open = [...vms].flatMap(([vm, own]) => {
    const state = vmBreaker(own, nowMs);
    return state === undefined ? [] : [`${vm} (${state.detail})`];
  });
  if (open.length === 0) return [ok(check, 'closed')];
  return [
    warning(
      check,
      `open for ${named(open)}: their next migrations are plain`,
      'kubectl nasmig explain each; it closes by itself.',
    ),
  ];
}
