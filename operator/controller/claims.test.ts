import { describe, expect, it } from 'vitest';
import { serverOfVolume } from './claims.ts';

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
