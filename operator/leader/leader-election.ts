// Leader election with a Lease, as client-go does it: the holder renews, others take over when they have not seen a renewal
// for the lease's duration, measured by their own clock (no comparison of clocks). Each term has an epoch higher than every
// earlier one, also after the Lease was deleted: sidecars refuse the orders of a deposed leader by it.
import type { KubernetesObject } from '@kubernetes/client-node';
import { type ApiClient, isAlreadyExists, isConflict, isNotFound } from '../kubernetes/api-client.ts';
import { pause } from '../kubernetes/informer.ts';
import { apiVersionOf, pathOf, resources } from '../kubernetes/resources.ts';

export interface Lease extends KubernetesObject {
  spec?: {
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    acquireTime?: string;
    renewTime?: string;
    leaseTransitions?: number;
  };
}

export interface LeaderElectionOptions {
  api: ApiClient;
  namespace: string;
  name: string;
  /** Different for every process start, so that a restarted process begins a new term. */
  identity: string;
  leaseDurationMs?: number;
  renewDeadlineMs?: number;
  retryMs?: number;
  onProblem?: (problem: string) => void;
}

/** client-go's defaults. */
const LEASE_DURATION_MS = 15_000;
const RENEW_DEADLINE_MS = 10_000;
const RETRY_MS = 2000;
/** Of the renew deadline: a request that gets no answer is given up, and tried again over another connection. */
const ATTEMPTS_WITHIN_DEADLINE = 3;
const EPOCH_ANNOTATION = 'nasmigration.io/epoch';

export class LeaderElection {
  readonly #options: LeaderElectionOptions;
  readonly #stopping = new AbortController();
  #observed: { version: string; atMs: number } | undefined;
  #running: Promise<void> | undefined;

  constructor(options: LeaderElectionOptions) {
    this.#options = options;
  }

  /**
   * Runs until stop(). `lead` is called with the epoch when leadership is won, and must return when its signal is aborted,
   * which happens when leadership is lost or stop() is called; the lease is given back after it has returned.
   */
  start(lead: (epoch: number, signal: AbortSignal) => Promise<void>): void {
    this.#running ??= this.#run(lead);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(lead: (epoch: number, signal: AbortSignal) => Promise<void>): Promise<void> {
    const { signal } = this.#stopping;
    const retryMs = this.#options.retryMs ?? RETRY_MS;
    while (!signal.aborted) {
      const startedMs = performance.now();
      const epoch = await this.#try((lease) => this.#acquire(lease), this.#attemptMs);
      if (epoch === undefined || this.#isMostlyOver(startedMs)) {
        await pause(retryMs * (0.8 + Math.random() * 0.4), signal);
        continue;
      }
      const term = new AbortController();
      const leading = lead(epoch, AbortSignal.any([signal, term.signal]));
      const ended = leading.then(
        () => term.abort(),
        (error: unknown) => {
          this.#options.onProblem?.(error instanceof Error ? error.message : String(error));
          term.abort();
        },
      );
      await this.#keep(epoch, startedMs, AbortSignal.any([signal, term.signal]));
      term.abort();
      await ended;
      await this.#try((lease) => this.#release(lease), this.#deadlineMs);
    }
  }

