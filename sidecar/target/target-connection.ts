// One connection of an incoming migration: the link from the source sidecar on one side, the destination QEMU's socket on
// the other. Batches are rebuilt from skeleton, literals and NAS blocks side by side, but reach QEMU in order and only
// after their tag proved right. The protocol's state machine is in docs/link-protocol.md.

import type { Socket } from 'node:net';
import {
  CreditOverrunError,
  DestinationQemuGoneError,
  LinkClosedError,
  PeerNotReadingError,
  UnaskedPatchError,
} from '../connection-errors.ts';
import type { BlockHashes } from '../index/block-hashes.ts';
import { PageHasher, seedFromBytes } from '../index/page-hash.ts';
import { BatchDecoder, DecodedBatch } from '../link/batch-decoder.ts';
import { TagVerifier } from '../link/batch-tag.ts';
import { Decompressor } from '../link/compression.ts';
import { FrameReader } from '../link/frame-reader.ts';
import {
  ABORT_INTERNAL,
  type BatchFrame,
  type EndFrame,
  FRAME_ABORT,
  FRAME_BATCH,
  FRAME_END,
  FRAME_GROW,
  FRAME_HELLO,
  FRAME_PATCH,
  FRAME_PING,
  FRAME_PONG,
  type FrameAt,
  type GrowFrame,
  HELLO_TIMEOUT_MS,
  INITIAL_CREDIT_BYTES,
  MAX_ATTEMPT,
  MAX_OPEN_GROWS,
  MAX_UNREAD_LINK_BYTES,
  PAGE_BYTES,
  type PatchFrame,
  RESEND_NAS_DEADLINE,
  RESEND_NAS_ERROR,
  RESEND_TAG_MISMATCH,
} from '../link/frame-types.ts';
import {
  abortFrame,
  ackFrame,
  endAckFrame,
  grownFrame,
  helloFrame,
  pingFrame,
  pongFrame,
  resendFrame,
  returnEndFrame,
  returnFrames,
} from '../link/frame-writer.ts';
import {
  agree,
  answerHello,
  classifyOpening,
  decodeHello,
  type Hello,
  migrationIdFromUid,
  randomHello,
  verifySourceHello,
} from '../link/hello.ts';
import { KeepAlive } from '../link/keep-alive.ts';
import {
  LinkBadFrameError,
  LinkError,
  LinkPeerAbortError,
  LinkSilentError,
  LinkTagError,
} from '../link/link-errors.ts';
import { deriveConnectionKeys, deriveProofKey } from '../link/link-keys.ts';
import { digestPages } from '../link/page-digest.ts';
import { PatchDecoder } from '../link/patch-body.ts';
import type { BlockRun, ReadOutcome } from '../nas/block-reader.ts';
import type { KnownHashes } from '../nas/extent-cache.ts';
import { endLingering, relayRaw } from '../raw-relay.ts';
import { type EndListeners, listenForEnd, readFramesInPlace } from '../static-read.ts';
import type { TargetMigration } from './target-migration.ts';

const NO_BYTES = Buffer.alloc(0);

/** How a batch stands on its way to QEMU. */
type Progress = 'reading' | 'asked' | 'proven';

interface Rebuild {
  readonly decoded: DecodedBatch;
  readonly buffer: Buffer;
  progress: Progress;
  attempt: number;
  /** Bitmap of the pages that a PATCH replaced: they are not what the NAS has. */
  patched: Uint8Array | undefined;
  /** Hashes of its reference pages, those that were at hand when their blocks were. */
  readonly known: KnownHashes | undefined;
}

type State = 'greeting' | 'framed' | 'raw' | 'ending' | 'closed';

export class TargetConnection {
  readonly #migration: TargetMigration;
  #link: Socket;
  #qemu: Socket | undefined;
  #isProven = false;
  /** First bytes, until it is clear whose they are. */
  #opening: Buffer | undefined = NO_BYTES;
  /** What is written reaches a sidecar that reads frames, not QEMU. */
  #speaksFrames = false;
  #state: State = 'greeting';
  readonly #reader: FrameReader<'target'>;
  readonly #helloTimer: NodeJS.Timeout;
  readonly #keepAlive: KeepAlive;

