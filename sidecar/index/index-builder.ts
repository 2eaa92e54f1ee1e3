// Adds a volume to a block index: in full, or by sampling one block in S. Reads are uncached where the volume is, within a
// byte-per-second budget, and counted. Shares its thread with pipelines: at most 256 blocks (under half a millisecond) are hashed between two
// turns of the event loop. A volume that fails is left alone, with the reason in the result; what was indexed of it stays, as a hint.
import { BlockReader, type BlockRun, type ReadOutcome } from '../nas/block-reader.ts';
import type { NasError } from '../nas/nas-error.ts';
import { ReadBudget } from '../nas/read-budget.ts';
import { BLOCK_BYTES, type BlockVolume } from '../nas/volume.ts';
import { hashPages } from './block-hashes.ts';
import { ADDED, type BlockIndex, ZERO_PAGE } from './block-index.ts';
import { PageHasher } from './page-hash.ts';

export interface BuildOptions {
  readonly index: BlockIndex;
  readonly volume: BlockVolume;
  /** The volume's number in the index. */
  readonly number: number;
  /** Most bytes a second to read; 0, the default, for no limit. */
  readonly bytesPerSecond?: number;
  readonly signal?: AbortSignal;
  /** Called at most four times a second, and at the end. */
  readonly onProgress?: (progress: BuildProgress) => void;
}

export interface SampleOptions extends BuildOptions {
  /** One block in this many is read. With what is read around hits during a migration, 8 and 10 find the same of a guest's files. */
  readonly oneIn?: number;
}

export interface BuildProgress {
  readonly bytesRead: number;
  /** What will have been read at the end; grows less certain for a sample, which skips what looks empty. */
  readonly bytesTotal: number;
  /** Blocks in the index. */
  readonly blocks: number;
  readonly bytesPerSecond: number;
  /** At the present rate; Infinity before there is one. */
  readonly secondsLeft: number;
}

export interface BuildResult {
  readonly bytesRead: number;
  readonly reads: number;
  readonly blocksAdded: number;
  readonly zeroBlocks: number;
  readonly seconds: number;
  readonly aborted: boolean;
  /** Why the volume was given up, or null. */
  readonly failure: NasError | null;
}

/** 1 MiB: one NFS request, and 256 blocks to hash at a time. */
const FULL_READ_BLOCKS = 256;
/** Reads ahead of the hashing. More would only take the NAS from others. */
const FULL_READS_AHEAD = 3;
/** Samples are single blocks, so parallelism is what makes them fast: 16 at a 0.5 ms round trip are 130 MB/s. */
const SAMPLES_IN_FLIGHT = 16;
const SAMPLES_A_REQUEST = 64;
const SAMPLE_REQUESTS_AHEAD = 2;
/** One probe in 1 MiB, or a little less, tells whether the region is in use. File systems allocate in larger stretches than that. */
const MOST_REGION_BLOCKS = 256;
const DEFAULT_ONE_IN = 10;
/** Nobody waits for these reads, so a slow NAS is let be; only a dead one ends the build. */
const READ_DEADLINE_MS = 20_000;
const PROGRESS_MS = 250;

/** Reads every block, in order. Resolves also when aborted or when the volume fails. */
export async function buildFull(options: BuildOptions): Promise<BuildResult> {
  const build = new Build(options, FULL_READ_BLOCKS, FULL_READS_AHEAD, FULL_READS_AHEAD);
  const blocks = options.volume.blockCount;
  build.bytesTotal = blocks * BLOCK_BYTES;
  for (let block = 0; block < blocks && !build.over; block += FULL_READ_BLOCKS) {
    const count = Math.min(FULL_READ_BLOCKS, blocks - block);
    await build.request([{ volume: 0, block, count, offset: 0, stride: BLOCK_BYTES }]);
  }
  return build.finish();
}

/**
 * Reads one block in `oneIn`, where a volume looks used: first one probe per MiB, then the samples of each MiB whose probe or a neighbour's
 * was not zero. A disk's empty part so costs 0.4 % of its size instead of 10 %.
 */
export async function buildSample(options: SampleOptions): Promise<BuildResult> {
  const oneIn = options.oneIn ?? DEFAULT_ONE_IN;
  if (!Number.isInteger(oneIn) || oneIn < 1)
    throw new RangeError(`one block in ${oneIn} cannot be sampled: use a whole number from 1 on`);
  const regionBlocks = oneIn * Math.max(1, Math.floor(MOST_REGION_BLOCKS / oneIn));
  const build = new Build(options, 1, SAMPLES_IN_FLIGHT, SAMPLE_REQUESTS_AHEAD);
  const blocks = options.volume.blockCount;
  build.bytesTotal = Math.ceil(blocks / oneIn) * BLOCK_BYTES;
  const regions = Math.ceil(blocks / regionBlocks);
  const used = new Uint8Array(regions);
  build.onSample = (block, zero) => {
    if (!zero) used[Math.floor(block / regionBlocks)] = 1;
  };
  for (let region = 0; region < regions && !build.over; region++) await build.sample(region * regionBlocks);
  await build.drain();
  build.onSample = null;
  const looksUsed = (region: number) =>
    used[region] === 1 || used[region - 1] === 1 || used[region + 1] === 1;
  const skipped = used.filter((_, region) => !looksUsed(region)).length;
  build.bytesTotal -= skipped * (regionBlocks / oneIn - 1) * BLOCK_BYTES;
  for (let region = 0; region < regions && !build.over; region++) {
    if (!looksUsed(region)) continue;
    const end = Math.min((region + 1) * regionBlocks, blocks);
    for (let block = region * regionBlocks + oneIn; block < end && !build.over; block += oneIn) {
      await build.sample(block);
    }
  }
  return build.finish();
}

