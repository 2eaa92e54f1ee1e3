// The table of a chart's values for the documentation, read from the comments of values.yaml: the comment lines right above a
// name are what it does. Only what this chart uses of YAML is understood: two spaces a level, scalars, `[]`, `{}`, and below a
// name whose own comment describes it whole, anything.

export interface DocumentedValue {
  /** Dotted, `image.tag`. */
  readonly path: string;
  readonly description: string;
  /** As it is written in values.yaml; empty for a nested default, which is shown there. */
  readonly defaultText: string;
}

/** A value has no comment. */
export class UndocumentedValueError extends Error {
  readonly code = 'NASMIG_SHIP_UNDOCUMENTED_VALUE';

  constructor(path: string, line: number) {
    super(
      `values.yaml line ${line}: ${path} has no comment above it; say what it does and what its default means`,
    );
    this.name = 'UndocumentedValueError';
  }
}

const KEY = /^( *)([A-Za-z][A-Za-z0-9]*):(?: (.*))?$/;
const COMMENT = /^ *# ?(.*)$/;

/**
 * Every value with its comment. A name with commented names below it is a group, whose own comment only introduces it; one
 * whose nested default has no comments (`resources`) is one value. Throws {@link UndocumentedValueError}.
 */
export function documentedValues(yaml: string): DocumentedValue[] {
  const lines = yaml.split('\n');
  const found: DocumentedValue[] = [];
  const parents: string[] = [];
  let comment: string[] = [];
  /** Names deeper than this belong to a value that is described whole. */
  let wholeDepth = Number.POSITIVE_INFINITY;
  for (const [index, line] of lines.entries()) {
    const key = KEY.exec(line);
    if (key === null) {
      const text = COMMENT.exec(line)?.[1];
      comment = text === undefined ? [] : [...comment, text.trim()];
      continue;
    }
    const [, indentation = '', name = '', defaultText = ''] = key;
    const depth = indentation.length / 2;
    const description = comment.join(' ');
    comment = [];
    if (depth > wholeDepth) continue;
    wholeDepth = Number.POSITIVE_INFINITY;
    parents.length = depth;
    parents.push(name);
    if (defaultText === '' && hasCommentBelow(lines, index, depth)) continue;
    const path = parents.join('.');
    if (description === '') throw new UndocumentedValueError(path, index + 1);
    found.push({ path, description, defaultText });
    if (defaultText === '') wholeDepth = depth;
  }
  return found;
}

function hasCommentBelow(lines: readonly string[], index: number, depth: number): boolean {
  for (const line of lines.slice(index + 1)) {
    if (line.trim() === '') continue;
    if (line.length - line.trimStart().length <= depth * 2) return false;
    if (COMMENT.test(line)) return true;
  }
  return false;
}

/** A Markdown table. */
export function valuesTable(values: readonly DocumentedValue[]): string {
  const cell = (text: string) => text.replaceAll('|', '\\|');
  return [
    '| value | default | what it does |',
    '|---|---|---|',
    ...values.map(
      ({ path, description, defaultText }) =>
        `| \`${path}\` | ${defaultText === '' ? 'see values.yaml' : `\`${cell(defaultText)}\``} | ${cell(description)} |`,
    ),
    '',
  ].join('\n');
}
