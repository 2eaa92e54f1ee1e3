import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../stream/page-sink.ts';
import { AssemblyPool, BULK_BATCH_BYTES, type StreamBatch, StreamBatcher } from './stream-batcher.ts';

function feed(batcher: StreamBatcher, bytes: Uint8Array, batchBytes = BULK_BATCH_BYTES): StreamBatch[] {
  const batches: StreamBatch[] = [];
  for (let at = 0; at < bytes.length; ) {
    const taken = batcher.append(bytes, at, batchBytes);
    at += taken;
    if (taken > 0) continue;
    const batch = batcher.cut();
    if (batch === undefined) throw new Error('neither room nor a batch');
    batches.push(batch);
  }
  return batches;
}

describe('StreamBatcher', () => {
  it('keeps a page of which only the beginning is here for the next batch', () => {
    const batcher = new StreamBatcher(new AssemblyPool(4 * BULK_BATCH_BYTES));
    batcher.announce(8, 1);
    feed(batcher, Buffer.alloc(100, 1));
    const first = batcher.cut();
    expect(first?.bytes.length).toBe(8);
    expect(first?.pageCount).toBe(0);
    expect(batcher.cut()).toBeUndefined();
    feed(batcher, Buffer.alloc(PAGE_BYTES, 2));
    const second = batcher.cut();
    expect(second?.streamOffset).toBe(8);
    expect(second?.bytes.length).toBe(92 + PAGE_BYTES);
    expect([...(second?.pageOffsets ?? [])]).toEqual([0]);
  });

  it('cuts inside a page only after forgetPages', () => {
    const batcher = new StreamBatcher(new AssemblyPool(4 * BULK_BATCH_BYTES));
    batcher.announce(0, 1);
    feed(batcher, Buffer.alloc(10));
    expect(batcher.cut()).toBeUndefined();
    batcher.forgetPages();
    expect(batcher.cut()?.bytes.length).toBe(10);
  });

  it('does not change a batch that was cut when more bytes come', () => {
    const pool = new AssemblyPool(4 * BULK_BATCH_BYTES);
    const batcher = new StreamBatcher(pool);
    feed(batcher, Buffer.alloc(700_000, 1));
    const batch = batcher.cut();
    feed(batcher, Buffer.alloc(700_000, 2));
    expect(batch?.bytes.every((byte) => byte === 1)).toBe(true);
  });

  it('gives back exactly the stream, with every page in exactly one batch, for any cuts', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ gap: fc.nat(3000), pages: fc.integer({ min: 0, max: 40 }) }), { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 65_536 }), { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 8192, max: BULK_BATCH_BYTES }),
        (layout, cuts, batchBytes) => {
          const total = layout.reduce((sum, run) => sum + run.gap + run.pages * PAGE_BYTES, 0);
          const stream = Buffer.alloc(total);
          for (let i = 0; i < total; i += 1) stream[i] = (i * 31) >>> 3;
          const pool = new AssemblyPool(8 * BULK_BATCH_BYTES);
          const batcher = new StreamBatcher(pool);
          const batches: StreamBatch[] = [];
          let announcedTo = 0;
          let next = 0;
          let header = 0;
          for (let at = 0, i = 0; at < total; i++) {
            const end = Math.min(total, at + (cuts[i % cuts.length] as number));
            // As a finder does: a run is announced when the bytes before it were seen.
            while (next < layout.length && header + (layout[next]?.gap ?? 0) <= end) {
              const run = layout[next++] as { gap: number; pages: number };
              if (run.pages > 0) batcher.announce(header + run.gap, run.pages);
              announcedTo += run.pages;
              header += run.gap + run.pages * PAGE_BYTES;
            }
            batches.push(...feed(batcher, stream.subarray(at, end), batchBytes));
            if (i % 3 === 0) {
              const batch = batcher.cut();
              if (batch !== undefined) batches.push(batch);
            }
            at = end;
          }
          const last = batcher.cut();
          if (last !== undefined) batches.push(last);
          expect(Buffer.compare(Buffer.concat(batches.map((batch) => batch.bytes)), stream)).toBe(0);
          let pages = 0;
          let offset = 0;
          for (const batch of batches) {
            expect(batch.streamOffset).toBe(offset);
            offset += batch.bytes.length;
            pages += batch.pageCount;
            for (const page of batch.pageOffsets)
              expect(page + PAGE_BYTES).toBeLessThanOrEqual(batch.bytes.length);
          }
          expect(pages).toBe(announcedTo);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('gives back exactly the stream when it is read into its room, with cuts while a read is under way, on memory that is used again', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 300_000 }), { minLength: 1, maxLength: 60 }),
        fc.array(fc.nat(9), { minLength: 1, maxLength: 20 }),
        fc.constantFrom(16 * 1024, 200_000, BULK_BATCH_BYTES),
        (reads, choices, batchBytes) => {
          const pool = new AssemblyPool(8 * BULK_BATCH_BYTES);
          const batcher = new StreamBatcher(pool);
          const under: StreamBatch[] = [];
          let sent = 0;
          let acknowledged = 0;
          const cut = (): void => {
            const batch = batcher.cut();
            if (batch !== undefined) under.push(batch);
          };
          const acknowledge = (): void => {
            for (const batch of under.splice(0)) {
              expect(batch.streamOffset).toBe(acknowledged);
              expect(Buffer.compare(batch.bytes, pattern(acknowledged, batch.bytes.length))).toBe(0);
              acknowledged += batch.bytes.length;
              // As another connection would.
              new Uint8Array(batch.bytes.buffer).fill(0xee);
              pool.give(batch.bytes);
            }
          };
          reads.forEach((most, i) => {
            const choice = choices[i % choices.length] as number;
            const wanted = choice === 4 ? 64 * 1024 : BULK_BATCH_BYTES;
            const room = batcher.room(wanted);
            expect(room.length).toBeGreaterThanOrEqual(PAGE_BYTES);
            expect(room.length).toBeLessThanOrEqual(wanted);
            if (choice < 3) cut();
            if (choice % 2 === 0) acknowledge();
            const read = room.subarray(0, Math.min(most, room.length));
            read.set(pattern(sent, read.length));
            sent += read.length;
            for (let at = 0; at < read.length; ) {
              const taken = batcher.append(read, at, batchBytes);
              at += taken;
              if (taken === 0 || choice === 5 || batcher.isFull(batchBytes)) cut();
            }
          });
          cut();
          acknowledge();
          expect(acknowledged).toBe(sent);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('does not take bytes that were read elsewhere while a read is under way', () => {
    const batcher = new StreamBatcher(new AssemblyPool(4 * BULK_BATCH_BYTES));
    const room = batcher.room(BULK_BATCH_BYTES);
    expect(() => batcher.append(Buffer.alloc(10), 0, BULK_BATCH_BYTES)).toThrow(RangeError);
    expect(batcher.append(room.subarray(0, 10), 0, BULK_BATCH_BYTES)).toBe(10);
    expect(batcher.append(Buffer.alloc(10), 0, BULK_BATCH_BYTES)).toBe(10);
  });

  it('copies nothing of a full batch that was read into its room', () => {
    const batcher = new StreamBatcher(new AssemblyPool(4 * BULK_BATCH_BYTES));
    const places = new Set<ArrayBufferLike>();
    while (!batcher.isFull(BULK_BATCH_BYTES)) {
      const room = batcher.room(BULK_BATCH_BYTES);
      places.add(room.buffer);
      batcher.append(room.subarray(0, 200_000), 0, BULK_BATCH_BYTES);
    }
    expect([...places]).toEqual([batcher.cut()?.bytes.buffer]);
  });
});

/** Bytes of a stream without pages, from `offset` on. */
function pattern(offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = ((offset + i) * 31) >>> 3;
  return bytes;
}
