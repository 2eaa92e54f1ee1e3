// The claim and the VM of a test, made from the ones that `hack/kind/kind.sh up` applies (hack/kind/vm.yaml), so that there is one
// description of a VM for kind. Pure, but for reading that file once.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import { loadAll } from 'js-yaml';
import type { VmOptions } from '../cluster/driver.ts';
import { GUEST_PROFILES, profileKernelArguments } from '../lab/guest-profiles.ts';

export const VM_FILE = resolve(import.meta.dirname, '../../hack/kind/vm.yaml');
/** The volume of the VM, and the end of its claim's name. */
const VOLUME = 'rootdisk';

interface Claim extends KubernetesObject {
  spec: object;
}

interface Vmi extends KubernetesObject {
  spec: {
    domain: {
      memory: { guest: string };
      firmware: { kernelBoot: { kernelArgs: string } };
      resources?: { limits: { cpu: string } };
    };
    volumes: { name: string; persistentVolumeClaim: { claimName: string } }[];
  };
}

/** The two objects of the file. */
export function vmTemplate(): { claim: Claim; vmi: Vmi } {
  const objects = loadAll(readFileSync(VM_FILE, 'utf8')) as KubernetesObject[];
  const ofKind = (kind: string) => objects.find((object) => object.kind === kind);
  return { claim: ofKind('PersistentVolumeClaim') as Claim, vmi: ofKind('VirtualMachineInstance') as Vmi };
}

/** Name of the claim of a VM. */
export function claimName(vmName: string): string {
  return `${vmName}-${VOLUME}`;
}

/** Claim and VM for a test. The guest boots afresh: the lab's saved states are of another QEMU. */
export function vmObjects(options: VmOptions): { claim: Claim; vmi: Vmi } {
  const { claim, vmi } = structuredClone(vmTemplate());
  const { namespace, name } = options;
  const profile = GUEST_PROFILES[options.guest];
  claim.metadata = { namespace, name: claimName(name) };
  vmi.metadata = {
    namespace,
    name,
    labels: { ...options.labels },
    annotations: { ...options.annotations },
  };
  const { domain, volumes } = vmi.spec;
  domain.memory.guest = `${profile.memoryMiB}Mi`;
  const words = domain.firmware.kernelBoot.kernelArgs
    .split(' ')
    .filter((word) => !word.startsWith('nasmig.'));
  domain.firmware.kernelBoot.kernelArgs = [...words, ...profileKernelArguments(profile)].join(' ');
  if (options.cpuLimit !== undefined) domain.resources = { limits: { cpu: options.cpuLimit } };
  for (const volume of volumes) volume.persistentVolumeClaim.claimName = claimName(name);
  return { claim, vmi };
}
