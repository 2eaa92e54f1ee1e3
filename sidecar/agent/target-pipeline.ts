// The target's side of a framed migration: NAS reader, inherited index and the target migration put together.

import type { Socket } from 'node:net';
import type { Reason } from '../../control/reasons.ts';
import { ShutdownError } from '../connection-errors.ts';
import type { BlockIndex } from '../index/block-index.ts';
import { BlockReader } from '../nas/block-reader.ts';
import type { Volume } from '../nas/volume.ts';
import { TargetMigration } from '../target/target-migration.ts';
import { allowedVolumes } from './allowed-volumes.ts';
import { CountedVolume } from './counted-volume.ts';
import type { MigrationPipeline, PipelineOptions, PipelineSnapshot } from './pipeline.ts';

export class TargetPipeline implements MigrationPipeline {
  readonly #migration: TargetMigration;
  readonly #reader: BlockReader;
  readonly #volumes: readonly CountedVolume[];

  constructor(options: PipelineOptions, index: BlockIndex, volumes: readonly Volume[]) {
    this.#volumes = volumes.map((volume) => new CountedVolume(volume));
    this.#reader = new BlockReader({
      volumes: this.#volumes,
      budgetBytesPerSecond: options.nasReadBytesPerSecond ?? 0,
    });
    this.#migration = new TargetMigration({
      migrationId: options.migrationUid,
      sessionKey: options.sessionKey,
      volumes: allowedVolumes(volumes, options.volumeNames),
      reader: this.#reader,
      inherit: index,
      dial: options.dial,
      log: options.log,
      now: () => performance.now(),
    });
  }

  accept(socket: Socket): void {
    this.#migration.accept(socket);
  }

  get connections(): number {
    return this.#migration.connections;
  }

  get hasBegun(): boolean {
    return this.#migration.hasBegun;
  }

  get failure(): Error | undefined {
    return this.#migration.failure;
  }

  get relayFailure(): Error | undefined {
    return this.#migration.relayFailure;
  }

  get rawReason(): Reason | undefined {
    const { rawReason, counters } = this.#migration;
    return rawReason ?? (counters.batches === 0 ? 'PeerRaw' : undefined);
  }

  snapshot(): PipelineSnapshot {
    const { counters, extents } = this.#migration;
    return {
      stage: 'bulk',
      iterations: 0,
      ramBytes: 0,
      remainingBytes: 0,
      qemuBytes: counters.streamBytes,
      linkBytes: counters.linkBytes,
      nasBytes: this.#reader.stats.bytesRead,
      indexNasBytes: extents.bytesUnused,
      pages: { reference: counters.referencePages, literalRaw: 0, literalCompressed: 0, zero: 0 },
      resends: counters.resends,
      batches: counters.batches,
      volumes: this.#volumes.map((volume) => ({
        name: volume.name,
        nasBytes: volume.bytesRead,
        uncached: volume.uncached,
      })),
    };
  }

  close(): void {
    // Nothing when the migration is over.
    this.#migration.abort(new ShutdownError());
    this.#reader.close();
  }
}
