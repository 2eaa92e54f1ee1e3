// Reads the blocks of a batch from the volumes: sorted, coalesced, in parallel, into a bounded slab of aligned memory, and from there to
// where each page belongs. Work is done per run, never per page, except for the copy of pages that do not lie together.
// Guarantees: a request always ends by its deadline, whatever the NAS does; after that nothing is written to its destination (but for
// readAligned, which says so); memory of the slab that the kernel may still write to is not used again before the kernel is done with it;
// at most maxInFlight reads are outstanding.
// Reads run in libuv's pool, whose size (UV_THREADPOOL_SIZE, before the process starts) must be at least the sum of all readers'.
import { LatencyHistogram } from './latency-histogram.ts';
import {
  BlockRangeError,
  NasClosedError,
  NasDeadlineError,
  type NasError,
  NasReadError,
  VolumeShortError,
} from './nas-error.ts';
import { ReadBudget } from './read-budget.ts';
import { alignedMemory, BLOCK_BYTES, type BlockVolume } from './volume.ts';

/** `count` consecutive blocks; block i goes to the 4096 bytes at `offset` + i x `stride` of the destination. */
export interface BlockRun {
  /** Index into the reader's volumes. */
  readonly volume: number;
  readonly block: number;
  readonly count: number;
  readonly offset: number;
  /** At least 4096; 4096 when the pages lie together. */
  readonly stride: number;
}

export interface ReadOutcome {
  /** Blocks asked for, numbered in the order of the runs. */
  readonly pages: number;
  readonly missingCount: number;
  /** Bit i (byte i >> 3, mask 1 << (i & 7)) is set when page i was not read; null when none is missing. */
  readonly missing: Uint8Array | null;
  /** Why pages are missing: the first failure. */
  readonly failure: NasError | null;
  /** The index of the volume that failed first, or -1. */
  readonly failedVolume: number;
}

export interface BlockReaderOptions {
  readonly volumes: readonly BlockVolume[];
  /** Outstanding reads, and slices of the slab. 16 keep a NAS behind a 1 ms round trip busy at 1.5 GB/s with reads of 96 KiB. */
  readonly maxInFlight?: number;
  /** Unwanted blocks that are read through rather than skipped: 8 blocks (32 KiB) cost less than another round trip. */
  readonly gapBlocks?: number;
  /** The largest read, a multiple of 4096; reads do not cross its multiples. 1 MiB is what NFS servers commonly take in one request. */
  readonly maxReadBytes?: number;
  /** Time a request has from readBlocks on. */
  readonly deadlineMs?: number;
  /** Most bytes a second to read, gaps included; 0, the default, for no limit. A wait shorter than the deadline does not count towards it. */
  readonly budgetBytesPerSecond?: number;
  /** A clock in milliseconds, for what is measured; deadlines are timers. */
  readonly now?: () => number;
}

/** Totals since the reader was made. */
export interface BlockReaderStats {
  /** Bytes that came from the volumes, gaps included. */
  readonly bytesRead: number;
  /** Bytes that were asked for. */
  readonly bytesWanted: number;
  readonly reads: number;
  readonly runs: number;
  /** Requests that met their deadline unfinished. */
  readonly deadlines: number;
  /** Reads that failed or were short. */
  readonly failures: number;
}

const DEFAULT_IN_FLIGHT = 16;
const DEFAULT_GAP_BLOCKS = 8;
const DEFAULT_READ_BYTES = 1 << 20;
const DEFAULT_DEADLINE_MS = 2000;
/** Pages of one request: no batch has more than 512 (2 MiB), an index read 256. */
const MAX_PAGES = 65536;
/** Time with reads outstanding that makes one sample of the rate. */
const RATE_SAMPLE_MS = 100;
/** Weight of the newest sample: half of the estimate is from the last two. */
const RATE_WEIGHT = 0.3;

/** Pieces of runs sorted by block and grouped into reads: parallel arrays, so that a batch costs a few arrays and no object a page. */
interface Plan {
  readonly pieceRun: number[];
  /** First block of the piece, counted from the start of its run. */
  readonly pieceSkip: number[];
  readonly pieceBlocks: number[];
  readonly readVolume: number[];
  readonly readBlock: number[];
  readonly readBlocks: number[];
  /** Pieces of read r: from readPieces[r] to readPieces[r + 1] in `order`. */
  readonly readPieces: number[];
  readonly order: number[];
}

