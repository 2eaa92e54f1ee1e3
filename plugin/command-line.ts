// The command line, taken apart: kubectl's ways of writing flags (`-n shop`, `-nshop`, `--namespace=shop`, `-A`, `--`), each flag
// known by its table entry. What is not known is refused, with the flag that was probably meant. Pure.

import { parseDurationMs } from '../operator/kubevirt/quantities.ts';
import { PluginError } from './errors.ts';

export interface Flag {
  /** Without the dashes. */
  readonly name: string;
  /** One letter. */
  readonly short?: string;
  /** What stands for its value in the usage text; absent for a flag that is on or off. */
  readonly value?: string;
  /** The only values there are. */
  readonly choices?: readonly string[];
  /** May be given more than once; values add up. */
  readonly repeated?: boolean;
  readonly meaning: string;
}

/** The flags of a line that were given, by name. */
export class Flags {
  readonly #given: ReadonlyMap<string, readonly string[]>;

  constructor(given: ReadonlyMap<string, readonly string[]> = new Map()) {
    this.#given = given;
  }

  has(name: string): boolean {
    return this.#given.has(name);
  }

  /** The last value given. */
  text(name: string): string | undefined {
    return this.#given.get(name)?.at(-1);
  }

  /** All values given, as they are. */
  each(name: string): readonly string[] {
    return this.#given.get(name) ?? [];
  }

  /** All values given, split at commas. */
  all(name: string): string[] {
    return (this.#given.get(name) ?? []).flatMap((value) => value.split(',')).filter((value) => value !== '');
  }

  is(name: string): boolean {
    return this.text(name) === 'true';
  }

  /** A duration such as 90s or 5m; plain digits are seconds. Undefined when it was not given. */
  durationMs(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const ms = /^\d+$/.test(text) ? Number(text) * 1000 : parseDurationMs(text);
    if (ms === undefined)
      throw new PluginError(
        'usage',
        `--${name} ${text} is not a duration`,
        'Write for example 30s, 5m or 1h30m.',
      );
    return ms;
  }

  count(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    if (!/^\d{1,9}$/.test(text)) throw new PluginError('usage', `--${name} ${text} is not a number`);
    return Number(text);
  }
}

export interface Line {
  flags: Flags;
  words: string[];
}

/** Throws {@link PluginError} with exit `usage`. */
export function parseLine(line: readonly string[], known: readonly Flag[]): Line {
  const given = new Map<string, string[]>();
  const words: string[] = [];
  const add = (flag: Flag, value: string) => {
    if (flag.value === undefined && value !== 'true' && value !== 'false')
      throw new PluginError('usage', `--${flag.name} is on or off, not ${value}`);
    if (flag.choices !== undefined && !flag.choices.includes(value))
      throw new PluginError('usage', `--${flag.name} ${value} is not one of ${flag.choices.join(', ')}`);
    given.set(flag.name, flag.repeated === true ? [...(given.get(flag.name) ?? []), value] : [value]);
  };
  for (let at = 0; at < line.length; at += 1) {
    const word = line[at] ?? '';
    const valueAfter = (flag: Flag): string => {
      at += 1;
      const value = line[at];
      if (value === undefined) throw new PluginError('usage', `${word} needs a value: ${spelling(flag)}`);
      return value;
    };
    if (word === '--') {
      words.push(...line.slice(at + 1));
      break;
    }
    if (word.startsWith('--')) {
      const equals = word.indexOf('=');
      const name = equals === -1 ? word.slice(2) : word.slice(2, equals);
      const flag = known.find((one) => one.name === name);
      if (flag === undefined) throw unknownFlag(word, `--${name}`, known);
      if (equals !== -1) add(flag, word.slice(equals + 1));
      else add(flag, flag.value === undefined ? 'true' : valueAfter(flag));
    } else if (word.startsWith('-') && word !== '-') {
      // Letters of flags that are on or off may stand together; the first that takes a value takes the rest.
      for (let letter = 1; letter < word.length; letter += 1) {
        const flag = known.find((one) => one.short === word[letter]);
        if (flag === undefined) throw unknownFlag(word, `-${word[letter]}`, known);
        if (flag.value === undefined) {
          if (word[letter + 1] === '=') {
            add(flag, word.slice(letter + 2));
            break;
          }
          add(flag, 'true');
          continue;
        }
        const rest = word.slice(letter + 1).replace(/^=/, '');
        add(flag, rest === '' ? valueAfter(flag) : rest);
        break;
      }
    } else words.push(word);
  }
  return { flags: new Flags(given), words };
}

/** As it stands in a usage text. */
export function spelling({ name, short, value, choices }: Flag): string {
  const shown = choices === undefined ? value : choices.join('|');
  return `${short === undefined ? '    ' : `-${short}, `}--${name}${value === undefined ? '' : ` ${shown}`}`;
}

function unknownFlag(word: string, spelled: string, known: readonly Flag[]): PluginError {
  const name = spelled.replace(/^-+/, '');
  const meant = nearest(
    name,
    known.map((flag) => flag.name),
  );
  return new PluginError(
    'usage',
    `unknown flag ${spelled}${word === spelled ? '' : ` in ${word}`}`,
    meant === undefined ? 'See --help.' : `Did you mean --${meant}?`,
  );
}

/** The candidate that is at most a third of its letters away. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: { candidate: string; distance: number } | undefined;
  for (const candidate of candidates) {
    const distance = editDistance(word, candidate);
    if (distance <= Math.max(1, Math.floor(candidate.length / 3)) && distance < (best?.distance ?? Infinity))
      best = { candidate, distance };
  }
  return best?.candidate;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
