// Takes the place of QEMU's migration socket for an announced migration, and gives it back. The swap is atomic
// (bind a temporary socket, hard-link the original aside, rename over it), so there is no instant without a
// listener; without an announcement nothing is touched. What to do is decided in swap-decision.ts; this file
// carries it out, watches the directory, and scans it again because events can be lost.
// Described in kubevirt.md, 3, 6 and 9.

import { randomBytes } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import { type DialOptions, dialOriginal } from './dial-original.ts';
import { AlreadyArmedError, InterposerStoppedError, SocketPathTooLongError } from './errors.ts';
import {
  errorCode,
  openSocketDirectory,
  prepareSocketDirectory,
  type SocketDirectory,
} from './socket-directory.ts';
import { recognizeLeaving, type SocketNames, socketNames, temporaryName } from './socket-names.ts';
import { decideSwap, type Listing, type Role, type SwapAction, type SwapStanding } from './swap-decision.ts';

/** sockaddr_un.sun_path holds 108 bytes, the last of which is the terminating zero. */
const MAX_SOCKET_PATH_BYTES = 107;
/** While the socket is awaited; inotify is the fast way, this the safe one. Costs four lstat calls. */
const DEFAULT_WAITING_RESCAN_MS = 20;
/** While the place is held: only a removal or re-creation by virt-handler is to be noticed. */
const DEFAULT_TAKEN_RESCAN_MS = 250;
/** virt-handler's chown follows its listen at once, so that a socket that is not ours yet is looked at often. */
const OWNER_RESCAN_MS = 1;
/** After this long the next step is not a moment away: back to the waiting pace. */
const OWNER_RESCAN_FOR_MS = 1000;
/** A bind that failed (a full disk, say) is tried again at this pace. */
const BIND_RETRY_MS = 200;
/** Three tries to bind: who fails for so long is not waited for. A source would hold QEMU's connection for it. */
const CANNOT_TAKE_MS = 2 * BIND_RETRY_MS;
/** A connect that looked up the path before a put-back reaches our listener within microseconds after it. */
const DRAIN_MS = 100;

export interface InterposerOptions {
  /** The directory of migration sockets; its parent is the pod's public volume. */
  readonly directory: string;
  /** uid that the sockets must have; that of the process unless a test says otherwise. */
  readonly ownUid?: number;
  readonly waitingRescanMs?: number;
  readonly takenRescanMs?: number;
  /** Hears of everything that is done or goes wrong; must not throw. */
  readonly report?: (event: InterposerEvent) => void;
  /** For tests. */
  readonly openDirectory?: (directory: string) => SocketDirectory;
}

/** What happened, for log and metrics. */
export type InterposerEvent =
  | { readonly kind: 'standing'; readonly migrationUid: string; readonly standing: SwapStanding }
  | { readonly kind: 'acted'; readonly migrationUid: string; readonly action: SwapAction }
  | { readonly kind: 'cleaned'; readonly name: string }
  | {
      readonly kind: 'failed';
      readonly migrationUid: string | undefined;
      readonly doing: string;
      readonly error: Error;
    }
  /** The place cannot be taken, and not only for a moment; once a migration. Who hears it gives the migration up. */
  | {
      readonly kind: 'cannot-take';
      readonly migrationUid: string;
      readonly doing: string;
      readonly error: Error;
    };

/** A socket whose place is taken. It ends when virt-handler or QEMU removes it, or when the place is given back. */
export interface TakenSocket {
  readonly migrationUid: string;
  readonly role: Role;
  /** Emits `connection` for QEMU's (source) or virt-handler's (target) connections: paused, half-open allowed. */
  readonly listener: Server;
  /** Where the original listens now; after the place was given back this is its own name again. */
  readonly dialPath: () => string;
  /** Connects to the original, with the bounded retries of {@link dialOriginal}. */
  readonly dial: (options?: DialOptions) => Promise<Socket>;
}

export interface Announcement {
  /** The VMIM's UID. */
  readonly migrationUid: string;
  readonly role: Role;
  /**
   * Called in the very turn in which the place was taken, before a connection can be seen: attach to
   * `listener` synchronously. Called again, with a new listener, when virt-handler re-created the socket.
   */
  readonly onTaken: (socket: TakenSocket) => void;
}

