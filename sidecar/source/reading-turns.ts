// Whose packet is read to its end: multifd channels take turns where QEMU may soon stop the VM.
//
// QEMU counts a multifd packet, up to 128 pages, when its last byte was accepted. Read side by side, 8 channels end their packets in
// lockstep, for each begins its next one when the one before was taken: then one of QEMU's windows of 100 ms has 8 packets more than
// the pace meant it to, and 9 times as much (with a limit of 900 ms) passes for what can be sent within the limit. Read one after the other,
// packets end as evenly as bytes are accepted.

const TICK_MS = 5;
/** A turn in which nothing comes for a tick goes on: QEMU's thread waits for something else. */
const IDLE_TICKS = 1;
/**
 * A turn that credit or window hold up for this many ticks goes on: what they wait for may be the packet of another channel, which the
 * destination QEMU needs before it takes more of this one (multifd's SYNC).
 */
const BLOCKED_TICKS = 8;

/** A connection that takes turns. */
export interface TurnTaker {
  /** False while it is paused. */
  readonly isReading: boolean;
  /** Its turn has come: it reads on if nothing else speaks against it. */
  regulate(): void;
}

export class ReadingTurns {
  readonly #isPaced: () => boolean;
  #holder: TurnTaker | undefined;
  readonly #waiting = new Set<TurnTaker>();
  #timer: NodeJS.Timeout | undefined;
  #ticksWithoutBytes = 0;

  /** @param isPaced true while the pace lets nobody read: no turn goes on for that. */
  constructor(isPaced: () => boolean) {
    this.#isPaced = isPaced;
  }

  /** True when it is this one's turn, or nobody's. Else {@link TurnTaker.regulate} is called when it is. */
  mayRead(taker: TurnTaker): boolean {
    this.#holder ??= taker;
    if (this.#holder === taker) return true;
    this.#waiting.add(taker);
    this.#watch();
    return false;
  }

  /** Bytes of it were read. */
  progressed(taker: TurnTaker): void {
    if (this.#holder === taker) this.#ticksWithoutBytes = 0;
  }

  /** Its packet ended, or it is closed: the next has its turn. */
  passOn(taker: TurnTaker): void {
    this.#waiting.delete(taker);
    if (this.#holder !== taker) return;
    const [next] = this.#waiting;
    this.#holder = next;
    this.#ticksWithoutBytes = 0;
    if (next === undefined) return;
    this.#waiting.delete(next);
    next.regulate();
  }

  #watch(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const holder = this.#holder;
      this.#ticksWithoutBytes = this.#isPaced() ? 0 : this.#ticksWithoutBytes + 1;
      if (holder !== undefined && this.#ticksWithoutBytes > (holder.isReading ? IDLE_TICKS : BLOCKED_TICKS))
        this.passOn(holder);
      if (this.#waiting.size > 0) this.#watch();
    }, TICK_MS);
  }
}
