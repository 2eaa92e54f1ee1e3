// Colours and signs: only where a terminal shows them, never when NO_COLOR says no, and letters in place of signs where the locale
// has no Unicode. Pure.
export interface Palette {
  good(text: string): string;
  bad(text: string): string;
  warning(text: string): string;
  strong(text: string): string;
  faint(text: string): string;
}

const wrap = (on: number, off: number) => (text: string) => `\u001b[${on}m${text}\u001b[${off}m`;
const plain = (text: string) => text;

const coloured: Palette = {
  good: wrap(32, 39),
  bad: wrap(31, 39),
  warning: wrap(33, 39),
  strong: wrap(1, 22),
  faint: wrap(2, 22),
};
const colourless: Palette = { good: plain, bad: plain, warning: plain, strong: plain, faint: plain };

/** `NO_COLOR` with any value but the empty one, and `TERM=dumb`, mean none (no-color.org). */
export function paletteFor(isTerminal: boolean, environment: NodeJS.ProcessEnv): Palette {
  const isRefused = (environment['NO_COLOR'] ?? '') !== '' || environment['TERM'] === 'dumb';
  return isTerminal && !isRefused ? coloured : colourless;
}

export interface Signs {
  full: string;
  empty: string;
  arrow: string;
}

export function signsFor(environment: NodeJS.ProcessEnv): Signs {
  const locale = environment['LC_ALL'] || environment['LC_CTYPE'] || environment['LANG'] || '';
  return /utf-?8/i.test(locale)
    ? { full: '█', empty: '░', arrow: '→' }
    : { full: '#', empty: '-', arrow: '->' };
}
