// One armed migration in this pod, from ARM to its result. It carries out what the arming state machine decides
// (control/sidecar-arming.ts) and tells it what happens at the socket; it decides nothing by itself but where a connection
// goes that was accepted already. Whatever fails here, no connection is left without somebody who serves it.

import type { Socket } from 'node:net';
import { PROGRESS_INTERVAL_MS } from '../../control/limits.ts';
import type { Progress, Result, Role } from '../../control/messages.ts';
import type { Reason } from '../../control/reasons.ts';
import { changesStream, type Order } from '../../control/sidecar-arming.ts';
import type { ArmedMigration, Interposer, TakenSocket } from '../interposer/interposer.ts';
import type { SwapStanding } from '../interposer/swap-decision.ts';
import { relayRaw } from '../raw-relay.ts';
import type { IndexKeeper } from './index-keeper.ts';
import type { ObservedStream } from './observed-stream.ts';
import type { MigrationPipeline, PipelineOptions } from './pipeline.ts';
import { isWorthInheriting, sessionResult } from './session-result.ts';

/** How often an open migration is looked at: its end, and the moment the VM stops. Bounds downtimeMs' error. */
const LOOK_MS = 50;

/** After the last connection closed, QEMU may open another within milliseconds (multifd's come one after the other). */
const END_GRACE_MS = 250;

/** Between the proxy's bind and listen, or QEMU's, lie microseconds; a loaded node needs no more than this. */
const DIAL_TIMEOUT_MS = 5000;

/** What the session tells; the agent makes events of the arming state machine of it. */
export type SessionNews =
  | { readonly type: 'socketTaken' | 'socketLost' | 'ended' }
  | { readonly type: 'connection' }
  | { readonly type: 'declined'; readonly reason: Reason; readonly detail?: string };

export interface SessionDependencies {
  readonly interposer: Interposer;
  readonly index: IndexKeeper;
  readonly log: (event: string, values: Readonly<Record<string, unknown>>) => void;
  readonly news: (session: MigrationSession, news: SessionNews) => void;
  readonly progress: (progress: Progress) => void;
  readonly result: (result: Result) => void;
}

interface Held {
  readonly taken: TakenSocket;
  readonly socket: Socket;
}

/** Where a connection that comes in goes. `undecided`: it is held. `framing`: it is held until the pipeline is there. */
type Way = 'undecided' | 'framing' | 'framed' | 'raw';

export class MigrationSession {
  readonly migrationUid: string;
  readonly role: Role;
  readonly #dependencies: SessionDependencies;
  #order: Order;
  #armed: ArmedMigration | undefined;
  #indexHeld = false;
  #way: Way = 'undecided';
  #raw: { readonly reason: Reason; readonly detail?: string } | undefined;
  readonly #held: Held[] = [];
  #pipeline: MigrationPipeline | undefined;
  /** Of a source that is only to observe. */
  #observed: ObservedStream | undefined;
  #loading: Promise<((options: PipelineOptions) => MigrationPipeline) | undefined> | undefined;
  /** Where the pipeline dials: the socket whose place was taken last. */
  #taken: TakenSocket | undefined;
  #socketGoneSinceMs: number | undefined;

  #connections = 0;
  readonly #relayed = new Set<Socket>();
  #relaysUnderWay = 0;
  #relayedBytes = 0;
  #relayFailure: Error | undefined;
  #relayBroke: Error | undefined;
  /** Raw connections reach the other side in the order in which they came. */
  #dialing: Promise<void> = Promise.resolve();

  #look: NodeJS.Timeout | undefined;
  #startedMs = 0;
  #cpuAtStart = process.cpuUsage();
  #idleSinceMs: number | undefined;
  #stoppedAtMs: number | undefined;
  #lastProgressMs = 0;
  #lastProgress: Progress | undefined;
  #sequence = 0;
  #ended = false;

  constructor(order: Order, dependencies: SessionDependencies) {
    this.migrationUid = order.migrationUid;
    this.role = order.role;
    this.#order = order;
    this.#dependencies = dependencies;
  }

  // ---- what the state machine wants

