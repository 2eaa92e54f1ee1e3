// One raw volume on the NAS, opened read-only. Whether it is read uncached (O_DIRECT) is decided once, at opening, by trying; the reason
// is logged and kept for the migration's result. Uncached reads need memory, position and length aligned to 4096: slices of a
// WebAssembly.Memory are aligned, slices of a Node Buffer are not (EINVAL).
import { close, constants, open, read, type Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import {
  NasDeadlineError,
  VolumeEmptyError,
  VolumeMissingError,
  VolumeShortError,
  VolumeUnreadableError,
} from './nas-error.ts';

/** Bytes of a block. O_DIRECT on every Linux file system accepts this alignment. */
export const BLOCK_BYTES = 4096;
/** Greater files are refused: positions must be exact as a double, and an index has 32-bit blocks. 16 TiB. */
const MAX_VOLUME_BYTES = 2 ** 44;
/** Opening needs a few round trips; a mount that does not answer for this long does not help a migration. */
const OPEN_DEADLINE_MS = 5000;

/** What readers need of a volume; tests put slow and failing ones in its place. */
export interface BlockVolume {
  readonly name: string;
  readonly sizeBytes: number;
  /** Whole blocks; a partial one at the end is never read. */
  readonly blockCount: number;
  /** True when reads bypass the node's page cache, and so cost it nothing and tell the NAS's true speed. */
  readonly uncached: boolean;
  /**
   * Reads `length` bytes at `position` into the start of `into` and calls `done` once, later. Fewer bytes without an error mean the
   * end of the volume. `into` must not be used for anything else before `done`, however long that takes.
   */
  read(into: Uint8Array, length: number, position: number, done: ReadDone): void;
}

export type ReadDone = (error: Error | null, bytes: number) => void;

/** A volume's descriptor for another thread; the thread that opened it closes it, after the others are done. */
export interface VolumeHandle {
  readonly name: string;
  readonly path: string;
  readonly fd: number;
  readonly sizeBytes: number;
  readonly uncached: boolean;
  readonly uncachedReason: string;
}

/** The part of the WebAssembly API used here; Node's types and TypeScript's `esnext` library leave it out. */
declare const WebAssembly: {
  readonly Memory: new (pages: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
};

const openFile = promisify(open);
const closeFile = promisify(close);

export class Volume implements BlockVolume {
  readonly name: string;
  readonly path: string;
  readonly sizeBytes: number;
  readonly blockCount: number;
  readonly uncached: boolean;
  /** Why it is, or is not, read uncached; for the log and the result. */
  readonly uncachedReason: string;
  readonly #fd: number;
  readonly #owned: boolean;
  #reads = 0;
  #closing: (() => void) | null = null;

  private constructor(handle: VolumeHandle, owned: boolean) {
    this.name = handle.name;
    this.path = handle.path;
    this.sizeBytes = handle.sizeBytes;
    this.blockCount = Math.floor(handle.sizeBytes / BLOCK_BYTES);
    this.uncached = handle.uncached;
    this.uncachedReason = handle.uncachedReason;
    this.#fd = handle.fd;
    this.#owned = owned;
  }

  static fromHandle(handle: VolumeHandle): Volume {
    return new Volume(handle, false);
  }

  /** For openVolume. */
  static opened(handle: VolumeHandle): Volume {
    return new Volume(handle, true);
  }

  handle(): VolumeHandle {
    return {
      name: this.name,
      path: this.path,
      fd: this.#fd,
      sizeBytes: this.sizeBytes,
      uncached: this.uncached,
      uncachedReason: this.uncachedReason,
    };
  }

  /** Reads that have not come back: on a NAS that does not answer, for ever. */
  get readsUnderWay(): number {
    return this.#reads;
  }

  read(into: Uint8Array, length: number, position: number, done: ReadDone): void {
    this.#reads++;
    this.#readOn(into, length, position, 0, (error, bytes) => {
      this.#reads--;
      done(error, bytes);
      if (this.#reads === 0) this.#closing?.();
    });
  }

  // The kernel may return less than asked for without the file having ended.
  #readOn(into: Uint8Array, length: number, position: number, got: number, done: ReadDone): void {
    read(this.#fd, into, got, length - got, position + got, (error, bytes) => {
      if (error !== null) return done(error, got);
      const now = got + bytes;
      if (now >= length || bytes === 0) return done(null, now);
      // Uncached reads go on from a block's boundary only; a read that brought less than a block is the end of the file.
      const aligned = now - (now % BLOCK_BYTES);
      if (aligned === got) return done(null, now);
      this.#readOn(into, length, position, aligned, done);
    });
  }

  /** Closes the file once the last read has come back: closing it earlier could hand its number to another file. */
  async close(): Promise<void> {
    if (!this.#owned) return;
    if (this.#reads > 0) {
      await new Promise<void>((resolve) => {
        this.#closing = resolve;
      });
    }
    await closeFile(this.#fd);
  }
}

export interface OpenOptions {
  readonly deadlineMs?: number;
  /** An opening that was given up has come to an end. Until then it keeps one of the process's few threads for files. */
  readonly onLate?: () => void;
}

/**
 * Opens a raw volume and tries it: size, first and last block, uncached if that works. One line goes to `log`.
 * Rejects with a NasError: missing, unreadable (also when it is no plain file), empty, short, or not answered within the deadline.
 */
export async function openVolume(
  { name, path }: { readonly name: string; readonly path: string },
  log: (line: string) => void,
  { deadlineMs = OPEN_DEADLINE_MS, onLate = () => {} }: OpenOptions = {},
): Promise<Volume> {
  let timer: NodeJS.Timeout | undefined;
  let late = false;
  const opening = tryOpen(name, path);
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      late = true;
      reject(new NasDeadlineError(name, `opening ${path}`, deadlineMs));
    }, deadlineMs);
  });
  // A volume that opens after its deadline is nobody's: close it. Its failure was reported as the deadline already.
  opening
    .then((volume) => (late ? volume.close() : undefined))
    .catch(() => undefined)
    .then(() => (late ? onLate() : undefined));
  try {
    const volume = await Promise.race([opening, deadline]);
    log(
      `volume ${name}: ${path}, ${volume.sizeBytes} bytes, read ${volume.uncached ? 'uncached' : 'through the page cache'}: ${volume.uncachedReason}`,
    );
    return volume;
  } finally {
    clearTimeout(timer);
  }
}

