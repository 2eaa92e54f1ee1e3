// Errors as the person at the terminal reads them: what is the case, and what to do. Everything that a verb throws ends here,
// as one message and one exit code. Pure.
import { ApiError, ApiUnreachableError } from '../operator/kubernetes/api-client.ts';
import type { Exit } from './exit-codes.ts';

/** Something a verb found out, in words for the terminal. */
export class PluginError extends Error {
  readonly code = 'NASMIG_PLUGIN';
  readonly exit: Exit;

  /** `message`: what is the case; `next`: what to do about it. */
  constructor(exit: Exit, message: string, next?: string) {
    super(next === undefined ? message : `${message}\n${next}`);
    this.name = 'PluginError';
    this.exit = exit;
  }
}

/** No answer: the server cannot be reached, or did not answer in time. */
export class UnreachableError extends Error {
  readonly code = 'NASMIG_PLUGIN_UNREACHABLE';
  readonly server: string;
  readonly why: string;

  constructor(server: string, why: string) {
    super(`no answer from the API server ${server}: ${why}`);
    this.name = 'UnreachableError';
    this.server = server;
    this.why = why;
  }
}

export interface Explained {
  message: string;
  exit: Exit;
}

/** Which part is missing when the API server does not know a path. */
function missingPart(path: string): { message: string; next: string } | undefined {
  if (path.includes('/apis/nasmigration.io/'))
    return {
      message:
        'nas-aware-migration is not installed in this cluster: the API server has no NasAwareMigrations',
      next: 'Install it (docs/install.md), or choose another cluster with --context.',
    };
  if (/\/apis\/([a-z]+\.)?kubevirt\.io\//.test(path))
    return {
      message: 'KubeVirt is not installed in this cluster: the API server has no VirtualMachineInstances',
      next: 'Install KubeVirt, or choose another cluster with --context.',
    };
  return undefined;
}

/** An unknown kind answers 404 in plain text, or as a Status that names no object. */
export function isUnknownKind(error: unknown): boolean {
  return (
    error instanceof ApiError &&
    error.status === 404 &&
    (error.reason === '' || error.message.includes('the server could not find the requested resource'))
  );
}

export function isForbidden(error: unknown): boolean {
  return error instanceof ApiError && (error.status === 403 || error.status === 401);
}

/** The API server's own words, without the request before them. */
export function serverWords(error: ApiError): string {
  const marker = `${error.status} ${error.reason}: `;
  const at = error.message.indexOf(marker);
  return at === -1 ? error.message : error.message.slice(at + marker.length);
}

export function explainError(error: unknown): Explained {
  if (error instanceof PluginError) return { message: error.message, exit: error.exit };
  if (error instanceof UnreachableError)
    return {
      exit: 'unreachable',
      message: `${error.message}\nCheck that the server is up, and --kubeconfig, --context, --server and your network; --request-timeout says how long to wait.`,
    };
  if (error instanceof ApiUnreachableError)
    return {
      exit: 'unreachable',
      message: `the API server did not answer as it should: ${error.message.replace(/; it is tried again with back-off$/, '')}`,
    };
  if (error instanceof ApiError) return explainApiError(error);
  return { exit: 'failed', message: error instanceof Error ? error.message : String(error) };
}

function explainApiError(error: ApiError): Explained {
  const words = serverWords(error);
  switch (error.status) {
    case 401:
      return {
        exit: 'forbidden',
        message:
          'the API server does not accept your credentials\nLog in again, or choose others with --context, --user or --token.',
      };
    case 403:
      return {
        exit: 'forbidden',
        message: `the API server does not let you: ${words}\nAsk for the right that it names; the ClusterRoles nas-aware-migration-view and nas-aware-migration-migrate have those for migrations.`,
      };
    case 404: {
      const missing = isUnknownKind(error) ? missingPart(error.message) : undefined;
      if (missing !== undefined)
        return { exit: 'notInstalled', message: `${missing.message}\n${missing.next}` };
      return { exit: 'notFound', message: words };
    }
    case 409:
      return { exit: 'conflict', message: words };
    case 400:
    case 422:
      return { exit: 'usage', message: `the API server refuses it: ${words}` };
    default:
      return {
        exit: 'failed',
        message: `the API server answered ${error.status}: ${words}`,
      };
  }
}
