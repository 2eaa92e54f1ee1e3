// The two recorders of a migration: the Go program on the source QEMU's socket and on the target QEMU's, and the
// report that each leaves. They are processes of their own, apart from everything under test, and run for plain too.

import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { buildGoProgram } from './go-programs.ts';
import { type LabNode, QEMU_OWNER } from './node.ts';
import type { NodeProcess } from './node-process.ts';

/** Of this run's recorders: nothing under test knows it. */
const KEY = randomBytes(16);
const SEGMENT_BYTES = 64 * 1024;

const READY_TIMEOUT_MS = 10_000;
const SNAPSHOT_TIMEOUT_MS = 5_000;

const directionSchema = z.object({
  bytes: z.number().int().nonnegative(),
  /** See recorderDigest. */
  digest: z.string().length(64),
  /** Bytes that the hash covers: fewer than `bytes` only while they pass. */
  hashedBytes: z.number().int().nonnegative(),
  ended: z.boolean(),
  firstMs: z.number().nullable(),
  lastMs: z.number().nullable(),
  /** Pairs of bucket start (wall clock, ms) and bytes; buckets without bytes are left out. */
  timeline: z.array(z.tuple([z.number(), z.number()])),
  timelineTruncated: z.boolean(),
});

const reportSchema = z.object({
  startedMs: z.number(),
  writtenMs: z.number(),
  open: z.number().int(),
  timelineMs: z.number().positive(),
  connections: z.array(
    z.object({
      ordinal: z.number().int(),
      kind: z.enum(['main', 'multifd', 'other']),
      id: z.number().int().nullable(),
      openedMs: z.number(),
      closedMs: z.number().nullable(),
      errors: z.array(z.string()),
      forward: directionSchema,
      return: directionSchema,
    }),
  ),
});

export type RecorderReport = z.infer<typeof reportSchema>;
export type RecordedConnection = RecorderReport['connections'][number];
export type RecordedDirection = z.infer<typeof directionSchema>;

export interface RecorderOptions {
  /** Unique in the node. */
  name: string;
  listen: string;
  dial: string;
  reportPath: string;
}

export class Recorder {
  readonly process: NodeProcess;
  private readonly reportPath: string;

  private constructor(process: NodeProcess, reportPath: string) {
    this.process = process;
    this.reportPath = reportPath;
  }

  /** Resolves when the recorder listens. It dials for up to 10 s, so the next hop may come later. */
  static async start(node: LabNode, options: RecorderOptions): Promise<Recorder> {
    const process = await node.spawn({
      name: options.name,
      argv: [
        await buildGoProgram('recorder'),
        ...['--listen', options.listen, '--dial', options.dial, '--report', options.reportPath],
        ...['--key', KEY.toString('hex')],
        ...['--owner', `${QEMU_OWNER.uid}:${QEMU_OWNER.gid}`],
      ],
    });
    await process.waitForOutput(/"listening"/, READY_TIMEOUT_MS);
    return new Recorder(process, options.reportPath);
  }

  /** The report as of now, while it runs. */
  async snapshot(): Promise<RecorderReport> {
    const askedMs = Date.now();
    this.process.signal('SIGUSR1');
    let report = await readReport(this.reportPath);
    await this.process.waitUntil('a report', SNAPSHOT_TIMEOUT_MS, async () => {
      report = await readReport(this.reportPath);
      return report.writtenMs >= askedMs;
    });
    return report;
  }

  /** Ends the recorder and returns its last report. */
  async finish(): Promise<RecorderReport> {
    await this.process.stop();
    return readReport(this.reportPath);
  }
}

/**
 * What a recorder with this 16-byte key reports as digest of a direction that carried `bytes`, in hexadecimal:
 * SHA-256 over the AES-128-GMAC of each 64 KiB, its number the nonce.
 */
export function recorderDigest(bytes: Uint8Array, key: Uint8Array): string {
  const tags = createHash('sha256');
  const nonce = Buffer.alloc(12);
  for (let start = 0; start < bytes.length; start += SEGMENT_BYTES) {
    nonce.writeUInt32BE(start / SEGMENT_BYTES, 8);
    const mac = createCipheriv('aes-128-gcm', key, nonce);
    mac.setAAD(bytes.subarray(start, start + SEGMENT_BYTES));
    mac.final();
    tags.update(mac.getAuthTag());
  }
  return tags.digest('hex');
}

/** Reads and checks a report file. */
export async function readReport(path: string): Promise<RecorderReport> {
  return reportSchema.parse(JSON.parse(await readFile(path, 'utf8')));
}

/**
 * Bytes that passed forward, on all connections, at or after `sinceMs` (wall clock). Exact to one bucket of the
 * timeline, counting the bucket that `sinceMs` falls into: never too few.
 */
export function forwardBytesSince(report: RecorderReport, sinceMs: number): number {
  let bytes = 0;
  for (const connection of report.connections) {
    for (const [startMs, count] of connection.forward.timeline) {
      if (startMs + report.timelineMs > sinceMs) bytes += count;
    }
  }
  return bytes;
}

/** The most bytes that passed forward, over all connections, within `windowMs`; exact to one bucket of the timeline. */
export function fastestForwardBytes(report: RecorderReport, windowMs: number): number {
  const buckets = report.connections.flatMap((connection) => connection.forward.timeline);
  buckets.sort(([left], [right]) => left - right);
  let first = 0;
  let inWindow = 0;
  let most = 0;
  for (const [atMs, bytes] of buckets) {
    inWindow += bytes;
    for (; (buckets[first]?.[0] ?? atMs) <= atMs - windowMs; first++) inWindow -= buckets[first]?.[1] ?? 0;
    most = Math.max(most, inWindow);
  }
  return most;
}