async function tryOpen(name: string, path: string): Promise<Volume> {
  let found: Stats;
  try {
    // Before opening: opening a FIFO would wait for its writer.
    found = await stat(path);
  } catch (error) {
    throw openingError(name, path, error);
  }
  if (!found.isFile()) throw new VolumeUnreadableError(name, path, 'it is not a regular file');
  if (found.size < BLOCK_BYTES) throw new VolumeEmptyError(name, path, found.size);
  if (found.size > MAX_VOLUME_BYTES)
    throw new VolumeUnreadableError(name, path, `${found.size} bytes are more than 16 TiB`);

  let refused: string;
  try {
    return await openWith(name, path, found.size, constants.O_DIRECT, 'O_DIRECT works');
  } catch (error) {
    if (!isErrno(error, 'EINVAL')) throw openingError(name, path, error);
    refused = 'O_DIRECT is refused by the file system (EINVAL)';
  }
  try {
    return await openWith(name, path, found.size, 0, refused);
  } catch (error) {
    throw openingError(name, path, error);
  }
}

async function openWith(
  name: string,
  path: string,
  sizeBytes: number,
  flags: number,
  uncachedReason: string,
): Promise<Volume> {
  const fd = await openFile(path, constants.O_RDONLY | flags);
  const volume = Volume.opened({ name, path, fd, sizeBytes, uncached: flags !== 0, uncachedReason });
  try {
    await tryBlock(volume, 0);
    await tryBlock(volume, volume.blockCount - 1);
    return volume;
  } catch (error) {
    await volume.close();
    throw error;
  }
}

function tryBlock(volume: Volume, block: number): Promise<void> {
  const position = block * BLOCK_BYTES;
  return new Promise((resolve, reject) => {
    volume.read(alignedMemory(BLOCK_BYTES), BLOCK_BYTES, position, (error, bytes) => {
      if (error !== null) reject(error);
      else if (bytes < BLOCK_BYTES) reject(new VolumeShortError(volume.name, position, BLOCK_BYTES, bytes));
      else resolve();
    });
  });
}

/** Memory that uncached reads accept: aligned to 64 KiB, at least `bytes` long, not resident before it is written. */
export function alignedMemory(bytes: number): Uint8Array {
  const pages = Math.ceil(bytes / 65536);
  return new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer);
}

function openingError(name: string, path: string, error: unknown): Error {
  if (error instanceof VolumeShortError) return error;
  if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return new VolumeMissingError(name, path, error);
  return new VolumeUnreadableError(name, path, error instanceof Error ? error.message : String(error), error);
}

function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
