// The operator's own certificate authority: kept in a Secret that all replicas share, rotated long before it ends, the previous
// one trusted until it ends, and signing until the new one is where pods read it. Leaves live in memory only, one per process,
// renewed at two thirds of their life. Nothing outside is needed: no cert-manager, no shell.
import { X509Certificate } from 'node:crypto';
import type { V1Secret } from '@kubernetes/client-node';
import { type ApiClient, isAlreadyExists, isConflict, isNotFound } from '../kubernetes/api-client.ts';
import { apiVersionOf, resources } from '../kubernetes/resources.ts';
import { createAuthority, issueCertificate, type KeyAndCertificate } from './x509.ts';

const DAY_MS = 86_400_000;
const AUTHORITY_LIFE_MS = 730 * DAY_MS;
const LEAF_LIFE_MS = 7 * DAY_MS;
/** Certificates are valid a little before now: clocks of nodes differ. */
const BACKDATE_MS = DAY_MS / 24;
const MAX_ATTEMPTS = 5;
/**
 * A new authority is trusted so long before it signs: replicas look at the Secret every ten minutes, the leader publishes it in every
 * namespace, and kubelet takes a minute or two to write it into pods.
 */
export const SIGN_AFTER_MS = 60 * 60_000;

export interface AuthorityBundle {
  /** What signs: the current one, or the previous one for {@link SIGN_AFTER_MS} after it was replaced. */
  signer: KeyAndCertificate;
  /** PEM certificates to trust: the current one, and the previous one while it is valid. */
  bundlePem: string;
}

export interface AuthorityStoreOptions {
  api: ApiClient;
  namespace: string;
  secretName: string;
  now?: () => number;
  /** Shorter in tests. */
  signAfterMs?: number;
}

export class AuthorityStore {
  readonly #options: AuthorityStoreOptions;
  readonly #now: () => number;

  constructor(options: AuthorityStoreOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /**
   * The authority in the Secret; made when absent, replaced when two thirds of its life are over, the key of the one before deleted when
   * that does not sign any more. Safe to run in parallel.
   */
  async load(): Promise<AuthorityBundle> {
    const { api, namespace, secretName } = this.#options;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const secret = await api
        .get<V1Secret>(resources.secrets, namespace, secretName)
        .catch((error: unknown) => {
          if (isNotFound(error)) return undefined;
          throw error;
        });
      const read = readAuthority(secret, 'ca');
      const current = read?.keyPem === '' ? undefined : read;
      let wanted: V1Secret | undefined;
      if (current !== undefined && !isDue(current.certificatePem, this.#now())) {
        wanted = this.#withoutUsedKey(secret, current);
        if (wanted === undefined) return this.#bundle(current, readAuthority(secret, 'previous-ca'));
      }
      wanted ??= this.#secret(secret, this.#make(), current);
      try {
        if (secret === undefined) await api.create(resources.secrets, wanted);
        else await api.replace(resources.secrets, wanted);
      } catch (error) {
        // Another replica was first: what it wrote is as good.
        if (!isAlreadyExists(error) && !isConflict(error)) throw error;
      }
    }
    throw new Error(
      `NASMIG_CERTIFICATES: Secret ${namespace}/${secretName} could not be written in ${MAX_ATTEMPTS} attempts; ` +
        'check that nothing else writes it, and that the operator may',
    );
  }

  #bundle(current: KeyAndCertificate, previous: KeyAndCertificate | undefined): AuthorityBundle {
    const now = this.#now();
    if (previous === undefined || new X509Certificate(previous.certificatePem).validToDate.getTime() <= now)
      return { signer: current, bundlePem: current.certificatePem };
    return {
      signer: this.#isNew(current) && previous.keyPem !== '' ? previous : current,
      bundlePem: current.certificatePem + previous.certificatePem,
    };
  }

  /** It is not trusted everywhere yet. */
  #isNew({ certificatePem }: KeyAndCertificate): boolean {
    const madeMs = new X509Certificate(certificatePem).validFromDate.getTime() + BACKDATE_MS;
    return this.#now() - madeMs < (this.#options.signAfterMs ?? SIGN_AFTER_MS);
  }

  /** The Secret without the key of the previous authority when that does not sign any more; undefined when there is nothing to take out. */
  #withoutUsedKey(secret: V1Secret | undefined, current: KeyAndCertificate): V1Secret | undefined {
    if (secret?.data?.['previous-ca.key'] === undefined || this.#isNew(current)) return undefined;
    const { 'previous-ca.key': _used, ...data } = secret.data;
    return { ...secret, data };
  }

  #make(): KeyAndCertificate {
    const now = this.#now();
    return createAuthority(
      'nas-aware-migration',
      new Date(now - BACKDATE_MS),
      new Date(now + AUTHORITY_LIFE_MS),
    );
  }

  #secret(
    before: V1Secret | undefined,
    next: KeyAndCertificate,
    previous: KeyAndCertificate | undefined,
  ): V1Secret {
    const { namespace, secretName } = this.#options;
    const encode = (text: string) => Buffer.from(text).toString('base64');
    return {
      apiVersion: apiVersionOf(resources.secrets),
      kind: resources.secrets.kind,
      metadata: {
        namespace,
        name: secretName,
        ...(before?.metadata?.resourceVersion === undefined
          ? {}
          : { resourceVersion: before.metadata.resourceVersion }),
      },
      type: 'Opaque',
      data: {
        'ca.crt': encode(next.certificatePem),
        'ca.key': encode(next.keyPem),
        ...(previous === undefined
          ? {}
          : {
              'previous-ca.crt': encode(previous.certificatePem),
              'previous-ca.key': encode(previous.keyPem),
            }),
      },
    };
  }
}

/** A serving certificate for these names. */
export function issueServing(
  authority: KeyAndCertificate,
  hosts: readonly string[],
  nowMs: number,
): KeyAndCertificate {
  return issueCertificate(authority, {
    commonName: hosts[0] ?? 'nas-aware-migration',
    hosts,
    usages: ['server'],
    notBefore: new Date(nowMs - BACKDATE_MS),
    notAfter: new Date(
      Math.min(nowMs + LEAF_LIFE_MS, new X509Certificate(authority.certificatePem).validToDate.getTime()),
    ),
  });
}

/** Two thirds of a certificate's life are over: time for another. */
export function isDue(certificatePem: string, nowMs: number): boolean {
  const { validFromDate, validToDate } = new X509Certificate(certificatePem);
  const from = validFromDate.getTime();
  return nowMs >= from + ((validToDate.getTime() - from) * 2) / 3;
}

/** Undefined when it is not there, or not one. A key that is not there is empty: an authority that is only trusted. */
function readAuthority(secret: V1Secret | undefined, name: string): KeyAndCertificate | undefined {
  const decode = (key: string) => Buffer.from(secret?.data?.[key] ?? '', 'base64').toString('utf8');
  const pair = { certificatePem: decode(`${name}.crt`), keyPem: decode(`${name}.key`) };
  try {
    return new X509Certificate(pair.certificatePem).ca ? pair : undefined;
  } catch {
    return undefined;
  }
}
