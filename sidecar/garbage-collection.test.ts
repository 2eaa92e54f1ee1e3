import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { BUFFERS_COUNT_AS_HEAP, CODE_IS_GARBAGE } from './garbage-collection.ts';

it.each([BUFFERS_COUNT_AS_HEAP, CODE_IS_GARBAGE])('%s is an option that this V8 has', (option) => {
  const options = execFileSync(process.execPath, ['--v8-options'], { encoding: 'utf8' });
  expect(options).toMatch(new RegExp(`^ *${option} `, 'm'));
});

it('with it, fewer collections for the same garbage', () => {
  const collections = (options: string[]): number => {
    const program = `
      const kept = Array.from({ length: 40 }, (_, i) => Array.from({ length: 20_000 }, () => ({ i })));
      let last;
      for (let i = 0; i < 20_000; i++) last = Buffer.allocUnsafeSlow(1 << 18);
      process.stdout.write(String(kept.length + last.length));`;
    const trace = execFileSync(process.execPath, [...options, '--trace-gc', '-e', program], {
      encoding: 'utf8',
    });
    return trace.split('Mark-Compact').length - 1;
  };
  expect(collections([BUFFERS_COUNT_AS_HEAP])).toBeLessThan(collections([]));
});

it('collectAll gives back what garbage took, the young generation too', () => {
  const program = `
    import { readFileSync } from 'node:fs';
    import { collectAll } from '${new URL('./garbage-collection.ts', import.meta.url)}';
    const ownKib = () => Number(/RssAnon:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
    const before = ownKib();
    let kept = [];
    for (let i = 0; i < 2_000_000; i++) kept[i % 20_000] = { i, list: [i, i] };
    kept = null;
    const most = ownKib();
    collectAll();
    process.stdout.write(JSON.stringify({ took: most - before, left: ownKib() - before }));`;
  const options = ['--expose-gc', '--max-semi-space-size=4', '--input-type=module', '-e', program];
  const { took, left } = JSON.parse(execFileSync(process.execPath, options, { encoding: 'utf8' }));
  expect(took).toBeGreaterThan(8 * 1024);
  expect(left).toBeLessThan(took / 3);
});

it('collectAll drops the code of functions that ran, and they run again', () => {
  const program = `
    import v8 from 'node:v8';
    import { collectAll } from '${new URL('./garbage-collection.ts', import.meta.url)}';
    const functions = Array.from({ length: 300 }, (_, i) => new Function('x', 'return x + ' + i + ';' + 'x = x * 2;'.repeat(200)));
    const all = () => functions.reduce((sum, one) => sum + one(1), 0);
    all();
    const before = v8.getHeapCodeStatistics().bytecode_and_metadata_size;
    collectAll();
    const after = v8.getHeapCodeStatistics().bytecode_and_metadata_size;
    process.stdout.write(JSON.stringify({ before, after, sum: all() }));`;
  const options = ['--expose-gc', '--input-type=module', '-e', program];
  const { before, after, sum } = JSON.parse(execFileSync(process.execPath, options, { encoding: 'utf8' }));
  expect(after).toBeLessThan(before / 2);
  expect(sum).toBe((300 * 299) / 2 + 300);
});
