// Saves a block index to a file and loads it again. The format is described in docs/index-file.md.
// A file that is damaged, truncated, of another version or about other volumes is refused with a named error, and the caller builds a
// new index; a file is replaced whole or not at all. It holds the secret seed, so only its owner may read it (mode 0600).
// Work is done in slices of well under 2 ms, because this thread may carry migrations.
import { createHash } from 'node:crypto';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { BlockIndex, type IndexVolume, MAX_VOLUMES } from './block-index.ts';
import { seedFromBytes } from './page-hash.ts';

export type IndexKind = 'sampled' | 'full' | 'inherited';

/** Where an index came from; kept in its file and reported with every migration that uses it. */
export interface IndexProvenance {
  readonly kind: IndexKind;
  /** Bytes that were read from the NAS to make it, over all its life. */
  readonly nasBytes: number;
  /** Time spent making it. */
  readonly seconds: number;
  /** When it was last completed, in milliseconds since 1970 UTC; its age follows from this. */
  readonly completedAtMs: number;
}

export type IndexFileErrorCode =
  | 'NASMIG_INDEX_FILE_MISSING'
  | 'NASMIG_INDEX_FILE_UNREADABLE'
  | 'NASMIG_INDEX_FILE_FOREIGN'
  | 'NASMIG_INDEX_FILE_VERSION'
  | 'NASMIG_INDEX_FILE_VOLUMES'
  | 'NASMIG_INDEX_FILE_DAMAGED';

/** The file cannot be used. None of these is fatal: build the index again, and save it in the file's place. */
export class IndexFileError extends Error {
  readonly code: IndexFileErrorCode;
  readonly path: string;
  constructor(code: IndexFileErrorCode, path: string, detail: string, cause?: unknown) {
    super(`index file ${path}: ${detail}. It is not used; the index is built again.`, { cause });
    this.name = 'IndexFileError';
    this.code = code;
    this.path = path;
  }
}

const MAGIC = Buffer.from('NASMIDX\n', 'latin1');
const VERSION = 1;
const FIXED_HEADER_BYTES = 56;
/** 64 volumes with names of 255 bytes. */
const MAX_HEADER_BYTES = FIXED_HEADER_BYTES + MAX_VOLUMES * (8 + 1 + 255);
const MAX_NAME_BYTES = 255;
const ENTRY_BYTES = 9;
/** u32 entry count, then SHA-256 of everything before the SHA-256. */
const COUNT_BYTES = 4;
const SUM_BYTES = 32;
const TRAILER_BYTES = COUNT_BYTES + SUM_BYTES;
/** 4096 entries are inserted, or written, in about half a millisecond. */
const CHUNK_ENTRIES = 4096;
/** Empty slots cost little, but a sparse table must not make one slice long. */
const CHUNK_SLOTS = 65536;
const KINDS: readonly IndexKind[] = ['sampled', 'full', 'inherited'];

/**
 * Writes the index beside `path` and then renames it there. The index may be added to meanwhile: entries of that time may be missing
 * from the file. Rejects with the file system's error, leaving an older file as it was. One save at a time per path.
 */
export async function saveIndex(
  path: string,
  index: BlockIndex,
  provenance: IndexProvenance,
): Promise<{ fileBytes: number; entries: number }> {
  const temporary = `${path}.tmp`;
  const file = await open(temporary, 'w', 0o600);
  try {
    // An older temporary file keeps its mode when it is overwritten.
    await file.chmod(0o600);
    const sum = createHash('sha256');
    const header = encodeHeader(index, provenance);
    sum.update(header);
    await file.writeFile(header);
    const chunk = Buffer.allocUnsafe(CHUNK_ENTRIES * ENTRY_BYTES);
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let entries = 0;
    for (let slot = 0; slot >= 0; ) {
      const part = index.exportEntries(slot, view, CHUNK_SLOTS);
      slot = part.next;
      entries += part.entries;
      if (part.entries === 0) {
        await nextTurn();
        continue;
      }
      const bytes = chunk.subarray(0, part.entries * ENTRY_BYTES);
      sum.update(bytes);
      await file.writeFile(bytes);
    }
    const count = Buffer.alloc(COUNT_BYTES);
    count.writeUInt32BE(entries);
    sum.update(count);
    await file.writeFile(Buffer.concat([count, sum.digest()]));
    await file.sync();
    await file.close();
    await rename(temporary, path);
    await syncDirectory(dirname(path));
    return { fileBytes: header.length + entries * ENTRY_BYTES + TRAILER_BYTES, entries };
  } catch (error) {
    await file.close().catch(() => undefined);
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
}

export interface LoadOptions {
  /** The volumes as they are now: the file must be about volumes of the same names and sizes in the same order. */
  readonly volumes: readonly IndexVolume[];
  readonly budgetBytes: number;
  /** Blocks to make room for, when more than the file holds (it will be added to). */
  readonly capacityBlocks?: number;
}

/** Loads an index that saveIndex wrote. Rejects with IndexFileError; nothing of a refused file is kept. */
export async function loadIndex(
  path: string,
  options: LoadOptions,
): Promise<{ index: BlockIndex; provenance: IndexProvenance }> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      throw new IndexFileError('NASMIG_INDEX_FILE_MISSING', path, 'there is none yet', error);
    }
    throw unreadable(path, error);
  }
  try {
    return await load(path, file, options);
  } catch (error) {
    throw error instanceof Error && 'syscall' in error ? unreadable(path, error) : error;
  } finally {
    await file.close();
  }
}

