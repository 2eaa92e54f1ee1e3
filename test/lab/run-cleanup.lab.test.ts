// However a run ends, nothing of it is left, and nothing of another run is touched.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, test } from 'vitest';
import { CACHE_DIR, pathExists } from './build-cache.ts';
import { detectCgroups, listRunCgroups, ProcessCgroup } from './cgroup.ts';
import { Lab } from './lab.ts';
import { listRunNetworks } from './network.ts';
import { removeRun, sweepStaleRuns } from './run-cleanup.ts';
import { RUNS_DIRECTORY, type RunRecord, runPath } from './run-directory.ts';
import { until } from './socket-ends.ts';

/** What of a run is still there. */
async function remains(id: string): Promise<string[]> {
  const left: string[] = [];
  if (await pathExists(runPath(id))) left.push('run directory');
  if (await pathExists(join(CACHE_DIR, 'lab-runs', id))) left.push('bulk directory');
  if ((await listRunNetworks()).includes(id)) left.push('network namespaces');
  if ((await listRunCgroups(await detectCgroups())).includes(id)) left.push('cgroups');
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (commandLine.includes(runPath(id))) left.push(`process ${pid}: ${commandLine.replaceAll('\0', ' ')}`);
  }
  return left;
}

/** A lab in a process of its own, with a disk mounted and a process that ignores SIGTERM. */
async function startLabProcess(): Promise<{ process: ChildProcess; id: string }> {
  const program = `
    import { Lab } from '${import.meta.dirname}/lab.ts';
    const lab = await Lab.start();
    await lab.nas.addFile('disk.img', Buffer.alloc(1 << 20));
    await lab.mountDisk('source', 'disk.img');
    await lab.source.spawn({ name: 'stubborn', argv: ['sh', '-c', 'trap "" TERM; while :; do sleep 1000; done', lab.run.path] });
    console.log('started ' + lab.run.id);
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of createInterface({ input: child.stdout })) {
    const id = /^started (\w+)$/.exec(line)?.[1];
    if (id !== undefined) return { process: child, id };
  }
  throw new Error('the lab process ended before it had started its lab');
}

test.each([
  { signal: 'SIGINT', code: 130 },
  { signal: 'SIGTERM', code: 143 },
] as const)('$signal: the lab is gone before its process ends with $code', async ({ signal, code }) => {
  const { process: child, id } = await startLabProcess();
  expect((await remains(id)).length).toBeGreaterThan(4);
  child.kill(signal);
  const [exitCode] = await once(child, 'exit');
  expect(exitCode).toBe(code);
  expect(await remains(id)).toEqual([]);
});

test('SIGKILL: the guardian removes it', async () => {
  const { process: child, id } = await startLabProcess();
  child.kill('SIGKILL');
  await once(child, 'exit');
  await until('the run is removed', async () => (await remains(id)).length === 0);
});

test('a run whose owner and guardian are dead is swept by the next lab; a living one is not', async () => {
  const alive = await Lab.start();
  const orphan = await startLabProcess();
  const guardians: number[] = [];
  for (const pid of await readdir('/proc')) {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (commandLine.startsWith('sh\0-c\0read line') && commandLine.includes(orphan.id))
      guardians.push(Number(pid));
  }
  expect(guardians).toHaveLength(1);
  for (const pid of guardians) process.kill(pid, 'SIGKILL');
  orphan.process.kill('SIGKILL');
  await once(orphan.process, 'exit');
  expect((await remains(orphan.id)).length).toBeGreaterThan(4);

  const next = await Lab.start();
  expect(await remains(orphan.id)).toEqual([]);
  expect(await alive.source.run(['echo', 'alive'])).toBe('alive\n');
  await next.close();
  await alive.close();
  expect(await remains(alive.run.id)).toEqual([]);
  expect(await remains(next.run.id)).toEqual([]);
});

test('two labs at once have the same addresses and see nothing of each other', async () => {
  const [one, two] = await Promise.all([Lab.start({ linkMbit: 100 }), Lab.start({ linkMbit: 50 })]);
  try {
    await one.nas.addFile('disk.img', Buffer.alloc(4096, 'one'));
    await two.nas.addFile('disk.img', Buffer.alloc(4096, 'two'));
    const mounts = await Promise.all([
      one.mountDisk('source', 'disk.img'),
      two.mountDisk('source', 'disk.img'),
    ]);
    expect(await one.source.run(['head', '-c', '3', mounts[0].path])).toBe('one');
    expect(await two.source.run(['head', '-c', '3', mounts[1].path])).toBe('two');
    await one.close();
    expect(await two.source.run(['head', '-c', '3', mounts[1].path])).toBe('two');
  } finally {
    await Promise.all([one.close(), two.close()]);
  }
  expect([...(await remains(one.run.id)), ...(await remains(two.run.id))]).toEqual([]);
});

test('a run can be removed twice, at the same time, and when it never was', async () => {
  const lab = await Lab.start();
  await Promise.all([lab.close(), removeRun(lab.run.id), removeRun(lab.run.id)]);
  await removeRun(lab.run.id);
  expect(await remains(lab.run.id)).toEqual([]);
  await removeRun('00000000');
  await expect(removeRun('../../etc')).rejects.toThrow('is not the id of a run');
});

test('names without a run are swept, and a run being made is not', async () => {
  const id = 'deadbeef';
  await ProcessCgroup.create(await detectCgroups(), id, 'left-over');
  const record: RunRecord = {
    id: 'feedf00d',
    ownerPid: 1,
    ownerStartTicks: -1,
    bulkPath: join(CACHE_DIR, 'lab-runs', 'feedf00d'),
    createdMs: 0,
  };
  await mkdir(runPath(record.id), { recursive: true });
  await writeFile(join(runPath(record.id), 'run.json'), JSON.stringify(record));
  const hidden = join(RUNS_DIRECTORY, '.creating-0badcafe');
  await mkdir(hidden, { recursive: true });
  try {
    const swept = await sweepStaleRuns();
    expect(swept).toContain(id);
    expect(swept).toContain('feedf00d');
    expect(await remains(id)).toEqual([]);
    expect(await remains('feedf00d')).toEqual([]);
    expect(await pathExists(hidden)).toBe(true);
  } finally {
    await rm(hidden, { recursive: true, force: true });
  }
});

test('logs can be kept', async () => {
  const lab = await Lab.start();
  const kept = join(CACHE_DIR, `kept-logs-${lab.run.id}`);
  try {
    await (await lab.source.spawn({ name: 'talker', argv: ['echo', 'said something'] })).ended;
    await lab.close({ keepLogsIn: kept });
    expect(await readFile(join(kept, 'source-talker.log'), 'utf8')).toBe('said something\n');
    expect(await readFile(join(kept, 'nas-ganesha.log'), 'utf8')).toContain('NFS SERVER INITIALIZED');
  } finally {
    await lab.close();
    await rm(kept, { recursive: true, force: true });
  }
});
