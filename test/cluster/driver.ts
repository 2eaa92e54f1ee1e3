// What the end-to-end suites need of a cluster: an API server with KubeVirt and our operator on it, VMs that can be made and
// looked into, and the bytes on its networks. The lab is one such cluster; a kind cluster can be another one.

import type { ApiClient } from '../../operator/kubernetes/api-client.ts';
import type { GuestCommand } from '../lab/guest-beacon.ts';
import type { GuestProfileName } from '../lab/guest-profiles.ts';

/** A VM to be made, running, on one NFS claim `rootdisk`. */
export interface VmOptions {
  readonly namespace: string;
  readonly name: string;
  readonly guest: GuestProfileName;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  /** With a CPU limit KubeVirt migrates over one connection, without over nine. */
  readonly cpuLimit?: string;
}

/** A guest, seen from outside of KubeVirt and of our parts. */
export interface Guest {
  /** Begins a new look: gaps of before are forgotten. */
  mark(): void;
  /** Lets the guest check its memory and its files, and says what came of it since mark(). */
  check(): Promise<GuestCheck>;
  /** Tells the guest to do something; resolves when it has done it. */
  command(command: GuestCommand): Promise<void>;
  /** The longest time without a sign of life since mark(), milliseconds. */
  readonly longestGapMs: number | undefined;
}

export interface GuestCheck {
  readonly selfCheck: 'ok' | 'failed' | 'none';
  readonly failure: string;
  readonly repeatedCounters: number;
}

/** Bytes at the interfaces of all nodes since the start, headers included. */
export interface ClusterTraffic {
  readonly migrationBytes: number;
  /** By node: read from the NAS, and sent to it. */
  readonly nas: Readonly<Record<string, { readonly readBytes: number; readonly writtenBytes: number }>>;
}

export interface ClusterDriver {
  readonly api: ApiClient;
  /** Names of the nodes that VMs can be on. */
  readonly nodes: readonly string[];
  /** Runs kubectl as an administrator and returns its output. Throws with its words when it fails. */
  kubectl(args: readonly string[], input?: string): Promise<string>;
  createNamespace(name: string): Promise<void>;
  /** Makes the claim and the VM, and returns when the guest runs. */
  createVm(options: VmOptions): Promise<Guest>;
  /** Waits until the sidecar of the VM's pod has its index. */
  waitForIndex(namespace: string, vmName: string): Promise<void>;
  traffic(): Promise<ClusterTraffic>;
  /** The operator's output so far. */
  operatorLog(): Promise<string>;
  startOperator(): Promise<void>;
  stopOperator(signal?: NodeJS.Signals): Promise<void>;
  stop(options?: { keepLogsIn?: string }): Promise<void>;
}
