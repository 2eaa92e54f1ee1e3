// Requests to the API server: JSON in, JSON out, exactly as it is on the wire (the generated clients drop fields they do not
// know, such as `x-kubernetes-…`), over one keep-alive agent, each with a deadline. Credentials come from an ApiAccess and are
// read anew twice a minute, because projected tokens rotate. 429 and 503 with Retry-After are waited for, a few times.
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https';
import type { KubernetesListObject, KubernetesObject } from '@kubernetes/client-node';
import type { ApiAccess } from './api-access.ts';
import { apiVersionOf, pathOf, type Resource, resourceOfPath } from './resources.ts';

/** What the API server answered when it refused, with its reason and message. */
export class ApiError extends Error {
  readonly code = 'NASMIG_API';
  readonly status: number;
  readonly reason: string;
  readonly retryAfterMs: number | undefined;

  constructor(
    method: string,
    path: string,
    status: number,
    reason: string,
    message: string,
    retryAfterMs?: number,
  ) {
    super(`${method} ${path}: ${status} ${reason}: ${message}`);
    this.name = 'ApiError';
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }
}

/** No answer: refused, reset, or past the deadline. The request may or may not have been carried out. */
export class ApiUnreachableError extends Error {
  readonly code = 'NASMIG_API_UNREACHABLE';

  constructor(method: string, path: string, cause: string) {
    super(`${method} ${path}: no answer from the API server (${cause}); it is tried again with back-off`);
    this.name = 'ApiUnreachableError';
  }
}

/** Told of every request: its method, the plural of the resource, and the status (0: no answer). */
export type RequestObserver = (method: string, resource: string, status: number) => void;

export interface RequestSettings {
  query?: Record<string, string>;
  body?: unknown;
  contentType?: string;
  timeoutMs?: number;
}

