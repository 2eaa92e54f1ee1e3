// QEMU's command line for the lab's guest. Source and destination must be given the same one but for paths, so it is
// made in one place; pure, so that the tests can look at it.

/** How a QEMU comes to its guest: by booting it, from a saved state, or by a migration that `listen` starts (`paused`: until `cont`). */
export type QemuStart =
  | { kind: 'boot' }
  /** `path` is a saved migration stream, `savedBy` the version of QEMU. The guest is paused until `cont`. */
  | { kind: 'state'; path: string; savedBy: string }
  | { kind: 'incoming'; paused?: boolean };

export interface QemuGuestOptions {
  /** Kernel, initramfs and what the guest is told on its command line. */
  kernelPath: string;
  initrdPath: string;
  kernelArguments: readonly string[];
  /** See guestMemoryKib(). */
  memoryKib: number;
  /** Raw disk image; null for a guest without disk. */
  diskPath: string | null;
  /**
   * Default true: O_DIRECT, as KubeVirt has it on shared storage. A host page cache on two nodes that write the same
   * file in turn would be stale on one of them.
   */
  diskDirect?: boolean;
  /** Unix socket of a GuestObserver; null for a guest without network card. */
  networkSocketPath: string | null;
  qmpSocketPath: string;
  serialLogPath: string;
  start: QemuStart;
  /** Same on both sides of a migration. Default `q35`. */
  machine?: string;
  /** Default `qemu64`, which software emulation has all of. */
  cpu?: string;
  /** Default software emulation; `kvm` only where it has been seen to boot a stock kernel. */
  accelerator?: 'tcg' | 'kvm';
}

/** QEMU's name of the guest's disk. */
export const DISK_NODE = 'disk';
/** The guest's network card; its address is arbitrary, locally administered, and the same on both sides. */
const GUEST_MAC = '52:54:00:6e:61:73';

/**
 * Always on the kernel's command line: messages to the serial port; a panic ends QEMU (with -no-reboot) in place of
 * hanging; no time is spent on protections that software emulation makes expensive and the lab does not need.
 */
const COMMON_KERNEL_ARGUMENTS = [
  'console=ttyS0',
  'panic=-1',
  'quiet',
  'mitigations=off',
  'net.ifnames=0',
  'ipv6.disable=1',
  'audit=0',
];

/** Arguments after the program's name `qemu-system-x86_64`. All paths are as QEMU sees them, from inside its root. */
export function qemuArguments(options: QemuGuestOptions): string[] {
  const accelerator = options.accelerator ?? 'tcg';
  return [
    ...['-name', 'nasmig-guest'],
    ...['-machine', options.machine ?? 'q35'],
    // One thread: the guest has one CPU, and a second emulation thread would only compete with the programs measured.
    ...['-accel', accelerator === 'tcg' ? 'tcg,thread=single' : 'kvm'],
    ...['-cpu', accelerator === 'tcg' ? (options.cpu ?? 'qemu64') : (options.cpu ?? 'host')],
    ...['-smp', '1', '-m', `${options.memoryKib}k`],
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-monitor', 'none'],
    ...['-serial', `file:${options.serialLogPath}`],
    ...['-qmp', `unix:${options.qmpSocketPath},server=on,wait=off`],
    ...['-kernel', options.kernelPath, '-initrd', options.initrdPath],
    ...['-append', [...COMMON_KERNEL_ARGUMENTS, ...options.kernelArguments].join(' ')],
    ...diskArguments(options),
    ...networkArguments(options.networkSocketPath),
    ...startArguments(options.start),
  ];
}

function diskArguments(options: QemuGuestOptions): string[] {
  if (options.diskPath === null) return [];
  const direct = (options.diskDirect ?? true) ? 'on' : 'off';
  return [
    ...[
      '-blockdev',
      `driver=file,node-name=disk-file,filename=${escapeComma(options.diskPath)},cache.direct=${direct}`,
    ],
    ...['-blockdev', `driver=raw,node-name=${DISK_NODE},file=disk-file,cache.direct=${direct}`],
    ...['-device', `virtio-blk-pci,id=disk0,drive=${DISK_NODE}`],
  ];
}

function networkArguments(socketPath: string | null): string[] {
  if (socketPath === null) return [];
  return [
    ...['-netdev', `stream,id=net0,server=off,addr.type=unix,addr.path=${escapeComma(socketPath)}`],
    // romfile empty: no network boot, and one ROM less that both sides must have.
    ...['-device', `virtio-net-pci,id=nic0,netdev=net0,mac=${GUEST_MAC},romfile=`],
  ];
}

function startArguments(start: QemuStart): string[] {
  switch (start.kind) {
    case 'boot':
      return [];
    case 'state':
      return [
        '-S',
        '-incoming',
        readsFiles(start.savedBy) ? `file:${start.path}` : `exec:cat '${start.path}'`,
      ];
    case 'incoming':
      // On a machine that is a VM itself, memory touched for the first time may cost seconds a GiB: not the migration's.
      return [...(start.paused ? ['-S'] : []), '-mem-prealloc', '-incoming', 'defer'];
  }
}

/** QEMU 8.2 and later read a state from a file, several times faster than through a pipe. */
function readsFiles(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 8 || (major === 8 && minor >= 2);
}

/** In QEMU's option lists a comma within a value is doubled. */
function escapeComma(value: string): string {
  return value.replaceAll(',', ',,');
}
