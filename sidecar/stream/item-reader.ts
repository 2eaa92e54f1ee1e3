// The engine under both finders: cuts a byte stream, pushed in pieces of any length, into headers of a known number of bytes and
// runs of bytes to skip. Headers that lie whole in a piece are handed out in place; others are put together in a small fixed
// buffer. Skipping costs the same for any length. A subclass says what comes next after each header, and can say "opaque" once.
import type { ChannelFinder, OpaqueReason, PageSink } from './page-sink.ts';

export abstract class ItemReader implements ChannelFinder {
  protected readonly sink: PageSink;
  /** Stream offset of the first byte after the header being handled (in `header`) or after the bytes skipped (in `skipped`). */
  protected next = 0;

  readonly #scratch: Uint8Array;
  #need: number;
  #held = 0; // bytes of an incomplete header in the scratch buffer
  #skip = 0; // bytes still to skip
  #tellWhenSkipped = false;
  #offset = 0;
  #isOpaque = false;

  constructor(sink: PageSink, firstHeaderBytes: number, longestHeaderBytes: number) {
    this.sink = sink;
    this.#need = firstHeaderBytes;
    this.#scratch = new Uint8Array(longestHeaderBytes);
  }

  get streamOffset(): number {
    return this.#offset;
  }

  get isOpaque(): boolean {
    return this.#isOpaque;
  }

  push(bytes: Uint8Array): void {
    const base = this.#offset;
    const end = bytes.length;
    this.#offset = base + end;
    let at = 0;
    while (at < end && !this.#isOpaque) {
      if (this.#skip > 0) {
        const count = Math.min(this.#skip, end - at);
        at += count;
        this.#skip -= count;
        if (this.#skip === 0 && this.#tellWhenSkipped) {
          this.#tellWhenSkipped = false;
          this.next = base + at;
          this.skipped();
        }
        continue;
      }
      const need = this.#need;
      if (this.#held === 0 && end - at >= need) {
        at += need;
        this.next = base + at;
        this.#need = this.header(bytes, at - need, need);
        continue;
      }
      const count = Math.min(need - this.#held, end - at);
      for (let i = 0; i < count; i++) this.#scratch[this.#held + i] = bytes[at + i]!;
      at += count;
      this.#held += count;
      if (this.#held === need) {
        this.#held = 0;
        this.next = base + at;
        this.#need = this.header(this.#scratch, 0, need);
      }
    }
  }

  /**
   * A header of `length` bytes is at `bytes[at]`. Returns the length of the next one: at least 1, at most the longest that the
   * constructor was told. May call `skip` or `skipAndTell` once: the next header comes after what is skipped.
   */
  protected abstract header(bytes: Uint8Array, at: number, length: number): number;

  /** The bytes of `skipAndTell` have passed. */
  protected abstract skipped(): void;

  /** Skips `count` bytes before the next header. */
  protected skip(count: number): void {
    this.#skip = count;
  }

  /** Skips `count` bytes, then calls `skipped`; at once when there are none. */
  protected skipAndTell(count: number): void {
    if (count === 0) {
      this.skipped();
      return;
    }
    this.#skip = count;
    this.#tellWhenSkipped = true;
  }

  /** Opaque from the item at `streamOffset` on: `header` returns what this returns, and tells the sink nothing more. */
  protected stop(reason: OpaqueReason, streamOffset: number, detail: string): number {
    this.#isOpaque = true;
    this.sink.opaque(reason, streamOffset, detail);
    return 1;
  }
}