const REQUEST_TIMEOUT_MS = 30_000;
const CREDENTIALS_MAX_AGE_MS = 30_000;
/** How often a request that the API server asks to repeat later is repeated. */
const MAX_RETRIES = 4;
const MAX_RETRY_AFTER_MS = 10_000;
/** A list of a thousand VMIs with long status is some 20 MB; lists come in pages of 500. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export const contentTypes = {
  json: 'application/json',
  mergePatch: 'application/merge-patch+json',
  jsonPatch: 'application/json-patch+json',
  apply: 'application/apply-patch+yaml',
} as const;

export class ApiClient {
  readonly #config: ApiAccess;
  readonly #server: URL;
  readonly #isBehindProxy: boolean;
  readonly #userAgent: string;
  readonly #onRequest: RequestObserver;
  #agent: Agent | undefined;
  #credentials: { options: RequestOptions; readAtMs: number } | undefined;

  constructor(config: ApiAccess, settings: { userAgent: string; onRequest?: RequestObserver }) {
    this.#config = config;
    const cluster = config.getCurrentCluster();
    if (cluster === null)
      throw new TypeError('the kubeconfig has no current cluster; set its current-context');
    this.#server = new URL(cluster.server);
    this.#isBehindProxy = cluster.proxyUrl !== undefined;
    this.#userAgent = settings.userAgent;
    this.#onRequest = settings.onRequest ?? (() => {});
  }

  get<T extends KubernetesObject>(
    resource: Resource,
    namespace: string | undefined,
    name: string,
  ): Promise<T> {
    return this.call<T>('GET', pathOf(resource, namespace, name));
  }

  list<T extends KubernetesObject>(
    resource: Resource,
    namespace?: string,
    query: Record<string, string> = {},
  ): Promise<KubernetesListObject<T>> {
    return this.call('GET', pathOf(resource, namespace), { query });
  }

  create<T extends KubernetesObject>(resource: Resource, object: T): Promise<T> {
    return this.call<T>('POST', pathOf(resource, object.metadata?.namespace), { body: object });
  }

  replace<T extends KubernetesObject>(resource: Resource, object: T, subresource?: string): Promise<T> {
    const { namespace, name } = object.metadata ?? {};
    return this.call<T>('PUT', pathOf(resource, namespace, name, subresource), { body: object });
  }

  /** Server-side apply: what `object` says belongs to `fieldManager`, and is taken from whoever had it. */
  apply<T extends KubernetesObject>(
    resource: Resource,
    object: T,
    fieldManager: string,
    subresource?: string,
  ): Promise<T> {
    const { namespace, name } = object.metadata ?? {};
    return this.call<T>('PATCH', pathOf(resource, namespace, name, subresource), {
      body: { apiVersion: apiVersionOf(resource), kind: resource.kind, ...object },
      contentType: contentTypes.apply,
      query: { fieldManager, force: 'true' },
    });
  }

  mergePatch<T extends KubernetesObject>(
    resource: Resource,
    namespace: string | undefined,
    name: string,
    patch: unknown,
    subresource?: string,
  ): Promise<T> {
    return this.call<T>('PATCH', pathOf(resource, namespace, name, subresource), {
      body: patch,
      contentType: contentTypes.mergePatch,
    });
  }

  /** Deletes; a uid makes sure that it is the object that was meant. Not found is not an error. */
  async delete(resource: Resource, namespace: string | undefined, name: string, uid?: string): Promise<void> {
    const body = {
      apiVersion: 'v1',
      kind: 'DeleteOptions',
      propagationPolicy: 'Background',
      ...(uid === undefined ? {} : { preconditions: { uid } }),
    };
    try {
      await this.call('DELETE', pathOf(resource, namespace, name), { body });
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  /** Any request. Throws {@link ApiError} or {@link ApiUnreachableError}. */
  async call<T>(method: string, path: string, settings: RequestSettings = {}): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#callOnce<T>(method, path, settings);
      } catch (error) {
        const wait = error instanceof ApiError ? error.retryAfterMs : undefined;
        if (wait === undefined || attempt >= MAX_RETRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, Math.min(wait, MAX_RETRY_AFTER_MS)));
      }
    }
  }

  async #callOnce<T>(method: string, path: string, settings: RequestSettings): Promise<T> {
    const timeoutMs = settings.timeoutMs ?? REQUEST_TIMEOUT_MS;
    const response = await this.open(method, path, settings, AbortSignal.timeout(timeoutMs));
    const text = await readAll(response, method, path);
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 300) return parse<T>(text, method, path);
    throw toApiError(method, path, status, text, response.headers['retry-after']);
  }

  /** Sends and returns the answer's head with its body unread. The signal ends it at any time. */
  async open(
    method: string,
    path: string,
    settings: RequestSettings,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const credentials = await this.#currentCredentials();
    const url = new URL(this.#server.pathname.replace(/\/$/, '') + path, this.#server);
    for (const [name, value] of Object.entries(settings.query ?? {})) url.searchParams.set(name, value);
    const body = settings.body === undefined ? undefined : Buffer.from(JSON.stringify(settings.body));
    const headers: Record<string, string | number | string[]> = {
      ...(credentials.headers as Record<string, string | string[]> | undefined),
      // Logs are text.
      accept: 'application/json, */*;q=0.8',
      'user-agent': this.#userAgent,
    };
    if (body !== undefined) {
      headers['content-type'] = settings.contentType ?? contentTypes.json;
      headers['content-length'] = body.length;
    }
    const send = url.protocol === 'http:' ? httpRequest : httpsRequest;
    const agent = this.#agentFor(credentials);
    const { auth } = credentials;
    return new Promise((resolve, reject) => {
      const call = send(
        url,
        {
          method,
          headers,
          signal,
          ...(agent === undefined ? {} : { agent }),
          ...(auth == null ? {} : { auth }),
        },
        (response) => {
          this.#onRequest(method, resourceOfPath(path), response.statusCode ?? 0);
          resolve(response);
        },
      );
      call.on('error', (error) => {
        this.#onRequest(method, resourceOfPath(path), 0);
        reject(this.unreachable(method, path, error, signal));
      });
      call.end(body);
    });
  }

  close(): void {
    this.#agent?.destroy();
  }

  /** What is thrown when no answer comes. */
  protected unreachable(method: string, path: string, error: Error, _signal: AbortSignal): Error {
    return new ApiUnreachableError(method, path, error.message);
  }

  async #currentCredentials(): Promise<RequestOptions> {
    const now = performance.now();
    if (this.#credentials !== undefined && now - this.#credentials.readAtMs < CREDENTIALS_MAX_AGE_MS) {
      return this.#credentials.options;
    }
    const options: RequestOptions = { headers: {} };
    await this.#config.applyToHTTPSOptions(options);
    this.#credentials = { options, readAtMs: now };
    return options;
  }

  /** The library's own agent opens a connection for each request; through a proxy, and without TLS, there is only that. */
  #agentFor({
    agent,
    ca,
    cert,
    key,
    rejectUnauthorized,
    servername,
  }: RequestOptions): RequestOptions['agent'] {
    if (this.#isBehindProxy || this.#server.protocol === 'http:') return agent;
    this.#agent ??= new Agent({
      keepAlive: true,
      // Reconciles in flight and a handful of watches; Node queues what is beyond.
      maxSockets: 64,
      ...(ca == null ? {} : { ca }),
      ...(cert == null ? {} : { cert }),
      ...(key == null ? {} : { key }),
      ...(rejectUnauthorized === undefined ? {} : { rejectUnauthorized }),
      ...(servername === undefined ? {} : { servername }),
    });
    return this.#agent;
  }
}

export function isNotFound(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}

export function isConflict(error: unknown): boolean {
  return error instanceof ApiError && error.status === 409 && error.reason !== 'AlreadyExists';
}

export function isAlreadyExists(error: unknown): boolean {
  return error instanceof ApiError && error.status === 409 && error.reason === 'AlreadyExists';
}

/** 410: the resource version is too old, list again. */
export function isGone(error: unknown): boolean {
  return error instanceof ApiError && error.status === 410;
}

/** The whole body as text, bounded. */
export async function readAll(response: IncomingMessage, method: string, path: string): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response) {
      bytes += (chunk as Buffer).length;
      if (bytes > MAX_ANSWER_BYTES) throw new Error(`an answer of more than ${MAX_ANSWER_BYTES} bytes`);
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    response.destroy();
    throw new ApiUnreachableError(method, path, error instanceof Error ? error.message : String(error));
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parse<T>(text: string, method: string, path: string): T {
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new ApiUnreachableError(method, path, 'an answer that is not JSON');
  }
}

/** A refusal as an error; `retryAfter` is the header. */
export function toApiError(
  method: string,
  path: string,
  status: number,
  text: string,
  retryAfter?: string,
): ApiError {
  let reason = '';
  let message = text.slice(0, 300);
  try {
    const answer = JSON.parse(text) as { reason?: string; message?: string };
    reason = answer.reason ?? '';
    message = answer.message ?? message;
  } catch {
    // A proxy's page, not the API server's Status: its beginning is the message.
  }
  const seconds = retryAfter === undefined ? Number.NaN : Number(retryAfter);
  const isLater = (status === 429 || status === 503) && Number.isFinite(seconds);
  return new ApiError(method, path, status, reason, message, isLater ? seconds * 1000 : undefined);
}
