// The operator's API client for a person: as whom they want to act, with a time-out of their own, lists page by page, and text. Answers
// that do not come are told in words for the terminal.
import type { KubernetesListObject, KubernetesObject } from '@kubernetes/client-node';
import type { ApiAccess } from '../../operator/kubernetes/api-access.ts';
import {
  ApiClient,
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

  constructor(access: Access, userAgent: string) {
    super(credentialsOf(access), { userAgent });
    this.#access = access;
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

  /**
   * An answer that is not JSON, such as a log; at most what the client reads of any answer. `longestMs`: when somebody else than the API
   * server is to answer, who may not be there.
   */
  async text(path: string, query: Record<string, string> = {}, longestMs = WITHOUT_END_MS): Promise<string> {
    const timeoutMs = this.#access.requestTimeoutMs ?? 30_000;
    const response = await this.open(
      'GET',
      path,
      { query },
      AbortSignal.timeout(Math.min(timeoutMs || WITHOUT_END_MS, longestMs)),
    );
    const text = await readAll(response, 'GET', path);
    const status = response.statusCode ?? 0;
    if (status < 200 || status >= 300) throw toApiError('GET', path, status, text);
    return text;
  }

  protected override unreachable(_method: string, _path: string, error: Error, signal: AbortSignal): Error {
    return new UnreachableError(this.#access.server, why(error, signal));
  }
}

/** The kubeconfig's credentials, and as whom to act with them. */
function credentialsOf({ config, server, impersonation }: Access): ApiAccess {
  const { user, groups, uid, extra } = impersonation;
  return {
    getCurrentCluster: () => config.getCurrentCluster(),
    applyToHTTPSOptions: async (options) => {
      try {
        await config.applyToHTTPSOptions(options);
      } catch (error) {
        const problem = error instanceof Error ? error.message : String(error);
        throw new UnreachableError(server, `your credentials could not be read: ${problem}`);
      }
      options.headers = {
        ...(options.headers as Record<string, string>),
        ...(user === undefined ? {} : { 'impersonate-user': user }),
        ...(groups.length === 0 ? {} : { 'impersonate-group': groups }),
        ...(uid === undefined ? {} : { 'impersonate-uid': uid }),
        ...extraHeaders(extra),
      };
    },
  };
}

/** A header for each name, which is in lower case and percent-encoded there. */
function extraHeaders(extra: readonly (readonly [string, string])[]): Record<string, string[]> {
  const headers: Record<string, string[]> = {};
  for (const [name, value] of extra) {
    const header = `impersonate-extra-${encodeURIComponent(name.toLowerCase())}`;
    headers[header] = [...(headers[header] ?? []), value];
  }
  return headers;
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
