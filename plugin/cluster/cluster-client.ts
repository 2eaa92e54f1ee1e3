// The operator's API client with what a person's kubeconfig can ask for besides: proxies, certificates that are checked for another
// name or not at all, credential programs, impersonation, plain HTTP, a time-out of one's own. Answers that do not come are told
// in words for the terminal.
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https';
import type { KubernetesListObject, KubernetesObject } from '@kubernetes/client-node';
import {
  ApiClient,
  contentTypes,
  type RequestSettings,
  readAll,
  toApiError,
} from '../../operator/kubernetes/api-client.ts';
import { apiVersionOf, type Resource } from '../../operator/kubernetes/resources.ts';
import { UnreachableError } from '../errors.ts';
import type { Access } from './kubeconfig.ts';

/** Objects in one answer; the API server gives the rest when asked again. */
const PAGE_SIZE = '500';
/** A day: what `--request-timeout=0` comes to. */
const WITHOUT_END_MS = 86_400_000;

export class ClusterClient extends ApiClient {
  readonly #access: Access;
  readonly #server: URL;
  readonly #userAgent: string;
  #agent: Agent | undefined;

  constructor(access: Access, userAgent: string) {
    super(access.config, { userAgent });
    this.#access = access;
    this.#server = new URL(access.server);
    this.#userAgent = userAgent;
  }

  get server(): string {
    return this.#access.server;
  }

  override call<T>(method: string, path: string, settings: RequestSettings = {}): Promise<T> {
    const { requestTimeoutMs } = this.#access;
    if (requestTimeoutMs === undefined) return super.call(method, path, settings);
    return super.call(method, path, { timeoutMs: requestTimeoutMs || WITHOUT_END_MS, ...settings });
  }

  /** Every object of a collection, with apiVersion and kind, which items of a list lack. */
  async listAll<T extends KubernetesObject>(
    resource: Resource,
    namespace?: string,
    query: Record<string, string> = {},
  ): Promise<T[]> {
    const all: T[] = [];
    let token = '';
    do {
      const page: KubernetesListObject<T> = await this.list<T>(resource, namespace, {
        ...query,
        limit: PAGE_SIZE,
        ...(token === '' ? {} : { continue: token }),
      });
      for (const item of page.items)
        all.push({ ...item, apiVersion: apiVersionOf(resource), kind: resource.kind });
      token = (page.metadata as { continue?: string } | undefined)?.continue ?? '';
    } while (token !== '');
    return all;
  }

  /** An answer that is not JSON, such as a log; at most what the client reads of any answer. */
  async text(path: string, query: Record<string, string> = {}): Promise<string> {
    const timeoutMs = this.#access.requestTimeoutMs ?? 30_000;
    const response = await this.open(
      'GET',
      path,
      { query },
      AbortSignal.timeout(timeoutMs || WITHOUT_END_MS),
    );
    const text = await readAll(response, 'GET', path);
    const status = response.statusCode ?? 0;
    if (status < 200 || status >= 300) throw toApiError('GET', path, status, text);
    return text;
  }

  /** The library's own agent opens a connection for each request; through a proxy there is only that. */
  #agentFor({
    agent,
    ca,
    cert,
    key,
    rejectUnauthorized,
    servername,
  }: RequestOptions): RequestOptions['agent'] {
    const isDirect = this.#access.config.getCurrentCluster()?.proxyUrl === undefined;
    if (!isDirect || this.#server.protocol === 'http:') return agent;
    this.#agent ??= new Agent({
      keepAlive: true,
      ...(ca == null ? {} : { ca }),
      ...(cert == null ? {} : { cert }),
      ...(key == null ? {} : { key }),
      ...(rejectUnauthorized === undefined ? {} : { rejectUnauthorized }),
      ...(servername === undefined ? {} : { servername }),
    });
    return this.#agent;
  }

  override async open(
    method: string,
    path: string,
    settings: RequestSettings,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const options: RequestOptions = { headers: {} };
    try {
      await this.#access.config.applyToHTTPSOptions(options);
    } catch (error) {
      throw new UnreachableError(
        this.#access.server,
        `your credentials could not be read: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
    const url = new URL(this.#server.pathname.replace(/\/$/, '') + path, this.#server);
    for (const [name, value] of Object.entries(settings.query ?? {})) url.searchParams.set(name, value);
    const body = settings.body === undefined ? undefined : Buffer.from(JSON.stringify(settings.body));
    const { user, groups, uid } = this.#access.impersonation;
    const headers: Record<string, string | number | string[]> = {
      ...(options.headers as Record<string, string> | undefined),
      accept: 'application/json, */*;q=0.8',
      'user-agent': this.#userAgent,
      ...(user === undefined ? {} : { 'impersonate-user': user }),
      ...(groups.length === 0 ? {} : { 'impersonate-group': groups }),
      ...(uid === undefined ? {} : { 'impersonate-uid': uid }),
    };
    if (body !== undefined) {
      headers['content-type'] = settings.contentType ?? contentTypes.json;
      headers['content-length'] = body.length;
    }
    const send = url.protocol === 'http:' ? httpRequest : httpsRequest;
    const { auth } = options;
    const agent = this.#agentFor(options);
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
        resolve,
      );
      call.on('error', (error) => reject(new UnreachableError(this.#access.server, why(error, signal))));
      call.end(body);
    });
  }
}

function why(error: Error & { code?: string }, signal: AbortSignal): string {
  if (signal.aborted) return 'it did not answer in time';
  switch (error.code) {
    case 'ECONNREFUSED':
      return 'connection refused';
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'its name is not known (DNS)';
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
      return `its certificate is not from a CA that is trusted (${error.code}); give the CA with --certificate-authority`;
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return `its certificate is for another name; --tls-server-name says which to expect (${error.message})`;
    default:
      return error.message === '' ? (error.code ?? 'no reason given') : error.message;
  }
}
