// The tag that decides whether a reconstructed batch may reach the destination QEMU: AES-128-GMAC over a canonical header
// and the reconstructed bytes. A nonce (attempt, batch number) is never used twice, or the key would leak: both ends keep
// track of every open batch and throw on a repetition. Layout: docs/link-protocol.md, "Tag".
import { createCipheriv, type KeyObject, timingSafeEqual } from 'node:crypto';
import { MAX_ATTEMPT, MAX_BATCH_NUMBER, MAX_OPEN_BATCHES, TAG_BYTES } from './frame-types.ts';
import { LinkBadFrameError, LinkBatchOrderError, LinkMisuseError } from './link-errors.ts';

const CANONICAL_HEADER_BYTES = 16;
const NONCE_BYTES = 12;
/** Stands for "verified": no attempt follows it. */
const SETTLED = MAX_ATTEMPT + 1;

/** GMAC of one key; header and nonce are written anew for each call. */
class Gmac {
  readonly #key: KeyObject;
  readonly #nonce = Buffer.alloc(NONCE_BYTES);
  readonly #header = Buffer.alloc(CANONICAL_HEADER_BYTES);

  constructor(key: KeyObject) {
    this.#key = key;
  }

  tag(number: number, attempt: number, bytes: Uint8Array, pageCount: number): Buffer {
    this.#nonce.writeUInt32BE(attempt, 0);
    this.#nonce.writeUInt32BE(number, 8);
    this.#header.writeUInt32BE(number, 0);
    this.#header.writeUInt32BE(attempt, 4);
    this.#header.writeUInt32BE(bytes.length, 8);
    this.#header.writeUInt32BE(pageCount, 12);
    const gcm = createCipheriv('aes-128-gcm', this.#key, this.#nonce);
    gcm.setAAD(this.#header);
    gcm.setAAD(bytes);
    gcm.final();
    return gcm.getAuthTag();
  }
}

/** Source side, one per connection: tags batches in the order of their numbers, and their further attempts. */
export class TagSealer {
  readonly #gmac: Gmac;
  /** Last attempt sealed of every batch that is not yet delivered. */
  readonly #attempts = new Map<number, number>();
  #next = 0;
  #delivered = 0;

  constructor(tagKey: KeyObject) {
    this.#gmac = new Gmac(tagKey);
  }

  /**
   * The 16-byte tag of `bytes`, the whole reconstructed batch. Attempt 0 takes the next number; attempt 1 or 2 follows the
   * one before it for a batch that is not settled. Anything else throws LinkBatchOrderError, because it would use a nonce
   * twice or answer a RESEND that nobody may send.
   */
  seal(number: number, attempt: number, bytes: Uint8Array, pageCount: number): Buffer {
    if (attempt === 0) {
      if (number !== this.#next || number > MAX_BATCH_NUMBER) {
        throw new LinkBatchOrderError(number, attempt, `batch ${this.#next}`);
      }
      if (this.#attempts.size >= MAX_OPEN_BATCHES)
        throw new LinkMisuseError(`${MAX_OPEN_BATCHES} batches are not acknowledged`);
      this.#next++;
    } else {
      const last = this.#attempts.get(number);
      if (last === undefined || attempt !== last + 1 || attempt > MAX_ATTEMPT) {
        throw new LinkBatchOrderError(
          number,
          attempt,
          last === undefined ? 'an open batch' : `attempt ${last + 1}`,
        );
      }
    }
    this.#attempts.set(number, attempt);
    return this.#gmac.tag(number, attempt, bytes, pageCount);
  }

  /** An ACK came: the first `deliveredBatches` are done. Throws when the ACK counts batches that were never sent. */
  settle(deliveredBatches: number): void {
    if (deliveredBatches > this.#next) {
      throw new LinkBadFrameError('ACK', `${deliveredBatches} batches delivered, ${this.#next} were sent`);
    }
    for (; this.#delivered < deliveredBatches; this.#delivered++) this.#attempts.delete(this.#delivered);
  }
}

/** Target side, one per connection: checks each attempt of each batch once; several batches may be open at a time. */
export class TagVerifier {
  readonly #gmac: Gmac;
  /** Last attempt checked of every batch that is not yet delivered; SETTLED once one was right. */
  readonly #attempts = new Map<number, number>();
  #delivered = 0;

  constructor(tagKey: KeyObject) {
    this.#gmac = new Gmac(tagKey);
  }

  /**
   * Whether `tag` is right for `bytes`, the whole reconstructed batch. A batch already delivered or verified, or an attempt
   * not above the last one, throws LinkBatchOrderError: the connection is to be closed. Attempt 0 may never be checked:
   * when a NAS read failed there is nothing to check before the PATCH.
   */
  verify(number: number, attempt: number, bytes: Uint8Array, pageCount: number, tag: Uint8Array): boolean {
    const last = this.#attempts.get(number) ?? -1;
    if (number < this.#delivered || attempt <= last || attempt > MAX_ATTEMPT) {
      throw new LinkBatchOrderError(
        number,
        attempt,
        last < MAX_ATTEMPT ? `an attempt above ${last}` : 'another batch',
      );
    }
    if (number - this.#delivered >= MAX_OPEN_BATCHES) {
      throw new LinkBatchOrderError(number, attempt, `a batch below ${this.#delivered + MAX_OPEN_BATCHES}`);
    }
    if (tag.length !== TAG_BYTES) throw new LinkMisuseError(`a tag of ${tag.length} bytes`);
    const right = timingSafeEqual(this.#gmac.tag(number, attempt, bytes, pageCount), tag);
    this.#attempts.set(number, right ? SETTLED : attempt);
    return right;
  }

  /** The first `deliveredBatches` are in QEMU's socket. They must have been verified. */
  settle(deliveredBatches: number): void {
    for (; this.#delivered < deliveredBatches; this.#delivered++) {
      if (this.#attempts.get(this.#delivered) !== SETTLED) {
        throw new LinkMisuseError(`batch ${this.#delivered} is to be delivered, its tag has not been right`);
      }
      this.#attempts.delete(this.#delivered);
    }
  }
}