interface Job {
  readonly runs: readonly BlockRun[];
  /** Number of each run's first page. */
  readonly firstPage: number[];
  readonly pages: number;
  readonly destination: Buffer;
  /** The kernel reads into the destination itself, which is one run. */
  readonly straight: boolean;
  readonly plan: Plan;
  readonly resolve: (outcome: ReadOutcome) => void;
  readonly timer: NodeJS.Timeout;
  nextRead: number;
  readsLeft: number;
  /** By read: 1 when it has ended, well or not. */
  readonly ended: Uint8Array;
  missing: Uint8Array | null;
  missingCount: number;
  failure: NasError | null;
  failedVolume: number;
  settled: boolean;
}

export class BlockReader {
  readonly #volumes: readonly BlockVolume[];
  readonly #gapBlocks: number;
  readonly #cellBlocks: number;
  readonly #deadlineMs: number;
  readonly #now: () => number;
  readonly #slices: Buffer[];
  readonly #free: number[] = [];
  readonly #queue: Job[] = [];
  readonly #open = new Set<Job>();
  readonly #latency = new LatencyHistogram();
  readonly #budget: ReadBudget | undefined;
  readonly #budgetBytesPerSecond: number;
  /** A read waits for the budget, and those behind it with it. */
  #waiting = false;
  readonly #closing = new AbortController();
  #closed = false;
  #stuck = 0;
  #bytesRead = 0;
  #bytesWanted = 0;
  #reads = 0;
  #runs = 0;
  #deadlines = 0;
  #failures = 0;
  #busySince = 0;
  #busyMs = 0;
  #busyBytes = 0;
  #rate = 0;

