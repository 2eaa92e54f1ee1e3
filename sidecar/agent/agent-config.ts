// What the injected container's environment tells the sidecar, checked once. Names and meaning are those of the operator's
// injection (operator/injection); what it does not set has a default here.

import { z } from 'zod';
import { checked } from '../../control/checked.ts';
import { type IndexBuild, indexBuildSchema } from '../../control/messages.ts';
import { socketDirectoryFrom } from './socket-directory-path.ts';

const MEBIBYTE = 1024 * 1024;

/** Half of this is enough for a sample of one block in ten of a 64 GiB disk. */
const DEFAULT_INDEX_MEMORY_BYTES = 64 * MEBIBYTE;

/** Sampling a 100 GiB disk at this rate takes 11 minutes, and a NAS with a hundred VMs that start together 1.6 GB/s. */
const DEFAULT_INDEX_BYTES_PER_SECOND = 16 * MEBIBYTE;

/** A guest reads most while it boots, and a target is armed within seconds: neither is to be disturbed by sampling. */
const DEFAULT_INDEX_DELAY_MS = 60_000;

const whole = (least: number) => z.coerce.number().int().min(least).max(Number.MAX_SAFE_INTEGER);
const text = z.string().min(1);

const Environment = z.object({
  NASMIG_HUB_URL: z.url({ protocol: /^wss$/ }),
  NASMIG_HUB_SERVER_NAME: text.optional(),
  NASMIG_TOKEN_FILE: text,
  NASMIG_CA_FILE: text,
  NASMIG_POD_NAMESPACE: text,
  NASMIG_POD_NAME: text,
  NASMIG_POD_UID: text,
  NASMIG_VMI_NAME: text,
  NASMIG_VMI_UID: text,
  NASMIG_RUN_DIR: text,
  NASMIG_VOLUMES_DIR: text,
  NASMIG_RELEASE: text.default('0.1.0'),
  NASMIG_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info'),
  NASMIG_INDEX_MEMORY_BYTES: whole(0).default(DEFAULT_INDEX_MEMORY_BYTES),
  NASMIG_INDEX_BUILD: indexBuildSchema.default('sample'),
  NASMIG_INDEX_BYTES_PER_SECOND: whole(1).default(DEFAULT_INDEX_BYTES_PER_SECOND),
  NASMIG_INDEX_DELAY_MS: whole(0).default(DEFAULT_INDEX_DELAY_MS),
  NASMIG_INDEX_ONE_IN: whole(1).default(10),
});

export interface AgentConfig {
  readonly hub: {
    readonly url: string;
    readonly caFile: string;
    readonly tokenFile: string;
    /** Name in the hub's certificate when it is not the URL's host. */
    readonly serverName?: string;
  };
  readonly pod: { readonly namespace: string; readonly name: string; readonly uid: string };
  readonly vmi: { readonly name: string; readonly uid: string };
  readonly release: string;
  readonly logLevel: string;
  /** The migration sockets are here. */
  readonly socketDirectory: string;
  /** Each volume is at `<directory>/<pod volume name>/disk.img`. */
  readonly volumesDirectory: string;
  readonly index: {
    /** 0: no index, and nothing is read to make one. */
    readonly memoryBytes: number;
    /** How it is made; the operator may say otherwise later. */
    readonly build: IndexBuild;
    readonly bytesPerSecond: number;
    /** From the start to the first block read for the index. */
    readonly delayMs: number;
    /** One block in so many is sampled. */
    readonly oneIn: number;
  };
}

/** A variable is missing or has a value that makes no sense. */
export class AgentConfigError extends Error {
  readonly code = 'NASMIG_AGENT_CONFIG';
  constructor(detail: string) {
    super(
      `${detail}. The operator's injection sets these: check the sidecar container's environment, and that operator and sidecar are of one release.`,
    );
    this.name = 'AgentConfigError';
  }
}

/** Throws {@link AgentConfigError} with every variable that is wrong. */
export function agentConfigFrom(env: Readonly<Record<string, string | undefined>>): AgentConfig {
  const parsed = checked(Environment, env);
  if (!parsed.success) {
    const issues = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw new AgentConfigError(issues.join('; '));
  }
  const { data } = parsed;
  return {
    hub: {
      url: data.NASMIG_HUB_URL,
      caFile: data.NASMIG_CA_FILE,
      tokenFile: data.NASMIG_TOKEN_FILE,
      ...(data.NASMIG_HUB_SERVER_NAME === undefined ? {} : { serverName: data.NASMIG_HUB_SERVER_NAME }),
    },
    pod: { namespace: data.NASMIG_POD_NAMESPACE, name: data.NASMIG_POD_NAME, uid: data.NASMIG_POD_UID },
    vmi: { name: data.NASMIG_VMI_NAME, uid: data.NASMIG_VMI_UID },
    release: data.NASMIG_RELEASE,
    logLevel: data.NASMIG_LOG_LEVEL,
    socketDirectory: socketDirectoryFrom(env),
    volumesDirectory: data.NASMIG_VOLUMES_DIR,
    index: {
      memoryBytes: data.NASMIG_INDEX_MEMORY_BYTES,
      build: data.NASMIG_INDEX_BUILD,
      bytesPerSecond: data.NASMIG_INDEX_BYTES_PER_SECOND,
      delayMs: data.NASMIG_INDEX_DELAY_MS,
      oneIn: data.NASMIG_INDEX_ONE_IN,
    },
  };
}
