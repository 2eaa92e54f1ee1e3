// The sidecar process put together: the hub's connection, the arming state machine, the sessions that carry it out, the
// pod's volumes and their index. Every decision that depends on messages is stepArming's; here its effects find their way.
// Without a hub, without volumes, with a directory that is somebody else's: it runs on, and every migration is plain.

import type { Logger } from 'pino';
import { ControlClient } from '../../control/client.ts';
import { GO_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS, MAX_RESUMED_MIGRATIONS } from '../../control/limits.ts';
import {
  type Hello,
  type HubMessage,
  type IndexStatus,
  laterHubMessages,
  type Result,
  type SidecarMessage,
} from '../../control/messages.ts';
import type { Reason } from '../../control/reasons.ts';
import {
  type ArmingEffect,
  type ArmingEvent,
  type ArmingState,
  idle,
  nextTickMs,
  type Order,
  phaseForHello,
  stepArming,
} from '../../control/sidecar-arming.ts';
import { collectAll } from '../garbage-collection.ts';
import type { Interposer, InterposerEvent } from '../interposer/interposer.ts';
import { MAX_LINK_VERSION, MIN_LINK_VERSION } from '../link/frame-types.ts';
import { allDrained } from '../raw-relay.ts';
import type { AgentConfig } from './agent-config.ts';
import { IndexKeeper } from './index-keeper.ts';
import { MigrationSession, type SessionNews } from './migration-session.ts';
import { PodVolumes } from './pod-volumes.ts';

/** Volumes that could not be opened are tried again so often, while nothing is armed. */
const VOLUMES_RETRY_MS = 30_000;

/** After a migration, when its lingering sockets are closed too: what it used goes back to the kernel, for the VM runs on here for months. */
const TIDY_MS = 5_000;

/** Of the second that SIGTERM leaves: for results to reach the hub and to be recorded, and for QEMU to close its channels. */
const LAST_WORDS_MS = 600;

/**
 * A socket that was taken and is gone for so long is not made anew: its migration is over. Without an operator nobody says so, nor gives
 * a GO. Looked at with the heartbeat, and only before a connection of QEMU's has come.
 */
const SOCKET_GONE_MS = 60_000;
/** Longer than a change of leader, or an operator's upgrade, takes. */
const HUB_GONE_MS = 5 * 60_000;

export interface AgentOptions {
  readonly config: AgentConfig;
  /** Undefined when the directory of migration sockets cannot be used: then `socketProblem` says why. */
  readonly interposer: Interposer | undefined;
  readonly socketProblem: string;
  readonly log: Logger;
}

export class Agent {
  readonly #options: AgentOptions;
  readonly #log: Logger;
  readonly #client: ControlClient;
  readonly #volumes: PodVolumes;
  readonly #index: IndexKeeper;
  #state: ArmingState = idle;
  /** The session that the state is about. */
  #current: MigrationSession | undefined;
  /** All that are not over: those before the current one still relay. */
  readonly #sessions = new Map<string, MigrationSession>();
  /** Results that the hub has not recorded, to be named in HELLO. */
  readonly #unrecorded = new Map<string, Result>();
  readonly #events: ArmingEvent[] = [];
  #stepping = false;
  #tick: NodeJS.Timeout | undefined;
  #volumesTimer: NodeJS.Timeout | undefined;
  #statsTimer: NodeJS.Timeout | undefined;
  #tidyTimer: NodeJS.Timeout | undefined;
  #lastStats: IndexStatus | undefined;
  #stopping: Promise<void> | undefined;
  /** Since when there is no connection to the hub, by performance.now(). */
  #hubGoneSinceMs: number | undefined;

