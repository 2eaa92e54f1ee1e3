import { describe, expect, it } from 'vitest';
import { sidecarPatch } from '../../operator/injection/sidecar-patch.ts';
import type { Vmi, Vmim } from './kubevirt-objects.ts';
import { launcherManifest } from './launcher-manifest.ts';
import { fits } from './scheduler.ts';

const VMI: Vmi = {
  metadata: {
    name: 'db',
    namespace: 'shop',
    uid: '0a1b2c3d-vmi',
    labels: { tier: 'data' },
    annotations: { a: 'b' },
  },
  spec: {
    nodeSelector: { zone: 'east' },
    volumes: [{ name: 'rootdisk', persistentVolumeClaim: { claimName: 'db-root' } }, { name: 'cloudinit' }],
  },
};
const VMIM: Vmim = {
  metadata: { name: 'move', namespace: 'shop', uid: '9f8e7d6c-vmim' },
  spec: { vmiName: 'db', addedNodeSelector: { zone: 'west', disk: 'ssd' } },
};

describe('launcherManifest', () => {
  it('is a pod that injection recognizes and can patch', () => {
    const settings = {
      ...{ image: 'i', hubUrl: 'wss://hub:8443', caConfigMap: 'ca', cpu: '100m', memory: '256Mi' },
      ...{ indexMemory: '96Mi', logLevel: 'info' },
    };
    expect(sidecarPatch(launcherManifest(VMI), settings)).toHaveProperty('patch');
  });

  it('carries the labels of VMI and KubeVirt, and names its owner', () => {
    const { metadata } = launcherManifest(VMI);
    expect(metadata?.labels).toEqual({
      tier: 'data',
      'kubevirt.io': 'virt-launcher',
      'kubevirt.io/created-by': '0a1b2c3d-vmi',
    });
    expect(metadata?.ownerReferences).toMatchObject([{ kind: 'VirtualMachineInstance', controller: true }]);
  });

  it('tells a target from birth, with the selector added and the own one winning', () => {
    const { metadata, spec } = launcherManifest(VMI, VMIM);
    expect(metadata?.labels?.['kubevirt.io/migrationJobUID']).toBe('9f8e7d6c-vmim');
    expect(metadata?.annotations?.['kubevirt.io/migrationJobName']).toBe('move');
    expect(spec?.nodeSelector).toEqual({ zone: 'east', disk: 'ssd' });
  });

  it('has the same name when it is made again, and another one for a target', () => {
    expect(launcherManifest(VMI).metadata?.name).toBe(launcherManifest(VMI).metadata?.name);
    expect(launcherManifest(VMI).metadata?.name).not.toBe(launcherManifest(VMI, VMIM).metadata?.name);
  });

  it('mounts claims as VM disks and leaves other volumes out', () => {
    const { spec } = launcherManifest(VMI);
    expect(spec?.volumes?.filter(({ persistentVolumeClaim }) => persistentVolumeClaim)).toEqual([
      { name: 'rootdisk', persistentVolumeClaim: { claimName: 'db-root' } },
    ]);
    expect(spec?.containers[0]?.volumeMounts).toContainEqual({
      name: 'rootdisk',
      mountPath: '/var/run/kubevirt-private/vmi-disks/rootdisk',
    });
  });
});

describe('fits', () => {
  const node = (name: string, labels = {}, unschedulable = false) => ({
    metadata: { name, labels: { zone: 'east', disk: 'ssd', ...labels } },
    spec: { unschedulable },
  });
  const on = (name: string, phase = 'Running') => {
    const pod = launcherManifest(VMI);
    return {
      ...pod,
      metadata: { ...pod.metadata, uid: 'home' },
      spec: { ...pod.spec, containers: [], nodeName: name },
      status: { phase },
    };
  };
  const target = launcherManifest(VMI, VMIM);

  it('keeps a target away from the node of its VM, as long as that pod runs', () => {
    expect(fits(target, node('a'), [on('a')])).toBe(false);
    expect(fits(target, node('b'), [on('a')])).toBe(true);
    expect(fits(target, node('a'), [on('a', 'Succeeded')])).toBe(true);
  });

  it('heeds selectors and cordons', () => {
    expect(fits(target, node('b', { disk: 'hdd' }), [])).toBe(false);
    expect(fits(target, node('b', {}, true), [])).toBe(false);
  });
});
