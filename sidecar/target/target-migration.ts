// What the connections of one incoming migration share: the NAS reader, the rebuild buffers, the memory budget that credit
// is granted from, the index that the target inherits, and the counters that end up in the result.

import type { Socket } from 'node:net';
import { BufferPool } from '../buffer-pool.ts';
import { CrowdedOutError, OtherConnectionError } from '../connection-errors.ts';
import type { BlockIndex } from '../index/block-index.ts';
import { EXTENT_BLOCKS } from '../index/index-grower.ts';
import { type HashSeed, isSameSeed, PageHasher } from '../index/page-hash.ts';
import { DecoderRooms } from '../link/batch-decoder.ts';
import { MAX_CONNECTIONS } from '../link/frame-types.ts';
import type { LinkVersions } from '../link/hello.ts';
import { LinkBadHelloError } from '../link/link-errors.ts';
import { canReuseContexts } from '../link/zstd-context.ts';
import type { BlockReader } from '../nas/block-reader.ts';
import { ExtentCache } from '../nas/extent-cache.ts';
import { Inheritance } from './inheritance.ts';
import { TargetConnection } from './target-connection.ts';

/** Rebuilt bytes that may wait over all connections, for NAS and for QEMU. With everything else well below 256 MiB. */
const MEMORY_BUDGET_BYTES = 48 * 1024 * 1024;
/** What was read for the source's index, until batches refer to it. */
const EXTENT_CACHE_BYTES = 48 * 1024 * 1024;
const MOST_PER_CONNECTION_BYTES = 24 * 1024 * 1024;
/** Before a connection has delivered as much as this, QEMU may still be opening others. */
const OPENING_BYTES = 4 * 1024 * 1024;

export interface TargetMigrationOptions {
  readonly migrationId: string;
  /** 32 bytes that only the two pods of this migration know. */
  readonly sessionKey: Uint8Array;
  /** By name, in any order; the reader's volume numbers are positions in this list. */
  readonly volumes: readonly { readonly name: string; readonly sizeBytes: number }[];
  readonly reader: BlockReader;
  /** Filled with what is rebuilt, so that this side starts with the index of the guest's cache. Its volumes are those of the reader. */
  readonly inherit?: BlockIndex;
  /** Opens a connection to the destination QEMU: the socket whose place ours took. */
  readonly dial: () => Promise<Socket>;
  /** Versions of the link to speak; default: what this release speaks. */
  readonly linkVersions?: LinkVersions;
  /** How long a connection may take until its HELLO is there; default HELLO_TIMEOUT_MS. */
  readonly helloTimeoutMs?: number;
  readonly log: (event: string, values: Readonly<Record<string, unknown>>) => void;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
}

export interface TargetCounters {
  streamBytes: number;
  linkBytes: number;
  referencePages: number;
  inheritedBlocks: number;
  /** Blocks that the source asked about. */
  grownBlocks: number;
  resends: number;
  batches: number;
}

export class TargetMigration {
  readonly options: TargetMigrationOptions;
  /** Batches are rebuilt in these; their number is bounded by credit. */
  readonly buffers = new BufferPool(MEMORY_BUDGET_BYTES);
  /** For all connections: a batch is decompressed and put together at once, in one thread. */
  readonly rooms = new DecoderRooms();
  readonly extents: ExtentCache;
  readonly inheritance: Inheritance | undefined;
  readonly counters: TargetCounters = {
    streamBytes: 0,
    linkBytes: 0,
    referencePages: 0,
    inheritedBlocks: 0,
    grownBlocks: 0,
    resends: 0,
    batches: 0,
  };
  /** GROWs of all connections that were not answered: an honest source sends them on one. */
  openGrows = 0;
  /** What first broke a connection that was relayed raw: no failure of ours, QEMU sees what it would see without us. */
  relayFailure: Error | undefined;
  /** Why a connection that asked for frames is relayed raw. */
  rawReason: 'LinkVersion' | undefined;
  #growHasher: PageHasher | undefined;
  #failure: Error | undefined;
  /** Why the first connection ended that had not proved that it belongs to this migration. */
  #strangerError: Error | undefined;
  readonly #connections = new Set<TargetConnection>();
  readonly #ordinals = new Set<number>();
  #provenConnections = 0;
  #accepted = 0;

