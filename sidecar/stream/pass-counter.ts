// Counts QEMU's passes over guest memory, over all connections of one migration, from what the page finders tell. Where QEMU marks
// the end of a pass (a FLUSH on main, and with multifd a SYNC on every channel with it) the pages between two marks are one pass; a
// channel's own marks count, because connections are read at their own pace. Older machine types mark every section, or nothing:
// there a pass is told by addresses, which only rise within one. A pass without a page does not count. Pure.

/** More marks than any migration makes; passes after them are not counted. */
const MAX_MARKS = 65_536;

export class PassCounter {
  readonly #channels: PassChannel[] = [];
  /** Numbers of marks after which there were pages. */
  readonly #begun = new Set<number>();
  #isFlushed = false;

  /** Passes that have begun; 0 before the first page. */
  get passes(): number {
    if (this.#begun.size === 0 || this.#isFlushed) return this.#begun.size;
    return 1 + Math.max(...this.#channels.map(({ wraps }) => wraps));
  }

  /** What one more connection is told to. */
  channel(): PassChannel {
    const channel = new PassChannel(
      (mark) => this.#begun.add(mark),
      () => {
        this.#isFlushed = true;
      },
    );
    this.#channels.push(channel);
    return channel;
  }
}

/** One connection, in the order of its stream. */
export class PassChannel {
  readonly #begins: (mark: number) => void;
  readonly #flushed: () => void;
  #marks = 0;
  #isBegun = false;
  #wraps = 0;
  #block = -1;
  #page = -1;

  constructor(begins: (mark: number) => void, flushed: () => void) {
    this.#begins = begins;
    this.#flushed = flushed;
  }

  /** How often addresses began anew. */
  get wraps(): number {
    return this.#wraps;
  }

  /** The first `count` of `pageNumbers` of one RAMBlock came. */
  pages(block: number, pageNumbers: Uint32Array, count: number): void {
    const first = pageNumbers[0] as number;
    // The last page of a packet and again the first of several is no wrap, see SeenPages.isStray().
    const isStray = first === this.#page && count > 1;
    if (block < this.#block || (block === this.#block && first <= this.#page && !isStray)) this.#wraps += 1;
    this.#block = block;
    this.#page = pageNumbers[count - 1] as number;
    if (this.#isBegun) return;
    this.#isBegun = true;
    if (this.#marks < MAX_MARKS) this.#begins(this.#marks);
  }

  /** MULTIFD_FLUSH, on the main channel. */
  flush(): void {
    this.#flushed();
    this.sync();
  }

  /** A packet with SYNC, on a multifd channel. */
  sync(): void {
    this.#marks += 1;
    this.#isBegun = false;
  }
}
