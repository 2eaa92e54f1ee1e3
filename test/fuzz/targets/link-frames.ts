// The frame readers of both sides of the link, and what takes their frames apart: batches, patches, resends. Whatever comes ends
// in a LinkError or in frames within every limit; nothing is written outside a batch's bytes; any cut reads the same.
import { PageHasher, seedFromBytes } from '../../../sidecar/index/page-hash.ts';
import { BatchDecoder, DecodedBatch } from '../../../sidecar/link/batch-decoder.ts';
import { BatchEncoder } from '../../../sidecar/link/batch-encoder.ts';
import { FrameReader } from '../../../sidecar/link/frame-reader.ts';
import {
  type BatchFrame,
  FRAME_ABORT,
  FRAME_ACK,
  FRAME_BATCH,
  FRAME_END,
  FRAME_END_ACK,
  FRAME_GROW,
  FRAME_GROWN,
  FRAME_HEADER_BYTES,
  FRAME_HELLO,
  FRAME_PATCH,
  FRAME_PONG,
  FRAME_RESEND,
  FRAME_RETURN,
  type FrameAt,
  type HelloFrame,
  MAX_ABORT_TEXT_BYTES,
  MAX_BATCH_PAGES,
  MAX_FRAME_BODY_BYTES,
  MAX_GROW_BLOCKS,
  MAX_RECONSTRUCTED_BYTES,
  MAX_RETURN_BYTES,
  MAX_VOLUMES,
  PAGE_BYTES,
  type PatchFrame,
  type ResendFrame,
  type Role,
} from '../../../sidecar/link/frame-types.ts';
import {
  abortFrame,
  ackFrame,
  endAckFrame,
  endFrame,
  helloFrame,
  pingFrame,
  pongFrame,
  resendFrame,
  returnEndFrame,
  returnFrames,
} from '../../../sidecar/link/frame-writer.ts';
import { answerHello, classifyOpening, decodeHello, encodeSourceHello } from '../../../sidecar/link/hello.ts';
import { deriveProofKey } from '../../../sidecar/link/link-keys.ts';
import { samplePlan } from '../../../sidecar/link/link-samples.ts';
import { differingPages } from '../../../sidecar/link/page-digest.ts';
import { PatchDecoder, PatchEncoder } from '../../../sidecar/link/patch-body.ts';
import {
  digestOf,
  type FuzzTarget,
  InvariantError,
  must,
  pieces,
  type Random,
  refusalOf,
  seededRandom,
} from '../target.ts';

const CANARY_BYTES = 4096;
const CANARY = 0x5a;
/** Rebuilt batches that a target may have open here, for patches. */
const MAX_OPEN = 4;
/** One for each open batch, with room before and after that must stay as it is. */
const destinations = Array.from({ length: MAX_OPEN }, () =>
  Buffer.alloc(MAX_RECONSTRUCTED_BYTES + 2 * CANARY_BYTES, CANARY),
);

interface Open {
  readonly decoded: DecodedBatch;
  readonly bytes: Buffer;
}

/** Sums up what one reading of an input gave. */
class Summary {
  value = 0;
  frames = 0;

  add(value: number): void {
    this.value = (Math.imul(this.value ^ (value | 0), 0x01000193) + Math.floor(value / 2 ** 32) + 1) | 0;
  }

  bytes(bytes: Uint8Array): void {
    this.add(digestOf(bytes));
  }
}

function checkDecoded({ decoded, bytes }: Open, frame: BatchFrame, volumeBlocks: readonly number[]): void {
  must(
    decoded.number === frame.number && decoded.pageCount === frame.pageCount,
    () => 'another batch is decoded',
  );
  let end = 0;
  for (let i = 0; i < decoded.pageCount; i++) {
    const at = decoded.pageOffsets[i] as number;
    must(
      at >= end && at + PAGE_BYTES <= bytes.length,
      () => `page ${i} at ${at}, the batch has ${bytes.length}`,
    );
    end = at + PAGE_BYTES;
  }
  must(decoded.runCount <= decoded.pageCount, () => `${decoded.runCount} runs`);
  let references = 0;
  for (let run = 0; run < decoded.runCount; run++) {
    const volume = decoded.runVolume[run] as number;
    const first = decoded.runFirstBlock[run] as number;
    const pages = decoded.runPages[run] as number;
    const firstPage = decoded.runFirstPage[run] as number;
    references += pages;
    must(
      pages >= 1 && firstPage + pages <= decoded.pageCount,
      () => `run ${run} of ${pages} pages from ${firstPage}`,
    );
    must(first + pages <= (volumeBlocks[volume] ?? 0), () => `blocks from ${first} of volume ${volume}`);
    for (let i = 0; i < pages; i++) {
      const at = (decoded.runOffset[run] as number) + i * (decoded.runStride[run] as number);
      must(
        decoded.pageOffsets[firstPage + i] === at,
        () => `page ${firstPage + i} of run ${run} goes to ${at}`,
      );
    }
  }
  must(
    references === decoded.referencePages,
    () => `${references} references, ${decoded.referencePages} told`,
  );
  must(
    references * PAGE_BYTES + frame.literalBytes === decoded.pageCount * PAGE_BYTES,
    () => 'references and literals are not all pages',
  );
}

