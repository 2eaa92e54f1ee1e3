// Runs one side of one announced migration from a configuration file, without an operator: what the lab and the
// benchmarks use, and the same source and target pipelines that the sidecar's agent drives.
//
//   node sidecar/standalone.ts CONFIG.json
//
// Standard output carries one JSON object a line: {"event": "index"|"ready"|"progress"|"result", …}; logs go to standard error.

import { rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { pino } from 'pino';
import { ShutdownError } from './connection-errors.ts';
import { dialUnix } from './dial.ts';
import { collectLessOften } from './garbage-collection.ts';
import { BlockIndex } from './index/block-index.ts';
import { type BuildProgress, buildFull, buildSample } from './index/index-builder.ts';
import { IndexFileError, loadIndex, saveIndex } from './index/index-file.ts';
import { IndexGrower } from './index/index-grower.ts';
import { PageHasher, randomSeed } from './index/page-hash.ts';
import { BlockReader } from './nas/block-reader.ts';
import { openVolume, type Volume } from './nas/volume.ts';
import { allDrained } from './raw-relay.ts';
import { RemoteBlockHashes } from './source/remote-block-hashes.ts';
import { SourceMigration } from './source/source-migration.ts';
import {
  readSessionKey,
  readStandaloneConfig,
  type StandaloneConfig,
  StandaloneConfigError,
} from './standalone-config.ts';
import { TargetMigration } from './target/target-migration.ts';

/** How long the other end of the socket may take to listen. */
const DIAL_WAIT_MS = 5000;
/** For QEMU to close the channels of a migration that failed. */
const DRAIN_MS = 2000;
const PROGRESS_MS = 250;

const log = pino(
  { base: null, level: process.env['LOG_LEVEL'] ?? 'info' },
  pino.destination({ fd: 2, sync: true }),
);
const logEvent = (event: string, values: Readonly<Record<string, unknown>>): void => log.info(values, event);
const tell = (event: string, values: object): void =>
  void process.stdout.write(`${JSON.stringify({ event, ...values })}\n`);
const now = (): number => performance.now();

interface IndexFacts {
  kind: 'sampled' | 'full' | 'inherited' | 'none';
  nasBytes: number;
  seconds: number;
  entries: number;
  ageSeconds: number;
}

/** An index from a file costs this migration nothing to read. Undefined when the file cannot be used, and that is told. */
async function indexFromFile(
  file: string,
  options: Parameters<typeof loadIndex>[1],
): Promise<{ index: BlockIndex; facts: IndexFacts } | undefined> {
  try {
    const { index, provenance } = await loadIndex(file, options);
    const ageSeconds = (Date.now() - provenance.completedAtMs) / 1000;
    return {
      index,
      facts: { kind: provenance.kind, nasBytes: 0, seconds: 0, entries: index.count, ageSeconds },
    };
  } catch (error) {
    if (!(error instanceof IndexFileError)) throw error;
    log.warn({ code: error.code }, error.message);
    return undefined;
  }
}

async function prepareIndex(
  config: StandaloneConfig,
  volumes: readonly Volume[],
): Promise<{ index: BlockIndex; facts: IndexFacts }> {
  const identities = volumes.map((volume) => ({ name: volume.name, sizeBytes: volume.sizeBytes }));
  const { oneIn, bytesPerSecond, budgetBytes, file } = config.index;
  const isLoaded = config.index.kind === 'load';
  if (isLoaded) {
    if (file === undefined) throw new StandaloneConfigError('index.kind "load" needs index.file');
    const loaded = await indexFromFile(file, { volumes: identities, budgetBytes });
    if (loaded !== undefined) return loaded;
  }
  const kind = config.index.kind === 'load' ? 'sampled' : config.index.kind;
  const index = BlockIndex.create({ volumes: identities, seed: randomSeed(), budgetBytes });
  const facts: IndexFacts = { kind: 'none', nasBytes: 0, seconds: 0, entries: 0, ageSeconds: 0 };
  if (kind === 'inherit') facts.kind = 'inherited';
  if (kind === 'full' || kind === 'sampled') {
    const onProgress = (progress: BuildProgress): void => tell('index', progress);
    let [nasBytes, seconds] = [0, 0];
    for (const [number, volume] of volumes.entries()) {
      const options = { index, volume, number, bytesPerSecond, onProgress };
      const built = kind === 'full' ? await buildFull(options) : await buildSample({ ...options, oneIn });
      nasBytes += built.bytesRead;
      seconds += built.seconds;
    }
    Object.assign(facts, { kind, nasBytes, seconds, entries: index.count });
    if (file !== undefined) {
      const provenance = {
        kind,
        nasBytes,
        seconds,
        completedAtMs: Date.now(),
      };
      await saveIndex(file, index, provenance).catch((error: Error) => {
        // Who asked for the file must have it; who asked for what is in it has that.
        if (!isLoaded) throw error;
        log.warn(error.message);
      });
    }
  }
  return { index, facts };
}

async function main(): Promise<void> {
  collectLessOften();
  const config = readStandaloneConfig(process.argv[2]);
  const sessionKey = readSessionKey(config.sessionKeyFile);
  const volumes = await Promise.all(
    config.volumes.map((volume) => openVolume(volume, (line) => log.info(line))),
  );
  const { index, facts } = await prepareIndex(config, volumes);
  const identities = volumes.map((volume) => ({ name: volume.name, sizeBytes: volume.sizeBytes }));
  const dial = (): Promise<Socket> => dialUnix(config.dial, DIAL_WAIT_MS);
  const shared = {
    migrationId: config.migrationId,
    sessionKey,
    volumes: identities,
    dial,
    log: logEvent,
    now,
  };
  const reader = new BlockReader({ volumes, deadlineMs: config.nasDeadlineMs });
  const remoteHashes = new RemoteBlockHashes(index.seed);
  const grower =
    config.role === 'source' && facts.kind === 'sampled'
      ? new IndexGrower({
          index,
          volumes,
          hashes: remoteHashes,
          bytesPerSecond: config.index.bytesPerSecond,
        })
      : undefined;
  const migration =
    config.role === 'source'
      ? new SourceMigration({
          ...shared,
          index,
          pageHasher: new PageHasher(index.seed),
          ...(grower === undefined ? {} : { grower, remoteHashes }),
          downtimeLimitMs: config.downtimeLimitMs,
          linkBytesPerSecond: config.linkBytesPerSecond,
          paceEnabled: config.pace,
          zstd: config.zstd,
        })
      : new TargetMigration({
          ...shared,
          reader,
          ...(config.index.kind === 'inherit' ? { inherit: index } : {}),
        });

  const state = (): object => ({
    role: config.role,
    connections: migration.connections,
    ...(migration instanceof SourceMigration ? { windowBytes: migration.windowBytes } : {}),
    accepted: migration.accepted,
    ...migration.counters,
    nas: { ...reader.stats, bytesPerSecond: reader.bytesPerSecond(), p99Micros: reader.p99Micros() },
    ...(migration instanceof SourceMigration
      ? {
          remainingBytes: migration.pace.remainingBytes,
          isPlainFaster: migration.routes.isPlainFaster,
          phase: migration.pace.phase,
          linkBytesPerSecond: Math.round(migration.linkRate.bytesPerSecond),
          acceptBytesPerSecond: Number.isFinite(migration.pace.bytesPerSecond)
            ? Math.round(migration.pace.bytesPerSecond)
            : null,
          ...(grower === undefined ? {} : { grown: grower.stats }),
        }
      : {
          growth: { bytesRead: migration.extents.bytesFetched, unusedBytes: migration.extents.bytesUnused },
        }),
  });

  const cpuAtReady = process.cpuUsage();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
    migration.accept(socket),
  );
  let ended = false;
  const end = async (): Promise<void> => {
    if (ended) return;
    ended = true;
    clearInterval(ticker);
    server.close();
    // Nothing when the migration is over. The end of this process closes whatever QEMU has not closed by then.
    migration.abort(new ShutdownError());
    await allDrained(DRAIN_MS);
    const cpu = process.cpuUsage(cpuAtReady);
    const result = {
      ...state(),
      index: { ...facts, entries: index.count },
      uncachedReads: volumes.length > 0 && volumes.every((volume) => volume.uncached),
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
      maxRssBytes: process.resourceUsage().maxRSS * 1024,
      error: migration.failure === undefined ? null : migration.failure.message,
    };
    if (
      config.index.kind === 'inherit' &&
      config.index.file !== undefined &&
      migration.failure === undefined
    ) {
      await saveIndex(config.index.file, index, {
        kind: 'inherited',
        nasBytes: 0,
        seconds: 0,
        completedAtMs: Date.now(),
      });
    }
    tell('result', result);
    if (config.reportFile !== undefined)
      writeFileSync(config.reportFile, `${JSON.stringify(result, null, 2)}\n`);
    process.exit(migration.failure === undefined ? 0 : 1);
  };
  const ticker = setInterval(() => {
    if (migration.accepted > 0) tell('progress', state());
    if (migration.accepted > 0 && migration.connections === 0) void end();
  }, PROGRESS_MS);
  process.on('SIGTERM', () => void end());
  process.on('SIGINT', () => void end());
  rmSync(config.listen, { force: true });
  server.listen(config.listen, () => tell('ready', { index: facts }));
}

main().catch((error: unknown) => {
  log.fatal({ code: (error as { code?: string }).code }, (error as Error).message);
  process.exit(2);
});
