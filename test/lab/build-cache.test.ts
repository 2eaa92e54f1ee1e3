import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ensureBuilt, recipeDigest } from './build-cache.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'build-'));
});
afterEach(() => rm(directory, { recursive: true }));

describe('ensureBuilt', () => {
  it('builds once, however many ask at the same time', async () => {
    const path = join(directory, 'sub', 'entry');
    let builds = 0;
    const build = async (temporary: string): Promise<void> => {
      builds++;
      await sleep(50);
      await writeFile(temporary, 'built');
    };
    expect(await Promise.all([ensureBuilt(path, build), ensureBuilt(path, build)])).toEqual([path, path]);
    expect(await ensureBuilt(path, build)).toBe(path);
    expect(builds).toBe(1);
    expect(await readFile(path, 'utf8')).toBe('built');
  });

  it('leaves nothing of a build that failed, and builds anew', async () => {
    const path = join(directory, 'entry');
    const failing = ensureBuilt(path, async (temporary) => {
      await writeFile(temporary, 'half');
      throw new Error('no space');
    });
    await expect(failing).rejects.toThrow('no space');
    expect(await readdir(directory)).toEqual([]);
    await ensureBuilt(path, (temporary) => writeFile(temporary, 'whole'));
    expect(await readFile(path, 'utf8')).toBe('whole');
  });
});

describe('recipeDigest', () => {
  it('tells recipes apart', () => {
    expect(recipeDigest([1, ['a', 'b']])).toBe(recipeDigest([1, ['a', 'b']]));
    expect(recipeDigest([1, ['a', 'b']])).not.toBe(recipeDigest([1, ['ab']]));
  });
});
