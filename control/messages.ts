// The messages between a sidecar and the operator's hub, defined once for both with zod. Every string and list is bounded.
// Unknown fields are dropped (a later release may add some), unknown types and wrong values close the connection.
// Order of a migration: welcome, arm -> armed (both sides), holding (source) -> go, progress…, result -> recorded.
// See docs/control-protocol.md.
import { z } from 'zod';
import { MAX_RESUMED_MIGRATIONS, MAX_TEXT_LENGTH, MAX_VOLUMES, SESSION_KEY_BYTES } from './limits.ts';
import { knownReason } from './reasons.ts';

/** A count of bytes, pages or milliseconds: exact in a double, never negative. */
const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const uid = z.string().regex(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/);
const objectName = z
  .string()
  .max(253)
  .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/);
const volumeName = z
  .string()
  .max(63)
  .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/);
const text = z.string().max(MAX_TEXT_LENGTH);
/** A later release may have more reasons; what it has to say must not be refused for that. */
const reason = z
  .string()
  .max(64)
  .regex(/^[A-Z][A-Za-z]*$/)
  .transform(knownReason);
const releaseVersion = z.string().min(1).max(64);
/** Increases with every change of leader; an order with a lower epoch than the highest seen is refused. */
const epoch = count;
/** base64 of exactly 32 bytes: 43 characters and one `=`. */
const sessionKey = z
  .string()
  .regex(/^[A-Za-z0-9+/]{43}=$/)
  .refine((key) => Buffer.from(key, 'base64').length === SESSION_KEY_BYTES);

export const roleSchema = z.enum(['source', 'target']);
export type Role = z.infer<typeof roleSchema>;

/** `accelerate` changes the stream, `observe` only counts what would have been saved and passes every byte on. */
export const armModeSchema = z.enum(['accelerate', 'observe']);
export type ArmMode = z.infer<typeof armModeSchema>;

const linkVersions = z
  .object({ min: z.number().int().min(1).max(255), max: z.number().int().min(1).max(255) })
  .refine((range) => range.min <= range.max);

/** A disk volume as the sidecar finds it: mounted read-only under its pod volume name. */
export const sidecarVolumeSchema = z.object({
  name: volumeName,
  /** Size of disk.img. 0 when it cannot be read. */
  sizeBytes: count,
  readable: z.boolean(),
  /** True when reads by-pass the node's page cache (O_DIRECT), which is needed for right data on a target. */
  uncached: z.boolean(),
  /** Why it is not readable or not uncached, in words. */
  detail: text.optional(),
});
export type SidecarVolume = z.infer<typeof sidecarVolumeSchema>;

export const indexStatusSchema = z.object({
  blocks: count,
  bytes: count,
  /** Since the index last took in a block. */
  ageSeconds: count,
  /** True when building or sampling is not under way. */
  ready: z.boolean(),
  buildSeconds: count.optional(),
  /** How many blocks one stands for: with a sample those around it are found during a migration. Absent before 0.1: as a sample's. */
  blockStandsFor: z.number().int().min(1).max(1_000_000).optional(),
  /** Read from the NAS to make the index, and as a target to grow the source's (indexNasBytes), since the sidecar's start. */
  nasReadBytes: count.optional(),
});
export type IndexStatus = z.infer<typeof indexStatusSchema>;

/** How the index is made: some blocks and what grows from hits, the whole volume, or nothing but what a migration brought. */
export const indexBuildSchema = z.enum(['sample', 'full', 'inherit']);
export type IndexBuild = z.infer<typeof indexBuildSchema>;

/** Types of hub messages that came after the protocol's first release. Sent only to a sidecar whose HELLO names them. */
export const laterHubMessages = ['configure'] as const;

/** Where a side stands in a migration. `framed` is after GO (source) or after a framed HELLO (target). */
export const sidePhaseSchema = z.enum(['arming', 'armed', 'holding', 'framed', 'raw', 'finished']);
export type SidePhase = z.infer<typeof sidePhaseSchema>;

