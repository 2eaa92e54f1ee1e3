import { describe, expect, it } from 'vitest';
import { buildInitramfs } from './initramfs.ts';

interface Entry {
  mode: number;
  content: string;
  device: [number, number];
}

/** Reads a newc archive as the kernel does. */
function unpack(archive: Buffer): Map<string, Entry> {
  const entries = new Map<string, Entry>();
  let offset = 0;
  for (;;) {
    expect(archive.toString('latin1', offset, offset + 6)).toBe('070701');
    const field = (index: number): number =>
      Number.parseInt(archive.toString('latin1', offset + 6 + index * 8, offset + 14 + index * 8), 16);
    const nameStart = offset + 110;
    const contentStart = align(nameStart + field(11));
    const name = archive.toString('utf8', nameStart, nameStart + field(11) - 1);
    if (name === 'TRAILER!!!') return entries;
    const content = archive.toString('utf8', contentStart, contentStart + field(6));
    entries.set(name, { mode: field(1), content, device: [field(9), field(10)] });
    offset = align(contentStart + field(6));
  }
}

function align(offset: number): number {
  return (offset + 3) & ~3;
}

describe('buildInitramfs', () => {
  it('makes an archive with the console device, directories and files', () => {
    const archive = buildInitramfs([
      { path: 'init', mode: 0o755, content: Buffer.from('hello') },
      { path: 'modules', mode: 0o755, content: null },
      { path: 'modules/00-a.ko', mode: 0o644, content: Buffer.from('') },
    ]);
    expect(Object.fromEntries(unpack(archive))).toEqual({
      dev: { mode: 0o040755, content: '', device: [0, 0] },
      'dev/console': { mode: 0o020600, content: '', device: [5, 1] },
      init: { mode: 0o100755, content: 'hello', device: [0, 0] },
      modules: { mode: 0o040755, content: '', device: [0, 0] },
      'modules/00-a.ko': { mode: 0o100644, content: '', device: [0, 0] },
    });
    expect(archive.length % 4).toBe(0);
  });
});
