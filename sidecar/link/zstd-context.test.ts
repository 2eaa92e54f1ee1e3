// That this Node's contexts are used again, and what a context does when its native handle answers in every other way.
import { createZstdCompress, createZstdDecompress, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { canReuseContexts, LEAST_CHUNK_BYTES, ZstdContext } from './zstd-context.ts';

describe('in this Node', () => {
  // When this fails: compare lib/zlib.js (processChunkSync) and src/node_zlib.cc of the new release with zstd-context.ts, then change
  // KNOWN_NODE_MAJOR. Until then migrations go on, with Node's own calls.
  it('contexts can be used again', () => {
    expect(canReuseContexts()).toBe(true);
  });

  it('what one context makes of many frames is what Node makes of each, and the other way round', () => {
    const compress = new ZstdContext(() => createZstdCompress({ chunkSize: LEAST_CHUNK_BYTES }));
    const decompress = new ZstdContext(() => createZstdDecompress({ chunkSize: LEAST_CHUNK_BYTES }));
    for (let bytes = 1; bytes < 600_000; bytes = bytes * 3 + 1) {
      const input = Buffer.alloc(bytes, `text ${bytes} `);
      const frame = Buffer.alloc(bytes + 1000);
      const made = frame.subarray(0, compress.run(input, frame));
      expect(zstdDecompressSync(made).equals(input)).toBe(true);
      const back = Buffer.alloc(bytes + 1);
      expect(decompress.run(zstdCompressSync(input), back)).toBe(bytes);
      expect(back.subarray(0, bytes).equals(input)).toBe(true);
    }
  });

  it('what zstd says of a bad frame is thrown', () => {
    const decompress = new ZstdContext(() => createZstdDecompress());
    expect(() => decompress.run(Buffer.alloc(100, 1), Buffer.alloc(100))).toThrow(/Unknown frame descriptor/);
  });
});

describe('a context', () => {
  const input = Buffer.alloc(30);
  const output = Buffer.alloc(100);
  const log: string[] = [];
  /** Streams whose native handle does as `answers` say, one after the other over all of them. */
  function scripted(
    ...answers: ((left: Uint32Array, handle: { onerror: (...why: unknown[]) => void }) => void)[]
  ): ZstdContext {
    log.length = 0;
    let streams = 0;
    return new ZstdContext(() => {
      const name = ++streams;
      log.push(`open ${name}`);
      const _writeState = new Uint32Array(2);
      const _handle = {
        onerror: () => {},
        writeSync: (...of: unknown[]) => {
          log.push(`write ${name}`);
          expect(of.slice(1)).toEqual([input, 0, 30, output, 0, 100]);
          answers.shift()?.(_writeState, _handle);
        },
        close: () => log.push(`close ${name}`),
      };
      return { _handle, _writeState } as unknown as ReturnType<typeof createZstdCompress>;
    });
  }
  const good = (left: Uint32Array): void => left.set([58, 0]);

  it('is made when it is needed, and goes on', () => {
    const context = scripted(good, good, good);
    expect(log).toEqual([]);
    expect([context.run(input, output), context.run(input, output)]).toEqual([42, 42]);
    expect(log).toEqual(['open 1', 'write 1', 'write 1']);
    context.release();
    context.release();
    expect(context.run(input, output)).toBe(42);
    expect(log.slice(3)).toEqual(['close 1', 'open 2', 'write 2']);
  });

  it.each<[string, RegExp, Parameters<typeof scripted>[0]]>([
    ['zstd refuses', /too much memory/, (_left, handle) => handle.onerror('too much memory', 16, 'ZSTD_x')],
    // A native error leaves the results as they were; with those of the call before all would look well.
    ['nothing is said', /has not said/, () => {}],
    ['the output is full', /more than 99 bytes/, (left) => left.set([0, 0])],
    ['the output is full and input is left', /more than 99 bytes/, (left) => left.set([0, 7])],
    ['input is left', /7 bytes follow/, (left) => left.set([58, 7])],
    ['more is left of the output than there was', /has not said/, (left) => left.set([101, 0])],
    [
      'the binding throws',
      /bad argument/,
      () => {
        throw new TypeError('bad argument');
      },
    ],
  ])('is closed and replaced when %s', (_when, message, answer) => {
    const context = scripted(good, answer, good);
    context.run(input, output);
    expect(() => context.run(input, output)).toThrow(message);
    expect(log).toEqual(['open 1', 'write 1', 'write 1', 'close 1']);
    expect(context.run(input, output)).toBe(42);
    expect(log.slice(4)).toEqual(['open 2', 'write 2']);
  });

  it('that is asked again from within an error is a new one', () => {
    let inner = 0;
    const context: ZstdContext = scripted(
      (_left, handle) => {
        handle.onerror('damaged', 20, 'ZSTD_x');
        inner = context.run(input, output);
      },
      good,
      good,
    );
    expect(() => context.run(input, output)).toThrow('damaged');
    expect(inner).toBe(42);
    expect(log).toEqual(['open 1', 'write 1', 'open 2', 'write 2', 'close 1']);
    context.run(input, output);
    expect(log.slice(5)).toEqual(['write 2']);
  });

  it.each<[string, object]>([
    ['handle', {}],
    ['results', { _handle: { writeSync: () => {}, close: () => {} } }],
    ['call', { _handle: { close: () => {} }, _writeState: new Uint32Array(2) }],
    ['two results', { _handle: { writeSync: () => {}, close: () => {} }, _writeState: new Uint32Array(3) }],
  ])('cannot be made from a stream without %s', (_what, stream) => {
    const context = new ZstdContext(() => stream as ReturnType<typeof createZstdCompress>);
    expect(() => context.run(input, output)).toThrow(TypeError);
  });
});