/** One build under way: a few requests ahead, each with a buffer of its own, hashed in the order of their sending. */
class Build {
  bytesTotal = 0;
  onSample: ((block: number, zero: boolean) => void) | null = null;
  readonly #options: BuildOptions;
  readonly #reader: BlockReader;
  readonly #budget: ReadBudget;
  readonly #hasher: PageHasher;
  readonly #startedAt = performance.now();
  readonly #spare: Uint8Array[] = [];
  readonly #ahead: { runs: readonly BlockRun[]; buffer: Uint8Array; outcome: Promise<ReadOutcome> }[] = [];
  #failure: NasError | null = null;
  #samples: BlockRun[] = [];
  #blocksAdded = 0;
  #zeroBlocks = 0;
  #reportedAt = 0;

  constructor(options: BuildOptions, readBlocks: number, inFlight: number, requestsAhead: number) {
    this.#options = options;
    this.#reader = new BlockReader({
      volumes: [options.volume],
      maxInFlight: inFlight,
      gapBlocks: 0,
      maxReadBytes: readBlocks * BLOCK_BYTES,
      deadlineMs: READ_DEADLINE_MS,
    });
    this.#budget = new ReadBudget(options.bytesPerSecond ?? 0);
    this.#hasher = new PageHasher(options.index.seed);
    const requestBlocks = Math.max(readBlocks, SAMPLES_A_REQUEST);
    for (let i = 0; i < requestsAhead; i++) this.#spare.push(new Uint8Array(requestBlocks * BLOCK_BYTES));
    options.signal?.addEventListener('abort', this.#abort);
  }

  /** Whether no more is to be read. */
  get over(): boolean {
    return this.#options.signal?.aborted === true || this.#failure !== null;
  }

  /** Asks for one block; a request is made of many. */
  async sample(block: number): Promise<void> {
    this.#samples.push({
      volume: 0,
      block,
      count: 1,
      offset: this.#samples.length * BLOCK_BYTES,
      stride: BLOCK_BYTES,
    });
    if (this.#samples.length < SAMPLES_A_REQUEST) return;
    const runs = this.#samples;
    this.#samples = [];
    await this.request(runs);
  }

  async request(runs: readonly BlockRun[]): Promise<void> {
    await this.#budget.take(blocksOf(runs) * BLOCK_BYTES, this.#options.signal);
    if (this.#options.signal?.aborted) return;
    if (this.#spare.length === 0) await this.#hashOldest();
    const buffer = this.#spare.pop() as Uint8Array;
    this.#ahead.push({ runs, buffer, outcome: this.#reader.readBlocks(runs, buffer) });
  }

  /** Waits until everything asked for is hashed. */
  async drain(): Promise<void> {
    if (this.#samples.length > 0) {
      const runs = this.#samples;
      this.#samples = [];
      if (!this.over) await this.request(runs);
    }
    while (this.#ahead.length > 0) await this.#hashOldest();
  }

  async finish(): Promise<BuildResult> {
    await this.drain();
    this.#options.signal?.removeEventListener('abort', this.#abort);
    this.#reader.close();
    const { bytesRead, reads } = this.#reader.stats;
    this.bytesTotal = bytesRead;
    this.#report(true);
    return {
      bytesRead,
      reads,
      blocksAdded: this.#blocksAdded,
      zeroBlocks: this.#zeroBlocks,
      seconds: (performance.now() - this.#startedAt) / 1000,
      aborted: this.#options.signal?.aborted === true,
      failure: this.#failure,
    };
  }

  async #hashOldest(): Promise<void> {
    const request = this.#ahead.shift();
    if (request === undefined) return;
    const outcome = await request.outcome;
    this.#spare.push(request.buffer);
    if (this.#options.signal?.aborted) return;
    this.#failure ??= outcome.failure;
    // A request fills its buffer from the beginning. What could not be read is hashed too, and not used.
    const { hi, lo } = hashPages(this.#hasher, request.buffer, blocksOf(request.runs));
    let page = 0;
    for (const run of request.runs) {
      for (let i = 0; i < run.count; i++, page++) {
        if (isMissing(outcome, page)) continue;
        const zero = this.#addBlock(run.block + i, hi[page] as number, lo[page] as number);
        this.onSample?.(run.block + i, zero);
      }
    }
    this.#report(false);
  }

  #addBlock(block: number, hi: number, lo: number): boolean {
    const result = this.#options.index.add(this.#options.number, block, hi, lo);
    if (result === ADDED) this.#blocksAdded++;
    else if (result === ZERO_PAGE) this.#zeroBlocks++;
    return result === ZERO_PAGE;
  }

  readonly #abort = (): void => this.#reader.close();

  #report(last: boolean): void {
    const { onProgress, index } = this.#options;
    const now = performance.now();
    if (onProgress === undefined || (!last && now - this.#reportedAt < PROGRESS_MS)) return;
    this.#reportedAt = now;
    const { bytesRead } = this.#reader.stats;
    const bytesPerSecond = bytesRead / Math.max((now - this.#startedAt) / 1000, 0.001);
    const bytesTotal = Math.max(this.bytesTotal, bytesRead);
    const left = bytesTotal - bytesRead;
    const secondsLeft = left === 0 ? 0 : left / bytesPerSecond;
    onProgress({ bytesRead, bytesTotal, blocks: index.count, bytesPerSecond, secondsLeft });
  }
}

function blocksOf(runs: readonly BlockRun[]): number {
  return runs.reduce((sum, run) => sum + run.count, 0);
}

function isMissing(outcome: ReadOutcome, page: number): boolean {
  return outcome.missing !== null && ((outcome.missing[page >> 3] as number) & (1 << (page & 7))) !== 0;
}