  constructor(options: AgentOptions) {
    const { config, log } = options;
    this.#options = options;
    this.#log = log;
    this.#volumes = new PodVolumes(config.volumesDirectory, (line) => log.info(line));
    this.#index = new IndexKeeper({
      config: config.index,
      volumes: () => this.#volumes.readable,
      log: (event, values) => log.info(values, event),
      // Migrations may be waiting for it.
      onReady: () => {
        this.#sendStats();
        this.#tidySoon();
      },
    });
    this.#client = new ControlClient({
      ...config.hub,
      hello: () => this.#hello(),
      onMessage: (message) => this.#onMessage(message),
      onConnected: (connected, detail) => {
        this.#hubGoneSinceMs = connected ? undefined : (this.#hubGoneSinceMs ?? performance.now());
        if (connected) log.info('connected to the hub');
        else log.warn({ detail }, 'no connection to the hub');
      },
    });
  }

  /** Opens the volumes, and then dials the hub, so that the first HELLO tells what can be read. */
  async start(): Promise<void> {
    if (this.#options.socketProblem !== '')
      this.#log.error({ detail: this.#options.socketProblem }, 'plain only');
    await this.#volumes.open();
    if (this.#stopping !== undefined) return;
    this.#client.start();
    this.#index.start();
    this.#volumesTimer = setInterval(() => void this.#retryVolumes(), VOLUMES_RETRY_MS);
    this.#volumesTimer.unref();
    this.#statsTimer = setInterval(() => {
      this.#sendStats();
      this.#endForgotten();
    }, HEARTBEAT_INTERVAL_MS);
    this.#statsTimer.unref();
  }

  /** Gives every socket back and tells every result; resolves within LAST_WORDS_MS and a little, whatever hangs. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#log.info({ sessions: this.#sessions.size }, 'stopping');
    clearTimeout(this.#tick);
    clearInterval(this.#volumesTimer);
    clearInterval(this.#statsTimer);
    clearTimeout(this.#tidyTimer);
    this.#index.stop();
    for (const session of [...this.#sessions.values()]) session.stop();
    this.#options.interposer?.stop();
    await Promise.all([this.#client.close(LAST_WORDS_MS), allDrained(LAST_WORDS_MS)]);
  }

  /** False when every volume could be opened: a volume that could not may still occupy a thread. */
  get mayHang(): boolean {
    return this.#volumes.describe().some(({ readable }) => !readable);
  }

  /** What the interposer reports, for the session that it is about. */
  onInterposer(event: InterposerEvent): void {
    switch (event.kind) {
      case 'standing':
        this.#log.debug(event, 'socket');
        this.#sessions.get(event.migrationUid)?.onStanding(event.standing);
        return;
      case 'failed':
        this.#log.warn(
          { migrationUid: event.migrationUid, doing: event.doing, error: event.error.message },
          'socket directory',
        );
        return;
      case 'cannot-take':
        this.#sessions.get(event.migrationUid)?.onCannotTake(`${event.doing}: ${event.error.message}`);
        return;
      default:
        this.#log.debug(event, 'socket');
    }
  }

  // ---- the hub

  #hello(): Hello {
    const { config } = this.#options;
    const finished = [...this.#unrecorded.values()].map(({ migrationUid, epoch, role, reason }) => ({
      ...{ migrationUid, epoch, role, phase: 'finished' as const },
      ...(reason === undefined ? {} : { reason }),
    }));
    const phase = phaseForHello(this.#state);
    const running =
      'order' in this.#state && phase !== undefined
        ? [
            {
              migrationUid: this.#state.order.migrationUid,
              epoch: this.#state.order.epoch,
              role: this.#state.order.role,
              phase,
              ...(this.#state.phase === 'raw' ? { reason: this.#state.reason } : {}),
            },
          ]
        : [];
    return {
      type: 'hello',
      pod: config.pod,
      vmi: config.vmi,
      release: config.release,
      link: { min: MIN_LINK_VERSION, max: MAX_LINK_VERSION },
      volumes: this.#volumes.describe(),
      index: this.#index.status(),
      migrations: [...running, ...finished].slice(0, MAX_RESUMED_MIGRATIONS),
      accepts: [...laterHubMessages],
    };
  }

  #onMessage(message: HubMessage): void {
    if (this.#stopping !== undefined) {
      // Every socket was given back, and nobody would come for another one. Said, so that the other side does not wait.
      if (message.type === 'arm') {
        const { migrationUid, epoch, role } = message;
        this.#send({ type: 'raw', migrationUid, epoch, role, reason: 'SidecarStopping' });
      }
      return;
    }
    switch (message.type) {
      case 'welcome':
        for (const migrationUid of message.recorded) this.#unrecorded.delete(migrationUid);
        return;
      case 'configure':
        this.#index.configure(message.index);
        return;
      case 'recorded':
        this.#log.debug({ migrationUid: message.migrationUid }, 'result recorded');
        this.#unrecorded.delete(message.migrationUid);
        return;
      case 'arm': {
        const { type: _type, sessionKey: _secret, ...told } = message;
        this.#log.info(told, 'ARM');
        const { type: _, ...order } = message;
        this.#step({ type: 'arm', order });
        return;
      }
      case 'go':
      case 'disarm':
        this.#log.info(message, message.type.toUpperCase());
        this.#step(message);
        return;
    }
  }

  #send(message: SidecarMessage): void {
    if (message.type === 'result') {
      this.#unrecorded.set(message.migrationUid, message);
      const oldest = this.#unrecorded.keys().next();
      if (this.#unrecorded.size >= MAX_RESUMED_MIGRATIONS && !oldest.done)
        this.#unrecorded.delete(oldest.value);
    }
    try {
      this.#client.send(message);
    } catch (error) {
      // A message of ours that breaks the protocol's schema: a defect, but not the migration's.
      this.#log.error({ type: message.type, error: String(error) }, 'message not sent');
    }
  }

  // ---- arming

  #step(event: ArmingEvent): void {
    this.#events.push(event);
    // An effect may tell something new: it is stepped after the present one.
    if (this.#stepping) return;
    this.#stepping = true;
    try {
      for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
        const { state, effects } = stepArming(this.#state, next, this.#client.highestEpoch);
        this.#state = state;
        for (const effect of effects) this.#carryOut(effect, next);
        this.#settle(next);
      }
    } finally {
      this.#stepping = false;
    }
    this.#setTick();
  }

  #carryOut(effect: ArmingEffect, cause: ArmingEvent): void {
    const detail = 'detail' in cause ? cause.detail : undefined;
    switch (effect.type) {
      case 'takeSocket':
        this.#takeSocket(effect.order);
        return;
      case 'restoreSocket':
        this.#current?.restore(this.#rawReason('MigrationOver'), detail);
        return;
      case 'startFramed':
        this.#current?.startFramed(effect.order);
        return;
      case 'startRaw':
        this.#current?.startRaw(effect.reason, detail);
        return;
      case 'send':
        this.#log.info(effect.message, effect.message.type === 'raw' ? 'not accelerated' : 'told the hub');
        this.#send(effect.message);
        return;
    }
  }

  /** A connection that came when it could not be held (its socket was just lost, or is not served yet) is not left waiting. */
  #settle(event: ArmingEvent): void {
    if (event.type === 'connection' && this.#state.phase === 'arming') {
      const detail = 'the socket was made anew, or what serves it is not loaded yet';
      this.#events.push({ type: 'declined', reason: 'SocketNotTaken', detail });
    }
    if (this.#state.phase === 'idle') this.#current = undefined;
  }

  #rawReason(otherwise: Reason): Reason {
    return this.#state.phase === 'raw' ? this.#state.reason : otherwise;
  }

  #takeSocket(order: Order): void {
    if (this.#current !== undefined && this.#current.migrationUid !== order.migrationUid) {
      // Another migration before anything connected, or while an earlier one is still relayed raw.
      const earlier = this.#current;
      this.#current = undefined;
      earlier.restore('MigrationOver');
    }
    const { interposer } = this.#options;
    if (interposer === undefined) {
      this.#events.push({ type: 'declined', reason: 'SocketNotTaken', detail: this.#options.socketProblem });
      return;
    }
    if (this.#current === undefined) {
      this.#current = new MigrationSession(order, {
        interposer,
        index: this.#index,
        log: (event, values) => this.#log.info(values, event),
        news: (session, news) => this.#onNews(session, news),
        progress: (progress) => this.#send(progress),
        result: (result) => this.#send(result),
      });
      this.#sessions.set(order.migrationUid, this.#current);
    }
    this.#current.takeSocket(order);
  }

  #onNews(session: MigrationSession, news: SessionNews): void {
    if (news.type === 'ended') {
      this.#sessions.delete(session.migrationUid);
      this.#tidySoon();
    }
    if (session !== this.#current) return;
    this.#step(news.type === 'connection' ? { type: 'connection', nowMs: performance.now() } : news);
  }

  #setTick(): void {
    clearTimeout(this.#tick);
    const atMs = nextTickMs(this.#state);
    if (atMs === undefined) return;
    const afterMs = Math.min(GO_TIMEOUT_MS, Math.max(0, atMs - performance.now()));
    this.#tick = setTimeout(() => this.#step({ type: 'tick', nowMs: performance.now() }), Math.ceil(afterMs));
  }

  // ---- from time to time

  /** There may be nobody left who says that a migration is over for whose first connection this side waits. */
  #endForgotten(): void {
    if (this.#state.phase !== 'arming' && this.#state.phase !== 'armed') return;
    const nowMs = performance.now();
    const goneMs = nowMs - (this.#current?.socketGoneSinceMs ?? nowMs);
    const aloneMs = nowMs - (this.#hubGoneSinceMs ?? nowMs);
    if (goneMs >= SOCKET_GONE_MS) {
      const detail = `the migration's socket is gone for ${Math.round(goneMs / 1000)} s`;
      this.#step({ type: 'declined', reason: 'MigrationOver', detail });
    } else if (aloneMs >= HUB_GONE_MS) {
      const detail = `no operator for ${Math.round(aloneMs / 1000)} s`;
      this.#step({ type: 'declined', reason: 'HubUnreachable', detail });
    }
  }

  /** V8 collects when it is asked for more, and an idle process asks for nothing: with --expose-gc it is done here. */
  #tidySoon(): void {
    clearTimeout(this.#tidyTimer);
    if (this.#stopping !== undefined || this.#sessions.size > 0) return;
    this.#tidyTimer = setTimeout(() => {
      if (this.#sessions.size === 0) collectAll();
    }, TIDY_MS);
    this.#tidyTimer.unref();
  }

  async #retryVolumes(): Promise<void> {
    if (this.#sessions.size > 0) return;
    if (this.#volumes.describe().every(({ readable }) => readable)) return;
    if (await this.#volumes.open()) this.#index.volumesChanged();
  }

  #sendStats(): void {
    const index = this.#index.status();
    if (index.blocks === this.#lastStats?.blocks && index.ready === this.#lastStats.ready) return;
    this.#lastStats = index;
    const { user, system } = process.cpuUsage();
    this.#send({
      type: 'stats',
      index,
      volumes: this.#volumes.describe(),
      residentBytes: process.memoryUsage.rss(),
      cpuMilliseconds: Math.round((user + system) / 1000),
    });
  }
}
