// The RESULT of one side of a migration, from what the session knows at its end. Pure.

import { MAX_TEXT_LENGTH } from '../../control/limits.ts';
import type { ArmMode, Result, Role } from '../../control/messages.ts';
import type { Reason } from '../../control/reasons.ts';
import { ABORT_PROOF, ABORT_SHUTDOWN, ABORT_SOURCE_QEMU_GONE, ABORT_VERSION } from '../link/frame-types.ts';
import type { PipelineSnapshot } from './pipeline.ts';

export interface SessionFacts {
  readonly migrationUid: string;
  readonly epoch: number;
  readonly role: Role;
  readonly mode: ArmMode;
  /** Connections that came in our socket's place. */
  readonly connections: number;
  /** Decided before anything was framed. */
  readonly raw: { readonly reason: Reason; readonly detail?: string } | undefined;
  /** Bytes of connections that the session itself relayed. */
  readonly relayedBytes: number;
  /** What was seen in them by a source that observes. */
  readonly observed:
    | { readonly estimate: NonNullable<Result['estimate']>; readonly iterations: number }
    | undefined;
  /** Set when a relayed connection could not be passed on. */
  readonly relayFailure: Error | undefined;
  readonly framed:
    | {
        readonly snapshot: PipelineSnapshot;
        readonly failure: Error | undefined;
        readonly rawReason: Reason | undefined;
      }
    | undefined;
  /** What broke a connection that was relayed byte for byte; both QEMUs see the same as without us. */
  readonly relayBroke?: Error | undefined;
  /** The process was told to stop while connections were open. */
  readonly stopped: boolean;
  readonly durationMs: number;
  readonly downtimeMs: number | undefined;
  readonly cpuMilliseconds: number;
}

type Verdict = Pick<Result, 'outcome' | 'reason' | 'detail'>;

/** Throws nothing; every text is bounded as the protocol wants it. */
export function sessionResult(facts: SessionFacts): Result {
  const { framed, migrationUid, epoch, role } = facts;
  const { outcome, reason, detail } = verdict(facts);
  const relayed = facts.relayedBytes;
  const snapshot = framed?.snapshot;
  const qemuBytes = relayed + (snapshot?.qemuBytes ?? 0);
  return {
    type: 'result',
    ...{ migrationUid, epoch, role, outcome },
    ...(reason === undefined ? {} : { reason }),
    ...(detail === undefined || detail === '' ? {} : { detail: detail.slice(0, MAX_TEXT_LENGTH) }),
    qemuBytes,
    linkBytes: relayed + (snapshot?.linkBytes ?? 0),
    nasBytes: snapshot?.nasBytes ?? 0,
    ...(snapshot?.indexNasBytes === undefined ? {} : { indexNasBytes: snapshot.indexNasBytes }),
    pages: snapshot?.pages ?? { reference: 0, literalRaw: 0, literalCompressed: 0, zero: 0 },
    resends: snapshot?.resends ?? 0,
    iterations: snapshot?.iterations ?? (outcome === 'observed' ? (facts.observed?.iterations ?? 0) : 0),
    durationMs: Math.round(facts.durationMs),
    ...(facts.downtimeMs === undefined ? {} : { downtimeMs: Math.round(facts.downtimeMs) }),
    cpuMilliseconds: Math.round(facts.cpuMilliseconds),
    ...(outcome === 'accelerated' || outcome === 'observed' ? { plainLinkBytes: qemuBytes } : {}),
    ...(outcome === 'accelerated' && snapshot?.isPlainFaster === true ? { isPlainFaster: true } : {}),
    ...(outcome === 'observed' && facts.observed !== undefined ? { estimate: facts.observed.estimate } : {}),
    volumes: [...(snapshot?.volumes ?? [])],
  };
}

/** Below this share of what a guest has in memory, a sample finds more than what was rebuilt from the NAS. */
const INHERIT_FROM_SHARE = 0.2;

/** Whether what a target rebuilt from the NAS serves as an index, so that its disk need not be sampled. */
export function isWorthInheriting({ reference, literalRaw, literalCompressed }: Result['pages']): boolean {
  return reference > INHERIT_FROM_SHARE * (reference + literalRaw + literalCompressed);
}

function verdict(facts: SessionFacts): Verdict {
  const { framed, raw } = facts;
  const because = raw === undefined ? {} : withDetail(raw.reason, raw.detail);
  if (facts.connections === 0) return { outcome: 'unused', ...because };
  if (facts.stopped) return { outcome: 'failed', reason: 'SidecarStopping' };
  if (framed !== undefined) {
    if (framed.failure !== undefined) return { outcome: 'failed', ...describeFailure(framed.failure) };
    if (framed.snapshot.batches > 0) return { outcome: 'accelerated' };
    return {
      outcome: 'raw',
      ...(framed.rawReason === undefined ? {} : { reason: framed.rawReason }),
      ...broken(facts),
    };
  }
  if (facts.relayFailure !== undefined) {
    return { outcome: 'failed', ...withDetail(raw?.reason ?? 'InternalError', facts.relayFailure.message) };
  }
  if (facts.mode === 'observe' && raw === undefined) return { outcome: 'observed' };
  return { outcome: 'raw', ...broken(facts), ...because };
}

/** A detail for what is raw and broke on its way. */
function broken({ relayBroke }: SessionFacts): Pick<Result, 'detail'> {
  return relayBroke === undefined ? {} : { detail: `a relayed connection broke: ${relayBroke.message}` };
}

function withDetail(reason: Reason, detail: string | undefined): Pick<Result, 'reason' | 'detail'> {
  return detail === undefined ? { reason } : { reason, detail };
}

/** A reason only where one of the documented constants says it exactly; the words are always there. */
function describeFailure(error: Error): Pick<Result, 'reason' | 'detail'> {
  const { code, peerCode } = error as { code?: unknown; peerCode?: unknown };
  const reason = reasonOf(typeof code === 'string' ? code : '', peerCode);
  return reason === undefined ? { detail: error.message } : { reason, detail: error.message };
}

function reasonOf(code: string, peerCode: unknown): Reason | undefined {
  if (code === 'NASMIG_SOURCE_QEMU_GONE' || peerCode === ABORT_SOURCE_QEMU_GONE) return 'Cancelled';
  if (code === 'NASMIG_LINK_VERSION' || peerCode === ABORT_VERSION) return 'LinkVersion';
  if (code === 'NASMIG_LINK_PROOF' || code === 'NASMIG_LINK_BAD_HELLO' || peerCode === ABORT_PROOF) {
    return 'LinkHandshakeFailed';
  }
  if (code === 'NASMIG_LATE_POST_COPY') return 'PostCopyAnnounced';
  return peerCode === ABORT_SHUTDOWN ? 'SidecarStopping' : undefined;
}
