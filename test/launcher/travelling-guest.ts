// A guest that goes from pod to pod through libvirt, as KubeVirt moves it: every migration gets a fresh pod with a sidecar on
// the other node, and the pod that was left ends. Fault runs and cases of the lab are made of its journeys.

import { lstat, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ArmMode } from '../../control/messages.ts';
import { compileProgram } from '../../hack/ship/compile.ts';
import { ensureGuestDisk, ensureGuestKernel, type GuestKernel } from '../lab/guest-image.ts';
import { GuestObserver } from '../lab/guest-observer.ts';
import type { GuestProfile } from '../lab/guest-profiles.ts';
import type { NodeName } from '../lab/network.ts';
import { QEMU_OWNER } from '../lab/node.ts';
import type { RootSuite } from '../lab/roots.ts';
import { runCommand } from '../lab/run-command.ts';
import { startAgentSidecar } from './agent-sidecar.ts';
import type { Container } from './container.ts';
import { type CoordinatedPod, LabCoordinator } from './coordinator.ts';
import { type DomainChoices, GUEST_DOMAIN, guestDomain, layBootDirectory } from './guest-domain.ts';
import { LauncherLab } from './launcher-lab.ts';
import { type LauncherPod, type PodDisk, SOCKET_DIRECTORY } from './launcher-pod.ts';
import { type LibvirtState, restoreGuest } from './libvirt-state.ts';
import type { MigrationFlags, MigrationResult } from './live-migration.ts';
import { RecordedMigration, type Recording } from './recorded-migration.ts';

export const VOLUME = 'rootdisk';
const READY_TIMEOUT_MS = 180_000;
const SAMPLED_TIMEOUT_MS = 60_000;
/** A result comes at the latest a second after the last connection's end. */
const RESULT_WITHIN_MS = 5_000;
const RESULT_POLL_MS = 25;
/** Sampling begins at once and is not slowed down: a journey does not wait for what takes minutes in a cluster. */
const EAGER_INDEX = { NASMIG_INDEX_DELAY_MS: '0', NASMIG_INDEX_BYTES_PER_SECOND: String(2 ** 30) };

export type TravellerProfile = Pick<
  GuestProfile,
  'memoryMiB' | 'readMiB' | 'randomMiB' | 'textMiB' | 'churnMiB'
>;

/** A guest that is booted. */
export interface BootedGuest {
  readonly profile: TravellerProfile;
  readonly domain?: DomainChoices;
  /** Default: the lab's. */
  readonly kernel?: GuestKernel;
}

export interface TravelOptions {
  /** Booted, or begun from a saved state. */
  readonly guest: BootedGuest | { readonly saved: LibvirtState };
  readonly linkMbit: number;
  /** Which QEMU and libvirt the pods of a node have. Default trixie. */
  readonly suites?: Readonly<Record<NodeName, RootSuite>>;
  /** Of every sidecar, beside what its pod says. */
  readonly sidecarEnv?: Readonly<Record<string, string>>;
  /** Volumes beside the guest's first: image files of this machine, copied to the NAS. */
  readonly moreVolumes?: readonly { readonly name: string; readonly image: string }[];
  /** Size of each pod's `public` volume, when it must be possible to fill it. */
  readonly publicLimitBytes?: number;
}

/** A pod that can have the guest, and its sidecar. */
export interface Home {
  readonly pod: LauncherPod;
  readonly admitted: CoordinatedPod;
  /** The present one; a sidecar that died has a successor. */
  sidecar: Container | undefined;
}