async function load(
  path: string,
  file: FileHandle,
  options: LoadOptions,
): Promise<{ index: BlockIndex; provenance: IndexProvenance }> {
  const fileBytes = (await file.stat()).size;
  const start = Buffer.alloc(Math.min(fileBytes, MAX_HEADER_BYTES));
  await readFully(path, file, start, 0);
  const { headerBytes, volumes, seed, provenance } = decodeHeader(path, start, fileBytes);
  if (!sameVolumes(volumes, options.volumes)) {
    const list = (some: readonly IndexVolume[]) =>
      some.map((v) => `${v.name} of ${v.sizeBytes} bytes`).join(', ');
    throw new IndexFileError(
      'NASMIG_INDEX_FILE_VOLUMES',
      path,
      `it is about ${list(volumes)}, the VM has ${list(options.volumes)}`,
    );
  }
  const entryBytes = fileBytes - headerBytes - TRAILER_BYTES;
  if (entryBytes < 0 || entryBytes % ENTRY_BYTES !== 0) throw damaged(path, 'it is truncated');
  const entries = entryBytes / ENTRY_BYTES;
  const { budgetBytes, capacityBlocks } = options;
  const index = BlockIndex.create({
    volumes: options.volumes,
    seed,
    budgetBytes,
    ...(capacityBlocks !== undefined && { capacityBlocks: Math.max(capacityBlocks, entries) }),
  });
  // A block can be there under an old and a new hash, but an honest file never holds more than its own index could.
  if (entries > 2 * index.places) throw damaged(path, `it has ${entries} entries for ${index.places} blocks`);

  const sum = createHash('sha256');
  sum.update(start.subarray(0, headerBytes));
  const chunk = Buffer.allocUnsafe(CHUNK_ENTRIES * ENTRY_BYTES);
  let previous = 0;
  for (let done = 0; done < entries; ) {
    const count = Math.min(CHUNK_ENTRIES, entries - done);
    const bytes = chunk.subarray(0, count * ENTRY_BYTES);
    await readFully(path, file, bytes, headerBytes + done * ENTRY_BYTES);
    sum.update(bytes);
    previous = insertEntries(path, index, bytes, previous);
    done += count;
  }
  const trailer = Buffer.alloc(TRAILER_BYTES);
  await readFully(path, file, trailer, headerBytes + entryBytes);
  sum.update(trailer.subarray(0, COUNT_BYTES));
  if (trailer.readUInt32BE(0) !== entries || !sum.digest().equals(trailer.subarray(COUNT_BYTES))) {
    throw damaged(path, 'its checksum is wrong');
  }
  return { index, provenance };
}

function insertEntries(path: string, index: BlockIndex, bytes: Buffer, previous: number): number {
  for (let at = 0; at < bytes.length; at += ENTRY_BYTES) {
    const hash = bytes.readUInt32BE(at);
    const place = bytes.readUInt32BE(at + 5);
    if (hash < previous || place >= index.places)
      throw damaged(path, 'its entries are not sorted or not of its volumes');
    previous = hash;
    index.add(index.volume(place), index.block(place), hash | 0, bytes[at + 4] as number);
  }
  return previous;
}

