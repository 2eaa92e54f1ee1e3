import { describe, expect, it } from 'vitest';
import { leftAtSource, madeByVirtHandler } from './leavings.ts';

const STREAM = 'a-49152-source.sock';
const RPC = 'a-source.sock';

describe('sockets that virt-handler made', () => {
  it('are those at the names, and where a sidecar has taken a name, the one that it put aside', () => {
    const before = new Map(Object.entries({ [STREAM]: 1, [RPC]: 2 }));
    const taken = new Map(Object.entries({ [STREAM]: 7, [`${STREAM}.orig`]: 1, [RPC]: 2 }));
    expect(madeByVirtHandler(before, before)).toEqual(new Set([1, 2]));
    expect(madeByVirtHandler(before, taken)).toEqual(new Set([1, 2]));
    expect(madeByVirtHandler(taken, taken)).toEqual(new Set([1, 2]));
  });
});

describe('what is left at the source', () => {
  const made = new Set([1, 2]);

  it("is not a killed proxy's own socket", () => {
    expect(leftAtSource(new Map([[STREAM, 1]]), 'source-proxy-killed', made)).toEqual([]);
    expect(leftAtSource(new Map([[RPC, 2]]), 'source-libvirt-connection-killed', made)).toEqual([]);
  });

  it('is a socket of ours, by whatever name', () => {
    expect(leftAtSource(new Map([[STREAM, 7]]), 'source-proxy-killed', made)).toEqual([STREAM]);
    expect(leftAtSource(new Map([[`${STREAM}.orig`, 1]]), 'source-proxy-killed', made)).toEqual([
      `${STREAM}.orig`,
    ]);
  });

  it('is every socket when no proxy of the source was killed', () => {
    expect(leftAtSource(new Map([[STREAM, 1]]), 'target-proxy-killed', made)).toEqual([STREAM]);
  });
});
