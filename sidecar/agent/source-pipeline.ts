// The source's side of a framed migration: index, growth and the source migration put together.

import type { Socket } from 'node:net';
import type { Reason } from '../../control/reasons.ts';
import { ShutdownError } from '../connection-errors.ts';
import type { BlockIndex } from '../index/block-index.ts';
import { IndexGrower } from '../index/index-grower.ts';
import { PageHasher } from '../index/page-hash.ts';
import type { Volume } from '../nas/volume.ts';
import { RemoteBlockHashes } from '../source/remote-block-hashes.ts';
import { SourceMigration } from '../source/source-migration.ts';
import { allowedVolumes } from './allowed-volumes.ts';
import { CountedVolume } from './counted-volume.ts';
import type { MigrationPipeline, PipelineOptions, PipelineSnapshot } from './pipeline.ts';

const PAGE_BYTES = 4096;

export class SourcePipeline implements MigrationPipeline {
  readonly #migration: SourceMigration;
  readonly #grower: IndexGrower | undefined;
  readonly #volumes: readonly CountedVolume[];
  readonly #log: PipelineOptions['log'];
  readonly #isLimited: boolean;

  /** @param isSample the blocks around a hit are not in the index: the target is asked for them. */
  constructor(options: PipelineOptions, index: BlockIndex, volumes: readonly Volume[], isSample: boolean) {
    this.#log = options.log;
    this.#isLimited = options.linkBytesPerSecond !== undefined || options.nasReadBytesPerSecond !== undefined;
    this.#volumes = volumes.map((volume) => new CountedVolume(volume));
    const remoteHashes = isSample ? new RemoteBlockHashes(index.seed) : undefined;
    this.#grower = remoteHashes && new IndexGrower({ index, volumes: this.#volumes, hashes: remoteHashes });
    this.#migration = new SourceMigration({
      migrationId: options.migrationUid,
      sessionKey: options.sessionKey,
      volumes: allowedVolumes(volumes, options.volumeNames),
      index,
      pageHasher: new PageHasher(index.seed),
      ...(this.#grower === undefined ? {} : { grower: this.#grower }),
      ...(remoteHashes === undefined ? {} : { remoteHashes }),
      downtimeLimitMs: options.downtimeLimitMs,
      linkBytesPerSecond: options.linkBytesPerSecond ?? 0,
      paceEnabled: true,
      zstd: true,
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
    return this.#migration.accepted > 0;
  }

  get failure(): Error | undefined {
    return this.#migration.failure;
  }

  get relayFailure(): Error | undefined {
    return this.#migration.relayFailure;
  }

  get rawReason(): Reason | undefined {
    const { rawReason, counters } = this.#migration;
    return rawReason ?? (counters.batches === 0 ? 'UnknownStream' : undefined);
  }

  snapshot(): PipelineSnapshot {
    const { counters, pace, passes, ramBlocks, ramEnded } = this.#migration;
    const stages = { 'first-pass': 'bulk', 'later-pass': 'decision', released: 'stopped' } as const;
    return {
      stage: ramEnded ? 'ending' : stages[pace.phase],
      iterations: passes.passes,
      ramBytes: ramBlocks.isListed ? ramBlocks.totalPages * PAGE_BYTES : 0,
      remainingBytes: Math.max(0, Math.round(pace.remainingBytes)),
      qemuBytes: counters.streamBytes,
      linkBytes: counters.linkBytes,
      // What the target reads for the pages sent as references; it counts itself what it read, also for the index to grow.
      nasBytes: counters.referencePages * PAGE_BYTES,
      pages: {
        reference: counters.referencePages,
        literalRaw: counters.rawLiteralPages,
        literalCompressed: counters.literalPages - counters.rawLiteralPages,
        zero: counters.zeroPages,
      },
      resends: counters.resentBatches,
      batches: counters.batches,
      // Under a limit references may be slow because they were told to be.
      isPlainFaster: !this.#isLimited && this.#migration.routes.isPlainFaster,
      volumes: this.#volumes.map((volume, position) => {
        const offReason = this.#migration.offReason(position);
        return {
          name: volume.name,
          nasBytes: volume.bytesRead,
          uncached: volume.uncached,
          ...(offReason === undefined ? {} : { offReason }),
        };
      }),
    };
  }

  close(): void {
    // Nothing when the migration is over.
    this.#migration.abort(new ShutdownError());
    this.#grower?.close();
    const { resentBatches, resentPages, declinedPages } = this.#migration.counters;
    this.#log('source pipeline closed', { resentBatches, resentPages, declinedPages });
  }
}