const migration = { migrationUid: uid, epoch, role: roleSchema };

export const pageCountsSchema = z.object({
  reference: count,
  literalRaw: count,
  literalCompressed: count,
  zero: count,
});
export type PageCounts = z.infer<typeof pageCountsSchema>;

const transferCounters = {
  /** Bytes that the source QEMU wrote (source), or that the destination QEMU got (target). */
  qemuBytes: count,
  /** Bytes of the sidecars' frames on the link, both directions; without TCP and TLS. */
  linkBytes: count,
  /** Bytes read from the NAS for this migration's pages; at the target, also for the source's index to grow. */
  nasBytes: count,
  pages: pageCountsSchema,
  /** Batches of which pages had to be sent again. */
  resends: count,
};

// ---- sidecar to hub ----

/** First message of a connection. What it says of the pod is checked against the token, never believed. */
export const helloSchema = z.object({
  type: z.literal('hello'),
  pod: z.object({ namespace: objectName, name: objectName, uid }),
  vmi: z.object({ name: objectName, uid }),
  release: releaseVersion,
  link: linkVersions,
  volumes: z.array(sidecarVolumeSchema).max(MAX_VOLUMES),
  index: indexStatusSchema,
  /** Migrations this process is in, so that a reconnect, or a new leader, finds them. */
  migrations: z
    .array(z.object({ ...migration, phase: sidePhaseSchema, reason: reason.optional() }))
    .max(MAX_RESUMED_MIGRATIONS),
  /** Which of `laterHubMessages` this release knows; a later release may name more. */
  accepts: z.array(z.string().max(32)).max(16).optional(),
});
export type Hello = z.infer<typeof helloSchema>;

/** The socket's place is taken. A target that says so makes GO possible. */
export const armedSchema = z.object({ type: z.literal('armed'), ...migration });

/** The source holds QEMU's first connection and waits for GO, at most GO_TIMEOUT_MS. */
export const holdingSchema = z.object({ type: z.literal('holding'), ...migration });

/** This side will not, or not any longer, change this migration's stream. May be sent at any time, once a migration. */
export const rawSchema = z.object({ type: z.literal('raw'), ...migration, reason, detail: text.optional() });

export const progressSchema = z.object({
  type: z.literal('progress'),
  ...migration,
  /** Increases by one with each progress message of this migration; an older one is dropped. */
  sequence: count,
  stage: z.enum(['bulk', 'decision', 'stopped', 'ending']),
  /** QEMU's RAM passes begun, from 1. */
  iteration: count,
  ramBytes: count,
  /** What QEMU still has to send, as far as the stream tells. */
  remainingBytes: count,
  qemuBytesPerSecond: count,
  linkBytesPerSecond: count,
  nasBytesPerSecond: count,
  ...transferCounters,
});
export type Progress = z.infer<typeof progressSchema>;

export const resultSchema = z.object({
  type: z.literal('result'),
  ...migration,
  /**
   * `accelerated`: framed to the end. `raw`: relayed byte for byte (see reason). `observed`: mode observe.
   * `failed`: this side failed in mid-stream, so the migration fails and the VM stays on its source.
   * `unused`: disarmed before any connection.
   */
  outcome: z.enum(['accelerated', 'raw', 'observed', 'failed', 'unused']),
  reason: reason.optional(),
  detail: text.optional(),
  ...transferCounters,
  /** Target only: of nasBytes, what was read for the source's index to grow and used for no page. */
  indexNasBytes: count.optional(),
  iterations: count,
  durationMs: count,
  /** From the first sign that the VM is stopped to the last acknowledged byte. Source only, when seen. */
  downtimeMs: count.optional(),
  cpuMilliseconds: count,
  /** What plain would have put on the link: for accelerated and observed ones. */
  plainLinkBytes: count.optional(),
  /** Accelerated ones, source only: what was tried on the way showed that the link would have brought the pages sooner as they are. */
  isPlainFaster: z.boolean().optional(),
  /** Observed ones, source only: what this migration would have been, as far as the index tells. */
  estimate: z
    .object({
      linkBytes: count,
      nasBytes: count,
      pages: pageCountsSchema,
      /** Share of the index that was there: 10 when one block in 10 was sampled, and hits were counted tenfold. */
      hitsCountedTimes: z.number().int().min(1).max(1024),
    })
    .optional(),
  volumes: z
    .array(
      z.object({ name: volumeName, nasBytes: count, uncached: z.boolean(), offReason: reason.optional() }),
    )
    .max(MAX_VOLUMES),
});
export type Result = z.infer<typeof resultSchema>;

