// What a migration holds of zstd: one context at the source, one for each connection at the target, and none when it is over,
// however it ended.

import { createHook } from 'node:async_hooks';
import { createZstdCompress, createZstdDecompress } from 'node:zlib';
import { afterEach, expect, it, vi } from 'vitest';
import { ShutdownError } from './connection-errors.ts';
import { canReuseContexts } from './link/zstd-context.ts';
import type { SourceMigration } from './source/source-migration.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { generateMigration } from './stream/test-streams.ts';
import { indexOf, MemoryVolume, type PipelineOutcome, runPipeline } from './test-pipeline.ts';

const CHANNELS = 2;
const SHUT = Buffer.from('0001000400000000', 'hex');

/** The class that holds the context, inside of Node's stream. */
const classOf = (stream: unknown): { close: () => void } =>
  Object.getPrototypeOf((stream as { _handle: unknown })._handle) as { close: () => void };
const classes = { compress: classOf(createZstdCompress()), decompress: classOf(createZstdDecompress()) };
type Kind = keyof typeof classes;

/** Contexts made and not closed. */
const open = { compress: new Set<unknown>(), decompress: new Set<unknown>() };
const made = { compress: 0, decompress: 0 };
const hook = createHook({
  init: (_id, type, _trigger, handle) => {
    if (type !== 'ZLIB') return;
    const kind: Kind = Object.getPrototypeOf(handle) === classes.compress ? 'compress' : 'decompress';
    made[kind]++;
    open[kind].add(handle);
  },
});
afterEach(() => {
  hook.disable();
  vi.restoreAllMocks();
});

function watchContexts(): void {
  // What finding out takes is not to be counted.
  expect(canReuseContexts()).toBe(true);
  for (const kind of ['compress', 'decompress'] as const) {
    made[kind] = 0;
    open[kind].clear();
    const { close } = classes[kind];
    vi.spyOn(classes[kind], 'close').mockImplementation(function (this: unknown) {
      open[kind].delete(this);
      return close.call(this as never);
    });
  }
  hook.enable();
}

/** A guest of which every page is text that only it has. */
function migrate(prepare: (source: SourceMigration) => void): {
  streams: Uint8Array[];
  outcome: Promise<PipelineOutcome>;
} {
  const { main, multifd, writes } = generateMigration({
    qemu: '10.0',
    channels: CHANNELS,
    seed: 1,
    rounds: 3,
    ramBlocks: [{ name: 'pc.ram', pageCount: 3000 }],
    content: (_block, page, round, out) => {
      Buffer.from(out.buffer, out.byteOffset, out.length).fill(`page ${page} of round ${round}, `);
      return true;
    },
  });
  const volumes = [new MemoryVolume('root', Buffer.alloc(16 * PAGE_BYTES, 1))];
  const streams = [main, ...multifd];
  const outcome = runPipeline({ streams, writes, volumes, ...indexOf(volumes), answer: SHUT, prepare });
  return { streams, outcome };
}

it('one context at the source and one for each connection at the target, until it is over', async () => {
  watchContexts();
  const most = { compress: 0, decompress: 0 };
  const { streams, outcome } = migrate((source) => {
    const { countLiterals } = source;
    source.countLiterals = (...counts) => {
      for (const kind of ['compress', 'decompress'] as const)
        most[kind] = Math.max(most[kind], open[kind].size);
      countLiterals.apply(source, counts);
    };
  });
  const { received, source, target } = await outcome;
  expect([source.failure, target.failure]).toEqual([undefined, undefined]);
  expect(received.map((bytes, i) => bytes.equals(streams[i] as Uint8Array))).toEqual([true, true, true]);
  const { batches, literalPages, rawLiteralPages } = source.counters;
  expect(batches).toBeGreaterThan(20);
  expect(rawLiteralPages).toBeLessThan(literalPages / 10);
  expect(made.compress).toBe(1);
  // On main there may be nothing that is worth it.
  expect(made.decompress).toBeGreaterThanOrEqual(CHANNELS);
  expect(made.decompress).toBeLessThanOrEqual(CHANNELS + 1);
  expect(most.compress).toBe(1);
  expect(most.decompress).toBeGreaterThan(0);
  expect([open.compress.size, open.decompress.size]).toEqual([0, 0]);
});

it('none after one that was ended from outside', async () => {
  watchContexts();
  const { outcome } = migrate((source) => {
    const { countLiterals } = source;
    let compressed = 0;
    source.countLiterals = (...counts) => {
      countLiterals.apply(source, counts);
      if (++compressed === 5) setImmediate(() => source.abort(new ShutdownError()));
    };
  });
  const { source } = await outcome;
  expect(source.failure).toBeInstanceOf(ShutdownError);
  expect(made.compress).toBe(1);
  expect([open.compress.size, open.decompress.size]).toEqual([0, 0]);
});
