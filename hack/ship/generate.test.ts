import { describe, expect, it } from 'vitest';
import { generatedWithoutHelm, outdated } from './generate.ts';
import { linkedLibraries } from './image-rootfs.ts';

describe('generated files', () => {
  it('of the chart and its page are what would be generated', async () => {
    const files = await generatedWithoutHelm();
    expect([...files.keys()]).toHaveLength(6);
    expect(await outdated(files)).toEqual([]);
  });
});

describe('libraries that Node is linked to', () => {
  it('are read from what ldd prints', () => {
    const printed = [
      '\tlinux-vdso.so.1 (0x00007ffd)',
      '\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)',
      '\tlibgone.so.1 => not found',
      '\t/lib64/ld-linux-x86-64.so.2 (0x00007f)',
    ].join('\n');
    expect(linkedLibraries(printed)).toEqual([
      '/lib/x86_64-linux-gnu/libm.so.6',
      '/lib64/ld-linux-x86-64.so.2',
    ]);
  });
});