function checkCanary(destination: Buffer, bytes: Buffer): void {
  for (let i = 0; i < CANARY_BYTES; i += 8) {
    if (destination[i] !== CANARY || destination[CANARY_BYTES + bytes.length + i] !== CANARY)
      throw new InvariantError('something is written outside of the batch');
  }
}

/** What a target does with the frames of a source, but for NAS, tag and QEMU. */
class TargetSide {
  readonly summary = new Summary();
  readonly reader = new FrameReader<'target'>({ onFrame: (frame) => this.#onFrame(frame) }, 'target');
  #decoder = new BatchDecoder([]);
  #volumeBlocks: readonly number[] = [];
  readonly #patchDecoder = new PatchDecoder();
  readonly #open: Open[] = [];
  #batches = 0;

  #onFrame(frame: FrameAt<'target'>): void {
    const { summary } = this;
    summary.frames += 1;
    summary.add(frame.type);
    switch (frame.type) {
      case FRAME_HELLO: {
        this.#onHello(frame);
        return;
      }
      case FRAME_BATCH: {
        this.#onBatch(frame);
        return;
      }
      case FRAME_PATCH:
        this.#onPatch(frame);
        return;
      case FRAME_END:
        must(
          frame.batches === this.#batches,
          () => `END counts ${frame.batches} batches of ${this.#batches}`,
        );
        summary.add(frame.streamBytes);
        return;
      case FRAME_ABORT:
        summary.add(frame.code);
        must(frame.text.length <= MAX_ABORT_TEXT_BYTES, () => `${frame.text.length} characters of ABORT`);
        must(!/\p{Cc}/u.test(frame.text), () => 'ABORT has control characters');
        return;
      case FRAME_GROW:
        must(
          frame.blockCount >= 1 && frame.blockCount <= MAX_GROW_BLOCKS,
          () => `GROW of ${frame.blockCount}`,
        );
        must(frame.firstBlock + frame.blockCount <= 2 ** 32, () => `GROW from ${frame.firstBlock} on`);
        summary.add(frame.firstBlock);
        return;
      default:
        summary.add(frame.clockMicros);
        must(Number.isSafeInteger(frame.clockMicros), () => `clock ${frame.clockMicros}`);
    }
  }

  #onHello({ hello }: HelloFrame): void {
    must(hello.volumes.length <= MAX_VOLUMES, () => `${hello.volumes.length} volumes`);
    this.summary.bytes(hello.body);
    const sizes = hello.volumes.map((volume) => volume.sizeBytes);
    this.#volumeBlocks = sizes.map((bytes) => Math.floor(bytes / PAGE_BYTES));
    this.#decoder = new BatchDecoder(sizes);
  }