  constructor(options: TargetMigrationOptions) {
    this.options = options;
    if (!canReuseContexts())
      options.log('zstd contexts cannot be used again in this Node: decompression is slower', {});
    this.extents = new ExtentCache({
      reader: options.reader,
      maxBytes: EXTENT_CACHE_BYTES,
      extentBlocks: EXTENT_BLOCKS,
    });
    this.inheritance = options.inherit === undefined ? undefined : new Inheritance(options.inherit);
  }

  /** For what GROW asks with: an honest source asks with one seed. */
  growHasher(seed: HashSeed): PageHasher {
    if (this.#growHasher === undefined || !isSameSeed(this.#growHasher.seed, seed))
      this.#growHasher = new PageHasher(seed);
    return this.#growHasher;
  }

  /** What a stranger did is a failure only as long as nobody else came: it must not end a migration that runs. */
  get failure(): Error | undefined {
    return this.#failure ?? (this.hasBegun ? undefined : this.#strangerError);
  }

  /** Somebody came who proved himself, or whose bytes QEMU got as they were. */
  get hasBegun(): boolean {
    return this.#ordinals.size > 0 || this.counters.streamBytes > 0;
  }

  /** Connections open now. */
  get connections(): number {
    return this.#connections.size;
  }

  get accepted(): number {
    return this.#accepted;
  }

  /** Takes over a connection that came in on the place of QEMU's socket (with half-open allowed). */
  accept(link: Socket): void {
    if (this.#failure !== undefined) {
      link.destroy();
      return;
    }
    if (!this.#makeRoom()) {
      this.options.log('connection refused: too many', { limit: MAX_CONNECTIONS });
      link.destroy();
      return;
    }
    this.#accepted += 1;
    this.#connections.add(new TargetConnection(this, link));
  }

  /**
   * Connections that have proved themselves have room of their own. The others share theirs: the oldest of which nothing is known
   * goes, because an honest one says its HELLO at once. False when QEMU has all of them.
   */
  #makeRoom(): boolean {
    const unproven = [...this.#connections].filter(({ isProven }) => !isProven);
    if (unproven.length < MAX_CONNECTIONS) return true;
    const oldest = unproven.find(({ isUnknown }) => isUnknown);
    oldest?.fail(new CrowdedOutError(MAX_CONNECTIONS));
    return oldest !== undefined;
  }

  /** A verified HELLO came. Each ordinal has keys of its own, so one that comes twice would use a nonce twice. */
  greet(ordinal: number): void {
    if (this.#ordinals.has(ordinal)) throw new LinkBadHelloError(`connection ${ordinal} was opened already`);
    if (this.#provenConnections === MAX_CONNECTIONS)
      throw new LinkBadHelloError(`${MAX_CONNECTIONS} connections are open already`);
    this.#ordinals.add(ordinal);
    this.#provenConnections += 1;
  }

  /**
   * Bytes that a connection may have waiting beyond what QEMU took. Credit cannot be taken back, so a connection gets its share of
   * the budget only when, by what it has delivered, it is plain how many there are.
   */
  connectionWindowBytes(deliveredBytes: number): number {
    const share = Math.floor(MEMORY_BUDGET_BYTES / Math.max(1, this.#provenConnections));
    const most = deliveredBytes < OPENING_BYTES ? OPENING_BYTES : MOST_PER_CONNECTION_BYTES;
    return Math.min(most, share);
  }

  /** Ends every connection, telling the other side why: the sidecar is being stopped. */
  abort(error: Error): void {
    for (const connection of [...this.#connections]) connection.fail(error);
  }

  relayBroke(error: Error): void {
    this.relayFailure ??= error;
    this.options.log('relayed connection broke', { error: error.message });
  }

  closed(connection: TargetConnection, error: Error | undefined): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0) this.rooms.release();
    if (connection.isProven) this.#provenConnections -= 1;
    if (error !== undefined && !connection.isProven && this.#failure === undefined) {
      this.#strangerError ??= error;
      this.options.log('connection closed that did not prove itself', { error: error.message });
      return;
    }
    if (error !== undefined && this.#failure === undefined) {
      this.#failure = error;
      this.options.log('migration failed', { error: error.message });
      for (const other of [...this.#connections]) other.fail(new OtherConnectionError(error));
    }
  }
}
