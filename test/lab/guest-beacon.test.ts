import { describe, expect, it } from 'vitest';
import { encodeCommand, FrameSplitter, GuestFrameError, parseBeacon } from './guest-beacon.ts';

function beaconFrame(): Buffer {
  const frame = Buffer.alloc(168);
  frame.fill(0xff, 0, 6);
  frame.writeUInt16BE(0x88b5, 12);
  frame.write('NMGB', 14);
  frame.writeUInt16BE(1, 18);
  frame.writeUInt16BE(3, 20);
  frame.writeBigUInt64BE(77n, 22);
  frame.writeBigUInt64BE(1_500_000n, 30);
  frame.writeBigUInt64BE(5n, 38);
  frame.writeBigUInt64BE(2n, 46);
  frame.writeBigUInt64BE(4096n, 54);
  frame.writeUInt32BE(9, 62);
  frame.writeUInt32BE(8, 66);
  frame.writeUInt16BE(6, 70);
  frame.write('page 1', 72);
  return frame;
}

function framed(frame: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(frame.length);
  return Buffer.concat([length, frame]);
}

describe('parseBeacon', () => {
  it('reads every field at its place', () => {
    expect(parseBeacon(beaconFrame())).toEqual({
      ready: true,
      loadRunning: true,
      counter: 77,
      guestClockMs: 1.5,
      verifiedSlices: 5,
      failedSlices: 2,
      rewrittenBytes: 4096,
      acceptedCommand: 9,
      finishedCommand: 8,
      failure: 'page 1',
    });
  });

  it.each([
    ['another ethertype', (frame: Buffer) => frame.writeUInt16BE(0x0806, 12)],
    ['another magic', (frame: Buffer) => frame.write('NMGC', 14)],
    ['another version', (frame: Buffer) => frame.writeUInt16BE(2, 18)],
  ])('takes a frame of %s for something else', (_what, change) => {
    const frame = beaconFrame();
    change(frame);
    expect(parseBeacon(frame)).toBeNull();
  });

  it('takes a frame that is too short for something else', () => {
    expect(parseBeacon(beaconFrame().subarray(0, 167))).toBeNull();
  });

  it('does not believe a text length beyond its field', () => {
    const frame = beaconFrame();
    frame.writeUInt16BE(0xffff, 70);
    expect(parseBeacon(frame)?.failure).toHaveLength(96);
  });
});

describe('encodeCommand', () => {
  it('writes length, header, number, kind and arguments', () => {
    const bytes = encodeCommand(3, {
      kind: 'load',
      anonymousBytesPerSecond: 1000,
      fileBytesPerSecond: 2 ** 33,
    });
    expect(bytes.toString('hex')).toBe(
      `0000003c${'ff'.repeat(6)}020000000000${'88b5'}${'4e4d4743'}00000003${'0001'}00000000000003e80000000200000000${'00'.repeat(20)}`,
    );
  });

  it('numbers the kinds as guest-init does', () => {
    const kindOf = (bytes: Buffer): number => bytes.readUInt16BE(4 + 22);
    expect(kindOf(encodeCommand(1, { kind: 'rewriteFiles', bytes: 1, seed: 1 }))).toBe(2);
    expect(kindOf(encodeCommand(1, { kind: 'verifyAll' }))).toBe(3);
  });
});

describe('FrameSplitter', () => {
  it('finds the same frames in any cut', () => {
    const stream = Buffer.concat([framed(beaconFrame()), framed(Buffer.from('abc')), framed(beaconFrame())]);
    for (let cut = 1; cut < 20; cut++) {
      const lengths: number[] = [];
      const splitter = new FrameSplitter((frame) => lengths.push(frame.length));
      for (let offset = 0; offset < stream.length; offset += cut)
        splitter.push(stream.subarray(offset, offset + cut));
      expect(lengths).toEqual([168, 3, 168]);
    }
  });

  it.each([0, 72 * 1024 + 1, 0xffffffff])('refuses a frame of %d bytes', (length) => {
    const splitter = new FrameSplitter(() => undefined);
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(length);
    expect(() => splitter.push(bytes)).toThrow(GuestFrameError);
  });
});