  #onBatch(frame: BatchFrame): void {
    must(frame.number === this.#batches, () => `batch ${frame.number} is the ${this.#batches}th`);
    this.#batches += 1;
    must(
      frame.reconstructedBytes >= 1 && frame.reconstructedBytes <= MAX_RECONSTRUCTED_BYTES,
      () => `${frame.reconstructedBytes} bytes of batch`,
    );
    must(frame.pageCount <= MAX_BATCH_PAGES, () => `${frame.pageCount} pages of batch`);
    must(
      frame.metaStored.length + frame.literalStored.length <= MAX_FRAME_BODY_BYTES,
      () => 'a body over its limit',
    );
    must(frame.tag.length === 16, () => `a tag of ${frame.tag.length}`);
    const slot = frame.number % MAX_OPEN;
    const destination = destinations[slot] as Buffer;
    const decoded = this.#open[slot]?.decoded ?? new DecodedBatch();
    // The batch before it in this slot left its bytes there, where the room after this one may be.
    const before = this.#open[slot]?.bytes.length ?? 0;
    const bytes = destination.subarray(CANARY_BYTES, CANARY_BYTES + frame.reconstructedBytes);
    destination.fill(CANARY, CANARY_BYTES, CANARY_BYTES + Math.max(before, bytes.length) + CANARY_BYTES);
    this.#open[slot] = { decoded, bytes };
    this.#decoder.decode(frame, bytes, decoded);
    checkDecoded({ decoded, bytes }, frame, this.#volumeBlocks);
    checkCanary(destination, bytes);
    this.summary.add(frame.number);
    this.summary.add(decoded.referencePages);
    this.summary.bytes(bytes.subarray(0, 16_384));
    this.summary.bytes(frame.tag);
  }

  #onPatch(frame: PatchFrame): void {
    must(frame.number < this.#batches, () => `a PATCH for batch ${frame.number} of ${this.#batches}`);
    must(
      frame.pageCount >= 1 && frame.pageCount <= MAX_BATCH_PAGES,
      () => `${frame.pageCount} pages of PATCH`,
    );
    const slot = frame.number % MAX_OPEN;
    const open = this.#open[slot];
    if (open === undefined) return;
    const patched = new Uint8Array(MAX_BATCH_PAGES / 8);
    this.#patchDecoder.apply(frame, open.decoded, open.bytes, patched);
    checkCanary(destinations[slot] as Buffer, open.bytes);
    let count = 0;
    for (let page = 0; page < MAX_BATCH_PAGES; page++) {
      if (((patched[page >> 3] as number) & (1 << (page & 7))) === 0) continue;
      must(page < open.decoded.pageCount, () => `page ${page} of ${open.decoded.pageCount} is patched`);
      count += 1;
    }
    must(count === frame.pageCount, () => `${count} pages patched, ${frame.pageCount} sent`);
    this.summary.bytes(patched);
  }
}

const hasher = new PageHasher(seedFromBytes(Buffer.alloc(8, 7)));
const keptBytes = Buffer.alloc(16 * PAGE_BYTES, 3);
const keptOffsets = Uint32Array.from({ length: 16 }, (_, page) => page * PAGE_BYTES);
const differing = new Uint32Array(MAX_BATCH_PAGES);

/** What a source does with the frames of a target, but for QEMU. */
class SourceSide {
  readonly summary = new Summary();
  readonly reader: FrameReader<'source'>;
  #delivered = 0;
  #credit = 0;

