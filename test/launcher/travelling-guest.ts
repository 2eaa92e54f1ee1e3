// A guest that goes from pod to pod through libvirt, as KubeVirt moves it: every migration gets a fresh pod with a sidecar on
// the other node, and the pod that was left ends. Fault runs and cases of the lab are made of its journeys.

import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ArmMode } from '../../control/messages.ts';
import { compileSidecar } from '../../sidecar/compile.ts';
import { ensureGuestDisk, ensureGuestKernel } from '../lab/guest-image.ts';
import { GuestObserver } from '../lab/guest-observer.ts';
import type { GuestProfile } from '../lab/guest-profiles.ts';
import type { NodeName } from '../lab/network.ts';
import { startAgentSidecar } from './agent-sidecar.ts';
import type { Container } from './container.ts';
import { type CoordinatedPod, LabCoordinator } from './coordinator.ts';
import { GUEST_DOMAIN, guestDomain, layBootDirectory } from './guest-domain.ts';
import { LauncherLab } from './launcher-lab.ts';
import { type LauncherPod, type PodDisk, SOCKET_DIRECTORY } from './launcher-pod.ts';
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

export interface TravelOptions {
  readonly guest: TravellerProfile;
  readonly linkMbit: number;
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
  readonly #volume: Awaited<ReturnType<LauncherLab['addVolume']>>;
  readonly #options: TravelOptions;

  private constructor(parts: {
    readonly lab: LauncherLab;
    readonly observer: GuestObserver;
    readonly coordinator: LabCoordinator;
    readonly image: string;
    readonly bootDirectory: string;
    readonly volume: Awaited<ReturnType<LauncherLab['addVolume']>>;
    readonly options: TravelOptions;
  }) {
    this.lab = parts.lab;
    this.observer = parts.observer;
    this.coordinator = parts.coordinator;
    this.#image = parts.image;
    this.#bootDirectory = parts.bootDirectory;
    this.#volume = parts.volume;
    this.#options = parts.options;
    // Replaced by start() before anybody sees it.
    this.home = undefined as unknown as Home;
  }

  /** Lab, coordinator, and a booted guest in a pod of the node `source`, its index made. Nothing is left when it throws. */
  static async start(options: TravelOptions): Promise<TravellingGuest> {
    const [kernel, disk] = await Promise.all([ensureGuestKernel(), ensureGuestDisk()]);
    const lab = await LauncherLab.start({ linkMbit: options.linkMbit });
    let coordinator: LabCoordinator | undefined;
    const observer = new GuestObserver();
    try {
      const image = join(lab.lab.run.path, 'image');
      await compileSidecar(image);
      coordinator = await LabCoordinator.start(join(lab.lab.run.path, 'hub'));
      await lab.exposeHub(coordinator.socket);
      const volume = await lab.addVolume(VOLUME, disk.path);
      const bootDirectory = await layBootDirectory(join(lab.lab.run.path, 'boot'), kernel);
      const guest = new TravellingGuest({
        lab,
        observer,
        coordinator,
        image,
        bootDirectory,
        volume,
        options,
      });
      guest.home = await guest.newHome('source');
      await guest.home.pod.defineDomain(guestDomain(options.guest));
      await guest.home.pod.startDomain(GUEST_DOMAIN);
      await observer.waitFor('become ready', (beacon) => beacon.ready, READY_TIMEOUT_MS);
      await guest.waitForIndex(guest.home);
      return guest;
    } catch (error) {
      await observer.close();
      await coordinator?.stop();
      await lab.close();
      throw error;
    }
  }

  /** For tests that look into a sidecar: the image's directory, and the volume of each node. */
  get image(): string {
    return this.#image;
  }

  volumeOf(place: NodeName): PodDisk {
    return this.#volume[place];
  }

  /** The node that the guest is not on. */
  get elsewhere(): NodeName {
    return this.lab.placeOf(this.home.pod) === 'source' ? 'target' : 'source';
  }

  /** A fresh pod, and its sidecar connected to the coordinator. */
  async newHome(place: NodeName = this.elsewhere, options: HomeOptions = {}): Promise<Home> {
    const { publicLimitBytes } = this.#options;
    const pod = await this.lab.startPod(place, {
      disks: [this.#volume[place]],
      bootDirectory: this.#bootDirectory,
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
      env: { ...EAGER_INDEX, ...env },
    });
    await this.coordinator.waitForConnection(home.admitted);
  }

  /** Without an index a source has nothing to refer to. */
  async waitForIndex(home: Home): Promise<void> {
    const deadlineMs = Date.now() + SAMPLED_TIMEOUT_MS;
    while (!/"index sampled"|"outcome":"accelerated"/.test(await this.logOf(home))) {
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
      volumes: [VOLUME],
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

  async close(keepLogsIn?: string): Promise<void> {
    await this.observer.close();
    await this.coordinator.stop();
    await this.lab.close(keepLogsIn === undefined ? {} : { keepLogsIn });
  }
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
