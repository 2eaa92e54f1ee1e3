// Listens to the guest's beacons on the unix sockets that QEMU's network cards connect to, before and after a
// migration, and keeps what they prove: no counter missing for long, none twice, no failed self-check. It also
// carries commands to the guest. One observer serves the QEMUs of both nodes, each on a socket of its own.

import { EventEmitter, once } from 'node:events';
import { rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import { type Beacon, encodeCommand, FrameSplitter, type GuestCommand, parseBeacon } from './guest-beacon.ts';

const COMMAND_REPEAT_MS = 100;

/** The longest time in which nothing new was heard of the guest. */
export interface GuestGap {
  gapMs: number;
  /** Wall clock, ms since 1970, at which the gap began. */
  beganAtMs: number;
  /** Sockets that the beacons before and after it came from. */
  from: string;
  to: string;
}

/** What was heard since the last `mark()`. */
export interface GuestReport {
  beacons: number;
  /** Null while fewer than two beacons have come. */
  longestGap: GuestGap | null;
  /** Beacons whose counter was not higher than one before: the guest ran twice, or went back in time. */
  repeatedCounters: number;
  firstCounter: number | null;
  lastCounter: number | null;
  verifiedSlices: number;
  failedSlices: number;
  failure: string;
  /** `ok` when slices were verified and none failed; `none` when nothing was verified. */
  selfCheck: 'ok' | 'failed' | 'none';
}

/** The guest did not do in time what was awaited. */
export class GuestTimeoutError extends Error {
  readonly code = 'NASMIG_LAB_GUEST_TIMEOUT';
  constructor(what: string, timeoutMs: number, last: Beacon | null) {
    const heard = last ? `last beacon: ${JSON.stringify(last)}` : 'nothing was heard of it';
    super(
      `the guest did not ${what} within ${timeoutMs} ms; ${heard}; see its serial log in the run's directory`,
    );
    this.name = 'GuestTimeoutError';
  }
}

/** The guest says that its own memory or disk is not what it should be, before anything was done with it. */
export class UnsoundGuestError extends Error {
  readonly code = 'NASMIG_LAB_UNSOUND_GUEST';
  constructor(failedSlices: number, failure: string) {
    super(
      `the guest found ${failedSlices} wrong or unreadable slices while it was prepared (${failure}); see its serial log and the space that is left on the disk, and run it again`,
    );
    this.name = 'UnsoundGuestError';
  }
}

interface Heard {
  beacon: Beacon;
  socket: string;
  atMs: number;
}

export class GuestObserver {
  readonly #servers: Server[] = [];
  readonly #connections = new Set<Socket>();
  readonly #events = new EventEmitter();
  #current: Socket | null = null;
  #last: Heard | null = null;
  #marked: { verified: number; failed: number } = { verified: 0, failed: 0 };
  #beacons = 0;
  #firstCounter: number | null = null;
  #repeated = 0;
  #longestGap: GuestGap | null = null;

  constructor() {
    this.#events.setMaxListeners(0);
  }

  /** Listens on a unix socket for one QEMU. `label` names it in reports. */
  async listen(path: string, label: string): Promise<void> {
    await rm(path, { force: true });
    const server = createServer((socket) => this.#serve(socket, label));
    this.#servers.push(server);
    server.listen(path);
    await once(server, 'listening');
  }

  /** The last beacon, from whichever QEMU. */
  get last(): Beacon | null {
    return this.#last?.beacon ?? null;
  }

  /** Throws when the guest has found anything wrong since it was started: a state that is saved of it would be no ground to judge by. */
  requireSound(): void {
    const { failedSlices = 0, failure = '' } = this.last ?? {};
    if (failedSlices > 0) throw new UnsoundGuestError(failedSlices, failure);
  }

  /** Begins a new report: gaps and counts of before are forgotten, the last beacon is where the next gap begins. */
  mark(): void {
    this.#marked = { verified: this.last?.verifiedSlices ?? 0, failed: this.last?.failedSlices ?? 0 };
    this.#beacons = 0;
    this.#firstCounter = null;
    this.#repeated = 0;
    this.#longestGap = null;
  }

  /** Another guest begins, with counters of its own. */
  forget(): void {
    this.#last = null;
    this.mark();
  }

  /** What was heard since `mark()`, the time since the last beacon counted as a gap too. */
  report(): GuestReport {
    const verified = (this.last?.verifiedSlices ?? 0) - this.#marked.verified;
    const failed = (this.last?.failedSlices ?? 0) - this.#marked.failed;
    return {
      beacons: this.#beacons,
      longestGap: this.#gapUntilNow(),
      repeatedCounters: this.#repeated,
      firstCounter: this.#firstCounter,
      lastCounter: this.last?.counter ?? null,
      verifiedSlices: verified,
      failedSlices: failed,
      failure: this.last?.failure ?? '',
      selfCheck: failed > 0 || this.#repeated > 0 ? 'failed' : verified > 0 ? 'ok' : 'none',
    };
  }

  /** Resolves with the first beacon, of the last one and those to come, for which `matches` holds. */
  async waitFor(what: string, matches: (beacon: Beacon) => boolean, timeoutMs: number): Promise<Beacon> {
    const last = this.last;
    if (last && matches(last)) return last;
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        clearTimeout(timer);
        this.#events.off('beacon', onBeacon);
      };
      const onBeacon = (beacon: Beacon): void => {
        if (!matches(beacon)) return;
        finish();
        resolve(beacon);
      };
      const timer = setTimeout(() => {
        finish();
        reject(new GuestTimeoutError(what, timeoutMs, this.last));
      }, timeoutMs);
      this.#events.on('beacon', onBeacon);
    });
  }

  /** Resolves with the next beacon: the guest runs. */
  async waitForNext(timeoutMs: number): Promise<Beacon> {
    const counter = this.last?.counter ?? 0;
    return this.waitFor('go on', (beacon) => beacon.counter > counter, timeoutMs);
  }

  /** Gives the running guest a command and resolves when it has been carried out. Commands may not overlap. */
  async command(command: GuestCommand, timeoutMs = 120_000): Promise<void> {
    const before = this.last ?? (await this.waitForNext(timeoutMs));
    const number = before.acceptedCommand + 1;
    const frame = encodeCommand(number, command);
    const send = (): void => {
      if (this.#current?.writable && (this.last?.acceptedCommand ?? 0) < number) this.#current.write(frame);
    };
    send();
    const repeat = setInterval(send, COMMAND_REPEAT_MS);
    try {
      await this.waitFor(`finish '${command.kind}'`, (beacon) => beacon.finishedCommand >= number, timeoutMs);
    } finally {
      clearInterval(repeat);
    }
  }

  /** Closes sockets and connections. QEMU goes on without a network. */
  async close(): Promise<void> {
    for (const socket of this.#connections) socket.destroy();
    await Promise.all(this.#servers.map((server) => new Promise((resolve) => server.close(resolve))));
  }

  #serve(socket: Socket, label: string): void {
    this.#connections.add(socket);
    const splitter = new FrameSplitter((frame) => {
      const beacon = parseBeacon(frame);
      if (beacon) this.#heard(beacon, socket, label);
    });
    socket.on('data', (chunk: Buffer) => {
      try {
        splitter.push(chunk);
      } catch (error) {
        socket.destroy(error as Error);
      }
    });
    // QEMU's end resets the connection when frames were under way to it.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#connections.delete(socket);
      if (this.#current === socket) this.#current = null;
    });
  }

  #heard(beacon: Beacon, socket: Socket, label: string): void {
    const atMs = performance.timeOrigin + performance.now();
    const previous = this.#last;
    this.#beacons++;
    this.#firstCounter ??= beacon.counter;
    if (previous && beacon.counter <= previous.beacon.counter) {
      // Not a step forward: it neither ends a gap nor speaks for the guest.
      this.#repeated++;
      return;
    }
    if (previous)
      this.#gap({ gapMs: atMs - previous.atMs, beganAtMs: previous.atMs, from: previous.socket, to: label });
    this.#last = { beacon, socket: label, atMs };
    this.#current = socket;
    this.#events.emit('beacon', beacon);
  }

  #gap(gap: GuestGap): void {
    if (!this.#longestGap || gap.gapMs > this.#longestGap.gapMs) this.#longestGap = gap;
  }

  #gapUntilNow(): GuestGap | null {
    if (!this.#last || this.#beacons === 0) return this.#longestGap;
    const atMs = performance.timeOrigin + performance.now();
    const open: GuestGap = {
      gapMs: atMs - this.#last.atMs,
      beganAtMs: this.#last.atMs,
      from: this.#last.socket,
      to: this.#last.socket,
    };
    return this.#longestGap && this.#longestGap.gapMs >= open.gapMs ? this.#longestGap : open;
  }
}