/** Numbers for the operator's metrics; sent every HEARTBEAT_INTERVAL_MS while anything changed. */
export const statsSchema = z.object({
  type: z.literal('stats'),
  index: indexStatusSchema,
  volumes: z.array(sidecarVolumeSchema).max(MAX_VOLUMES).optional(),
  residentBytes: count,
  cpuMilliseconds: count,
});
export type Stats = z.infer<typeof statsSchema>;

export const sidecarMessageSchema = z.discriminatedUnion('type', [
  helloSchema,
  armedSchema,
  holdingSchema,
  rawSchema,
  progressSchema,
  resultSchema,
  statsSchema,
]);
export type SidecarMessage = z.infer<typeof sidecarMessageSchema>;

// ---- hub to sidecar ----

/** Answer to `hello`: the hub knows this pod. Nothing else is sent before it. */
export const welcomeSchema = z.object({
  type: z.literal('welcome'),
  release: releaseVersion,
  epoch,
  /** Results of these migrations are recorded; the sidecar may forget them. */
  recorded: z.array(uid).max(MAX_RESUMED_MIGRATIONS),
});
export type Welcome = z.infer<typeof welcomeSchema>;

/** Get ready for this migration. Sent to the two pods of that migration alone; the key is never stored. */
export const armSchema = z.object({
  type: z.literal('arm'),
  ...migration,
  mode: armModeSchema,
  sessionKey,
  /** QEMU's downtime limit in the first pass; paces the source near its end. */
  downtimeLimitMs: z.number().int().min(1).max(2_000_000),
  /** By pod volume name; those that the sidecar cannot read are left out by HELLO on the link. */
  volumes: z.array(volumeName).min(1).max(MAX_VOLUMES),
  limits: z.object({
    linkBytesPerSecond: count.min(1).optional(),
    nasReadBytesPerSecond: count.min(1).optional(),
  }),
});
export type Arm = z.infer<typeof armSchema>;

/** To a source that holds: both sides have the socket's place, open the link framed. */
export const goSchema = z.object({ type: z.literal('go'), ...migration });

/** Give the socket back; a held connection is relayed raw at once. Without effect after GO. */
export const disarmSchema = z.object({
  type: z.literal('disarm'),
  ...migration,
  reason,
  detail: text.optional(),
});

/** The result is stored: the sidecar need not send it again. */
export const recordedSchema = z.object({ type: z.literal('recorded'), migrationUid: uid });

/** What the policy of the VM says of its sidecar; again whenever that changes. */
export const configureSchema = z.object({
  type: z.literal('configure'),
  index: z.object({
    build: indexBuildSchema,
    /** Most bytes a second read to make the index; the sidecar's own default when left out. */
    nasReadBytesPerSecond: count.min(1).optional(),
  }),
});
export type Configure = z.infer<typeof configureSchema>;

export const hubMessageSchema = z.discriminatedUnion('type', [
  welcomeSchema,
  configureSchema,
  armSchema,
  goSchema,
  disarmSchema,
  recordedSchema,
]);
export type HubMessage = z.infer<typeof hubMessageSchema>;
