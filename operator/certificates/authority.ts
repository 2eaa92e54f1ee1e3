// The operator's own certificate authority: kept in a Secret that all replicas share, rotated long before it ends, the previous
// one trusted until it ends. Leaves live in memory only, one per process, renewed at two thirds of their life. Nothing outside
// is needed: no cert-manager, no shell.
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

export interface AuthorityBundle {
  current: KeyAndCertificate;
  /** PEM certificates to trust: the current one, and the previous one while it is valid. */
  bundlePem: string;
}

export interface AuthorityStoreOptions {
  api: ApiClient;
  namespace: string;
  secretName: string;
  now?: () => number;
}

export class AuthorityStore {
  readonly #options: AuthorityStoreOptions;
  readonly #now: () => number;

  constructor(options: AuthorityStoreOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** The authority in the Secret; made when absent, replaced when two thirds of its life are over. Safe to run in parallel. */
  async load(): Promise<AuthorityBundle> {
    const { api, namespace, secretName } = this.#options;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const secret = await api
        .get<V1Secret>(resources.secrets, namespace, secretName)
        .catch((error: unknown) => {
          if (isNotFound(error)) return undefined;
          throw error;
        });
      const current = secret === undefined ? undefined : readPair(secret);
      if (current !== undefined && !isDue(current.certificatePem, this.#now())) {
        return { current, bundlePem: bundleOf(secret, current, this.#now()) };
      }
      const next = this.#make();
      const wanted = this.#secret(secret, next, current);
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
        ...(previous === undefined ? {} : { 'previous-ca.crt': encode(previous.certificatePem) }),
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

function readPair(secret: V1Secret): KeyAndCertificate | undefined {
  const decode = (name: string) => Buffer.from(secret.data?.[name] ?? '', 'base64').toString('utf8');
  const pair = { certificatePem: decode('ca.crt'), keyPem: decode('ca.key') };
  if (pair.keyPem === '') return undefined;
  try {
    return new X509Certificate(pair.certificatePem).ca ? pair : undefined;
  } catch {
    return undefined;
  }
}

function bundleOf(secret: V1Secret | undefined, current: KeyAndCertificate, nowMs: number): string {
  const previous = Buffer.from(secret?.data?.['previous-ca.crt'] ?? '', 'base64').toString('utf8');
  if (previous === '') return current.certificatePem;
  try {
    return new X509Certificate(previous).validToDate.getTime() > nowMs
      ? current.certificatePem + previous
      : current.certificatePem;
  } catch {
    return current.certificatePem;
  }
}