export interface HomeOptions {
  /** Without it a pod that was never injected. Default true. */
  readonly sidecar?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

export interface JourneyOptions {
  readonly flags?: MigrationFlags;
  /** What ARM says beside it. */
  readonly mode?: ArmMode;
  readonly downtimeLimitMs?: number;
  /** Both sidecars are told of it. Default true. */
  readonly armed?: boolean;
  readonly gate?: (listen: string, dial: string) => Promise<void>;
}

/** How a journey ended, when nothing was done to it. */
export interface Journey {
  readonly result: MigrationResult;
  readonly recording: Recording;
  /** The outcome in the source sidecar's result; undefined when it told none. */
  readonly outcome: string | undefined;
  readonly reason: string | undefined;
}

export class TravellingGuest {
  readonly lab: LauncherLab;
  readonly observer: GuestObserver;
  coordinator: LabCoordinator;
  /** Where the guest is. */
  home: Home;
  readonly #image: string;
  readonly #bootDirectory: string;
  readonly #disk: string;
  readonly #volumes: readonly Readonly<Record<NodeName, PodDisk>>[];
  readonly #options: TravelOptions;

  private constructor(parts: {
    readonly lab: LauncherLab;
    readonly observer: GuestObserver;
    readonly coordinator: LabCoordinator;
    readonly image: string;
    readonly bootDirectory: string;
    readonly disk: string;
    readonly volumes: readonly Readonly<Record<NodeName, PodDisk>>[];
    readonly options: TravelOptions;
  }) {
    this.lab = parts.lab;
    this.observer = parts.observer;
    this.coordinator = parts.coordinator;
    this.#image = parts.image;
    this.#bootDirectory = parts.bootDirectory;
    this.#disk = parts.disk;
    this.#volumes = parts.volumes;
    this.#options = parts.options;
    // Replaced by start() before anybody sees it.
    this.home = undefined as unknown as Home;
  }

  /** Lab, coordinator, and a guest that runs in a pod of the node `source`, its index made. Nothing is left when it throws. */
  static async start(options: TravelOptions): Promise<TravellingGuest> {
    const lab = await LauncherLab.start({ linkMbit: options.linkMbit });
    let coordinator: LabCoordinator | undefined;
    const observer = new GuestObserver();
    try {
      const image = join(lab.lab.run.path, 'image');
      await compileProgram('sidecar', image);
      coordinator = await LabCoordinator.start(join(lab.lab.run.path, 'hub'));
      await lab.exposeHub(coordinator.socket);
      const { disk, bootDirectory } = await guestFiles(options, join(lab.lab.run.path, 'boot'));
      const volumes = [await lab.addVolume(VOLUME, disk)];
      for (const { name, image: file } of options.moreVolumes ?? []) {
        volumes.push(await lab.addVolume(name, file));
      }
      const guest = new TravellingGuest({
        ...{ lab, observer, coordinator, image },
        ...{ bootDirectory, disk, volumes, options },
      });
      await guest.#begin();
      return guest;
    } catch (error) {
      await observer.close();
      await coordinator?.stop();
      await lab.close();
      throw error;
    }
  }

