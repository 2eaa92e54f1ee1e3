import { load } from 'js-yaml';
import { describe, expect, it } from 'vitest';
import { manifestFor as krewManifestFor } from './build.ts';
import { run } from './run.ts';
import { verbs } from './verbs.ts';

async function ran(
  line: string[],
  environment: NodeJS.ProcessEnv = { HOME: '/nowhere' },
  interrupted = new AbortController(),
) {
  const written: string[] = [];
  const noted: string[] = [];
  const code = await run(line, {
    environment,
    write: (text) => void written.push(text),
    note: (text) => void noted.push(text),
    isTerminal: false,
    now: () => 0,
    interrupted: interrupted.signal,
  });
  return { code, out: written.join(''), err: noted.join('') };
}

describe('a run', () => {
  it.each(verbs.map(({ name }) => name))('of %s --help asks nobody', async (name) => {
    expect(await ran([name, '-h'])).toMatchObject({ code: 0, err: '' });
    expect((await ran(['help', name])).out).toContain(`Usage: kubectl nasmig ${name}`);
  });

  it('without a verb lists them', async () => {
    for (const line of [[], ['help'], ['--help'], ['-h']]) expect((await ran(line)).out).toContain('Verbs:');
  });

  it.each([
    [['lits'], 2, 'there is no verb lits'],
    [['-n', 'shop', 'list'], 2, 'the verb comes first'],
    [['explain'], 2, 'explain needs VMI|MIGRATION'],
    [['explain', 'a', 'b'], 2, 'explain takes one name, not 2'],
    [['list', 'a'], 2, 'list takes no names: a'],
    [['list', '--bogus'], 2, 'unknown flag --bogus'],
    [['doctor', '-l', 'a=b'], 2, 'unknown flag -l'],
    [['watch', '-o', 'yaml'], 2, '--output yaml is not one of json'],
    [['list'], 6, 'no cluster is configured'],
    [['completion', 'tcsh'], 2, 'there is no completion for tcsh'],
  ])('%j ends with %d', async (line, code, words) => {
    const outcome = await ran(line);
    expect(outcome).toMatchObject({ code, out: '' });
    expect(outcome.err).toContain(`error: ${words}`);
  });

  it('that is interrupted says so by its exit code alone', async () => {
    const interrupted = new AbortController();
    interrupted.abort();
    // Nobody listens there: what comes of it no longer matters.
    expect(await ran(['list', '--server', 'http://127.0.0.1:9'], {}, interrupted)).toMatchObject({
      code: 130,
      err: '',
    });
  });

  it('completes', async () => {
    expect(await ran(['__complete', 'comp'])).toMatchObject({
      code: 0,
      out: expect.stringContaining('completion\t'),
    });
  });
});

describe('the krew manifest', () => {
  it('has the platforms that were built, and no other: krew refuses one without a digest', () => {
    const template = [
      'spec:',
      '  version: v{{version}}',
      '  platforms:',
      '    - { uri: a-{{version}}, sha256: "{{sha256 linux-amd64}}" }',
      '    - { uri: b, sha256: "{{sha256 linux-arm64}}" }',
    ].join('\n');
    expect(load(krewManifestFor(template, '1.2.3', { 'linux-amd64': 'abc' }))).toEqual({
      spec: { version: 'v1.2.3', platforms: [{ uri: 'a-1.2.3', sha256: 'abc' }] },
    });
  });
});
