import { describe, expect, it } from 'vitest';
import { type Flag, nearest, parseLine } from './command-line.ts';
import { PluginError } from './errors.ts';

const known: Flag[] = [
  { name: 'namespace', short: 'n', value: 'NAME', meaning: '' },
  { name: 'all-namespaces', short: 'A', meaning: '' },
  { name: 'watch', short: 'w', meaning: '' },
  { name: 'output', short: 'o', value: 'FORMAT', choices: ['json', 'yaml'], meaning: '' },
  { name: 'group', value: 'NAME', repeated: true, meaning: '' },
  { name: 'timeout', value: 'TIME', meaning: '' },
];

const usageError = (line: string[]): string => {
  try {
    parseLine(line, known);
  } catch (error) {
    expect(error).toBeInstanceOf(PluginError);
    expect((error as PluginError).exit).toBe('usage');
    return (error as PluginError).message;
  }
  throw new Error(`${line.join(' ')} was taken`);
};

describe('a command line', () => {
  it.each([
    [['-n', 'shop', 'db']],
    [['-nshop', 'db']],
    [['-n=shop', 'db']],
    [['--namespace', 'shop', 'db']],
    [['db', '--namespace=shop']],
  ])('takes %j', (line) => {
    const { flags, words } = parseLine(line, known);
    expect(flags.text('namespace')).toBe('shop');
    expect(words).toEqual(['db']);
  });

  it('takes letters together, the last with a value', () => {
    const { flags } = parseLine(['-Awojson'], known);
    expect([flags.is('all-namespaces'), flags.is('watch'), flags.text('output')]).toEqual([
      true,
      true,
      'json',
    ]);
  });

  it('takes flags that are on or off, and their values', () => {
    expect(parseLine(['-A'], known).flags.is('all-namespaces')).toBe(true);
    expect(parseLine(['--watch=false', '-A=false'], known).flags.is('watch')).toBe(false);
    expect(usageError(['--watch=perhaps'])).toContain('on or off');
  });

  it('leaves everything after -- alone', () => {
    expect(parseLine(['-A', '--', '-n', '--x'], known).words).toEqual(['-n', '--x']);
    expect(parseLine(['-'], known).words).toEqual(['-']);
  });

  it('adds up repeated flags, and takes the last of others', () => {
    const { flags } = parseLine(['--group', 'a,b', '--group=c', '-n', 'x', '-n', 'y'], known);
    expect(flags.all('group')).toEqual(['a', 'b', 'c']);
    expect(flags.text('namespace')).toBe('y');
  });

  it('refuses what it does not know, with what was probably meant', () => {
    expect(usageError(['--namespac=x'])).toBe(
      'unknown flag --namespac in --namespac=x\nDid you mean --namespace?',
    );
    expect(usageError(['-x'])).toContain('unknown flag -x');
    expect(usageError(['--qqqqqqqq'])).toContain('See --help.');
    expect(usageError(['-n'])).toContain('-n needs a value');
    expect(usageError(['-o', 'xml'])).toContain('not one of json, yaml');
  });

  it('reads durations, plain digits as seconds', () => {
    const of = (text: string) => parseLine(['--timeout', text], known).flags.durationMs('timeout');
    expect([of('90'), of('90s'), of('1h30m'), of('250ms')]).toEqual([90_000, 90_000, 5_400_000, 250]);
    expect(parseLine([], known).flags.durationMs('timeout')).toBeUndefined();
    expect(() => of('soon')).toThrow(/is not a duration/);
  });
});

describe('the nearest word', () => {
  it('is at most a third of its letters away', () => {
    expect(nearest('migrat', ['migrate', 'watch'])).toBe('migrate');
    expect(nearest('lits', ['list'])).toBeUndefined();
    expect(nearest('dn', ['db', 'web'])).toBe('db');
    expect(nearest('xyz', ['migrate'])).toBeUndefined();
  });
});
