import { describe, expect, it } from 'vitest';
import { FRAME_GROWN, type GrowFields, MAX_OPEN_GROWS } from '../link/frame-types.ts';
import { RemoteBlockHashes } from './remote-block-hashes.ts';

const SEED = { hi: 1, lo: 2 };

function setUp() {
  const sent: GrowFields[] = [];
  return {
    sent,
    hashes: new RemoteBlockHashes(SEED),
    sender: { grow: (f: GrowFields) => void sent.push(f) },
  };
}

const grown = (firstBlock: number, hashes: Uint8Array) =>
  ({ type: FRAME_GROWN, volume: 0, firstBlock, hashes }) as const;

describe('RemoteBlockHashes', () => {
  it('asks when a connection is framed, and takes answers in any order', async () => {
    const { sent, hashes, sender } = setUp();
    const first = hashes.hashBlocks(0, 0, 1);
    const second = hashes.hashBlocks(0, 128, 2);
    expect(sent).toEqual([]);
    hashes.attach(sender);
    expect(sent).toEqual([
      { volume: 0, firstBlock: 0, blockCount: 1, seed: SEED },
      { volume: 0, firstBlock: 128, blockCount: 2, seed: SEED },
    ]);
    hashes.grown(grown(128, Buffer.from('ffffffff00000001' + '0000000200000003', 'hex')));
    hashes.grown(grown(0, Buffer.alloc(0)));
    expect(await second).toEqual({ count: 2, hi: Int32Array.of(-1, 2), lo: Int32Array.of(1, 3) });
    expect(await first).toBeUndefined();
  });

  it('has no more unanswered than the target takes', () => {
    const { sent, hashes, sender } = setUp();
    hashes.attach(sender);
    for (let i = 0; i < MAX_OPEN_GROWS + 5; i++) void hashes.hashBlocks(0, i * 128, 128);
    expect(sent).toHaveLength(MAX_OPEN_GROWS);
    hashes.grown(grown(0, Buffer.alloc(128 * 8)));
    expect(sent).toHaveLength(MAX_OPEN_GROWS + 1);
  });

  it('refuses an answer to nothing, a second one, and one of another length', () => {
    const { hashes, sender } = setUp();
    hashes.attach(sender);
    void hashes.hashBlocks(0, 0, 128);
    const bad = expect.objectContaining({ code: 'NASMIG_LINK_BAD_FRAME' });
    expect(() => hashes.grown(grown(128, Buffer.alloc(8)))).toThrow(bad);
    expect(() => hashes.grown(grown(0, Buffer.alloc(8)))).toThrow(bad);
    hashes.grown(grown(0, Buffer.alloc(128 * 8)));
    expect(() => hashes.grown(grown(0, Buffer.alloc(128 * 8)))).toThrow(bad);
  });

  it('lets nobody wait when its connection is gone', async () => {
    const { hashes, sender } = setUp();
    hashes.attach(sender);
    const asked = hashes.hashBlocks(0, 0, 128);
    hashes.detach({ grow: () => {} });
    hashes.detach(sender);
    expect(await asked).toBeUndefined();
    expect(await hashes.hashBlocks(0, 128, 128)).toBeUndefined();
  });
});
