// Changes a JSON text by its structure: another value somewhere, a field less, a field twice, a value moved, a list made long.
import type { Random } from './target.ts';

const VALUES: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1,
  0.5,
  255,
  256,
  4096,
  65_536,
  2 ** 31,
  2 ** 32,
  2 ** 53 - 1,
  2 ** 53,
  1e308,
  -0,
  '',
  'a',
  '../x',
  '\u0000',
  'a'.repeat(64),
  'a'.repeat(254),
  'a'.repeat(1025),
  'ä\u{1f600}',
  '__proto__',
  'constructor',
  [],
  [[]],
  {},
  { toString: 1 },
  { length: -1 },
];

/** Deeper values are left as they are. */
const MAX_DEPTH = 12;
const LONG_LIST = 300;

/** Undefined when `input` is no JSON. */
export function mutateJson(input: Uint8Array, random: Random, other: Uint8Array): Uint8Array | undefined {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(input).toString('utf8'));
  } catch {
    return undefined;
  }
  let donor: unknown;
  try {
    donor = JSON.parse(Buffer.from(other).toString('utf8'));
  } catch {
    donor = null;
  }
  const changes = 1 + Math.floor(random() * 3);
  for (let i = 0; i < changes; i++) value = change(value, random, donor, 0);
  let text = JSON.stringify(value) ?? 'null';
  // What JSON.stringify never writes: a field twice, and the field that objects have by themselves.
  if (random() < 0.05) text = text.replace('{', '{"__proto__":{"type":"go"},');
  if (random() < 0.05) text = text.replace('{', '{"type":"hello",');
  return Buffer.from(text);
}

function change(value: unknown, random: Random, donor: unknown, depth: number): unknown {
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)];
  const isInner = value !== null && typeof value === 'object' && depth < MAX_DEPTH;
  if (!isInner || random() < 0.1) return otherValue(value, random, donor);
  if (Array.isArray(value)) {
    const list = [...value];
    const at = Math.floor(random() * list.length);
    const way = random();
    if (list.length === 0 || way < 0.15) list.push(pick(VALUES));
    else if (way < 0.3) list.splice(at, 1);
    else if (way < 0.4)
      return Array.from({ length: Math.floor(random() * LONG_LIST) }, () => list[at] as unknown);
    else list[at] = change(list[at], random, donor, depth + 1);
    return list;
  }
  const object: Record<string, unknown> = { ...(value as Record<string, unknown>) };
  const key = pick(Object.keys(object));
  if (key === undefined || random() < 0.08) {
    const name = pick([...keysOf(donor), 'type', 'later', 'reason']) ?? 'x';
    object[name] = pick(VALUES);
  } else if (random() < 0.12) delete object[key];
  else object[key] = change(object[key], random, donor, depth + 1);
  return object;
}

function keysOf(donor: unknown): string[] {
  return donor !== null && typeof donor === 'object' && !Array.isArray(donor) ? Object.keys(donor) : [];
}

function otherValue(value: unknown, random: Random, donor: unknown): unknown {
  if (typeof value === 'number' && random() < 0.5)
    return random() < 0.5 ? value + Math.floor(random() * 5) - 2 : Math.floor(random() * 2 ** 20);
  if (typeof value === 'string' && random() < 0.6) {
    const at = Math.floor(random() * (value.length + 1));
    const letter = String.fromCharCode(Math.floor(random() * 128));
    if (random() < 0.4) return value.slice(0, at) + letter + value.slice(at);
    if (random() < 0.5) return value.slice(0, at) + value.slice(at + 1);
    return value.repeat(1 + Math.floor(random() * 4));
  }
  if (random() < 0.2 && donor !== null && typeof donor === 'object') {
    const values = Object.values(donor);
    return values[Math.floor(random() * values.length)] ?? null;
  }
  return VALUES[Math.floor(random() * VALUES.length)];
}
