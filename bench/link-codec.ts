// How fast the link codec is, in GB/s of reconstructed bytes on one thread: encode with tag, and read with decode and tag,
// for batches of 1 MiB as main (8-byte headers between pages) and multifd (pages that touch) bring them, 85 % references.
// Run: node bench/link-codec.ts. Prints one line a case; `memcpy` is what one copy of the same bytes costs here.
import { randomBytes } from 'node:crypto';
import { BatchDecoder, DecodedBatch } from '../sidecar/link/batch-decoder.ts';
import { BatchEncoder, type BatchPlan, LITERAL_PAGE } from '../sidecar/link/batch-encoder.ts';
import { TagSealer, TagVerifier } from '../sidecar/link/batch-tag.ts';
import { FrameReader } from '../sidecar/link/frame-reader.ts';
import { FRAME_BATCH, PAGE_BYTES } from '../sidecar/link/frame-types.ts';
import { deriveConnectionKeys } from '../sidecar/link/link-keys.ts';
import { SAMPLE_SOURCE_HELLO, seededRandom } from '../sidecar/link/link-samples.ts';

const BATCH_PAGES = 255;
const REFERENCE_PART = 0.85;
const SECONDS_PER_CASE = 1.5;
// Sockets give chunks of at most 64 KiB.
const CHUNK_BYTES = 64 * 1024;
const VOLUME_BYTES = 8 * 2 ** 30;
const { tagKey } = deriveConnectionKeys(Buffer.alloc(32, 1), Buffer.alloc(32, 2), Buffer.alloc(32, 3), 0, 1);

/** References in runs of 16 blocks, the mean found in a warm guest; literals half repeating, half random. */
function plan(gap: number): BatchPlan {
  const random = seededRandom(7);
  const skeletonBytes = gap === 0 ? 1344 * 2 : gap * BATCH_PAGES;
  const reconstructed = randomBytes(BATCH_PAGES * PAGE_BYTES + skeletonBytes);
  const pageOffsets = new Uint32Array(BATCH_PAGES);
  const pageVolumes = new Uint16Array(BATCH_PAGES);
  const pageBlocks = new Uint32Array(BATCH_PAGES);
  let at = gap === 0 ? skeletonBytes : 0;
  let block = 0;
  let reference = true;
  if (gap === 0) reconstructed.fill(0, 0, at);
  for (let page = 0; page < BATCH_PAGES; page++) {
    if (page % 16 === 0) {
      block = Math.floor(random() * (VOLUME_BYTES / PAGE_BYTES - 16));
      reference = random() < REFERENCE_PART;
    }
    if (gap > 0) reconstructed.writeBigUInt64BE(BigInt(page * PAGE_BYTES) | 0x28n, at);
    at += gap;
    pageOffsets[page] = at;
    pageVolumes[page] = reference ? 0 : LITERAL_PAGE;
    pageBlocks[page] = block++;
    if (!reference) for (let i = 0; i < PAGE_BYTES; i += 64) reconstructed.fill(page, at + i, at + i + 32);
    at += PAGE_BYTES;
  }
  return {
    number: 0,
    reconstructed,
    pageOffsets,
    pageCount: BATCH_PAGES,
    pageVolumes,
    pageBlocks,
    tag: Buffer.alloc(16),
  };
}

/** Prints the rate by the clock and by the CPU time of this process, which other programs on the machine disturb less. */
function measure(name: string, bytes: number, once: () => void): void {
  for (let i = 0; i < 50; i++) once();
  const cpuBefore = process.cpuUsage();
  const started = performance.now();
  let rounds = 0;
  while (performance.now() - started < SECONDS_PER_CASE * 1000) {
    for (let i = 0; i < 20; i++) once();
    rounds += 20;
  }
  const seconds = (performance.now() - started) / 1000;
  const cpu = process.cpuUsage(cpuBefore);
  const cpuSeconds = (cpu.user + cpu.system) / 1e6;
  const rate = (over: number) => ((rounds * bytes) / over / 1e9).toFixed(2).padStart(6);
  console.log(`${name.padEnd(40)} ${rate(seconds)} GB/s, ${rate(cpuSeconds)} GB per CPU second`);
}

function measureCase(name: string, gap: number, zstd: boolean): void {
  const sample = plan(gap);
  const bytes = sample.reconstructed.length;
  const encoder = new BatchEncoder({ zstd });
  const sealer = new TagSealer(tagKey);
  let number = 0;
  measure(`encode + tag, ${name}`, bytes, () => {
    const tag = sealer.seal(number, 0, sample.reconstructed, sample.pageCount);
    encoder.release(encoder.encode({ ...sample, number, tag }));
    sealer.settle(++number);
  });

  const destination = Buffer.alloc(bytes);
  const decoder = new BatchDecoder([VOLUME_BYTES]);
  const decoded = new DecodedBatch();
  const verifier = new TagVerifier(tagKey);
  const reader = new FrameReader<'target'>(
    {
      onFrame: (frame) => {
        if (frame.type !== FRAME_BATCH) return;
        decoder.decode(frame, destination, decoded);
        // References are not filled in here, so the tag is computed in full and found wrong.
        verifier.verify(decoded.number, 0, destination, decoded.pageCount, decoded.tag);
      },
    },
    'target',
  );
  reader.push(SAMPLE_SOURCE_HELLO);
  const encoded = encoder.encode(sample);
  const wire = Buffer.concat(encoded.parts);
  let next = 0;
  measure(`read + decode + tag, ${name}`, bytes, () => {
    // The same batch again under the next number.
    wire.writeUInt32BE(next++, 8);
    for (let at = 0; at < wire.length; at += CHUNK_BYTES) reader.push(wire.subarray(at, at + CHUNK_BYTES));
  });
  console.log(
    `  frame ${(wire.length / 1024).toFixed(0)} KiB of ${(bytes / 1024).toFixed(0)} KiB, meta ${encoded.metaStoredBytes} B`,
  );
}

const from = randomBytes(1024 * 1024);
const to = Buffer.alloc(from.length);
measure('memcpy', from.length, () => from.copy(to));
measureCase('main, zstd', 8, true);
measureCase('main, no zstd', 8, false);
measureCase('multifd, zstd', 0, true);
measureCase('multifd, no zstd', 0, false);
