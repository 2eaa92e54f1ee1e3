// A cache of one kind of objects, kept by list and watch: paged lists, bookmarks, resumed watches, a new list after 410, back-off
// with jitter when the API server is away. Handlers get every change once, also those that happened while it was away.
// `synced` resolves after the first whole list. Objects in the cache are never changed by the operator.
import { createInterface } from 'node:readline';
import type { KubernetesListObject, KubernetesObject } from '@kubernetes/client-node';
import { type ApiClient, isGone, readAll, toApiError } from './api-client.ts';
import { keyOf, pathOf, type Resource } from './resources.ts';

export interface InformerOptions<T> {
  labelSelector?: string;
  fieldSelector?: string;
  namespace?: string;
  /** Drops what nobody reads before an object is kept. `metadata.managedFields` is always dropped. */
  trim?: (object: T) => void;
  /** Names for look-ups by something other than the key: each gives the values an object is found under. */
  indexes?: Record<string, (object: T) => readonly string[]>;
  /** Told when a list or watch failed; it goes on by itself. */
  onProblem?: (problem: string) => void;
  /** A watch that tells nothing for so long is taken for dead: bookmarks come every minute. */
  silenceMs?: number;
}

/** `previous` is absent when the object is new, `current` when it is gone. */
export type ChangeHandler<T> = (change: { current?: T; previous?: T }) => void;

interface WatchEvent<T> {
  type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  object: T;
}

const PAGE_SIZE = 500;
/** The API server ends a watch after this; a random part keeps the watches of all informers apart. */
const WATCH_SECONDS = 300;
/** A little after the API server should have ended it: a connection that died silently. */
const WATCH_GRACE_MS = 30_000;
/** Two bookmarks that did not come. A connection that died without a word would else be waited for until its deadline. */
const SILENCE_MS = 150_000;
const MIN_BACKOFF_MS = 200;
/** A watch that is ended sooner did no good: proxies and API servers in trouble answer 200 and close. */
const USEFUL_WATCH_MS = 1000;
const MAX_BACKOFF_MS = 15_000;

export class Informer<T extends KubernetesObject> {
  readonly synced: Promise<void>;
  readonly #api: ApiClient;
  readonly #resource: Resource;
  readonly #options: InformerOptions<T>;
  readonly #objects = new Map<string, T>();
  readonly #indexes = new Map<string, Map<string, Set<string>>>();
  readonly #handlers = new Set<ChangeHandler<T>>();
  readonly #stopping = new AbortController();
  #resourceVersion = '';
  #resolveSynced: () => void = () => {};
  #running: Promise<void> | undefined;

  constructor(api: ApiClient, resource: Resource, options: InformerOptions<T> = {}) {
    this.#api = api;
    this.#resource = resource;
    this.#options = options;
    for (const name of Object.keys(options.indexes ?? {})) this.#indexes.set(name, new Map());
    this.synced = new Promise((resolve) => {
      this.#resolveSynced = resolve;
    });
  }

