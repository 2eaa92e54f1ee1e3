// Keeps the block index of this pod's volumes. It is inherited, for free, from an incoming migration; without one, and a day after it, it is
// sampled, or read in full where the VM's policy says so, in the background, slowly, some time after the start. While a
// migration is armed nothing is read for it: the NAS and the CPU are for the migration. The code that builds is loaded when it is needed, so that an idle sidecar stays small.

import type { Configure, IndexBuild, IndexStatus } from '../../control/messages.ts';
import type { BlockIndex } from '../index/block-index.ts';
import type { BuildProgress } from '../index/index-builder.ts';
import type { NasError } from '../nas/nas-error.ts';
import type { Volume } from '../nas/volume.ts';
import type { AgentConfig } from './agent-config.ts';

/** After a volume has failed (a NAS that was away) it is read again so much later. */
const RETRY_MS = 10 * 60_000;
/** After each further failure it is twice as much, up to this. */
const RETRY_MOST_MS = 3_600_000;

/** The guest reads other files in time, which nobody looks for in an inherited index: after this long it is added to as if there were none. */
const RENEW_AFTER_MS = 24 * 3_600_000;

/** A full build may take hours: how far it is, is logged so often. A sample of a small disk is done before. */
const PROGRESS_LOG_MS = 30_000;

export interface IndexKeeperOptions {
  readonly config: AgentConfig['index'];
  /** The volumes that can be read now. */
  readonly volumes: () => readonly Volume[];
  readonly log: (event: string, values: Readonly<Record<string, unknown>>) => void;
  /** Nothing more is being built: who waits for the index need not wait any longer. */
  readonly onReady?: () => void;
  /** Shorter in tests. */
  readonly progressLogMs?: number;
  /** Shorter in tests. */
  readonly renewAfterMs?: number;
  /** Shorter in tests. */
  readonly retryMs?: number;
}

/** How long to wait after so many builds in a row in which a volume failed, the last one included. */
export function retryDelayMs(failedBuilds: number, firstMs = RETRY_MS): number {
  return Math.min(firstMs * 2 ** (failedBuilds - 1), RETRY_MOST_MS);
}

export class IndexKeeper {
  readonly #options: IndexKeeperOptions;
  #index: BlockIndex | undefined;
  /** The volumes that #index is about. */
  #indexed: readonly Volume[] = [];
  #leftOut: readonly string[] = [];
  /** Read to the end, as #build asks for it, since the index was made or inherited. */
  readonly #done = new Set<Volume>();
  /** Why a volume could not be read to its end when it was tried last. */
  readonly #failures = new Map<Volume, NasError>();
  #failedBuilds = 0;
  /** Sampled to the end, or inherited. */
  #complete = false;
  /** When what was inherited is added to. */
  #renewAtMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #sampling: AbortController | undefined;
  #pauses = 0;
  #volumesChangedMeanwhile = false;
  #build: IndexBuild;
  #bytesPerSecond: number;
  /** A hit stands for so many: the blocks between two samples are not in the index. From a sample's beginning, for it may be stopped. */
  #sampledOneIn = 1;
  #stopped = false;
  #buildSeconds: number | undefined;
  #nasReadBytes = 0;
  #countSeen = 0;
  #changedAtMs = performance.now();

  constructor(options: IndexKeeperOptions) {
    this.#options = options;
    this.#build = options.config.build;
    this.#bytesPerSecond = options.config.bytesPerSecond;
  }

  /** Samples after the configured delay, unless an incoming migration brings the index. */
  start(): void {
    this.#buildIn(this.#options.config.delayMs);
  }