  get #deadlineMs(): number {
    return this.#options.renewDeadlineMs ?? RENEW_DEADLINE_MS;
  }

  get #attemptMs(): number {
    return Math.ceil(this.#deadlineMs / ATTEMPTS_WITHIN_DEADLINE);
  }

  /** Less than half of a lease that was asked for then is left: too little for a term. It is ours, and the next round gets it anew. */
  #isMostlyOver(startedMs: number): boolean {
    const durationMs = this.#options.leaseDurationMs ?? LEASE_DURATION_MS;
    if (performance.now() - startedMs <= durationMs / 2) return false;
    this.#options.onProblem?.('it took more than half of the Lease’s duration to get it');
    return true;
  }

  /**
   * Renews until the signal is aborted or the deadline has passed since the last renewal that succeeded was begun: others count from
   * when they saw it, which is later. A renewal that gets no answer is given up soon enough for another, and at the deadline.
   */
  async #keep(epoch: number, acquiredMs: number, signal: AbortSignal): Promise<void> {
    const retryMs = this.#options.retryMs ?? RETRY_MS;
    let deadlineMs = acquiredMs + this.#deadlineMs;
    while (!signal.aborted) {
      await pause(retryMs, signal);
      const startedMs = performance.now();
      if (signal.aborted || startedMs >= deadlineMs) return;
      const withinMs = Math.min(this.#attemptMs, deadlineMs - startedMs);
      const isStillOurs = await this.#try((lease) => this.#renew(lease, epoch), withinMs);
      if (isStillOurs === false) return;
      if (isStillOurs === true) deadlineMs = startedMs + this.#deadlineMs;
    }
  }

  async #acquire(requests: LeaseRequests): Promise<number | undefined> {
    const lease = await requests.get();
    if (lease === undefined) {
      const epoch = nextEpoch(undefined, Date.now());
      await requests.create(this.#lease(undefined, epoch));
      return epoch;
    }
    const holder = lease.spec?.holderIdentity ?? '';
    const version = lease.metadata?.resourceVersion ?? '';
    if (this.#observed?.version !== version) this.#observed = { version, atMs: performance.now() };
    const durationMs = (lease.spec?.leaseDurationSeconds ?? LEASE_DURATION_MS / 1000) * 1000;
    if (
      holder !== '' &&
      holder !== this.#options.identity &&
      performance.now() - this.#observed.atMs < durationMs
    ) {
      return undefined;
    }
    const epoch = nextEpoch(lease.metadata?.annotations?.[EPOCH_ANNOTATION], Date.now());
    await requests.replace(this.#lease(lease, epoch));
    return epoch;
  }

  /** False when somebody else holds the lease. */
  async #renew(requests: LeaseRequests, epoch: number): Promise<boolean> {
    const lease = await requests.get();
    if (lease?.spec?.holderIdentity !== this.#options.identity) return false;
    const renewed = { ...lease, spec: { ...lease.spec, renewTime: microTime() } };
    renewed.metadata = {
      ...lease.metadata,
      annotations: { ...lease.metadata?.annotations, [EPOCH_ANNOTATION]: String(epoch) },
    };
    await requests.replace(renewed);
    return true;
  }

  async #release(requests: LeaseRequests): Promise<void> {
    const lease = await requests.get();
    if (lease?.spec?.holderIdentity !== this.#options.identity) return;
    await requests.replace({
      ...lease,
      spec: { ...lease.spec, holderIdentity: '', leaseDurationSeconds: 1 },
    });
  }

  #lease(before: Lease | undefined, epoch: number): Lease {
    const { namespace, name, identity } = this.#options;
    const now = microTime();
    return {
      apiVersion: apiVersionOf(resources.leases),
      kind: resources.leases.kind,
      metadata: {
        namespace,
        name,
        annotations: { ...before?.metadata?.annotations, [EPOCH_ANNOTATION]: String(epoch) },
        ...(before?.metadata?.resourceVersion === undefined
          ? {}
          : { resourceVersion: before.metadata.resourceVersion }),
      },
      spec: {
        holderIdentity: identity,
        leaseDurationSeconds: Math.ceil((this.#options.leaseDurationMs ?? LEASE_DURATION_MS) / 1000),
        acquireTime: now,
        renewTime: now,
        leaseTransitions: (before?.spec?.leaseTransitions ?? 0) + (before === undefined ? 0 : 1),
      },
    };
  }

  /** Undefined on any failure, and when there is no answer in time: the next round tries again. */
  async #try<T>(attempt: (requests: LeaseRequests) => Promise<T>, withinMs: number): Promise<T | undefined> {
    const requests = new LeaseRequests(this.#options, performance.now() + withinMs);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () => reject(new Error(`no answer about the Lease within ${Math.round(withinMs)} ms`)),
        withinMs,
      );
    });
    try {
      return await Promise.race([attempt(requests), late]);
    } catch (error) {
      if (!isConflict(error) && !isAlreadyExists(error)) {
        this.#options.onProblem?.(error instanceof Error ? error.message : String(error));
      }
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The requests of one attempt. What has no answer by its end is aborted, which closes the connection. */
class LeaseRequests {
  readonly #options: LeaderElectionOptions;
  readonly #untilMs: number;

  constructor(options: LeaderElectionOptions, untilMs: number) {
    this.#options = options;
    this.#untilMs = untilMs;
  }

  /** Undefined when there is none. */
  async get(): Promise<Lease | undefined> {
    const { namespace, name } = this.#options;
    try {
      return await this.#call<Lease>('GET', pathOf(resources.leases, namespace, name));
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  async create(lease: Lease): Promise<void> {
    await this.#call('POST', pathOf(resources.leases, this.#options.namespace), lease);
  }

  async replace(lease: Lease): Promise<void> {
    const { namespace, name } = this.#options;
    await this.#call('PUT', pathOf(resources.leases, namespace, name), lease);
  }

  #call<T>(method: string, path: string, body?: Lease): Promise<T> {
    const timeoutMs = Math.ceil(this.#untilMs - performance.now());
    if (timeoutMs <= 0) throw new Error('no time is left for an attempt to write the Lease');
    return this.#options.api.call<T>(method, path, { body, timeoutMs });
  }
}

/** Higher than the one before, and, when there is none, than any that was ever given: seconds since 1970. */
export function nextEpoch(before: string | undefined, nowMs: number): number {
  const last = before !== undefined && /^\d{1,15}$/.test(before) ? Number(before) : 0;
  return Math.max(last + 1, Math.floor(nowMs / 1000));
}

/** metav1.MicroTime. */
function microTime(): string {
  return new Date().toISOString().replace('Z', '000Z');
}
