import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import {
  ContainerConfigError,
  containerProcess,
  environmentOf,
  inDebianRoot,
  type VolumeOnNode,
} from './container-spec.ts';

const IMAGE = { entrypoint: ['/bin/program', '--all'], env: { FROM_IMAGE: '1', BOTH: 'image' }, files: [] };
const POD: V1Pod = {
  metadata: { namespace: 'shop', name: 'virt-launcher-db', uid: 'u-1', labels: { app: 'db' } },
  spec: { nodeName: 'source', containers: [], securityContext: { runAsUser: 107, runAsGroup: 107 } },
};
const VOLUMES = new Map<string, VolumeOnNode>([
  ['public', { kind: 'directory', path: '/node/public' }],
  ['rootdisk', { kind: 'disk-image', path: '/node/disk' }],
]);

const processOf = (container: Partial<V1Container>) =>
  containerProcess(POD, { name: 'c', ...container }, IMAGE, VOLUMES);

describe('containerProcess', () => {
  it('takes command, environment, user and limit from container, then pod, then image', () => {
    const spec = processOf({
      args: ['--name', '$(POD)', '$$(POD)', '$(UNKNOWN)'],
      env: [
        { name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
        { name: 'BOTH', value: 'container' },
      ],
      resources: { limits: { memory: '256Mi' } },
      securityContext: { runAsGroup: 108 },
    });
    expect(spec.argv).toEqual([
      '/bin/program',
      '--all',
      '--name',
      'virt-launcher-db',
      '$(POD)',
      '$(UNKNOWN)',
    ]);
    expect(spec.env).toEqual({ FROM_IMAGE: '1', BOTH: 'container', POD: 'virt-launcher-db' });
    expect(spec.user).toEqual({ uid: 107, gid: 108 });
    expect(spec.memoryLimitBytes).toBe(256 * 2 ** 20);
  });

  it('replaces the entry point by command', () => {
    expect(processOf({ command: ['/bin/other'] }).argv).toEqual(['/bin/other']);
  });

  it('shows a volume where it is mounted, a disk as disk.img in it, and nothing else', () => {
    const { binds } = processOf({
      volumeMounts: [
        { name: 'public', mountPath: '/var/run/kubevirt' },
        { name: 'rootdisk', mountPath: '/volumes/rootdisk', readOnly: true },
      ],
    });
    expect(binds).toEqual([
      { from: '/node/public', to: '/run/kubevirt', readOnly: false },
      { from: '/node/disk', to: '/volumes/rootdisk/disk.img', readOnly: true },
    ]);
  });

  it.each<[string, Partial<V1Container>]>([
    ['a volume that is not there', { volumeMounts: [{ name: 'other', mountPath: '/x' }] }],
    ['a sub-path', { volumeMounts: [{ name: 'public', mountPath: '/x', subPath: 'y' }] }],
    ['root where root is forbidden', { securityContext: { runAsUser: 0, runAsNonRoot: true } }],
    [
      'a variable from a secret',
      { env: [{ name: 'A', valueFrom: { secretKeyRef: { key: 'k', name: 's' } } }] },
    ],
    ['variables from a ConfigMap', { envFrom: [{ configMapRef: { name: 'm' } }] }],
  ])('refuses %s', (_what, container) => {
    expect(() => processOf(container)).toThrow(ContainerConfigError);
  });
});

describe('environmentOf', () => {
  it('knows the fields of the downward API that injection uses, labels, and where the pod is', () => {
    const field = (name: string, fieldPath: string) => ({ name, valueFrom: { fieldRef: { fieldPath } } });
    const env = environmentOf(POD, {
      name: 'c',
      env: [
        field('A', 'metadata.namespace'),
        field('B', 'metadata.uid'),
        field('C', "metadata.labels['app']"),
        field('D', 'spec.nodeName'),
      ],
    });
    expect(env).toEqual({ A: 'shop', B: 'u-1', C: 'db', D: 'source' });
  });
});

describe('inDebianRoot', () => {
  it.each([
    ['/var/run/kubevirt', '/run/kubevirt'],
    ['/var/run', '/run'],
    ['/var/running', '/var/running'],
    ['/run/x', '/run/x'],
  ])('%s is %s', (path, there) => {
    expect(inDebianRoot(path)).toBe(there);
  });
});
