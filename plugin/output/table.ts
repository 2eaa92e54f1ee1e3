// Tables as kubectl writes them: a line of names, columns as wide as their widest entry, three spaces between. Pure.
const GAP = '   ';

export interface Column<T> {
  readonly name: string;
  readonly of: (row: T) => string;
}

/** The lines of a table; an empty cell is `<none>`. Colour codes do not count as width. */
export function table<T>(rows: readonly T[], columns: readonly Column<T>[], headers = true): string[] {
  const cells = rows.map((row) => columns.map(({ of }) => of(row) || '<none>'));
  const all = headers ? [columns.map(({ name }) => name), ...cells] : cells;
  const widths = columns.map((_, at) => Math.max(0, ...all.map((line) => width(line[at] ?? ''))));
  return all.map((line) =>
    line
      .map((cell, at) => (at === line.length - 1 ? cell : cell + ' '.repeat((widths[at] ?? 0) - width(cell))))
      .join(GAP),
  );
}

/** Columns that a text takes on a terminal, without its colour codes. */
export function width(text: string): number {
  return [...withoutColours(text)].length;
}

export function withoutColours(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ESC begins a colour code.
  return text.replace(/\u001b\[[0-9;]*m/g, '');
}

/** Cut to the columns there are; colour codes are kept whole, and colours end where the text ends. */
export function cut(text: string, columns: number): string {
  if (width(text) <= columns) return text;
  let out = '';
  let taken = 0;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ESC begins a colour code.
  for (const part of text.match(/\u001b\[[0-9;]*m|./gsu) ?? []) {
    if (part.startsWith('\u001b')) out += part;
    else if (taken < columns) {
      out += part;
      taken += 1;
    }
  }
  return out;
}
