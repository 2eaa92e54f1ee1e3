// What the relay sidecar and the test that controls it say to each other, a JSON object a line, and the test's end
// of it. News are kept from the sidecar's start, so that nothing is missed by who connects later.

import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RestoreOutcome } from '../../sidecar/interposer/interposer.ts';
import type { Role, SwapStanding } from '../../sidecar/interposer/swap-decision.ts';

export type RelayOrder =
  | { readonly op: 'arm'; readonly migrationUid: string; readonly role: Role }
  | { readonly op: 'restore'; readonly migrationUid: string }
  | { readonly op: 'end'; readonly migrationUid: string };

/** One direction of a connection that ended. */
export interface Relayed {
  readonly bytes: number;
  readonly sha256: string;
}

export type RelayNews =
  | { readonly kind: 'standing'; readonly standing: SwapStanding }
  | { readonly kind: 'acted'; readonly action: string }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'armed' | 'connected' | 'ended'; readonly migrationUid: string }
  | { readonly kind: 'restored'; readonly migrationUid: string; readonly outcome: RestoreOutcome }
  | {
      readonly kind: 'relayed';
      readonly migrationUid: string;
      readonly forward: Relayed;
      readonly back: Relayed;
    }
  | { readonly kind: 'dial-failed'; readonly migrationUid: string; readonly message: string }
  | { readonly kind: 'refused'; readonly message: string };

/** The sidecar did not say what was awaited. */
export class RelayNewsTimeoutError extends Error {
  readonly code = 'NASMIG_LAB_RELAY_NEWS';
  constructor(what: string, timeoutMs: number, news: readonly RelayNews[]) {
    super(
      `the relay sidecar did not say "${what}" within ${timeoutMs} ms, but: ${JSON.stringify(news.slice(-8))}`,
    );
    this.name = 'RelayNewsTimeoutError';
  }
}

const CONNECT_TIMEOUT_MS = 10_000;
const POLL_MS = 5;

export class RelayControl {
  readonly news: RelayNews[] = [];
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => this.news.push(JSON.parse(line) as RelayNews));
    // The sidecar was ended or killed: what it said is kept.
    socket.on('error', () => socket.destroy());
  }

  /** Connects to the sidecar's control socket, which need not be there yet. */
  static async connect(path: string): Promise<RelayControl> {
    const deadlineMs = Date.now() + CONNECT_TIMEOUT_MS;
    for (;;) {
      const socket = await new Promise<Socket | Error>((resolve) => {
        const attempt = connect(path);
        attempt.once('connect', () => resolve(attempt));
        attempt.once('error', (error) => resolve(error));
      });
      if (!(socket instanceof Error)) return new RelayControl(socket);
      if (Date.now() > deadlineMs) throw socket;
      await sleep(POLL_MS);
    }
  }

  async arm(migrationUid: string, role: Role): Promise<void> {
    this.#order({ op: 'arm', migrationUid, role });
    await this.waitFor('armed', (news) => news.kind === 'armed' && news.migrationUid === migrationUid);
  }

  async restore(migrationUid: string): Promise<RestoreOutcome> {
    this.#order({ op: 'restore', migrationUid });
    const isAnswer = (news: RelayNews) => news.kind === 'restored' && news.migrationUid === migrationUid;
    const answer = await this.waitFor('restored', isAnswer);
    return answer.kind === 'restored' ? answer.outcome : 'not-taken';
  }

  async end(migrationUid: string): Promise<void> {
    this.#order({ op: 'end', migrationUid });
    await this.waitFor('ended', (news) => news.kind === 'ended' && news.migrationUid === migrationUid);
  }

  /** Waits until the interposer has the socket's place. */
  async waitForTaken(timeoutMs = 5000): Promise<void> {
    const isTaken = (news: RelayNews) => news.kind === 'standing' && news.standing === 'taken';
    await this.waitFor('taken', isTaken, timeoutMs);
  }

  /** Connections of a migration that were passed on to their end. */
  relayed(migrationUid: string): { forward: Relayed; back: Relayed }[] {
    return this.news.flatMap((news) =>
      news.kind === 'relayed' && news.migrationUid === migrationUid
        ? [{ forward: news.forward, back: news.back }]
        : [],
    );
  }

  /** The first news, of those told and those to come, for which `matches` holds. Throws RelayNewsTimeoutError. */
  async waitFor(what: string, matches: (news: RelayNews) => boolean, timeoutMs = 5000): Promise<RelayNews> {
    const deadlineMs = Date.now() + timeoutMs;
    for (;;) {
      const found = this.news.find(matches);
      if (found !== undefined) return found;
      if (Date.now() > deadlineMs) throw new RelayNewsTimeoutError(what, timeoutMs, this.news);
      await sleep(POLL_MS);
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  #order(order: RelayOrder): void {
    this.#socket.write(`${JSON.stringify(order)}\n`);
  }
}
