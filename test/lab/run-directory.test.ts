import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { ownerIsAlive, processStartTicks } from './run-directory.ts';

test('the start of a process tells it from a later one with its pid', async () => {
  const started = await processStartTicks(process.pid);
  expect(started).toBeGreaterThan(0);
  const record = { id: '00000000', ownerPid: process.pid, bulkPath: '', createdMs: 0 };
  expect(await ownerIsAlive({ ...record, ownerStartTicks: started ?? 0 })).toBe(true);
  expect(await ownerIsAlive({ ...record, ownerStartTicks: (started ?? 0) - 1 })).toBe(false);
});

test('a name with spaces and brackets does not shift the fields', async () => {
  // The kernel's name of a process is its program's: here a shell that was started under another name.
  const child = spawn('sh', ['-c', 'printf "x) 1 2 (3" > /proc/$$/comm; echo named; read line'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  try {
    const own = (await processStartTicks(process.pid)) ?? 0;
    const childTicks = (await processStartTicks(child.pid ?? 0)) ?? 0;
    expect(childTicks).toBeGreaterThanOrEqual(own);
    // Started within the hour, in 10 ms ticks.
    expect(childTicks - own).toBeLessThan(360_000);
  } finally {
    child.stdin.end();
    await once(child, 'exit');
  }
});

test('a process that has ended is not alive', async () => {
  const child = spawn('true');
  await once(child, 'exit');
  expect(await processStartTicks(child.pid ?? 0)).toBeNull();
});