  /** What HELLO and stats say of it. */
  status(): IndexStatus {
    const count = this.#index?.count ?? 0;
    if (count !== this.#countSeen) {
      this.#countSeen = count;
      this.#changedAtMs = performance.now();
    }
    return {
      blocks: count,
      bytes: this.#index?.stats.bytes ?? 0,
      ageSeconds: Math.round((performance.now() - this.#changedAtMs) / 1000),
      ready: this.#complete || this.#build === 'inherit' || this.#options.config.memoryBytes === 0,
      ...(this.#buildSeconds === undefined ? {} : { buildSeconds: Math.round(this.#buildSeconds) }),
      blockStandsFor: this.grows ? this.#sampledOneIn : 1,
      nasReadBytes: this.#nasReadBytes,
    };
  }

  /**
   * The index for a migration, made empty when there is none, and the volumes it is about, by their numbers in it.
   * Undefined without a readable volume that fits, or with a budget that holds nothing.
   */
  async forMigration(): Promise<{ index: BlockIndex; volumes: readonly Volume[] } | undefined> {
    const index = await this.#ensureIndex();
    return index === undefined ? undefined : { index, volumes: this.#indexed };
  }

  /** Names of volumes that can be read, but have more blocks than the index can tell apart beside those of the others. */
  get leftOut(): readonly string[] {
    return this.#leftOut;
  }

  /** A migration is armed: sampling stops. To be followed by one resume(). */
  pause(): void {
    this.#pauses += 1;
    clearTimeout(this.#timer);
    this.#sampling?.abort();
  }

  resume(): void {
    this.#pauses -= 1;
    if (this.#pauses > 0) return;
    // What was inherited meanwhile serves until it is renewed; the volume that came is taken in then.
    if (this.#volumesChangedMeanwhile && this.#renewAtMs === undefined) {
      this.#volumesChangedMeanwhile = false;
      this.volumesChanged();
    } else this.#buildIn(this.#options.config.delayMs);
  }

  /** What the operator says of the VM's policy: from now on, and for what is under way. */
  configure({ build, nasReadBytesPerSecond }: Configure['index']): void {
    const bytesPerSecond = nasReadBytesPerSecond ?? this.#options.config.bytesPerSecond;
    if (build === this.#build && bytesPerSecond === this.#bytesPerSecond) return;
    const isMore = build === 'full' && this.#build !== 'full';
    this.#options.log('index configured', { build, bytesPerSecond });
    this.#build = build;
    this.#bytesPerSecond = bytesPerSecond;
    // A sample is not what is asked for any longer; what it found stays.
    if (isMore) {
      this.#complete = false;
      this.#readAllAgain();
    }
    this.#sampling?.abort();
    this.#buildIn(this.#options.config.delayMs);
  }

  /** What a hit in the index stands for: 1 for a full or inherited index, one in so many for a sampled one. */
  get hitsStandFor(): number {
    return this.#sampledOneIn;
  }

  /**
   * Whether a migration from here reads what lies around hits. Only of a sample: an inherited index has what was in the guest's cache
   * as a whole, also where it was a sample before.
   */
  get grows(): boolean {
    return this.#sampledOneIn > 1 && this.#build !== 'inherit';
  }

  /** An incoming migration has filled the index with the blocks that are in the guest's cache: no need to sample. */
  inherited(): void {
    this.#complete = true;
    this.#sampledOneIn = 1;
    this.#readAllAgain();
    this.#renewAtMs = this.#renewalMs();
    this.#buildIn(this.#options.config.delayMs);
    this.#options.onReady?.();
  }

  /** Not all at once, of VMs that a drain moved together. */
  #renewalMs(): number {
    return performance.now() + (this.#options.renewAfterMs ?? RENEW_AFTER_MS) * (1 + Math.random() / 4);
  }

  /** One more volume can be read: what is indexed so far does not know it. */
  volumesChanged(): void {
    if (this.#pauses > 0) {
      // The migration goes on with the index that it has; one that it makes from now on knows the volume.
      this.#volumesChangedMeanwhile = this.#index !== undefined;
      return;
    }
    // What a migration brought would not be made again; the volume is taken in when more is asked for.
    if (this.#build === 'inherit' && (this.#index?.count ?? 0) > 0) {
      this.#volumesChangedMeanwhile = true;
      return;
    }
    this.#sampling?.abort();
    this.#forget();
    this.#buildIn(this.#options.config.delayMs);
  }

  /** What is indexed does not know of all volumes: the next index is a new one. */
  #forget(): void {
    this.#volumesChangedMeanwhile = false;
    this.#index = undefined;
    this.#readAllAgain();
    this.#complete = false;
    this.#renewAtMs = undefined;
    this.#sampledOneIn = 1;
  }

  /** The next build reads every volume, whatever was read before. */
  #readAllAgain(): void {
    this.#done.clear();
    this.#failedBuilds = 0;
  }

  /** Counts what a migration read for an index, and not for a page. */
  addReadBytes(bytes: number): void {
    this.#nasReadBytes += bytes;
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#sampling?.abort();
  }

  async #ensureIndex(): Promise<BlockIndex | undefined> {
    if (this.#index !== undefined) return this.#index;
    const { config, log } = this.#options;
    if (config.memoryBytes === 0 || this.#options.volumes().length === 0) return undefined;
    const [{ addressable, BlockIndex }, { randomSeed }] = await Promise.all([
      import('../index/block-index.ts'),
      import('../index/page-hash.ts'),
    ]);
    if (this.#index !== undefined) return this.#index;
    const readable = this.#options.volumes();
    const volumes = addressable(readable);
    const leftOut = readable.filter((volume) => !volumes.includes(volume));
    this.#leftOut = leftOut.map(({ name }) => name);
    for (const { name, sizeBytes } of leftOut)
      log('volume left out', { volume: name, sizeBytes, reason: 'VolumeTooLarge' });
    if (volumes.length === 0) return undefined;
    try {
      this.#index = BlockIndex.create({
        volumes: volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
        seed: randomSeed(),
        budgetBytes: config.memoryBytes,
      });
      this.#indexed = volumes;
    } catch (error) {
      log('no index', { error: error instanceof Error ? error.message : String(error) });
    }
    return this.#index;
  }

  #buildIn(delayMs: number): void {
    clearTimeout(this.#timer);
    if (this.#stopped || this.#pauses > 0 || this.#options.config.memoryBytes === 0) return;
    if (this.#build === 'inherit' || (this.#complete && this.#renewAtMs === undefined)) return;
    const renewInMs = this.#complete ? (this.#renewAtMs ?? 0) - performance.now() : 0;
    this.#timer = setTimeout(() => void this.#make(), Math.max(delayMs, renewInMs));
    this.#timer.unref();
  }

  async #make(): Promise<void> {
    const stop = new AbortController();
    this.#sampling?.abort();
    this.#sampling = stop;
    const { config, log } = this.#options;
    try {
      const isFull = this.#build === 'full';
      if (this.#volumesChangedMeanwhile) this.#forget();
      const [index, { buildFull, buildSample }] = await Promise.all([
        this.#ensureIndex(),
        import('../index/index-builder.ts'),
      ]);
      if (index === undefined || stop.signal.aborted) return;
      if (!isFull) this.#sampledOneIn = config.oneIn;
      const read = { nasBytes: 0, seconds: 0 };
      for (const [number, volume] of this.#indexed.entries()) {
        if (this.#done.has(volume) || this.#hangs(volume)) continue;
        const options = {
          ...{ index, volume, number },
          bytesPerSecond: this.#bytesPerSecond,
          signal: stop.signal,
          onProgress: this.#progressLog(volume.name, isFull),
        };
        const built = isFull
          ? await buildFull(options)
          : await buildSample({ ...options, oneIn: config.oneIn });
        this.#nasReadBytes += built.bytesRead;
        read.nasBytes += built.bytesRead;
        read.seconds += built.seconds;
        if (built.aborted || index !== this.#index) return;
        if (built.failure !== null) this.#failures.set(volume, built.failure);
        else {
          this.#failures.delete(volume);
          this.#done.add(volume);
        }
      }
      this.#made(read, index, isFull);
    } catch (error) {
      log('index was not made', { error: error instanceof Error ? error.message : String(error) });
      this.#buildAgain();
    } finally {
      if (this.#sampling === stop) this.#sampling = undefined;
    }
  }

  #progressLog(volume: string, isFull: boolean): (progress: BuildProgress) => void {
    const { log, progressLogMs = PROGRESS_LOG_MS } = this.#options;
    let loggedMs = performance.now();
    return ({ bytesRead, bytesTotal, blocks, bytesPerSecond, secondsLeft }) => {
      const nowMs = performance.now();
      if (nowMs - loggedMs < progressLogMs || bytesRead === bytesTotal) return;
      loggedMs = nowMs;
      log(isFull ? 'index being built' : 'index being sampled', {
        volume,
        percent: Math.round((100 * bytesRead) / bytesTotal),
        ...{ blocks, nasBytes: bytesRead, bytesPerSecond: Math.round(bytesPerSecond) },
        ...(Number.isFinite(secondsLeft) ? { secondsLeft: Math.round(secondsLeft) } : {}),
      });
    };
  }

  /** A volume that failed is not asked for more while the reads of then have not come back: each would hold a thread. */
  #hangs(volume: Volume): boolean {
    return this.#failures.has(volume) && volume.readsUnderWay > 0;
  }

  #made(
    { nasBytes, seconds }: { nasBytes: number; seconds: number },
    index: BlockIndex,
    isFull: boolean,
  ): void {
    this.#buildSeconds = (this.#buildSeconds ?? 0) + seconds;
    if (isFull) this.#sampledOneIn = index.full ? this.#options.config.oneIn : 1;
    const missing = this.#indexed.filter((volume) => !this.#done.has(volume));
    this.#options.log(isFull ? 'index built' : 'index sampled', {
      blocks: index.count,
      nasBytes,
      seconds: Math.round(seconds * 10) / 10,
      full: index.full,
      failures: missing.map((volume) => this.#failures.get(volume)?.message ?? volume.name),
    });
    const isWhole = missing.length === 0;
    // What was inherited serves without what could not be read now; that is tried again when it would be renewed again.
    this.#renewAtMs = this.#complete && !isWhole ? this.#renewalMs() : undefined;
    this.#complete ||= isWhole;
    if (this.#complete) this.#options.onReady?.();
    if (isWhole) this.#failedBuilds = 0;
    else this.#buildAgain();
  }

  /** After a failure; what was inherited waits for its renewal at least. */
  #buildAgain(): void {
    this.#failedBuilds += 1;
    this.#buildIn(retryDelayMs(this.#failedBuilds, this.#options.retryMs));
  }
}
