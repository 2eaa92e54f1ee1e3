// One framed migration as the session sees it, whichever side this is: it takes connections over and tells numbers.

import type { Socket } from 'node:net';
import type { PageCounts, Progress, Result } from '../../control/messages.ts';
import type { Reason } from '../../control/reasons.ts';

/** Numbers of now, in the words of the control protocol. */
export interface PipelineSnapshot {
  readonly stage: Progress['stage'];
  /** QEMU's RAM passes begun, as far as this side can tell. */
  readonly iterations: number;
  readonly ramBytes: number;
  readonly remainingBytes: number;
  readonly qemuBytes: number;
  readonly linkBytes: number;
  readonly nasBytes: number;
  /** Target only: see {@link Result.indexNasBytes}. */
  readonly indexNasBytes?: number;
  readonly pages: PageCounts;
  readonly resends: number;
  /** 0 until something was framed. */
  readonly batches: number;
  /** Source only: see {@link Result.isPlainFaster}. */
  readonly isPlainFaster?: boolean;
  readonly volumes: Result['volumes'];
}

export interface MigrationPipeline {
  /** A connection that QEMU (source) or virt-handler (target) opened: paused, half-open allowed. */
  accept(socket: Socket): void;
  /** Open now. */
  readonly connections: number;
  /** False as long as nobody came but, at a target, strangers: the migration is still to come. */
  readonly hasBegun: boolean;
  readonly failure: Error | undefined;
  /** What broke a connection that was relayed raw. */
  readonly relayFailure: Error | undefined;
  /** Set when the stream turned out to be one that is not changed. */
  readonly rawReason: Reason | undefined;
  snapshot(): PipelineSnapshot;
  /** After the last connection: gives readers and memory back. */
  close(): void;
}

/** What both sides' pipelines are made from. */
export interface PipelineOptions {
  readonly migrationUid: string;
  readonly sessionKey: Uint8Array;
  /** Names of the volumes that the operator lets this migration use. */
  readonly volumeNames: readonly string[];
  readonly downtimeLimitMs: number;
  readonly linkBytesPerSecond: number | undefined;
  readonly nasReadBytesPerSecond: number | undefined;
  readonly dial: () => Promise<Socket>;
  readonly log: (event: string, values: Readonly<Record<string, unknown>>) => void;
}
