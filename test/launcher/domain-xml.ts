// libvirt's description of the lab's VM, shaped like the one that virt-launcher makes: q35, a raw disk on shared
// storage with cache=none, a serial console, and (for the lab alone) the guest's beacon network and a second QMP
// socket through which an observer looks at QEMU without libvirt's help. Pure.

/** Memory that is added to a running VM through virtio-mem, as KubeVirt does it. */
export interface DomainHotplug {
  /** What the device can be grown to, beyond the VM's memory. */
  readonly mostMib: number;
  /** What it has from the beginning; libvirt changes it later. */
  readonly pluggedMib: number;
}

/** The paths are those in the pod. */
export interface DomainOptions {
  readonly name: string;
  readonly uuid: string;
  readonly memoryMib: number;
  readonly vcpus: number;
  readonly hotplug?: DomainHotplug;
  readonly hugePages?: boolean;
  /** The VM's memory in place of memoryMib, when it is to be no whole number of MiB (libvirt knows none): see odd-memory.ts. */
  readonly memoryKib?: number;
  /** A versioned machine type, the same on both sides: `pc-q35-10.0`. */
  readonly machine: string;
  readonly disks: readonly { readonly name: string; readonly file: string }[];
  /** Direct boot; without it the firmware finds nothing to boot, which is enough to move memory. */
  readonly boot?: { readonly kernel: string; readonly initrd: string; readonly commandLine: string };
  /** Where the guest's serial console is written. */
  readonly consoleLog: string;
  /** Unix socket on which QEMU listens for an observer's QMP. */
  readonly qmpSocket: string;
  /** Unix socket of the observer that hears the guest's beacons; without it the guest has no network card. */
  readonly beaconSocket?: string;
  /** QEMU's model of the beacon's network card. Default `virtio-net-pci`. */
  readonly nicModel?: 'virtio-net-pci' | 'vmxnet3';
  /** Entries of the disks' virtio queues. Default: QEMU's. */
  readonly diskQueueSize?: number;
}

/** virtio-mem's unit. */
const HOTPLUG_BLOCK_KIB = 2048;
/** A slot of the root bus that libvirt does not use by itself for so small a machine. */
const BEACON_SLOT = '0x1e';
/** QEMU's name of memory that libvirt does not know of; its own stays unused. */
const ODD_RAM = 'odd.ram';
/** Arbitrary, locally administered, and the same on both sides. */
const BEACON_MAC = '52:54:00:6e:61:73';

/** The domain as libvirt takes it. */
export function domainXml(options: DomainOptions): string {
  return `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>${escapeXml(options.name)}</name>
  <uuid>${escapeXml(options.uuid)}</uuid>
${memoryXml(options)}  <vcpu>${options.vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='${escapeXml(options.machine)}'>hvm</type>
${bootXml(options.boot)}  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model>${numaXml(options)}</cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
${options.disks.map((disk, index) => diskXml(disk, index, options.diskQueueSize)).join('')}    <serial type='file'>
      <source path='${escapeXml(options.consoleLog)}'/>
      <target port='0'/>
    </serial>
    <memballoon model='none'/>
${hotplugXml(options.hotplug)}  </devices>
  <qemu:commandline>
${commandLine(options)
  .map((argument) => `    <qemu:arg value='${escapeXml(argument)}'/>\n`)
  .join('')}  </qemu:commandline>
</domain>
`;
}

/** With memory that can be added the VM's own is that of its NUMA node, and what libvirt calls memory is all of it. */
function memoryXml({ memoryMib, hotplug, hugePages = false }: DomainOptions): string {
  const most = hotplug === undefined ? '' : maximumXml(memoryMib + hotplug.mostMib);
  const all = memoryMib + (hotplug?.mostMib ?? 0);
  const current = memoryMib + (hotplug?.pluggedMib ?? 0);
  const backing = hugePages ? '  <memoryBacking><hugepages/></memoryBacking>\n' : '';
  return `${most}  <memory unit='MiB'>${all}</memory>
  <currentMemory unit='MiB'>${current}</currentMemory>
${backing}`;
}

function maximumXml(mib: number): string {
  return `  <maxMemory slots='1' unit='MiB'>${mib}</maxMemory>\n`;
}

function numaXml({ memoryMib, vcpus, hotplug }: DomainOptions): string {
  if (hotplug === undefined) return '';
  return `<numa><cell id='0' cpus='0-${vcpus - 1}' memory='${memoryMib}' unit='MiB'/></numa>`;
}

function hotplugXml(hotplug: DomainHotplug | undefined): string {
  if (hotplug === undefined) return '';
  return `    <memory model='virtio-mem'>
      <target>
        <size unit='MiB'>${hotplug.mostMib}</size>
        <node>0</node>
        <block unit='KiB'>${HOTPLUG_BLOCK_KIB}</block>
        <requested unit='MiB'>${hotplug.pluggedMib}</requested>
      </target>
      <alias name='ua-hotplug'/>
    </memory>
`;
}

function bootXml(boot: DomainOptions['boot']): string {
  if (boot === undefined) return '';
  return `    <kernel>${escapeXml(boot.kernel)}</kernel>
    <initrd>${escapeXml(boot.initrd)}</initrd>
    <cmdline>${escapeXml(boot.commandLine)}</cmdline>
`;
}

function diskXml(disk: { name: string; file: string }, index: number, queueSize: number | undefined): string {
  const queue = queueSize === undefined ? '' : ` queue_size='${queueSize}'`;
  return `    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='stop'${queue}/>
      <source file='${escapeXml(disk.file)}'/>
      <target dev='vd${String.fromCharCode(97 + index)}' bus='virtio'/>
      <alias name='ua-${escapeXml(disk.name)}'/>
    </disk>
`;
}

function commandLine(options: DomainOptions): string[] {
  const line = ['-qmp', `unix:${options.qmpSocket},server=on,wait=off`];
  if (options.memoryKib !== undefined && options.memoryKib !== options.memoryMib * 1024) {
    if (options.hugePages || options.hotplug !== undefined)
      throw new TypeError('memory that libvirt does not know of has neither huge pages nor hotplug');
    const bytes = options.memoryKib * 1024;
    line.push(
      ...['-object', `memory-backend-ram,id=${ODD_RAM},size=${bytes}`],
      ...['-machine', `memory-backend=${ODD_RAM}`],
      ...['-m', `size=${options.memoryKib}k`],
    );
  }
  if (options.beaconSocket !== undefined) {
    line.push(
      ...['-netdev', `stream,id=net0,server=off,addr.type=unix,addr.path=${options.beaconSocket}`],
      ...[
        '-device',
        `${options.nicModel ?? 'virtio-net-pci'},id=nic0,netdev=net0,mac=${BEACON_MAC},romfile=,bus=pcie.0,addr=${BEACON_SLOT}`,
      ],
    );
  }
  return line;
}

const XML_ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  "'": '&apos;',
  '"': '&quot;',
};

function escapeXml(text: string): string {
  return text.replace(/[&<>'"]/g, (character) => XML_ENTITIES[character] ?? character);
}
