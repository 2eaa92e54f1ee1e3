import { expect, test } from 'vitest';
import { parseCgroupMounts } from './cgroup.ts';

test('cgroup v1: the hierarchies that count CPU and memory, also where one mount has several controllers', () => {
  const mounts = [
    'tmpfs /sys/fs/cgroup tmpfs rw 0 0',
    'cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0',
    'cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0',
    'cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0',
  ].join('\n');
  expect(parseCgroupMounts(mounts)).toEqual({
    version: 1,
    cpuacct: '/sys/fs/cgroup/cpu,cpuacct',
    memory: '/sys/fs/cgroup/memory',
  });
});

test('cgroup v2 alone, and hybrid without the v1 controllers that are needed', () => {
  expect(parseCgroupMounts('cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n')).toEqual({
    version: 2,
    unified: '/sys/fs/cgroup',
  });
  const hybrid =
    'cgroup /sys/fs/cgroup/cpuacct cgroup rw,cpuacct 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0';
  expect(parseCgroupMounts(hybrid)).toEqual({ version: 2, unified: '/sys/fs/cgroup/unified' });
});

test('neither', () => {
  expect(parseCgroupMounts('/dev/vda / ext4 rw 0 0\n')).toBeNull();
  // A controller named in the path is not one in the options.
  expect(parseCgroupMounts('cgroup /sys/fs/cgroup/memory cgroup rw,cpuset 0 0')).toBeNull();
});
