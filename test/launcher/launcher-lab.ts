// The lab with launcher pods in it: what tests of the KubeVirt path begin with. Every migration needs a fresh pod on
// its target, as in KubeVirt, where a pod that was a source is never a target again.

import { chown } from 'node:fs/promises';
import { join } from 'node:path';
import { buildGoProgram } from '../lab/go-programs.ts';
import { Lab, type LabOptions } from '../lab/lab.ts';
import { MIGRATION_ADDRESS, type NodeName } from '../lab/network.ts';
import { QEMU_OWNER } from '../lab/node.ts';
import { ensureRoot, type RootSuite } from '../lab/roots.ts';
import { runCommand } from '../lab/run-command.ts';
import { LauncherPod, type PodDisk } from './launcher-pod.ts';
import type { MigrationSide } from './live-migration.ts';
import { VirtHandler } from './virt-handler.ts';

const DEFAULT_SUITE: RootSuite = 'trixie';
/** Where sidecars find the hub, at their pod's gateway. */
export const HUB_PORT = 8443;
const HUB_READY_TIMEOUT_MS = 10_000;

export interface PodOptions {
  /** Which QEMU and libvirt. Default trixie. */
  readonly suite?: RootSuite;
  readonly disks?: readonly PodDisk[];
  /** Directory of the node to be seen read-only as POD_PATHS.boot: kernel, initramfs, saved states. */
  readonly bootDirectory?: string;
  /** See LauncherPodOptions. */
  readonly publicLimitBytes?: number;
  readonly hugePages?: boolean;
}

export class LauncherLab {
  readonly lab: Lab;
  readonly #handlers: Readonly<Record<NodeName, VirtHandler>>;
  readonly #proxyProgram: string;
  #podsStarted = 0;
  readonly #pods: { readonly pod: LauncherPod; readonly place: NodeName }[] = [];

  private constructor(lab: Lab, proxyProgram: string, handlers: Readonly<Record<NodeName, VirtHandler>>) {
    this.lab = lab;
    this.#proxyProgram = proxyProgram;
    this.#handlers = handlers;
  }

  /** Makes networks, nodes, NAS and certificates. Nothing is left of them when this process ends, however it does. */
  static async start(options: LabOptions = {}): Promise<LauncherLab> {
    const proxyProgram = await buildGoProgram('migration-proxy');
    const lab = await Lab.start(options);
    try {
      const certificates = join(lab.run.path, 'virt-handler-certificates');
      await runCommand([proxyProgram, '--make-certs', certificates]);
      return new LauncherLab(lab, proxyProgram, {
        source: new VirtHandler({ node: lab.source, proxyProgram, certificates }),
        target: new VirtHandler({ node: lab.target, proxyProgram, certificates }),
      });
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  /** Puts a copy of an image on the NAS and mounts it on both nodes: an RWX volume. */
  async addVolume(name: string, image: string): Promise<Readonly<Record<NodeName, PodDisk>>> {
    const file = `${name}.img`;
    await runCommand(['cp', '--sparse=always', image, this.lab.nas.file(file)]);
    await chown(this.lab.nas.file(file), QEMU_OWNER.uid, QEMU_OWNER.gid);
    const onSource = await this.lab.mountDisk('source', file);
    const onTarget = await this.lab.mountDisk('target', file);
    return { source: { name, file: onSource.path }, target: { name, file: onTarget.path } };
  }

  /** A new pod on a node, with libvirt and without a VM. */
  async startPod(place: NodeName, options: PodOptions = {}): Promise<LauncherPod> {
    this.#podsStarted += 1;
    const pod = await LauncherPod.start({
      node: this.lab.node(place),
      name: `pod${this.#podsStarted}`,
      number: this.#podsStarted,
      template: await ensureRoot(options.suite ?? DEFAULT_SUITE),
      sidecarTemplate: await ensureRoot(DEFAULT_SUITE),
      disks: options.disks ?? [],
      ...(options.bootDirectory === undefined ? {} : { bootDirectory: options.bootDirectory }),
      ...(options.publicLimitBytes === undefined ? {} : { publicLimitBytes: options.publicLimitBytes }),
      ...(options.hugePages === undefined ? {} : { hugePages: options.hugePages }),
    });
    this.#pods.push({ pod, place });
    return pod;
  }

  /** The node that a pod is on. */
  placeOf(pod: LauncherPod): NodeName {
    const entry = this.#pods.find((candidate) => candidate.pod === pod);
    if (entry === undefined) throw new Error(`pod ${pod.name} is not of this lab`);
    return entry.place;
  }

  /** A pod as a side of a migration. */
  side(pod: LauncherPod): MigrationSide {
    const place = this.placeOf(pod);
    return { pod, handler: this.#handlers[place], address: MIGRATION_ADDRESS[place] };
  }

  /**
   * Lets the pods of both nodes reach a hub that listens on a unix socket of this machine (the test's own process):
   * at their gateway's address and HUB_PORT, byte for byte. Sidecars dial it as they would dial the operator's Service.
   */
  async exposeHub(socket: string): Promise<void> {
    for (const place of ['source', 'target'] as const) {
      const listen = `tcp:0.0.0.0:${HUB_PORT}`;
      const process = await this.lab.node(place).spawn({
        name: 'hub',
        argv: [this.#proxyProgram, '--listen', listen, '--dial', `unix:${socket}`, '--no-tls'],
      });
      await process.waitForOutput(/"listening"/, HUB_READY_TIMEOUT_MS);
    }
  }

  /** Ends and removes everything. */
  async close(options: { keepLogsIn?: string } = {}): Promise<void> {
    await this.lab.close(options);
  }
}
