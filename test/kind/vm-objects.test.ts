import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { GUEST_PROFILES, profileKernelArguments } from '../lab/guest-profiles.ts';
import { claimName, VM_FILE, vmObjects, vmTemplate } from './vm-objects.ts';

describe('the VM of hack/kind/vm.yaml', () => {
  it('is the warm guest of the lab', () => {
    const { claim, vmi } = vmTemplate();
    expect(claim.metadata?.name).toBe(claimName(vmi.metadata?.name ?? ''));
    expect(vmi.spec.domain.memory.guest).toBe('1Gi');
    expect(vmi.spec.domain.firmware.kernelBoot.kernelArgs).toContain(
      profileKernelArguments(GUEST_PROFILES.warm).join(' '),
    );
  });

  it('is on a claim that both nodes read, and under the policy of the examples', () => {
    const text = readFileSync(VM_FILE, 'utf8');
    expect(text).toContain('accessModes: [ReadWriteMany]');
    expect(text).toContain('volumeMode: Filesystem');
    expect(vmTemplate().vmi.metadata?.labels).toEqual({ 'nasmigration.io/accelerate': 'true' });
  });
});

describe('the VM of a test', () => {
  it('has its names, labels, memory and kernel words', () => {
    const { claim, vmi } = vmObjects({
      namespace: 'drain',
      name: 'web',
      guest: 'full',
      labels: { tier: 'front' },
      annotations: { note: 'one' },
    });
    expect(claim.metadata).toEqual({ namespace: 'drain', name: 'web-rootdisk' });
    expect(vmi.metadata).toEqual({
      namespace: 'drain',
      name: 'web',
      labels: { tier: 'front' },
      annotations: { note: 'one' },
    });
    expect(vmi.spec.domain.memory.guest).toBe('600Mi');
    expect(vmi.spec.volumes[0]?.persistentVolumeClaim.claimName).toBe('web-rootdisk');
    const { kernelArgs } = vmi.spec.domain.firmware.kernelBoot;
    expect(kernelArgs.match(/nasmig\.read=\d+/g)).toEqual(['nasmig.read=1000']);
    expect(kernelArgs).toContain('net.ifnames=0');
    expect(vmi.spec.domain.resources).toBeUndefined();
  });

  it('has a CPU limit when it is to migrate over one connection', () => {
    const { vmi } = vmObjects({ namespace: 'shop', name: 'db', guest: 'warm', cpuLimit: '1' });
    expect(vmi.spec.domain.resources).toEqual({ limits: { cpu: '1' } });
  });
});
