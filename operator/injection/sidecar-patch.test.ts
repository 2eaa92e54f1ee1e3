import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { diskVolumesOf, isGuaranteed, type SidecarSettings, sidecarPatch } from './sidecar-patch.ts';

const settings: SidecarSettings = {
  image: 'example.org/sidecar:1',
  hubUrl: 'wss://hub.ns.svc:8443',
  caConfigMap: 'ca',
  cpu: '100m',
  memory: '256Mi',
  indexMemory: '96Mi',
  logLevel: 'info',
};

function launcher(change: (pod: V1Pod) => void = () => {}): V1Pod {
  const pod: V1Pod = {
    metadata: {
      name: 'virt-launcher-db-x',
      labels: { 'kubevirt.io': 'virt-launcher' },
      annotations: {},
      ownerReferences: [
        {
          apiVersion: 'kubevirt.io/v1',
          kind: 'VirtualMachineInstance',
          name: 'db',
          uid: 'vmi-1',
          controller: true,
        },
      ],
    },
    spec: {
      containers: [
        {
          name: 'compute',
          resources: { requests: { cpu: '1', memory: '2Gi' } },
          volumeMounts: [
            { name: 'public', mountPath: '/var/run/kubevirt' },
            { name: 'rootdisk', mountPath: '/var/run/kubevirt-private/vmi-disks/rootdisk' },
            { name: 'vm-state', mountPath: '/var/lib/swtpm-localca' },
          ],
          volumeDevices: [{ name: 'blockdisk', devicePath: '/dev/blockdisk' }],
        },
      ],
      initContainers: [{ name: 'guest-console-log', restartPolicy: 'Always' }],
      volumes: [
        { name: 'public', emptyDir: {} },
        { name: 'rootdisk', persistentVolumeClaim: { claimName: 'db-root' } },
        { name: 'blockdisk', persistentVolumeClaim: { claimName: 'db-block' } },
        { name: 'vm-state', persistentVolumeClaim: { claimName: 'db-state' } },
      ],
    },
  };
  change(pod);
  return pod;
}

function injected(pod: V1Pod) {
  const result = sidecarPatch(pod, settings);
  if ('skip' in result) throw new Error(`skipped: ${result.skip}`);
  return result.patch;
}