function encodeHeader(index: BlockIndex, provenance: IndexProvenance): Buffer {
  const names = index.volumes.map((volume) => Buffer.from(volume.name));
  const headerBytes = names.reduce((sum, name) => sum + 9 + name.length, FIXED_HEADER_BYTES);
  const header = Buffer.alloc(headerBytes);
  MAGIC.copy(header, 0);
  header.writeUInt16BE(VERSION, 8);
  header.writeUInt16BE(names.length, 10);
  header.writeUInt32BE(headerBytes, 12);
  header.writeInt32BE(index.seed.hi, 16);
  header.writeInt32BE(index.seed.lo, 20);
  header.writeUInt8(KINDS.indexOf(provenance.kind), 24);
  writeUint64(header, provenance.completedAtMs, 32);
  writeUint64(header, provenance.nasBytes, 40);
  writeUint64(header, Math.round(provenance.seconds * 1000), 48);
  let at = FIXED_HEADER_BYTES;
  names.forEach((name, i) => {
    if (name.length > MAX_NAME_BYTES) throw new RangeError(`the volume name ${name.toString()} is too long`);
    writeUint64(header, (index.volumes[i] as IndexVolume).sizeBytes, at);
    header.writeUInt8(name.length, at + 8);
    name.copy(header, at + 9);
    at += 9 + name.length;
  });
  return header;
}

function decodeHeader(path: string, start: Buffer, fileBytes: number) {
  if (start.length < MAGIC.length || !start.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw new IndexFileError('NASMIG_INDEX_FILE_FOREIGN', path, 'it does not begin like an index file');
  }
  if (start.length < FIXED_HEADER_BYTES) throw damaged(path, 'it is truncated');
  const version = start.readUInt16BE(8);
  if (version !== VERSION) {
    throw new IndexFileError('NASMIG_INDEX_FILE_VERSION', path, `its version is ${version}, not ${VERSION}`);
  }
  const volumeCount = start.readUInt16BE(10);
  const headerBytes = start.readUInt32BE(12);
  const kind = KINDS[start.readUInt8(24)];
  if (volumeCount < 1 || volumeCount > MAX_VOLUMES || kind === undefined)
    throw damaged(path, 'its header is wrong');
  if (headerBytes > start.length || headerBytes + TRAILER_BYTES > fileBytes)
    throw damaged(path, 'it is truncated');
  const volumes: IndexVolume[] = [];
  let at = FIXED_HEADER_BYTES;
  for (let i = 0; i < volumeCount; i++) {
    const nameEnd = at + 9 + (start[at + 8] ?? 0);
    if (nameEnd > headerBytes) throw damaged(path, 'its list of volumes is wrong');
    volumes.push({ sizeBytes: readUint64(start, at), name: start.toString('utf8', at + 9, nameEnd) });
    at = nameEnd;
  }
  if (at !== headerBytes) throw damaged(path, 'its list of volumes is wrong');
  const provenance: IndexProvenance = {
    kind,
    completedAtMs: readUint64(start, 32),
    nasBytes: readUint64(start, 40),
    seconds: readUint64(start, 48) / 1000,
  };
  return { headerBytes, volumes, seed: seedFromBytes(start.subarray(16, 24)), provenance };
}

function sameVolumes(a: readonly IndexVolume[], b: readonly IndexVolume[]): boolean {
  return a.length === b.length && a.every((v, i) => v.name === b[i]?.name && v.sizeBytes === b[i]?.sizeBytes);
}

async function readFully(path: string, file: FileHandle, into: Buffer, position: number): Promise<void> {
  for (let got = 0; got < into.length; ) {
    const { bytesRead } = await file.read(into, got, into.length - got, position + got);
    if (bytesRead === 0) throw damaged(path, 'it ended while it was read');
    got += bytesRead;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function writeUint64(to: Buffer, value: number, at: number): void {
  to.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  to.writeUInt32BE(value % 2 ** 32, at + 4);
}

function readUint64(from: Buffer, at: number): number {
  return from.readUInt32BE(at) * 2 ** 32 + from.readUInt32BE(at + 4);
}

function damaged(path: string, detail: string): IndexFileError {
  return new IndexFileError('NASMIG_INDEX_FILE_DAMAGED', path, detail);
}

function unreadable(path: string, error: unknown): IndexFileError {
  const why = error instanceof Error ? error.message : String(error);
  return new IndexFileError('NASMIG_INDEX_FILE_UNREADABLE', path, why, error);
}
