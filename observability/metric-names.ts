// The metrics that a PromQL expression asks for. Not a parser: it takes strings, durations, label lists and the language's own words away,
// which is enough for our own queries; what is left and is no function call is a metric.
const WORDS = new Set([
  'and',
  'or',
  'unless',
  'by',
  'without',
  'on',
  'ignoring',
  'offset',
  'bool',
  'group_left',
]);

/** Sorted, each once. */
export function metricNames(expr: string): string[] {
  const bare = expr
    .replaceAll(/"[^"]*"/g, '')
    .replaceAll(/\{[^}]*\}/g, '')
    .replaceAll(/\[[^\]]*\]/g, '')
    .replaceAll(/\b\d+[a-z]+\b/g, '')
    .replaceAll(/\b(by|without|on|ignoring)\s*\([^)]*\)/g, '');
  const names = new Set<string>();
  for (const [, name = '', call] of bare.matchAll(/([a-zA-Z_][a-zA-Z0-9_:]*)(\s*\()?/g)) {
    if (call === undefined && !WORDS.has(name)) names.add(name);
  }
  return [...names].sort();
}
