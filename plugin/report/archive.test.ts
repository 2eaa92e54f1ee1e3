import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { archive } from './archive.ts';

describe('an archive', () => {
  it('is read by tar, with every length and a long path', () => {
    const long = `logs/${'n'.repeat(63)}/${'p'.repeat(80)}/container.log`;
    const files = [0, 1, 511, 512, 513, 5000].map((length) => ({
      path: `f-${length}`,
      text: 'ä'.repeat(length),
    }));
    const dir = mkdtempSync(path.join(tmpdir(), 'nasmig-archive-'));
    try {
      const file = path.join(dir, 'a.tar.gz');
      writeFileSync(
        file,
        archive('report', [...files, { path: long, text: 'long' }], Date.parse('2026-11-23T12:00:00Z')),
      );
      const listed = execFileSync('tar', ['-tzvf', file], { encoding: 'utf8' });
      expect(listed).toContain(`report/${long}`);
      expect(listed).toContain('-rw-------');
      for (const { path: name, text } of files)
        expect(execFileSync('tar', ['-xzOf', file, `report/${name}`], { encoding: 'utf8' })).toBe(text);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
