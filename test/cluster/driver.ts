// What the end-to-end suites need of a cluster: an API server with KubeVirt and our operator on it, VMs that can be made and
// looked into, the bytes on its networks, and parts that can be made to fail. The lab is one such cluster; a kind cluster can
// be another one. The suites get theirs from start-cluster.ts and know no more of it than is here.

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
  /** Sent by all nodes on the migration network. */
  readonly migrationBytes: number;
  /** By node: sent on the migration network. */
  readonly migrationSent: Readonly<Record<string, number>>;
  /** By node: read from the NAS, and sent to it. */
  readonly nas: Readonly<Record<string, { readonly readBytes: number; readonly writtenBytes: number }>>;
}

/** How a cluster is to be made. */
export interface ClusterOptions {
  /** Rate of the migration network, Mbit/s; 0 or absent: as fast as it goes. */
  readonly linkMbit?: number;
  /** Rate from the NAS to each node, Mbit/s; 0 or absent: as fast as it goes. */
  readonly nasMbit?: number;
}

/**
 * Which sidecar the operator injects from its start on: one that is quick to sample, so that suites need not wait; one that begins
 * after a minute, as released; one of a release before this one, which knows less of the protocol with the hub.
 */
export type SidecarRelease = 'current' | 'unhurried' | 'previous-protocol';

export interface OperatorStart {
  /** So many run afterwards; the others stand by. Default 1. */
  readonly replicas?: 1 | 2;
  readonly sidecar?: SidecarRelease;
}

export interface ClusterDriver {
  readonly api: ApiClient;
  /** Names of the nodes that VMs can be on. */
  readonly nodes: readonly string[];
  /** Runs kubectl as an administrator and returns its output. Throws with its words when it fails. */
  kubectl(args: readonly string[], input?: string): Promise<string>;
  /** Makes it, and returns when pods can be made in it. */
  createNamespace(name: string): Promise<void>;
  /** Makes the claim and the VM, and returns when the guest runs. */
  createVm(options: VmOptions): Promise<Guest>;
  /** Waits until the sidecar of the VM's pod has its index. */
  waitForIndex(namespace: string, vmName: string): Promise<void>;
  /** Waits until nothing runs in a namespace, as after its VMs were deleted. */
  waitForNoPods(namespace: string): Promise<void>;
  traffic(): Promise<ClusterTraffic>;
  /** The output of the operator's replicas so far. */
  operatorLog(): Promise<string>;
  /** Prometheus's text of the replicas that run. */
  operatorMetrics(): Promise<string>;
  /** Returns when one leads. */
  startOperator(options?: OperatorStart): Promise<void>;
  /** Every replica, by SIGTERM unless said otherwise. */
  stopOperator(signal?: NodeJS.Signals): Promise<void>;
  /** The replica that leads, alone. */
  stopLeader(signal: NodeJS.Signals): Promise<void>;
  /** Every connection between sidecars and the hub, as when the operator's node is lost; later ones are let in. */
  breakHubConnections(): Promise<void>;
  /** Ends a part of the control plane by a signal and starts it again; returns when the API server answers. */
  restart(part: 'kube-apiserver' | 'etcd', signal: NodeJS.Signals): Promise<void>;
  /** SIGKILL to a container of a pod. */
  killContainer(namespace: string, pod: string, container: string): Promise<void>;
  stop(options?: { keepLogsIn?: string }): Promise<void>;
}