  /** Called for every change from now on; what is in the cache already is not repeated. Returns how to end it. */
  onChange(handler: ChangeHandler<T>): () => void {
    this.#handlers.add(handler);
    return () => this.#handlers.delete(handler);
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  get size(): number {
    return this.#objects.size;
  }

  values(): IterableIterator<T> {
    return this.#objects.values();
  }

  /** The objects that `indexes[index]` gives `value` for. */
  find(index: string, value: string): T[] {
    const keys = this.#indexes.get(index)?.get(value);
    if (keys === undefined) return [];
    const found: T[] = [];
    for (const key of keys) {
      const object = this.#objects.get(key);
      if (object !== undefined) found.push(object);
    }
    return found;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let backoffMs = 0;
    while (!signal.aborted) {
      try {
        if (this.#resourceVersion === '') await this.#list();
        const startedMs = performance.now();
        await this.#watch();
        if (performance.now() - startedMs >= USEFUL_WATCH_MS) {
          backoffMs = 0;
          continue;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (isGone(error)) {
          this.#resourceVersion = '';
        } else {
          this.#options.onProblem?.(error instanceof Error ? error.message : String(error));
        }
      }
      backoffMs = Math.min(MAX_BACKOFF_MS, Math.max(MIN_BACKOFF_MS, backoffMs * 2));
      await pause(backoffMs / 2 + (Math.random() * backoffMs) / 2, signal);
    }
  }

  async #list(): Promise<void> {
    const seen = new Set<string>();
    let token = '';
    let version = '';
    do {
      const page: KubernetesListObject<T> = await this.#api.list<T>(this.#resource, this.#options.namespace, {
        ...this.#selectors(),
        limit: String(PAGE_SIZE),
        ...(token === '' ? {} : { continue: token }),
      });
      for (const object of page.items) {
        seen.add(keyOf(object));
        this.#put(object);
      }
      token =
        page.metadata?._continue ?? (page.metadata as { continue?: string } | undefined)?.continue ?? '';
      version = page.metadata?.resourceVersion ?? '';
    } while (token !== '');
    for (const key of [...this.#objects.keys()]) if (!seen.has(key)) this.#remove(key);
    this.#resourceVersion = version;
    this.#resolveSynced();
  }

  async #watch(): Promise<void> {
    const seconds = Math.round(WATCH_SECONDS * (1 + Math.random()));
    const path = pathOf(this.#resource, this.#options.namespace);
    const query = {
      ...this.#selectors(),
      watch: 'true',
      allowWatchBookmarks: 'true',
      resourceVersion: this.#resourceVersion,
      timeoutSeconds: String(seconds),
    };
    const deadline = AbortSignal.timeout(seconds * 1000 + WATCH_GRACE_MS);
    const silence = new AbortController();
    const signal = AbortSignal.any([this.#stopping.signal, deadline, silence.signal]);
    // From before the request on: the connection that it is sent on may be one of those that died.
    const timer = setTimeout(() => silence.abort(), this.#options.silenceMs ?? SILENCE_MS);
    try {
      await this.#follow(path, query, signal, timer);
    } catch (error) {
      // What was only silent is watched again at once, from where it was.
      if (!silence.signal.aborted || this.#stopping.signal.aborted) throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async #follow(
    path: string,
    query: Record<string, string>,
    signal: AbortSignal,
    silence: NodeJS.Timeout,
  ): Promise<void> {
    const response = await this.#api.open('GET', path, { query }, signal);
    if (response.statusCode !== 200) {
      throw toApiError('GET', path, response.statusCode ?? 0, await readAll(response, 'GET', path));
    }
    const lines = createInterface({ input: response, crlfDelay: Number.POSITIVE_INFINITY });
    // readline does not tell its input's errors to the iterator: the loop ends, and the error is thrown after it.
    let failure: Error | undefined;
    response.on('error', (error) => {
      failure = error;
      lines.close();
    });
    try {
      for await (const line of lines) {
        silence.refresh();
        if (line !== '') this.#onEvent(JSON.parse(line) as WatchEvent<T>, path);
      }
    } finally {
      response.destroy();
    }
    if (failure !== undefined && !this.#stopping.signal.aborted) throw failure;
  }

  #onEvent(event: WatchEvent<T>, path: string): void {
    if (event.type === 'ERROR') {
      const status = event.object as { code?: number; reason?: string; message?: string };
      throw toApiError('WATCH', path, status.code ?? 500, JSON.stringify(status));
    }
    if (event.type === 'ADDED' || event.type === 'MODIFIED') this.#put(event.object);
    if (event.type === 'DELETED') this.#remove(keyOf(event.object));
    this.#resourceVersion = event.object.metadata?.resourceVersion ?? this.#resourceVersion;
  }

  #selectors(): Record<string, string> {
    const { labelSelector, fieldSelector } = this.#options;
    return {
      ...(labelSelector === undefined ? {} : { labelSelector }),
      ...(fieldSelector === undefined ? {} : { fieldSelector }),
    };
  }

  #put(object: T): void {
    const key = keyOf(object);
    const previous = this.#objects.get(key);
    if (previous !== undefined && previous.metadata?.resourceVersion === object.metadata?.resourceVersion)
      return;
    // Items of a list carry neither apiVersion nor kind.
    object.apiVersion ??=
      this.#resource.group === ''
        ? this.#resource.version
        : `${this.#resource.group}/${this.#resource.version}`;
    object.kind ??= this.#resource.kind;
    if (object.metadata !== undefined) delete object.metadata.managedFields;
    this.#options.trim?.(object);
    if (previous !== undefined) this.#unindex(key, previous);
    this.#objects.set(key, object);
    for (const [name, valuesOf] of Object.entries(this.#options.indexes ?? {})) {
      const index = this.#indexes.get(name);
      for (const value of valuesOf(object)) {
        const keys = index?.get(value);
        if (keys === undefined) index?.set(value, new Set([key]));
        else keys.add(key);
      }
    }
    for (const handler of this.#handlers)
      handler(previous === undefined ? { current: object } : { current: object, previous });
  }

  #remove(key: string): void {
    const previous = this.#objects.get(key);
    if (previous === undefined) return;
    this.#objects.delete(key);
    this.#unindex(key, previous);
    for (const handler of this.#handlers) handler({ previous });
  }

  #unindex(key: string, object: T): void {
    for (const [name, valuesOf] of Object.entries(this.#options.indexes ?? {})) {
      const index = this.#indexes.get(name);
      for (const value of valuesOf(object)) {
        const keys = index?.get(value);
        keys?.delete(key);
        if (keys?.size === 0) index?.delete(value);
      }
    }
  }
}

/** Waits, or returns early when the signal is aborted. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
      return;
    }
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
  });
}