/**
 * - `restored`: the original is back, nobody had connected. Somebody who looked the path up a moment before is
 *   still emitted on the listener: relay it as it is.
 * - `too-late`: somebody had connected; relay it.
 * - `not-taken`: there was nothing to restore, and nothing will be taken.
 */
export type RestoreOutcome = 'restored' | 'too-late' | 'not-taken';

/** An announced migration. */
export interface ArmedMigration {
  readonly migrationUid: string;
  readonly role: Role;
  readonly standing: () => SwapStanding;
  /** Connections accepted so far in the original's place, over all re-creations. */
  readonly connections: () => number;
  /**
   * Decided against: puts the original back unless a connection was accepted already, and does not take it again.
   * Resolves when stragglers have been handed over. After `too-late` the migration stays armed.
   */
  readonly restore: () => Promise<RestoreOutcome>;
  /** The migration is over: whatever is left of ours goes, the original (if still there) is put back. */
  readonly end: () => void;
  /**
   * The migration failed after a connection was accepted: as end(), but the original goes too, so that whoever connects late is
   * refused. Connections that nobody has accepted yet are reset.
   */
  readonly close: () => void;
}

/** A listener of ours, and the name it was bound to. */
interface BoundListener {
  readonly server: Server;
  readonly temporary: string;
  readonly inode: string;
  /** The original is back at its own name. */
  isPutBack: boolean;
}

/** Mutable state of one announced migration. */
interface Armed {
  readonly announcement: Announcement;
  readonly names: SocketNames;
  wanted: boolean;
  isClosed: boolean;
  standing: SwapStanding;
  standingSinceMs: number;
  connections: number;
  /** Bound to its temporary name and waiting for its turn. */
  spare: BoundListener | undefined;
  binding: boolean;
  lastFailure: string;
  /** Since when the place could not be taken for an error; by performance.now(). */
  failingSinceMs: number | undefined;
  isCannotTold: boolean;
  /** Not before this time, by performance.now(). */
  bindNotBeforeMs: number;
  live: BoundListener | undefined;
}

export class Interposer {
  readonly #directory: SocketDirectory;
  readonly #ownUid: number;
  readonly #waitingRescanMs: number;
  readonly #takenRescanMs: number;
  readonly #report: (event: InterposerEvent) => void;
  readonly #armed = new Map<string, Armed>();
  #unwatch: (() => void) | undefined;
  #rescan: NodeJS.Timeout | undefined;
  #stopped = false;

