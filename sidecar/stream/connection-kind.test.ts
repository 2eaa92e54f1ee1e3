import { describe, expect, it } from 'vitest';
import { CONNECTION_KIND_BYTES, connectionKind } from './connection-kind.ts';

const kind = (...bytes: number[]) => connectionKind(Uint8Array.from(bytes));

describe('connectionKind', () => {
  it('knows every beginning that QEMU has', () => {
    expect(kind(0x51, 0x45, 0x56, 0x4d)).toBe('main');
    expect(kind(0x11, 0x22, 0x33, 0x44)).toBe('multifd');
    expect(kind(0x16, 0x03, 0x01, 0x02)).toBe('tls');
    expect(kind(0x08, 0x00, 0x00, 0x09)).toBe('postcopy-recovery');
    expect(kind(0x00, 0x00, 0x00, 0x00)).toBe('unknown'); // preempt channel: a RAM record
  });

  it('asks for more only while two answers are possible', () => {
    expect(kind()).toBe('more-bytes-needed');
    expect(kind(0x51)).toBe('more-bytes-needed');
    expect(kind(0x51, 0x45, 0x56)).toBe('more-bytes-needed');
    expect(kind(0x11, 0x22, 0x33)).toBe('more-bytes-needed');
    expect(kind(0x16)).toBe('more-bytes-needed');
    expect(kind(0x16, 0x03)).toBe('tls');
    expect(kind(0x08)).toBe('more-bytes-needed');
    expect(kind(0x08, 0x00)).toBe('postcopy-recovery');
    expect(kind(0x00)).toBe('unknown');
    expect(kind(0x51, 0x44)).toBe('unknown');
    expect(kind(0x16, 0x02)).toBe('unknown');
  });

  it('decides with four bytes, whatever they are, and ignores what follows', () => {
    for (let byte = 0; byte < 256; byte++) {
      for (const rest of [0x00, 0x03, 0x22, 0x45]) {
        expect(connectionKind(new Uint8Array(CONNECTION_KIND_BYTES).fill(rest).fill(byte, 0, 1))).not.toBe(
          'more-bytes-needed',
        );
      }
    }
    expect(kind(0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 3)).toBe('main');
  });
});