  /** Takes the socket's place as soon as it is there. Again, after a loss or with a new key: nothing but the order changes. */
  takeSocket(order: Order): void {
    this.#order = order;
    if (this.#armed !== undefined) return;
    const { interposer } = this.#dependencies;
    this.#holdIndex();
    try {
      this.#armed = interposer.arm({
        migrationUid: this.migrationUid,
        role: this.role,
        onTaken: (taken) => this.#onTaken(taken),
      });
    } catch (error) {
      this.#decline('SocketNotTaken', messageOf(error));
      return;
    }
    this.#load();
  }

  /** Decided against. Whoever has connected already is relayed. */
  restore(reason: Reason, detail?: string): void {
    this.startRaw(reason, detail);
    const armed = this.#armed;
    if (armed === undefined) {
      this.#finish();
      return;
    }
    void armed.restore().then((outcome) => {
      this.#log('socket given back', { outcome });
      if (this.#connections === 0) this.#finish();
    });
  }

  /** Frames the held connections and those that follow; for a target the source's HELLO decides over each. */
  startFramed(order: Order): void {
    this.#order = order;
    if (!changesStream(order.mode)) {
      this.#way = 'raw';
      this.#flushRaw();
      return;
    }
    this.#way = 'framing';
    void (this.#loading ?? Promise.resolve(undefined))
      .then((make) => {
        if (this.#ended || this.#way !== 'framing') return;
        if (make === undefined) throw new Error('there is no index or no readable volume');
        this.#pipeline = make(this.#pipelineOptions(order));
        this.#way = 'framed';
        for (const held of this.#held.splice(0)) this.#pipeline.accept(held.socket);
        this.#log('framed', { connections: this.#connections });
      })
      .catch((error: unknown) => {
        // Nothing was changed yet: what a source sends as it is arrives. A source that frames has its HELLO refused by QEMU, which fails safe.
        this.startRaw('InternalError', messageOf(error));
      });
  }

  /** Relays the held connections and those that follow byte for byte. */
  startRaw(reason: Reason, detail?: string): void {
    if (this.#way === 'framed' || this.#way === 'raw') return;
    this.#way = 'raw';
    this.#raw = detail === undefined ? { reason } : { reason, detail };
    this.#log('raw', { reason, detail, connections: this.#connections });
    this.#flushRaw();
  }

  // ---- what others tell

  /** How the interposer stands towards this migration's socket. */
  onStanding(standing: SwapStanding): void {
    if (standing === 'taken' || standing === 'taking') return;
    if (standing === 'role-mismatch' || standing === 'not-a-socket') {
      if (this.#way === 'undecided') this.#decline('SocketNotTaken', standing);
      return;
    }
    if (this.#taken !== undefined && this.#connections === 0 && !this.#ended) {
      this.#taken = undefined;
      this.#socketGoneSinceMs = performance.now();
      this.#tell({ type: 'socketLost' });
    }
  }

  /** Its socket's place cannot be taken: the migration is plain, and the other side must not wait for it. */
  onCannotTake(detail: string): void {
    if (this.#way === 'undecided' && this.#connections === 0) this.#decline('SocketNotTaken', detail);
  }

  /** Since when the socket is gone whose place had been taken, by performance.now(); undefined while it is there, or not made yet. */
  get socketGoneSinceMs(): number | undefined {
    return this.#socketGoneSinceMs;
  }

  /** The process ends: the result of now is told, whatever is open. */
  stop(): void {
    this.#raw ??= this.#way === 'undecided' ? { reason: 'SidecarStopping' } : undefined;
    this.#finish(this.#openConnections > 0);
  }

  get ended(): boolean {
    return this.#ended;
  }

  // ---- connections

  #onTaken(taken: TakenSocket): void {
    this.#taken = taken;
    this.#socketGoneSinceMs = undefined;
    taken.listener.on('connection', (socket: Socket) => this.#onConnection({ taken, socket }));
    // Who says ARMED can do what GO asks for: without a pipeline a target would hand the source's HELLO to QEMU.
    void (this.#loading ?? Promise.resolve(true)).then(
      (loaded) => {
        if (loaded !== undefined && this.#taken === taken && !this.#ended)
          this.#tell({ type: 'socketTaken' });
      },
      () => {},
    );
  }

  #onConnection(held: Held): void {
    // A held socket may break before anybody else listens to it.
    held.socket.on('error', (error) => this.#log('connection broke', { error: error.message }));
    this.#connections += 1;
    if (this.#look === undefined && !this.#ended) this.#begin();
    this.#idleSinceMs = undefined;
    if (this.#way === 'framed') {
      this.#pipeline?.accept(held.socket);
      return;
    }
    if (this.#way === 'raw') {
      this.#relay(held);
      return;
    }
    this.#held.push(held);
    if (this.#way === 'undecided') this.#tell({ type: 'connection' });
  }

  #flushRaw(): void {
    for (const held of this.#held.splice(0)) this.#relay(held);
  }

  #relay({ taken, socket }: Held): void {
    this.#relaysUnderWay += 1;
    this.#relayed.add(socket);
    const look = this.#way === 'raw' && this.#raw === undefined ? this.#observed?.connection() : undefined;
    const over = (error: Error | undefined): void => {
      this.#relaysUnderWay -= 1;
      this.#relayed.delete(socket);
      if (error === undefined) return;
      this.#relayBroke ??= error;
      this.#log('relayed connection broke', { error: error.message });
    };
    this.#dialing = this.#dialing.then(async () => {
      try {
        const other = await taken.dial({ timeoutMs: DIAL_TIMEOUT_MS });
        const count = (bytes: number): void => {
          this.#relayedBytes += bytes;
        };
        // In the same turn as the relay begins, so that both see every byte.
        if (look !== undefined) socket.on('data', (bytes: Buffer) => this.#observe(look, bytes));
        void relayRaw(socket, other, count).then(over);
      } catch (error) {
        // As without us: what dials a socket that nobody serves is closed.
        this.#relayFailure = error instanceof Error ? error : new Error(String(error));
        socket.destroy();
        over(this.#relayFailure);
      }
    });
  }

  /** What is only an estimate must not cost the migration anything: a fault of it ends the looking. */
  #observe(look: (bytes: Uint8Array) => void, bytes: Uint8Array): void {
    if (this.#observed === undefined) return;
    try {
      look(bytes);
    } catch (error) {
      this.#observed = undefined;
      this.#log('observing ended', { error: messageOf(error) });
    }
  }

  get #openConnections(): number {
    return this.#held.length + this.#relaysUnderWay + (this.#pipeline?.connections ?? 0);
  }

  // ---- the pipeline

  /** Loads the code and the index while there is time, seconds before the first connection. */
  #load(): void {
    const { index } = this.#dependencies;
    if (!changesStream(this.#order.mode)) {
      if (this.role === 'source') void this.#loadObserver();
      return;
    }
    const loading = Promise.all([
      index.forMigration(),
      this.role === 'source' ? import('./source-pipeline.ts') : import('./target-pipeline.ts'),
    ]).then(([found, module]) => {
      const usable = found?.volumes.some(({ name }) => this.#order.volumes.includes(name)) ?? false;
      if (found === undefined || !usable) {
        const tooLarge = this.#order.volumes.filter((name) => index.leftOut.includes(name));
        if (tooLarge.length > 0) this.#decline('VolumeTooLarge', tooLarge.join(', '));
        else this.#decline('VolumeNotReadable', `of ${this.#order.volumes.join(', ')} none can be read here`);
        return undefined;
      }
      return (options: PipelineOptions): MigrationPipeline =>
        'SourcePipeline' in module
          ? new module.SourcePipeline(options, found.index, found.volumes, index.grows)
          : new module.TargetPipeline(options, found.index, found.volumes);
    });
    this.#loading = loading;
    loading.catch((error: unknown) => this.#decline('InternalError', messageOf(error)));
  }

  /** Without an index nothing would have been saved, and the result says nothing of it. */
  async #loadObserver(): Promise<void> {
    const { index } = this.#dependencies;
    try {
      const [found, { ObservedStream }] = await Promise.all([
        index.forMigration(),
        import('./observed-stream.ts'),
      ]);
      if (found === undefined) return;
      this.#observed = new ObservedStream({
        index: found.index,
        usable: found.volumes.map(({ name }) => this.#order.volumes.includes(name)),
        hitsStandFor: index.hitsStandFor,
      });
    } catch (error) {
      this.#log('nothing is observed', { error: messageOf(error) });
    }
  }

  #holdIndex(): void {
    if (this.#indexHeld) return;
    this.#indexHeld = true;
    this.#dependencies.index.pause();
  }

  #pipelineOptions(order: Order): PipelineOptions {
    return {
      migrationUid: this.migrationUid,
      sessionKey: Buffer.from(order.sessionKey, 'base64'),
      volumeNames: order.volumes,
      downtimeLimitMs: order.downtimeLimitMs,
      linkBytesPerSecond: order.limits.linkBytesPerSecond,
      nasReadBytesPerSecond: order.limits.nasReadBytesPerSecond,
      dial: async () => {
        if (this.#taken === undefined) throw new Error('the migration socket is gone');
        return this.#taken.dial({ timeoutMs: DIAL_TIMEOUT_MS });
      },
      log: (event, values) => this.#log(event, values),
    };
  }

  // ---- progress and end

  #begin(): void {
    this.#startedMs = performance.now();
    this.#cpuAtStart = process.cpuUsage();
    this.#lastProgressMs = this.#startedMs;
    this.#look = setInterval(() => this.#onLook(), LOOK_MS);
  }

  #stopLooking(): void {
    clearInterval(this.#look);
    this.#look = undefined;
  }

  #onLook(): void {
    const nowMs = performance.now();
    const snapshot = this.#pipeline?.snapshot();
    if (snapshot !== undefined && (snapshot.stage === 'stopped' || snapshot.stage === 'ending')) {
      this.#stoppedAtMs ??= nowMs;
    }
    if (nowMs - this.#lastProgressMs >= PROGRESS_INTERVAL_MS && this.#pipeline !== undefined) {
      this.#sendProgress(this.#pipeline, nowMs);
    }
    if (this.#openConnections > 0) {
      this.#idleSinceMs = undefined;
      return;
    }
    this.#idleSinceMs ??= nowMs;
    if (nowMs - this.#idleSinceMs < END_GRACE_MS) return;
    // Who came and went was no source: the socket's place is kept for it, as before the first connection.
    if (this.#wasIntrudedOnly) this.#stopLooking();
    else this.#finish();
  }

  #sendProgress(pipeline: MigrationPipeline, nowMs: number): void {
    const { stage, iterations, ramBytes, remainingBytes, qemuBytes, linkBytes, nasBytes, pages, resends } =
      pipeline.snapshot();
    const seconds = (nowMs - this.#lastProgressMs) / 1000;
    const rate = (now: number, before: number | undefined): number =>
      Math.max(0, Math.round((now - (before ?? 0)) / seconds));
    this.#lastProgressMs = nowMs;
    this.#lastProgress = {
      type: 'progress',
      ...{ migrationUid: this.migrationUid, epoch: this.#order.epoch, role: this.role },
      sequence: this.#sequence++,
      ...{ stage, iteration: iterations, ramBytes, remainingBytes },
      qemuBytesPerSecond: rate(qemuBytes, this.#lastProgress?.qemuBytes),
      linkBytesPerSecond: rate(linkBytes, this.#lastProgress?.linkBytes),
      nasBytesPerSecond: rate(nasBytes, this.#lastProgress?.nasBytes),
      ...{ qemuBytes, linkBytes, nasBytes, pages, resends },
    };
    this.#dependencies.progress(this.#lastProgress);
  }

  #finish(stopped = false): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stopLooking();
    const { index } = this.#dependencies;
    const result = this.#result(stopped);
    if (result.outcome === 'failed' && (stopped || !this.#wasIntrudedOnly)) this.#armed?.close();
    else this.#armed?.end();
    this.#pipeline?.close();
    index.addReadBytes(result.indexNasBytes ?? 0);
    if (result.outcome === 'accelerated' && this.role === 'target' && isWorthInheriting(result.pages))
      index.inherited();
    if (this.#indexHeld) index.resume();
    this.#log('migration over', result);
    this.#dependencies.result(result);
    this.#tell({ type: 'ended' });
  }

  #result(stopped: boolean): Result {
    const pipeline = this.#pipeline;
    // The last connection closed when the look before it found none; before a connection nothing lasted.
    const endMs = this.#idleSinceMs ?? performance.now();
    const cpu = process.cpuUsage(this.#cpuAtStart);
    return sessionResult({
      migrationUid: this.migrationUid,
      epoch: this.#order.epoch,
      role: this.role,
      mode: this.#order.mode,
      connections: this.#wasUnused && !stopped ? 0 : this.#connections,
      raw: this.#raw,
      relayedBytes: this.#relayedBytes,
      observed:
        this.#observed === undefined
          ? undefined
          : { estimate: this.#observed.estimate(), iterations: this.#observed.iterations },
      relayFailure: this.#relayFailure,
      relayBroke: this.#relayBroke ?? pipeline?.relayFailure,
      framed:
        pipeline === undefined
          ? undefined
          : { snapshot: pipeline.snapshot(), failure: pipeline.failure, rawReason: pipeline.rawReason },
      stopped,
      durationMs: this.#connections === 0 ? 0 : Math.max(0, endMs - this.#startedMs),
      downtimeMs:
        this.role === 'source' && this.#stoppedAtMs !== undefined && !stopped
          ? Math.max(0, endMs - this.#stoppedAtMs)
          : undefined,
      cpuMilliseconds: this.#connections === 0 ? 0 : (cpu.user + cpu.system) / 1000,
    });
  }

  /** Those who came were no source: the migration itself may still come. */
  get #wasIntrudedOnly(): boolean {
    return this.#pipeline?.hasBegun === false;
  }

  /** Those who came said nothing and did nothing. */
  get #wasUnused(): boolean {
    return this.#wasIntrudedOnly && this.#pipeline?.failure === undefined;
  }

  #decline(reason: Reason, detail: string): void {
    if (!this.#ended) this.#tell({ type: 'declined', reason, detail });
  }

  #tell(news: SessionNews): void {
    this.#dependencies.news(this, news);
  }

  #log(event: string, values: Readonly<Record<string, unknown>>): void {
    this.#dependencies.log(event, { migrationUid: this.migrationUid, role: this.role, ...values });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
