// The operator's settings from its environment, checked once. Every variable has a default that fits the Helm chart, but those that
// only the installation knows.

import { hostname } from 'node:os';
import { z } from 'zod';
import { checked } from '../control/checked.ts';
import { SIGN_AFTER_MS } from './certificates/authority.ts';
import { defaultSharedFileSystemDrivers } from './controller/volumes.ts';
import { parseQuantity } from './kubevirt/quantities.ts';

/** Certificates last days. */
const CERTIFICATE_CHECK_MS = 10 * 60_000;

const port = z.coerce.number().int().min(0).max(65_535);
const list = z.string().transform((text) =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== ''),
);

/** A sidecar that has less is killed for it in its first migration; the CRD has the same bound. */
const MIN_SIDECAR_MEMORY = '128Mi';

const quantity = z.string().refine((text) => (parseQuantity(text) ?? 0) > 0, {
  error: ({ input }) => `${JSON.stringify(input)} is no quantity above zero; write one such as 100m or 256Mi`,
});
const bytesOf = (text: string) => parseQuantity(text) ?? 0;

const environmentSchema = z
  .object({
    NASMIG_NAMESPACE: z.string().min(1),
    NASMIG_POD_NAME: z.string().min(1).default(hostname()),
    NASMIG_RELEASE: z.string().min(1).default('0.1.0'),
    NASMIG_SIDECAR_IMAGE: z.string().min(1),
    NASMIG_SIDECAR_CPU: quantity.default('100m'),
    NASMIG_SIDECAR_MEMORY: quantity
      .refine((text) => bytesOf(text) >= bytesOf(MIN_SIDECAR_MEMORY), {
        error: `a sidecar needs ${MIN_SIDECAR_MEMORY} at the least`,
      })
      .default('256Mi'),
    NASMIG_INDEX_MEMORY: quantity.default('64Mi'),
    /** Empty is every address of the pod, of IPv6 and IPv4. */
    NASMIG_LISTEN_HOST: z.string().default(''),
    NASMIG_HUB_PORT: port.default(8443),
    /** What sidecars dial. */
    NASMIG_HUB_URL: z.url(),
    NASMIG_WEBHOOK_PORT: port.default(9443),
    /** A Service by name, or a URL when the API server does not run in the cluster's network. */
    NASMIG_WEBHOOK_SERVICE: z.string().default('nas-aware-migration-webhook'),
    NASMIG_WEBHOOK_URL: z.url().optional(),
    /** A mounted Secret of cert-manager (tls.crt, tls.key, ca.crt) in place of a certificate of our own authority; for the webhook. */
    NASMIG_WEBHOOK_CERTIFICATE_DIR: z.string().min(1).optional(),
    NASMIG_METRICS_PORT: port.default(8080),
    NASMIG_KUBEVIRT_USER: z.string().default('system:serviceaccount:kubevirt:kubevirt-controller'),
    NASMIG_SHARED_DRIVERS: list.default([...defaultSharedFileSystemDrivers]),
    /** Accelerated migrations at a time for each NFS server; 0 is no limit. 5 is KubeVirt's own limit for a cluster. */
    NASMIG_NAS_READ_PERMITS: z.coerce.number().int().min(0).max(10_000).default(5),
    NASMIG_WORKERS: z.coerce.number().int().min(1).max(64).default(4),
    NASMIG_LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
    /** Of the leader's Lease; renewed every seventh of it, given up at two thirds. */
    NASMIG_LEASE_SECONDS: z.coerce.number().int().min(2).max(60).default(15),
    NASMIG_INJECTION: z.enum(['true', 'false']).default('true'),
  })
  .refine(
    ({ NASMIG_INDEX_MEMORY, NASMIG_SIDECAR_MEMORY }) =>
      bytesOf(NASMIG_INDEX_MEMORY) < bytesOf(NASMIG_SIDECAR_MEMORY),
    {
      path: ['NASMIG_INDEX_MEMORY'],
      error: 'the index is a part of NASMIG_SIDECAR_MEMORY, and must be less',
    },
  );

export interface OperatorSettings {
  namespace: string;
  podName: string;
  release: string;
  listenHost: string;
  hubPort: number;
  hubUrl: string;
  webhookPort: number;
  webhookService: string;
  webhookUrl: string | undefined;
  webhookCertificateDir: string | undefined;
  metricsPort: number;
  kubevirtUser: string;
  sharedFileSystemDrivers: string[];
  workers: number;
  nasReadPermits: number;
  logLevel: string;
  injection: boolean;
  sidecar: { image: string; cpu: string; memory: string; indexMemory: string };
  /** Shorter in tests: how often certificates, and what others may have changed of ours, are looked at; see SIGN_AFTER_MS. */
  certificates: { checkMs: number; signAfterMs: number };
  /** Shorter in tests. */
  lease: { durationMs: number; renewDeadlineMs: number; retryMs: number };
}

/** A variable is missing or wrong; the message names it. */
export class SettingsError extends Error {
  readonly code = 'NASMIG_SETTINGS';

  constructor(problem: string) {
    super(`the environment of the operator is not right: ${problem}`);
    this.name = 'SettingsError';
  }
}

/** Throws {@link SettingsError}. */
export function settingsFrom(environment: NodeJS.ProcessEnv): OperatorSettings {
  const parsed = checked(environmentSchema, environment);
  if (!parsed.success) {
    throw new SettingsError(
      parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '),
    );
  }
  const { data } = parsed;
  return {
    namespace: data.NASMIG_NAMESPACE,
    podName: data.NASMIG_POD_NAME,
    release: data.NASMIG_RELEASE,
    listenHost: data.NASMIG_LISTEN_HOST,
    hubPort: data.NASMIG_HUB_PORT,
    hubUrl: data.NASMIG_HUB_URL,
    webhookPort: data.NASMIG_WEBHOOK_PORT,
    webhookService: data.NASMIG_WEBHOOK_SERVICE,
    webhookUrl: data.NASMIG_WEBHOOK_URL,
    webhookCertificateDir: data.NASMIG_WEBHOOK_CERTIFICATE_DIR,
    metricsPort: data.NASMIG_METRICS_PORT,
    kubevirtUser: data.NASMIG_KUBEVIRT_USER,
    sharedFileSystemDrivers: data.NASMIG_SHARED_DRIVERS,
    workers: data.NASMIG_WORKERS,
    nasReadPermits: data.NASMIG_NAS_READ_PERMITS,
    logLevel: data.NASMIG_LOG_LEVEL,
    injection: data.NASMIG_INJECTION === 'true',
    sidecar: {
      image: data.NASMIG_SIDECAR_IMAGE,
      cpu: data.NASMIG_SIDECAR_CPU,
      memory: data.NASMIG_SIDECAR_MEMORY,
      indexMemory: data.NASMIG_INDEX_MEMORY,
    },
    certificates: { checkMs: CERTIFICATE_CHECK_MS, signAfterMs: SIGN_AFTER_MS },
    lease: {
      durationMs: data.NASMIG_LEASE_SECONDS * 1000,
      renewDeadlineMs: (data.NASMIG_LEASE_SECONDS * 1000 * 2) / 3,
      retryMs: (data.NASMIG_LEASE_SECONDS * 1000) / 7.5,
    },
  };
}
