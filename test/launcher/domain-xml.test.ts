// What libvirt is told about the lab's VM: the parts that a migration depends on.

import { describe, expect, it } from 'vitest';
import { type DomainOptions, domainXml } from './domain-xml.ts';

const OPTIONS: DomainOptions = {
  name: 'default_vm',
  uuid: '6e61736d-6967-4000-8000-000000000001',
  memoryMib: 256,
  vcpus: 2,
  machine: 'pc-q35-10.0',
  disks: [
    { name: 'rootdisk', file: '/run/disks/rootdisk/disk.img' },
    { name: 'data', file: '/run/disks/data/disk.img' },
  ],
  consoleLog: '/run/observer/console.log',
  qmpSocket: '/run/observer/qmp.sock',
};

describe('domainXml', () => {
  it('names the machine with its version, and a CPU that software emulation has', () => {
    const xml = domainXml(OPTIONS);
    expect(xml).toContain("<domain type='qemu'");
    expect(xml).toContain("machine='pc-q35-10.0'>hvm</type>");
    expect(xml).toContain("<model fallback='forbid'>qemu64</model>");
    expect(xml).toContain("<memory unit='MiB'>256</memory>");
    expect(xml).toContain('<vcpu>2</vcpu>');
  });

  it('gives memory that is plugged in later a device and a NUMA node, and counts it', () => {
    expect(domainXml(OPTIONS)).not.toMatch(/maxMemory|<numa>|virtio-mem/);
    const xml = domainXml({ ...OPTIONS, hotplug: { mostMib: 1024, pluggedMib: 128 } });
    expect(xml).toContain("<maxMemory slots='1' unit='MiB'>1280</maxMemory>");
    expect(xml).toContain("<memory unit='MiB'>1280</memory>");
    expect(xml).toContain("<currentMemory unit='MiB'>384</currentMemory>");
    expect(xml).toContain("<numa><cell id='0' cpus='0-1' memory='256' unit='MiB'/></numa>");
    expect(xml).toContain("<requested unit='MiB'>128</requested>");
  });

  it('backs memory by huge pages only when told to', () => {
    expect(domainXml(OPTIONS)).not.toContain('memoryBacking');
    expect(domainXml({ ...OPTIONS, hugePages: true })).toContain(
      '<memoryBacking><hugepages/></memoryBacking>',
    );
  });

  it('gives QEMU a memory that libvirt cannot express', () => {
    expect(domainXml(OPTIONS)).not.toContain('odd.ram');
    const xml = domainXml({ ...OPTIONS, memoryKib: 262_152 });
    expect(xml).toContain("<memory unit='MiB'>256</memory>");
    expect(xml).toContain("value='memory-backend-ram,id=odd.ram,size=268443648'");
    expect(xml).toContain("value='memory-backend=odd.ram'");
    expect(xml).toContain("value='size=262152k'");
    expect(domainXml({ ...OPTIONS, memoryKib: 262_144 })).toBe(domainXml(OPTIONS));
    expect(() => domainXml({ ...OPTIONS, memoryKib: 262_152, hugePages: true })).toThrow(TypeError);
  });

  it('gives every volume a disk of its own, uncached as on shared storage', () => {
    const xml = domainXml(OPTIONS);
    expect(xml.match(/<target dev='vd[a-z]' bus='virtio'\/>/g)).toEqual([
      "<target dev='vda' bus='virtio'/>",
      "<target dev='vdb' bus='virtio'/>",
    ]);
    expect(xml.match(/type='raw' cache='none' error_policy='stop'/g)).toHaveLength(2);
    expect(xml).toContain("<source file='/run/disks/data/disk.img'/>");
  });

  it('boots a kernel only when told to', () => {
    expect(domainXml(OPTIONS)).not.toContain('<kernel>');
    const boot = { kernel: '/boot/vmlinuz', initrd: '/boot/initrd', commandLine: 'quiet a=1' };
    expect(domainXml({ ...OPTIONS, boot })).toContain(
      '<kernel>/boot/vmlinuz</kernel>\n    <initrd>/boot/initrd</initrd>\n    <cmdline>quiet a=1</cmdline>',
    );
  });

  it('has a network card only for an observer', () => {
    expect(domainXml(OPTIONS)).not.toContain('netdev');
    const xml = domainXml({ ...OPTIONS, beaconSocket: '/run/observer/beacon.sock' });
    expect(xml).toContain(
      "value='stream,id=net0,server=off,addr.type=unix,addr.path=/run/observer/beacon.sock'",
    );
  });

  it('does not let a text become markup', () => {
    const xml = domainXml({ ...OPTIONS, name: `a<b>&'"` });
    expect(xml).toContain('<name>a&lt;b&gt;&amp;&apos;&quot;</name>');
  });
});
