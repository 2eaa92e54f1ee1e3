// The configuration file and the key file of sidecar/standalone.ts, checked once where they enter.

import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { checked } from '../control/checked.ts';

const Config = z.object({
  role: z.enum(['source', 'target']),
  /** Unix socket to take connections on. */
  listen: z.string().min(1),
  /** Unix socket they are passed on to. */
  dial: z.string().min(1),
  migrationId: z.uuid(),
  /** File with the session key: 64 hexadecimal digits. */
  sessionKeyFile: z.string().min(1),
  volumes: z.array(z.object({ name: z.string().min(1), path: z.string().min(1) })).max(64),
  downtimeLimitMs: z.int().min(1).max(2_000_000).default(900),
  linkBytesPerSecond: z.int().min(0).default(0),
  pace: z.boolean().default(true),
  zstd: z.boolean().default(true),
  nasDeadlineMs: z.int().min(1).default(2000),
  index: z
    .object({
      /** `load` takes `file`; `none` sends no references (source) or inherits nothing (target). */
      kind: z.enum(['full', 'sampled', 'load', 'inherit', 'none']),
      oneIn: z.int().min(1).max(1024).default(10),
      bytesPerSecond: z.int().min(0).default(0),
      budgetBytes: z
        .int()
        .min(4096)
        .default(512 * 1024 * 1024),
      /** Read with `load`; written by `full`, `sampled` and `inherit` when given. */
      file: z.string().optional(),
    })
    .default({ kind: 'none', oneIn: 10, bytesPerSecond: 0, budgetBytes: 512 * 1024 * 1024 }),
  reportFile: z.string().optional(),
});
export type StandaloneConfig = z.infer<typeof Config>;

/** The configuration or the key file cannot be read, or says what makes no sense. */
export class StandaloneConfigError extends Error {
  readonly code = 'NASMIG_CONFIG';
  constructor(problem: string) {
    super(problem);
    this.name = 'StandaloneConfigError';
  }
}

/** @param path for the message. Throws {@link StandaloneConfigError}. */
export function parseStandaloneConfig(text: string, path: string): StandaloneConfig {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new StandaloneConfigError(`${path}: it is not JSON`);
  }
  const parsed = checked(Config, value);
  // A file that is wrong from end to end has no more to say than its beginning.
  if (!parsed.success)
    throw new StandaloneConfigError(`${path}: ${z.prettifyError(parsed.error).slice(0, 1000)}`);
  return parsed.data;
}

/** Throws {@link StandaloneConfigError}. */
export function readStandaloneConfig(path: string | undefined): StandaloneConfig {
  if (path === undefined) throw new StandaloneConfigError('usage: node sidecar/standalone.ts CONFIG.json');
  return parseStandaloneConfig(readText(path), path);
}

/** @param path for the message, which never repeats the key. Throws {@link StandaloneConfigError}. */
export function parseSessionKey(text: string, path: string): Buffer {
  const trimmed = text.trim();
  if (!/^[0-9a-f]{64}$/i.test(trimmed)) {
    throw new StandaloneConfigError(
      `${path}: a session key is 64 hexadecimal digits, this file has ${trimmed.length} characters`,
    );
  }
  return Buffer.from(trimmed, 'hex');
}

/** Throws {@link StandaloneConfigError}. */
export function readSessionKey(path: string): Buffer {
  return parseSessionKey(readText(path), path);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new StandaloneConfigError(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
