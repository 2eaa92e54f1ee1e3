// What one remote address may do before it has shown a good token: how many of its connections are not through yet, how many of them
// are authenticated at a time, and how often they come to nothing. Pods behind one node that hides their addresses count as
// one, so that the bounds leave room for a node's sidecars that all come back at once. Pure but for the clock it is given.
import { RateLimit } from './rate-limit.ts';

export interface AddressBounds {
  /** Connections that are neither through nor closed: in the TLS handshake, before their request, or being authenticated. */
  unfinished: number;
  authenticating: number;
  /** Connections that came to nothing (no handshake, no request, another path, a token that is not good). */
  failuresPerSecond: number;
  failureBurst: number;
  /** Failures beyond the burst that are remembered: of connections that were open at once, or were opened before the burst was used up. */
  failureDebt: number;
}

interface Remote {
  /** By their ports: what it is when one closes without having been through. */
  readonly unfinished: Map<number, 'failure' | 'excused'>;
  authenticating: number;
  readonly failures: RateLimit;
  lastSeenMs: number;
}

/** Addresses that are kept apart; a pod has one. Those beyond are bounded by the hub's own limits alone. */
const MAX_ADDRESSES = 20_000;

export class AddressLimits {
  readonly #bounds: AddressBounds;
  readonly #remotes = new Map<string, Remote>();

  constructor(bounds: AddressBounds) {
    this.#bounds = bounds;
  }

  get size(): number {
    return this.#remotes.size;
  }

  /** A connection comes; false when it is one too many, which then does not count. */
  opened(address: string, port: number, nowMs: number): boolean {
    const remote = this.#remoteOf(address, nowMs);
    if (remote === undefined) return true;
    remote.lastSeenMs = nowMs;
    if (remote.unfinished.size >= this.#bounds.unfinished || !remote.failures.has(nowMs)) return false;
    remote.unfinished.set(port, 'failure');
    return true;
  }

  /** A token is to be looked at; false when too many of this address are already. */
  authenticates(address: string): boolean {
    const remote = this.#remotes.get(address);
    if (remote === undefined) return true;
    if (remote.authenticating >= this.#bounds.authenticating) return false;
    remote.authenticating += 1;
    return true;
  }

  authenticated(address: string): void {
    const remote = this.#remotes.get(address);
    if (remote !== undefined) remote.authenticating = Math.max(0, remote.authenticating - 1);
  }

  /** When it is not through by its end, that is for a reason that is not its own; until then it keeps its slot. */
  excuse(address: string, port: number): void {
    const unfinished = this.#remotes.get(address)?.unfinished;
    if (unfinished?.has(port) === true) unfinished.set(port, 'excused');
  }

  /** One that is excused was at fault after all. */
  failed(address: string, nowMs: number): void {
    const remote = this.#remotes.get(address);
    if (remote !== undefined) this.#charge(remote, nowMs);
  }

  /** It is through. */
  through(address: string, port: number): void {
    this.#remotes.get(address)?.unfinished.delete(port);
  }

  /** It is closed; one that was neither through nor excused has failed. */
  closed(address: string, port: number, nowMs: number): void {
    const remote = this.#remotes.get(address);
    const outcome = remote?.unfinished.get(port);
    remote?.unfinished.delete(port);
    if (remote !== undefined && outcome === 'failure') this.#charge(remote, nowMs);
  }

  /** Forgets addresses that are as new again. */
  forget(nowMs: number): void {
    const { failureBurst, failureDebt, failuresPerSecond } = this.#bounds;
    const fullAfterMs = ((failureBurst + failureDebt) / failuresPerSecond) * 1000;
    for (const [address, { unfinished, authenticating, lastSeenMs }] of this.#remotes)
      if (unfinished.size === 0 && authenticating === 0 && nowMs - lastSeenMs >= fullAfterMs)
        this.#remotes.delete(address);
  }

  #charge(remote: Remote, nowMs: number): void {
    remote.lastSeenMs = nowMs;
    remote.failures.charge(nowMs, this.#bounds.failureDebt);
  }

  #remoteOf(address: string, nowMs: number): Remote | undefined {
    const known = this.#remotes.get(address);
    if (known !== undefined || this.#remotes.size >= MAX_ADDRESSES) return known;
    const { failuresPerSecond, failureBurst } = this.#bounds;
    const failures = new RateLimit(failuresPerSecond, failureBurst, nowMs);
    const remote: Remote = { unfinished: new Map(), authenticating: 0, failures, lastSeenMs: nowMs };
    this.#remotes.set(address, remote);
    return remote;
  }
}