  /**
   * Creates the directory when it is missing, and cleans what a crashed predecessor left. Touches nothing else.
   * Throws DirectoryNotOursError and DirectoryUnusableError.
   */
  constructor(options: InterposerOptions) {
    this.#ownUid = options.ownUid ?? process.getuid?.() ?? -1;
    this.#waitingRescanMs = options.waitingRescanMs ?? DEFAULT_WAITING_RESCAN_MS;
    this.#takenRescanMs = options.takenRescanMs ?? DEFAULT_TAKEN_RESCAN_MS;
    this.#report = options.report ?? (() => {});
    prepareSocketDirectory(options.directory, this.#ownUid);
    this.#directory = (options.openDirectory ?? openSocketDirectory)(options.directory);
    this.#cleanLeavings();
  }

  /**
   * Announces a migration: from now on its socket's place is taken as soon as it is there and ours to link.
   * Throws InvalidMigrationUidError, AlreadyArmedError, SocketPathTooLongError, InterposerStoppedError.
   */
  arm(announcement: Announcement): ArmedMigration {
    const { migrationUid, role } = announcement;
    if (this.#stopped) throw new InterposerStoppedError(migrationUid);
    const names = socketNames(migrationUid);
    for (const name of [names.original, names.mark, temporaryName(uniqueSuffix())]) this.#boundPath(name);
    if (this.#armed.has(migrationUid)) throw new AlreadyArmedError(migrationUid);
    const armed: Armed = {
      announcement,
      names,
      wanted: true,
      isClosed: false,
      standing: 'waiting-for-socket',
      standingSinceMs: performance.now(),
      connections: 0,
      spare: undefined,
      binding: false,
      bindNotBeforeMs: 0,
      lastFailure: '',
      failingSinceMs: undefined,
      isCannotTold: false,
      live: undefined,
    };
    this.#armed.set(migrationUid, armed);
    this.#startWatch();
    this.#provideSpare(armed);
    return {
      migrationUid,
      role,
      standing: () => armed.standing,
      connections: () => armed.connections,
      restore: () => this.#restore(armed),
      end: () => this.#end(armed),
      close: () => {
        armed.isClosed = true;
        this.#end(armed);
      },
    };
  }

  /**
   * Gives every place back, or closes it where a connection was accepted: this process ends, and its connections with it. Synchronous,
   * for SIGTERM and for a process that cannot go on.
   */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    for (const armed of [...this.#armed.values()]) {
      armed.isClosed = armed.connections > 0;
      this.#end(armed);
    }
    this.#stopWatch();
  }

  // ---- Carrying out decisions

  #settle(armed: Armed): void {
    // A decision's actions lead to a state in which the next one has nothing to do, so two rounds are enough
    // unless somebody else changes the directory meanwhile; then the next scan goes on.
    for (let round = 0; round < 3; round += 1) {
      let listing: Listing;
      try {
        listing = this.#listing(armed.names);
      } catch (error) {
        this.#failed(armed, 'looking at the socket', error);
        return;
      }
      const { actions, standing } = decideSwap(listing, {
        ownUid: this.#ownUid,
        armedRole: armed.wanted ? armed.announcement.role : undefined,
        listenerInode: armed.live?.inode,
        isClosed: armed.isClosed,
      });
      for (const action of actions) {
        if (!this.#carryOut(armed, action)) return;
      }
      // The taking itself has said how it went.
      if (standing !== 'taking') this.#stand(armed, standing);
      if (actions.length === 0) return;
    }
  }

  /** False when the directory changed under our hands or refused; the next scan decides anew. */
  #carryOut(armed: Armed, action: SwapAction): boolean {
    const { names } = armed;
    try {
      switch (action.kind) {
        case 'take':
          if (!this.#take(armed, action.inode)) return false;
          break;
        case 'put-back':
          this.#directory.rename(names.original, names.stream);
          break;
        case 'drop-listener':
          this.#dropListener(armed, action.why === 'put-back');
          break;
        case 'remove':
          this.#directory.unlink(names[action.what]);
          break;
      }
    } catch (error) {
      this.#failed(armed, action.kind, error);
      if (action.kind === 'take') this.#cannotTake(armed, action.kind, error);
      return false;
    }
    this.#report({ kind: 'acted', migrationUid: armed.announcement.migrationUid, action });
    return true;
  }

  /**
   * The swap itself, without an await. Returns false when it has to wait: no listener is bound yet, the socket
   * is not ours yet (EPERM), or it is gone or another one (virt-handler is at it).
   */
  #take(armed: Armed, expectedInode: string): boolean {
    const { names, spare } = armed;
    if (spare === undefined) {
      this.#stand(armed, 'taking');
      this.#provideSpare(armed);
      return false;
    }
    const directory = this.#directory;
    directory.link(spare.temporary, names.mark);
    try {
      directory.link(names.stream, names.original);
      // Between the look and the link virt-handler may have made another socket, which a rename would bury.
      const isExpected =
        directory.stat(names.original)?.inode === expectedInode &&
        directory.stat(names.stream)?.inode === expectedInode;
      if (!isExpected) {
        directory.unlink(names.original);
        directory.unlink(names.mark);
        return false;
      }
      directory.rename(spare.temporary, names.stream);
    } catch (error) {
      directory.unlink(names.mark);
      const code = errorCode(error);
      if (code !== 'EPERM' && code !== 'ENOENT') throw error;
      this.#stand(armed, code === 'EPERM' ? 'waiting-for-owner' : 'waiting-for-socket');
      return false;
    }
    armed.spare = undefined;
    armed.live = spare;
    armed.failingSinceMs = undefined;
    this.#stand(armed, 'taken');
    try {
      this.#handOver(armed, spare);
    } catch (error) {
      // Nobody would serve the connections: give the place back, which the next round of settling does.
      armed.wanted = false;
      this.#failed(armed, 'handing over the listener', error);
    }
    // For the case that virt-handler re-creates the socket.
    this.#provideSpare(armed);
    return true;
  }

  #handOver(armed: Armed, bound: BoundListener): void {
    const { migrationUid, role, onTaken } = armed.announcement;
    const original = this.#directory.path(armed.names.original);
    const stream = this.#directory.path(armed.names.stream);
    const dialPath = () => (bound.isPutBack ? stream : original);
    onTaken({
      migrationUid,
      role,
      listener: bound.server,
      dialPath,
      dial: (options) => dialOriginal(dialPath(), options),
    });
  }

  #dropListener(armed: Armed, isPutBack: boolean): void {
    const dropped = armed.live;
    armed.live = undefined;
    if (dropped === undefined) return;
    dropped.isPutBack = isPutBack;
    if (isPutBack) setTimeout(() => dropped.server.close(), DRAIN_MS);
    else dropped.server.close();
  }

