import type { V1PersistentVolume, V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { Claims, serverOfVolume } from './claims.ts';

describe('server of a volume', () => {
  it('is the NFS server, however it is written', () => {
    expect(serverOfVolume({ spec: { nfs: { server: 'NAS.example.org.', path: '/a' } } }, 'nfs')).toBe(
      'nas.example.org',
    );
    const csi = {
      driver: 'nfs.csi.k8s.io',
      volumeHandle: 'h',
      volumeAttributes: { server: '10.0.0.9', share: '/a' },
    };
    expect(serverOfVolume({ spec: { csi } }, 'nfs.csi.k8s.io')).toBe('10.0.0.9');
  });

  it('is one for all volumes of a driver that names none', () => {
    const csi = { driver: 'efs.csi.aws.com', volumeHandle: 'fs-1' };
    expect(serverOfVolume({ spec: { csi } }, 'efs.csi.aws.com')).toBe('driver efs.csi.aws.com');
  });
});

describe('claims', () => {
  const shared = new Set(['nfs']);
  const nfs: V1PersistentVolume = { spec: { nfs: { server: 'nas-1', path: '/a' } } };
  const bound = { accessModes: ['ReadWriteMany'], volumeMode: 'Filesystem', volumeName: 'pv' };

  function claims(spec: V1PersistentVolumeClaim['spec'] | undefined, volume?: V1PersistentVolume): Claims {
    return new Claims({
      claims: new Map(spec === undefined ? [] : [['shop/c', { spec }]]),
      volumes: new Map(volume === undefined ? [] : [['pv', volume]]),
    });
  }

  it('have driver and server of their volume, when both are known', () => {
    const known = claims(bound, nfs);
    expect(known.driverOf('shop', 'c')).toBe('nfs');
    expect(known.serverOf('shop', 'c')).toBe('nas-1');
    for (const other of [claims(undefined, nfs), claims(bound), claims({ ...bound, volumeName: '' }, nfs)]) {
      expect(other.driverOf('shop', 'c')).toBeUndefined();
      expect(other.serverOf('shop', 'c')).toBeUndefined();
    }
    expect(known.driverOf('elsewhere', 'c')).toBeUndefined();
  });

  it.each([
    [
      'one node alone writes it',
      { ...bound, accessModes: ['ReadWriteOnce'] },
      nfs,
      'access mode ReadWriteOnce',
    ],
    ['nobody says who writes it', { volumeName: 'pv' }, nfs, 'access mode unknown'],
    ['it is a block device', { ...bound, volumeMode: 'Block' }, nfs, 'volume mode Block'],
    [
      'its driver is no shared file system',
      bound,
      { spec: { csi: { driver: 'local', volumeHandle: '' } } },
      'driver local',
    ],
    [
      'its volume has no driver that we know',
      bound,
      { spec: { hostPath: { path: '/x' } } },
      'driver unknown',
    ],
  ])('are not shared when %s', (_why, spec, volume, said) => {
    expect(claims(spec, volume).notShared('shop', 'c', shared)).toBe(said);
  });

  it('may be shared as long as nothing that is known says otherwise', () => {
    for (const one of [
      claims(bound, nfs),
      // Not in the cache yet; not bound yet; bound to what is not in the cache yet.
      claims(undefined),
      claims({ accessModes: ['ReadWriteMany'] }),
      claims(bound),
    ])
      expect(one.notShared('shop', 'c', shared)).toBeUndefined();
  });
});