  #decoder: BatchDecoder | undefined;
  readonly #decompressor = new Decompressor();
  readonly #patchDecoder = new PatchDecoder(this.#decompressor);
  #verifier: TagVerifier | undefined;
  #digester: PageHasher | undefined;
  /** Position in the agreed list -> position in the reader's list. */
  #readerVolumes: number[] = [];
  /** By position in the agreed list; 0 for a volume that cannot be read here. */
  #volumeBytes: readonly number[] = [];

  /** Batches in order, from the first that QEMU did not get. */
  #waiting: Rebuild[] = [];
  #spare: DecodedBatch[] = [];
  #receivedBytes = 0;
  #handedBytes = 0;
  #deliveredBytes = 0;
  #deliveredBatches = 0;
  #creditLimit = INITIAL_CREDIT_BYTES;
  #end: EndFrame | undefined;
  #qemuReadEnded = false;

  constructor(migration: TargetMigration, link: Socket) {
    this.#migration = migration;
    this.#link = link;
    this.#keepAlive = new KeepAlive({
      ping: () => this.#guard(() => this.#write(pingFrame(Math.round(this.#migration.options.now() * 1000)))),
      late: (silentMs) => migration.options.log('source sidecar late', { silentMs }),
      silent: (silentMs) => this.fail(new LinkSilentError(silentMs, 'an answer to PING')),
    });
    this.#reader = new FrameReader<'target'>({ onFrame: (frame) => this.#onFrame(frame) }, 'target');
    const { helloTimeoutMs = HELLO_TIMEOUT_MS } = migration.options;
    this.#helloTimer = setTimeout(
      () => this.fail(new LinkSilentError(helloTimeoutMs, 'HELLO')),
      helloTimeoutMs,
    );
    link.on('data', (bytes: Buffer) => this.#onLinkBytes(bytes));
    listenForEnd(link, this.#linkEnds);
    link.resume();
  }
  readonly #linkEnds: EndListeners = {
    error: (error) => this.fail(new LinkClosedError(this.#state, error)),
    end: () => this.#onLinkClose(),
    close: () => this.#onLinkClose(),
  };

  /** Its HELLO showed that it belongs to this migration. */
  get isProven(): boolean {
    return this.#isProven;
  }

  /** Nothing is known of it yet: its HELLO is not there as a whole, and it has not turned out to be QEMU's. */
  get isUnknown(): boolean {
    return this.#state === 'greeting' && !this.#isProven;
  }

  // ---- from the link

  #onLinkBytes(bytes: Buffer): void {
    if (this.#state === 'closed' || this.#state === 'raw') return;
    this.#keepAlive.heard();
    this.#migration.counters.linkBytes += bytes.length;
    if (this.#opening === undefined) this.#guard(() => this.#reader.push(bytes));
    else this.#onOpeningBytes(bytes);
  }

  /** An armed target still meets connections that are not from an armed source: those are QEMU's, and go on raw. */
  #onOpeningBytes(bytes: Buffer): void {
    const first = Buffer.concat([this.#opening ?? NO_BYTES, bytes]);
    const opening = classifyOpening(first);
    if (opening === 'undecided') {
      this.#opening = first;
      return;
    }
    this.#opening = undefined;
    if (opening === 'hello') {
      this.#speaksFrames = true;
      this.#guard(() => this.#reader.push(first));
      return;
    }
    clearTimeout(this.#helloTimer);
    this.#migration.options.log('connection without HELLO relayed raw', { firstByte: first[0] });
    this.#reach((qemu) => this.#goRaw(qemu, first));
  }

  /** Connects to QEMU and goes on; nothing more is read from the link meanwhile. */
  #reach(then: (qemu: Socket) => void): void {
    this.#link.pause();
    this.#migration.options.dial().then(
      (qemu) => {
        if (this.#isClosed()) qemu.destroy();
        else this.#guard(() => then(qemu));
      },
      (error: Error) => this.fail(new DestinationQemuGoneError('before it was reached', error)),
    );
  }

  /** Runs one step of this connection; whatever it throws ends the connection, never the process. */
  #guard(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #onFrame(frame: FrameAt<'target'>): void {
    // A frame before this one in the same read may have ended the connection.
    if (this.#isClosed()) return;
    this.#checkUnread();
    switch (frame.type) {
      case FRAME_HELLO:
        this.#onHello(frame.hello);
        return;
      case FRAME_BATCH:
        this.#onBatch(frame);
        return;
      case FRAME_PATCH:
        this.#onPatch(frame);
        return;
      case FRAME_GROW:
        this.#onGrow(frame);
        return;
      case FRAME_PING:
        this.#write(pongFrame(frame.clockMicros));
        return;
      case FRAME_PONG:
        return;
      case FRAME_END:
        this.#end = frame;
        this.#finishIfDone();
        return;
      case FRAME_ABORT:
        this.fail(new LinkPeerAbortError(frame.code, frame.text));
        return;
    }
  }

  #onHello(hello: Hello): void {
    clearTimeout(this.#helloTimer);
    const { migrationId, sessionKey, volumes } = this.#migration.options;
    const proofKey = deriveProofKey(sessionKey);
    verifySourceHello(hello, proofKey, { migrationId: migrationIdFromUid(migrationId) });
    this.#migration.greet(hello.ordinal);
    this.#isProven = true;
    this.#readerVolumes = hello.volumes.map((wanted) =>
      volumes.findIndex((own) => own.name === wanted.name && own.sizeBytes >= wanted.sizeBytes),
    );
    const usable = this.#readerVolumes.map((position) => position >= 0);
    const body = answerHello(
      hello,
      { mode: 'framed', random: randomHello(), usable, versions: this.#migration.options.linkVersions },
      proofKey,
    );
    const answer = decodeHello(body);
    const agreement = agree(hello, answer);
    if (agreement.mode === 'raw') {
      if (hello.mode === 'framed') this.#migration.rawReason ??= 'LinkVersion';
      this.#speaksFrames = false;
      this.#reader.detach();
    } else {
      const keys = deriveConnectionKeys(
        sessionKey,
        hello.random,
        answer.random,
        hello.ordinal,
        agreement.version,
      );
      this.#verifier = new TagVerifier(keys.tagKey);
      const seed = Buffer.alloc(8);
      seed.writeBigUInt64BE(keys.digestSeed);
      this.#digester = new PageHasher(seedFromBytes(seed));
      this.#volumeBytes = agreement.volumes.map((volume) => (volume.usable ? volume.sizeBytes : 0));
      this.#decoder = new BatchDecoder(this.#volumeBytes, this.#decompressor, this.#migration.rooms);
    }
    // QEMU's receiver accepts in order and spins until a connection's first bytes come: the answer goes out, and with it
    // the next connection, only when this one has its place in QEMU's queue.
    this.#reach((qemu) => {
      this.#qemu = qemu;
      for (const part of helloFrame(body)) this.#write(part);
      if (agreement.mode === 'raw') this.#goRaw(qemu, this.#reader.takeRest());
      else this.#goFramed(qemu);
    });
  }

  /** What goes back is small, and the source never stops reading: one that does is not held for. */
  #checkUnread(): void {
    const held = this.#link.writableLength;
    if (held > MAX_UNREAD_LINK_BYTES) throw new PeerNotReadingError(held);
  }

  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  #goFramed(qemu: Socket): void {
    this.#link = readFramesInPlace(this.#link, (bytes) => this.#onLinkBytes(bytes), this.#linkEnds);
    if (this.#isClosed()) {
      qemu.destroy();
      return;
    }
    this.#state = 'framed';
    this.#keepAlive.start();
    qemu.on('data', (bytes: Buffer) => {
      this.#guard(() => this.#checkUnread());
      for (const part of returnFrames(bytes)) this.#write(part);
    });
    qemu.on('end', () => {
      this.#qemuReadEnded = true;
      this.#write(returnEndFrame());
    });
    qemu.on('error', (error) => this.#guard(() => this.#onQemuGone(error)));
    qemu.on('close', () => this.#guard(() => this.#onQemuGone(undefined)));
    this.#grantCredit();
    this.#link.resume();
  }

  /** @param early bytes of QEMU's that were read already. */
  #goRaw(qemu: Socket, early: Uint8Array): void {
    this.#state = 'raw';
    this.#qemu = qemu;
    this.#migration.counters.streamBytes += early.length;
    if (early.length > 0) qemu.write(early);
    this.#link
      .removeAllListeners('data')
      .removeAllListeners('error')
      .removeAllListeners('end')
      .removeAllListeners('close');
    void relayRaw(this.#link, qemu, (bytes) => {
      this.#migration.counters.linkBytes += bytes;
      this.#migration.counters.streamBytes += bytes;
    }).then((error) => {
      if (error !== undefined) this.#migration.relayBroke(error);
      this.#close(undefined);
    });
  }

  // ---- rebuilding

  #onBatch(frame: BatchFrame): void {
    this.#receivedBytes += frame.reconstructedBytes;
    if (this.#receivedBytes > this.#creditLimit)
      throw new CreditOverrunError(this.#receivedBytes, this.#creditLimit);
    const buffer = this.#migration.buffers.take(frame.reconstructedBytes);
    const decoded = this.#spare.pop() ?? new DecodedBatch();
    (this.#decoder as BatchDecoder).decode(frame, buffer.subarray(0, frame.reconstructedBytes), decoded);
    const known = this.#migration.inheritance?.placeForHashes(decoded.referencePages);
    const rebuild: Rebuild = { decoded, buffer, progress: 'reading', attempt: 0, patched: undefined, known };
    this.#waiting.push(rebuild);
    this.#migration.counters.batches += 1;
    this.#migration.counters.referencePages += decoded.referencePages;
    if (decoded.runCount === 0) {
      this.#prove(rebuild, decoded.tag);
      return;
    }
    this.#migration.extents
      .readBlocks(this.#runs(decoded), buffer.subarray(0, decoded.reconstructedBytes), known)
      .then(
        (outcome) => this.#guard(() => this.#onBlocksRead(rebuild, outcome)),
        (error: Error) => this.fail(error),
      );
  }

  #runs(decoded: DecodedBatch): BlockRun[] {
    const runs: BlockRun[] = new Array(decoded.runCount);
    for (let run = 0; run < decoded.runCount; run++) {
      runs[run] = {
        volume: this.#readerVolumes[decoded.runVolume[run] as number] as number,
        block: decoded.runFirstBlock[run] as number,
        count: decoded.runPages[run] as number,
        offset: decoded.runOffset[run] as number,
        stride: decoded.runStride[run] as number,
      };
    }
    return runs;
  }

  #onBlocksRead(rebuild: Rebuild, outcome: ReadOutcome): void {
    if (this.#isClosed()) return;
    if (outcome.missing !== null && outcome.missingCount > 0) {
      const late = outcome.failure?.code === 'NASMIG_NAS_DEADLINE';
      this.#migration.options.log('NAS read failed', {
        batch: rebuild.decoded.number,
        pages: outcome.missingCount,
        error: outcome.failure?.message,
      });
      const reason = late ? RESEND_NAS_DEADLINE : RESEND_NAS_ERROR;
      this.#prove(rebuild, rebuild.decoded.tag, reason, this.#missingPages(rebuild.decoded, outcome.missing));
      return;
    }
    this.#prove(rebuild, rebuild.decoded.tag);
  }

  /** The source's index grows by what is read here, for what it learns of will be referred to. */
  #onGrow({ volume, firstBlock, blockCount, seed }: GrowFrame): void {
    const volumeBytes = this.#volumeBytes[volume];
    if (volumeBytes === undefined) throw new LinkBadFrameError('GROW', `there is no volume ${volume}`);
    const migration = this.#migration;
    if (migration.openGrows >= MAX_OPEN_GROWS)
      throw new LinkBadFrameError('GROW', `${migration.openGrows} are unanswered, that is the limit`);
    if ((firstBlock + blockCount) * PAGE_BYTES > volumeBytes) {
      // Also the answer for a volume that cannot be read here.
      for (const part of grownFrame({ volume, firstBlock, hashes: NO_BYTES })) this.#write(part);
      return;
    }
    migration.openGrows += 1;
    migration.inheritance?.onGrow(seed);
    const position = this.#readerVolumes[volume] as number;
    migration.extents
      .fetch(position, firstBlock, blockCount, migration.growHasher(seed))
      .finally(() => {
        migration.openGrows -= 1;
      })
      .then(
        (found) =>
          this.#guard(() => {
            if (this.#isClosed()) return;
            const hashes = found === undefined ? NO_BYTES : encodeHashes(found);
            migration.counters.grownBlocks += hashes.length / 8;
            for (const part of grownFrame({ volume, firstBlock, hashes })) this.#write(part);
          }),
        (error: Error) => this.fail(error),
      );
  }

  /** The reader counts pages in run order; RESEND counts all pages of the batch. */
  #missingPages(decoded: DecodedBatch, missing: Uint8Array): Uint8Array {
    const pages = new Uint8Array(Math.ceil(decoded.pageCount / 8));
    let asked = 0;
    for (let run = 0; run < decoded.runCount; run++) {
      const first = decoded.runFirstPage[run] as number;
      const count = decoded.runPages[run] as number;
      for (let i = 0; i < count; i++, asked++) {
        if (((missing[asked >> 3] as number) & (1 << (asked & 7))) === 0) continue;
        const page = first + i;
        pages[page >> 3] = (pages[page >> 3] as number) | (1 << (page & 7));
      }
    }
    return pages;
  }

  /** Every attempt is checked, also one with missing pages: nothing reaches QEMU but by a right tag, and each is checked once. */
  #prove(
    rebuild: Rebuild,
    tag: Uint8Array,
    reason: number = RESEND_TAG_MISMATCH,
    missing?: Uint8Array,
  ): void {
    const { decoded, buffer, attempt } = rebuild;
    const bytes = buffer.subarray(0, decoded.reconstructedBytes);
    if ((this.#verifier as TagVerifier).verify(decoded.number, attempt, bytes, decoded.pageCount, tag)) {
      rebuild.progress = 'proven';
      this.#hand();
      return;
    }
    // A batch without pages has nothing to send again.
    if (attempt >= MAX_ATTEMPT || decoded.pageCount === 0) {
      this.fail(new LinkTagError(decoded.number, attempt));
      return;
    }
    this.#ask(rebuild, reason, missing ?? new Uint8Array(Math.ceil(decoded.pageCount / 8)));
  }

  #ask(rebuild: Rebuild, reason: number, missing: Uint8Array): void {
    const { decoded, buffer } = rebuild;
    rebuild.attempt += 1;
    rebuild.progress = 'asked';
    this.#migration.counters.resends += 1;
    const digests = Buffer.alloc(8 * decoded.pageCount);
    const bytes = buffer.subarray(0, decoded.reconstructedBytes);
    digestPages(
      this.#digester as PageHasher,
      bytes,
      decoded.pageOffsets,
      decoded.pageCount,
      missing,
      digests,
    );
    const fields = {
      number: decoded.number,
      attempt: rebuild.attempt,
      reason,
      pageCount: decoded.pageCount,
      digests,
      missing,
    };
    for (const part of resendFrame(fields)) this.#write(part);
  }

  #onPatch(frame: PatchFrame): void {
    const rebuild = this.#waiting.find((one) => one.decoded.number === frame.number);
    if (rebuild === undefined || rebuild.progress !== 'asked' || rebuild.attempt !== frame.attempt) {
      throw new UnaskedPatchError(frame.number, frame.attempt);
    }
    const { decoded, buffer } = rebuild;
    rebuild.patched ??= new Uint8Array(Math.ceil(decoded.pageCount / 8));
    this.#patchDecoder.apply(frame, decoded, buffer.subarray(0, decoded.reconstructedBytes), rebuild.patched);
    this.#prove(rebuild, frame.tag);
  }

  // ---- to QEMU

  /** Hands every batch to QEMU that is proven and has no unproven one before it. */
  #hand(): void {
    while (this.#waiting[0]?.progress === 'proven') {
      const rebuild = this.#waiting.shift() as Rebuild;
      const { decoded, buffer } = rebuild;
      const length = decoded.reconstructedBytes;
      this.#handedBytes += length;
      this.#inherit(rebuild);
      (this.#qemu as Socket).write(buffer.subarray(0, length), (error) => {
        this.#migration.buffers.give(buffer);
        if (!error && !this.#isClosed()) this.#guard(() => this.#onDelivered(length));
      });
      this.#spare.push(decoded);
    }
    this.#finishIfDone();
  }

  /** QEMU's socket took the next batch. */
  #onDelivered(length: number): void {
    this.#deliveredBatches += 1;
    this.#deliveredBytes += length;
    this.#migration.counters.streamBytes += length;
    (this.#verifier as TagVerifier).settle(this.#deliveredBatches);
    this.#grantCredit();
    this.#finishIfDone();
  }

  #inherit(rebuild: Rebuild): void {
    const { inheritance, counters } = this.#migration;
    counters.inheritedBlocks += inheritance?.add({ ...rebuild, volumes: this.#readerVolumes }) ?? 0;
  }

  #grantCredit(): void {
    const { reader } = this.#migration.options;
    const window = Math.max(
      INITIAL_CREDIT_BYTES,
      this.#migration.connectionWindowBytes(this.#deliveredBytes),
    );
    this.#creditLimit = Math.max(this.#creditLimit, this.#deliveredBytes + window);
    this.#write(
      ackFrame({
        deliveredBatches: this.#deliveredBatches,
        creditLimit: this.#creditLimit,
        nasBytesPerSecond: reader.bytesPerSecond(),
        nasP99Micros: reader.p99Micros(),
      }),
    );
  }

  #finishIfDone(): void {
    const end = this.#end;
    if (end === undefined || this.#state !== 'framed') return;
    if (this.#waiting.length > 0 || this.#deliveredBatches < end.batches) return;
    this.#state = 'ending';
    (this.#qemu as Socket).end();
    this.#link.write(endAckFrame(this.#deliveredBytes), () => this.#close(undefined));
  }

  #onQemuGone(cause: Error | undefined): void {
    if (this.#state !== 'framed') return;
    // After its SHUT the destination QEMU closes while the source QEMU still holds its end open: nothing is missing then.
    if (
      cause === undefined &&
      this.#qemuReadEnded &&
      this.#handedBytes === this.#deliveredBytes &&
      this.#waiting.length === 0
    )
      return;
    this.fail(new DestinationQemuGoneError(`after ${this.#deliveredBytes} bytes`, cause));
  }

  #write(bytes: Uint8Array): void {
    const link = this.#link;
    if (link.destroyed || link.writableEnded) return;
    if (this.#state === 'framed') this.#gatherWrites(link);
    link.write(bytes);
  }

  /** Answers to what one read brought go out together: each write costs more than what is in it. */
  #gatherWrites(link: Socket): void {
    if (link.writableCorked > 0) return;
    link.cork();
    process.nextTick(() => link.uncork());
  }

  #onLinkClose(): void {
    // A stranger, or a source that went before it greeted: no connection of this migration.
    if (this.#opening !== undefined) this.#close(undefined);
    if (this.#state === 'closed' || this.#state === 'ending' || this.#state === 'raw') return;
    this.fail(new LinkClosedError(this.#state));
  }

  // ---- ends

  /** Ends this connection because something broke: QEMU's socket is closed without the rest of its stream. */
  fail(error: Error): void {
    if (this.#state === 'closed') return;
    if (this.#speaksFrames && !(error instanceof LinkPeerAbortError)) {
      this.#write(abortFrame(error instanceof LinkError ? error.abortCode : ABORT_INTERNAL, error.message));
    }
    this.#close(error);
  }

  #close(error: Error | undefined): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    clearTimeout(this.#helloTimer);
    this.#keepAlive.stop();
    this.#decompressor.release();
    endLingering(this.#link);
    if (error === undefined) this.#qemu?.destroySoon();
    else this.#qemu?.destroy();
    this.#migration.closed(this, error);
  }
}

/** As GROWN carries them. */
function encodeHashes({ hi, lo, count }: BlockHashes): Buffer {
  const hashes = Buffer.allocUnsafeSlow(count * 8);
  for (let block = 0; block < count; block++) {
    hashes.writeInt32BE(hi[block] as number, block * 8);
    hashes.writeInt32BE(lo[block] as number, block * 8 + 4);
  }
  return hashes;
}