  // ---- Listeners

  #provideSpare(armed: Armed): void {
    if (armed.spare !== undefined || armed.binding || !armed.wanted) return;
    if (performance.now() < armed.bindNotBeforeMs) return;
    armed.binding = true;
    this.#bind(armed).then(
      (bound) => {
        armed.binding = false;
        if (!armed.wanted) {
          this.#discard(bound);
          return;
        }
        armed.spare = bound;
        armed.failingSinceMs = undefined;
        this.#settle(armed);
        this.#schedule();
      },
      (error: unknown) => {
        armed.binding = false;
        armed.bindNotBeforeMs = performance.now() + BIND_RETRY_MS;
        this.#failed(armed, 'binding a socket', error);
        this.#cannotTake(armed, 'binding a socket', error);
        this.#schedule();
      },
    );
  }

  #bind(armed: Armed): Promise<BoundListener> {
    const temporary = temporaryName(uniqueSuffix());
    // The relay decides when to read, and a half-closed direction must not close the other.
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    server.on('connection', () => {
      armed.connections += 1;
    });
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#boundPath(temporary), () => {
        server.off('error', reject);
        server.on('error', (error) => this.#failed(armed, 'accepting a connection', error));
        const entry = this.#directory.stat(temporary);
        if (entry === undefined) {
          server.close();
          reject(new Error(`${temporary} was removed by somebody else while it was made`));
          return;
        }
        resolve({ server, temporary, inode: entry.inode, isPutBack: false });
      });
    });
  }

  #discard(bound: BoundListener): void {
    // Node unlinks the name that it bound, which is still there because it was never renamed.
    bound.server.close();
  }

  #boundPath(name: string): string {
    const path = this.#directory.path(name);
    if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
      throw new SocketPathTooLongError(path, MAX_SOCKET_PATH_BYTES);
    }
    return path;
  }

  // ---- The end of a migration

  async #restore(armed: Armed): Promise<RestoreOutcome> {
    if (armed.connections > 0) return 'too-late';
    const wasTaken = armed.live !== undefined;
    this.#end(armed);
    if (!wasTaken) return 'not-taken';
    await new Promise((resolve) => setTimeout(resolve, DRAIN_MS));
    return 'restored';
  }

  #end(armed: Armed): void {
    armed.wanted = false;
    if (armed.spare !== undefined) this.#discard(armed.spare);
    armed.spare = undefined;
    this.#settle(armed);
    this.#armed.delete(armed.announcement.migrationUid);
    if (this.#armed.size === 0) this.#stopWatch();
  }

  // ---- Watching

  #startWatch(): void {
    if (this.#unwatch !== undefined) return;
    const failed = (error: unknown) => {
      // No more watches to be had, for one. Scanning finds everything too, some milliseconds later.
      this.#report({
        kind: 'failed',
        migrationUid: undefined,
        doing: 'watching the directory',
        error: asError(error),
      });
    };
    try {
      this.#unwatch = this.#directory.watch(() => this.#scan(), failed);
    } catch (error) {
      failed(error);
    }
  }

  #stopWatch(): void {
    this.#unwatch?.();
    this.#unwatch = undefined;
    clearTimeout(this.#rescan);
    this.#rescan = undefined;
  }

  #scan(): void {
    for (const armed of this.#armed.values()) {
      if (armed.live === undefined) this.#provideSpare(armed);
      this.#settle(armed);
    }
    this.#schedule();
  }

  #schedule(): void {
    clearTimeout(this.#rescan);
    this.#rescan = undefined;
    if (this.#armed.size === 0 || this.#stopped) return;
    let afterMs = this.#takenRescanMs;
    const nowMs = performance.now();
    for (const { standing, standingSinceMs } of this.#armed.values()) {
      const isImminent = standing === 'waiting-for-owner' || standing === 'taking';
      if (isImminent && nowMs - standingSinceMs < OWNER_RESCAN_FOR_MS) afterMs = OWNER_RESCAN_MS;
      else if (standing !== 'taken') afterMs = Math.min(afterMs, this.#waitingRescanMs);
    }
    this.#rescan = setTimeout(() => this.#scan(), afterMs);
    // A sidecar that waits for a socket is kept alive by its control connection, not by this.
    this.#rescan.unref();
  }

  #listing(names: SocketNames): Listing {
    const directory = this.#directory;
    return {
      stream: directory.stat(names.stream),
      rpc: directory.stat(names.rpc),
      original: directory.stat(names.original),
      mark: directory.stat(names.mark),
    };
  }

  // ---- What a predecessor left

  #cleanLeavings(): void {
    const seen = new Set<string>();
    for (const name of this.#directory.list()) {
      const leaving = recognizeLeaving(name);
      if (leaving === undefined) continue;
      try {
        if (leaving.kind === 'temporary') {
          this.#directory.unlink(name);
          this.#report({ kind: 'cleaned', name });
        } else if (!seen.has(leaving.migrationUid)) {
          seen.add(leaving.migrationUid);
          this.#cleanSwap(leaving.migrationUid);
        }
      } catch (error) {
        this.#report({
          kind: 'failed',
          migrationUid: undefined,
          doing: `cleaning ${name}`,
          error: asError(error),
        });
      }
    }
  }

  #cleanSwap(migrationUid: string): void {
    const names = socketNames(migrationUid);
    const { actions } = decideSwap(this.#listing(names), {
      ownUid: this.#ownUid,
      armedRole: undefined,
      listenerInode: undefined,
    });
    for (const action of actions) {
      if (action.kind === 'put-back') this.#directory.rename(names.original, names.stream);
      else if (action.kind === 'remove') this.#directory.unlink(names[action.what]);
      this.#report({ kind: 'acted', migrationUid, action });
    }
  }

  // ---- Reporting

  #stand(armed: Armed, standing: SwapStanding): void {
    if (armed.standing === standing) return;
    armed.standing = standing;
    armed.standingSinceMs = performance.now();
    this.#report({ kind: 'standing', migrationUid: armed.announcement.migrationUid, standing });
  }

  /** After it was taken, all that is missing is a spare. */
  #cannotTake(armed: Armed, doing: string, error: unknown): void {
    if (armed.live !== undefined || !armed.wanted || armed.isCannotTold) return;
    const nowMs = performance.now();
    armed.failingSinceMs ??= nowMs;
    if (nowMs - armed.failingSinceMs < CANNOT_TAKE_MS) return;
    armed.isCannotTold = true;
    const { migrationUid } = armed.announcement;
    this.#report({ kind: 'cannot-take', migrationUid, doing, error: asError(error) });
  }

  #failed(armed: Armed, doing: string, error: unknown): void {
    // A scan that fails does so again every few milliseconds: what was said is not repeated.
    const failure = `${doing}: ${errorCode(error) ?? asError(error).message}`;
    if (armed.lastFailure === failure) return;
    armed.lastFailure = failure;
    this.#report({
      kind: 'failed',
      migrationUid: armed.announcement.migrationUid,
      doing,
      error: asError(error),
    });
  }
}

function uniqueSuffix(): string {
  return randomBytes(6).toString('hex');
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
