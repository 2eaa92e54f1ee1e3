import { describe, expect, it } from 'vitest';
import { readVmi, type Vmi } from '../kubevirt/objects.ts';
import { driverOfVolume } from './claims.ts';
import { usableVolumes } from './volumes.ts';

const shared = new Set(['nfs', 'nfs.csi.k8s.io']);

function vmi(volume: object, status: object = {}): Vmi {
  const read = readVmi({
    metadata: { name: 'db', namespace: 'shop' },
    ...({
      spec: { volumes: [{ name: 'disk', ...volume }] },
      status: {
        volumeStatus: [
          {
            name: 'disk',
            persistentVolumeClaimInfo: {
              claimName: 'claim',
              accessModes: ['ReadWriteMany'],
              volumeMode: 'Filesystem',
            },
            ...status,
          },
        ],
      },
    } as object),
  });
  if (read === undefined) throw new Error('a test VMI that is not one');
  return read;
}

const claim = { persistentVolumeClaim: { claimName: 'claim' } };
const info = (change: object) => ({
  persistentVolumeClaimInfo: {
    claimName: 'claim',
    accessModes: ['ReadWriteMany'],
    volumeMode: 'Filesystem',
    ...change,
  },
});
const nfs = () => 'nfs';

describe('usable volumes', () => {
  it('are shared raw file systems, of claims and of data volumes', () => {
    expect(usableVolumes(vmi(claim), undefined, nfs, shared)).toEqual({ usable: ['disk'], refused: [] });
    expect(usableVolumes(vmi({ dataVolume: { name: 'claim' } }), undefined, nfs, shared).usable).toEqual([
      'disk',
    ]);
    expect(usableVolumes(vmi(claim, info({ volumeMode: undefined })), undefined, nfs, shared).usable).toEqual(
      ['disk'],
    );
  });

  it.each([
    ['a container disk', { containerDisk: {} }, {}, 'not on a PersistentVolumeClaim'],
    ['a ReadWriteOnce claim', claim, info({ accessModes: ['ReadWriteOnce'] }), 'ReadWriteOnce'],
    ['a block claim', claim, info({ volumeMode: 'Block' }), 'Block'],
    ['a hot-plugged claim', claim, { hotplugVolume: {} }, 'hot-plugged'],
    ['a hot-pluggable data volume', { dataVolume: { name: 'claim', hotpluggable: true } }, {}, 'hot-plugged'],
    ['a claim KubeVirt does not report', claim, { persistentVolumeClaimInfo: 'nonsense' }, 'does not report'],
  ])('are not %s', (_what, volume, status, why) => {
    const { usable, refused } = usableVolumes(vmi(volume, status), undefined, nfs, shared);
    expect(usable).toEqual([]);
    expect(refused[0]?.why).toContain(why);
  });

  it('are on a driver that is known to be shared', () => {
    expect(usableVolumes(vmi(claim), undefined, () => 'rbd.csi.ceph.com', shared).refused[0]?.why).toContain(
      'rbd.csi.ceph.com',
    );
    expect(usableVolumes(vmi(claim), undefined, () => undefined, shared).refused[0]?.why).toContain(
      'not bound',
    );
  });

  it('are those that were asked for, and it is said when one is not there', () => {
    expect(usableVolumes(vmi(claim), ['other'], nfs, shared)).toEqual({
      usable: [],
      refused: [{ name: 'other', why: 'the VM has no such volume' }],
    });
  });
});

describe('driver of a volume', () => {
  it('is nfs in-tree, the CSI driver, or unknown', () => {
    expect(driverOfVolume({ spec: { nfs: { server: 'nas', path: '/' } } })).toBe('nfs');
    expect(driverOfVolume({ spec: { csi: { driver: 'nfs.csi.k8s.io', volumeHandle: 'x' } } })).toBe(
      'nfs.csi.k8s.io',
    );
    expect(driverOfVolume({ spec: { hostPath: { path: '/' } } })).toBeUndefined();
  });
});