  constructor(options: BlockReaderOptions) {
    const maxReadBytes = options.maxReadBytes ?? DEFAULT_READ_BYTES;
    const maxInFlight = options.maxInFlight ?? DEFAULT_IN_FLIGHT;
    if (!(maxReadBytes >= BLOCK_BYTES) || maxReadBytes % BLOCK_BYTES !== 0 || !(maxInFlight >= 1)) {
      throw new RangeError(
        `a block reader cannot have ${maxInFlight} reads of ${maxReadBytes} bytes in flight`,
      );
    }
    this.#volumes = options.volumes;
    this.#gapBlocks = options.gapBlocks ?? DEFAULT_GAP_BLOCKS;
    this.#cellBlocks = maxReadBytes / BLOCK_BYTES;
    this.#deadlineMs = options.deadlineMs ?? DEFAULT_DEADLINE_MS;
    this.#now = options.now ?? performance.now.bind(performance);
    this.#budgetBytesPerSecond = options.budgetBytesPerSecond ?? 0;
    this.#budget =
      this.#budgetBytesPerSecond === 0 ? undefined : new ReadBudget(this.#budgetBytesPerSecond, this.#now);
    const slab = alignedMemory(maxInFlight * maxReadBytes);
    this.#slices = Array.from({ length: maxInFlight }, (_, i) =>
      Buffer.from(slab.buffer, i * maxReadBytes, maxReadBytes),
    );
    // The lowest slice is taken first, so that only as much of the slab becomes resident as is used at once.
    for (let i = maxInFlight - 1; i >= 0; i--) this.#free.push(i);
  }

  get stats(): BlockReaderStats {
    return {
      bytesRead: this.#bytesRead,
      bytesWanted: this.#bytesWanted,
      reads: this.#reads,
      runs: this.#runs,
      deadlines: this.#deadlines,
      failures: this.#failures,
    };
  }

  /** Reads that were given up but are still in the kernel, each holding one slice of the slab and one thread of libuv's pool. */
  get stuckReads(): number {
    return this.#stuck;
  }

  /** Bytes per second while reads are outstanding, recent ones weighing more, never above the budget; 0 before there is a sample. */
  bytesPerSecond(): number {
    const first = this.#busyMs >= RATE_SAMPLE_MS / 10 ? (this.#busyBytes / this.#busyMs) * 1000 : 0;
    const rate = this.#rate > 0 ? this.#rate : first;
    return this.#budget === undefined ? rate : Math.min(rate, this.#budgetBytesPerSecond);
  }

  /** 99th percentile of the time one read takes, in microseconds, rounded up by at most a fifth; 0 without samples. */
  p99Micros(): number {
    return this.#latency.quantileMicros(0.99);
  }

  /**
   * Reads runs of blocks into `destination`. Always resolves, at the latest at the deadline; pages that were not read are told in the
   * outcome, and what is at their places in `destination` is then undefined. The destination must not move before that.
   * Throws BlockRangeError at once, reading nothing, for a block that no volume has or a place outside the destination.
   */
  readBlocks(
    runs: readonly BlockRun[],
    destination: Uint8Array,
    deadlineMs = this.#deadlineMs,
  ): Promise<ReadOutcome> {
    return this.#start(runs, destination, deadlineMs, false);
  }

  /**
   * As {@link readBlocks} for `count` blocks from `block` on, without a copy: the kernel reads into `destination`, which must be of
   * {@link alignedMemory}. After an outcome with a failure the kernel may still write to it, so that it must not be used again.
   */
  readAligned(
    volume: number,
    block: number,
    count: number,
    destination: Uint8Array,
    deadlineMs = this.#deadlineMs,
  ): Promise<ReadOutcome> {
    return this.#start(
      [{ volume, block, count, offset: 0, stride: BLOCK_BYTES }],
      destination,
      deadlineMs,
      true,
    );
  }

  #start(
    runs: readonly BlockRun[],
    destination: Uint8Array,
    deadlineMs: number,
    straight: boolean,
  ): Promise<ReadOutcome> {
    const firstPage = this.#check(runs, destination);
    const pages = firstPage[runs.length] as number;
    if (pages === 0) {
      return Promise.resolve({ pages, missingCount: 0, missing: null, failure: null, failedVolume: -1 });
    }
    this.#runs += runs.length;
    this.#bytesWanted += pages * BLOCK_BYTES;
    return new Promise((resolve) => {
      const plan = this.#plan(runs);
      const timer = setTimeout(() => this.#expire(job, deadlineMs), deadlineMs);
      const job: Job = {
        runs,
        firstPage,
        pages,
        destination: Buffer.from(destination.buffer, destination.byteOffset, destination.byteLength),
        straight,
        plan,
        resolve,
        timer,
        nextRead: 0,
        readsLeft: plan.readBlock.length,
        ended: new Uint8Array(plan.readBlock.length),
        missing: null,
        missingCount: 0,
        failure: null,
        failedVolume: -1,
        settled: false,
      };
      this.#open.add(job);
      if (this.#closed) {
        this.#giveUp(job, new NasClosedError(this.#name(plan.readVolume[0])), plan.readVolume[0] ?? -1);
        return;
      }
      this.#queue.push(job);
      this.#pump();
    });
  }

  /** Ends all outstanding requests with NASMIG_NAS_CLOSED. Reads in the kernel end when they do. */
  close(): void {
    this.#closed = true;
    this.#closing.abort();
    for (const job of this.#open) {
      const volume = job.plan.readVolume[firstOpenRead(job)] ?? -1;
      this.#giveUp(job, new NasClosedError(this.#name(volume)), volume);
    }
    this.#queue.length = 0;
  }

  #check(runs: readonly BlockRun[], destination: Uint8Array): number[] {
    const firstPage: number[] = [0];
    let pages = 0;
    for (const run of runs) {
      const { volume, block, count, offset, stride } = run;
      const blocks = this.#volumes[volume]?.blockCount ?? 0;
      const natural = Number.isSafeInteger(block) && Number.isSafeInteger(count) && block >= 0 && count >= 1;
      if (!natural || block + count > blocks) {
        throw new BlockRangeError(
          `blocks ${block} to ${block + count - 1} of volume ${volume}, which has ${blocks}`,
        );
      }
      pages += count;
      if (pages > MAX_PAGES) throw new BlockRangeError(`more than ${MAX_PAGES} pages in one request`);
      const placed = Number.isSafeInteger(offset) && Number.isSafeInteger(stride) && offset >= 0;
      if (
        !placed ||
        stride < BLOCK_BYTES ||
        offset + (count - 1) * stride + BLOCK_BYTES > destination.byteLength
      ) {
        throw new BlockRangeError(
          `${count} pages at ${offset}, ${stride} apart, in ${destination.byteLength} bytes`,
        );
      }
      firstPage.push(pages);
    }
    return firstPage;
  }

  // Runs are cut at multiples of the largest read, so that no read crosses one; then pieces that are near each other share a read.
  #plan(runs: readonly BlockRun[]): Plan {
    const cell = this.#cellBlocks;
    const pieceRun: number[] = [];
    const pieceSkip: number[] = [];
    const pieceBlocks: number[] = [];
    const pieceKey: number[] = [];
    runs.forEach((run, r) => {
      for (let skip = 0; skip < run.count; ) {
        const block = run.block + skip;
        const blocks = Math.min(run.count - skip, cell - (block % cell));
        pieceRun.push(r);
        pieceSkip.push(skip);
        pieceBlocks.push(blocks);
        // Blocks are below 2^32 (a volume has at most 16 TiB), so volume and block make one exact number.
        pieceKey.push(run.volume * 2 ** 32 + block);
        skip += blocks;
      }
    });
    const order = pieceRun.map((_, i) => i);
    order.sort((a, b) => (pieceKey[a] as number) - (pieceKey[b] as number));

    const readVolume: number[] = [];
    const readBlock: number[] = [];
    const readBlocks: number[] = [];
    const readPieces: number[] = [];
    let start = 0;
    let end = -1;
    let volume = -1;
    order.forEach((piece, i) => {
      const run = runs[pieceRun[piece] as number] as BlockRun;
      const block = run.block + (pieceSkip[piece] as number);
      const pieceEnd = block + (pieceBlocks[piece] as number);
      const near = run.volume === volume && block <= end + this.#gapBlocks;
      if (near && Math.floor(block / cell) === Math.floor(start / cell)) {
        end = Math.max(end, pieceEnd);
        readBlocks[readBlocks.length - 1] = end - start;
        return;
      }
      volume = run.volume;
      start = block;
      end = pieceEnd;
      readVolume.push(volume);
      readBlock.push(start);
      readBlocks.push(end - start);
      readPieces.push(i);
    });
    readPieces.push(order.length);
    return { pieceRun, pieceSkip, pieceBlocks, readVolume, readBlock, readBlocks, readPieces, order };
  }

  #pump(): void {
    while (this.#free.length > 0 && !this.#waiting) {
      const job = this.#queue[0];
      if (job === undefined) return;
      if (job.settled || job.nextRead >= job.plan.readBlock.length) {
        this.#queue.shift();
        continue;
      }
      const bytes = (job.plan.readBlocks[job.nextRead] as number) * BLOCK_BYTES;
      const turn = this.#budget?.take(bytes, this.#closing.signal);
      if (turn !== undefined) {
        this.#waiting = true;
        void turn.then(() => this.#afterWaiting(job));
        return;
      }
      this.#issue(job, job.nextRead++, this.#free.pop() as number);
    }
  }

  /** The read that was paid for goes, if it is still wanted. What has no read outstanding waited for the budget, not for the NAS. */
  #afterWaiting(job: Job): void {
    this.#waiting = false;
    for (const open of this.#open) {
      const outstanding = open.nextRead - (open.plan.readBlock.length - open.readsLeft);
      if (outstanding === 0) open.timer.refresh();
    }
    if (!job.settled) this.#issue(job, job.nextRead++, this.#free.pop() as number);
    this.#pump();
  }

  #issue(job: Job, read: number, slice: number): void {
    const volumeIndex = job.plan.readVolume[read] as number;
    const volume = this.#volumes[volumeIndex] as BlockVolume;
    const position = (job.plan.readBlock[read] as number) * BLOCK_BYTES;
    const length = (job.plan.readBlocks[read] as number) * BLOCK_BYTES;
    const memory = job.straight ? straightPlace(job, read, length) : (this.#slices[slice] as Buffer);
    const startedAt = this.#now();
    if (this.#free.length === this.#slices.length - 1) this.#busySince = startedAt;
    this.#reads++;
    volume.read(memory, length, position, (error, bytes) => {
      this.#meter(startedAt, bytes);
      if (job.settled) {
        this.#stuck--;
      } else {
        this.#deliver(job, read, memory, Math.floor(bytes / BLOCK_BYTES));
        if (error !== null || bytes < length) {
          this.#failures++;
          job.failedVolume = job.failure === null ? volumeIndex : job.failedVolume;
          job.failure ??=
            error === null
              ? new VolumeShortError(volume.name, position, length, bytes)
              : new NasReadError(volume.name, position, length, error);
        }
        job.ended[read] = 1;
        job.readsLeft--;
        if (job.readsLeft === 0) this.#settle(job);
      }
      this.#free.push(slice);
      this.#pump();
    });
  }

  #meter(startedAt: number, bytes: number): void {
    const now = this.#now();
    this.#latency.add((now - startedAt) * 1000);
    this.#bytesRead += bytes;
    this.#busyBytes += bytes;
    this.#busyMs += now - this.#busySince;
    this.#busySince = now;
    if (this.#busyMs < RATE_SAMPLE_MS) return;
    const sample = (this.#busyBytes / this.#busyMs) * 1000;
    this.#rate = this.#rate === 0 ? sample : this.#rate + RATE_WEIGHT * (sample - this.#rate);
    this.#busyMs = 0;
    this.#busyBytes = 0;
  }

  #deliver(job: Job, read: number, memory: Buffer, got: number): void {
    const { plan, destination } = job;
    const first = plan.readBlock[read] as number;
    const end = plan.readPieces[read + 1] as number;
    for (let i = plan.readPieces[read] as number; i < end; i++) {
      const piece = plan.order[i] as number;
      const run = job.runs[plan.pieceRun[piece] as number] as BlockRun;
      const skip = plan.pieceSkip[piece] as number;
      const at = run.block + skip - first;
      const blocks = plan.pieceBlocks[piece] as number;
      const there = Math.max(0, Math.min(blocks, got - at));
      if (!job.straight)
        copyPages(memory, at * BLOCK_BYTES, there, destination, run.offset + skip * run.stride, run.stride);
      if (there < blocks) this.#markMissing(job, piece, there);
    }
  }

  #markMissing(job: Job, piece: number, from: number): void {
    job.missing ??= new Uint8Array(Math.ceil(job.pages / 8));
    const first =
      (job.firstPage[job.plan.pieceRun[piece] as number] as number) + (job.plan.pieceSkip[piece] as number);
    const end = first + (job.plan.pieceBlocks[piece] as number);
    for (let page = first + from; page < end; page++) {
      job.missing[page >> 3] = (job.missing[page >> 3] as number) | (1 << (page & 7));
      job.missingCount++;
    }
  }

  #expire(job: Job, deadlineMs: number): void {
    this.#deadlines++;
    const read = firstOpenRead(job);
    const volume = job.plan.readVolume[read] ?? -1;
    const position = (job.plan.readBlock[read] ?? 0) * BLOCK_BYTES;
    const what =
      read < job.nextRead
        ? `a read at ${position}`
        : `a read at ${position}, not begun for ${this.#stuck} stuck ones,`;
    this.#giveUp(job, new NasDeadlineError(this.#name(volume), what, deadlineMs), volume);
  }

  #giveUp(job: Job, failure: NasError, volume: number): void {
    const { plan } = job;
    for (let read = 0; read < job.ended.length; read++) {
      if (job.ended[read] === 1) continue;
      if (read < job.nextRead) this.#stuck++;
      const end = plan.readPieces[read + 1] as number;
      for (let i = plan.readPieces[read] as number; i < end; i++)
        this.#markMissing(job, plan.order[i] as number, 0);
    }
    if (job.failure === null) {
      job.failure = failure;
      job.failedVolume = volume;
    }
    this.#settle(job);
  }

  #settle(job: Job): void {
    job.settled = true;
    clearTimeout(job.timer);
    this.#open.delete(job);
    const { pages, missing, missingCount, failure, failedVolume } = job;
    job.resolve({ pages, missing, missingCount, failure, failedVolume });
  }

  #name(volume: number | undefined): string {
    return this.#volumes[volume ?? -1]?.name ?? '?';
  }
}

/** Where a read of a job without copies goes. */
function straightPlace({ plan, runs, destination }: Job, read: number, length: number): Buffer {
  const offset = ((plan.readBlock[read] as number) - (runs[0] as BlockRun).block) * BLOCK_BYTES;
  return destination.subarray(offset, offset + length);
}

function firstOpenRead(job: Job): number {
  return Math.max(job.ended.indexOf(0), 0);
}

// Buffer.copy, because subarray and set would allocate a view a page.
function copyPages(
  from: Buffer,
  fromOffset: number,
  count: number,
  to: Buffer,
  toOffset: number,
  stride: number,
): void {
  if (stride === BLOCK_BYTES) {
    from.copy(to, toOffset, fromOffset, fromOffset + count * BLOCK_BYTES);
    return;
  }
  for (let i = 0; i < count; i++) {
    const start = fromOffset + i * BLOCK_BYTES;
    from.copy(to, toOffset + i * stride, start, start + BLOCK_BYTES);
  }
}