  constructor() {
    this.reader = new FrameReader({ onFrame: (frame) => this.#onFrame(frame) }, 'source');
  }

  #onFrame(frame: FrameAt<'source'>): void {
    const { summary } = this;
    summary.frames += 1;
    summary.add(frame.type);
    switch (frame.type) {
      case FRAME_HELLO:
        summary.bytes(frame.hello.body);
        return;
      case FRAME_ACK:
        must(frame.deliveredBatches >= this.#delivered, () => 'the count of batches falls');
        must(frame.creditLimit >= this.#credit, () => 'the credit falls');
        must(Number.isSafeInteger(frame.creditLimit), () => `credit ${frame.creditLimit}`);
        this.#delivered = frame.deliveredBatches;
        this.#credit = frame.creditLimit;
        summary.add(frame.creditLimit);
        summary.add(frame.nasBytesPerSecond);
        return;
      case FRAME_RESEND:
        this.#onResend(frame);
        return;
      case FRAME_RETURN:
        must(
          frame.bytes.length >= 1 && frame.bytes.length <= MAX_RETURN_BYTES,
          () => `${frame.bytes.length} bytes`,
        );
        summary.bytes(frame.bytes);
        return;
      case FRAME_END_ACK:
        must(Number.isSafeInteger(frame.streamBytes), () => `${frame.streamBytes} bytes`);
        summary.add(frame.streamBytes);
        return;
      case FRAME_ABORT:
        must(!/\p{Cc}/u.test(frame.text), () => 'ABORT has control characters');
        summary.add(frame.code);
        return;
      case FRAME_PONG:
        summary.add(frame.clockMicros);
        return;
      case FRAME_GROWN:
        must(frame.hashes.length % 8 === 0, () => `${frame.hashes.length} bytes of hashes`);
        must(frame.hashes.length <= 8 * MAX_GROW_BLOCKS, () => `${frame.hashes.length} bytes of hashes`);
        summary.bytes(frame.hashes);
        return;
      default:
        return;
    }
  }

  #onResend(frame: ResendFrame): void {
    const { pageCount, digests, missing } = frame;
    must(pageCount >= 1 && pageCount <= MAX_BATCH_PAGES, () => `${pageCount} pages of RESEND`);
    must(digests.length === 8 * pageCount, () => `${digests.length} bytes of digests`);
    must(missing.length === Math.ceil(pageCount / 8), () => `${missing.length} bytes of bitmap`);
    must(frame.attempt === 1 || frame.attempt === 2, () => `attempt ${frame.attempt}`);
    this.summary.bytes(digests);
    this.summary.bytes(missing);
    if (pageCount > 16) return;
    const count = differingPages(hasher, keptBytes, keptOffsets, pageCount, frame, differing);
    must(count <= pageCount, () => `${count} of ${pageCount} pages differ`);
    for (let i = 1; i < count; i++)
      must(
        (differing[i] as number) > (differing[i - 1] as number),
        () => 'pages that differ are not in order',
      );
    this.summary.add(count);
  }
}

interface Side {
  readonly summary: Summary;
  readonly reader: FrameReader<Role>;
}

function readWith(side: Side, chunks: readonly Uint8Array[], recycle: boolean): string {
  try {
    for (const chunk of chunks) {
      side.reader.push(chunk);
      if (recycle) chunk.fill(0xa5);
    }
  } catch (error) {
    const code = refusalOf(error);
    try {
      side.reader.push(Buffer.alloc(1));
    } catch (after) {
      must(refusalOf(after) === 'NASMIG_LINK_READER_DEAD', () => 'a reader that threw throws something else');
      return code;
    }
    throw new InvariantError(`a reader goes on after ${code}`);
  }
  return 'read';
}

/** Longest bodies by type, once more and by hand from docs/link-protocol.md. */
const LONGEST_BODIES: readonly number[] = [
  0, 16_988, 2_162_688, 20, 4172, 2_098_212, 65_536, 8, 8, 516, 12, 8, 0, 16, 2056,
];

/** Every header that the reader got past announced what its type may have. */
function checkLengths(input: Uint8Array): void {
  for (const frame of framesOf(input)) {
    if (frame.length < FRAME_HEADER_BYTES) return;
    const [type = 0, bytes] = [frame[0], frame.readUInt32BE(4)];
    must(bytes <= (LONGEST_BODIES[type] ?? -1), () => `a frame ${type} of ${bytes} bytes is waited for`);
    // What follows is dropped unread.
    if (type === FRAME_ABORT || type === FRAME_END_ACK) return;
  }
}

function runSide(input: Uint8Array, make: () => Side): string {
  const random = seededRandom(digestOf(input));
  const whole = make();
  const answer = readWith(whole, [Buffer.from(input)], false);
  if (answer === 'read') checkLengths(input);
  const parts = make();
  const again = readWith(parts, pieces(input, random), true);
  must(answer === again, () => `${answer} when read at once, ${again} in pieces`);
  must(
    whole.summary.value === parts.summary.value && whole.summary.frames === parts.summary.frames,
    () => `${whole.summary.frames} frames when read at once, ${parts.summary.frames} in pieces`,
  );
  return answer;
}

// ---- structure

/** The frames of an input, as far as their headers lead; what is left over is the last. */
function framesOf(input: Uint8Array): Buffer[] {
  const bytes = Buffer.from(input.buffer, input.byteOffset, input.length);
  const frames: Buffer[] = [];
  let at = 0;
  while (at < bytes.length && frames.length < 256) {
    const end =
      bytes.length - at < FRAME_HEADER_BYTES
        ? bytes.length
        : Math.min(bytes.length, at + FRAME_HEADER_BYTES + bytes.readUInt32BE(at + 4));
    frames.push(bytes.subarray(at, end));
    at = end;
  }
  if (at < bytes.length) frames.push(bytes.subarray(at));
  return frames;
}

/** Drops, repeats, swaps and mixes frames, or changes the fields of one. */
function mutateFrames(input: Uint8Array, random: Random, other: Uint8Array): Uint8Array | undefined {
  const frames = framesOf(input);
  const below = (limit: number): number => Math.floor(random() * limit);
  if (frames.length < 2) return undefined;
  for (let changes = 1 + below(3); changes > 0; changes--) {
    const at = below(frames.length);
    const frame = frames[at] as Buffer;
    switch (below(7)) {
      case 0:
        frames.splice(at, 1);
        if (frames.length === 0) return undefined;
        break;
      case 1:
        frames.splice(below(frames.length + 1), 0, frame);
        break;
      case 2: {
        const to = below(frames.length);
        frames[at] = frames[to] as Buffer;
        frames[to] = frame;
        break;
      }
      case 3: {
        const others = framesOf(other);
        frames.splice(at, 0, others[below(others.length)] ?? frame);
        break;
      }
      case 4: {
        const copy = Buffer.from(frame);
        if (copy.length > 1) copy[0] = 1 + below(15);
        frames[at] = copy;
        break;
      }
      default: {
        // Fixed fields are where lengths and counts are; operations follow them.
        const copy = Buffer.from(frame);
        const ops = copy[0] === FRAME_BATCH && copy.length > 40 ? copy.readUInt32BE(20) : 0;
        if (ops > 0 && ops < copy.length - 40 && random() < 0.5) {
          copy[40 + below(ops)] = random() < 0.5 ? below(64) : below(256);
          frames[at] = copy;
          break;
        }
        for (let fields = 1 + below(3); fields > 0; fields--) {
          const place = below(Math.min(copy.length, random() < 0.7 ? 44 : 120));
          if (random() < 0.5 || place + 4 > copy.length) copy[place] = below(256);
          else
            copy.writeUInt32BE(
              [0, 1, 0xff, 512, 513, 4096, 0x20_0000, 0x20_0001, 0xffff_ffff][below(9)] ?? 0,
              place,
            );
        }
        frames[at] = copy;
      }
    }
  }
  return Buffer.concat(frames);
}

/** Lengths, numbers and totals right again, each most of the time. */
function repairFrames(input: Uint8Array, random: Random): Uint8Array {
  const frames = framesOf(input).map((frame) => Buffer.from(frame));
  let batches = 0;
  let streamBytes = 0;
  for (const frame of frames) {
    if (frame.length < FRAME_HEADER_BYTES || random() < 0.1) continue;
    frame.writeUInt32BE(frame.length - FRAME_HEADER_BYTES, 4);
    frame.writeUInt16BE(0, 2);
    if (frame[0] === FRAME_BATCH && frame.length >= 8 + 32 + 17) repairBatch(frame, batches, random);
    if (frame[0] === FRAME_BATCH && frame.length >= 8 + 32) {
      batches += 1;
      streamBytes += frame.readUInt32BE(12);
    }
    if (frame[0] === FRAME_PATCH && frame.length > 16 && random() < 0.8)
      frame.writeUInt32BE(Math.floor(random() * Math.max(1, batches)), 8);
    if (frame[0] === FRAME_END && frame.length === 20 && random() < 0.9) {
      frame.writeBigUInt64BE(BigInt(streamBytes), 8);
      frame.writeUInt32BE(batches, 16);
    }
  }
  return Buffer.concat(frames);
}

function repairBatch(frame: Buffer, number: number, random: Random): void {
  if (random() < 0.95) frame.writeUInt32BE(number, 8);
  if (random() < 0.3) return;
  const [pages, ops] = [frame.readUInt32BE(16), frame.readUInt32BE(20)];
  const stored = frame.length - 8 - 32 - 16;
  if (((frame[1] ?? 0) & 2) === 0) {
    const literals = Math.min(frame.readUInt32BE(36), stored);
    frame.writeUInt32BE(literals, 32);
    frame.writeUInt32BE(literals, 36);
    frame.writeUInt32BE(stored - literals, 24);
  }
  if (((frame[1] ?? 0) & 1) === 0) frame.writeUInt32BE(frame.readUInt32BE(24), 28);
  // What the skeleton has is what the meta has besides operations.
  const skeleton = frame.readUInt32BE(28) - ops;
  if (skeleton >= 0 && pages <= MAX_BATCH_PAGES)
    frame.writeUInt32BE((skeleton + pages * PAGE_BYTES) >>> 0, 12);
}

// ---- inputs to begin with

const proofKey = deriveProofKey(Buffer.alloc(32, 3));
const sourceHello = encodeSourceHello(
  {
    ordinal: 0,
    mode: 'framed',
    random: Buffer.alloc(32, 1),
    migrationId: Buffer.alloc(16, 2),
    volumes: [
      { name: 'root', sizeBytes: 1 << 30 },
      { name: 'small', sizeBytes: 5 * PAGE_BYTES },
      { name: 'none', sizeBytes: 0 },
    ],
  },
  proofKey,
);
const targetHello = answerHello(
  decodeHello(sourceHello),
  { mode: 'framed', random: Buffer.alloc(32, 5), usable: [true, true, false] },
  proofKey,
);

function sourceConversation(zstd: boolean): Buffer {
  const encoder = new BatchEncoder({ zstd });
  const patcher = new PatchEncoder({ zstd });
  const reference = (block: number, volume = 0) => ({ gap: 0, reference: { volume, block }, random: false });
  const literal = (gap: number, random: boolean) => ({ gap, reference: undefined, random });
  const plans = [
    samplePlan(0, [], 700, 1),
    samplePlan(1, [literal(9, false), literal(8, true), reference(3), reference(4), reference(5)], 30, 2),
    samplePlan(
      2,
      [reference(100), { ...reference(101), gap: 8 }, { ...reference(102), gap: 8 }, reference(2, 1)],
      5,
      3,
    ),
    samplePlan(3, [literal(0, false), literal(17, false), literal(17, false)], 0, 4),
  ];
  const parts: Uint8Array[] = [...helloFrame(sourceHello), pingFrame(5)];
  let total = 0;
  for (const plan of plans) {
    parts.push(...encoder.encode(plan).parts);
    total += plan.reconstructed.length;
  }
  const [, second] = plans;
  if (second !== undefined)
    parts.push(
      ...patcher.encode({
        number: 1,
        attempt: 1,
        reconstructed: second.reconstructed,
        pageOffsets: second.pageOffsets,
        positions: Uint32Array.of(0, 2, 4),
        count: 3,
        tag: Buffer.alloc(16, 9),
      }).parts,
    );
  parts.push(pongFrame(6), endFrame(total, plans.length));
  return Buffer.concat(parts.map((part) => Buffer.from(part)));
}

function targetConversation(): Buffer {
  const missing = Buffer.from([0b101, 0]);
  const digests = Buffer.alloc(12 * 8, 0x44);
  digests.fill(0, 0, 8).fill(0, 16, 24);
  const ack = (deliveredBatches: number) =>
    ackFrame({
      deliveredBatches,
      creditLimit: 3_000_000 + deliveredBatches,
      nasBytesPerSecond: 1e8,
      nasP99Micros: 900,
    });
  return Buffer.concat([
    ...helloFrame(targetHello),
    ack(0),
    pongFrame(1),
    ...resendFrame({ number: 0, attempt: 1, reason: 1, pageCount: 12, digests, missing }),
    ...returnFrames(Buffer.from('0001000400000000', 'hex')),
    pingFrame(77),
    ack(4),
    ...resendFrame({
      number: 1,
      attempt: 2,
      reason: 0,
      pageCount: 3,
      digests: Buffer.alloc(24, 1),
      missing: Buffer.alloc(1),
    }),
    returnEndFrame(),
    endAckFrame(123_456),
  ]);
}

/** Headers and fixed fields, and a little more, where the operations are. */
function frameHeads(input: Uint8Array): [number, number][] {
  const ranges: [number, number][] = [];
  let at = 0;
  for (const frame of framesOf(input)) {
    ranges.push([at, at + Math.min(frame.length, 8 + 32 + 80)]);
    at += frame.length;
  }
  return ranges;
}

/** What a target reads from a source. */
export const linkAtTarget: FuzzTarget = {
  seeds: (corpus) => [
    ...corpus,
    sourceConversation(false),
    sourceConversation(true),
    Buffer.concat([...helloFrame(sourceHello), ...[abortFrame(4, 'gone: ä')]]),
  ],
  run: (input) => {
    const opening = classifyOpening(input);
    must(input.length < 12 || opening !== 'undecided', () => 'twelve bytes do not decide');
    return runSide(input, () => new TargetSide() as unknown as Side);
  },
  hot: frameHeads,
  mutate: mutateFrames,
  repair: repairFrames,
};

/** What a source reads from a target. */
export const linkAtSource: FuzzTarget = {
  seeds: (corpus) => [
    ...corpus,
    targetConversation(),
    Buffer.concat([...helloFrame(targetHello), abortFrame(6, '')]),
  ],
  run: (input) => runSide(input, () => new SourceSide() as unknown as Side),
  hot: frameHeads,
  mutate: mutateFrames,
  repair: repairFrames,
};
