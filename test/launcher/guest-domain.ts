// The lab's guest as a libvirt domain: which kernel words and paths a profile means in a launcher pod. Pure, but for
// laying out the directory that a pod sees as its boot directory.

import { cp, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { GuestKernel } from '../lab/guest-image.ts';
import { type GuestProfile, profileKernelArguments } from '../lab/guest-profiles.ts';
import type { DomainHotplug } from './domain-xml.ts';
import type { PodDomain } from './launcher-pod.ts';
import { POD_BEACON_SOCKET, POD_PATHS } from './launcher-pod.ts';

/** KubeVirt's name of a domain: namespace and VMI. */
export const GUEST_DOMAIN = 'default_vm';
const GUEST_UUID = '6e61736d-6967-4000-8000-000000000001';
/** As the data-plane lab's guest: quiet, no protections that emulation makes slow, and eth0 as the card's name. */
const KERNEL_ARGUMENTS = [
  'console=ttyS0',
  'panic=-1',
  'quiet',
  'mitigations=off',
  'net.ifnames=0',
  'ipv6.disable=1',
  'audit=0',
];
const KERNEL_NAME = 'vmlinuz';
const INITRD_NAME = 'initrd';

/** Machine types with a version, because libvirt resolves `q35` to the newest one, which the other side may not have. */
export const MACHINES = {
  bookworm: 'pc-q35-7.2',
  trixie: 'pc-q35-10.0',
  sid: 'pc-q35-11.1',
} as const;

/** What a VMI may have beyond the lab's usual guest. */
export interface DomainChoices {
  /** Default: trixie's. */
  readonly machine?: string;
  /** Default 1. */
  readonly vcpus?: number;
  readonly hotplug?: DomainHotplug;
  /** Guest memory in pages of 2 MiB, as with KubeVirt's `memory.hugepages`. */
  readonly hugePages?: boolean;
  readonly nicModel?: 'virtio-net-pci' | 'vmxnet3';
  readonly diskQueueSize?: number;
  /** Default: the profile's. See odd-memory.ts. */
  readonly memoryKib?: number;
}

/** The guest of a profile, for LauncherPod.defineDomain(). */
export function guestDomain(
  profile: Pick<GuestProfile, 'memoryMiB' | 'readMiB' | 'randomMiB' | 'textMiB' | 'churnMiB'>,
  options: DomainChoices = {},
): PodDomain {
  const words = profileKernelArguments({ ...profile, name: 'cold', beforeMigration: [] });
  return {
    name: GUEST_DOMAIN,
    uuid: GUEST_UUID,
    memoryMib: profile.memoryMiB,
    vcpus: options.vcpus ?? 1,
    machine: options.machine ?? MACHINES.trixie,
    boot: {
      kernel: join(POD_PATHS.boot, KERNEL_NAME),
      initrd: join(POD_PATHS.boot, INITRD_NAME),
      commandLine: [...KERNEL_ARGUMENTS, ...words].join(' '),
    },
    ...(options.hotplug === undefined ? {} : { hotplug: options.hotplug }),
    ...(options.nicModel === undefined ? {} : { nicModel: options.nicModel }),
    ...(options.diskQueueSize === undefined ? {} : { diskQueueSize: options.diskQueueSize }),
    hugePages: options.hugePages ?? false,
    ...(options.memoryKib === undefined ? {} : { memoryKib: options.memoryKib }),
    beaconSocket: POD_BEACON_SOCKET,
  };
}

/** Lays kernel and initramfs into a directory, to be a pod's boot directory. */
export async function layBootDirectory(directory: string, kernel: GuestKernel): Promise<string> {
  await mkdir(directory, { recursive: true });
  await cp(kernel.kernelPath, join(directory, KERNEL_NAME));
  await cp(kernel.initrdPath, join(directory, INITRD_NAME));
  return directory;
}
