// Looks at both QEMUs from outside, every 100 ms, through monitors that libvirt does not use: who runs, and when. What it saw is
// judged in verdict.ts; nothing of the system under test is asked.

import { setTimeout as sleep } from 'node:timers/promises';
import { QmpClient, type QmpEvent } from '../lab/qmp.ts';
import type { QemuState, Sighting } from './verdict.ts';

const LOOK_MS = 100;
/** A QEMU that does not answer in this time is held up by its own migration: its VM does not run for certain. */
const ANSWER_MS = 2000;
/** For the monitor of a QEMU that is there; one that is not is looked for again at the next look. */
const CONNECT_MS = 400;

/** One QEMU's monitor, from its start to its end. */
export class Monitor {
  /** Where the second monitor's socket of this pod is. */
  readonly path: string;
  #client: QmpClient | undefined;
  #state: QemuState = 'absent';
  #closed = false;

  constructor(path: string) {
    this.path = path;
  }

  /** The connection; undefined while there is no QEMU. */
  get client(): QmpClient | undefined {
    return this.#client === undefined || this.#client.closed ? undefined : this.#client;
  }

  get state(): QemuState {
    return this.#state;
  }

  get events(): readonly QmpEvent[] {
    return this.#client?.events ?? [];
  }

  /** Asks for the state. Never throws. */
  async look(): Promise<QemuState> {
    if (this.#closed) return this.#state;
    try {
      if (this.client === undefined) this.#client = await QmpClient.connect(this.path, CONNECT_MS);
      const { status } = await (this.client as QmpClient).execute<{ status: string }>(
        'query-status',
        undefined,
        ANSWER_MS,
      );
      this.#state = status === 'running' ? 'running' : status === 'inmigrate' ? 'incoming' : 'stopped';
    } catch {
      // Without a connection it has ended, or has not begun.
      if (this.client === undefined) this.#state = 'absent';
      else if (this.#state === 'running') this.#state = 'stopped';
    }
    return this.#state;
  }

  close(): void {
    this.#closed = true;
    this.#client?.close();
  }
}

export class OutsideObserver {
  readonly source: Monitor;
  readonly target: Monitor;
  readonly sightings: Sighting[] = [];
  #watching: Promise<void> | undefined;
  #stopped = false;

  /** @param source the monitor of the QEMU that has the VM, kept from run to run. */
  constructor(source: Monitor, target: Monitor) {
    this.source = source;
    this.target = target;
  }

  start(): void {
    this.#watching = this.#watch();
  }

  /** Waits until the target has no QEMU, or for `withinMs`; what is there then is in the sightings. */
  async targetEnds(withinMs: number): Promise<void> {
    const deadlineMs = Date.now() + withinMs;
    while (this.target.state !== 'absent' && Date.now() < deadlineMs) await sleep(LOOK_MS);
  }

  async stop(): Promise<readonly Sighting[]> {
    this.#stopped = true;
    await this.#watching;
    return this.sightings;
  }

  async #watch(): Promise<void> {
    while (!this.#stopped) {
      const startedMs = Date.now();
      const [source, target] = await Promise.all([this.source.look(), this.target.look()]);
      this.sightings.push({ atMs: startedMs, source, target });
      await sleep(Math.max(0, LOOK_MS - (Date.now() - startedMs)));
    }
  }
}
