// Names on which virt-handler, libvirt and the interposer agree, and which ones are recognised as leavings.

import { describe, expect, it } from 'vitest';
import { recognizeLeaving, socketNames, temporaryName } from './socket-names.ts';

const UID = '0d6b5a1e-3c44-4e0a-9a53-5c1f8f3a9b01';

describe('socketNames', () => {
  it('are those of KubeVirt', () => {
    expect(socketNames(UID)).toEqual({
      stream: `${UID}-49152-source.sock`,
      rpc: `${UID}-source.sock`,
      original: `${UID}-49152-source.sock.orig`,
      mark: `${UID}-49152-source.sock.nasmig`,
    });
  });

  it.each(['', 'abc', '..', `../${UID}`, `${UID}/x`, UID.toUpperCase(), `${UID}\n`, `${UID}\0`])(
    'refuses %j',
    (uid) => {
      expect(() => socketNames(uid)).toThrow(
        expect.objectContaining({ code: 'NASMIG_MIGRATION_UID_INVALID' }),
      );
    },
  );
});

describe('recognizeLeaving', () => {
  it('knows its own', () => {
    const { original, mark } = socketNames(UID);
    expect(recognizeLeaving(original)).toEqual({ kind: 'swap', migrationUid: UID });
    expect(recognizeLeaving(mark)).toEqual({ kind: 'swap', migrationUid: UID });
    const temporary = temporaryName('0123');
    expect(recognizeLeaving(temporary)).toEqual({ kind: 'temporary', name: temporary });
  });

  it.each([
    `${UID}-49152-source.sock`,
    `${UID}-source.sock`,
    `${UID}-source.sock.orig`,
    `${UID}-49153-source.sock`,
    `${UID}-49153-source.sock.orig`,
    '-49152-source.sock.orig',
    'x-49152-source.sock.nasmig',
    'nasmig-1',
  ])('leaves %s alone', (name) => {
    expect(recognizeLeaving(name)).toBeUndefined();
  });
});