describe('sidecar patch', () => {
  it('mounts the disks that both nodes may read, and no others', () => {
    const twoDisks = launcher((pod) => {
      const compute = pod.spec?.containers[0];
      compute?.volumeMounts?.push({ name: 'data', mountPath: '/var/run/kubevirt-private/vmi-disks/data' });
      pod.spec?.volumes?.push({ name: 'data', persistentVolumeClaim: { claimName: 'db-data' } });
    });
    const asked: string[] = [];
    const result = sidecarPatch(twoDisks, settings, (claim) => {
      asked.push(claim);
      return claim === 'db-data';
    });
    expect(asked).toEqual(['db-root', 'db-data']);
    expect(JSON.stringify(result)).toContain('/var/run/nasmigration/volumes/data');
    expect(JSON.stringify(result)).not.toContain('rootdisk');
    expect(sidecarPatch(twoDisks, settings, () => false)).toEqual({ skip: 'NoSharedVolume' });
  });

  it('adds one volume and one native sidecar, last, and touches nothing else', () => {
    const patch = injected(launcher());
    expect(patch.map(({ op, path }) => `${op} ${path}`)).toEqual([
      'add /spec/volumes/-',
      'add /spec/initContainers/-',
    ]);
    expect(patch[1]?.value).toMatchObject({
      name: 'nas-aware-migration',
      restartPolicy: 'Always',
      securityContext: {
        runAsUser: 107,
        runAsGroup: 107,
        runAsNonRoot: true,
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'] },
        seccompProfile: { type: 'RuntimeDefault' },
      },
      volumeMounts: [
        { name: 'public', mountPath: '/var/run/kubevirt' },
        { name: 'nas-aware-migration-credentials', readOnly: true },
        { name: 'rootdisk', mountPath: '/var/run/nasmigration/volumes/rootdisk', readOnly: true },
      ],
    });
    expect(patch[1]?.value).not.toHaveProperty('readinessProbe');
    expect(patch[1]?.value).not.toHaveProperty('startupProbe');
    expect(patch[1]?.value).not.toHaveProperty('livenessProbe');
  });

  it('makes the list when there are no init containers', () => {
    const patch = injected(
      launcher((pod) => {
        delete pod.spec?.initContainers;
      }),
    );
    expect(patch[1]).toMatchObject({
      path: '/spec/initContainers',
      value: [{ name: 'nas-aware-migration' }],
    });
  });

  it('takes disks only: neither block devices nor the state volume', () => {
    expect(diskVolumesOf(launcher())).toEqual([{ name: 'rootdisk', claim: 'db-root' }]);
  });

  it.each([
    ['a pod of somebody else', 'NotALauncherPod', (pod: V1Pod) => pod.metadata?.ownerReferences?.pop()],
    [
      'a hot-plug attachment pod',
      'NotALauncherPod',
      (pod: V1Pod) => Object.assign(pod.metadata?.labels ?? {}, { 'kubevirt.io': 'hotplug-disk' }),
    ],
    [
      'a provisioning pod',
      'Provisioning',
      (pod: V1Pod) =>
        Object.assign(pod.metadata?.annotations ?? {}, { 'kubevirt.io/ephemeral-provisioning': 'true' }),
    ],
    [
      'one that has it already',
      'AlreadyInjected',
      (pod: V1Pod) => pod.spec?.initContainers?.push({ name: 'nas-aware-migration' }),
    ],
    ['one without public volume', 'NoPublicVolume', (pod: V1Pod) => pod.spec?.volumes?.shift()],
    [
      'one without disks to read',
      'NoDiskVolume',
      (pod: V1Pod) => pod.spec?.containers[0]?.volumeMounts?.splice(1, 1),
    ],
  ])('leaves %s alone', (_what, skip, change) => {
    expect(sidecarPatch(launcher(change), settings)).toEqual({ skip });
  });

  it('keeps a Guaranteed pod Guaranteed, and never asks for whole CPUs', () => {
    const guaranteed = launcher((pod) => {
      const equal = { cpu: '2', memory: '4Gi' };
      for (const container of [...(pod.spec?.containers ?? []), ...(pod.spec?.initContainers ?? [])]) {
        container.resources = { requests: equal, limits: equal };
      }
    });
    expect(isGuaranteed(guaranteed)).toBe(true);
    expect(isGuaranteed(launcher())).toBe(false);
    const result = sidecarPatch(guaranteed, { ...settings, cpu: '1' });
    expect(result).toMatchObject({
      patch: [
        {},
        {
          value: {
            resources: {
              requests: { cpu: '999m', memory: '256Mi' },
              limits: { cpu: '999m', memory: '256Mi' },
            },
          },
        },
      ],
    });
    expect(injected(launcher())[1]?.value).toMatchObject({
      resources: { requests: { cpu: '100m', memory: '256Mi' }, limits: { memory: '256Mi' } },
    });
  });

  it.each([
    ['none', undefined, undefined],
    ["compute's", '500m', '500m'],
    ['no more than it has a use for', '16', '2'],
    ['its request, where that is more', '50m', '100m'],
  ])('has a limit of CPU as compute has one: %s', (_what, limit, expected) => {
    const burstable = launcher((pod) => {
      const compute = pod.spec?.containers[0];
      if (compute?.resources !== undefined)
        compute.resources.limits = limit === undefined ? {} : { cpu: limit };
    });
    const sidecar = injected(burstable)[1]?.value as V1Container;
    expect(sidecar.resources).toEqual({
      requests: { cpu: '100m', memory: '256Mi' },
      limits: { ...(expected === undefined ? {} : { cpu: expected }), memory: '256Mi' },
    });
    expect(isGuaranteed(burstable)).toBe(false);
  });
});
