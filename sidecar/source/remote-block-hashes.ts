// Hashes of blocks that the target reads: it needs the same blocks to rebuild the batches, so the index of the source grows without
// reading the NAS a second time. Requests wait until a connection is framed, go out on it at once, and are answered in any order.
// The frames are GROW and GROWN of docs/link-protocol.md.

import type { BlockHashes, BlockHashSource } from '../index/block-hashes.ts';
import type { HashSeed } from '../index/page-hash.ts';
import { type GrowFields, type GrownFrame, MAX_OPEN_GROWS } from '../link/frame-types.ts';
import { LinkBadFrameError } from '../link/link-errors.ts';

/** The connection that carries the requests. */
export interface GrowSender {
  grow(fields: GrowFields): void;
}

interface Request {
  readonly fields: GrowFields;
  readonly resolve: (hashes: BlockHashes | undefined) => void;
}

export class RemoteBlockHashes implements BlockHashSource {
  /** Nothing is read here. */
  readonly stats = { bytesRead: 0, reads: 0 };
  readonly #seed: HashSeed;
  #sender: GrowSender | undefined;
  #closed = false;
  #waiting: Request[] = [];
  readonly #open = new Map<number, Request>();

  /** @param seed of the index that grows. */
  constructor(seed: HashSeed) {
    this.#seed = seed;
  }

  hashBlocks(volume: number, block: number, count: number): Promise<BlockHashes | undefined> {
    if (this.#closed) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      const fields = { volume, firstBlock: block, blockCount: count, seed: this.#seed };
      this.#waiting.push({ fields, resolve });
      this.#send();
    });
  }

  /** A connection is framed: the first one carries the requests, the others are not needed. */
  attach(sender: GrowSender): void {
    if (this.#closed || this.#sender !== undefined) return;
    this.#sender = sender;
    this.#send();
  }

  /** The connection is gone, and with it the answers. */
  detach(sender: GrowSender): void {
    if (this.#sender === sender) this.close();
  }

  /** Throws LinkBadFrameError for an answer to nothing that was asked. */
  grown(frame: GrownFrame): void {
    const count = frame.hashes.length / 8;
    const request = this.#open.get(key(frame.volume, frame.firstBlock));
    if (request === undefined || (count !== 0 && count !== request.fields.blockCount)) {
      throw new LinkBadFrameError(
        'GROWN',
        `${count} blocks from ${frame.firstBlock} of volume ${frame.volume} were not asked for`,
      );
    }
    this.#open.delete(key(frame.volume, frame.firstBlock));
    request.resolve(count === 0 ? undefined : readHashes(frame.hashes, count));
    this.#send();
  }

  /** Whoever waits gets nothing. */
  close(): void {
    this.#closed = true;
    this.#sender = undefined;
    for (const request of [...this.#open.values(), ...this.#waiting.splice(0)]) request.resolve(undefined);
    this.#open.clear();
  }

  #send(): void {
    while (this.#sender !== undefined && this.#waiting.length > 0 && this.#open.size < MAX_OPEN_GROWS) {
      const request = this.#waiting.shift() as Request;
      this.#open.set(key(request.fields.volume, request.fields.firstBlock), request);
      this.#sender.grow(request.fields);
    }
  }
}

/** Blocks are 32-bit numbers. */
function key(volume: number, block: number): number {
  return volume * 2 ** 32 + block;
}

function readHashes(bytes: Uint8Array, count: number): BlockHashes {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const hi = new Int32Array(count);
  const lo = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    hi[i] = view.getInt32(8 * i);
    lo[i] = view.getInt32(8 * i + 4);
  }
  return { hi, lo, count };
}
