// RESEND and PATCH over whole pipelines, where the digests do not tell the wrong pages or a PATCH does not help: the whole batch goes
// again, at most twice, and the destination QEMU gets the guest's bytes or the migration fails.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { forgeBlock } from './index/xxh64-forger.ts';
import { FRAME_BATCH, FRAME_HELLO, FRAME_PATCH, TAG_BYTES } from './link/frame-types.ts';
import { agree, type Hello } from './link/hello.ts';
import { deriveConnectionKeys } from './link/link-keys.ts';
import { PAGE_BYTES } from './stream/page-sink.ts';
import { indexOf, type MemoryVolume, type PipelineOutcome, runPipeline } from './test-pipeline.ts';
import { guest, tamper, watchLink } from './test-rig.ts';

const SHUT = Buffer.from('00010004' + '00000000', 'hex');

/** A PATCH that the source sent. */
interface Patch {
  readonly batch: number;
  readonly attempt: number;
  readonly pages: number;
  /** Pages of the batch. */
  readonly of: number;
}

/** Blocks from here on are not in the first 64 KiB of the stream, which are literals. */
const FIRST_BLOCK = 300;

function rewrite(volume: MemoryVolume, block: number): void {
  randomBytes(PAGE_BYTES).copy(volume.content, block * PAGE_BYTES);
}

/** Rewrites a block so that the digest of the connection does not tell it from what it was. */
function forge(volume: MemoryVolume, block: number, digestSeed: bigint): void {
  const page = volume.content.subarray(block * PAGE_BYTES, (block + 1) * PAGE_BYTES);
  forgeBlock(page, randomBytes(PAGE_BYTES), digestSeed).copy(page);
}

/**
 * Migrates a guest whose pages are the blocks of the volume, or zero.
 * @param spoil changes the volume when the connection's digest seed is known and before anything is read.
 * @param damage changes a PATCH on its way.
 */
async function migrate(
  spoil: (volume: MemoryVolume, digestSeed: bigint) => void,
  damage: (patch: Buffer, attempt: number) => void = () => {},
): Promise<{ outcome: PipelineOutcome; stream: Uint8Array; patches: readonly Patch[] }> {
  const { volume, migration } = guest({ channels: 0, pages: 800, seed: 71, ownShare: 0 });
  const sessionKey = randomBytes(32);
  const pagesOf = new Map<number, number>();
  const patches: Patch[] = [];
  const outcome = await runPipeline({
    streams: [migration.main],
    volumes: [volume],
    ...indexOf([volume]),
    sessionKey,
    zstd: false,
    answer: SHUT,
    onDialed: (link) => {
      let asked: Hello | undefined;
      tamper(link, (frame) => {
        if (frame[0] === FRAME_PATCH) damage(frame, frame.readUInt8(12));
        return [frame];
      });
      watchLink(link, (frame) => {
        if (frame.type === FRAME_HELLO && asked === undefined) asked = frame.hello;
        else if (frame.type === FRAME_HELLO && asked !== undefined) {
          const { random, ordinal } = asked;
          const { version } = agree(asked, frame.hello);
          const keys = deriveConnectionKeys(sessionKey, random, frame.hello.random, ordinal, version);
          spoil(volume, keys.digestSeed);
        } else if (frame.type === FRAME_BATCH) pagesOf.set(frame.number, frame.pageCount);
        else if (frame.type === FRAME_PATCH)
          patches.push({
            batch: frame.number,
            attempt: frame.attempt,
            pages: frame.pageCount,
            of: pagesOf.get(frame.number) ?? 0,
          });
      });
    },
  });
  return { outcome, stream: migration.main, patches };
}

function expectDelivered({ source, target, received }: PipelineOutcome, stream: Uint8Array): void {
  expect(source.failure ?? target.failure).toBeUndefined();
  expect(Buffer.compare(received[0] as Buffer, stream)).toBe(0);
}

/** Changes the last byte of the last page. */
function damagePage(patch: Buffer): void {
  const at = patch.length - TAG_BYTES - 1;
  patch[at] = (patch[at] as number) ^ 0x01;
}

describe('a batch whose tag is wrong', () => {
  it('goes whole at the first attempt when no page differs by its digest', async () => {
    const { outcome, stream, patches } = await migrate((volume, digestSeed) =>
      forge(volume, FIRST_BLOCK, digestSeed),
    );
    expectDelivered(outcome, stream);
    expect(patches).toHaveLength(1);
    const [patch] = patches as [Patch];
    expect(patch).toMatchObject({ attempt: 1, pages: patch.of });
    expect(patch.of).toBeGreaterThan(1);
    expect(outcome.source.counters.resentPages).toBe(patch.of);
    expect(outcome.target.counters.resends).toBe(1);
  });

  it('goes whole at the second attempt when the first did not have all that was wrong', async () => {
    const { outcome, stream, patches } = await migrate((volume, digestSeed) => {
      // The digests tell every other block only.
      for (let block = FIRST_BLOCK; block < FIRST_BLOCK + 200; block += 2) {
        rewrite(volume, block);
        forge(volume, block + 1, digestSeed);
      }
    });
    expectDelivered(outcome, stream);
    const seconds = patches.filter(({ attempt }) => attempt === 2);
    expect(seconds.length).toBeGreaterThan(0);
    for (const { batch, pages, of } of seconds) {
      expect(pages).toBe(of);
      const first = patches.find((one) => one.batch === batch && one.attempt === 1) as Patch;
      expect(first.pages).toBeLessThan(of);
    }
    expect(outcome.source.counters.resentPages).toBe(patches.reduce((sum, { pages }) => sum + pages, 0));
    expect(outcome.target.counters.resends).toBe(patches.length);
  });

  it('goes whole at the second attempt when the first was damaged on its way', async () => {
    const { outcome, stream, patches } = await migrate(
      (volume) => rewrite(volume, FIRST_BLOCK),
      (patch, attempt) => {
        if (attempt === 1) damagePage(patch);
      },
    );
    expectDelivered(outcome, stream);
    expect(patches).toHaveLength(2);
    const [first, second] = patches as [Patch, Patch];
    expect(first).toMatchObject({ attempt: 1, pages: 1 });
    expect(second).toMatchObject({ batch: first.batch, attempt: 2, pages: first.of });
    expect(first.of).toBeGreaterThan(1);
  });

  it('ends the migration when both attempts were damaged, and QEMU has none of it', async () => {
    const { outcome, stream, patches } = await migrate((volume) => rewrite(volume, FIRST_BLOCK), damagePage);
    expect(outcome.target.failure).toMatchObject({ code: 'NASMIG_LINK_TAG' });
    expect(outcome.source.failure).toMatchObject({ code: 'NASMIG_LINK_PEER_ABORT' });
    expect(patches.map(({ attempt }) => attempt)).toEqual([1, 2]);
    const [received] = outcome.received as [Buffer];
    expect(received.length).toBeLessThan(FIRST_BLOCK * PAGE_BYTES);
    expect(Buffer.compare(received, stream.subarray(0, received.length))).toBe(0);
  });
});
