import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { repositoryRoot } from '../../hack/ship/tools.ts';
import { ignorePatterns, isInContext } from './build-context.ts';

describe('the build context', () => {
  it.each([
    ['sidecar/main.ts', true],
    ['sidecar/a/b/c.ts', true],
    ['sidecar/a/b.test.ts', false],
    ['hack/ship/tools.ts', true],
    ['hack/run-tests.ts', false],
    ['README.md', false],
    ['.cache/lab/disk.img', false],
    ['top.test.ts', false],
  ])('%s: %s', (file, isIn) => {
    const patterns = ignorePatterns('# all\n*\n\n!sidecar\n!hack/ship\n**/*.test.ts\n');
    expect(isInContext(file, patterns)).toBe(isIn);
  });

  it('has what assembles the image, and all that it imports', async () => {
    const patterns = ignorePatterns(await readFile(path.join(repositoryRoot, '.dockerignore'), 'utf8'));
    const seen = new Set<string>();
    const follow = async (file: string): Promise<void> => {
      if (seen.has(file)) return;
      seen.add(file);
      const text = await readFile(path.join(repositoryRoot, file), 'utf8');
      for (const [, imported = ''] of text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g))
        await follow(path.posix.join(path.posix.dirname(file), imported));
    };
    for (const entry of ['hack/ship/image-rootfs.ts', 'operator/main.ts', 'sidecar/main.ts'])
      await follow(entry);
    expect(seen.size).toBeGreaterThan(50);
    expect([...seen].filter((file) => !isInContext(file, patterns))).toEqual([]);
  });
});
