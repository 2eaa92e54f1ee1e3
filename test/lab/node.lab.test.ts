// Processes in a node: their namespaces, user, limits and end.

import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { pathExists } from './build-cache.ts';
import { Lab } from './lab.ts';
import { QEMU_OWNER } from './node.ts';
import { ProcessEndedError, ProcessNotReadyError } from './node-process.ts';
import { ensureRoot } from './roots.ts';

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.start();
});
afterAll(() => lab.close());

test('a mount made by one process of a node is there for its others, in every root, and for nobody else', async () => {
  const root = await ensureRoot('trixie');
  await mkdir(lab.source.file('mounted'));
  await lab.source.run(['mount', '-t', 'tmpfs', 'tmpfs', lab.source.file('mounted')], { root });
  await lab.source.run(['sh', '-c', `echo inside > ${lab.source.file('mounted/file')}`]);
  expect(await lab.source.run(['cat', lab.source.file('mounted/file')], { root })).toBe('inside\n');
  expect(await pathExists(lab.source.file('mounted/file'))).toBe(false);
  await expect(lab.target.run(['cat', lab.source.file('mounted/file')])).rejects.toThrow('No such file');
  expect(await readFile('/proc/mounts', 'utf8')).not.toContain(lab.run.path);
});

test('a root is written to without changing its template, and each node has its own', async () => {
  const root = await ensureRoot('trixie');
  await lab.source.run(['sh', '-c', 'echo x > /etc/written-by-source'], { root });
  expect(await pathExists(join(root, 'etc/written-by-source'))).toBe(false);
  await expect(lab.target.run(['cat', '/etc/written-by-source'], { root })).rejects.toThrow('No such file');
});

test('a process of user 107 has that user, no groups, no capabilities and cannot get any', async () => {
  const process = await lab.source.spawn({
    name: 'who',
    argv: ['cat', '/proc/self/status'],
    user: QEMU_OWNER,
  });
  expect(await process.ended).toEqual({ code: 0, signal: null });
  const status = await process.logTail();
  expect(status).toMatch(/^Uid:\t107\t107\t107\t107$/m);
  expect(status).toMatch(/^Gid:\t107\t107\t107\t107$/m);
  expect(status).toMatch(/^Groups:\t\s*$/m);
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
    expect(status).toMatch(new RegExp(`^${set}:\t0{16}$`, 'm'));
  expect(status).toMatch(/^NoNewPrivs:\t1$/m);
});

test('nodes see their own networks alone', async () => {
  const names = async (node: typeof lab.source) => [...(await node.interfaceCounters()).keys()].sort();
  expect(await names(lab.source)).toEqual(['lo', 'mig0', 'nas0']);
  expect(await names(lab.target)).toEqual(['lo', 'mig0', 'nas0']);
  expect(await names(lab.nas.node)).toEqual(['lo', 'source0', 'target0']);
});

test('the environment is what was given, and nothing of ours', async () => {
  const process = await lab.source.spawn({ name: 'env', argv: ['env'], env: { GREETING: 'hello' } });
  await process.ended;
  const names = (await process.logTail()).split('\n').map((line) => line.split('=')[0]);
  expect(names).toContain('GREETING');
  expect(names).not.toContain('HOME');
});

test('CPU seconds are counted for the process and what it starts, and stay readable', async () => {
  const burn = 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done';
  const process = await lab.source.spawn({ name: 'burner', argv: ['sh', '-c', `(${burn}) & wait`] });
  await process.ended;
  const seconds = await process.cgroup.cpuSeconds();
  expect(seconds).toBeGreaterThan(0.05);
  expect(seconds).toBeLessThan(30);
  // The run's figure has it too.
  expect(await lab.cpuSeconds()).toBeGreaterThan(seconds);
});

test('a process over its memory limit is ended by the kernel', async () => {
  const process = await lab.source.spawn({
    name: 'glutton',
    argv: [
      globalThis.process.execPath,
      '-e',
      'const kept = []; for (let i = 0; i < 400; i++) kept.push(Buffer.alloc(1 << 20, 1));',
    ],
    memoryLimitBytes: 128 << 20,
  });
  expect(await process.endsWithin(30_000)).toEqual({ code: null, signal: 'SIGKILL' });
  expect(await process.cgroup.peakMemoryBytes()).toBeLessThanOrEqual(129 << 20);
});

test('stop() ends a process that ignores SIGTERM, one that is frozen, and what they started', async () => {
  const stubborn = await lab.source.spawn({
    name: 'stubborn',
    argv: ['sh', '-c', 'trap "" TERM; echo up; sleep 1000 & wait; sleep 1000'],
  });
  await stubborn.waitForOutput(/up/, 5_000);
  expect(await stubborn.stop(200)).toEqual({ code: null, signal: 'SIGKILL' });
  const frozen = await lab.source.spawn({ name: 'frozen', argv: ['sleep', '1000'] });
  frozen.signal('SIGSTOP');
  expect(await frozen.stop(2_000)).toEqual({ code: null, signal: 'SIGTERM' });
  expect(await stubborn.cgroup.pids()).toEqual([]);
});

test('waiting for a process that ends, or does nothing, fails with the end of its log', async () => {
  const failing = await lab.source.spawn({
    name: 'failing',
    argv: ['sh', '-c', 'echo because of this >&2; exit 3'],
  });
  const ended = failing.waitForOutput(/never/, 5_000);
  await expect(ended).rejects.toThrow(ProcessEndedError);
  await expect(ended).rejects.toThrow(/exit code 3[\s\S]*because of this/);
  const idle = await lab.source.spawn({ name: 'idle', argv: ['sleep', '1000'] });
  await expect(idle.waitForOutput(/never/, 50)).rejects.toThrow(ProcessNotReadyError);
  await expect(lab.source.spawn({ name: 'idle', argv: ['true'] })).rejects.toThrow(
    'already runs a process named idle',
  );
});

test('a directory of the host can be shown in a root', async () => {
  const root = await ensureRoot('trixie');
  const directory = join(lab.run.bulkPath, 'shown');
  await mkdir(directory);
  await writeFile(join(directory, 'file'), 'shown');
  await lab.source.bindIntoRoot(root, directory);
  expect(await lab.source.run(['cat', join(directory, 'file')], { root })).toBe('shown');
  expect((await stat(join(directory, 'file'))).size).toBe(5);
});
