import { describe, expect, it } from 'vitest';
import { verbs } from '../verbs.ts';
import { answer } from './answer.ts';

const asked: string[] = [];
const complete = async (...words: string[]) => {
  const text = await answer(words, verbs, async (which, flags) => {
    asked.push(`${which} ${flags.text('namespace') ?? ''}`.trim());
    return [{ text: `${which}-1` }, { text: `${which}-2`, description: 'two' }];
  });
  const lines = text.trimEnd().split('\n');
  return { candidates: lines.slice(0, -1), directive: lines.at(-1) };
};

describe('completion', () => {
  it('offers verbs, with what they do', async () => {
    const { candidates, directive } = await complete('');
    expect(candidates).toHaveLength(verbs.length);
    expect(candidates[0]).toBe(
      'migrate\tlive-migrate a VM, its page cache from the NAS where that is possible',
    );
    expect(directive).toBe(':4');
    expect((await complete('su')).candidates.map((line) => line.split('\t')[0])).toEqual(['suspend']);
    expect((await complete()).candidates).toHaveLength(verbs.length);
    expect((await complete('nothing', '')).candidates).toEqual([]);
  });

  it('offers names, of the namespace that the line says', async () => {
    asked.length = 0;
    expect((await complete('migrate', '-n', 'shop', '')).candidates).toEqual(['vmis-1', 'vmis-2\ttwo']);
    expect(asked).toEqual(['vmis shop']);
    expect((await complete('migrate', 'db', '')).candidates).toEqual([]);
    expect((await complete('suspend', 'policies-1', '')).candidates).toEqual(['policies-2\ttwo']);
    expect((await complete('completion', '')).candidates).toEqual(['shells-1', 'shells-2\ttwo']);
  });

  it('offers flags, values of flags, and files where a flag wants one', async () => {
    expect((await complete('list', '--out')).candidates).toEqual(['--output\thow to write what was found']);
    expect((await complete('list', '-o', '')).candidates).toEqual(['json', 'yaml', 'wide', 'name']);
    expect((await complete('doctor', '-o', '')).candidates).toEqual(['json', 'yaml']);
    expect((await complete('list', '--output=j')).candidates).toEqual(['--output=json']);
    expect((await complete('list', '-n', '')).candidates).toEqual(['namespaces-1', 'namespaces-2\ttwo']);
    expect(await complete('list', '--kubeconfig', '')).toEqual({ candidates: [], directive: ':0' });
    expect((await complete('list', '--timeout', '')).directive).toBe(':4');
  });

  it('makes nothing of a line that makes no sense', async () => {
    expect((await complete('migrate', '--what', 'x', '')).candidates).toEqual(['vmis-1', 'vmis-2\ttwo']);
  });
});
