// `kubectl nasmig estimate`: what acceleration can be expected to bring, from what was measured. It computes nothing that nobody
// measured: without records it says how to get one.
import { listMigrations } from '../cluster/migrations.ts';
import { vmiNamed } from '../cluster/vms.ts';
import { PluginError } from '../errors.ts';
import { written } from '../output/objects.ts';
import { age, bytes, duration } from '../output/sizes.ts';
import { type Column, table } from '../output/table.ts';
import type { Verb } from '../verb.ts';
import { type Estimate, estimates, type Spread } from './history.ts';

export const estimate: Verb = {
  name: 'estimate',
  summary: 'what Observe and past migrations say that acceleration saves',
  description:
    'Sums up the finished migrations of each VM: what was saved when it was accelerated, what Observe found that would be. Medians, with the least and the most. ' +
    'Nothing is guessed: a VM without such a record needs a migration with --acceleration Observe first.',
  words: '[VMI]',
  minWords: 0,
  maxWords: 1,
  flags: [],
  outputs: ['json', 'yaml', 'wide'],
  examples: ['kubectl nasmig estimate db', 'kubectl nasmig estimate -A -o wide'],
  completes: ['vmis'],
  async run({ api, namespace, defaultNamespace, flags, words, output, terminal, now }) {
    const [vmi] = words;
    if (vmi !== undefined && namespace === undefined)
      throw new PluginError('usage', '-A and a VMI exclude each other', 'Name its namespace with -n.');
    const { migrations } = await listMigrations(api, namespace, flags.text('selector'));
    const own = vmi === undefined ? migrations : migrations.filter(({ spec }) => spec.vmiName === vmi);
    // A VM that is gone has its history all the same.
    if (vmi !== undefined && own.length === 0) await vmiNamed(api, defaultNamespace, vmi);
    const found = estimates(own, vmi === undefined ? [] : [{ namespace: defaultNamespace, name: vmi }]);
    if (output === 'json' || output === 'yaml')
      terminal.write(written(vmi === undefined ? found : found[0], output));
    else if (vmi !== undefined && found[0] !== undefined)
      terminal.write(`${describe(found[0], now()).join('\n')}\n`);
    else if (found.length === 0)
      terminal.note(
        `No finished migrations${namespace === undefined ? '' : ` in namespace ${namespace}`}: nothing was measured yet.\n`,
      );
    else
      terminal.write(
        `${table(found, columnsFor(namespace === undefined, output === 'wide', now()), !flags.is('no-headers')).join('\n')}\n`,
      );
    return 'ok';
  },
};

const range = (spread: Spread | undefined, written: (value: number) => string): string => {
  if (spread === undefined) return '-';
  const { median, min, max } = spread;
  return min === max ? written(median) : `${written(median)} (${written(min)} to ${written(max)})`;
};
const perCent = (value: number) => `${Math.round(value)} %`;

/** One VM in sentences. Pure. */
export function describe(found: Estimate, nowMs: number): string[] {
  const title = `${found.namespace}/${found.vmi}`;
  const measured = found.observed + found.accelerated;
  const others = [
    ...(found.plain === 0
      ? []
      : [
          `${count(found.plain, 'plain migration')} said nothing about it: ${found.plainReasons.map(({ reason, count: often }) => `${reason}${often === 1 ? '' : ` (${often})`}`).join(', ')}`,
        ]),
    ...(found.failedWhileArmed === 0
      ? []
      : [
          `${count(found.failedWhileArmed, 'accelerated attempt')} failed: kubectl nasmig explain vmi/${found.vmi} -n ${found.namespace}`,
        ]),
  ];
  if (measured === 0)
    return [
      `${title}: nothing was measured yet.`,
      ...others.map((line) => `  ${line}`),
      `  Measure it, without changing a byte: kubectl nasmig migrate ${found.vmi} -n ${found.namespace} --acceleration Observe`,
    ];
  const lines = [
    `${title}: ${measured} measured, ${found.accelerated} accelerated and ${found.observed} observed, the last ${age(nowMs - Date.parse(found.newest ?? ''))} ago.`,
    `  saved               ${range(found.savedPercent, perCent)}, ${range(found.savedBytes, bytes)} a migration`,
  ];
  if (found.linkBytes !== undefined)
    lines.push(
      `  on the link         ${range(found.linkBytes, bytes)}`,
      `  from the NAS        ${range(found.nasBytes, bytes)}`,
    );
  if (found.acceleratedDurationMs !== undefined)
    lines.push(
      `  took, accelerated   ${range(found.acceleratedDurationMs, duration)}, VM stopped ${range(found.acceleratedDowntimeMs, duration)}`,
    );
  if (found.observedDurationMs !== undefined)
    lines.push(`  took, observed      ${range(found.observedDurationMs, duration)}`);
  lines.push(...others.map((line) => `  ${line}`));
  if (found.accelerated === 0)
    lines.push(
      `  Accelerate it: kubectl nasmig migrate ${found.vmi} -n ${found.namespace} --acceleration Preferred`,
    );
  return lines;
}

function count(number: number, of: string): string {
  return `${number} ${of}${number === 1 ? '' : 's'}`;
}

function columnsFor(withNamespace: boolean, wide: boolean, nowMs: number): Column<Estimate>[] {
  const columns: Column<Estimate>[] = [
    { name: 'VMI', of: ({ vmi }) => vmi },
    { name: 'OBSERVED', of: ({ observed }) => String(observed) },
    { name: 'ACCELERATED', of: ({ accelerated }) => String(accelerated) },
    { name: 'SAVED%', of: ({ savedPercent }) => range(savedPercent, perCent) },
    { name: 'SAVED', of: ({ savedBytes }) => range(savedBytes, bytes) },
    { name: 'LAST', of: ({ newest }) => (newest === undefined ? '-' : age(nowMs - Date.parse(newest))) },
  ];
  if (wide)
    columns.push(
      { name: 'TOOK', of: ({ acceleratedDurationMs }) => range(acceleratedDurationMs, duration) },
      { name: 'DOWN', of: ({ acceleratedDowntimeMs }) => range(acceleratedDowntimeMs, duration) },
      { name: 'NAS', of: ({ nasBytes }) => range(nasBytes, bytes) },
      { name: 'PLAIN', of: ({ plain }) => String(plain) },
      { name: 'FAILED', of: ({ failedWhileArmed }) => String(failedWhileArmed) },
    );
  return withNamespace ? [{ name: 'NAMESPACE', of: ({ namespace }) => namespace }, ...columns] : columns;
}
