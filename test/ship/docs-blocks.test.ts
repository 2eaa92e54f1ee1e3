import { describe, expect, it } from 'vitest';
import { anchorsOf, localLinks, shellBlocks } from './docs-blocks.ts';

const PAGE = 'docs/page.md';

describe('shell blocks', () => {
  it('are those of shells, with their place and what is done with them', () => {
    const text = [
      '# Title',
      '```sh',
      'kubectl get nam',
      '# not a heading',
      '```',
      '## Elsewhere',
      '```yaml',
      'kind: Pod',
      '```',
      '```sh no-run: needs a container engine',
      'docker build .',
      '```',
      '```sh without-helm',
      'true',
      '```',
    ].join('\n');
    expect(shellBlocks(PAGE, text)).toEqual([
      {
        page: PAGE,
        line: 2,
        section: 'Title',
        script: 'kubectl get nam\n# not a heading\n',
        mode: 'run',
        reason: '',
      },
      {
        page: PAGE,
        line: 10,
        section: 'Elsewhere',
        script: 'docker build .\n',
        mode: 'no-run',
        reason: 'needs a container engine',
      },
      { page: PAGE, line: 13, section: 'Elsewhere', script: 'true\n', mode: 'without-helm', reason: '' },
    ]);
  });

  it.each([
    ['```bash', 'a block of `bash`'],
    ['```console', 'a block of `console`'],
    ['```sh skip', '"skip" says nothing to the test'],
    ['```sh no-run', '"no-run" says nothing to the test'],
    ['```sh no-run:', '"no-run:" says nothing to the test'],
  ])('may not escape the test as %s', (fence, problem) => {
    expect(() => shellBlocks(PAGE, `${fence}\ntrue\n\`\`\``)).toThrow(problem);
  });

  it('must be closed', () => {
    expect(() => shellBlocks(PAGE, '```sh\ntrue\n')).toThrow('docs/page.md:1: the block is not closed');
  });
});

describe('links', () => {
  it('are those into the repository, outside of code', () => {
    const text = [
      'See [one](api.md), [two](api.md#policy "title"), [three](#here), [far](https://example.org/x).',
      '`[not](code.md)` and ![picture](overview.svg) and <img src="other.svg" width="1">',
      '```',
      '[not](either.md)',
      '```',
    ].join('\n');
    expect(localLinks(PAGE, text)).toEqual([
      { page: PAGE, line: 1, path: 'api.md', anchor: undefined },
      { page: PAGE, line: 1, path: 'api.md', anchor: 'policy' },
      { page: PAGE, line: 1, path: '', anchor: 'here' },
      { page: PAGE, line: 2, path: 'overview.svg', anchor: undefined },
      { page: PAGE, line: 2, path: 'other.svg', anchor: undefined },
    ]);
  });

  it('lead to headings by the names that forges give them', () => {
    const text = '# A `b`: c, d!\n## Same\n## Same\n```sh\n# no\n```\n## With [link](x.md)\n';
    expect([...anchorsOf(text)]).toEqual(['a-b-c-d', 'same', 'same-1', 'with-link']);
  });
});
