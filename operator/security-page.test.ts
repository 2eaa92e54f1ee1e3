// Every claim of docs/security.md names a test, and every test that it names is there under that title.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '..');
const page = await readFile(path.join(root, 'docs/security.md'), 'utf8');

const claims = page
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| Attempt'))
  .map((line) => {
    const [attempt = '', , tests = ''] = line
      .split('|')
      .slice(1)
      .map((cell) => cell.trim());
    return { attempt, tests };
  });

/** `file` "title", "another title"; … */
function namedIn(tests: string): { file: string; titles: string[] }[] {
  return tests.split(';').map((part) => ({
    file: /`([^`]+\.test\.ts)`/.exec(part)?.[1] ?? '',
    titles: [...part.matchAll(/"([^"]+)"/g)].map(([, title = '']) => title),
  }));
}

describe('docs/security.md', () => {
  it('has claims', () => {
    expect(claims.length).toBeGreaterThan(15);
  });

  it.each(claims)('names a test against: $attempt', async ({ tests }) => {
    for (const { file, titles } of namedIn(tests)) {
      expect(file).not.toBe('');
      expect(titles.length).toBeGreaterThan(0);
      const text = await readFile(path.join(root, file), 'utf8');
      for (const title of titles) expect(text).toContain(title);
    }
  });
});
