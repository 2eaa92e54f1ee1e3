import { describe, expect, it } from 'vitest';
import { documentedValues, UndocumentedValueError, valuesTable } from './values-table.ts';

describe('documented values', () => {
  it('are read with their comments, groups and nested defaults', () => {
    const yaml = [
      '# How to read this file.',
      '',
      'image:',
      '  # Where it is,',
      '  # without tag.',
      '  repository: a|b',
      '# What it may use.',
      'resources:',
      '  limits:',
      '    cpu: 1',
      'peers: []',
    ].join('\n');
    expect(() => documentedValues(yaml)).toThrow(UndocumentedValueError);
    const values = documentedValues(yaml.replace('peers', '# Who.\npeers'));
    expect(values).toEqual([
      { path: 'image.repository', description: 'Where it is, without tag.', defaultText: 'a|b' },
      { path: 'resources', description: 'What it may use.', defaultText: '' },
      { path: 'peers', description: 'Who.', defaultText: '[]' },
    ]);
    expect(valuesTable(values).split('\n')[2]).toBe(
      '| `image.repository` | `a\\|b` | Where it is, without tag. |',
    );
  });
});
