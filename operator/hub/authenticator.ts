// Who a connecting sidecar is: its projected service-account token, reviewed by the API server for our audience, names the
// pod it is bound to. Nothing a sidecar says of itself is believed beyond that. See docs/security.md.
import { TOKEN_AUDIENCE } from '../../control/limits.ts';
import type { ApiClient } from '../kubernetes/api-client.ts';
import { apiVersionOf, pathOf, resources } from '../kubernetes/resources.ts';

/** The pod a token is bound to. */
export interface PodIdentity {
  namespace: string;
  podName: string;
  podUid: string;
}

/** Returns who the bearer is, or why not. Throws when it cannot be found out (the API server is away). */
export interface Authenticator {
  authenticate(token: string): Promise<{ identity: PodIdentity } | { refused: string }>;
}

interface TokenReview {
  status?: {
    authenticated?: boolean;
    audiences?: string[];
    error?: string;
    user?: { username?: string; extra?: Record<string, string[]> };
  };
}

/** A token of a service account is about 1.2 KB; longer ones are refused before the API server sees them. */
const MAX_TOKEN_LENGTH = 16_384;

export class TokenReviewAuthenticator implements Authenticator {
  readonly #api: ApiClient;

  constructor(api: ApiClient) {
    this.#api = api;
  }

  async authenticate(token: string): Promise<{ identity: PodIdentity } | { refused: string }> {
    if (token.length === 0 || token.length > MAX_TOKEN_LENGTH)
      return { refused: 'no token, or one too long' };
    const review = await this.#api.call<TokenReview>('POST', pathOf(resources.tokenReviews), {
      body: {
        apiVersion: apiVersionOf(resources.tokenReviews),
        kind: 'TokenReview',
        spec: { token, audiences: [TOKEN_AUDIENCE] },
      },
      timeoutMs: 10_000,
    });
    return identityOf(review);
  }
}

/** What a TokenReview says, as an identity: authenticated, for our audience, bound to a pod, of a service account. */
export function identityOf(review: TokenReview): { identity: PodIdentity } | { refused: string } {
  const { status } = review;
  if (status?.authenticated !== true)
    return { refused: `token not valid: ${status?.error ?? 'not authenticated'}` };
  // An API server that does not know audiences leaves the list out: such a token proves nothing to us.
  if (status.audiences?.includes(TOKEN_AUDIENCE) !== true)
    return { refused: 'token is not for our audience' };
  const namespace = /^system:serviceaccount:([^:]+):[^:]+$/.exec(status.user?.username ?? '')?.[1];
  if (namespace === undefined) return { refused: 'token is not of a service account' };
  const podName = status.user?.extra?.['authentication.kubernetes.io/pod-name']?.[0];
  const podUid = status.user?.extra?.['authentication.kubernetes.io/pod-uid']?.[0];
  if (podName === undefined || podUid === undefined) return { refused: 'token is not bound to a pod' };
  return { identity: { namespace, podName, podUid } };
}
