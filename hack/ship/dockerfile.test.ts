import { describe, expect, it } from 'vitest';
import { READ_THREADS, readThreads } from '../../sidecar/nas/read-threads.ts';
import { imageConfiguration } from './dockerfile.ts';

describe('imageConfiguration', () => {
  it('reads the last stage, with lines that go on', () => {
    const text = [
      'FROM a AS build',
      'ENV NOT=this',
      'FROM scratch',
      'ENV A=1 \\',
      '    B=two',
      'ENV C=3',
      'ENTRYPOINT ["/usr/bin/node"]',
      'CMD ["--flag", "main.js"]',
    ].join('\n');
    expect(imageConfiguration(text)).toEqual({
      entrypoint: ['/usr/bin/node'],
      cmd: ['--flag', 'main.js'],
      nodeOptions: ['--flag'],
      env: { A: '1', B: 'two', C: '3' },
    });
  });

  it('says what is missing', () => {
    expect(() => imageConfiguration('FROM scratch\nENTRYPOINT ["/a"]')).toThrow('no CMD');
  });

  it('of this repository ends with the sidecar’s program, and has threads for all reads', () => {
    const { cmd, env } = imageConfiguration();
    expect(cmd.at(-1)).toBe('sidecar/main.js');
    expect(cmd).toContain('--expose-gc');
    expect(readThreads(env)).toBeGreaterThanOrEqual(READ_THREADS);
  });
});
