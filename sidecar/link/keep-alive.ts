// Watches over a framed connection: sends PING at an interval and tells when nothing came back for too long. Silence is
// counted in its own ticks, not by the clock: a process that was stopped for a minute must not take its own pause for the
// peer's. Times and rules: docs/link-protocol.md.

import { LATE_AFTER_MS, PING_INTERVAL_MS, SILENT_AFTER_MS } from './frame-types.ts';

export interface KeepAliveEvents {
  /** Time for a PING. */
  ping(): void;
  /** Nothing was heard for LATE_AFTER_MS; told once until something is heard. */
  late(silentMs: number): void;
  /** Nothing was heard for SILENT_AFTER_MS: the connection is to be ended. */
  silent(silentMs: number): void;
}

export class KeepAlive {
  readonly #events: KeepAliveEvents;
  #timer: NodeJS.Timeout | undefined;
  #silentTicks = 0;

  constructor(events: KeepAliveEvents) {
    this.#events = events;
  }

  start(): void {
    this.#timer ??= setInterval(() => this.#tick(), PING_INTERVAL_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Something came from the peer, whatever it was. */
  heard(): void {
    this.#silentTicks = 0;
  }

  #tick(): void {
    this.#silentTicks += 1;
    const silentMs = this.#silentTicks * PING_INTERVAL_MS;
    if (silentMs > SILENT_AFTER_MS) {
      this.#events.silent(silentMs);
      return;
    }
    if (silentMs > LATE_AFTER_MS && silentMs - PING_INTERVAL_MS <= LATE_AFTER_MS) this.#events.late(silentMs);
    this.#events.ping();
  }
}
