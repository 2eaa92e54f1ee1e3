// ProcessMemory on machines made of directories: what is in /proc/mounts, in /proc/<pid>/cgroup, and in the cgroup's files.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CgroupsUnavailableError, ProcessMemory } from './cgroup.ts';

const PID = 4711;

let machine: string;

beforeEach(() => {
  machine = mkdtempSync(join(tmpdir(), 'nasmig-cgroup-'));
});
afterEach(() => rmSync(machine, { recursive: true, force: true }));

function put(name: string, text: string): void {
  const path = join(machine, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

const read = (name: string): string => readFileSync(join(machine, name), 'utf8').trim();
const memoryOf = (pid: number): Promise<ProcessMemory> => ProcessMemory.of(pid, join(machine, 'proc'));

/** As Debian 12 and 13 boot. */
function bootWithV2(controllers: string): void {
  put('proc/mounts', `cgroup2 ${machine}/cgroup cgroup2 rw,nosuid,nodev,noexec 0 0\n`);
  put('cgroup/cgroup.controllers', `${controllers}\n`);
  put(`proc/${PID}/cgroup`, '0::/nasmig/r1/a-sidecar-1\n');
}

describe('cgroup v2', () => {
  test('limits memory and leaves no way into swap, and gives both back', async () => {
    bootWithV2('cpuset cpu io memory pids');
    put('cgroup/nasmig/r1/a-sidecar-1/memory.current', '104857600\n');
    put('cgroup/nasmig/r1/a-sidecar-1/memory.max', 'max\n');
    put('cgroup/nasmig/r1/a-sidecar-1/memory.swap.max', 'max\n');
    const memory = await memoryOf(PID);
    expect(await memory.usedBytes()).toBe(104857600);
    await memory.limit(62914560);
    expect(read('cgroup/nasmig/r1/a-sidecar-1/memory.max')).toBe('62914560');
    expect(read('cgroup/nasmig/r1/a-sidecar-1/memory.swap.max')).toBe('0');
    await memory.unlimit();
    expect(read('cgroup/nasmig/r1/a-sidecar-1/memory.max')).toBe('max');
    expect(read('cgroup/nasmig/r1/a-sidecar-1/memory.swap.max')).toBe('max');
  });

  test('a kernel that does not count swap', async () => {
    bootWithV2('memory');
    put('cgroup/nasmig/r1/a-sidecar-1/memory.max', 'max\n');
    const memory = await memoryOf(PID);
    await memory.limit(4096);
    expect(read('cgroup/nasmig/r1/a-sidecar-1/memory.max')).toBe('4096');
    expect(existsSync(join(machine, 'cgroup/nasmig/r1/a-sidecar-1/memory.swap.max'))).toBe(false);
    await memory.unlimit();
    expect(read('cgroup/nasmig/r1/a-sidecar-1/memory.max')).toBe('max');
  });

  test('without the memory controller there is nothing to limit', async () => {
    bootWithV2('cpu pids');
    await expect(memoryOf(PID)).rejects.toThrow(CgroupsUnavailableError);
  });
});

describe('cgroup v1', () => {
  beforeEach(() => {
    put(
      'proc/mounts',
      [
        `cgroup ${machine}/cpuacct cgroup rw,cpuacct 0 0`,
        `cgroup ${machine}/memory cgroup rw,memory 0 0`,
        `cgroup2 ${machine}/unified cgroup2 rw 0 0`,
      ].join('\n'),
    );
    put('unified/cgroup.controllers', '\n');
  });

  test('the memory hierarchy counts, also beside a v2 without controllers', async () => {
    put(`proc/${PID}/cgroup`, '4:memory:/nasmig/r1/a-sidecar-1\n2:cpuacct:/elsewhere\n0::/unified-path\n');
    put('memory/nasmig/r1/a-sidecar-1/memory.usage_in_bytes', '8192\n');
    put('memory/nasmig/r1/a-sidecar-1/memory.limit_in_bytes', '9223372036854771712\n');
    const memory = await memoryOf(PID);
    expect(await memory.usedBytes()).toBe(8192);
    await memory.limit(4096);
    expect(read('memory/nasmig/r1/a-sidecar-1/memory.limit_in_bytes')).toBe('4096');
    await memory.unlimit();
    expect(read('memory/nasmig/r1/a-sidecar-1/memory.limit_in_bytes')).toBe('-1');
  });

  test('one hierarchy of several controllers', async () => {
    put(`proc/${PID}/cgroup`, '5:name=memory-like:/wrong\n4:cpu,memory,pids:/several\n');
    put('memory/several/memory.usage_in_bytes', '1\n');
    expect(await (await memoryOf(PID)).usedBytes()).toBe(1);
  });

  test('a process in no memory cgroup', async () => {
    put(`proc/${PID}/cgroup`, '2:cpuacct:/nasmig/r1/a-sidecar-1\n0::/\n');
    await expect(memoryOf(PID)).rejects.toThrow(/process 4711 is in no memory cgroup/);
  });
});

test('a machine without cgroups', async () => {
  put('proc/mounts', '/dev/vda / ext4 rw 0 0\n');
  await expect(memoryOf(PID)).rejects.toThrow(CgroupsUnavailableError);
});
