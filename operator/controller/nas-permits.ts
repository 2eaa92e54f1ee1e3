// How many accelerated migrations may read one NFS server at a time. Counted here, in the leader's memory, when a permit is
// taken and given back, never read from a cache: two migrations that are decided at the same moment cannot both take the last
// one. First come, first served. A new leader counts what runs from the objects on the API server before it decides anything.
export interface PermitHolder {
  /** UID of the NasAwareMigration. */
  uid: string;
  /** Its key, to be told when it may try again. */
  key: string;
  /** The NFS servers its volumes are on. */
  servers: readonly string[];
}

export interface NasPermitsOptions {
  /** For each server; 0 is no limit. */
  limit: number;
  /** Permits came free: these wait for one and try again. */
  onFree: (keys: string[]) => void;
}

export class NasPermits {
  readonly #options: NasPermitsOptions;
  readonly #held = new Map<string, PermitHolder>();
  readonly #inUse = new Map<string, number>();
  /** In the order of their first asking. */
  readonly #waiting = new Map<string, PermitHolder>();

  constructor(options: NasPermitsOptions) {
    this.#options = options;
  }

  get limit(): number {
    return this.#options.limit;
  }

  /** Migrations that hold permits. */
  get heldCount(): number {
    return this.#held.size;
  }

  get waitingCount(): number {
    return this.#waiting.size;
  }

  isHeldBy(uid: string): boolean {
    return this.#held.has(uid);
  }

  /** Permits of this server that are taken. */
  inUse(server: string): number {
    return this.#inUse.get(server) ?? 0;
  }

  /** All of a migration's servers at once, or none and a place in the queue. Asking again keeps what is held. */
  take(holder: PermitHolder): boolean {
    if (this.#held.has(holder.uid)) return true;
    const servers = new Set(holder.servers);
    if (!this.#isFree(holder.uid, servers)) {
      this.#waiting.set(holder.uid, { ...holder, servers: [...servers] });
      return false;
    }
    this.#hold(holder);
    return true;
  }

  /** Counts one that reads already, whatever the limit: it began under an earlier leader. */
  occupy(holder: PermitHolder): void {
    if (!this.#held.has(holder.uid)) this.#hold(holder);
  }

  /** Gives back what is held, or the place in the queue. */
  release(uid: string): void {
    const holder = this.#held.get(uid) ?? this.#waiting.get(uid);
    if (holder === undefined) return;
    if (this.#held.delete(uid)) {
      for (const server of holder.servers) {
        const left = this.inUse(server) - 1;
        if (left <= 0) this.#inUse.delete(server);
        else this.#inUse.set(server, left);
      }
    }
    this.#waiting.delete(uid);
    const freed = new Set(holder.servers);
    const next = [...this.#waiting.values()].filter(({ servers }) => servers.some((one) => freed.has(one)));
    if (next.length > 0) this.#options.onFree(next.map(({ key }) => key));
  }

  /** Why a migration waits, for its condition. */
  describe(servers: readonly string[]): string {
    const full = [...new Set(servers)].filter((server) => this.inUse(server) >= this.limit);
    const names = (full.length === 0 ? [...new Set(servers)] : full).slice(0, 4).join(', ');
    return `${names}: ${this.limit} at a time`;
  }

  #hold(holder: PermitHolder): void {
    const servers = [...new Set(holder.servers)];
    this.#waiting.delete(holder.uid);
    this.#held.set(holder.uid, { ...holder, servers });
    for (const server of servers) this.#inUse.set(server, this.inUse(server) + 1);
  }

  /** Who asked earlier for the same server comes first, so that nobody waits for ever. */
  #isFree(uid: string, servers: ReadonlySet<string>): boolean {
    const { limit } = this.#options;
    if (limit === 0) return true;
    const ahead = new Map<string, number>();
    for (const waiter of this.#waiting.values()) {
      if (waiter.uid === uid) break;
      for (const server of waiter.servers) ahead.set(server, (ahead.get(server) ?? 0) + 1);
    }
    return [...servers].every((server) => this.inUse(server) + (ahead.get(server) ?? 0) < limit);
  }
}