  /** Ends the guest where it is, and begins it anew in a fresh pod of the node `source`, with its disk as it was. */
  async beginAgain(): Promise<void> {
    await this.home.pod.virsh(['destroy', GUEST_DOMAIN]);
    await this.leave(this.home);
    const file = this.lab.lab.nas.file(`${VOLUME}.img`);
    await runCommand(['cp', '--sparse=always', this.#disk, file]);
    await runCommand(['chown', `${QEMU_OWNER.uid}:${QEMU_OWNER.gid}`, file]);
    this.observer.forget();
    await this.#begin();
  }

  async #begin(): Promise<void> {
    const { guest } = this.#options;
    this.home = await this.newHome('source');
    const { pod } = this.home;
    if ('saved' in guest) {
      await restoreGuest(pod, guest.saved);
    } else {
      await pod.defineDomain(guestDomain(guest.profile, guest.domain));
      await pod.startDomain(GUEST_DOMAIN);
    }
    await this.observer.waitFor('become ready', (beacon) => beacon.ready, READY_TIMEOUT_MS);
    await this.waitForIndex(this.home);
  }

  /** For tests that look into a sidecar: the image's directory, and the volume of each node. */
  get image(): string {
    return this.#image;
  }

  volumeOf(place: NodeName): PodDisk {
    const [first] = this.#volumes;
    if (first === undefined) throw new Error('unreachable: start() adds a volume');
    return first[place];
  }

  /** The node that the guest is not on. */
  get elsewhere(): NodeName {
    return this.lab.placeOf(this.home.pod) === 'source' ? 'target' : 'source';
  }

  /** A fresh pod, and its sidecar connected to the coordinator. */
  async newHome(place: NodeName = this.elsewhere, options: HomeOptions = {}): Promise<Home> {
    const { guest, publicLimitBytes, suites } = this.#options;
    const pod = await this.lab.startPod(place, {
      disks: this.#volumes.map((volume) => volume[place]),
      bootDirectory: this.#bootDirectory,
      ...(suites === undefined ? {} : { suite: suites[place] }),
      ...('saved' in guest || guest.domain?.hugePages !== true ? {} : { hugePages: true }),
      ...(publicLimitBytes === undefined ? {} : { publicLimitBytes }),
    });
    await pod.attachObserver(this.observer);
    const home: Home = { pod, admitted: await this.coordinator.admit(pod.name), sidecar: undefined };
    if (options.sidecar ?? true) await this.startSidecar(home, options.env);
    return home;
  }

  /** Starts a pod's sidecar: the first, or, as the kubelet does, the successor of one that died. */
  async startSidecar(home: Home, env: Readonly<Record<string, string>> = {}): Promise<void> {
    home.sidecar = await startAgentSidecar(home.pod, home.admitted, {
      image: this.#image,
      env: { ...EAGER_INDEX, ...this.#options.sidecarEnv, ...env },
    });
    await this.coordinator.waitForConnection(home.admitted);
  }

  /** Without an index a source has nothing to refer to. */
  async waitForIndex(home: Home): Promise<void> {
    const deadlineMs = Date.now() + SAMPLED_TIMEOUT_MS;
    while (!/"index (sampled|built)"|"outcome":"accelerated"/.test(await this.logOf(home))) {
      if (Date.now() > deadlineMs)
        throw new Error(`${home.pod.name}: no index within ${SAMPLED_TIMEOUT_MS} ms`);
      await new Promise((resolve) => setTimeout(resolve, RESULT_POLL_MS));
    }
  }

  /** Prepares a migration to `target`: coordinated (unless not armed), sockets and recorders in place. */
  async prepare(target: Home, options: JourneyOptions = {}): Promise<RecordedMigration> {
    const recorded = new RecordedMigration(this.lab, {
      source: this.home.pod,
      target: target.pod,
      domain: GUEST_DOMAIN,
      ...(options.flags === undefined ? {} : { flags: options.flags }),
      ...(options.gate === undefined ? {} : { gate: options.gate }),
    });
    if (options.armed ?? true) this.coordinate(recorded.migrationUid, target, options);
    await recorded.prepare();
    return recorded;
  }

  coordinate(migrationUid: string, target: Home, options: JourneyOptions = {}): void {
    this.coordinator.coordinate({
      migrationUid,
      source: this.home.admitted,
      target: target.admitted,
      volumes: [VOLUME, ...(this.#options.moreVolumes ?? []).map(({ name }) => name)],
      ...(options.mode === undefined ? {} : { mode: options.mode }),
      ...(options.downtimeLimitMs === undefined ? {} : { downtimeLimitMs: options.downtimeLimitMs }),
    });
  }

  /** A whole migration to a fresh pod, or to `to`; the old one ends. Throws when it fails. */
  async travel(options: JourneyOptions = {}, to?: Home): Promise<Journey> {
    const target = to ?? (await this.newHome());
    const recorded = await this.prepare(target, options);
    const from = this.home;
    const result = await recorded.perform();
    const recording = await recorded.finish();
    if (!result.succeeded) throw new Error(`the migration failed: ${result.error}`);
    const told = (options.armed ?? true) ? await this.resultOf(from, recorded.migrationUid) : undefined;
    await this.moveIn(target);
    return { result, recording, outcome: told?.outcome, reason: told?.reason };
  }

  /** The guest is in `target` now; the pod that it left ends. */
  async moveIn(target: Home): Promise<void> {
    const left = this.home;
    this.home = target;
    await this.leave(left);
  }

  /** Ends a pod that has no guest, or never had. */
  async leave(home: Home): Promise<void> {
    await home.sidecar?.stop();
    await home.pod.stop();
  }

  /** The guest goes on, and nothing in its memory is wrong; repeated counters since the observer's last mark. */
  async checkGuest(timeoutMs = 30_000): Promise<'ok' | 'failed' | 'none'> {
    await this.observer.waitForNext(timeoutMs);
    await this.observer.command({ kind: 'verifyAll' }, timeoutMs);
    return this.observer.report().selfCheck;
  }

  /** What a sidecar told of a migration at its end, by its log; undefined when it is gone or told nothing. */
  async resultOf(
    home: Home,
    migrationUid: string,
    withinMs = RESULT_WITHIN_MS,
  ): Promise<{ outcome: string; reason: string | undefined; detail: string | undefined } | undefined> {
    const deadlineMs = Date.now() + withinMs;
    for (;;) {
      const told = resultIn(await this.logOf(home), migrationUid);
      if (told !== undefined || Date.now() > deadlineMs) return told;
      if (home.sidecar?.process.running !== true && Date.now() > deadlineMs - withinMs / 2) return told;
      await new Promise((resolve) => setTimeout(resolve, RESULT_POLL_MS));
    }
  }

  /** The log of a pod's present sidecar. */
  async logOf(home: Home): Promise<string> {
    return home.sidecar === undefined ? '' : readFile(home.sidecar.process.logPath, 'utf8').catch(() => '');
  }

  /** Names in the directory of migration sockets. */
  async socketsOf(home: Home): Promise<string[]> {
    return readdir(join(home.pod.publicDirectoryFromHost, SOCKET_DIRECTORY)).catch(() => []);
  }

  /** The same, with the inode of each. */
  async socketInodes(home: Home): Promise<Map<string, number>> {
    const directory = join(home.pod.publicDirectoryFromHost, SOCKET_DIRECTORY);
    const inodes = new Map<string, number>();
    for (const name of await this.socketsOf(home)) {
      const found = await lstat(join(directory, name)).catch(() => undefined);
      if (found !== undefined) inodes.set(name, found.ino);
    }
    return inodes;
  }

  async close(keepLogsIn?: string): Promise<void> {
    await this.observer.close();
    await this.coordinator.stop();
    await this.lab.close(keepLogsIn === undefined ? {} : { keepLogsIn });
  }
}

/** The disk that the guest begins with, and the directory that its pods see as their boot directory. */
async function guestFiles(
  { guest }: TravelOptions,
  directory: string,
): Promise<{ disk: string; bootDirectory: string }> {
  if ('saved' in guest) return { disk: guest.saved.diskTemplate, bootDirectory: guest.saved.directory };
  const [kernel, disk] = await Promise.all([guest.kernel ?? ensureGuestKernel(), ensureGuestDisk()]);
  return { disk: disk.path, bootDirectory: await layBootDirectory(directory, kernel) };
}

function resultIn(
  log: string,
  migrationUid: string,
): { outcome: string; reason: string | undefined; detail: string | undefined } | undefined {
  for (const line of log.split('\n')) {
    if (!line.includes('"migration over"') || !line.includes(migrationUid)) continue;
    const { outcome, reason, detail } = JSON.parse(line) as Record<string, string | undefined>;
    if (outcome !== undefined) return { outcome, reason, detail };
  }
  return undefined;
}
